/** Estimates corrected by runs: against the same regression in another form, and by what it does for plans. */
import t from 'tap';
import { HighsSolver } from '../../../../agent/adapters/highs-solver.js';
import { allocate } from '../../../../agent/core/plan/allocate.js';
import { correctedBy, type Observation } from '../../../../agent/core/plan/corrected.js';
import { type Assignment, evaluate, type Problem } from '../../../../agent/core/plan/problem.js';
import { median } from '../../../../agent/core/statistics.js';
import { announceSeed, Random } from '../../../support/seed.js';
import { everyAssignment } from './problems.js';

const seed = announceSeed();
const solver = new HighsSolver();
t.teardown(() => solver.close());
const never = new AbortController().signal;
const precisions = ['W8A8', 'W4A8', 'W4A4'];

/** Operators that are the cheaper the more they err; without edges. */
function problemOf(random: Random, operators: number): Problem {
  return {
    operators: Array.from({ length: operators }, (_, index) => ({
      name: `o${index}`,
      choices: precisions.map((precision, which) => ({
        precision,
        format: 'u8',
        costs: {
          sensitivity: 10 ** (which - 2 * random.next()),
          latency: 3 - which + random.next(),
          bytes: 1,
          energy: null,
          bitOps: 1,
        },
      })),
    })),
    edges: [],
    ties: [],
    fixed: { latency: 0, bytes: 0, ramBytes: 0 },
  };
}

const anyAssignment = (random: Random, { operators }: Problem): Assignment =>
  operators.map(({ choices }) => random.below(choices.length));

/** The problem as it really is: every estimate off by a factor of its own, and by one of its precision. */
function truthOf(random: Random, problem: Problem, spread: number): Problem {
  const factor = () => Math.exp(spread * (2 * random.next() - 1));
  const byPrecision = new Map(precisions.map((precision) => [precision, factor()]));
  return {
    ...problem,
    operators: problem.operators.map((operator) => ({
      ...operator,
      choices: operator.choices.map((choice) => {
        const sensitivity = choice.costs.sensitivity * factor() * byPrecision.get(choice.precision)!;
        return { ...choice, costs: { ...choice.costs, sensitivity } };
      }),
    })),
  };
}

/** Gaussian elimination with pivots. */
function eliminate(matrix: number[][], right: number[]): number[] {
  const rows = matrix.map((row, index) => [...row, right[index]!]);
  for (let column = 0; column < rows.length; column++) {
    const pivot = rows.reduce(
      (best, row, index) => (index >= column && Math.abs(row[column]!) > Math.abs(rows[best]![column]!) ? index : best),
      column,
    );
    [rows[column], rows[pivot]] = [rows[pivot]!, rows[column]!];
    rows.forEach((row, index) => {
      if (index === column) return;
      const factor = row[column]! / rows[column]![column]!;
      for (let k = column; k < row.length; k++) row[k]! -= factor * rows[column]![k]!;
    });
  }
  return rows.map((row, index) => row.at(-1)! / row[index]!);
}

/** What is taken of each cost: deviations of estimates at a precision, of each choice, and of what is measured. */
const taken = {
  sensitivity: { precision: 0.7, choice: 0.7, measured: 0.1 },
  latency: { precision: 0.05, choice: 0.1, measured: 0.01 },
} as const;
type Cost = keyof typeof taken;

/**
 * The same by ridge regression over factors: each choice, and each precision, has one unknown of unit variance; what a plan diverges by
 * is the sum of what it uses. As many equations as unknowns instead of as many as runs.
 */
function ridge(problem: Problem, cost: Cost, observations: readonly Observation[]): number[][] {
  const deviation = taken[cost];
  const scale = median(observations.map(({ assignment, value }) => value / evaluate(problem, assignment)[cost]));
  const choices = problem.operators.flatMap(({ choices: of }, operator) =>
    of.map((choice, which) => ({ operator, which, choice, estimate: scale * choice.costs[cost] })),
  );
  const unknowns = choices.length + precisions.length;
  const rows = observations.map(({ assignment, value }) => {
    const row = new Array<number>(unknowns).fill(0);
    choices.forEach(({ operator, which, choice, estimate }, index) => {
      if (assignment[operator] !== which) return;
      row[index] = deviation.choice * estimate;
      row[choices.length + precisions.indexOf(choice.precision)]! += deviation.precision * estimate;
    });
    const noise = deviation.measured * value;
    const residual = value - scale * evaluate(problem, assignment)[cost];
    return { row: row.map((value) => value / noise), right: residual / noise };
  });
  const normal = Array.from({ length: unknowns }, (_, i) =>
    Array.from(
      { length: unknowns },
      (_, j) => (i === j ? 1 : 0) + rows.reduce((sum, { row }) => sum + row[i]! * row[j]!, 0),
    ),
  );
  const right = Array.from({ length: unknowns }, (_, i) =>
    rows.reduce((sum, { row, right: of }) => sum + row[i]! * of, 0),
  );
  const factors = eliminate(normal, right);
  return problem.operators.map(({ choices: of }, operator) =>
    of.map((_, which) => {
      const index = choices.findIndex((one) => one.operator === operator && one.which === which);
      const { choice, estimate } = choices[index]!;
      const shared = factors[choices.length + precisions.indexOf(choice.precision)]!;
      return Math.max(
        0.02 * estimate,
        estimate * (1 + deviation.choice * factors[index]! + deviation.precision * shared),
      );
    }),
  );
}

