/** Alternatives to the best plan, against every plan of small problems. */
import t from 'tap';
import { HighsSolver } from '../../../../agent/adapters/highs-solver.js';
import { allocate } from '../../../../agent/core/plan/allocate.js';
import { alternatives } from '../../../../agent/core/plan/alternatives.js';
import { type Assignment, evaluate, type Problem } from '../../../../agent/core/plan/problem.js';
import { announceSeed, Random } from '../../../support/seed.js';
import { everyAssignment, randomProblem } from './problems.js';

const seed = announceSeed();
const solver = new HighsSolver();
t.teardown(() => solver.close());
const signal = new AbortController().signal;
const options = { most: 4, timeLimitSeconds: 5 };
const precisions = ['W8A8', 'W4A8', 'W4A4', 'W2A2'];

/** The precisions of the engine on a random problem; without conversions for every other. */
function problemOf(index: number): Problem {
  const random = { operators: 2 + (index % 4), choices: 4, decades: 2, ties: index % 3 === 0, forbidden: 0 };
  const problem = randomProblem(seed + index, random);
  const operators = problem.operators.map((operator) => ({
    ...operator,
    choices: operator.choices.map((choice, which) => ({ ...choice, precision: precisions[which]! })),
  }));
  return { ...problem, operators, edges: index % 2 === 0 ? [] : problem.edges };
}

/** Units in which two assignments differ. */
function distance(problem: Problem, a: Assignment, b: Assignment): number {
  const differing = [...a.keys()].filter((operator) => a[operator] !== b[operator]);
  const tied = (one: number, other: number) => problem.ties.some((tie) => tie.includes(one) && tie.includes(other));
  const groups: number[][] = [];
  for (const operator of differing) {
    const touching = groups.filter((group) => group.some((other) => tied(operator, other)));
    for (const group of touching) groups.splice(groups.indexOf(group), 1);
    groups.push([operator, ...touching.flat()]);
  }
  return groups.length;
}

/** Problems with every assignment, a ceiling that some of them hold, and the best of those. */
async function* cases(count: number) {
  const random = new Random(seed);
  for (let index = 0; index < count; index++) {
    const problem = problemOf(index);
    const all = everyAssignment(problem);
    const ceilings = { latency: random.pick(all).costs.latency, bytes: random.pick(all).costs.bytes };
    const isHeld = ({ costs }: (typeof all)[number]) =>
      costs.latency <= ceilings.latency && costs.bytes <= ceilings.bytes;
    const holding = all.filter(isHeld);
    const best = await allocate(problem, 'sensitivity', ceilings, solver, {}, signal);
    if (best.status === 'infeasible') continue;
    const found = await alternatives(problem, best.assignment, ceilings, solver, options, signal);
    yield { index, problem, ceilings, holding, best, found };
  }
}

t.test('alternatives hold the ceilings, are assignments, all different and none the given one', async (t) => {
  for await (const { index, holding, best, found } of cases(80)) {
    const keys = found.map((assignment) => assignment.join());
    if (new Set([...keys, best.assignment.join()]).size !== found.length + 1) t.fail(`${index}: ${keys.join(' ')}`);
    for (const key of keys) {
      if (!holding.some(({ assignment }) => assignment.join() === key)) t.fail(`${index}: ${key} holds nothing`);
    }
    if (found.length > options.most) t.fail(`${index}: ${found.length} of them`);
  }
});

t.test('the first is the best there is where narrow choices count twice', async (t) => {
  let seen = 0;
  for await (const { index, problem, holding, best, found } of cases(80)) {
    const isNarrow = (operator: number, choice: number) => {
      const { precision } = problem.operators[operator]!.choices[choice]!;
      return precision === 'W4A4' || precision === 'W2A2';
    };
    const doubted = ({ assignment, costs }: { assignment: Assignment; costs: { sensitivity: number } }) =>
      assignment.reduce((sum, choice, operator) => {
        const { sensitivity } = problem.operators[operator]!.choices[choice]!.costs;
        return sum + (isNarrow(operator, choice) ? sensitivity : 0);
      }, costs.sensitivity);
    const least = Math.min(...holding.map(doubted));
    if (!(doubted(best) > least * (1 + 1e-5) + 1e-12)) continue;
    seen++;
    const costs = evaluate(problem, found[0]!);
    const value = doubted({ assignment: found[0]!, costs });
    if (value > least * (1 + 1e-5) + 1e-12) t.fail(`${index}: ${value}, not ${least}`);
  }
  t.ok(seen > 0, `${seen} problems in which that is another plan`);
});

t.test('without conversions: the next best plan that differs in a unit or two is among them', async (t) => {
  for await (const { index, problem, holding, best, found } of cases(80)) {
    if (problem.edges.length > 0) continue;
    const near = holding.filter(({ assignment }) => {
      const units = distance(problem, assignment, best.assignment);
      return units === 1 || units === 2;
    });
    if (near.length === 0 || found.length === 0) continue;
    const gainful = near.sort((a, b) => a.costs.sensitivity - b.costs.sensitivity)[0]!;
    const reached = Math.min(...found.map((assignment) => evaluate(problem, assignment).sensitivity));
    if (reached > gainful.costs.sensitivity + 1e-9) t.fail(`${index}: ${reached}, not ${gainful.costs.sensitivity}`);
  }
});

t.test('a plan without narrow choices has its neighbours for alternatives', async (t) => {
  const choice = (precision: string, sensitivity: number, latency: number) => ({
    precision,
    format: 'u8',
    costs: { sensitivity, latency, bytes: 0, energy: null, bitOps: 0 },
  });
  const problem: Problem = {
    operators: ['a', 'b', 'c'].map((name, index) => ({
      name,
      choices: [choice('W8A8', 0, 10), choice('W4A8', 1 + index, 5), choice('W4A4', 100, 4)],
    })),
    edges: [],
    ties: [],
    fixed: { latency: 0, bytes: 0, ramBytes: 0 },
  };
  const found = await alternatives(problem, [1, 1, 0], { latency: 20 }, solver, options, signal);
  t.strictSame(found.slice(0, 3), [
    [1, 0, 1],
    [0, 1, 1],
    [1, 1, 1],
  ]);
  const two = await alternatives(problem, [1, 1, 0], { latency: 20 }, solver, { ...options, most: 2 }, signal);
  t.strictSame(two, found.slice(0, 2));
});

t.test('an abort ends it', async (t) => {
  const aborted = AbortSignal.abort();
  const problem = problemOf(0);
  await t.rejects(
    alternatives(
      problem,
      problem.operators.map(() => 0),
      {},
      solver,
      options,
      aborted,
    ),
  );
});
