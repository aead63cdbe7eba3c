/**
 * Real daemons with states of their own on one machine, and a real console: the second is spared most of the timing by the first, and what-if
 * says beforehand what devices then find.
 */
import t from 'tap';
import type { Budget } from '../../../configs/contracts/plan.js';
import type { WhatIfAnswer } from '../../../fleet-console/server/predictions.js';
import { until } from '../../support/broker.js';
import { FakeDevice, startConsole } from '../../support/console.js';
import { type Console, made, release, storedRows } from '../../support/warm-start.js';

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

  // A busy machine may be at another speed for a while, and a table is then refused for good reason: not again and again.
  const names = ['d2', 'd3', 'd4', 'd5'];
  let second = await made(console, names.shift()!);
  while (!second.document.profiling.donor?.isAccepted && names.length > 0) {
    t.comment(second.document.profiling.donor?.why);
    second = await made(console, names.shift()!);
  }
  const { id } = second.device;
  const warm = second.document.profiling;
  t.match(warm.donor, { isAccepted: true }, JSON.stringify(warm));
  t.ok(warm.rowsMeasured > 0 && warm.rowsMeasured <= profiling.rowsMeasured / 5, JSON.stringify(warm));
  t.equal(warm.rowsMeasured + warm.rowsTaken, profiling.rowsMeasured);
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
  }>(`/v1/devices/${id}/tables`);
  t.match(own, { targets: { host: { unit: 'ms', provenance: { donorDigest: warm.donor!.digest } } } });
  t.ok(own.targets.host!.operators.some(({ choices }) => choices.some(({ isDonor }) => isDonor)));
  const shared = await console.client.get('/v1/tables', { hardwareClass: first.device.birth.hardwareClass });
  t.match(shared, { tables: [{ unit: 'ms', devices: [/^d1$/] }] });

  t.comment('what-if, and what then happens');
  await askThenTell(console, 'd1', first.state, { latencyRatio: 0.05 }, 'infeasible', 'table');
  await askThenTell(console, 'd1', first.state, { sizeBytes: 60_000 }, 'infeasible', 'table');
  await askThenTell(console, id, second.state, { latencyMs: b.measured! * 4, sensitivity: 1e6 }, 'meets', 'table');
  await askThenTell(console, id, second.state, { latencyMs: b.measured! / 5 }, 'infeasible', 'table');
  await console.close();
});
