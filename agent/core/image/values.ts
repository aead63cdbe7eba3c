/** Values while an image is built: where each tensor of the model is, as codes or as floats, and in which order. */

import { EdgeError } from '../../../configs/contracts/errors.js';
import { noTable } from '../../../configs/contracts/image.js';
import type { Range } from '../../../configs/contracts/plan.js';
import type { PreparedModel } from '../prepare.js';
import { type Affine, unsignedAffine } from '../quant/affine.js';
import type { TensorId } from './draft.js';
import { codeOf, tableOf } from './functions.js';
import { channelsLast, isSameOrder, type MoveAxis, type Order, plainOrder, simplify, stridesOf } from './storage.js';
import { ImageWriter } from './writer.js';

/** A tensor of the model as it is in the image. */
export interface Value {
  readonly id: TensorId;
  readonly dims: readonly number[];
  readonly order: Order;
  /** null: floats. */
  readonly affine: Affine | null;
}

/** A value of codes. */
export type Codes = Value & { readonly affine: Affine };

/** Bit-width and range by which activations become codes. */
export interface ActivationGrids {
  /** Bits of a tensor's codes. */
  readonly bitsOf: (tensor: string) => number;
  /** Range of a tensor at a bit-width; undefined where it was not calibrated. */
  readonly rangeOf: (tensor: string, bits: number) => Range | undefined;
  /** The grid of a tensor, where it has to be just this one; null: it follows from the two above. */
  readonly gridOf: (tensor: string) => Affine | null;
}

const dimensions = 6;

/** The values of a model, and the operators that move them between forms. */
export class Values {
  readonly writer = new ImageWriter();
  readonly prepared: PreparedModel;
  #grids: ActivationGrids;
  readonly #values = new Map<string, { codes: Codes | null; floats: Value | null }>();
  /** Operator of the model that is being built. */
  source = '';

  constructor(prepared: PreparedModel, grids: ActivationGrids) {
    this.prepared = prepared;
    this.#grids = grids;
  }

  /** Tensors that are built from now on have these grids; what is built again is another tensor of the same name. */
  useGrids(grids: ActivationGrids): void {
    this.#grids = grids;
  }

  /** Grid of a tensor that there are codes of; null for all others. */
  gridOf(name: string): Affine | null {
    return this.#values.get(name)?.codes?.affine ?? null;
  }

  /** Shape of a tensor of the model. */
  dimsOf(name: string): readonly number[] {
    const dims = this.prepared.shapes.get(name);
    if (dims === undefined)
      throw new EdgeError('model/unsupported', `the shape of ${name} is not known`, { subject: name });
    return dims;
  }

  /**
   * The grid of a tensor's codes, cut to what a fused Relu or Clip lets through. Its steps are as coarse as `leastScale` where they would be
   * finer: of an operator whose output hardly moved (a channel that is off, a difference of equals), codes cannot tell more.
   */
  affineOf(name: string, clamp: readonly [number, number] | null = null, leastScale = 0): Affine {
    const given = this.#grids.gridOf(name);
    if (given !== null) return given;
    const bits = this.#grids.bitsOf(name);
    const range = this.#grids.rangeOf(name, bits);
    if (range === undefined) {
      throw new EdgeError('artifact/invalid', `there is no range for tensor ${name}`, {
        subject: name,
        hint: 'Calibrate again.',
      });
    }
    const minimum = clamp === null ? range.minimum : Math.max(range.minimum, clamp[0]);
    const maximum = clamp === null ? range.maximum : Math.min(range.maximum, clamp[1]);
    const affine = unsignedAffine({ minimum, maximum }, bits);
    if (affine.scale >= leastScale) return affine;
    const extent = leastScale * affine.codeMaximum;
    const low = Math.min(minimum, 0);
    return unsignedAffine({ minimum: low, maximum: low + extent }, bits);
  }

  /** A new tensor of codes in the arena. */
  newCodes(dims: readonly number[], order: Order, affine: Affine): Codes {
    const id = this.writer.tensor({
      type: 'codes',
      elements: count(dims),
      bits: Math.round(Math.log2(affine.codeMaximum + 1)),
      scale: affine.scale,
      zero: affine.zeroPoint,
    });
    return { id, dims, order, affine };
  }

  /** A new tensor of floats in the arena. */
  newFloats(dims: readonly number[], order: Order = plainOrder(dims.length)): Value {
    return { id: this.writer.tensor({ type: 'floats', elements: count(dims) }), dims, order, affine: null };
  }

  /** Says where a tensor of the model is now. */
  define(name: string, value: Value): void {
    const known = this.#values.get(name) ?? { codes: null, floats: null };
    if (value.affine === null) known.floats = value;
    else known.codes = value as Codes;
    this.#values.set(name, known);
  }

  /** Whether the tensor exists as floats and nothing has made codes of it yet. */
  isFloat(name: string): boolean {
    const value = this.#values.get(name);
    return value !== undefined && value.codes === null;
  }

  /** A tensor as codes, in whatever order it is. */
  codes(name: string): Codes {
    const known = this.#known(name);
    if (known.codes !== null) return known.codes;
    const floats = known.floats!;
    const { dims } = floats;
    const isImage = dims.length >= 3;
    const [outer, channels, inner] = isImage ? [dims[0]!, dims[1]!, count(dims.slice(2))] : [1, 1, count(dims)];
    const plain = this.ordered(floats, plainOrder(dims.length));
    const codes = this.newCodes(dims, channelsLast(dims.length), this.affineOf(name));
    const { affine } = codes;
    this.emit('quantize', [plain.id], codes.id, {
      outer: outer!,
      channels: channels!,
      inner: inner!,
      inverseScale: { float: 1 / affine.scale },
      zero: affine.zeroPoint,
      low: affine.codeMinimum,
      high: affine.codeMaximum,
    });
    this.define(name, codes);
    return codes;
  }

