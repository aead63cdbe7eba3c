/** From a model and the precision of each operator to an image that the engine executes. */
import type { WeightPacker } from '../../../configs/contracts/packing.js';
import type { Precision } from '../../../configs/contracts/plan.js';
import type { Operator } from '../onnx/model.js';
import { cutStage } from '../plan/patch-geometry.js';
import type { PatchGrid } from '../plan/patches.js';
import type { CodeLimits } from '../plan/value-classes.js';
import type { PreparedModel } from '../prepare.js';
import type { Affine } from '../quant/affine.js';
import { keepsRange } from '../quant/qdq.js';
import * as arithmetic from './arithmetic.js';
import { unaryFunction } from './functions.js';
import * as moves from './moves.js';
import { buildProduct, type RoundedProduct } from './products.js';
import type { StageCut } from './stage.js';
import { plainOrder } from './storage.js';
import { unsupported } from './unsupported.js';
import { type ActivationGrids, count, Values } from './values.js';

/** How a model becomes an image. */
export interface ImageOptions {
  /** Range of a tensor at a bit-width. */
  readonly rangeOf: ActivationGrids['rangeOf'];
  /** Weights small enough for sums of two products in 16 bits. */
  readonly pairSafe: boolean;
  /** Correction of a bias for weights of so many bits; null: none. */
  readonly biasCorrection: (operator: Operator, weightBits: number) => Float32Array | null;
  /** Weights and bias of an operator at a precision where they were rounded before; null: each weight is rounded to nearest. */
  readonly roundedOf?: (operator: Operator, precision: Precision) => RoundedProduct | null;
  /** Kernel that an operator is to run with, by name without variant; null: whichever the engine prefers. */
  readonly kernelOf?: (operator: string) => string | null;
  /** The first operators patch by patch; null: everything layer by layer. */
  readonly patches?: ImagePatches | null;
  /** Packs weights for the processor that executes the image; null: it packs them itself. */
  readonly packer?: WeightPacker | null;
  /**
   * Bytes that activations should not take more of: where they would, codes of up to 4 bits lie two in a byte between convolutions, as few as
   * will do. Absent or null: a byte each.
   */
  readonly arenaCeilingBytes?: number | null;
  /** Grid of a tensor that has to have just this one; null: it follows from its range and bits. */
  readonly gridOf?: ActivationGrids['gridOf'];
}

/** How the first operators of a model run patch by patch. */
export interface ImagePatches {
  /** How many operators of the model; see `cutStage`. */
  readonly split: number;
  readonly grid: PatchGrid;
  /** True: the caller brings the input patch by patch. False: all of it lies in RAM while they run. */
  readonly isInputStreamed: boolean;
  /** Patches whose window has codes outside of `low` to `high` run at other precisions; absent or null: all are alike. */
  readonly outliers?: (CodeLimits & { readonly precisions: ReadonlyMap<string, Precision> }) | null;
}

/** An image and what its activations take. */
export interface BuiltImage {
  readonly bytes: Uint8Array;
  readonly arenaBytes: number;
  /** Bytes of the image that are constants of an operator of the model, packed as they are; equal ones of several are counted for each. */
  readonly constantBytes: ReadonlyMap<string, number>;
  /** Grid of a tensor of the model that the image has as codes; null for all others. */
  readonly gridOf: (tensor: string) => Affine | null;
}

/** Precision of an operator that a plan says nothing about. */
const byDefault: Precision = { weightBits: 8, activationBits: 8 };

interface Form {
  /** Nobody reads the result as codes: it may be floats. */
  readonly asFloats: boolean;
}

type Builder = (values: Values, operator: Operator, form: Form) => void;

