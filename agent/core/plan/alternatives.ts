/**
 * Plans to hold against the one that is best by its estimate, where plans can be run before one of them is chosen: those to learn most
 * from. Estimates are wrong about few bits, where errors are no longer small beside what they meet, and a sum over single ones says too
 * little; `correctedBy` finds out by how much.
 */
import { parsePrecision } from '../precision.js';
import { allocate } from './allocate.js';
import type { LinearSolver } from './linear-program.js';
import { type Plan, uniformPlan } from './plan.js';
import type { Assignment, Problem } from './problem.js';
import type { Ceilings } from './search.js';

/** By how much the sensitivity of narrow choices is raised; by the last, plans do without them wherever they can. */
const doubts: readonly number[] = [2, 4, 64];

/** Fewer bits than these are narrow. Weights are rounded with regard to what they multiply; activations are not. */
const narrowBelow = { weightBits: 4, activationBits: 8 } as const;

/**
 * The other assignments that are best under the ceilings where narrow choices are less trusted; up to three, all different.
 *
 * @param assignment holds the ceilings, and has the least sensitivity
 * @param timeLimitSeconds for each
 * @throws EdgeError as `allocate` does
 */
export async function doubtedOptima(
  problem: Problem,
  assignment: Assignment,
  ceilings: Ceilings,
  solver: LinearSolver,
  timeLimitSeconds: number,
  signal: AbortSignal,
): Promise<Assignment[]> {
  const found = new Map<string, Assignment>();
  for (const factor of doubts) {
    const options = { timeLimitSeconds, start: assignment };
    const allocation = await allocate(doubting(problem, factor), 'sensitivity', ceilings, solver, options, signal);
    // A ceiling on sensitivity is a stricter one there.
    if (allocation.status !== 'infeasible') found.set(allocation.assignment.join(), allocation.assignment);
  }
  found.delete(assignment.join());
  return [...found.values()];
}

/** The plans with one precision wherever an operator can have it, and the first of its choices elsewhere; those that ties allow. */
export function uniformPlans(problem: Problem): Plan[] {
  const names = new Set(problem.operators.flatMap(({ choices }) => choices.map(({ precision }) => precision)));
  const plans = [...names].map((name) => uniformPlan(problem, name));
  const precisionAt = ({ assignment }: Plan, operator: number) =>
    problem.operators[operator]!.choices[assignment[operator]!]!.precision;
  return plans.filter((plan) =>
    problem.ties.every((tie) => tie.every((operator) => precisionAt(plan, operator) === precisionAt(plan, tie[0]!))),
  );
}

function doubting(problem: Problem, factor: number): Problem {
  const operators = problem.operators.map((operator) => ({
    ...operator,
    choices: operator.choices.map((choice) => {
      const { sensitivity } = choice.costs;
      return isNarrow(choice.precision)
        ? { ...choice, costs: { ...choice.costs, sensitivity: sensitivity * factor } }
        : choice;
    }),
  }));
  return { ...problem, operators };
}

function isNarrow(precision: string): boolean {
  const { weightBits, activationBits } = parsePrecision(precision);
  return weightBits < narrowBelow.weightBits || activationBits < narrowBelow.activationBits;
}
