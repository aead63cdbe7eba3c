/** Convolutions and matrix products as the engine's one convolution. */
import { EdgeError } from '../../../configs/contracts/errors.js';
import type { Precision } from '../../../configs/contracts/plan.js';
import type { Operator } from '../onnx/model.js';
import { readFloats } from '../onnx/tensor.js';
import type { PreparedModel } from '../prepare.js';
import { deployedOptions, type QuantizedWeights, quantizeWeights } from '../quant/weights.js';
import { type ProductShape, productShape } from './product-shape.js';
import { channelsLast, plainOrder } from './storage.js';
import { unsupported } from './unsupported.js';
import { bytesOf, type Codes, count, type Values } from './values.js';

/** How weights are rounded to nearest. */
export interface NearestOptions {
  readonly weightBits: number;
  /** Weights small enough for sums of two products in 16 bits; see `deployedOptions`. */
  readonly pairSafe: boolean;
  /** Added to the float bias, one value per output channel. */
  readonly biasCorrection: Float32Array | null;
}

/** How a product is to be written. */
export interface ProductOptions extends Omit<NearestOptions, 'weightBits'> {
  readonly precision: Precision;
  /** Weights and bias that were rounded before; null: they are rounded here, each to nearest, with the correction. */
  readonly rounded: RoundedProduct | null;
  /** Kernel to run it with, by name without variant; null: whichever the engine prefers. */
  readonly kernel: string | null;
  /** Hand out floats straight from the accumulators: nobody reads codes. */
  readonly asFloats: boolean;
}

/** Weights and bias of an operator, already rounded. */
export interface RoundedProduct {
  readonly weights: QuantizedWeights;
  /** In the unit of the output, one value per output channel. */
  readonly bias: Float64Array;
}

/** A product in the engine's terms: its shape, and where in the model's tensor the weights of each output channel are. */
interface Product {
  readonly input: Codes;
  readonly shape: ProductShape;
  /** In the model's layout of the weights: index of weight `position` (kernel row, column, channel) of an output channel. */
  readonly weightIndex: (outChannel: number, position: number) => number;
  readonly weightsPerChannel: number;
}

const largestShift = 15;
/** Steps of an output that one step of what it is computed from may be worth: more than its codes have. */
export const finestShare = 2 ** 12;

/** FNV-1a, by which images name kernels. */
export function kernelHash(name: string): number {
  let hash = 2166136261;
  for (const character of name) hash = Math.imul(hash ^ character.charCodeAt(0), 16777619) >>> 0;
  return hash;
}

/** Builds a Conv, Gemm or MatMul with a constant weight. */
export function buildProduct(values: Values, operator: Operator, options: ProductOptions): void {
  const output = operator.outputs[0]!;
  const product = productOf(values, operator);
  const { input } = product;
  const { weightBits } = options.precision;
  const { weights: quantized, bias } =
    options.rounded ?? nearestProduct(values.prepared, operator, input.affine.scale, { ...options, weightBits });
  const stored = storedWeights(quantized, product, weightBits);
  const order =
    operator.op === 'Conv' ? channelsLast(values.dimsOf(output).length) : plainOrder(values.dimsOf(output).length);
  const dims = values.dimsOf(output);
  const accumulatorScales = Array.from(quantized.scales, (scale) => scale * input.affine.scale);
  const bias32 = accumulatorBias(operator, quantized, stored, product, bias);
  const constants = {
    ...product.shape,
    weights: { bytes: stored.bytes },
    weightBits,
    storageBits: stored.storageBits,
    bias: { bytes: bytesOf(bias32) },
    inputZero: input.affine.zeroPoint,
    kernel: options.kernel === null ? 0 : kernelHash(options.kernel),
    layout: 0,
  };
  if (options.asFloats) {
    const id = values.writer.tensor({ type: 'accumulators', elements: count(dims) });
    const none = { outputZero: 0, outputLow: 0, outputHigh: 0, multipliers: 0, shifts: 0 };
    values.emit('convolution', [input.id], id, { ...constants, ...none, rule: 2 });
    values.define(
      output,
      values.dequantize({ id, dims, order }, { zero: 0, scales: accumulatorScales, clamp: operator.clamp }),
    );
    return;
  }
  const finest = Math.max(...accumulatorScales) / finestShare;
  const codes = values.newCodes(dims, order, values.affineOf(output, operator.clamp, finest));
  const ratios = accumulatorScales.map((scale) => scale / codes.affine.scale);
  const isNarrow = fitsNarrow(stored, product, bias32, ratios, codes.affine.codeMaximum);
  const requantization = ratios.map((ratio) =>
    isNarrow ? { multiplier: Math.round(ratio * 2 ** 15), shift: 0 } : wideMultiplier(operator, ratio),
  );
  values.emit('convolution', [input.id], codes.id, {
    ...constants,
    ...values.clampFields(codes.affine, operator.clamp),
    rule: isNarrow ? 1 : 0,
    multipliers: values.writer.data(bytesOf(Int32Array.from(requantization, ({ multiplier }) => multiplier))),
    shifts: values.writer.data(Uint8Array.from(requantization, ({ shift }) => shift)),
  });
  values.define(output, codes);
}

