/** The Pareto set of plans: from the fastest to the most accurate. */
import type { Ceilings } from './allocate.js';
import type { LinearSolver } from './linear-program.js';
import type { Assignment, PlanCosts, Problem } from './problem.js';

export interface FrontierPoint {
  assignment: Assignment;
  costs: PlanCosts;
}

export interface FrontierOptions {
  /** How many points are wanted, both ends included; there may be fewer. 8 when absent. */
  points?: number;
  /** Ceilings that every point keeps. */
  ceilings?: Ceilings;
  /** For the whole frontier; 10 when absent. */
  timeLimitSeconds?: number;
}

/** Points sorted by latency, none dominated by another; empty where no plan meets the ceilings. Fails as `allocate` does. */
export async function frontier(
  problem: Problem,
  solver: LinearSolver,
  options: FrontierOptions,
  signal: AbortSignal,
): Promise<FrontierPoint[]> {
  throw new Error(`not yet: ${problem} ${solver} ${options} ${signal}`);
}
