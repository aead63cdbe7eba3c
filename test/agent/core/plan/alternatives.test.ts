/** Alternatives to the best plan, against every plan of small problems. */
import t from 'tap';
import { HighsSolver } from '../../../../agent/adapters/highs-solver.js';
import { allocate } from '../../../../agent/core/plan/allocate.js';
import { doubtedOptima, uniformPlans } from '../../../../agent/core/plan/alternatives.js';
import { type Assignment, evaluate, type Problem } from '../../../../agent/core/plan/problem.js';
import { announceSeed, Random } from '../../../support/seed.js';
import { everyAssignment, randomProblem } from './problems.js';

const seed = announceSeed();
const solver = new HighsSolver();
t.teardown(() => solver.close());
const signal = new AbortController().signal;
const seconds = 5;
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
    const optima = await doubtedOptima(problem, best.assignment, ceilings, solver, seconds, signal);
    yield { index, problem, ceilings, holding, best, optima };
  }
}

/** What an assignment's sensitivity is where narrow choices count several times. */
function doubted(problem: Problem, assignment: Assignment, factor: number): number {
  return assignment.reduce((sum, choice, operator) => {
    const { precision, costs } = problem.operators[operator]!.choices[choice]!;
    const isNarrow = precision === 'W4A4' || precision === 'W2A2';
    return sum + (isNarrow ? (factor - 1) * costs.sensitivity : 0);
  }, evaluate(problem, assignment).sensitivity);
}

const isAbout = (value: number, wanted: number) => Math.abs(value - wanted) <= wanted * 1e-5 + 1e-12;

t.test('alternatives hold the ceilings, are assignments, all different and none the given one', async (t) => {
  for await (const { index, holding, best, optima } of cases(80)) {
    const keys = optima.map((assignment) => assignment.join());
    if (new Set([...keys, best.assignment.join()]).size !== optima.length + 1) t.fail(`${index}: ${keys.join(' ')}`);
    for (const key of keys) {
      if (!holding.some(({ assignment }) => assignment.join() === key)) t.fail(`${index}: ${key} holds nothing`);
    }
    if (optima.length > 3) t.fail(`${index}: ${optima.length}`);
  }
});

t.test('optima: for every doubt, the best there is where narrow choices count 2, 4 and 64 times', async (t) => {
  let seen = 0;
  for await (const { index, problem, holding, best, optima } of cases(80)) {
    for (const factor of [2, 4, 64]) {
      const least = Math.min(...holding.map(({ assignment }) => doubted(problem, assignment, factor)));
      const reached = [best.assignment, ...optima].map((assignment) => doubted(problem, assignment, factor));
      if (!isAbout(Math.min(...reached), least)) t.fail(`${index}: ${Math.min(...reached)}, not ${least}`);
    }
    seen += optima.length;
  }
  t.ok(seen > 10, `${seen} other plans`);
});

t.test('a plan without narrow choices is its own optimum, whatever they are worth', async (t) => {
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
  t.strictSame(await doubtedOptima(problem, [1, 1, 0], { latency: 20 }, solver, seconds, signal), []);
});

t.test('uniform plans: one precision wherever it can be, and none that ties forbid', async (t) => {
  for (let index = 0; index < 60; index++) {
    const problem = problemOf(index);
    const names = new Set(problem.operators.flatMap(({ choices }) => choices.map((choice) => choice.precision)));
    const wanted = [...names]
      .map((name) =>
        problem.operators.map(({ choices }) =>
          Math.max(
            0,
            choices.findIndex((one) => one.precision === name),
          ),
        ),
      )
      .filter((assignment) => everyAssignment(problem).some((one) => one.assignment.join() === assignment.join()));
    const found = uniformPlans(problem).map(({ assignment }) => assignment.join());
    for (const assignment of wanted) t.ok(found.includes(assignment.join()), `${index}: ${assignment}`);
  }
});

t.test('an abort ends it', async (t) => {
  const problem = problemOf(0);
  const first = problem.operators.map(() => 0);
  await t.rejects(doubtedOptima(problem, first, {}, solver, seconds, AbortSignal.abort()));
});
