/** Frames of applications, kept as files: caps, snapshots that do not change, restarts. */
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { SampleFolder } from '../../../agent/adapters/sample-keeper.js';
import type { EdgeError } from '../../../configs/contracts/errors.js';

const caps = { frames: 3, bytes: 1000 };
const png = (size: number, fill: number) => Uint8Array.from([0x89, 0x50, 0x4e, 0x47, ...Array(size - 4).fill(fill)]);
const framesOf = async (folder: string) => (await readdir(join(folder, 'host', 'frames', 'calibration'))).sort();

t.test('the oldest frames give way at the cap on number, and numbers go on after a restart', async (t) => {
  const folder = t.testdir();
  const keeper = new SampleFolder(folder, null, caps);
  for (let i = 0; i < 5; i++) await keeper.add('host', 'png', png(10, i));
  t.same(await framesOf(folder), ['0000000002.png', '0000000003.png', '0000000004.png']);
  await new SampleFolder(folder, null, caps).add('host', 'png', png(10, 5));
  t.same(await framesOf(folder), ['0000000003.png', '0000000004.png', '0000000005.png']);
  t.same(new Uint8Array(await readFile(join(folder, 'host', 'frames', 'calibration', '0000000005.png'))), png(10, 5));
});

t.test('the cap on bytes holds, whatever the sizes', async (t) => {
  const folder = t.testdir();
  const keeper = new SampleFolder(folder, null, { frames: 100, bytes: 1000 });
  for (const size of [400, 500, 200, 900, 50, 60]) {
    await keeper.add('host', 'png', png(size, 0));
    const parent = join(folder, 'host', 'frames', 'calibration');
    const sizes = await Promise.all((await readdir(parent)).map(async (name) => (await stat(join(parent, name))).size));
    t.ok(sizes.reduce((a, b) => a + b, 0) <= 1000);
    t.ok(sizes.includes(size), 'the newest stays');
  }
});

t.test('concurrent frames are all kept, each under a name of its own', async (t) => {
  const folder = t.testdir();
  const keeper = new SampleFolder(folder, null, { frames: 100, bytes: 100_000 });
  await Promise.all(Array.from({ length: 20 }, (_, index) => keeper.add('host', 'png', png(10, index))));
  t.equal((await framesOf(folder)).length, 20);
});

t.test('what is no image or array, or is too large, is refused', async (t) => {
  const keeper = new SampleFolder(t.testdir(), null, caps);
  const codeOf = async (work: () => Promise<void>) => {
    try {
      await work();
      return null;
    } catch (error) {
      return (error as EdgeError).code;
    }
  };
  t.equal(await codeOf(async () => keeper.add('host', 'jpg', png(10, 0))), 'samples/unreadable');
  t.equal(await codeOf(async () => keeper.add('host', 'npy', new Uint8Array())), 'samples/unreadable');
  t.equal(await codeOf(async () => keeper.add('host', 'png', png(1001, 0))), 'samples/unreadable');
});

t.test('a snapshot is a sample set that stays as it was while frames come and go', async (t) => {
  const folder = t.testdir();
  const keeper = new SampleFolder(folder, null, caps);
  t.equal(await keeper.choose('host'), null, 'nothing to choose');
  for (let i = 0; i < 3; i++) await keeper.add('host', 'png', png(10, i));
  const first = (await keeper.choose('host'))!;
  t.same(await keeper.choose('host'), first, 'the same frames are the same set');
  for (let i = 3; i < 6; i++) await keeper.add('host', 'png', png(10, i));
  const kept = await readdir(join(first.folder, 'calibration'));
  t.same(kept.sort(), ['0000000000.png', '0000000001.png', '0000000002.png']);
  const second = (await keeper.choose('host'))!;
  t.not(second.digest, first.digest);
  await keeper.retain(new Set([second.folder]));
  await t.rejects(stat(first.folder));
  t.ok(await stat(second.folder));
});

t.test('frames that somebody has deleted, or that a power cut has emptied, are in no snapshot', async (t) => {
  const folder = t.testdir();
  const keeper = new SampleFolder(folder, null, caps);
  for (let i = 0; i < 3; i++) await keeper.add('host', 'png', png(10, i));
  await rm(join(folder, 'host', 'frames', 'calibration', '0000000001.png'));
  await writeFile(join(folder, 'host', 'frames', 'calibration', '0000000002.png'), '');
  const chosen = (await keeper.choose('host'))!;
  t.same(await readdir(join(chosen.folder, 'calibration')), ['0000000000.png']);
  await rm(join(folder, 'host', 'frames'), { recursive: true });
  t.equal(await keeper.choose('host'), null);
  await keeper.add('host', 'png', png(10, 3));
  t.equal((await framesOf(folder)).length, 1);
});

t.test('a configured sample set is preferred, and its digest tells when it changes', async (t) => {
  const folder = t.testdir({ set: { calibration: { 'a.png': 'x' } }, state: {} });
  const keeper = new SampleFolder(join(folder, 'state'), join(folder, 'set'), caps);
  await keeper.add('host', 'png', png(10, 0));
  const chosen = (await keeper.choose('host'))!;
  t.equal(chosen.folder, join(folder, 'set'));
  t.same(await keeper.choose('host'), chosen);
  await writeFile(join(folder, 'set', 'calibration', 'b.png'), 'y');
  t.not((await keeper.choose('host'))!.digest, chosen.digest);
});
