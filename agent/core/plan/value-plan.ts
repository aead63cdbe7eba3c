/**
 * One plan for activations and weights of a model in patches: bits of feature maps by value-driven search, and for each of its choices
 * bits of weights by the integer programme, from the estimated sensitivities and under what a ceiling on bit operations leaves, or as few
 * as a target is fastest with.
 */
import type { Bits, Precision } from '../../../configs/contracts/plan.js';
import type { Operator } from '../onnx/model.js';
import type { PreparedModel } from '../prepare.js';
import type { SensitivityTable } from '../sensitivity/table.js';
import { allocate } from './allocate.js';
import { storedWeightBytes, tiedWeights } from './engine-problem.js';
import type { LinearSolver } from './linear-program.js';
import type { Problem } from './problem.js';
import {
  type BitOperations,
  bitOperations,
  type ClassMacs,
  type ClassPrecisions,
  type PatchCut,
  type PatchValueProblem,
  type Precisions,
} from './value-problem.js';
import { type MapBits, type SweptChoice, sweepLambda, type ValueProblem } from './value-search.js';

/** What bounds the weights; bit operations are of the whole network, patches with their halo. */
export interface WeightCeilings {
  readonly bitOps?: number;
  readonly bytes?: number;
}

/** How plans are looked for. */
export interface ValuePlanOptions {
  readonly lambdas: readonly number[];
  readonly search: (problem: ValueProblem, lambda: number) => MapBits | null;
  /** Bits that weights may have. */
  readonly weightCandidates: readonly Bits[];
  readonly ceilings: WeightCeilings;
  /** Weights are to be as fast as a target measured them, and only among equals as accurate as can be; null: as accurate as can be. */
  readonly latencyOf: LatencyOf | null;
}

/** What a whole run of an operator takes at a precision, in a target's counter. */
export type LatencyOf = (operator: Operator, precision: Precision) => number;

/** A plan, and what it is expected to cost and to do. */
export interface ValuePlan {
  readonly choice: SweptChoice;
  readonly precisions: ClassPrecisions;
  readonly bitOperations: BitOperations;
  /** As if weights had 8 bits: the paper's way to count. */
  readonly activationBitOperations: BitOperations;
  /** See `PatchValueProblem`. */
  readonly peakBytes: number;
  readonly weightBytes: number;
  /** Sum of the estimates of the weights. */
  readonly weightSensitivity: number;
  /** Of the operators with weights, patches with their halo, by `latencyOf`; null without. */
  readonly latency: number | null;
}

/** The programme that chooses weights of operators whose activations are chosen. */
export function weightProblem(
  prepared: PreparedModel,
  macs: ReadonlyMap<string, ClassMacs>,
  { plain, outlier }: ClassPrecisions,
  sensitivity: SensitivityTable,
  candidates: readonly Bits[],
  latencyOf: LatencyOf | null,
): Problem {
  const weighted = prepared.operators.filter(({ weight }) => weight !== null);
  const operators = weighted.map((operator) => {
    const { name } = operator;
    const count = macs.get(name)!;
    const { activationBits } = plain.get(name)!;
    const outlierBits = outlier.get(name)!.activationBits;
    const perWeightBit = count.plain * activationBits + count.outlier * outlierBits;
    const latency = (weightBits: Bits) =>
      latencyOf === null || operator.macs === 0
        ? 0
        : (count.plain * latencyOf(operator, { weightBits, activationBits }) +
            count.outlier * latencyOf(operator, { weightBits, activationBits: outlierBits })) /
          operator.macs;
    const choices = candidates.map((weightBits) => ({
      // Operators that share a weight agree on it, not on what they read.
      precision: `W${weightBits}`,
      format: 'u8',
      costs: {
        sensitivity: sensitivity.weight(name, { weightBits, activationBits }),
        latency: latency(weightBits),
        bytes: storedWeightBytes(prepared, operator, weightBits),
        energy: null,
        bitOps: weightBits * perWeightBit,
      },
    }));
    return { name, choices };
  });
  return { operators, edges: [], ties: tiedWeights(weighted), fixed: { latency: 0, bytes: 0, ramBytes: 0 } };
}

/** Plans for all choices that a search makes over a list of lambdas, the least computation first; those that no weights bring under the ceilings are left out. */
export async function planByValue(
  prepared: PreparedModel,
  cut: PatchCut,
  macs: ReadonlyMap<string, ClassMacs>,
  value: PatchValueProblem,
  sensitivity: SensitivityTable,
  options: ValuePlanOptions,
  solver: LinearSolver,
  signal: AbortSignal,
): Promise<ValuePlan[]> {
  const plans: ValuePlan[] = [];
  for (const choice of sweepLambda(value.problem, options.lambdas, options.search)) {
    const chosen = value.precisionsOf(choice.bits);
    const { weightCandidates, latencyOf, ceilings } = options;
    const problem = weightProblem(prepared, macs, chosen, sensitivity, weightCandidates, latencyOf);
    const objective = latencyOf === null ? 'sensitivity' : 'latency';
    const allocation = await allocate(problem, objective, { ...ceilings }, solver, {}, signal);
    if (allocation.status === 'infeasible') continue;
    const weightBits = new Map(
      problem.operators.map(({ name }, index) => [name, weightCandidates[allocation.assignment[index]!]!]),
    );
    const withWeights = (of: Precisions): Precisions =>
      new Map([...of].map(([name, precision]) => [name, { ...precision, weightBits: weightBits.get(name)! }]));
    const precisions = { plain: withWeights(chosen.plain), outlier: withWeights(chosen.outlier) };
    plans.push({
      choice,
      precisions,
      bitOperations: bitOperations(macs, cut, precisions, true),
      activationBitOperations: bitOperations(macs, cut, precisions, false),
      peakBytes: value.peakBytes(choice.bits),
      weightBytes: allocation.costs.bytes,
      weightSensitivity: allocation.costs.sensitivity,
      latency: latencyOf === null ? null : allocation.costs.latency,
    });
  }
  return plans;
}