  /** A tensor as codes with the elements in a given order. */
  codesIn(name: string, order: Order): Codes {
    return this.ordered(this.codes(name), order);
  }

  /** A tensor as floats, axes in the order of their numbers. */
  floats(name: string): Value {
    const known = this.#known(name);
    if (known.floats !== null) return this.ordered(known.floats, plainOrder(known.floats.dims.length));
    const codes = known.codes!;
    const { scale, zeroPoint } = codes.affine;
    const floats = this.dequantize(codes, { zero: zeroPoint, scales: [scale], clamp: null });
    this.define(name, floats);
    return floats;
  }

  /** Codes or accumulators as floats in plain order; scales are one, or one for each channel (axis 1, or the last of fewer than three). */
  dequantize(
    from: Pick<Value, 'id' | 'dims' | 'order'>,
    { zero, scales, clamp }: { zero: number; scales: readonly number[]; clamp: readonly [number, number] | null },
  ): Value {
    const { dims } = from;
    const rank = dims.length;
    const isLast = isSameOrder(dims, from.order, channelsLast(rank));
    if (!isLast && !isSameOrder(dims, from.order, plainOrder(rank)))
      return this.dequantize(this.ordered(from as Value, channelsLast(rank)), { zero, scales, clamp });
    const [outer, channels, inner] =
      isLast && rank >= 3 && (scales.length === 1 || dims[1] === scales.length)
        ? [dims[0]!, dims[1]!, count(dims.slice(2))]
        : [count(dims) / scales.length, scales.length, 1];
    const floats = this.newFloats(dims);
    this.emit('dequantize', [from.id], floats.id, {
      outer: outer!,
      channels: channels!,
      inner: inner!,
      zero,
      scaleCount: scales.length,
      scales: this.writer.data(bytesOf(Float32Array.from(scales))),
      low: { float: clamp?.[0] ?? Number.NEGATIVE_INFINITY },
      high: { float: clamp?.[1] ?? Number.POSITIVE_INFINITY },
    });
    return floats;
  }

  /** The same value in another order; itself where no element has to move. */
  ordered<T extends Value>(value: T, order: Order): T {
    if (isSameOrder(value.dims, value.order, order)) return { ...value, order };
    const moved =
      value.affine === null ? this.newFloats(value.dims, order) : this.newCodes(value.dims, order, value.affine);
    const [from, to] = [stridesOf(value.dims, value.order), stridesOf(value.dims, order)];
    this.move(value, moved, {
      axes: value.dims.map((size, axis) => ({ size, from: from[axis]!, to: to[axis]! })),
      fromStart: 0,
      toStart: 0,
    });
    return { ...moved } as T;
  }

  /** Moves elements; codes are translated where the grids differ. */
  move(
    from: Value,
    to: Value,
    { axes, fromStart, toStart }: { axes: readonly MoveAxis[]; fromStart: number; toStart: number },
  ): void {
    const simple = simplify(axes);
    if (simple.length > dimensions) throw new RangeError('a move has too many dimensions');
    const inner = simple.length > 0 ? simple[simple.length - 1]! : { size: 1, from: 1, to: 1 };
    const outer = simple.slice(0, -1);
    // The outermost in front, where it can be divided among threads; the innermost at the end; nothing in between.
    const padded = [
      ...outer,
      ...new Array<MoveAxis>(dimensions - 1 - outer.length).fill({ size: 1, from: 0, to: 0 }),
      inner,
    ];
    const values: Record<string, number> = { inStart: fromStart, outStart: toStart, table: noTable };
    padded.forEach((axis, d) => {
      values[`size${d}`] = axis.size;
      values[`inStride${d}`] = axis.from;
      values[`outStride${d}`] = axis.to;
    });
    if (from.affine !== null && to.affine !== null && !isSameGrid(from.affine, to.affine))
      values.table = this.writer.data(tableOf((x) => x, from.affine, to.affine));
    this.emit('copy', [from.id], to.id, values);
  }

  /** Fields by which an operator's codes are kept within the grid and within a fused Relu or Clip. */
  clampFields(affine: Affine, clamp: readonly [number, number] | null) {
    return {
      outputZero: affine.zeroPoint,
      outputLow: clamp === null ? affine.codeMinimum : codeOf(clamp[0], affine),
      outputHigh: clamp === null ? affine.codeMaximum : codeOf(clamp[1], affine),
    };
  }

  /** Adds an operator of the image on behalf of the operator of the model that is being built. */
  emit(
    ...[kind, inputs, output, values]: [
      Parameters<ImageWriter['operator']>[0],
      readonly TensorId[],
      TensorId,
      Parameters<ImageWriter['operator']>[4],
    ]
  ): void {
    this.writer.operator(kind, this.source, inputs, output, values);
  }

  #known(name: string) {
    const known = this.#values.get(name);
    if (known !== undefined) return known;
    throw new EdgeError('model/unsupported', `tensor ${name} is not computed by anything that the engine runs`, {
      subject: name,
    });
  }
}

/** Number of elements. */
export function count(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 1);
}

/** The bytes of a typed array. */
export function bytesOf(values: Float32Array | Int32Array | Uint32Array | Int8Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Whether equal codes mean equal values. */
export function isSameGrid(a: Affine, b: Affine): boolean {
  return a.scale === b.scale && a.zeroPoint === b.zeroPoint && a.codeMaximum <= b.codeMaximum;
}
