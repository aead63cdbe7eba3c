/**
 * Costs corrected by plans that were run. What plans diverge by, or take, is taken as a sum over operators, as the programme has it, of
 * which the tables are a first opinion: off by a factor that all choices share, by one that the choices at one precision share (few
 * bits are where errors stop adding up), and by one of each choice. What is most probable then, given the runs, is a problem of least
 * squares with as many unknowns as runs (Gaussian process regression with a linear kernel; Rasmussen and Williams 2006, equation 2.25).
 */
import { median } from '../statistics.js';
import { type Assignment, evaluate, type Problem } from './problem.js';

/** A plan that was run, and what was found: how far from float it is, or how long it took. */
export interface Observation {
  readonly assignment: Assignment;
  readonly value: number;
}

/**
 * Standard deviations: of estimates, as shares of them, together at one precision and each by itself; of what is measured, of itself.
 * Latencies: those with which plans of five models predicted each other best, to 0.8 to 2.5 % instead of 0.8 to 2.8 %.
 */
const deviations = {
  sensitivity: { precision: 0.7, choice: 0.7, measured: 0.1 },
  latency: { precision: 0.05, choice: 0.1, measured: 0.01 },
} as const;
/** No choice is ever taken to cost less than this share of its estimate. */
const leastShare = 0.02;

/**
 * The same problem with one cost in the unit of what was measured: the values that explain it best. As it is, where nothing was.
 *
 * @param observations of assignments of this problem, or of one with the same choices
 */
export function correctedBy(
  problem: Problem,
  cost: keyof typeof deviations,
  observations: readonly Observation[],
): Problem {
  const deviation = deviations[cost];
  const estimates = observations.map(({ assignment }) => evaluate(problem, assignment)[cost]);
  const ratios = observations.flatMap(({ value }, index) => (estimates[index]! > 0 ? [value / estimates[index]!] : []));
  const scale = ratios.length === 0 ? 0 : median(ratios);
  if (!(scale > 0)) return problem;
  const chosen = observations.map(({ assignment }) => new ChosenCosts(problem, cost, assignment, scale));
  const covariance = chosen.map((one, row) =>
    chosen.map((other, column) => {
      const noise = row === column ? (deviation.measured * observations[row]!.value) ** 2 + 1e-300 : 0;
      return one.covarianceWith(other, deviation) + noise;
    }),
  );
  const residuals = observations.map(({ value }, index) => value - scale * estimates[index]!);
  const weights = solve(covariance, residuals);
  const operators = problem.operators.map((operator, index) => ({
    ...operator,
    choices: operator.choices.map((choice, which) => {
      const estimate = scale * choice.costs[cost];
      let change = 0;
      for (const [run, { assignment }] of observations.entries()) {
        change += weights[run]! * deviation.precision ** 2 * chosen[run]!.at(choice.precision) * estimate;
        if (assignment[index] === which) change += weights[run]! * (deviation.choice * estimate) ** 2;
      }
      return { ...choice, costs: { ...choice.costs, [cost]: Math.max(leastShare * estimate, estimate + change) } };
    }),
  }));
  const edges = problem.edges.map((edge) => ({
    ...edge,
    conversions: edge.conversions.map((one) => ({ ...one, [cost]: scale * one[cost] })),
  }));
  const fixed = cost === 'latency' ? { ...problem.fixed, latency: scale * problem.fixed.latency } : problem.fixed;
  return { ...problem, operators, edges, fixed };
}

/** Estimates of what one plan's choices cost, and their sums by precision. */
class ChosenCosts {
  readonly #assignment: Assignment;
  readonly #estimates: readonly number[];
  readonly #sums = new Map<string, number>();

  constructor({ operators }: Problem, cost: keyof typeof deviations, assignment: Assignment, scale: number) {
    this.#assignment = assignment;
    const choices = operators.map((operator, index) => operator.choices[assignment[index]!]!);
    this.#estimates = choices.map(({ costs }) => scale * costs[cost]);
    choices.forEach(({ precision }, index) => {
      this.#sums.set(precision, this.at(precision) + this.#estimates[index]!);
    });
  }

  /** Sum of the choices at a precision. */
  at(precision: string): number {
    return this.#sums.get(precision) ?? 0;
  }

  /** Covariance of what the two plans cost, as far as they are known to. */
  covarianceWith(other: ChosenCosts, deviation: { readonly precision: number; readonly choice: number }): number {
    let shared = 0;
    for (const [precision, sum] of this.#sums) shared += sum * other.at(precision);
    let own = 0;
    this.#estimates.forEach((estimate, index) => {
      if (this.#assignment[index] === other.#assignment[index]) own += estimate ** 2;
    });
    return deviation.precision ** 2 * shared + deviation.choice ** 2 * own;
  }
}

/** x of A x = b for a symmetric positive definite A, by Cholesky's decomposition. */
function solve(matrix: readonly (readonly number[])[], right: readonly number[]): number[] {
  const lower: number[][] = [];
  matrix.forEach((row, i) => {
    lower.push([]);
    for (let j = 0; j <= i; j++) {
      let sum = row[j]!;
      for (let k = 0; k < j; k++) sum -= lower[i]![k]! * lower[j]![k]!;
      // The noise on the diagonal keeps it above zero, but for rounding.
      lower[i]!.push(i === j ? Math.sqrt(Math.max(sum, 1e-12 * row[i]!)) : sum / lower[j]![j]!);
    }
  });
  const between = [...right];
  for (let i = 0; i < right.length; i++) {
    for (let k = 0; k < i; k++) between[i]! -= lower[i]![k]! * between[k]!;
    between[i]! /= lower[i]![i]!;
  }
  for (let i = right.length - 1; i >= 0; i--) {
    for (let k = i + 1; k < right.length; k++) between[i]! -= lower[k]![i]! * between[k]!;
    between[i]! /= lower[i]![i]!;
  }
  return between;
}
