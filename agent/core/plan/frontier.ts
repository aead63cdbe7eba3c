/** The Pareto set of plans: from the fastest to the most accurate. */
import { requireEnergy } from './allocate.js';
import type { LinearSolver } from './linear-program.js';
import { type Assignment, type PlanCosts, type Problem, validateProblem } from './problem.js';
import { type Ceilings, Search } from './search.js';

/** A plan that no other plan beats in both latency and sensitivity. */
export interface FrontierPoint {
  assignment: Assignment;
  costs: PlanCosts;
}

/** How many points, under which ceilings, in what time. */
export interface FrontierOptions {
  /** How many points are wanted, both ends included and so at least 2; there may be fewer. 8 when absent. */
  points?: number;
  /** Ceilings that every point keeps. */
  ceilings?: Ceilings;
  /** For the whole frontier; 10 when absent. Points that are not proven best by then are the best that was found. */
  timeLimitSeconds?: number;
  /** How far points between the two ends may be from the best of their kind, as for `allocate`; the ends always are the best. */
  relativeGap?: number;
}

/**
 * The fastest plan, the most accurate plan, and between them the most accurate ones at evenly spaced ceilings on latency. Sorted by
 * latency, none dominated by another; empty where no plan meets the ceilings. Fails as `allocate` does.
 */
export async function frontier(
  problem: Problem,
  solver: LinearSolver,
  options: FrontierOptions,
  signal: AbortSignal,
): Promise<FrontierPoint[]> {
  const { points = 8, ceilings = {}, timeLimitSeconds = 10, relativeGap } = options;
  if (!Number.isInteger(points) || points < 2) throw new RangeError(`a frontier has at least 2 points, not ${points}`);
  validateProblem(problem);
  if (ceilings.energy !== undefined) requireEnergy(problem);
  const search = new Search(problem, solver, { timeLimitSeconds }, signal);
  const fastest = await search.best('latency', ceilings);
  if (fastest === 'infeasible') return [];
  const mostAccurate = await search.best('sensitivity', ceilings, fastest.assignment);
  const found: FrontierPoint[] = mostAccurate === 'infeasible' ? [fastest] : [fastest, mostAccurate];
  const begin = fastest.costs.latency;
  const step = (found.at(-1)!.costs.latency - begin) / (points - 1);
  let last: FrontierPoint = fastest;
  let seconds = search.seconds;
  for (let index = 1; index < points - 1 && step > 0; index++) {
    // Each point may take its share of what is left: one that is hard to prove must not cost the others.
    const share = (timeLimitSeconds - seconds) / (points - 1 - index);
    if (share <= 0) break;
    const between = new Search(problem, solver, { timeLimitSeconds: share, relativeGap }, signal);
    const point = await between.best('sensitivity', { ...ceilings, latency: begin + index * step }, last.assignment);
    seconds += between.seconds;
    if (point === 'infeasible') continue;
    found.push(point);
    last = point;
  }
  return undominated(found);
}

function undominated(points: readonly FrontierPoint[]): FrontierPoint[] {
  const sorted = [...points].sort(
    (a, b) => a.costs.latency - b.costs.latency || a.costs.sensitivity - b.costs.sensitivity,
  );
  const kept: FrontierPoint[] = [];
  for (const { assignment, costs } of sorted) {
    const isBetter = kept.length === 0 || costs.sensitivity < kept.at(-1)!.costs.sensitivity;
    if (isBetter) kept.push({ assignment, costs });
  }
  return kept;
}
