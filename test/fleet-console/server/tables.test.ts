/** Tables on the console: planning with them against trying every plan, and what devices send, whole, in parts, damaged and hostile. */
import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { HighsSolver } from '../../../agent/adapters/highs-solver.js';
import type { Problem } from '../../../agent/core/plan/problem.js';
import { contentKey } from '../../../agent/digest.js';
import type { Budget, LatencyRow } from '../../../configs/contracts/plan.js';
import { DonorTable, type ModelTable, type Offer, type TableProblem } from '../../../configs/contracts/tables.js';
import { validate } from '../../../configs/contracts/validate.js';
import { atLatenciesOf, replay } from '../../../fleet-console/server/replay.js';
import type { SharedTableDocument, TargetTableDocument } from '../../../fleet-console/server/tables.js';
import { everyAssignment, randomProblem } from '../../agent/core/plan/problems.js';
import { until } from '../../support/broker.js';
import { FakeDevice, startConsole } from '../../support/console.js';
import { fleet } from '../../support/fleet-command.js';
import { announceSeed, Random } from '../../support/seed.js';
import { deviceTable, sayTable, tableParts } from '../../support/tables.js';

const seed = announceSeed();
const solver = new HighsSolver();
t.teardown(() => solver.close());
const never = new AbortController().signal;
const identity = { kind: 'ort', processor: 'test' };
const digest = contentKey(identity);

const row = (operatorKey: string, precision: string, median: number): LatencyRow => {
  const rest = { spread: 0.1, repeats: 9, throttled: false, energyJoules: null, measuredAt: '2026-01-01T00:00:00Z' };
  return { operatorKey, precision, minimum: median * 0.9, median, ...rest };
};

/** A random problem as a table has it: precisions that exist, latencies of a few milliseconds. */
function tableProblem(problem: Problem): TableProblem {
  const names = ['float', 'W8A8', 'W4A8', 'W2A8'];
  const inNanoseconds = (value: number) => value * 1e6;
  const described = {
    ...problem,
    operators: problem.operators.map(({ name, choices }, index) => ({
      name,
      key: `k${index}`,
      type: 'Conv',
      parameters: 10 + index,
      choices: choices.map((choice, which) => ({
        ...choice,
        precision: names[which]!,
        costs: { ...choice.costs, energy: null, latency: inNanoseconds(choice.costs.latency) },
      })),
    })),
    edges: problem.edges.map((edge) => ({
      ...edge,
      conversions: edge.conversions.map((one) => ({ ...one, energy: null, latency: inNanoseconds(one.latency) })),
    })),
    fixed: { ...problem.fixed, latency: 1000, energy: null },
  };
  return JSON.parse(JSON.stringify(described)) as TableProblem;
}

const small = { operators: 6, choices: 3, decades: 1, ties: false, forbidden: 0 };

function tableOf(problem: TableProblem | null, rows: LatencyRow[]): ModelTable {
  return {
    schema: 'quantd/table/1',
    identity: digest,
    kind: 'ort',
    counter: 'nanoseconds',
    modelSha256: 'a'.repeat(64),
    rows,
    problem,
    experience: { ratio: 1, int8Ratio: null },
    provenance: {
      modelSha256: 'a'.repeat(64),
      algorithm: '1',
      estimator: 'logits',
      rule: 'mse',
      calibration: { source: 'samples', samples: 32 },
      tableDigest: contentKey(rows),
      donorDigest: null,
      planDigest: null,
      artifactSha256: null,
      measuredLatency: null,
    },
  };
}

