/** Targets that this machine is itself. */
export const targetNames = ['ort', 'native'] as const;

/** ONNX Runtime on this CPU, or our own engine on it. */
export type TargetName = (typeof targetNames)[number];

/** Whether a name is one of a target of this machine. */
export function isTargetName(name: string): name is TargetName {
  return (targetNames as readonly string[]).includes(name);
}
