/** The real daemon against the real console, killed at random moments: it always ends where it was told to. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Database from 'better-sqlite3';
import t from 'tap';
import type { DesiredState } from '../../../configs/contracts/device.js';
import type { Budget } from '../../../configs/contracts/plan.js';
import type { DeviceDocument } from '../../../fleet-console/commands/devices.js';
import { inputSize, smallCard, smallModel } from '../../support/artifacts.js';
import { hasMosquitto, mosquittoBroker, until } from '../../support/broker.js';
import { startConsole } from '../../support/console.js';
import { DaemonProcess, stateFolder } from '../../support/daemon-process.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const patience = 60_000;

type Console = Awaited<ReturnType<typeof startConsole>>;

async function release(console: Console, id: string, modelSeed: number): Promise<void> {
  const bytes = smallModel(modelSeed);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const headers = { 'content-type': 'application/octet-stream' };
  const response = await fetch(`${console.url}/v1/artifacts/${sha256}`, { method: 'PUT', headers, body: bytes });
  if (!response.ok) throw new Error(await response.text());
  await console.client.send('POST', '/v1/releases', { id, model: { sha256 }, card: smallCard() });
}

const assign = (console: Console, id: string) =>
  console.client.send('POST', '/v1/assignments', { selector: 'all', release: id });
const setBudget = (console: Console, budget: Budget) =>
  console.client.send('PUT', '/v1/budgets', { selector: 'all', budget });
const stateOf = (console: Console) => console.client.get<DeviceDocument>('/v1/devices/d1').catch(() => null);

/** Whether what the console wants is active, confirmed and published. */
async function isDone(console: Console): Promise<boolean> {
  const state = await stateOf(console);
  const desired = state?.desired as DesiredState | undefined;
  const host = state?.reported?.targets.host;
  return (
    desired !== undefined &&
    state?.reported?.observedGeneration === desired.generation &&
    host?.active?.release === desired.targets.host?.release.id &&
    JSON.stringify(host?.active?.budget) === JSON.stringify(desired.targets.host?.budget) &&
    host?.active?.isConfirmed === true
  );
}

/** What is active must be whole: its artifact is the one that its report names. */
function activeFault(state: string): string | null {
  const link = join(state, 'active', 'host');
  if (
    !existsSync(join(state, 'active')) ||
    readdirSync(join(state, 'active')).filter((name) => !name.startsWith('.')).length === 0
  )
    return null;
  const folder = join(state, 'active', readlinkSync(link));
  if (!existsSync(join(folder, 'report.json'))) return 'the active link leads to no finished artifact';
  const report = JSON.parse(readFileSync(join(folder, 'report.json'), 'utf8')) as {
    artifact: { path: string; sha256: string };
  };
  const model = readdirSync(folder).find((name) => name.endsWith('.onnx'))!;
  if (report.artifact.path !== model) return `the report names ${report.artifact.path}`;
  const digest = createHash('sha256')
    .update(readFileSync(join(folder, model)))
    .digest('hex');
  return digest === report.artifact.sha256 ? null : 'the active artifact is not the one of its report';
}

interface Row {
  id: number;
  measured_at: string;
}

function latencyRows(state: string): Row[] {
  const database = new Database(join(state, 'quantd.db'), { readonly: true });
  try {
    return database.prepare('SELECT id, measured_at FROM latency ORDER BY id').all() as Row[];
  } finally {
    database.close();
  }
}

function infer(state: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/octet-stream' };
    const asked = request(
      { socketPath: join(state, 'quantd.sock'), method: 'POST', path: '/v1/infer', headers },
      (response) => {
        response.resume();
        response.on('end', () => resolve(response.statusCode!));
      },
    );
    asked.on('error', reject);
    asked.end(new Uint8Array(inputSize * 4));
  });
}

t.test(
  'release, tighter budget, impossible budget, second version: each as it should be, and no operator timed twice',
  async (t) => {
    const console = await startConsole(t.testdir());
    const state = stateFolder();
    const daemon = new DaemonProcess(state, console);
    await release(console, 'small@1', 1);
    await release(console, 'small@2', 2);
    await until(async () => (await stateOf(console)) !== null, 'it is known');
    await assign(console, 'small@1');
    await until(() => isDone(console), 'the release is active', patience);
    const rows = latencyRows(state);
    t.ok(rows.length > 3);
    t.equal(await infer(state), 200);

    await setBudget(console, { sizeBytes: 100_000 });
    await until(() => isDone(console), 'the budget is held', patience);
    t.equal((await stateOf(console))!.reported!.targets.host!.hasReprofiled, false);

    const active = (await stateOf(console))!.reported!.targets.host!.active!;
    await setBudget(console, { sizeBytes: 10 });
    const infeasible = async () =>
      (await stateOf(console))!.reported!.conditions.some(
        ({ type, status }) => type === 'BudgetInfeasible' && status === 'true',
      );
    await until(infeasible, 'the budget is infeasible', patience);
    const refused = (await stateOf(console))!.reported!.targets.host!;
    t.equal(refused.active!.artifactSha256, active.artifactSha256, 'what was active is');
    t.ok(refused.frontier.length > 0, 'with a frontier to choose from');
    t.equal(await infer(state), 200);

    await setBudget(console, { sizeBytes: 100_000 });
    await assign(console, 'small@2');
    await until(() => isDone(console), 'the second version is active', patience);
    t.equal((await stateOf(console))!.reported!.targets.host!.previous!.release, 'small@1');
    t.same(latencyRows(state), rows, 'the rows of the latency table are the same, with the same times');
    await daemon.stop();
    await until(async () => (await stateOf(console))!.isOnline === false, 'it has said goodbye');
    t.equal(daemon.stderr, '');
    await console.close();
  },
);