t.test(
  'no verdict of a replay contradicts what trying every plan finds, whatever predictions are off by',
  async (t) => {
    const random = new Random(seed);
    const seen = { meets: 0, infeasible: 0, unknown: 0 };
    for (let round = 0; round < 40; round++) {
      const problem = tableProblem(randomProblem(seed + round, small));
      const ratio = 0.8 + 0.5 * random.next();
      const table = { counter: 'nanoseconds' as const, problem, experience: { ratio, int8Ratio: null } };
      const plans = everyAssignment(problem)
        .map(({ costs }) => costs)
        .filter(({ latency }) => Number.isFinite(latency));
      const pick = (value: (plan: (typeof plans)[number]) => number) => value(plans[random.below(plans.length)]!);
      const fastest = Math.min(...plans.map(({ latency }) => (latency / 1e6) * ratio));
      const budget: Budget = {
        latencyMs: fastest * (0.5 + 1.5 * random.next()),
        ...(random.next() < 0.5 ? { sizeBytes: Math.max(1, Math.round(pick(({ bytes }) => bytes) * 1.1)) } : {}),
        ...(random.next() < 0.3 ? { ramBytes: Math.max(1, Math.round(pick(({ ramBytes }) => ramBytes))) } : {}),
      };
      const holding = (latencyError: number, bytesError: number) =>
        plans.filter(
          ({ latency, bytes, ramBytes }) =>
            (latency / 1e6) * ratio * latencyError <= budget.latencyMs! &&
            bytes * bytesError <= (budget.sizeBytes ?? Number.POSITIVE_INFINITY) &&
            ramBytes <= (budget.ramBytes ?? Number.POSITIVE_INFINITY),
        );
      const { verdict, why, point, frontier } = await replay(table, budget, solver, never);
      seen[verdict]++;
      // Not even at its best; also at its worst.
      if (verdict === 'infeasible' && holding(1, 1).length > 0) t.fail(`infeasible, but a plan holds: ${why}`);
      if (verdict === 'infeasible' && holding(0.93, 0.99).length > 0) t.fail(`infeasible, but nearly: ${why}`);
      if (verdict === 'meets' && holding(1.08, 1.01).length === 0) t.fail(`meets, but no plan holds: ${why}`);
      if (verdict === 'unknown' && (holding(1.2, 1.05).length > 0 || holding(0.8, 0.95).length === 0))
        t.fail(`unknown, where it is clear: ${why}`);
      if (verdict === 'meets') {
        const best = Math.min(...holding(1.12, 1.021).map(({ sensitivity }) => sensitivity), Number.POSITIVE_INFINITY);
        if (point!.sensitivity > best * 1.01 + 1e-6) t.fail(`${point!.sensitivity}, but ${best} can be had`);
      }
      if (Object.keys(budget).length === 1 && Math.abs(frontier[0]!.latency / fastest - 1) > 1e-4)
        t.fail(`the frontier begins at ${frontier[0]!.latency}, not ${fastest}`);
    }
    t.ok(seen.meets > 3 && seen.infeasible > 3, JSON.stringify(seen));
  },
);

t.test('what a table cannot tell stays unknown, with the reason', async (t) => {
  const problem = tableProblem(randomProblem(seed, { ...small, choices: 1 }));
  const table = { counter: 'nanoseconds' as const, problem, experience: { ratio: 1, int8Ratio: null } };
  const of = (budget: Budget, changes: object = {}) => replay({ ...table, ...changes }, budget, solver, never);
  t.match(await of({ latencyRatio: 0.5 }), { verdict: 'unknown', why: /int8 was not measured/ });
  t.match(await of({ energyMj: 1 }), { verdict: 'unknown', why: /cannot measure energy/ });
  t.match(await of({ latencyMs: 1 }, { counter: 'cycles' }), { verdict: 'unknown', why: /counted in cycles/ });
  t.match(await of({ agreement: 0.9 }), { verdict: 'unknown', why: /only measuring tells/ });
  t.match(await of({ agreement: 0.9, latencyMs: 1e-6 }), { verdict: 'infeasible' });
  t.match(await of({}), { verdict: 'meets', unit: 'ms' });
});

