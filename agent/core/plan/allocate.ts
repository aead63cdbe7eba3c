/** Chooses a precision for every operator: the best value of one metric under ceilings on the others. */
import { EdgeError } from '../../../configs/contracts/errors.js';
import type { LinearSolver } from './linear-program.js';
import {
  type Assignment,
  type Edge,
  evaluate,
  type Metric,
  type PlanCosts,
  type Problem,
  validateProblem,
} from './problem.js';
import { type AllocateOptions, type Ceilings, limitsOf, Search, type Shortfall } from './search.js';
import { unitsOf } from './units.js';

export type { AllocateOptions, Ceilings, Shortfall };

/** An assignment that meets the ceilings. */
export interface Allocated {
  /** `optimal`: proven within the relative gap. `feasible`: the best found in time. */
  status: 'optimal' | 'feasible';
  assignment: Assignment;
  /** `evaluate(problem, assignment)`; never above a ceiling. */
  costs: PlanCosts;
  /** `(value - proven bound) / |value|` of the objective. */
  gap: number;
  /** Time spent in the solver. */
  seconds: number;
  /** Ceilings that keep some operator (or group of tied operators) from a choice with a better objective. */
  binding: Metric[];
}

/** No assignment meets the ceilings. Lists those that cannot be met alone; if each can, all, with what the others leave. */
export interface Infeasible {
  status: 'infeasible';
  infeasible: Shortfall[];
  seconds: number;
}

/** An answer either way: that nothing meets the ceilings is a result, not an error. */
export type Allocation = Allocated | Infeasible;

/**
 * Minimises `objective` under the ceilings; among solutions of equal value, the one with the least latency (or the least
 * sensitivity, where latency is the objective).
 *
 * @throws EdgeError `budget/invalid` for a ceiling on energy where energy is not known, `budget/infeasible` where tied operators
 *   share no precision, `solver/failed` when the time limit passes before any solution is found, `job/aborted` on the signal;
 *   TypeError for a malformed problem.
 */
export async function allocate(
  problem: Problem,
  objective: Metric,
  ceilings: Ceilings,
  solver: LinearSolver,
  options: AllocateOptions,
  signal: AbortSignal,
): Promise<Allocation> {
  validateProblem(problem);
  if (objective === 'energy' || ceilings.energy !== undefined) requireEnergy(problem);
  const search = new Search(problem, solver, options, signal);
  const best = await search.best(objective, ceilings, options.start);
  if (best === 'infeasible') {
    return { status: best, infeasible: await search.shortfalls(ceilings), seconds: search.seconds };
  }
  const { status, assignment, costs, gap } = best;
  const binding = bindingCeilings(problem, objective, ceilings, assignment);
  return { status, assignment, costs, gap, seconds: search.seconds, binding };
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

/** Ceilings that a better choice for a single unit would exceed. */
function bindingCeilings(problem: Problem, objective: Metric, ceilings: Ceilings, assignment: Assignment): Metric[] {
  const limits = limitsOf(ceilings);
  const binding = new Set<Metric>();
  const base = evaluate(problem, assignment);
  const isLocal = objective !== 'ramBytes' && ceilings.ramBytes === undefined;
  for (const { operators, options } of unitsOf(problem)) {
    // Sums change only by what touches the unit, and large problems have many neighbours. A peak has to be found anew.
    const near = isLocal ? { ...problem, edges: edgesOf(problem, operators) } : problem;
    const before = evaluate(near, assignment);
    for (const { choices } of options) {
      const neighbour = [...assignment];
      operators.forEach((operator, position) => {
        neighbour[operator] = choices[position]!;
      });
      const after = evaluate(near, neighbour);
      if (!(after[objective]! < before[objective]!)) continue;
      for (const [metric, ceiling] of limits) {
        if (base[metric]! + (after[metric]! - before[metric]!) > ceiling) binding.add(metric);
      }
    }
    if (binding.size === limits.length) break;
  }
  return limits.map(([metric]) => metric).filter((metric) => binding.has(metric));
}

function edgesOf({ edges }: Problem, operators: readonly number[]): Edge[] {
  return edges.filter(({ producer, consumers }) =>
    operators.some((operator) => operator === producer || consumers.includes(operator)),
  );
}

/** @throws EdgeError `budget/invalid` naming the first part of the problem whose energy is not known. */
export function requireEnergy(problem: Problem): void {
  const fail = (subject: string) => {
    throw new EdgeError(
      'budget/invalid',
      `Energy is limited, but the energy of ${subject} is not known on this target`,
      {
        subject,
        hint: 'Leave energy out of the budget, or measure on a target that can measure energy.',
      },
    );
  };
  for (const { name, choices } of problem.operators) {
    for (const { precision, costs } of choices) if (costs.energy === null) fail(`${name} at ${precision}`);
  }
  for (const { tensor, conversions } of problem.edges) {
    for (const { from, to, energy } of conversions) {
      if (energy === null) fail(`converting ${tensor} from ${from} to ${to}`);
    }
  }
  if (problem.fixed.energy === null) fail('what every run costs on top of its operators');
}
