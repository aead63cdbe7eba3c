/** Microcontrollers from settings: every line has one name. */
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Memory } from '../../agent/daemon/memory.js';
import { wireMcus } from '../../agent/wire-mcus.js';

const nothing = { read: () => null, write: () => {}, keys: () => [], close: () => {} };

t.test('a port that has two names is refused, also where it is named by a link', async (t) => {
  const folder = t.testdir();
  const port = join(folder, 'ttyACM0');
  const link = join(folder, 'by-id-chip');
  const absent = join(folder, 'absent');
  writeFileSync(port, '');
  symlinkSync(port, link);
  const wire = (...named: string[]) => wireMcus(named, folder, new Memory(nothing), () => {});
  for (const [one, two] of [
    [port, port],
    [port, link],
    [absent, absent],
  ] as const) {
    await t.rejects(wire(`a=mcu:${one}`, `b=mcu:${two}`), {
      code: 'settings/invalid',
      subject: 'target.microcontrollers',
      message: /^b and a are both at /,
      hint: /each port once/,
    });
  }
  const { targets } = await wire(`a=mcu:${port}`, `b=mcu:${absent}`, 'c=mcu:host', 'd=mcu:host');
  t.same(
    targets.map(({ id }) => id),
    ['a', 'b', 'c', 'd'],
  );
});