t.test('a problem at the latencies of another table', async (t) => {
  const problem = tableProblem(randomProblem(seed + 1, small));
  const rows = problem.operators.flatMap(({ key, choices }) =>
    choices.map(({ precision, costs }) => row(key, precision, costs.latency * 3)),
  );
  const { operators, fixed, edges } = atLatenciesOf(problem, rows);
  operators.forEach(({ choices }, index) => {
    choices.forEach(({ costs }, which) => {
      t.ok(Math.abs(costs.latency - problem.operators[index]!.choices[which]!.costs.latency * 3) < 1e-6);
    });
  });
  t.ok(Math.abs(fixed.latency / problem.fixed.latency - 3) < 1e-9);
  const sum = (of: TableProblem['edges']) => of.flatMap((edge) => edge.conversions).reduce((a, b) => a + b.latency, 0);
  t.ok(Math.abs(sum(edges) - 3 * sum(problem.edges)) < 1e-3);
});

const rows = [row('Conv(1)', 'float', 4e6), row('Conv(1)', 'W8A8', 2e6), row('speed-reference', 'float', 1e5)];

t.test(
  'a table that comes in parts, out of order and twice, is shared with devices of its identity only',
  async (t) => {
    const console = await startConsole(t.testdir());
    const open = (id: string, own = identity) =>
      FakeDevice.open(console.brokerUrl, id, {
        targets: { host: { kind: 'ort', identity: own } },
        hardwareClass: 'class-1',
      });
    const device = await open('d1');
    const problem = tableProblem(randomProblem(seed, small));
    const wide = Array.from({ length: 500 }, (_, i) => row(`Conv(${i}) ${contentKey(i)}`, 'float', 1e6 + i));
    await sayTable(device, tableOf(problem, [...rows, ...wide]));
    const shared = () =>
      console.client.get<{ tables: SharedTableDocument[] }>('/v1/tables', { hardwareClass: 'class-1' });
    await until(async () => (await shared()).tables.length === 1, 'it is there');
    t.match((await shared()).tables[0], { devices: ['d1'], identity: digest, unit: 'ms', models: ['a'.repeat(64)] });
    t.same((await console.client.get<{ tables: [] }>('/v1/tables', { hardwareClass: 'other' })).tables, []);
    const offer = (own: string, operatorKeys: string[]) =>
      console.client.send<Offer>('POST', '/v1/tables/offer', { identity: own, operatorKeys });
    const { donor } = await offer(digest, ['Conv(1)', 'speed-reference', 'Conv(unknown)']);
    validate(DonorTable, donor, 'document/invalid', 'donor');
    t.same(
      donor!.rows.map(({ operatorKey, precision, median }) => [operatorKey, precision, median]),
      [
        ['Conv(1)', 'float', 4e6],
        ['Conv(1)', 'W8A8', 2e6],
        ['speed-reference', 'float', 1e5],
      ],
    );
    t.same(await offer(contentKey('another'), ['Conv(1)']), { donor: null });
    t.same(await offer(digest, ['Conv(unknown)']), { donor: null });

    t.comment('two more devices; one of them is far off');
    const [second, third] = [await open('d2'), await open('d3')];
    await sayTable(second, tableOf(null, rows));
    const off = rows.map((own) => ({
      ...own,
      median: own.operatorKey === 'speed-reference' ? own.median : own.median * 5,
    }));
    await sayTable(third, tableOf(null, off));
    await until(async () => (await shared()).tables[0]!.quarantined.length === 1, 'it is set aside');
    t.match((await shared()).tables[0], {
      devices: ['d1', 'd2'],
      quarantined: [{ device: 'd3', why: /at 5\.00 times/ }],
    });
    t.match(await offer(digest, ['Conv(1)']), { donor: { devices: 2, rows: [{ median: 4e6 }, { median: 2e6 }] } });

    t.comment('of one device, and from the terminal');
    const own = await console.client.get<{ targets: Record<string, TargetTableDocument> }>('/v1/devices/d1/tables');
    t.equal(own.targets.host!.operators.length, problem.operators.length);
    t.match(own.targets.host!.sensitivities[0], { operator: 'op0', precision: 'float' });
    const text = await fleet(console.url, 'tables', '--class', 'class-1');
    t.match(text.stdout, /class-1: 2 devices, 1 model/);
    t.match(text.stdout, /set aside: d3/);
    t.match(text.stdout, /Conv\(1\) +W8A8 +2 ms/);
    t.match(JSON.parse((await fleet(console.url, 'tables', '--json')).stdout), {
      tables: [{ hardwareClass: 'class-1' }],
    });
    t.match((await fleet(console.url, 'tables', '--class', 'nobody')).stdout, /no device has reported/);
    for (const each of [device, second, third]) await each.close();
    await console.close();
  },
);

