/**
 * Real daemons with states of their own on one machine, and a real console: the second is spared most of the timing by the first, a table
 * that is wrong is noticed, and what-if says beforehand what devices then find.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import t from 'tap';
import { encode } from '../../../agent/core/onnx/codec.js';
import type { QuantizeDocument } from '../../../agent/report.js';
import type { DeviceResult } from '../../../configs/contracts/device.js';
import type { Budget } from '../../../configs/contracts/plan.js';
import type { ModelTable } from '../../../configs/contracts/tables.js';
import type { DeviceDocument } from '../../../fleet-console/commands/devices.js';
import type { WhatIfAnswer } from '../../../fleet-console/server/predictions.js';
import { until } from '../../support/broker.js';
import { FakeDevice, startConsole } from '../../support/console.js';
import { DaemonProcess, stateFolder } from '../../support/daemon-process.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';
import { sayTable, tablesOf } from '../../support/tables.js';

const seed = announceSeed();
const patience = 120_000;
const inputDims = [1, 3, 32, 32];

type Console = Awaited<ReturnType<typeof startConsole>>;

/** A classifier of fourteen different convolutions, none of which takes next to nothing. */
function mediumModel(): Uint8Array {
  const builder = new NetworkBuilder(new Random(seed), inputDims);
  let last = 'x';
  for (let index = 0; index < 14; index++) {
    const out = 24 + 2 * index;
    last = builder.same(
      'Relu',
      builder.conv(last, { out, kernel: index % 3 === 1 ? 1 : 3, stride: index === 4 ? 2 : 1 }),
    );
  }
  return encode(builder.build([builder.gemm(builder.pooled(last), 5)]));
}

async function release(console: Console): Promise<void> {
  const body = mediumModel();
  const sha256 = createHash('sha256').update(body).digest('hex');
  const headers = { 'content-type': 'application/octet-stream' };
  const response = await fetch(`${console.url}/v1/artifacts/${sha256}`, { method: 'PUT', headers, body });
  if (!response.ok) throw new Error(await response.text());
  const card = { ...imageCard('classification', inputDims), preprocess: { scale: 1 / 255 } };
  await console.client.send('POST', '/v1/releases', { id: 'medium@1', model: { sha256 }, card });
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'medium@1' });
}

const stateOf = (console: Console, id: string) =>
  console.client.get<DeviceDocument>(`/v1/devices/${id}`).catch(() => null);

/** Runs a daemon on a new state until it has done what is wanted; answers its state, what it reported and its newest result. */
async function made(
  console: Console,
  id: string,
  state = stateFolder(),
): Promise<{ state: string; document: QuantizeDocument; device: DeviceDocument }> {
  const daemon = new DaemonProcess(state, console, { QUANTD__DEVICE__ID: id, QUANTD__TARGET__KIND: 'ort' });
  const isDone = async () => {
    const device = await stateOf(console, id);
    const conditions = device?.reported?.conditions ?? [];
    const has = (type: string) =>
      conditions.some((condition) => condition.type === type && condition.status === 'true');
    return (
      device?.reported?.observedGeneration === device?.desired?.generation &&
      device?.reported?.targets.host?.step === null &&
      (has('Confirmed') || has('BudgetInfeasible'))
    );
  };
  await until(isDone, `${id} is done`, patience);
  const { generation } = (await stateOf(console, id))!.desired!;
  let result: DeviceResult | undefined;
  const isPublished = async () => {
    const { results } = await console.client.get<{ results: DeviceResult[] }>('/v1/results', { device: id });
    result = results.find((found) => found.generation === generation);
    return result !== undefined;
  };
  await until(isPublished, 'its result is there', patience);
  await until(
    async () => (await stateOf(console, id))!.reported!.outbox.messages === 0,
    'everything is sent',
    patience,
  );
  const device = (await stateOf(console, id))!;
  await daemon.stop();
  t.equal(daemon.stderr, '');
  return { state, document: result!.document as unknown as QuantizeDocument, device };
}

function storedRows(state: string): { total: number; taken: number } {
  const database = new Database(join(state, 'quantd.db'), { readonly: true });
  try {
    return database.prepare('SELECT count(*) AS total, count(donor) AS taken FROM latency').get() as ReturnType<
      typeof storedRows
    >;
  } finally {
    database.close();
  }
}

/** What-if against what the device then does. */
async function askThenTell(
  console: Console,
  id: string,
  state: string,
  budget: Budget,
  expected: string,
  basis: string,
): Promise<void> {
  const body = { selector: `device=${id}`, budget };
  const answer = await console.client.send<WhatIfAnswer>('POST', '/v1/budgets/what-if', body);
  const [prediction] = answer.devices;
  t.equal(prediction!.verdict, expected, `${JSON.stringify(budget)}: ${prediction!.why}`);
  t.equal(prediction!.basis, basis, prediction!.why);
  await console.client.send('PUT', '/v1/budgets', body);
  const { document } = await made(console, id, state);
  t.equal(document.feasible, expected === 'meets', `${JSON.stringify(budget)}, measured: ${document.latency.measured}`);
}

