import type { Operator } from '../onnx/model.js';
import { roundHalfEven } from './affine.js';

/** Weights quantized per output channel: real = scales[channel] * code, codes symmetric in [-limit, limit]. */
export interface QuantizedWeights {
  readonly bits: number;
  /** Same layout as the float weights. */
  readonly codes: Int8Array;
  /** One float32 scale per output channel. */
  readonly scales: Float32Array;
}

/**
 * Scales that keep an 8-bit channel out of reach of 16-bit saturation. x86 without VNNI multiplies pairs of unsigned activations
 * and signed weights into saturating 16-bit sums (vpmaddubsw): 255 * (|w1| + |w2|) must stay within 32767 for any two weights of
 * one sign that may meet. Which weights meet depends on the kernel's packing, so the two largest of each sign are taken.
 */
const largestPairSum = 128;

/** Whether kernels that sum two products in saturating 16 bits can go wrong on an operator at 8 bits; see `largestPairSum`. */
export function canSaturate(values: Float32Array, dims: readonly number[], axis: number): boolean {
  const { codes } = quantizeWeights(values, dims, axis, 8, { clip: 'absmax' });
  const { channels, inner } = channelLayout(dims, axis);
  const tops = Array.from({ length: channels * 2 }, () => [0, 0]);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i]!;
    const pair = tops[(Math.floor(i / inner) % channels) * 2 + (code > 0 ? 0 : 1)]!;
    const magnitude = Math.abs(code);
    if (magnitude > pair[0]!) {
      pair[1] = pair[0]!;
      pair[0] = magnitude;
    } else if (magnitude > pair[1]!) pair[1] = magnitude;
  }
  return tops.some(([first, second]) => first! + second! > largestPairSum);
}

function pairSafeScale(values: Float64Array, scale: number): number {
  const top = { positive: [0, 0], negative: [0, 0] };
  for (const value of values) {
    const pair = value > 0 ? top.positive : top.negative;
    const magnitude = Math.abs(value);
    if (magnitude > pair[0]!) {
      pair[1] = pair[0]!;
      pair[0] = magnitude;
    } else if (magnitude > pair[1]!) pair[1] = magnitude;
  }
  // One step less than the limit leaves room for rounding both codes up.
  const needed =
    Math.max(top.positive[0]! + top.positive[1]!, top.negative[0]! + top.negative[1]!) / (largestPairSum - 1);
  return Math.fround(Math.max(scale, needed));
}

/** How the clipping bound of a channel is chosen: its largest magnitude, or the bound of least squared error. */
export type WeightClip = 'absmax' | 'mse';

/** How the scales of a weight's channels are chosen. */
export interface WeightOptions {
  readonly clip: WeightClip;
  /** Keep 8-bit codes small enough for kernels that saturate at 16 bits. */
  readonly pairSafe?: boolean;
  /** Smallest scale a channel may have; absent: any. */
  readonly leastScales?: ArrayLike<number>;
}

/** Iterates a tensor of any layout by channel: flat index = outer * outerStride + channel * inner + k. */
interface ChannelLayout {
  channels: number;
  outer: number;
  inner: number;
}

function channelLayout(dims: readonly number[], axis: number): ChannelLayout {
  const product = (from: number, to: number) => dims.slice(from, to).reduce((a, b) => a * b, 1);
  return { channels: dims[axis] ?? 1, outer: product(0, axis), inner: product(axis + 1, dims.length) };
}

/** Clip factors tried by 'mse', as shares of the largest magnitude: 1.00, 0.98 ... 0.20. */
const clipFactors = Array.from({ length: 41 }, (_, i) => 1 - i * 0.02);

/**
 * Symmetric per-channel quantization of a weight tensor.
 *
 * @param values float weights, row-major with shape `dims`
 * @param axis axis of the output channels
 * @param bits 2 to 8; levels are -(2^(bits-1)-1) ... 2^(bits-1)-1, so 2 bits are ternary
 */
export function quantizeWeights(
  values: Float32Array,
  dims: readonly number[],
  axis: number,
  bits: number,
  options: WeightOptions,
): QuantizedWeights {
  const { channels, outer, inner } = channelLayout(dims, axis);
  const limit = 2 ** (bits - 1) - 1;
  const codes = new Int8Array(values.length);
  const scales = new Float32Array(channels);
  const channelValues = new Float64Array(outer * inner);
  for (let channel = 0; channel < channels; channel++) {
    let bound = 0;
    for (let o = 0, k = 0; o < outer; o++) {
      const start = (o * channels + channel) * inner;
      for (let i = 0; i < inner; i++, k++) {
        const value = values[start + i]!;
        channelValues[k] = value;
        bound = Math.max(bound, Math.abs(value));
      }
    }
    const free = channelScale(channelValues, bound, limit, options.clip);
    const safe = options.pairSafe && bits === 8 ? pairSafeScale(channelValues, free) : free;
    const scale = Math.fround(Math.max(safe, options.leastScales?.[channel] ?? 0));
    scales[channel] = scale;
    for (let o = 0, k = 0; o < outer; o++) {
      const start = (o * channels + channel) * inner;
      for (let i = 0; i < inner; i++, k++) {
        const code = Math.max(-limit, Math.min(limit, roundHalfEven(channelValues[k]! / scale)));
        codes[start + i] = code;
      }
    }
  }
  return { bits, codes, scales };
}

function channelScale(values: Float64Array, bound: number, limit: number, clip: WeightClip): number {
  if (bound === 0) return 1;
  const smallest = 2 ** -100;
  const full = Math.fround(Math.max(bound / limit, smallest));
  if (clip === 'absmax') return full;
  let best = full;
  let bestError = Number.POSITIVE_INFINITY;
  for (const factor of clipFactors) {
    const scale = Math.fround(Math.max((bound * factor) / limit, smallest));
    const inverse = 1 / scale;
    let error = 0;
    for (let k = 0; k < values.length; k++) {
      const value = values[k]!;
      let code = roundHalfEven(value * inverse);
      if (code > limit) code = limit;
      else if (code < -limit) code = -limit;
      const difference = code * scale - value;
      error += difference * difference;
    }
    if (error < bestError) {
      bestError = error;
      best = scale;
    }
  }
  return best;
}

/** The float32 weights that the codes stand for, in the layout of the original tensor. */
export function dequantizeWeights(quantized: QuantizedWeights, dims: readonly number[], axis: number): Float32Array {
  const { channels, outer, inner } = channelLayout(dims, axis);
  const values = new Float32Array(quantized.codes.length);
  for (let o = 0, k = 0; o < outer; o++) {
    for (let channel = 0; channel < channels; channel++) {
      const scale = quantized.scales[channel]!;
      for (let i = 0; i < inner; i++, k++) values[k] = quantized.codes[k]! * scale;
    }
  }
  return values;
}

/**
 * How a weight is quantized when it is deployed; estimators and the artifact writer must agree on it.
 *
 * @param dims of the weight
 * @param saturates whether the machine's 8-bit kernels sum pairs of products in saturating 16 bits (x86 without VNNI)
 */
export function deployedOptions(
  operator: Operator,
  dims: readonly number[],
  bits: number,
  saturates: boolean,
): WeightOptions {
  const group = operator.nodes[0]?.attributes.get('group');
  const groups = group?.kind === 'int' ? group.value : 1;
  // Depthwise kernels accumulate in 32 bits everywhere; convolutions in groups of several channels run on the ordinary ones.
  const isDepthwise = groups > 1 && dims[0] === groups && dims[1] === 1;
  return { clip: bits >= 8 ? 'absmax' : 'mse', pairSafe: saturates && !isDepthwise };
}
