/**
 * From a model that runs patch by patch to the problem of value-driven search: which feature maps have bits to be chosen, what each of them
 * costs over the branches of its class of patches, and when they lie in memory together. And back: from bits of maps to precisions of
 * operators, one set for each class.
 */
import { EdgeError } from '../../../configs/contracts/errors.js';
import type { Bits, Precision } from '../../../configs/contracts/plan.js';
import { activationBits } from '../image/build.js';
import type { LatencyTable } from '../latency.js';
import type { Operator } from '../onnx/model.js';
import { formatPrecision } from '../precision.js';
import type { PreparedModel } from '../prepare.js';
import { readingGroups } from './engine-problem.js';
import { area, branchOf, cutGrid, type Stage } from './patch-geometry.js';
import { momentsOf, type PatchGrid, type PatchMemory, type PatchMoment } from './patches.js';
import type { MapBits, MemoryStep, ValueMap, ValueProblem } from './value-search.js';

/** A stage and its grid. */
export interface PatchCut {
  readonly stage: Stage;
  readonly grid: PatchGrid;
}

/** Precision of every operator with weights, by name. */
export type Precisions = ReadonlyMap<string, Precision>;

/** Precisions for patches without outliers and for those with them. Both have the same weights, and agree on what the stage hands on. */
export interface ClassPrecisions {
  readonly plain: Precisions;
  readonly outlier: Precisions;
}

/** Multiply-accumulates of an operator in branches without outliers (the tail's among them) and in those with. */
export interface ClassMacs {
  readonly plain: number;
  readonly outlier: number;
}

/**
 * What the operators with weights compute, by name: those of the stage once for each patch, halo included.
 *
 * @param outlierShares how often each patch, row by row, is an outlier patch, in [0, 1]
 */
export function classMacs(
  { operators }: Pick<PreparedModel, 'operators'>,
  { stage, grid }: PatchCut,
  outlierShares: readonly number[],
): ReadonlyMap<string, ClassMacs> {
  const macs = new Map<string, { plain: number; outlier: number }>();
  for (const { name, weight, macs: plain } of operators.slice(stage.split))
    if (weight !== null) macs.set(name, { plain, outlier: 0 });
  const regions = cutGrid(stage.tensors[stage.output]!, grid.rows, grid.columns);
  for (const [patch, region] of regions.entries()) {
    const { steps } = branchOf(stage, region, 'clipped');
    for (const [index, { operator, macsPerPosition }] of stage.operators.entries()) {
      if (operator.weight === null) continue;
      const sum = macs.get(operator.name) ?? { plain: 0, outlier: 0 };
      const all = macsPerPosition * area(steps[index]!.computes);
      const outlier = all * outlierShares[patch]!;
      macs.set(operator.name, { plain: sum.plain + all - outlier, outlier: sum.outlier + outlier });
    }
  }
  return macs;
}

/** Bit operations: multiply-accumulates times bits of the weight times bits of the activation. */
export interface BitOperations {
  readonly stage: number;
  readonly network: number;
}

/** Bit operations of a model in patches; `countsWeights` false: as if weights had 8 bits, which is how the paper counts. */
export function bitOperations(
  macs: ReadonlyMap<string, ClassMacs>,
  { stage }: Pick<PatchCut, 'stage'>,
  { plain, outlier }: ClassPrecisions,
  countsWeights: boolean,
): BitOperations {
  const isInStage = new Set(stage.operators.map(({ operator }) => operator.name));
  const sums = { stage: 0, network: 0 };
  for (const [name, count] of macs) {
    const weightBits = countsWeights ? plain.get(name)!.weightBits : 8;
    const bits =
      weightBits * (count.plain * plain.get(name)!.activationBits + count.outlier * outlier.get(name)!.activationBits);
    sums.network += bits;
    if (isInStage.has(name)) sums.stage += bits;
  }
  return sums;
}

/** What a search is to know, and how it is to count. */
export interface ValueProblemOptions {
  /** Bits that maps may have, the most first. The model's input keeps the most. */
  readonly candidates: readonly Bits[];
  /** Of an operator; not chosen here. */
  readonly weightBits: (operator: string) => Bits;
  /** What one whole run of an operator costs, reading its input at so many bits: bit operations, or measured time. */
  readonly costOf: (operator: Operator, activationBits: Bits) => number;
  /** What is lost where a tensor has so many bits. */
  readonly lossOf: (tensor: string, bits: Bits) => number;
  /** How often each patch is an outlier patch; null: there is no such class, all branches are alike. */
  readonly outlierShares: readonly number[] | null;
  readonly memory: Omit<PatchMemory, 'bitsOf'>;
  readonly ceilingBytes: number;
}

/** The paper's measure of computation: multiply-accumulates times bits of the weight times bits of the activation. */
export function bitOperationCost(weightBits: (operator: string) => Bits): ValueProblemOptions['costOf'] {
  return ({ name, macs }, activationBits) => macs * weightBits(name) * activationBits;
}

