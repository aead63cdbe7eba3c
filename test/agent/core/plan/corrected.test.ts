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

/**
 * The same by ridge regression over factors: each choice, and each precision, has one unknown of unit variance; what a plan diverges by
 * is the sum of what it uses. As many equations as unknowns instead of as many as runs.
 */
function ridge(problem: Problem, observations: readonly Observation[]): number[][] {
  const scale = median(
    observations.map(({ assignment, divergence }) => divergence / evaluate(problem, assignment).sensitivity),
  );
  const choices = problem.operators.flatMap(({ choices: of }, operator) =>
    of.map((choice, which) => ({ operator, which, choice, estimate: scale * choice.costs.sensitivity })),
  );
  const unknowns = choices.length + precisions.length;
  const rows = observations.map(({ assignment, divergence }) => {
    const row = new Array<number>(unknowns).fill(0);
    choices.forEach(({ operator, which, choice, estimate }, index) => {
      if (assignment[operator] !== which) return;
      row[index] = 0.7 * estimate;
      row[choices.length + precisions.indexOf(choice.precision)]! += 0.7 * estimate;
    });
    const noise = 0.1 * divergence;
    const residual = divergence - scale * evaluate(problem, assignment).sensitivity;
    return { row: row.map((value) => value / noise), right: residual / noise };
  });
  const normal = Array.from({ length: unknowns }, (_, i) =>
    Array.from(
      { length: unknowns },
      (_, j) => (i === j ? 1 : 0) + rows.reduce((sum, { row }) => sum + row[i]! * row[j]!, 0),
    ),
  );
  const right = Array.from({ length: unknowns }, (_, i) =>
    rows.reduce((sum, { row, right: value }) => sum + row[i]! * value, 0),
  );
  const factors = eliminate(normal, right);
  return problem.operators.map(({ choices: of }, operator) =>
    of.map((_, which) => {
      const index = choices.findIndex((one) => one.operator === operator && one.which === which);
      const { choice, estimate } = choices[index]!;
      const shared = factors[choices.length + precisions.indexOf(choice.precision)]!;
      return Math.max(0.02 * estimate, estimate * (1 + 0.7 * factors[index]! + 0.7 * shared));
    }),
  );
}

t.test('without runs, a problem is as it was', async (t) => {
  const problem = problemOf(new Random(seed), 3);
  t.equal(correctedBy(problem, []), problem);
});

t.test('corrected sensitivities are those of the same regression with an unknown for every choice', async (t) => {
  for (let index = 0; index < 60; index++) {
    const random = new Random(seed + index);
    const problem = problemOf(random, 1 + random.below(5));
    const truth = truthOf(random, problem, 1);
    const observations = Array.from({ length: 1 + random.below(8) }, () => {
      const assignment = anyAssignment(random, problem);
      return { assignment, divergence: evaluate(truth, assignment).sensitivity };
    });
    const wanted = ridge(problem, observations);
    const corrected = correctedBy(problem, observations);
    corrected.operators.forEach(({ choices }, operator) => {
      choices.forEach(({ costs }, which) => {
        const value = wanted[operator]![which]!;
        if (Math.abs(costs.sensitivity - value) > 1e-6 * value)
          t.fail(`${index}, ${operator}, ${which}: ${costs.sensitivity}, not ${value}`);
      });
    });
    t.match(
      corrected.operators.map(({ choices }) => choices.map(({ costs }) => costs.latency)),
      problem.operators.map(({ choices }) => choices.map(({ costs }) => costs.latency)),
    );
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
      const corrected = correctedBy(problem, observations);
      const next = await allocate(corrected, 'sensitivity', { latency }, solver, limits, never);
      if (next.status === 'infeasible') break;
      t.notOk(
        excluded.some((other) => other.join() === next.assignment.join()),
        'no plan is found twice',
      );
      observations.push({ assignment: next.assignment, divergence: real(next.assignment) });
    }
    regret.estimated += Math.log(observations[0]!.divergence / best) / 25;
    regret.corrected += Math.log(Math.min(...observations.map(({ divergence }) => divergence)) / best) / 25;
  }
  t.comment(`mean log of what is lost: ${JSON.stringify(regret)}`);
  t.ok(regret.corrected < regret.estimated / 2 + 1e-9);
});
