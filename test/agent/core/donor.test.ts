/** Which rows of other devices are checked, and what is believed of the rest. */
import t from 'tap';
import {
  contradicts,
  coversAll,
  drawSample,
  judge,
  largestFactor,
  sampledShare,
  takenRows,
  type WantedOperator,
} from '../../../agent/core/donor.js';
import { LatencyTable, speedReferenceKey } from '../../../agent/core/latency.js';
import type { LatencyRow } from '../../../configs/contracts/plan.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();

const row = (operatorKey: string, precision: string, median: number): LatencyRow => {
  const rest = { spread: 0, repeats: 9, throttled: false, energyJoules: null, measuredAt: '2026-01-01T00:00:00Z' };
  return { operatorKey, precision, minimum: median, median, ...rest };
};

/** Operators of some kinds at some precisions, with a table that has a row for each. */
function madeUp(random: Random): { wanted: WantedOperator[]; rows: LatencyRow[] } {
  const labels = ['float', 'W8A8', 'W4A8', 'W4A4', 'W2A8', 'W2A2', 'W7A8'].slice(0, 1 + random.below(7));
  const wanted = Array.from({ length: 1 + random.below(40) }, (_, index) => ({
    key: `k${index}`,
    op: random.pick(['Conv', 'Gemm', 'Add', 'Pool']),
    count: 1 + random.below(3),
    precisions: random.next() < 0.7 ? labels : labels.slice(0, 1),
  }));
  const rows = wanted.flatMap(({ key, precisions }) =>
    precisions.map((precision) => row(key, precision, 5000 + random.below(500_000))),
  );
  return { wanted, rows: [...rows, row(speedReferenceKey, 'float', 300_000)] };
}

const pairsOf = (wanted: readonly WantedOperator[], keys: readonly string[], precisions: readonly string[]) =>
  wanted
    .filter(({ key }) => keys.includes(key))
    .reduce((sum, own) => sum + own.precisions.filter((precision) => precisions.includes(precision)).length, 0);

t.test('a sample is never more than a fifth, has the dearest operator, and differs from seed to seed', async (t) => {
  const random = new Random(seed);
  let drawn = 0;
  for (let round = 0; round < 300; round++) {
    const { wanted, rows } = madeUp(random);
    const table = new LatencyTable(rows);
    const all = wanted.reduce((sum, { precisions }) => sum + precisions.length, 0);
    const timeOf = ({ key, count, precisions }: WantedOperator) =>
      count * Math.max(...precisions.map((precision) => table.median(key, precision)));
    const [dearest] = [...wanted].sort((a, b) => timeOf(b) - timeOf(a));
    for (const by of ['operator', 'precision'] as const) {
      const sample = drawSample(table, wanted, by, round);
      t.same(drawSample(table, wanted, by, round), sample, 'equal seeds draw alike');
      if (sample === null) continue;
      drawn++;
      const measured = pairsOf(wanted, sample.keys, sample.precisions);
      if (measured === 0 || measured > all * sampledShare) t.fail(`${measured} of ${all}, by ${by}`);
      const fits = dearest!.precisions.length <= Math.floor(all * sampledShare);
      if (by === 'operator' && fits && !sample.keys.includes(dearest!.key)) t.fail('the dearest is not there');
    }
  }
  t.ok(drawn > 150);
  const { wanted, rows } = { wanted: Array.from({ length: 30 }, (_, i) => i), rows: [] as LatencyRow[] };
  const operators = wanted.map((i) => ({ key: `k${i}`, op: `op${i % 4}`, count: 1, precisions: ['float', 'W8A8'] }));
  for (const { key } of operators) rows.push(row(key, 'float', 1e5), row(key, 'W8A8', 5e4));
  const seen = new Set<string>();
  for (let each = 0; each < 200; each++)
    for (const key of drawSample(new LatencyTable(rows), operators, 'operator', each)!.keys) seen.add(key);
  t.equal(seen.size, 30, 'many devices together check every operator');
});

