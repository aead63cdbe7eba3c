/** Units of decision: groups of operators that take the same precision, and which of their options a set of limits leaves. */
import { EdgeError } from '../../../configs/contracts/errors.js';
import type { Assignment, Metric, Problem } from './problem.js';

/** Operators that take the same precision together. */
export interface Unit {
  operators: readonly number[];
  options: readonly Option[];
}

/** One of the precisions that all operators of a unit have, and what it costs. */
export interface Option {
  /** For each operator of the unit, the index of its choice. */
  choices: readonly number[];
  /** Sums over the operators. Energy that is not known is 0 here; callers refuse ceilings on it beforehand. */
  costs: Record<AdditiveMetric, number>;
}

/** The metrics that are sums over operators and conversions. */
export type AdditiveMetric = Exclude<Metric, 'ramBytes'>;
/** A metric and the largest value that its sum may have. */
export type Limit = readonly [metric: AdditiveMetric, ceiling: number];

/** Rounding of sums of a few hundred doubles, relative to their size. */
const rounding = 1e-12;

/**
 * The units of a problem. Operators without ties are units of their own.
 *
 * @throws EdgeError `budget/infeasible` where tied operators share no precision.
 */
export function unitsOf(problem: Problem): Unit[] {
  const leader = problem.operators.map((_, index) => index);
  const find = (index: number): number => (leader[index] === index ? index : find(leader[index]!));
  for (const tie of problem.ties) for (const index of tie) leader[find(index)] = find(tie[0]!);
  const groups = new Map<number, number[]>();
  problem.operators.forEach((_, index) => {
    const group = groups.get(find(index));
    if (group) group.push(index);
    else groups.set(find(index), [index]);
  });
  return [...groups.values()].map((operators) => ({ operators, options: optionsOf(problem, operators) }));
}

/** Whether an assignment gives every operator a choice that it has, and tied operators the same precision. */
export function isAssignment(problem: Problem, assignment: Assignment): boolean {
  return unitsOf(problem).every(({ operators, options }) =>
    options.some(({ choices }) => choices.every((choice, position) => assignment[operators[position]!] === choice)),
  );
}

function optionsOf(problem: Problem, operators: readonly number[]): Option[] {
  const choicesOf = (index: number) => problem.operators[index]!.choices;
  const options: Option[] = [];
  for (const { precision } of choicesOf(operators[0]!)) {
    const choices = operators.map((index) => choicesOf(index).findIndex((choice) => choice.precision === precision));
    if (choices.includes(-1)) continue;
    const each = operators.map((index, position) => choicesOf(index)[choices[position]!]!.costs);
    const sum = (metric: AdditiveMetric) => each.reduce((total, costs) => total + (costs[metric] ?? 0), 0);
    options.push({ choices, costs: additiveCosts(sum) });
  }
  if (options.length === 0) {
    const names = operators.map((index) => problem.operators[index]!.name).join(', ');
    throw new EdgeError('budget/infeasible', `Operators that must share a precision have none in common: ${names}`, {
      subject: names,
      hint: 'Allow a precision that all of them support.',
    });
  }
  return options;
}

function additiveCosts(of: (metric: AdditiveMetric) => number): Record<AdditiveMetric, number> {
  return {
    sensitivity: of('sensitivity'),
    latency: of('latency'),
    bytes: of('bytes'),
    energy: of('energy'),
    bitOps: of('bitOps'),
  };
}

/** Removes options until none spends more than what a limit leaves over the minima; null where a limit is below its minima. */
export function prune(problem: Problem, units: Unit[], limits: readonly Limit[]): Unit[] | null {
  for (const [metric, ceiling] of limits) {
    const spare = spareOf(problem, units, metric, ceiling);
    if (spare < 0) return null;
    const kept = units.map((unit) => {
      const minimum = minimumOf(unit, metric);
      const options = unit.options.filter((option) => option.costs[metric] - minimum <= spare);
      return options.length < unit.options.length ? { ...unit, options } : unit;
    });
    if (kept.some((unit, index) => unit !== units[index])) return prune(problem, kept, limits);
  }
  return units;
}

/** What a ceiling leaves to spend above the units' minima, rounding in the caller's favour. */
export function spareOf(problem: Problem, units: readonly Unit[], metric: AdditiveMetric, ceiling: number): number {
  const fixed = metric === 'sensitivity' || metric === 'bitOps' ? 0 : (problem.fixed[metric] ?? 0);
  const minima = units.map((unit) => minimumOf(unit, metric));
  const base = minima.reduce((total, minimum) => total + minimum, fixed);
  const size = minima.reduce((total, minimum) => total + Math.abs(minimum), Math.abs(fixed) + Math.abs(ceiling));
  return ceiling - base + rounding * size;
}

/** The least that any option of a unit costs. */
export function minimumOf(unit: Unit, metric: AdditiveMetric): number {
  return unit.options.reduce((least, option) => Math.min(least, option.costs[metric]), Number.POSITIVE_INFINITY);
}