t.test(
  'with Mosquitto, a daemon started before everything else finds its way',
  { skip: hasMosquitto ? false : 'mosquitto is not installed' },
  async (t) => {
    const broker = await mosquittoBroker();
    await broker.stop();
    const folder = t.testdir();
    let console = await startConsole(folder, { broker: { embedded: false }, mqtt: { url: broker.url } });
    const state = stateFolder();
    const daemon = new DaemonProcess(state, console);
    await release(console, 'small@1', 1);
    await assign(console, 'small@1');
    await sleep(1500);
    await broker.start();
    await until(() => isDone(console), 'the release is active', patience);
    // Console and broker go down together; the budget that is set before the broker is back must still arrive.
    const port = Number(new URL(console.url).port);
    await console.close();
    await broker.stop();
    console = await startConsole(folder, { broker: { embedded: false }, mqtt: { url: broker.url }, http: { port } });
    await setBudget(console, { sizeBytes: 100_000 });
    await broker.start();
    await until(() => isDone(console), 'the budget is held', patience);
    await daemon.stop();
    await console.close();
    await broker.stop();
  },
);

t.test('with its databases damaged, a daemon goes on with what it serves and takes new orders', async (t) => {
  const console = await startConsole(t.testdir());
  const state = stateFolder();
  let daemon = new DaemonProcess(state, console);
  await release(console, 'small@1', 1);
  await release(console, 'small@2', 2);
  await until(async () => (await stateOf(console)) !== null, 'it is known');
  await assign(console, 'small@1');
  await until(() => isDone(console), 'the release is active', patience);
  await daemon.stop();
  for (const name of ['device.db', 'quantd.db', 'outbox.db']) writeFileSync(join(state, name), 'x'.repeat(10_000));
  daemon = new DaemonProcess(state, console);
  await until(
    () =>
      infer(state).then(
        (status) => status === 200,
        () => false,
      ),
    'it serves what is active',
    patience,
  );
  await assign(console, 'small@2');
  await until(() => isDone(console), 'the next release is active', patience);
  t.equal(activeFault(state), null);
  t.match(daemon.journal.map(({ msg }) => msg).join('\n'), /state was damaged.*measurements were damaged/s);
  await daemon.stop();
  t.equal(daemon.stderr, '');
  await console.close();
});

t.test('kill -9 at random moments: it ends active and correct, and no finished step is done again', async (t) => {
  const random = new Random(seed);
  const kills = Number(process.env.QUANTD_KILLS ?? 30);
  const console = await startConsole(t.testdir());
  const state = stateFolder();
  for (const version of [1, 2, 3]) await release(console, `small@${version}`, version);
  await assign(console, 'small@1');
  /** Generations whose artifact was finished, over all lives. */
  const made = new Set<number>();
  let done = 0;
  let edits = 0;
  for (let kill = 0; kill < kills; kill++) {
    const daemon = new DaemonProcess(state, console);
    // Short lives end in the first steps, long ones in the last.
    const end = performance.now() + 300 + random.below(random.pick([1000, 4000, 8000]));
    while (performance.now() < end) {
      if (await isDone(console)) {
        done++;
        // Something new to do, so that there is something to be killed in.
        edits++;
        if (edits % 3 === 0) await assign(console, `small@${1 + (edits % 9) / 3}`);
        else await setBudget(console, { sizeBytes: 100_000 + edits });
      }
      await sleep(20);
    }
    await daemon.kill();
    const begun = daemon.journal.filter(({ msg, step }) => msg === 'step begins' && step === 'quantize');
    for (const { generation } of begun) if (made.has(generation!)) t.fail(`generation ${generation} is made again`);
    for (const { msg, step, generation } of daemon.journal)
      if (msg === 'step done' && step === 'quantize') made.add(generation!);
    const fault = activeFault(state);
    if (fault !== null) t.fail(`kill ${kill}: ${fault}`);
    if (daemon.stderr !== '') t.fail(daemon.stderr);
  }
  t.comment(`${kills} kills, ${made.size} artifacts, ${done} times at rest`);
  const last = new DaemonProcess(state, console);
  await until(() => isDone(console), 'the last wish is active', patience);
  t.equal(activeFault(state), null);
  t.equal(await infer(state), 200);
  await last.stop();
  await console.close();
});
