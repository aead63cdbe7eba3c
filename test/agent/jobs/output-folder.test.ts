/** Output folders as they are found: there, not there yet, in the way, closed. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { requireWritableFolder, writeFolder } from '../../../agent/jobs/output-folder.js';

t.test('a folder that is there, or can be made, is accepted and left as it was', async (t) => {
  const folder = t.testdir({ full: { file: 'x' } });
  await requireWritableFolder(folder);
  await requireWritableFolder(join(folder, 'full'));
  await requireWritableFolder(join(folder, 'new', 'and', 'deep'));
  t.strictSame(readdirSync(folder, { recursive: true }).sort(), ['full', 'full/file']);
});

t.test('a file in the way is a mistake of the caller, named', async (t) => {
  const folder = t.testdir({ file: 'x' });
  for (const path of [join(folder, 'file'), join(folder, 'file', 'below')]) {
    await t.rejects(requireWritableFolder(path), { code: 'usage/invalid', subject: path, hint: /--out/ });
    await t.rejects(writeFolder(path, [['a', 'x']]), { code: 'usage/invalid', subject: path });
  }
  t.equal(readFileSync(join(folder, 'file'), 'utf8'), 'x');
});

t.test('where the system says no, so does this, with its reason', async (t) => {
  // Not even root can make folders there.
  for (const path of ['/sys/quantd', '/sys/quantd/below']) {
    await t.rejects(requireWritableFolder(path), { code: 'store/unwritable', subject: path, hint: /--out/ });
    await t.rejects(writeFolder(path, [['a', 'x']]), { code: 'store/unwritable', subject: path });
  }
});

t.test('files are written into a new folder or over older ones, with no others beside them', async (t) => {
  const folder = join(t.testdir(), 'new');
  await writeFolder(folder, [['a', 'first']]);
  await writeFolder(folder, [
    ['a', 'second'],
    ['b', Uint8Array.of(104, 105)],
  ]);
  t.strictSame(
    readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'utf8')]),
    [
      ['a', 'second'],
      ['b', 'hi'],
    ],
  );
});
