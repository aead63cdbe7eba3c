/** The measuring lock between processes: they take turns, and what a dead one left is taken over by one of them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { withMeasuringLock } from '../../../agent/adapters/measuring-lock.js';
import { never } from '../../support/steps.js';

/** Takes the lock some times over; writes down when it is in and when it is out again, a line each. */
const program = `
import { appendFileSync, existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { withMeasuringLock } from ${JSON.stringify(new URL('../../../agent/adapters/measuring-lock.js', import.meta.url).href)};
const [folder, times, holdMs] = process.argv.slice(1);
const path = folder + '/lock';
appendFileSync(folder + '/ready', process.pid + '\\n');
while (!existsSync(folder + '/go')) await sleep(1);
for (let i = 0; i < Number(times); i++) {
  await withMeasuringLock(new AbortController().signal, async () => {
    appendFileSync(folder + '/log', 'in ' + process.pid + '\\n');
    await sleep(Number(holdMs));
    appendFileSync(folder + '/log', 'out ' + process.pid + '\\n');
  }, { path });
}
`;

function start(folder: string, times: number, holdMs: number): ChildProcess {
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, folder, String(times), String(holdMs)], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

const linesOf = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : []);

async function until(holds: () => boolean): Promise<void> {
  for (let waited = 0; !holds(); waited += 5) {
    if (waited > 20_000) throw new Error('waited too long');
    await sleep(5);
  }
}

/** Lets processes begin together, when all of them are there. */
async function letGo(folder: string, count: number): Promise<void> {
  await until(() => linesOf(join(folder, 'ready')).length === count);
  writeFileSync(join(folder, 'go'), '');
}

async function allEnd(children: readonly ChildProcess[]): Promise<void> {
  await Promise.all(children.map((child) => child.exitCode === null && once(child, 'exit')));
}

/** Whether each that went in came out before the next went in. */
function tookTurns(lines: readonly string[]): boolean {
  return lines.every((line, at) =>
    at % 2 === 0 ? line.startsWith('in ') : line === lines[at - 1]!.replace('in', 'out'),
  );
}

t.test('processes take turns', async (t) => {
  const folder = t.testdir();
  const children = [start(folder, 4, 20), start(folder, 4, 20), start(folder, 4, 20)];
  await letGo(folder, children.length);
  await allEnd(children);
  const lines = linesOf(join(folder, 'log'));
  t.equal(lines.length, 24);
  t.ok(tookTurns(lines), lines.join('\n'));
  t.equal(new Set(lines).size, 6, 'every one of them');
  t.strictSame(readdirSync(folder).sort(), ['go', 'log', 'ready'], 'nothing is left');
});

t.test('what a killed process left is taken over at once', async (t) => {
  const folder = t.testdir();
  const path = join(folder, 'lock');
  const child = start(folder, 1, 60_000);
  await letGo(folder, 1);
  await until(() => linesOf(join(folder, 'log')).length === 1);
  child.kill('SIGKILL');
  await once(child, 'exit');
  t.match(readFileSync(path, 'utf8'), new RegExp(`^${child.pid} `), 'it names who took it');
  t.equal(await withMeasuringLock(never, async () => 'mine', { path, waitMs: 5000 }), 'mine');
  t.notOk(existsSync(path));
});

t.test('of many that find it at once, one at a time takes it', async (t) => {
  for (let round = 0; round < 3; round++) {
    const folder = t.testdir();
    writeFileSync(join(folder, 'lock'), '4000000 17');
    const children = Array.from({ length: 6 }, () => start(folder, 1, 30));
    await letGo(folder, children.length);
    await allEnd(children);
    const lines = linesOf(join(folder, 'log'));
    t.equal(lines.length, 12);
    t.ok(tookTurns(lines), lines.join('\n'));
  }
});

t.test('a later process of the same number is not the holder', async (t) => {
  const path = join(t.testdir(), 'lock');
  writeFileSync(path, `${process.pid} 1`);
  t.equal(await withMeasuringLock(never, async () => 1, { path, waitMs: 2000 }), 1);
});

t.test('a file that names nobody is waited for while it is new, and removed when it is old', async (t) => {
  const path = join(t.testdir(), 'lock');
  writeFileSync(path, 'nobody');
  await t.rejects(
    withMeasuringLock(never, async () => 1, { path, waitMs: 0 }),
    { code: 'measure/busy' },
  );
  t.equal(readFileSync(path, 'utf8'), 'nobody');
  const old = new Date(Date.now() - 6000);
  utimesSync(path, old, old);
  t.equal(await withMeasuringLock(never, async () => 1, { path, waitMs: 2000 }), 1);
});

t.test('whoever waits is told once for whom, gives up in time, and stops on an abort', async (t) => {
  const path = join(t.testdir(), 'lock');
  const told: string[] = [];
  await withMeasuringLock(
    never,
    async () => {
      const waiting = (holder: string) => told.push(holder);
      await t.rejects(
        withMeasuringLock(never, async () => t.fail('two at once'), { path, waitMs: 450, waiting }),
        { code: 'measure/busy', subject: new RegExp(`lock: ${process.pid} `) },
      );
      const abort = new AbortController();
      const waited = withMeasuringLock(abort.signal, async () => t.fail('two at once'), { path });
      setTimeout(() => abort.abort(new Error('enough')), 20);
      await t.rejects(waited, /enough/);
    },
    { path },
  );
  t.strictSame(told.length, 1);
  t.match(told[0], `process ${process.pid}`);
  t.notOk(existsSync(path));
});

t.test("a measurement that fails gives the lock back; a lock that is another's by now stays", async (t) => {
  const path = join(t.testdir(), 'lock');
  await t.rejects(
    withMeasuringLock(never, async () => Promise.reject(new Error('no')), { path }),
    /no/,
  );
  t.notOk(existsSync(path));
  await withMeasuringLock(never, async () => writeFileSync(path, '1 another'), { path });
  t.equal(readFileSync(path, 'utf8'), '1 another');
});

t.test('a lock that cannot be made is measure/busy, and says what to do', async (t) => {
  const path = join(t.testdir(), 'no such folder', 'lock');
  await t.rejects(
    withMeasuringLock(never, async () => 1, { path }),
    { code: 'measure/busy', subject: path, hint: /Remove the file/ },
  );
});