t.test('hostile and damaged tables change nothing, and a good one is taken afterwards', async (t) => {
  const warnings: string[] = [];
  const console = await startConsole(t.testdir(), {}, warnings);
  const device = await FakeDevice.open(console.brokerUrl, 'd1', { targets: { host: { kind: 'ort', identity } } });
  const good = tableOf(tableProblem(randomProblem(seed, small)), rows);
  const document = deviceTable(good, 'd1') as Record<string, unknown>;
  const whole = (value: object | string) => {
    const text = gzipSync(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64');
    const sha256 = createHash('sha256').update(text).digest('hex');
    return { schema: 'quantd/table-part/1', device: 'd1', target: 'host', sha256, part: 0, parts: 1, text };
  };
  const problem = good.problem!;
  const broken = (change: object) => whole({ ...document, problem: { ...problem, ...change } });
  const hostile: object[] = [
    whole('no JSON'),
    whole('{"__proto__":{"polluted":1}}'),
    whole({ ...document, device: 'd2' }),
    whole({ ...document, target: 'other' }),
    whole({ ...document, identity: contentKey('of another machine') }),
    whole({ ...document, schema: 'quantd/table/2' }),
    whole({ ...document, rows: [{ ...rows[0], median: -1 }] }),
    whole({ ...document, rows: [{ ...rows[0], operatorKey: 'x'.repeat(10_000) }] }),
    whole({ ...document, experience: { ratio: 0, int8Ratio: null } }),
    broken({ ties: [[0, 99]] }),
    broken({ edges: [{ ...problem.edges[0], consumers: [99] }] }),
    broken({ operators: [] }),
    // A bomb: a few kilobytes that unpack to more than a table may have.
    whole(`"${'x'.repeat(40 * 2 ** 20)}"`),
    { ...whole(document), sha256: 'b'.repeat(64) },
    { ...whole(document), text: 'AAAA' },
    { ...whole(document), parts: 1000 },
    { ...whole(document), part: 5, parts: 2 },
    { ...whole(document), device: 'd2' },
    { ...whole(document), text: '<script>' },
  ];
  for (const payload of hostile) await device.say('table', payload);
  const random = new Random(seed);
  const parts = tableParts(document, 'd1', 400);
  for (let round = 0; round < 60; round++) {
    const part = random.pick(parts);
    const at = random.below(part.text.length);
    const text =
      random.next() < 0.5 ? part.text.slice(0, at) || 'A' : `${part.text.slice(0, at)}A${part.text.slice(at + 1)}`;
    await device.say('table', { ...part, text });
  }
  t.same((await console.client.get<{ tables: object[] }>('/v1/tables')).tables, []);
  await sayTable(device, good);
  await until(async () => (await console.client.get<{ tables: object[] }>('/v1/tables')).tables.length === 1, 'taken');
  t.equal(({} as { polluted?: number }).polluted, undefined);
  t.ok(warnings.some((text) => text.includes('refused')));
  await t.rejects(console.client.get('/v1/devices/unknown/tables'), { code: 'device/unknown' });
  const wrong = { identity: 'x', operatorKeys: [] };
  await t.rejects(console.client.send('POST', '/v1/tables/offer', wrong), { code: 'usage/invalid' });
  await device.close();
  await console.close();
});
