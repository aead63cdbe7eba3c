/** The microcontrollers behind this machine, from settings. */
import { mkdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { EdgeError } from '../configs/contracts/errors.js';
import { McuRunners } from './adapters/mcu-runners.js';
import { isMcuTargetName, placeOf } from './core/target-name.js';
import type { Memory } from './daemon/memory.js';
import { SlotTarget } from './daemon/slots.js';

/** Microcontrollers as targets, and the runners by which they are reached, by the id of the target. */
export interface WiredMcus {
  readonly targets: readonly SlotTarget[];
  readonly runners: ReadonlyMap<string, McuRunners>;
}

/**
 * Opens nothing yet: a board that is not there is no reason not to start. Fails with `settings/invalid`.
 *
 * @param named `name=mcu:PLACE`, as the settings have them
 * @param identified called when another board than before was met
 */
export async function wireMcus(
  named: readonly string[],
  stateFolder: string,
  memory: Memory,
  identified: () => void,
): Promise<WiredMcus> {
  const runners = new Map<string, McuRunners>();
  const ports = new Map<string, string>();
  for (const text of named) {
    const id = text.slice(0, text.indexOf('='));
    const name = text.slice(id.length + 1);
    if (runners.has(id) || !isMcuTargetName(name)) {
      const message = `${text} names no other microcontroller`;
      throw new EdgeError('settings/invalid', message, {
        subject: 'target.microcontrollers',
        hint: 'Form: name=mcu:/dev/...',
      });
    }
    const place = placeOf(name);
    if (place.startsWith('/')) {
      // By whatever name: two that talk over one line understand nothing.
      const port = await realpath(place).catch(() => place);
      const other = ports.get(port);
      if (other !== undefined) {
        const message = `${id} and ${other} are both at ${port}`;
        throw new EdgeError('settings/invalid', message, {
          subject: 'target.microcontrollers',
          hint: 'Name each port once; `quantd doctor` lists the serial ports.',
        });
      }
      ports.set(port, id);
    }
    runners.set(id, new McuRunners(place, place === 'host' ? await storageOf(stateFolder, id) : null));
  }
  const targets = [...runners].map(([id, own]) => new SlotTarget(id, own, memory, identified));
  return { targets, runners };
}

/** File that is the flash memory of a board that is a process. */
async function storageOf(stateFolder: string, id: string): Promise<string> {
  const folder = join(stateFolder, 'mcu');
  await mkdir(folder, { recursive: true });
  return join(folder, `${id}.flash`);
}
