/** Boards to test the firmware on, and why some are skipped here. */
import { existsSync } from 'node:fs';
import type { Test } from 'tap';
import { firmwareFolder } from '../../firmware-bridge/link/builds.js';
import type { OpenOptions } from '../../firmware-bridge/link/open.js';
import { Mcu } from '../../firmware-bridge/mcu.js';
import { EngineModel } from '../../native/index.js';
import { isInstalled } from './c-program.js';

const lacking = (
  await Promise.all(
    ['arm-none-eabi-gcc', 'qemu-system-arm'].map(async (name) => ((await isInstalled(name)) ? [] : [name])),
  )
).flat();

/** Why tests on a board in QEMU are skipped; false where they need not be. */
export const skipsQemu = lacking.length > 0 && `${lacking.join(' and ')} not installed`;

/** Why tests with the firmware as a process are skipped; false where they need not be. */
export const skipsHost = !existsSync(`${firmwareFolder}host`) && 'the firmware is not built: npm run firmware';

/** A microcontroller that is closed at the end of the test. */
export async function openMcu(t: Test, where: string, options: OpenOptions = {}): Promise<Mcu> {
  const mcu = await Mcu.open(where, { handshakeMs: 20_000, replyTimeoutMs: 5000, ...options });
  t.teardown(() => mcu.close());
  return mcu;
}

/** What the engine's reference computes here, with no other kernel. */
export async function referenceOutputs(image: Uint8Array, inputs: readonly Float32Array[]): Promise<Float32Array[]> {
  const engine = new EngineModel(image, { threads: 1, onlyKernel: 'reference', features: [] });
  try {
    return await engine.run(inputs);
  } finally {
    engine.close();
  }
}
