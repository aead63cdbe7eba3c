/** Lines that go away, firmware that stops answering, and callers that do not wait for each other. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import t from 'tap';
import { EdgeError } from '../../configs/contracts/errors.js';
import { firmwareFolder } from '../../firmware-bridge/link/builds.js';
import { awaitConnection } from '../../firmware-bridge/link/open.js';
import { Mcu } from '../../firmware-bridge/mcu.js';
import { skipsHost } from '../support/firmware.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();
const options = { skip: skipsHost };

/** The firmware as a process that a test may stop and kill. */
async function startHost(...args: string[]) {
  const child = spawn(`${firmwareFolder}host`, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const path = await new Promise<string>((resolve) =>
    createInterface(child.stdout).once('line', (line) => resolve(line.replace('pty ', ''))),
  );
  const ended = new Promise((resolve) => child.once('exit', resolve));
  return { child, path, ended };
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'none',
    (error: unknown) => (error instanceof EdgeError ? error.code : String(error)),
  );
}

t.test('requests of many callers are answered in turn, each with its own answer', options, async (t) => {
  const random = new Random(seed);
  const mcu = await Mcu.open('host');
  t.teardown(() => mcu.close());
  const pieces = Array.from({ length: 100 }, () =>
    Uint8Array.from({ length: random.below(1025) }, () => random.below(256)),
  );
  const replies = await Promise.all(pieces.map((data) => mcu.connection.request('echo', { data })));
  t.strictSame(
    replies.map(({ data }) => Buffer.from(data)),
    pieces.map((data) => Buffer.from(data)),
  );
});

t.test('a port that goes away fails what waits, at once, and everything after', options, async (t) => {
  const mcu = await Mcu.open('host');
  t.teardown(() => mcu.close());
  const waiting = Promise.all([1, 2, 3].map(() => codeOf(mcu.connection.request('echo', { data: new Uint8Array(9) }))));
  const reset = codeOf(mcu.connection.request('reset', {}));
  const after = Promise.all([1, 2].map(() => codeOf(mcu.info())));
  t.strictSame(await waiting, ['none', 'none', 'none']);
  await reset;
  const started = performance.now();
  t.strictSame(await after, ['mcu/unreachable', 'mcu/unreachable']);
  t.ok(performance.now() - started < 2000, 'without waiting for timeouts');
  t.equal(await codeOf(mcu.statistics()), 'mcu/unreachable');
});

t.test('firmware that stops answering is noticed without a request, and a request has an end', options, async (t) => {
  const { child, path } = await startHost();
  t.teardown(() => child.kill('SIGKILL'));
  const timing = { replyTimeoutMs: 50, attempts: 3, heartbeatMs: 100 };
  const mcu = await Mcu.open(path, timing);
  t.teardown(() => mcu.close());
  child.kill('SIGSTOP');
  const started = performance.now();
  while (mcu.connection.lost === null && performance.now() - started < 5000)
    await new Promise((done) => setTimeout(done, 20));
  t.equal(mcu.connection.lost?.code, 'mcu/unreachable');
  const silent = Mcu.open(path, { handshakeMs: 300 });
  t.equal(await codeOf(silent), 'mcu/unreachable', 'nor can it be opened');
  child.kill('SIGCONT');
  const again = await Mcu.open(path);
  t.match(await again.info(), { board: 'host' }, 'and it is there again when it is');
  await again.close();
});

t.test('a board that was unplugged is found again by its stable path', options, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'quantd-port-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'by-id');
  const first = await startHost();
  symlinkSync(first.path, path);
  const mcu = await Mcu.open(path);
  t.teardown(() => mcu.close());
  first.child.kill('SIGKILL');
  t.equal(await codeOf(mcu.info()), 'mcu/unreachable');
  await mcu.close();
  rmSync(path);
  const found = awaitConnection(path, AbortSignal.timeout(20_000));
  await new Promise((done) => setTimeout(done, 300));
  const second = await startHost();
  t.teardown(() => second.child.kill('SIGKILL'));
  symlinkSync(second.path, path);
  const again = new Mcu(await found);
  t.teardown(() => again.close());
  t.match(await again.info(), { board: 'host' });
  await t.rejects(awaitConnection('teapot', AbortSignal.timeout(20_000)), { code: 'target/unknown' });
  await t.rejects(awaitConnection(join(folder, 'never'), AbortSignal.timeout(100)), { name: 'TimeoutError' });
});

t.test('a gateway that comes after another one is answered', options, async (t) => {
  const { child, path } = await startHost();
  t.teardown(() => child.kill('SIGKILL'));
  const first = await Mcu.open(path);
  await first.close();
  const second = await Mcu.open(path);
  t.teardown(() => second.close());
  t.match(await second.info(), { board: 'host' });
});

t.test('the process ends with its standard input, and says how it is used', options, async (t) => {
  const { child, ended } = await startHost();
  child.stdin.end();
  t.equal(await ended, 0);
  const wrong = spawn(`${firmwareFolder}host`, ['--teapot'], { stdio: 'ignore' });
  t.equal(await new Promise((resolve) => wrong.once('exit', resolve)), 2);
});