t.test('without runs, a problem is as it was', async (t) => {
  const problem = problemOf(new Random(seed), 3);
  t.equal(correctedBy(problem, 'sensitivity', []), problem);
});

for (const cost of ['sensitivity', 'latency'] as const) {
  const other = cost === 'latency' ? 'sensitivity' : 'latency';
  t.test(`corrected costs are those of the same regression with an unknown for every choice: ${cost}`, async (t) => {
    for (let index = 0; index < 60; index++) {
      const random = new Random(seed + index);
      const problem = problemOf(random, 1 + random.below(5));
      const observations = Array.from({ length: 1 + random.below(8) }, () => {
        const assignment = anyAssignment(random, problem);
        return { assignment, value: evaluate(problem, assignment)[cost] * Math.exp(2 * random.next() - 1) };
      });
      const wanted = ridge(problem, cost, observations);
      const corrected = correctedBy(problem, cost, observations);
      corrected.operators.forEach(({ choices }, operator) => {
        choices.forEach(({ costs }, which) => {
          const value = wanted[operator]![which]!;
          if (Math.abs(costs[cost] - value) > 1e-6 * value)
            t.fail(`${index}, ${operator}, ${which}: ${costs[cost]}, not ${value}`);
        });
      });
      t.match(
        corrected.operators.map(({ choices }) => choices.map(({ costs }) => costs[other])),
        problem.operators.map(({ choices }) => choices.map(({ costs }) => costs[other])),
        'nothing else changes',
      );
    }
  });
}

t.test('one run of a plan is believed whole, with what no choice changes', async (t) => {
  for (let index = 0; index < 50; index++) {
    const random = new Random(seed + 500 + index);
    const problem = { ...problemOf(random, 4), fixed: { latency: random.next(), bytes: 0, ramBytes: 0 } };
    const assignment = anyAssignment(random, problem);
    const value = evaluate(problem, assignment).latency * (0.5 + random.next());
    const corrected = correctedBy(problem, 'latency', [{ assignment, value }]);
    t.ok(Math.abs(evaluate(corrected, assignment).latency / value - 1) < 1e-9, `${index}`);
  }
});

t.test('a dozen runs, each of what seems best, find a plan nearer to the best than the estimates do', async (t) => {
  const regret = { estimated: 0, corrected: 0 };
  for (let index = 0; index < 25; index++) {
    const random = new Random(seed + 1000 + index);
    const problem = problemOf(random, 6);
    const truth = truthOf(random, problem, 1.2);
    const all = everyAssignment(problem);
    const latency = all[random.below(all.length)]!.costs.latency;
    const real = (assignment: Assignment) => evaluate(truth, assignment).sensitivity;
    const best = Math.min(
      ...all.filter(({ costs }) => costs.latency <= latency).map(({ assignment }) => real(assignment)),
    );
    const observations: Observation[] = [];
    while (observations.length < 12) {
      const excluded = observations.map(({ assignment }) => assignment);
      const limits = { excluded, relativeGap: 1e-3 };
      const corrected = correctedBy(problem, 'sensitivity', observations);
      const next = await allocate(corrected, 'sensitivity', { latency }, solver, limits, never);
      if (next.status === 'infeasible') break;
      t.notOk(
        excluded.some((other) => other.join() === next.assignment.join()),
        'no plan is found twice',
      );
      observations.push({ assignment: next.assignment, value: real(next.assignment) });
    }
    regret.estimated += Math.log(observations[0]!.value / best) / 25;
    regret.corrected += Math.log(Math.min(...observations.map(({ value }) => value)) / best) / 25;
  }
  t.comment(`mean log of what is lost: ${JSON.stringify(regret)}`);
  t.ok(regret.corrected < regret.estimated / 2 + 1e-9);
});
