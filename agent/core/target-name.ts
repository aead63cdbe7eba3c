/** Targets that this machine is itself. */
export const targetNames = ['ort', 'native'] as const;

/** ONNX Runtime on this CPU, or our own engine on it. */
export type TargetName = (typeof targetNames)[number];

/** A microcontroller, by what comes behind `mcu:`: the path of a port, `host`, or `qemu-BOARD`. */
export type McuTargetName = `mcu:${string}`;

/** Whether a name is one of a target of this machine. */
export function isTargetName(name: string): name is TargetName {
  return (targetNames as readonly string[]).includes(name);
}

/** Whether a name is one of a microcontroller. */
export function isMcuTargetName(name: string): name is McuTargetName {
  return name.startsWith('mcu:') && name.length > 'mcu:'.length;
}

/** Where a microcontroller is. */
export function placeOf(name: McuTargetName): string {
  return name.slice('mcu:'.length);
}
