/**
 * Plans to hold against the one that is best by its estimate, where plans can be run before one of them is chosen. Estimates are wrong in
 * two ways: at random, so that the next best plans may be better; and about few bits, where errors are no longer small beside what
 * they meet, and a sum over single ones says too little. The second costs more.
 */
import { parsePrecision } from '../precision.js';
import { allocate } from './allocate.js';
import type { LinearSolver } from './linear-program.js';
import { type Assignment, evaluate, type Problem } from './problem.js';
import { type Ceilings, exceededBy, limitsOf } from './search.js';
import { type Option, unitsOf } from './units.js';

/** By how much the sensitivity of narrow choices is raised; by the last, plans do without them wherever they can. */
const doubts: readonly number[] = [2, 4, 64];

/** The same for plans near another one, which is the best of several doubts and says nothing of which was right. */
const middlingDoubt = 8;

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

/**
 * Up to `most` assignments under the ceilings that differ from a given one in one unit or in two: those of least sensitivity, with narrow
 * choices less trusted. Sums over units say which to look at (all of it, where the problem has no conversions); `evaluate` says what holds.
 */
export function nearestPlans(problem: Problem, assignment: Assignment, ceilings: Ceilings, most: number): Assignment[] {
  const found: Assignment[] = [];
  for (const neighbour of neighbours(doubting(problem, middlingDoubt), assignment, ceilings)) {
    if (found.length >= most) break;
    // A ceiling on sensitivity is for the estimate as it is.
    const costs = evaluate(problem, neighbour);
    if (Number.isFinite(costs.latency) && exceededBy(costs, limitsOf(ceilings)).length === 0) found.push(neighbour);
  }
  return found;
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

/** Another option for a unit, and what that changes. */
interface Change {
  readonly unit: number;
  readonly operators: readonly number[];
  readonly option: Option;
  readonly sensitivity: number;
  readonly latency: number;
}

/** Assignments that differ in one unit or in two and may hold a ceiling on latency, by rising sensitivity as far as units tell. */
function* neighbours(problem: Problem, assignment: Assignment, ceilings: Ceilings): Generator<Assignment> {
  const hasConversions = problem.edges.some(({ conversions }) => conversions.length > 0);
  const ceiling = hasConversions ? Number.POSITIVE_INFINITY : (ceilings.latency ?? Number.POSITIVE_INFINITY);
  // Sums are rounded, in another order than in `evaluate`.
  const room = ceiling * (1 + 1e-12) - evaluate(problem, assignment).latency;
  const near: { moves: readonly Change[]; sensitivity: number }[] = [];
  const changes = changesOf(problem, assignment);
  changes.forEach((one, index) => {
    if (one.latency <= room) near.push({ moves: [one], sensitivity: one.sensitivity });
    for (const other of changes.slice(index + 1)) {
      if (other.unit !== one.unit && one.latency + other.latency <= room)
        near.push({ moves: [one, other], sensitivity: one.sensitivity + other.sensitivity });
    }
  });
  near.sort((a, b) => a.sensitivity - b.sensitivity);
  for (const { moves } of near) {
    const neighbour = [...assignment];
    for (const { operators, option } of moves) {
      operators.forEach((operator, position) => {
        neighbour[operator] = option.choices[position]!;
      });
    }
    yield neighbour;
  }
}

function changesOf(problem: Problem, assignment: Assignment): Change[] {
  return unitsOf(problem).flatMap(({ operators, options }, unit) => {
    const isChosen = ({ choices }: Option) =>
      choices.every((choice, position) => assignment[operators[position]!] === choice);
    const chosen = options.find(isChosen)!;
    return options
      .filter((option) => option !== chosen)
      .map((option) => ({
        unit,
        operators,
        option,
        sensitivity: option.costs.sensitivity - chosen.costs.sensitivity,
        latency: option.costs.latency - chosen.costs.latency,
      }));
  });
}
