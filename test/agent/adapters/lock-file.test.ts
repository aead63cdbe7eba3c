/** Lock files as people, programs and accidents write them, and the commands `quantd lock` and `unlock`. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { LockGate, readLock, writeLock } from '../../../agent/adapters/lock-file.js';

const main = fileURLToPath(new URL('../../../agent/main.js', import.meta.url));
const hourMs = 3_600_000;
const policy = { kind: 'lock', holds: 'activation', unreadable: 'closed' } as const;

t.test(
  'a lock has an owner, a reason and an end; one that does not say when ends a while after it was written',
  async (t) => {
    const file = join(t.testdir(), 'lock');
    const nowMs = Date.parse('2026-11-28T12:00:00Z');
    const read = (text: string, writtenMs = nowMs) => {
      writeFileSync(file, text);
      utimesSync(file, writtenMs / 1000, writtenMs / 1000);
      return readLock(file, 24 * hourMs, nowMs);
    };
    t.equal(await readLock(file, hourMs, nowMs), null, 'no file, no lock');
    const alice = { owner: 'alice', reason: 'survey' };
    t.same(await read(JSON.stringify({ ...alice, until: '2026-11-28T13:00:00+01:00' })), {
      state: 'expired',
      ...alice,
      until: '2026-11-28T12:00:00.000Z',
    });
    t.match(await read(JSON.stringify({ ...alice, until: '2026-11-28T12:00:01Z', more: 1 })), {
      state: 'held',
      ...alice,
    });
    t.match(await read(JSON.stringify(alice)), { state: 'held', until: '2026-11-29T12:00:00.000Z' });
    t.match(await read(JSON.stringify(alice), nowMs - 25 * hourMs), { state: 'expired' });
    t.match(await read('in the air\nsecond line'), { state: 'held', owner: 'a file', reason: 'in the air' });
    t.match(await read(''), { state: 'held', reason: 'no reason given' });
    t.match(await read('', nowMs - 24 * hourMs), { state: 'expired' });
    t.match(await read(JSON.stringify({ owner: '\u001b[2J', reason: '\u0007' })), {
      owner: '[2J',
      reason: 'no reason given',
    });
  },
);

t.test('a damaged lock file is a lock, however old it is', async (t) => {
  const file = join(t.testdir(), 'lock');
  const texts = ['{', '{}', '{"owner":1}', '{"owner":"a","reason":"b","until":"tomorrow"}', 'x'.repeat(20_000)];
  const more = ['{"owner":"a","reason":"b","until":"2026-13-41T25:00:00Z"}', '{"owner":"","reason":""}', ` \n{"owner"`];
  for (const text of [...texts, ...more]) {
    writeFileSync(file, text);
    utimesSync(file, 1, 1);
    t.match(
      await readLock(file, hourMs),
      { state: 'damaged', until: null, reason: /^the lock file is damaged: / },
      text.slice(0, 60),
    );
    t.match(await new LockGate(policy, { file, lifetimeHours: 1 }).read(), { isOpen: false, reason: /damaged/ });
  }
  const folder = join(dirname(file), 'folder');
  mkdirSync(folder);
  t.match(await readLock(folder, hourMs), { state: 'damaged' }, 'a folder in its place');
  t.match(await readLock(join(file, 'below-a-file'), hourMs), { state: 'damaged' });
});

t.test('the gate is closed while a lock holds, and says of one that ran out that it did', async (t) => {
  const file = join(t.testdir(), 'lock');
  const gate = new LockGate(policy, { file, lifetimeHours: 24 });
  t.match(await gate.read(), { isOpen: true, reason: 'not locked' });
  const until = new Date(Date.now() + hourMs).toISOString();
  await writeLock(file, { owner: 'alice', reason: 'survey', until }, false);
  t.same(await gate.read(), { isOpen: false, reason: 'alice: survey', until });
  await writeLock(file, { owner: 'alice', reason: 'survey', until: '2026-01-01T00:00:00Z' }, true);
  t.match(await gate.read(), { isOpen: true, reason: /^the lock of alice: survey ran out at 2026-01-01/ });
});

t.test('of many who lock at the same moment, one gets it, and no half-written lock is ever seen', async (t) => {
  const folder = t.testdir();
  const file = join(folder, 'below', 'lock');
  const until = new Date(Date.now() + hourMs).toISOString();
  const results = await Promise.allSettled(
    Array.from({ length: 8 }, (_, index) => quantd(folder, file, 'lock', '--reason', 'r', '--owner', `o${index}`)),
  );
  const codes = results.map((result) => (result.status === 'fulfilled' ? result.value.code : -1)).sort();
  t.same(codes, [0, 75, 75, 75, 75, 75, 75, 75]);
  t.same(readdirSync(dirname(file)), ['lock'], 'nothing is left beside it');
  let isDone = false;
  const writing = (async () => {
    for (let n = 0; n < 100; n++) await writeLock(file, { owner: 'o', reason: 'r'.repeat(1 + n * 9), until }, true);
    isDone = true;
  })();
  let reads = 0;
  while (!isDone) {
    const { state } = (await readLock(file, hourMs))!;
    reads++;
    if (state !== 'held') return t.fail(state);
  }
  await writing;
  t.ok(reads > 10);
});

async function quantd(folder: string, file: string | null, ...args: string[]) {
  const config = join(folder, 'agent.toml');
  writeFileSync(config, file === null ? '' : `[gates.lock]\nfile = ${JSON.stringify(file)}\nlifetimeHours = 2\n`);
  const child = spawn(process.execPath, [main, ...args, '--config', config], {
    env: { ...process.env, USER: 'alice', SUDO_USER: '' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] += text;
    });
  }
  const [code] = (await once(child, 'close')) as [number];
  return { code, ...output };
}

t.test('quantd lock, lock status and unlock, for people and for programs', async (t) => {
  const folder = t.testdir();
  const file = join(folder, 'lock');
  const run = (...args: string[]) => quantd(folder, file, ...args);
  t.match(await run('lock', 'status'), { code: 0, stdout: 'not locked\n' });
  t.match(await run('unlock'), { code: 0, stdout: 'it was not locked\n' });
  t.match(await run('lock'), { code: 2, stderr: /--reason is missing/ });
  t.match(await run('lock', '--reason', 'x', '--for', 'ever'), { code: 2, stderr: /"ever" is no time/ });
  t.notOk(existsSync(file));
  const before = Date.now();
  t.match(await run('lock', '--reason', 'survey of field 7', '--for', '30m', '--json'), { code: 0 });
  const { owner, reason, until } = JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>;
  t.same([owner, reason], ['alice', 'survey of field 7']);
  const lasts = Date.parse(until!) - before;
  t.ok(lasts >= 30 * 60_000 && lasts < 30 * 60_000 + 60_000);
  const status = await run('lock', 'status', '--json');
  t.match(JSON.parse(status.stdout), {
    file,
    lock: { state: 'held', owner: 'alice', reason: 'survey of field 7', until },
  });
  t.match(await run('lock', '--reason', 'mine', '--owner', 'bob'), {
    code: 75,
    stderr: /lock\/held.*alice.*survey of field 7/s,
  });
  t.match(await run('unlock', '--owner', 'bob'), { code: 75, stderr: /lock\/held/ });
  t.match(await run('lock', '--reason', 'longer'), { code: 0 }, 'its owner may renew it');
  t.match(JSON.parse(readFileSync(file, 'utf8')), { reason: 'longer' });
  t.match(await run('lock', '--reason', 'urgent', '--owner', 'bob', '--force'), { code: 0, stdout: /locked for bob/ });
  t.match(await run('unlock', '--owner', 'bob'), { code: 0, stdout: /unlocked; it was locked by bob/ });
  t.notOk(existsSync(file));
  writeFileSync(file, '{');
  t.match(await run('lock', 'status'), { stdout: /locked: the lock file is damaged/ });
  t.match(await run('unlock'), { code: 75 }, 'whose it is, nobody knows');
  t.match(await run('unlock', '--force'), { code: 0 });
});

t.test('a lock that nobody heeds is refused, and one that cannot be written is no stack trace', async (t) => {
  const folder = t.testdir();
  t.match(await quantd(folder, null, 'lock', '--reason', 'x'), { code: 2, stderr: /heeds no lock.*\[gates\.lock\]/s });
  t.match(await quantd(folder, '/proc/lock', 'lock', '--reason', 'x'), {
    code: 1,
    stderr: /^error store\/unwritable.*gates\.lock\.file/s,
  });
});