/** Share of a code by which the narrow rule's multiplier may be off at the largest code. */
const narrowError = 0.1;

/**
 * Whether the narrow rule can be used, which is fast where kernels stay in 16 bits to the end: every accumulator fits 16 bits whatever
 * the codes, and every multiplier has enough of its 15 bits to hit the right code.
 */
function fitsNarrow(
  { below, above }: StoredWeights,
  { input }: Product,
  bias: Int32Array,
  ratios: readonly number[],
  codeMaximum: number,
): boolean {
  const { codeMaximum: inputMaximum } = input.affine;
  return ratios.every((ratio, channel) => {
    const multiplier = Math.round(ratio * 2 ** 15);
    const isPrecise = codeMaximum * Math.abs(ratio * 2 ** 15 - multiplier) <= narrowError * ratio * 2 ** 15;
    if (multiplier > 2 ** 15 - 1 || !isPrecise) return false;
    const low = bias[channel]! + below[channel]! * inputMaximum;
    const high = bias[channel]! + above[channel]! * inputMaximum;
    return low >= -(2 ** 15) && high < 2 ** 15;
  });
}

/** The wide rule's multiplier: round(ratio * 2^32), after as many left shifts of the accumulator as bring the ratio below a half. */
export function wideMultiplier(operator: Operator, ratio: number): { multiplier: number; shift: number } {
  let shift = 0;
  while (ratio / 2 ** shift >= 0.5 && shift < largestShift) shift++;
  const multiplier = Math.min(2 ** 31 - 1, Math.round((ratio / 2 ** shift) * 2 ** 32));
  if (ratio / 2 ** shift >= 0.5) throw unsupported(operator, 'its output is far finer than what it is computed from');
  return { multiplier, shift };
}

function productOf(values: Values, operator: Operator): Product {
  const { prepared } = values;
  const name = operator.inputs[0]!;
  const rank = values.dimsOf(name).length;
  const shape = productShape(prepared, operator);
  const { inChannels, outChannels, groups, kernelHeight, kernelWidth } = shape;
  const perGroup = inChannels / groups;
  const kernelSize = kernelHeight * kernelWidth;
  if (operator.op === 'Conv')
    return {
      input: values.codesIn(name, channelsLast(rank)),
      shape,
      // [out][kernel][channel] from [out][channel][kernel].
      weightIndex: (out, position) =>
        (out * perGroup + (position % perGroup)) * kernelSize + Math.floor(position / perGroup),
      weightsPerChannel: kernelSize * perGroup,
    };
  return {
    input: values.codesIn(name, plainOrder(rank)),
    shape,
    weightIndex:
      operator.weight!.channelAxis === 0 ? (out, k) => out * inChannels + k : (out, k) => k * outChannels + out,
    weightsPerChannel: inChannels,
  };
}

