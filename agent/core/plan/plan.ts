/** Plans: an assignment of precisions with what the tables say about it, and its document form. */
import type { Precision } from '../../../configs/contracts/plan.js';
import type { Operator } from '../onnx/model.js';
import { parsePrecision } from '../precision.js';
import type { PreparedModel } from '../prepare.js';
import { type Assignment, evaluate, type PlanCosts, type Problem } from './problem.js';

/** A precision for every operator, and what that costs. */
export interface Plan {
  /** What the assignment refers to. */
  readonly problem: Problem;
  readonly assignment: Assignment;
  /** As its problem has them: predicted from the tables, or from what was learnt since. */
  readonly costs: PlanCosts;
}

/** The plan of an assignment, with its costs as `evaluate` counts them. */
export function planOf(problem: Problem, assignment: Assignment): Plan {
  return { problem, assignment, costs: evaluate(problem, assignment) };
}

/** The plan in which every operator that can has the given precision, and the others are float. */
export function uniformPlan(problem: Problem, precision: string): Plan {
  const assignment = problem.operators.map((operator) => {
    const wanted = operator.choices.findIndex((choice) => choice.precision === precision);
    return wanted >= 0
      ? wanted
      : Math.max(
          0,
          operator.choices.findIndex((choice) => choice.precision === 'float'),
        );
  });
  return planOf(problem, assignment);
}

/** A plan in the choices of another problem of the same operators; null where that lacks one of its precisions. */
export function sameIn(problem: Problem, plan: Plan): Plan | null {
  return planWith(problem, planKey(plan));
}

/** A problem with only some of the choices; an operator that has none of them keeps float, or the widest where it has no float. */
export function restrict(problem: Problem, precisions: readonly string[] | null): Problem {
  if (precisions === null) return problem;
  const operators = problem.operators.map((operator) => {
    const wanted = operator.choices.filter((choice) => precisions.includes(choice.precision));
    const float = operator.choices.filter((choice) => choice.precision === 'float');
    const choices = wanted.length > 0 ? wanted : float.length > 0 ? float : operator.choices.slice(0, 1);
    return { ...operator, choices };
  });
  return { ...problem, operators };
}

/** Precision of every operator, by operator name. */
export function precisionsOf({ problem, assignment }: Plan): Map<string, Precision> {
  return new Map(
    problem.operators.map((operator, index) => [
      operator.name,
      parsePrecision(operator.choices[assignment[index]!]!.precision),
    ]),
  );
}

/** Equal for plans that give every operator the same precision. */
export function planKey({ problem, assignment }: Plan): string {
  return problem.operators.map((operator, index) => operator.choices[assignment[index]!]!.precision).join(',');
}

/** The plan of a key; null where it is none of this problem's. */
export function planWith(problem: Problem, key: string): Plan | null {
  const precisions = key.split(',');
  const assignment = problem.operators.map(({ choices }, index) =>
    choices.findIndex(({ precision }) => precision === precisions[index]),
  );
  return precisions.length !== assignment.length || assignment.includes(-1) ? null : planOf(problem, assignment);
}

/** Bits of weights averaged over parameters, and of activations averaged over the values that operators write. */
export function averageBits(
  prepared: PreparedModel,
  precisions: ReadonlyMap<string, Precision>,
): { weights: number; activations: number } {
  const weighted = weightedMean(prepared.operators, (operator) => [
    weightCount(operator),
    precisions.get(operator.name)?.weightBits ?? 32,
  ]);
  const activations = weightedMean(prepared.operators, (operator) => [
    operator.outputs.reduce((sum, name) => sum + (prepared.shapes.get(name) ?? []).reduce((a, b) => a * b, 1), 0),
    precisions.get(operator.name)?.activationBits ?? 32,
  ]);
  return { weights: weighted, activations };
}

function weightCount(operator: Operator): number {
  return operator.weight === null ? 0 : operator.parameters;
}

function weightedMean(operators: readonly Operator[], of: (operator: Operator) => readonly [number, number]): number {
  let total = 0;
  let sum = 0;
  for (const operator of operators) {
    const [count, bits] = of(operator);
    total += count;
    sum += count * bits;
  }
  return total > 0 ? sum / total : 32;
}

/** Bits in which each activation tensor is stored: what its writer writes; a graph input is float. */
export function tensorBits(prepared: PreparedModel, precisions: ReadonlyMap<string, Precision>): Map<string, number> {
  const bits = new Map<string, number>();
  for (const operator of prepared.operators) {
    for (const name of operator.outputs) bits.set(name, precisions.get(operator.name)?.activationBits ?? 32);
  }
  return bits;
}