t.test('what is worth no sample is measured: few rows, and those that a table lacks', async (t) => {
  const few = [{ key: 'a', op: 'Conv', count: 1, precisions: ['float', 'W8A8'] }];
  const table = new LatencyTable([row('a', 'float', 1e5), row('a', 'W8A8', 1e5)]);
  t.equal(drawSample(table, few, 'operator', 1), null);
  t.equal(drawSample(table, few, 'precision', 1), null);
  t.ok(coversAll(table, few));
  t.notOk(coversAll(table, [{ ...few[0]!, precisions: ['float', 'W4A32'] }]));
});

t.test('noise and a uniform change of speed are accepted; a table wrong by two never is', async (t) => {
  const random = new Random(seed + 1);
  for (let round = 0; round < 500; round++) {
    const { rows } = madeUp(random);
    const table = new LatencyTable(rows);
    const speed = 0.7 + 0.7 * random.next();
    const noisy = (factor: (index: number) => number) =>
      rows.map((donor, index) => {
        const isReference = donor.operatorKey === speedReferenceKey;
        const own = donor.median * speed * (isReference ? 1 : factor(index) * (0.93 + 0.14 * random.next()));
        return { ...donor, median: own };
      });
    const honest = judge(
      table,
      noisy(() => 1),
      1500,
    );
    if (!honest.isAccepted || Math.abs(honest.factor / speed - 1) > 0.1)
      t.fail(`${JSON.stringify(honest)} at ${speed}`);
    const twice = judge(
      table,
      noisy(() => 2),
      1500,
    );
    const half = judge(
      table,
      noisy(() => 0.5),
      1500,
    );
    if (twice.isAccepted || half.isAccepted) t.fail(`all by two: ${twice.why}, ${half.why}`);
    // A wrong part that is neither next to nothing of the time nor next to all of it.
    const lies = new Set([...rows.keys()].filter(() => random.next() < 0.5));
    const share = (wanted: boolean) =>
      rows.reduce((sum, { median, operatorKey }, index) => {
        return operatorKey !== speedReferenceKey && lies.has(index) === wanted ? sum + median : sum;
      }, 0);
    const isTold = Math.min(share(true), share(false)) / (share(true) + share(false)) > 0.2;
    const some = judge(
      table,
      noisy((index) => (lies.has(index) ? 2 : 1)),
      1500,
    );
    if (isTold && some.isAccepted) t.fail(`some by two: ${some.why}`);
  }
  const pair = [row('a', 'float', 1e5), row(speedReferenceKey, 'float', 1e5)];
  const all = pair.map((own) => ({ ...own, median: own.median * 3 }));
  t.match(
    judge(new LatencyTable(pair), all, 0),
    { isAccepted: false, why: /speed reference/ },
    'with the reference too',
  );
  t.match(judge(new LatencyTable(pair), [], 0), { isAccepted: false, why: /nothing/ });
  const tiny = judge(
    new LatencyTable([row('a', 'float', 1e5), row('b', 'float', 500)]),
    [row('a', 'float', 1e5), row('b', 'float', 1500)],
    1500,
  );
  t.ok(tiny.isAccepted, 'what is within the error of timing is no disagreement');
  t.ok(largestFactor < 2);
});

t.test('taken rows are marked and brought to the speed of this machine', async (t) => {
  const [taken] = takenRows([{ ...row('a', 'float', 100), energyJoules: 2 }], 1.5, 'd'.repeat(64));
  t.match(taken, { median: 150, minimum: 150, energyJoules: 3, donor: 'd'.repeat(64) });
});

t.test('whole models contradict a table when they miss it as own rows never would', async (t) => {
  const rounds = (...ratios: number[]) =>
    ratios.map((ratio) => ({ predictedLatency: 10, measuredLatency: 10 * ratio }));
  t.notOk(contradicts(rounds(0.9, 1.1, 1.2), 1));
  t.notOk(contradicts(rounds(2, 2.1), 2), 'the machine was slower then');
  t.ok(contradicts(rounds(2.1, 1.9), 1));
  t.ok(contradicts(rounds(0.5), 1));
  t.notOk(contradicts([], 1));
});
