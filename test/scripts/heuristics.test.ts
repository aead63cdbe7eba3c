/** Published ways to choose a plan, against every plan of small problems. */
import t from 'tap';
import { type Assignment, evaluate, type Problem } from '../../agent/core/plan/problem.js';
import { bisectedPlan, exchangedPlan, greedyPlan, randomPlans } from '../../scripts/bench/heuristics.js';
import { everyAssignment, randomProblem } from '../agent/core/plan/problems.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();
const problems = 100;

/** Like the engine's: sums over units, nothing between them. */
function problemOf(index: number): Problem {
  const options = { operators: 2 + (index % 5), choices: 4, decades: 2, ties: index % 2 === 0, forbidden: 0 };
  return { ...randomProblem(seed + index, options), edges: [] };
}

const latencies = (all: readonly { costs: { latency: number } }[]) => all.map(({ costs }) => costs.latency);
const isListed = (all: ReturnType<typeof everyAssignment>, assignment: Assignment) =>
  all.some((one) => one.assignment.join() === assignment.join());

/** Every problem with all its assignments and a ceiling between the fastest and the slowest of them. */
function* cases() {
  const random = new Random(seed);
  for (let index = 0; index < problems; index++) {
    const problem = problemOf(index);
    const all = everyAssignment(problem);
    const [least, most] = [Math.min(...latencies(all)), Math.max(...latencies(all))];
    // Sums are added in another order than `evaluate` adds them.
    yield { index, problem, all, least, ceiling: (least + (most - least) * random.next()) * (1 + 1e-9) };
  }
}

const descents = { greedyPlan, bisectedPlan };
for (const [name, choose] of Object.entries(descents)) {
  t.test(`${name}: a plan under the ceiling wherever there is one, never better than the best`, async (t) => {
    for (const { index, problem, all, least, ceiling } of cases()) {
      const assignment = choose(problem, ceiling)!;
      const holding = all.filter(({ costs }) => costs.latency <= ceiling);
      const best = Math.min(...holding.map(({ costs }) => costs.sensitivity));
      const costs = evaluate(problem, assignment);
      if (!isListed(all, assignment) || costs.latency > ceiling || costs.sensitivity < best - 1e-9)
        t.fail(`problem ${index}: ${assignment}, ${JSON.stringify(costs)} for ${ceiling}`);
      if (choose(problem, least - 1e-6) !== null) t.fail(`problem ${index}: nothing is that fast`);
    }
  });

  t.test(`${name}: without a need to be fast, the most accurate plan`, async (t) => {
    for (const { index, problem, all } of cases()) {
      const { sensitivity } = evaluate(problem, choose(problem, Number.POSITIVE_INFINITY)!);
      const least = Math.min(...all.map(({ costs }) => costs.sensitivity));
      if (Math.abs(sensitivity - least) > 1e-9) t.fail(`problem ${index}: ${sensitivity}, not ${least}`);
    }
  });
}

t.test(
  'exchangedPlan: from any start that holds, one that holds, is no less accurate, and that it leaves as it is',
  async (t) => {
    const random = new Random(seed);
    for (const { index, problem, all, ceiling } of cases()) {
      const start = random.pick(all.filter(({ costs }) => costs.latency <= ceiling));
      const assignment = exchangedPlan(problem, start.assignment, ceiling);
      const costs = evaluate(problem, assignment);
      const isGood = costs.latency <= ceiling && costs.sensitivity <= start.costs.sensitivity + 1e-9;
      if (!isGood || !isListed(all, assignment)) t.fail(`problem ${index}: ${start.assignment} to ${assignment}`);
      t.strictSame(exchangedPlan(problem, assignment, ceiling), assignment);
    }
  },
);

t.test('randomPlans: different ones under the ceiling, the same for the same seed', async (t) => {
  for (const { index, problem, all, ceiling } of cases()) {
    const plans = randomPlans(problem, ceiling, 10, seed);
    t.strictSame(randomPlans(problem, ceiling, 10, seed), plans);
    const keys = plans.map((plan) => plan.join());
    if (new Set(keys).size < plans.length) t.fail(`problem ${index}: ${keys.join(' ')} repeat`);
    for (const plan of plans) {
      const holds = evaluate(problem, plan).latency <= ceiling;
      if (!holds || !isListed(all, plan)) t.fail(`problem ${index}: ${plan} under ${ceiling}`);
    }
    if (plans.length === 0) t.fail(`problem ${index}: there is a plan`);
  }
});

t.test('the published order of descent, by hand', async (t) => {
  const choice = (precision: string, sensitivity: number, latency: number) => ({
    precision,
    format: 'u8',
    costs: { sensitivity, latency, bytes: 0, energy: null, bitOps: 0 },
  });
  const problem: Problem = {
    operators: [
      { name: 'a', choices: [choice('W8A8', 0, 10), choice('W4A8', 1, 8), choice('W2A2', 6, 2)] },
      { name: 'b', choices: [choice('W8A8', 0, 10), choice('W4A8', 2, 5)] },
      { name: 'c', choices: [choice('W8A8', 0, 10), choice('W4A8', 3, 9), choice('W4A4', 2, 10)] },
    ],
    edges: [],
    ties: [],
    fixed: { latency: 1, bytes: 0, ramBytes: 0 },
  };
  t.strictSame(greedyPlan(problem, 26), [0, 1, 0], 'b saves most for its error');
  t.strictSame(greedyPlan(problem, 19), [2, 1, 0], 'then a by two steps at once, not by one');
  t.strictSame(bisectedPlan(problem, 26), [1, 1, 0], 'a adds the least error, b more, and both are needed');
  t.strictSame(bisectedPlan(problem, 22), [2, 1, 1], 'all down a step, then the next');
  t.strictSame(exchangedPlan(problem, [1, 0, 1], 28), [1, 1, 0], 'c up and b down: more than a up');
  t.throws(() => greedyPlan({ ...problem, edges: [edge()] }, 1), TypeError, 'conversions are no sums');
});

function edge() {
  const conversion = { from: 'f32', to: 'u8', latency: 1, sensitivity: 0, energy: null, bytes: 0 };
  return { tensor: 't', producer: 0, consumers: [1], conversions: [conversion], ramBytes: { u8: 1, f32: 4 } };
}
