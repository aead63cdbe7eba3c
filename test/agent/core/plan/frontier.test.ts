import fc from 'fast-check';
import t from 'tap';
import { HighsSolver } from '../../../../agent/adapters/highs-solver.js';
import { frontier } from '../../../../agent/core/plan/frontier.js';
import { evaluate } from '../../../../agent/core/plan/problem.js';
import { everyAssignment, randomProblem, residualChain } from './problems.js';

const seed = Number(process.env.QUANTD_SEED ?? Date.now() % 2 ** 31);
const signal = new AbortController().signal;
const solver = new HighsSolver();
t.teardown(() => solver.close());
t.comment(`seed ${seed}: repeat with QUANTD_SEED=${seed}`);

const nearly = (value: number) => value * (1 + 2e-6) + 1e-300;

t.test('spans the Pareto set, and no assignment beats a point of it', async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat(), fc.boolean(), async (number, isLimited) => {
      const problem = randomProblem(number, { operators: 7, choices: 2, decades: 4, ties: true, forbidden: 0.05 });
      const all = everyAssignment(problem).map(({ costs }) => costs);
      const bytes = all.map((costs) => costs.bytes).sort((a, b) => a - b)[all.length >> 1] ?? 0;
      const allowed = isLimited ? all.filter((costs) => costs.bytes <= bytes) : all;
      const points = await frontier(problem, solver, isLimited ? { ceilings: { bytes } } : {}, signal);
      if (allowed.length === 0) return points.length === 0;
      const least = (metric: 'latency' | 'sensitivity') =>
        allowed.reduce((minimum, costs) => Math.min(minimum, costs[metric]), Number.POSITIVE_INFINITY);
      return (
        points[0]!.costs.latency <= nearly(least('latency')) &&
        points.at(-1)!.costs.sensitivity <= nearly(least('sensitivity')) &&
        points.every(
          ({ costs, assignment }) => JSON.stringify(costs) === JSON.stringify(evaluate(problem, assignment)),
        ) &&
        points.every((point, index) => {
          const next = points[index + 1]?.costs;
          return !next || (point.costs.latency < next.latency && point.costs.sensitivity > next.sensitivity);
        }) &&
        points.every(({ costs }) =>
          allowed.every(
            (rival) =>
              !(rival.latency <= costs.latency && nearly(rival.sensitivity) < costs.sensitivity) &&
              !(rival.sensitivity <= costs.sensitivity && nearly(rival.latency) < costs.latency),
          ),
        )
      );
    }),
    { seed, numRuns: 40 },
  );
});

t.test('a hundred operators take seconds', async (t) => {
  const begun = performance.now();
  const points = await frontier(residualChain(1, 100, 2), solver, { points: 8 }, signal);
  const seconds = (performance.now() - begun) / 1000;
  t.comment(`${seconds.toFixed(2)} s`);
  t.equal(points.length, 8);
  t.ok(seconds < 15, `${seconds} s`);
});

t.test('stops when aborted', async (t) => {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 100);
  await t.rejects(frontier(residualChain(1, 300, 4), solver, {}, controller.signal), { code: 'job/aborted' });
});

t.test('keeps the points found when the time is over, the ends first', async (t) => {
  const problem = residualChain(1, 100, 2);
  const points = await frontier(problem, solver, { points: 40, timeLimitSeconds: 0.5 }, signal);
  const [first, last] = [points[0]!, points.at(-1)!];
  t.ok(points.length >= 2 && points.length < 40, `${points.length} points`);
  t.equal(last.costs.sensitivity, 0);
  t.ok(first.costs.latency < last.costs.latency);
});

t.test('refuses fewer than two points', async (t) => {
  await t.rejects(frontier(residualChain(1, 3, 2), solver, { points: 1 }, signal), RangeError);
});