/** Builders of operators without weights. Whatever is not here may be a function of one value. */
const builders: Readonly<Record<string, Builder>> = {
  Add: arithmetic.buildSum,
  Sub: arithmetic.buildSum,
  Mul: arithmetic.buildMultiply,
  MaxPool: arithmetic.buildMaxPool,
  AveragePool: (values, operator, { asFloats }) => arithmetic.buildMean(values, operator, asFloats),
  GlobalAveragePool: (values, operator, { asFloats }) => arithmetic.buildMean(values, operator, asFloats),
  ReduceMean: (values, operator, { asFloats }) => arithmetic.buildMean(values, operator, asFloats),
  Concat: (values, operator, { asFloats }) => moves.buildConcat(values, operator, asFloats),
  Slice: (values, operator, { asFloats }) => moves.buildSlice(values, operator, asFloats),
  Split: (values, operator, { asFloats }) => moves.buildSplit(values, operator, asFloats),
  Pad: moves.buildPad,
  Resize: moves.buildResize,
  DepthToSpace: moves.buildSpaceDepth,
  SpaceToDepth: moves.buildSpaceDepth,
  Transpose: (values, operator, { asFloats }) => moves.buildTranspose(values, operator, asFloats),
  ...Object.fromEntries(
    ['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Identity', 'Dropout'].map((op): [string, Builder] => [
      op,
      (values, operator, { asFloats }) => moves.buildReshape(values, operator, asFloats),
    ]),
  ),
};

/** Operators that run on floats, at the end of a model; those without a float form of their own only move elements. */
const floatBuilders: Readonly<Record<string, Builder>> = {
  Softmax: arithmetic.buildSoftmax,
  Sigmoid: arithmetic.buildFloatSigmoid,
};
const floatMoves: ReadonlySet<string> = new Set([
  'Concat',
  'Slice',
  'Split',
  'Transpose',
  'Reshape',
  'Flatten',
  'Squeeze',
  'Unsqueeze',
  'Identity',
  'Dropout',
]);

/** Whether the engine has a form for an operator somewhere in the middle of a model. */
export function hasCodesForm({ model }: PreparedModel, operator: Operator): boolean {
  if (operator.weight !== null) return operator.op === 'Conv' || operator.op === 'Gemm' || operator.op === 'MatMul';
  return unaryFunction(operator, model.graph.initializers) !== null || operator.op in builders;
}

/**
 * Operators at the end of a model that run on floats: rounding what leaves the model (scores, boxes) to 8 bits is the costliest
 * rounding there is, and floats come for nothing from the accumulators of the last product.
 */
export function floatTail(prepared: PreparedModel): Set<Operator> {
  const tail = new Set<Operator>();
  for (const operator of [...prepared.operators].reverse()) {
    const isPossible = operator.clamp === null && (operator.op in floatBuilders || floatMoves.has(operator.op));
    if (isPossible && readersOf(prepared, operator).every((reader) => tail.has(reader))) tail.add(operator);
  }
  return tail;
}

function readersOf({ operators }: PreparedModel, operator: Operator): Operator[] {
  return operators.filter((reader) => reader.inputs.some((name) => operator.outputs.includes(name)));
}

/**
 * Bits of every activation tensor: what the operators with weights that read it want, also through operators that leave the codes
 * as they are; 8 where none does. Where readers differ, the most: the planner ties them so that they do not.
 */
export function activationBits(
  prepared: PreparedModel,
  precisions: ReadonlyMap<string, Precision>,
): ReadonlyMap<string, number> {
  const wanted = new Map<string, number>();
  const want = (tensor: string, bits: number) => wanted.set(tensor, Math.max(wanted.get(tensor) ?? 0, bits));
  for (const operator of [...prepared.operators].reverse()) {
    const [input] = operator.inputs;
    if (input === undefined) continue;
    if (operator.weight !== null) want(input, precisions.get(operator.name)?.activationBits ?? 8);
    else if (keepsRange(operator)) want(input, Math.max(...operator.outputs.map((name) => wanted.get(name) ?? 8)));
  }
  return wanted;
}

/**
 * Builds the image. Fails with `model/unsupported` where the engine has no form for an operator, or none patch by patch; throws a RangeError
 * for a split or a grid that the model does not have.
 *
 * @param precisions by operator name; weight bits of products, and bits of the tensor that they read
 */
