/** Chooses a precision for every operator: the best value of one metric under ceilings on the others. */
import type { LinearSolver } from './linear-program.js';
import type { Assignment, Metric, PlanCosts, Problem } from './problem.js';

/** Largest allowed value by metric, in the metric's unit. */
export type Ceilings = Partial<Record<Metric, number>>;

export interface AllocateOptions {
  /** For all solves together; 30 when absent. */
  timeLimitSeconds?: number;
  /** Relative distance to the proven optimum that is good enough; 1e-6 when absent. */
  relativeGap?: number;
}

/** A ceiling that cannot be met. */
export interface Shortfall {
  metric: Metric;
  ceiling: number;
  /**
   * Smallest value of the metric: over all assignments if `alone`, else over those that meet the other ceilings. null where no
   * assignment meets the other ceilings either, or where it could not be found in time.
   */
  minimum: number | null;
  /** The ceiling cannot be met even without the others. */
  alone: boolean;
}

export type Allocation =
  | {
      /** `optimal`: proven within the relative gap. `feasible`: the best found in time. */
      status: 'optimal' | 'feasible';
      assignment: Assignment;
      /** `evaluate(problem, assignment)`; never above a ceiling. */
      costs: PlanCosts;
      /** `(value - proven bound) / |value|` of the objective. */
      gap: number;
      seconds: number;
      /** Ceilings that keep some single operator from a choice with a better objective. */
      binding: Metric[];
    }
  | { status: 'infeasible'; infeasible: Shortfall[]; seconds: number };

/**
 * Minimises `objective` under the ceilings; among solutions of equal value, the one with the least latency (or the least
 * sensitivity, where latency is the objective).
 *
 * @throws EdgeError `budget/invalid` for a ceiling on energy where energy is not known, `solver/failed` when the time limit passes
 *   before any solution is found, `job/aborted` on the signal; TypeError for a malformed problem.
 */
export async function allocate(
  problem: Problem,
  objective: Metric,
  ceilings: Ceilings,
  solver: LinearSolver,
  options: AllocateOptions,
  signal: AbortSignal,
): Promise<Allocation> {
  throw new Error(`not yet: ${problem} ${objective} ${ceilings} ${solver} ${options} ${signal}`);
}

/** The assignment of least latency; among those, of least sensitivity. */
export function fastest(
  problem: Problem,
  solver: LinearSolver,
  options: AllocateOptions,
  signal: AbortSignal,
): Promise<Allocation> {
  return allocate(problem, 'latency', {}, solver, options, signal);
}

/** The assignment of least sensitivity; among those, of least latency. */
export function mostAccurate(
  problem: Problem,
  solver: LinearSolver,
  options: AllocateOptions,
  signal: AbortSignal,
): Promise<Allocation> {
  return allocate(problem, 'sensitivity', {}, solver, options, signal);
}
