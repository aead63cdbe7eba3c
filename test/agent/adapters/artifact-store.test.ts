/** Artifact folders and links: whole or not at all, whatever happens in between. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { FolderArtifactStore } from '../../../agent/adapters/artifact-store.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const keyOf = (digit: string) => digit.repeat(64);

async function make(store: FolderArtifactStore, key: string): Promise<void> {
  const folder = await store.begin(key);
  writeFileSync(join(folder, 'model.onnx'), key);
  writeFileSync(join(folder, 'report.json'), JSON.stringify({ feasible: true, key }));
  await store.finish(key);
}

t.test('a folder is there only when it is finished, and what an earlier attempt has left is gone', async (t) => {
  const folder = t.testdir();
  const store = new FolderArtifactStore(folder);
  const key = keyOf('a');
  const draft = await store.begin(key);
  writeFileSync(join(draft, 'report.json'), '{}');
  t.equal(await store.find(key), null);
  t.equal(await store.report(key), null);
  t.same(readdirSync(await store.begin(key)), [], 'begun again, it is empty');
  await make(store, key);
  t.equal(await store.find(key), join(folder, 'artifacts', key));
  t.match(await store.report(key), { feasible: true, key });
  t.match(await new FolderArtifactStore(folder).report(key), { feasible: true });
});

t.test('a link leads from the application to the folder; null takes it away', async (t) => {
  const folder = t.testdir();
  const store = new FolderArtifactStore(folder);
  t.equal(await store.linked('host', 'active'), null);
  await make(store, keyOf('a'));
  await store.link('host', 'active', keyOf('a'));
  t.equal(await store.linked('host', 'active'), keyOf('a'));
  t.ok(existsSync(join(folder, 'active', 'host', 'model.onnx')));
  t.equal(
    readlinkSync(join(folder, 'active', 'host')),
    join('..', 'artifacts', keyOf('a')),
    'relative: the state folder may be moved',
  );
  await store.link('host', 'active', null);
  await store.link('host', 'active', null);
  t.equal(await store.linked('host', 'active'), null);
});

t.test('links that dangle, lead elsewhere or are no links count as none', async (t) => {
  const folder = t.testdir();
  const store = new FolderArtifactStore(folder);
  mkdirSync(join(folder, 'active'));
  const link = join(folder, 'active', 'host');
  for (const target of [join('..', 'artifacts', keyOf('b')), '/etc', '..', 'x'.repeat(64)]) {
    symlinkSync(target, link);
    t.equal(await store.linked('host', 'active'), null, target);
    rmSync(link);
  }
  writeFileSync(link, 'a file');
  t.equal(await store.linked('host', 'active'), null);
  await make(store, keyOf('b'));
  await store.link('host', 'active', keyOf('b'));
  t.equal(await store.linked('host', 'active'), keyOf('b'), 'it is put right');
});

t.test('names that are no keys or targets never reach the file system', async (t) => {
  const store = new FolderArtifactStore(t.testdir());
  for (const key of ['..', '../../x', '', 'A'.repeat(64), `${keyOf('a')}/..`])
    await t.rejects(store.begin(key), TypeError, key);
  for (const target of ['..', 'a/b', '', '.new'])
    await t.rejects(store.link(target, 'active', null), TypeError, target);
});

t.test('retain keeps what is named and what links name, and clears drafts away', async (t) => {
  const folder = t.testdir();
  const store = new FolderArtifactStore(folder);
  for (const digit of ['a', 'b', 'c', 'd']) await make(store, keyOf(digit));
  await store.begin(keyOf('e'));
  await store.link('host', 'active', keyOf('a'));
  await store.link('host', 'previous', keyOf('b'));
  await store.retain(new Set([keyOf('c')]));
  t.same(readdirSync(join(folder, 'artifacts')).sort(), [keyOf('a'), keyOf('b'), keyOf('c')]);
});

t.test('an artifact whose report is damaged counts as not made, and is replaced when it is made again', async (t) => {
  const folder = t.testdir();
  const store = new FolderArtifactStore(folder);
  await make(store, keyOf('a'));
  writeFileSync(join(folder, 'artifacts', keyOf('a'), 'report.json'), '{');
  t.equal(await new FolderArtifactStore(folder).report(keyOf('a')), null);
  await make(store, keyOf('a'));
  t.match(await store.report(keyOf('a')), { feasible: true });
});

t.test(
  'killed at any moment, a link leads to a whole artifact, and so it does for whoever looks meanwhile',
  async (t) => {
    const random = new Random(seed);
    const folder = t.testdir();
    const module = fileURLToPath(new URL('../../../agent/adapters/artifact-store.js', import.meta.url));
    const program = `
    import { writeFileSync } from 'node:fs';
    import { FolderArtifactStore } from ${JSON.stringify(module)};
    const store = new FolderArtifactStore(${JSON.stringify(folder)});
    for (let n = 0; ; n++) {
      const key = (n % 4).toString().repeat(64);
      if ((await store.find(key)) === null) {
        const draft = await store.begin(key);
        writeFileSync(draft + '/model.onnx', key);
        writeFileSync(draft + '/report.json', '{"feasible":true}');
        await store.finish(key);
      }
      // As the daemon does: what was active stays for whoever is about to open it.
      await store.link('host', 'previous', await store.linked('host', 'active'));
      await store.link('host', 'active', key);
      if (n === 0) process.stdout.write('.');
      await store.retain(new Set());
    }`;
    let looks = 0;
    for (let round = 0; round < 10; round++) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      await once(child.stdout, 'data');
      const end = performance.now() + 20 + random.below(60);
      while (performance.now() < end) {
        if (!existsSync(join(folder, 'active', 'host', 'model.onnx'))) t.fail('nothing is active for a moment');
        looks++;
        if (looks % 50 === 0) await sleep(0);
      }
      child.kill('SIGKILL');
      await once(child, 'exit');
      const key = await new FolderArtifactStore(folder).linked('host', 'active');
      t.not(key, null, `round ${round}`);
      t.ok(existsSync(join(folder, 'active', 'host', 'model.onnx')));
    }
    t.comment(`${looks} looks`);
  },
);
