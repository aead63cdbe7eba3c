/** Convolutions and matrix products as the engine's one convolution. */
import { EdgeError } from '../../../configs/contracts/errors.js';
import type { Precision } from '../../../configs/contracts/plan.js';
import type { Operator } from '../onnx/model.js';
import { readFloats } from '../onnx/tensor.js';
import { deployedOptions, type QuantizedWeights, quantizeWeights } from '../quant/weights.js';
import { type ProductShape, productShape } from './product-shape.js';
import { channelsLast, plainOrder } from './storage.js';
import { unsupported } from './unsupported.js';
import { bytesOf, type Codes, count, type Values } from './values.js';

/** How weights are to be written. */
export interface ProductOptions {
  readonly precision: Precision;
  /** Weights small enough for sums of two products in 16 bits; see `deployedOptions`. */
  readonly pairSafe: boolean;
  /** Added to the float bias, one value per output channel. */
  readonly biasCorrection: Float32Array | null;
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
  const { weights: quantized, bias } = constantsOf(values, operator, product, options);
  const { input } = product;
  const order =
    operator.op === 'Conv' ? channelsLast(values.dimsOf(output).length) : plainOrder(values.dimsOf(output).length);
  const dims = values.dimsOf(output);
  const accumulatorScales = Array.from(quantized.scales, (scale) => scale * input.affine.scale);
  const bias32 = accumulatorBias(operator, quantized, product, bias);
  const constants = {
    ...product.shape,
    ...storedWeights(values, quantized, product, options.precision.weightBits),
    bias: values.writer.data(bytesOf(bias32)),
    inputZero: input.affine.zeroPoint,
    kernel: options.kernel === null ? 0 : kernelHash(options.kernel),
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
  const isNarrow = fitsNarrow(quantized, product, bias32, ratios, codes.affine.codeMaximum);
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
  { codes }: QuantizedWeights,
  { input, weightIndex, weightsPerChannel }: Product,
  bias: Int32Array,
  ratios: readonly number[],
  codeMaximum: number,
): boolean {
  return ratios.every((ratio, channel) => {
    const multiplier = Math.round(ratio * 2 ** 15);
    const isPrecise = codeMaximum * Math.abs(ratio * 2 ** 15 - multiplier) <= narrowError * ratio * 2 ** 15;
    if (multiplier > 2 ** 15 - 1 || !isPrecise) return false;
    let [low, high] = [bias[channel]!, bias[channel]!];
    for (let k = 0; k < weightsPerChannel; k++) {
      const product = codes[weightIndex(channel, k)]! * input.affine.codeMaximum;
      if (product > 0) high += product;
      else low += product;
    }
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

/** Weights as codes, and the float bias: as they were rounded before, or rounded here, each to nearest. */
function constantsOf(
  values: Values,
  operator: Operator,
  { input }: Product,
  { precision, pairSafe, biasCorrection, rounded }: ProductOptions,
): RoundedProduct {
  if (rounded !== null) return rounded;
  const { initializers } = values.prepared.model.graph;
  const { name, channelAxis } = operator.weight!;
  const tensor = initializers.get(name)!;
  const floats = operator.bias === null ? null : readFloats(initializers.get(operator.bias)!);
  const bias = Float64Array.from({ length: tensor.dims[channelAxis]! }, (_, channel) => {
    const own = floats === null ? 0 : floats[floats.length === 1 ? 0 : channel]!;
    return own + (biasCorrection?.[channel] ?? 0);
  });
  const weights = quantizeWeights(readFloats(tensor), tensor.dims, channelAxis, precision.weightBits, {
    ...deployedOptions(operator, tensor.dims, precision.weightBits, pairSafe),
    leastScales: leastScales(bias, input.affine.scale),
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
  quantized: QuantizedWeights,
  product: Product,
  bias: Float64Array,
): Int32Array {
  const { input, weightIndex, weightsPerChannel } = product;
  return Int32Array.from(quantized.scales, (scale, channel) => {
    let sum = 0;
    for (let k = 0; k < weightsPerChannel; k++) sum += quantized.codes[weightIndex(channel, k)]!;
    const code = Math.round(bias[channel]! / (scale * input.affine.scale)) - input.affine.zeroPoint * sum;
    if (Math.abs(code) < 2 ** 31) return code;
    throw new EdgeError('model/unsupported', `the bias of ${operator.name} does not fit 32 bits`, {
      subject: operator.name,
    });
  });
}

/** Weights in the engine's order, in the fewest of 2, 4 or 8 bits that hold them. */
function storedWeights(
  values: Values,
  { codes, scales }: QuantizedWeights,
  { weightIndex, weightsPerChannel }: Product,
  weightBits: number,
): { weights: number; weightBits: number; storageBits: number } {
  const storageBits = weightBits <= 2 ? 2 : weightBits <= 4 ? 4 : 8;
  const rowBytes = Math.ceil((weightsPerChannel * storageBits) / 8);
  const bytes = new Uint8Array(rowBytes * scales.length);
  const mask = 2 ** storageBits - 1;
  const perByte = 8 / storageBits;
  for (let channel = 0; channel < scales.length; channel++) {
    for (let k = 0; k < weightsPerChannel; k++) {
      const code = codes[weightIndex(channel, k)]! & mask;
      bytes[channel * rowBytes + Math.floor(k / perByte)]! |= code << ((k % perByte) * storageBits);
    }
  }
  return { weights: values.writer.data(bytes), weightBits, storageBits };
}
