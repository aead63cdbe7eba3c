import { cpus } from 'node:os';
import type { McuInfo } from '../../firmware-bridge/mcu.js';
import type { TargetIdentity } from '../ports.js';

/** Version of the code that times operators on a microcontroller (`mcu-target.ts`); see `machine.ts`. */
const methodVersion = 2;

/** What the measurements of a microcontroller depend on, and what it has room for, as its firmware says. */
export function identityOfMcu(info: McuInfo, slotBytes: number): TargetIdentity {
  const { board, core, clockHz, firmware, counterSource, ramBytes, flashBytes, workspaceBytes } = info;
  // As a process it is as fast as the machine.
  const processor = core === 'host' ? `${board} on ${cpus()[0]?.model.trim() || 'unknown'}` : `${board}, ${core}`;
  return {
    kind: 'mcu',
    processor,
    architecture: core,
    cores: 1,
    threads: 1,
    governor: 'unknown',
    powerMode: clockHz === 0 ? 'unknown' : `${clockHz / 1e6} MHz`,
    runtime: `firmware ${firmware}, method ${methodVersion}`,
    features: [counterSource],
    energyMeter: null,
    board: { name: board, core, clockHz, ramBytes, flashBytes, workspaceBytes, slotBytes, firmware },
  };
}
