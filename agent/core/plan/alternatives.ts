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
const distrust: readonly number[] = [2, 4, 64];

/** Fewer bits than these are narrow. Weights are rounded with regard to what they multiply; activations are not. */
const narrowBelow = { weightBits: 4, activationBits: 8 } as const;

/** How many, and how long the solver may take for each. */
export interface AlternativesOptions {
  most: number;
  timeLimitSeconds: number;
}

/**
 * Up to `most` other assignments that hold the ceilings, all different: the best ones where narrow choices are less trusted, then the
 * next best ones that differ from the given one in a unit or two.
 *
 * @param assignment holds the ceilings, and has the least sensitivity
 * @throws EdgeError as `allocate` does
 */
export async function alternatives(
  problem: Problem,
  assignment: Assignment,
  ceilings: Ceilings,
  solver: LinearSolver,
  options: AlternativesOptions,
  signal: AbortSignal,
): Promise<Assignment[]> {
  const found = new Map<string, Assignment>();
  for (const factor of distrust.slice(0, options.most)) {
    const { timeLimitSeconds } = options;
    const doubted = doubting(problem, factor);
    const solving = { timeLimitSeconds, start: assignment };
    const allocation = await allocate(doubted, 'sensitivity', ceilings, solver, solving, signal);
    // A ceiling on sensitivity is a stricter one there.
    if (allocation.status !== 'infeasible') found.set(allocation.assignment.join(), allocation.assignment);
  }
  found.delete(assignment.join());
  for (const neighbour of neighbours(problem, assignment, ceilings)) {
    if (found.size >= options.most) break;
    found.set(neighbour.join(), neighbour);
  }
  return [...found.values()];
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

/**
 * Assignments that differ in one unit or in two, by rising sensitivity as far as units tell. Conversions between units are not looked at
 * before `evaluate` decides what holds.
 */
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
  const limits = limitsOf(ceilings);
  for (const { moves } of near) {
    const neighbour = [...assignment];
    for (const { operators, option } of moves) {
      operators.forEach((operator, position) => {
        neighbour[operator] = option.choices[position]!;
      });
    }
    const costs = evaluate(problem, neighbour);
    if (Number.isFinite(costs.latency) && exceededBy(costs, limits).length === 0) yield neighbour;
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
