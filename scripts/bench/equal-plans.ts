/**
 * Random plans that cost the same, to judge predictions by: where plans differ in their average bits, counting bits ranks them well
 * enough, and nothing is learnt about an estimator (the protocol of EMQ, arXiv 2307.10554).
 */
import { enginePrecisions } from '../../agent/core/image/precisions.js';
import { readingGroups, tiesOf } from '../../agent/core/plan/engine-problem.js';
import { formatPrecision } from '../../agent/core/precision.js';
import type { PreparedModel } from '../../agent/core/prepare.js';
import { xorshift32 } from '../../agent/core/random.js';
import type { Precision } from '../../configs/contracts/plan.js';

/** Bits of a plan: of weights averaged over parameters, of the tensors that weighted operators read averaged over elements. */
export interface AverageBits {
  readonly weights: number;
  readonly activations: number;
}

/** Precision by operator name, for every operator with weights. */
export type PlanPrecisions = ReadonlyMap<string, Precision>;

/**
 * What plans are drawn from: every pair that the engine's candidates have with 4 bits or more. With 2 bits in them most models are no
 * better than chance, and what is broken cannot be ranked.
 */
const leastBits = 4;

/** Largest relative difference of either average from the common one. */
export const averageTolerance = 0.02;

const repairs = 300;
const attempts = 20_000;

/** Operators that a plan gives one precision, because they read one tensor or share a weight; and what depends on it. */
interface Unit {
  readonly operators: readonly string[];
  readonly choices: readonly Precision[];
  readonly parameters: number;
  readonly elements: number;
}

/**
 * Draws up to `count` different plans of equal average bits: uniformly by unit, then changed at random places, never away from the
 * average, until both averages are within the tolerance. The common average is that of uniform draws.
 *
 * @returns fewer plans where the model has too few operators for so many
 */
export function drawEqualPlans(
  prepared: PreparedModel,
  count: number,
  seed: number,
): { plans: PlanPrecisions[]; average: AverageBits } {
  const units = unitsOf(prepared);
  const average = mean(
    units,
    (unit, kind) => unit.choices.reduce((sum, choice) => sum + choice[kind], 0) / unit.choices.length,
  );
  const random = xorshift32(seed);
  const pick = (unit: Unit) => unit.choices[Math.floor(random() * unit.choices.length)]!;
  const distance = (chosen: readonly Precision[]) => {
    const own = mean(units, (_, kind, at) => chosen[at]![kind]);
    return Math.max(Math.abs(own.weights / average.weights - 1), Math.abs(own.activations / average.activations - 1));
  };
  const plans = new Map<string, PlanPrecisions>();
  for (let attempt = 0; attempt < attempts && plans.size < count && units.length > 0; attempt++) {
    let chosen = units.map(pick);
    for (let repair = 0; repair < repairs && distance(chosen) > averageTolerance; repair++) {
      const at = Math.floor(random() * units.length);
      const changed = chosen.with(at, pick(units[at]!));
      if (distance(changed) <= distance(chosen)) chosen = changed;
    }
    if (distance(chosen) > averageTolerance) continue;
    const entries = units.flatMap(({ operators }, at) => operators.map((name) => [name, chosen[at]!] as const));
    plans.set(chosen.map(formatPrecision).join(), new Map(entries));
  }
  return { plans: [...plans.values()], average };
}

/** The average bits of a plan. */
export function averageBitsOf(prepared: PreparedModel, plan: PlanPrecisions): AverageBits {
  return mean(unitsOf(prepared), (unit, kind) => plan.get(unit.operators[0]!)![kind]);
}

function mean(units: readonly Unit[], bitsOf: (unit: Unit, kind: keyof Precision, at: number) => number): AverageBits {
  const over = (kind: keyof Precision, size: 'parameters' | 'elements') => {
    const total = units.reduce((sum, unit) => sum + unit[size], 0);
    return units.reduce((sum, unit, at) => sum + unit[size] * bitsOf(unit, kind, at), 0) / total;
  };
  return { weights: over('weightBits', 'parameters'), activations: over('activationBits', 'elements') };
}

function unitsOf(prepared: PreparedModel): Unit[] {
  const { operators, model, shapes } = prepared;
  const size = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
  const ties = tiesOf(operators);
  const single = operators.flatMap(({ weight }, index) =>
    weight === null || ties.some((tie) => tie.includes(index)) ? [] : [[index]],
  );
  const groups = readingGroups(operators).all;
  return [...ties, ...single].map((indices) => {
    const members = indices.map((index) => operators[index]!);
    const allowed = members.map((operator) => enginePrecisions(prepared, operator).map(formatPrecision));
    const read = groups.filter(({ readers }) => readers.some((reader) => indices.includes(reader)));
    return {
      operators: members.map(({ name }) => name),
      choices: enginePrecisions(prepared, members[0]!).filter((choice) => {
        const name = formatPrecision(choice);
        const isWide = choice.weightBits >= leastBits && choice.activationBits >= leastBits;
        return isWide && allowed.every((names) => names.includes(name));
      }),
      parameters: [...new Set(members.map(({ weight }) => weight!.name))].reduce(
        (sum, name) => sum + size(model.graph.initializers.get(name)!.dims),
        0,
      ),
      elements: read.flatMap(({ tensors }) => tensors).reduce((sum, tensor) => sum + size(shapes.get(tensor)!), 0),
    };
  });
}
