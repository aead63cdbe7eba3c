/** Alternatives to the best plan, against every plan of small problems. */
import t from 'tap';
import { HighsSolver } from '../../../../agent/adapters/highs-solver.js';
import { allocate } from '../../../../agent/core/plan/allocate.js';
import { doubtedOptima, nearestPlans } from '../../../../agent/core/plan/alternatives.js';
import { type Assignment, evaluate, type Problem } from '../../../../agent/core/plan/problem.js';
import { announceSeed, Random } from '../../../support/seed.js';
import { everyAssignment, randomProblem } from './problems.js';

const seed = announceSeed();
const solver = new HighsSolver();
t.teardown(() => solver.close());
const signal = new AbortController().signal;
const seconds = 5;
const most = 4;
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
    const optima = await doubtedOptima(problem, best.assignment, ceilings, solver, seconds, signal);
    const near = nearestPlans(problem, best.assignment, ceilings, most);
    yield { index, problem, ceilings, holding, best, optima, near };
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
  for await (const { index, holding, best, optima, near } of cases(80)) {
    for (const found of [optima, near]) {
      const keys = found.map((assignment) => assignment.join());
      if (new Set([...keys, best.assignment.join()]).size !== found.length + 1) t.fail(`${index}: ${keys.join(' ')}`);
      for (const key of keys) {
        if (!holding.some(({ assignment }) => assignment.join() === key)) t.fail(`${index}: ${key} holds nothing`);
      }
    }
    if (near.length > most || optima.length > 3) t.fail(`${index}: ${near.length} and ${optima.length}`);
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

t.test('nearest: without conversions, the least sensitive that differ in a unit or two, in order', async (t) => {
  for await (const { index, problem, holding, best, near } of cases(80)) {
    if (problem.edges.length > 0) continue;
    const wanted = holding
      .filter(({ assignment }) => [1, 2].includes(distance(problem, assignment, best.assignment)))
      .map(({ assignment }) => doubted(problem, assignment, 8))
      .sort((a, b) => a - b)
      .slice(0, most);
    const values = near.map((assignment) => doubted(problem, assignment, 8));
    const isAsWanted = values.length === wanted.length && values.every((value, at) => isAbout(value, wanted[at]!));
    if (!isAsWanted) t.fail(`${index}: ${values}, not ${wanted}`);
  }
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
  const near = [
    [1, 0, 1],
    [0, 1, 1],
    [1, 1, 1],
  ];
  t.strictSame(nearestPlans(problem, [1, 1, 0], { latency: 20 }, 3), near);
  t.strictSame(nearestPlans(problem, [1, 1, 0], { latency: 20 }, 2), near.slice(0, 2));
  t.strictSame(nearestPlans(problem, [1, 1, 0], { latency: 20, sensitivity: 4 }, 3), near.slice(0, 1));
});

t.test('an abort ends it', async (t) => {
  const problem = problemOf(0);
  const first = problem.operators.map(() => 0);
  await t.rejects(doubtedOptima(problem, first, {}, solver, seconds, AbortSignal.abort()));
});