/**
 * What a table measured, in its counter. Bits of which nothing was measured cost what the next more cost: kernels treat them alike, or a search
 * would prefer them for what nobody knows. Fails with `artifact/invalid` where an operator was not measured at 8 bits either.
 */
export function measuredCost(
  table: LatencyTable,
  weightBits: (operator: string) => Bits,
): ValueProblemOptions['costOf'] {
  return ({ name, key }, activationBits) => {
    for (let bits = activationBits as number; bits <= 8; bits++) {
      const row = table.get(key, formatPrecision({ weightBits: weightBits(name), activationBits: bits as Bits }));
      if (row !== undefined) return row.median;
    }
    throw new EdgeError('artifact/invalid', `the latency table has no row for ${name}`, {
      subject: name,
      hint: 'Profile the model on this target first.',
    });
  };
}

/** The problem, and what its answers mean. */
export interface PatchValueProblem {
  readonly problem: ValueProblem;
  precisionsOf(bits: MapBits): ClassPrecisions;
  /** The most bytes that live activations take, packed without gaps, in branches of both classes and in the tail. */
  peakBytes(bits: MapBits): number;
}

/**
 * The maps are what operators with weights read, each together with what leaves its codes as they are (`readingGroups`). All else, such as what
 * only an addition reads, has 8 bits: nothing would compute faster for fewer.
 *
 * @throws as `costPatches`
 */
export function buildValueProblem(
  prepared: PreparedModel,
  cut: PatchCut,
  options: ValueProblemOptions,
): PatchValueProblem {
  const { operators } = prepared;
  const [most] = options.candidates;
  if (most !== 8) throw new RangeError('the most bits that a map may have are 8');
  const groups = readingGroups(operators).all;
  const isInStage = (index: number) => index < cut.stage.split;
  /** Where a map is read behind the stage as well, it is what the stage hands on: of one form for all patches. */
  const isShared = groups.map(({ readers }) => !readers.every(isInStage));
  const chosen = (bits: MapBits, isOutlier: boolean): Precisions =>
    new Map(
      groups.flatMap(({ readers }, map) =>
        readers.map((reader) => {
          const { name } = operators[reader]!;
          const activationBits = (isOutlier && !isShared[map] ? 8 : bits[map]!) as Bits;
          return [name, { weightBits: options.weightBits(name), activationBits }] as const;
        }),
      ),
    );
  const eight = groups.map(() => 8);
  const followers = groups.map((_, map) => {
    const bits = activationBits(prepared, chosen(eight.with(map, 2), false));
    return [...bits].filter(([, width]) => width === 2).map(([tensor]) => tensor);
  });
  const mapOf = new Map(followers.flatMap((tensors, map) => tensors.map((tensor) => [tensor, map] as const)));
  const patches = cut.grid.rows * cut.grid.columns;
  const macs = classMacs(prepared, cut, options.outlierShares ?? new Array<number>(patches).fill(0));
  const maps = groups.map(({ readers, tensors }, map): ValueMap => {
    const [name] = tensors as [string];
    const isFixed = name === prepared.card.input.name || followers[map]!.length === 0;
    return {
      name,
      candidates: isFixed ? [8] : options.candidates,
      computation: (bits) =>
        readers.reduce((sum, reader) => {
          const operator = operators[reader]!;
          const { plain, outlier } = macs.get(operator.name)!;
          const executed = isShared[map] ? plain + outlier : plain;
          const share = operator.macs === 0 ? 1 : executed / operator.macs;
          return sum + share * options.costOf(operator, bits as Bits);
        }, 0),
      loss: (bits) => tensors.reduce((sum, tensor) => sum + options.lossOf(tensor, bits as Bits), 0),
    };
  });
  const moments = momentsOf(prepared, cut, options.memory);
  const steps = moments.flatMap((moment) => [
    stepOf(moment, (tensor) => mapOf.get(tensor)),
    ...(moment.isInStage && options.outlierShares !== null
      ? [stepOf(moment, (tensor) => (isShared[mapOf.get(tensor) ?? -1] ? mapOf.get(tensor) : undefined))]
      : []),
  ]);
  return {
    problem: { maps, steps, ceilingBytes: options.ceilingBytes },
    precisionsOf: (bits) => ({ plain: chosen(bits, false), outlier: chosen(bits, true) }),
    peakBytes: (bits) =>
      steps.reduce((peak, step) => Math.max(peak, step.bytes(step.maps.map((map) => bits[map]!))), 0),
  };
}

/** @param mapOf the map whose bits a tensor has; undefined: it has 8 */
function stepOf({ tensors, bytes }: PatchMoment, mapOf: (tensor: string) => number | undefined): MemoryStep {
  const maps = [...new Set(tensors.flatMap((tensor) => mapOf(tensor) ?? []))];
  return {
    maps,
    bytes: (bits) =>
      bytes((tensor) => {
        const map = mapOf(tensor);
        return map === undefined ? 8 : bits[maps.indexOf(map)]!;
      }),
  };
}