t.test('the second device of a class measures a fifth of the rows at most, and plans as the first does', async (t) => {
  const console = await startConsole(t.testdir());
  await release(console);
  const first = await made(console, 'd1');
  const { profiling } = first.document;
  t.ok(profiling.rowsMeasured > 25, 'the first has measured everything');
  t.match(profiling, { rowsTaken: 0, donor: null });
  t.same(storedRows(first.state).taken, 0);

  await t.test('before it has made anything, a device is judged by the table of its class', async (t) => {
    const identity = first.device.birth.targets.host!;
    const { hardwareClass } = first.device.birth;
    const fresh = await FakeDevice.open(console.brokerUrl, 'd0', { targets: { host: identity }, hardwareClass });
    const body = { selector: 'device=d0', budget: { latencyRatio: 0.05 } };
    const ask = () => console.client.send<WhatIfAnswer>('POST', '/v1/budgets/what-if', body);
    await until(async () => (await ask()).devices.length === 1, 'it is known');
    t.match(await ask(), { devices: [{ verdict: 'infeasible', basis: 'class' }] });
    const easy = { selector: 'device=d0', budget: { latencyMs: first.document.latency.measured! * 3 } };
    const answer = await console.client.send<WhatIfAnswer>('POST', '/v1/budgets/what-if', easy);
    t.match(answer.devices, [{ verdict: 'meets', basis: 'class' }], answer.devices[0]!.why);
    t.ok(answer.classes[0]!.frontiers[0]!.points.length > 0, 'with what there is to choose from');
    await fresh.close();
  });

  const second = await made(console, 'd2');
  const warm = second.document.profiling;
  t.match(warm.donor, { isAccepted: true, devices: 1 }, JSON.stringify(warm));
  t.ok(warm.rowsMeasured > 0 && warm.rowsMeasured <= profiling.rowsMeasured / 5, JSON.stringify(warm));
  t.equal(warm.rowsMeasured + warm.rowsTaken, profiling.rowsMeasured);
  t.ok(warm.seconds < profiling.seconds / 2, `${warm.seconds} s after ${profiling.seconds} s`);
  const { taken, total } = storedRows(second.state);
  t.ok(taken > 0 && total - taken < total / 4, `${taken} of ${total} rows are of others`);
  t.equal(second.document.provenance.donorDigest, warm.donor!.digest);
  t.same(second.device.reported!.targets.host!.profiling, {
    seconds: warm.seconds,
    rowsMeasured: warm.rowsMeasured,
    rowsTaken: warm.rowsTaken,
    donor: warm.donor!.digest,
  });
  // Where two plans are as good, which of them measures better is chance: the same plan, or one as fast.
  const [a, b] = [first.document.latency, second.document.latency];
  const isSame = first.document.plan!.digest === second.document.plan!.digest;
  t.ok(isSame || b.measured! / b.int8! < (a.measured! / a.int8!) * 1.25, JSON.stringify([a, b]));

  t.comment('what both say, over the API');
  const own = await console.client.get<{
    targets: Record<string, { operators: { choices: { isDonor: boolean }[] }[] }>;
  }>('/v1/devices/d2/tables');
  t.match(own, { targets: { host: { unit: 'ms', provenance: { donorDigest: warm.donor!.digest } } } });
  t.ok(own.targets.host!.operators.some(({ choices }) => choices.some(({ isDonor }) => isDonor)));
  const shared = await console.client.get('/v1/tables', { hardwareClass: first.device.birth.hardwareClass });
  t.match(shared, { tables: [{ unit: 'ms', devices: ['d1', 'd2'], quarantined: [] }] });

  t.comment('what-if, and what then happens');
  await askThenTell(console, 'd1', first.state, { latencyRatio: 0.05 }, 'infeasible', 'table');
  await askThenTell(console, 'd1', first.state, { sizeBytes: 60_000 }, 'infeasible', 'table');
  await askThenTell(console, 'd2', second.state, { latencyMs: b.measured! * 4, sensitivity: 1e6 }, 'meets', 'table');
  await askThenTell(console, 'd2', second.state, { latencyMs: b.measured! / 5 }, 'infeasible', 'table');
  await console.close();
});

t.test('a table that is wrong by two is noticed, and everything is measured', async (t) => {
  const home = await startConsole(t.testdir());
  await release(home);
  const first = await made(home, 'd1');
  await home.close();
  const [table] = tablesOf(first.state);
  const { rowsMeasured } = first.document.profiling;
  const dearest = [...table!.rows].sort((a, b) => b.median - a.median).map(({ operatorKey }) => operatorKey);
  const keys = [...new Set(dearest)].filter((key) => key.includes('('));
  const lies: Record<string, (key: string) => boolean> = {
    'twice on all operators': () => true,
    'twice on every second operator': (key) => keys.indexOf(key) % 2 === 0,
  };
  for (const [name, isLie] of Object.entries(lies)) {
    const rows = table!.rows.map((row) => {
      const factor = row.operatorKey.includes('(') && isLie(row.operatorKey) ? 2 : 1;
      return { ...row, median: row.median * factor, minimum: row.minimum * factor };
    });
    const console = await startConsole(t.testdir());
    await release(console);
    const { targets, hardwareClass } = first.device.birth;
    const liar = await FakeDevice.open(console.brokerUrl, 'liar', { targets, hardwareClass });
    await until(async () => (await stateOf(console, 'liar')) !== null, 'it is known');
    await sayTable(liar, { ...(table as ModelTable), rows });
    const isTaken = async () => (await console.client.get<{ tables: object[] }>('/v1/tables')).tables.length === 1;
    await until(isTaken, 'its table is taken');
    const { document, state } = await made(console, 'd3');
    t.match(document.profiling, { rowsTaken: 0, donor: { isAccepted: false } }, name);
    t.ok(document.profiling.rowsMeasured >= rowsMeasured, `${name}: ${document.profiling.donor!.why}`);
    t.equal(storedRows(state).taken, 0, 'nothing of it is kept');
    await liar.close();
    await console.close();
  }
});