export function buildImage(
  prepared: PreparedModel,
  precisions: ReadonlyMap<string, Precision>,
  options: ImageOptions,
): BuiltImage {
  const values = new Values(prepared, gridsOf(prepared, precisions, options));
  const tail = floatTail(prepared);
  const { card, model } = prepared;
  const input = card.input.name;
  const inputId = values.writer.input(count(prepared.inputDims));
  const inputDims = prepared.inputDims;
  values.define(input, { id: inputId, dims: inputDims, order: plainOrder(inputDims.length), affine: null });
  const { patches = null, packer = null, arenaCeilingBytes = null } = options;
  // Whether the model can be cut there at all is said in the model's own words.
  const cut = patches === null ? null : cutStage(prepared, patches.split);
  const split = cut?.split ?? 0;
  const build = (operator: Operator, own: ReadonlyMap<string, Precision>) =>
    buildOperator(values, operator, own, tail, options);
  for (const operator of prepared.operators.slice(0, split)) build(operator, precisions);
  const stageOperators = values.writer.operatorCount;
  let outliers: StageCut['outliers'] = null;
  if (cut !== null && patches?.outliers) {
    const { precisions: own, low, high } = patches.outliers;
    const result = cut.tensors[cut.output]!.name;
    const grids = gridsOf(prepared, own, options);
    const { id, affine } = values.codes(result);
    // Both branches end in one grid: what they compute is put together.
    values.useGrids({ ...grids, gridOf: (tensor) => (tensor === result ? affine : grids.gridOf(tensor)) });
    for (const operator of prepared.operators.slice(0, split)) build(operator, own);
    values.useGrids(gridsOf(prepared, precisions, options));
    outliers = { operators: values.writer.operatorCount - stageOperators, plainResult: id, low, high };
  }
  for (const operator of prepared.operators.slice(split)) build(operator, precisions);
  const outputs = model.graph.outputs.map(({ name }) => {
    const plain = values.floats(name);
    // What another operator reads, or what is the model's input, cannot be written for the caller directly.
    const isFree = values.writer.isInArena(plain.id) && !values.writer.isRead(plain.id);
    const floats = isFree ? plain : values.newFloats(plain.dims);
    if (!isFree)
      values.move(plain, floats, { axes: [{ size: count(plain.dims), from: 1, to: 1 }], fromStart: 0, toStart: 0 });
    values.writer.makeOutput(floats.id);
    return { name, dims: plain.dims };
  });
  const stage =
    patches === null
      ? null
      : {
          operators: stageOperators,
          gridRows: patches.grid.rows,
          gridColumns: patches.grid.columns,
          isInputStreamed: patches.isInputStreamed,
          outliers,
        };
  const built = values.writer.finish(
    { inputs: [{ name: input, dims: inputDims }], outputs },
    { stage, packer, arenaCeilingBytes },
  );
  return { ...built, gridOf: (tensor) => values.gridOf(tensor) };
}

function gridsOf(
  prepared: PreparedModel,
  precisions: ReadonlyMap<string, Precision>,
  { rangeOf, gridOf }: ImageOptions,
): ActivationGrids {
  const bits = activationBits(prepared, precisions);
  return { bitsOf: (tensor) => bits.get(tensor) ?? 8, rangeOf, gridOf: gridOf ?? (() => null) };
}

function buildOperator(
  values: Values,
  operator: Operator,
  precisions: ReadonlyMap<string, Precision>,
  tail: ReadonlySet<Operator>,
  options: ImageOptions,
): void {
  const { prepared } = values;
  values.source = operator.name;
  const readers = readersOf(prepared, operator);
  const asFloats = tail.has(operator) || readers.every((reader) => tail.has(reader));
  if (operator.weight === null) {
    const form = { asFloats: tail.has(operator) || (asFloats && isMean(operator)) };
    builderOf(prepared, operator, tail)(values, operator, form);
    return;
  }
  const precision = precisions.get(operator.name) ?? byDefault;
  const rounded = options.roundedOf?.(operator, precision) ?? null;
  buildProduct(values, operator, {
    precision,
    pairSafe: options.pairSafe,
    biasCorrection: rounded === null ? options.biasCorrection(operator, precision.weightBits) : null,
    rounded,
    kernel: options.kernelOf?.(operator.name) ?? null,
    asFloats,
  });
}

function isMean(operator: Operator): boolean {
  return ['AveragePool', 'GlobalAveragePool', 'ReduceMean'].includes(operator.op);
}

function builderOf({ model }: PreparedModel, operator: Operator, tail: ReadonlySet<Operator>): Builder {
  if (tail.has(operator) && operator.op in floatBuilders) return floatBuilders[operator.op]!;
  if (unaryFunction(operator, model.graph.initializers) !== null) return arithmetic.buildFunction;
  const builder = builders[operator.op];
  if (builder === undefined) throw unsupported(operator, 'the engine does not have this operator here');
  return builder;
}