/** Weights as codes, each rounded to nearest, and the float bias with its correction. */
export function nearestProduct(
  { model }: Pick<PreparedModel, 'model'>,
  operator: Operator,
  inputScale: number,
  { weightBits, pairSafe, biasCorrection }: NearestOptions,
): RoundedProduct {
  const { initializers } = model.graph;
  const { name, channelAxis } = operator.weight!;
  const tensor = initializers.get(name)!;
  const floats = operator.bias === null ? null : readFloats(initializers.get(operator.bias)!);
  const bias = Float64Array.from({ length: tensor.dims[channelAxis]! }, (_, channel) => {
    const own = floats === null ? 0 : floats[floats.length === 1 ? 0 : channel]!;
    return own + (biasCorrection?.[channel] ?? 0);
  });
  const weights = quantizeWeights(readFloats(tensor), tensor.dims, channelAxis, weightBits, {
    ...deployedOptions(operator, tensor.dims, weightBits, pairSafe),
    leastScales: leastScales(bias, inputScale),
  });
  return { weights, bias };
}

/** A channel of tiny weights would need bias codes beyond 32 bits: its scale is raised, which costs weights that hardly matter. */
export function leastScales(bias: Float64Array, inputScale: number): Float32Array {
  return Float32Array.from(bias, (value) => Math.abs(value) / (2 ** 30 * inputScale));
}

/** The bias in accumulator units, with the part of the sum that the input's zero point makes taken out. */
function accumulatorBias(
  operator: Operator,
  { scales }: QuantizedWeights,
  { below, above }: StoredWeights,
  { input }: Product,
  bias: Float64Array,
): Int32Array {
  return Int32Array.from(scales, (scale, channel) => {
    const sum = below[channel]! + above[channel]!;
    const code = Math.round(bias[channel]! / (scale * input.affine.scale)) - input.affine.zeroPoint * sum;
    if (Math.abs(code) < 2 ** 31) return code;
    throw new EdgeError('model/unsupported', `the bias of ${operator.name} does not fit 32 bits`, {
      subject: operator.name,
    });
  });
}

/** Weights as they are in an image, and what their codes sum up to. */
interface StoredWeights {
  /** In the engine's order, in the fewest of 2, 4 or 8 bits that hold them. */
  readonly bytes: Uint8Array;
  readonly storageBits: number;
  /** Sums of the codes below zero, and of those above, by output channel. */
  readonly below: Int32Array;
  readonly above: Int32Array;
}

/** A search for a plan builds one image after the other from the same few weights. */
const storedBefore = new WeakMap<QuantizedWeights, StoredWeights>();

function storedWeights(weights: QuantizedWeights, product: Product, weightBits: number): StoredWeights {
  const storageBits = weightBits <= 2 ? 2 : weightBits <= 4 ? 4 : 8;
  const known = storedBefore.get(weights);
  if (known?.storageBits === storageBits) return known;
  const { codes, scales } = weights;
  const { weightIndex, weightsPerChannel } = product;
  const rowBytes = Math.ceil((weightsPerChannel * storageBits) / 8);
  const bytes = new Uint8Array(rowBytes * scales.length);
  const [below, above] = [new Int32Array(scales.length), new Int32Array(scales.length)];
  const mask = 2 ** storageBits - 1;
  const perByte = 8 / storageBits;
  for (let channel = 0; channel < scales.length; channel++) {
    for (let k = 0; k < weightsPerChannel; k++) {
      const code = codes[weightIndex(channel, k)]!;
      bytes[channel * rowBytes + Math.floor(k / perByte)]! |= (code & mask) << ((k % perByte) * storageBits);
      if (code < 0) below[channel]! += code;
      else above[channel]! += code;
    }
  }
  const stored = { bytes, storageBits, below, above };
  storedBefore.set(weights, stored);
  return stored;
}
