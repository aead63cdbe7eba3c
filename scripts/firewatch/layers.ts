/**
 * The layers of a small convolutional network, forward and backward, in plain typed arrays.
 *
 * Activations are laid out channel first, then image: one row per channel that holds that channel of the whole batch. So a
 * pointwise convolution of a batch is one matrix product, and batch statistics are sums along a row.
 *
 * `backward` takes the gradient of the loss with respect to the output of the latest `forward`, adds to the gradients of the
 * layer's parameters, and returns the gradient with respect to its input. Layers keep what they need from `forward`.
 */

import { kernels } from './kernels.js';

export interface Activation {
  readonly data: Float32Array;
  readonly channels: number;
  readonly batch: number;
  readonly height: number;
  readonly width: number;
}

/** Something that training changes. Weight decay applies to `decays` only: weights, not offsets and gains. */
export interface Parameter {
  readonly value: Float32Array;
  readonly gradient: Float32Array;
  readonly decays: boolean;
}

export interface Layer {
  readonly parameters: readonly Parameter[];
  forward(input: Activation, training: boolean): Activation;
  backward(gradient: Activation): Activation;
}

export function newParameter(size: number, decays: boolean, initial: (index: number) => number): Parameter {
  return { value: Float32Array.from({ length: size }, (_, i) => initial(i)), gradient: new Float32Array(size), decays };
}

/** Memory of activations that are in use, and of those that may be used again, by size. */
const inUse: Float32Array[] = [];
const free = new Map<number, Float32Array[]>();

/** Declares every activation made so far dead, so that the next ones reuse their memory. Call between training steps. */
export function recycleActivations(): void {
  for (const array of inUse) {
    const sameSize = free.get(array.length);
    if (sameSize === undefined) free.set(array.length, [array]);
    else sameSize.push(array);
  }
  inUse.length = 0;
}

/** A new activation full of zeros, of the batch of `a` and, where not said otherwise, its shape. */
function like(a: Activation, channels = a.channels, height = a.height, width = a.width): Activation {
  const size = channels * a.batch * height * width;
  const data = free.get(size)?.pop()?.fill(0) ?? new Float32Array(size);
  inUse.push(data);
  return { data, channels, batch: a.batch, height, width };
}

/** Length of one channel's row. */
function rowLength(a: Activation): number {
  return a.batch * a.height * a.width;
}

/** The transpose of `a[m x k]`. */
function transpose(a: Float32Array, m: number, k: number): Float32Array {
  const out = new Float32Array(a.length);
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < k; column++) out[column * m + row] = a[row * k + column]!;
  }
  return out;
}

const tapCount = 9;

/** Dense 3x3 convolution, padding 1, no bias. As the first layer of a network it has no use for its input's gradient. */
export class Convolution implements Layer {
  readonly weight: Parameter;
  readonly parameters: readonly Parameter[];
  #input: Activation | undefined;
  #columns: Activation | undefined;

  constructor(
    readonly inputs: number,
    readonly outputs: number,
    readonly stride: number,
    initial: (fanIn: number) => number,
    readonly isFirst = false,
  ) {
    this.weight = newParameter(outputs * inputs * tapCount, true, () => initial(inputs * tapCount));
    this.parameters = [this.weight];
  }

  forward(input: Activation): Activation {
    const height = Math.ceil(input.height / this.stride);
    const width = Math.ceil(input.width / this.stride);
    const columns = like(input, this.inputs * tapCount, height, width);
    this.#eachPair(input, columns, (from, to) => {
      columns.data[to] = input.data[from]!;
    });
    const output = like(columns, this.outputs);
    kernels.multiply(output.data, this.weight.value, columns.data, this.outputs, columns.channels, rowLength(columns));
    this.#input = input;
    this.#columns = columns;
    return output;
  }

  backward(gradient: Activation): Activation {
    const columns = this.#columns!;
    const k = columns.channels;
    kernels.multiplyTransposed(this.weight.gradient, gradient.data, columns.data, this.outputs, k, rowLength(columns));
    const inputGradient = like(this.#input!);
    if (this.isFirst) return inputGradient;
    const columnGradient = like(columns);
    const weights = transpose(this.weight.value, this.outputs, k);
    kernels.multiply(columnGradient.data, weights, gradient.data, k, this.outputs, rowLength(columns));
    this.#eachPair(inputGradient, columns, (from, to) => {
      inputGradient.data[from]! += columnGradient.data[to]!;
    });
    return inputGradient;
  }

  /** Pairs every number of the column matrix with the input pixel that it copies. */
  #eachPair(input: Activation, columns: Activation, visit: (from: number, to: number) => void): void {
    const { stride } = this;
    for (let row = 0; row < columns.channels; row++) {
      const channel = Math.floor(row / tapCount);
      const dy = Math.floor((row % tapCount) / 3) - 1;
      const dx = (row % 3) - 1;
      for (let line = 0; line < columns.batch * columns.height; line++) {
        const image = Math.floor(line / columns.height);
        const y = (line % columns.height) * stride + dy;
        if (y < 0 || y >= input.height) continue;
        const from = ((channel * input.batch + image) * input.height + y) * input.width;
        const to = (row * columns.batch * columns.height + line) * columns.width;
        for (let i = 0; i < columns.width; i++) {
          const x = i * stride + dx;
          if (x >= 0 && x < input.width) visit(from + x, to + i);
        }
      }
    }
  }
}

/** Pointwise (1x1) convolution without bias. */
export class Pointwise implements Layer {
  readonly weight: Parameter;
  readonly parameters: readonly Parameter[];
  #input: Activation | undefined;

  constructor(
    readonly inputs: number,
    readonly outputs: number,
    initial: (fanIn: number) => number,
  ) {
    this.weight = newParameter(outputs * inputs, true, () => initial(inputs));
    this.parameters = [this.weight];
  }

  forward(input: Activation): Activation {
    this.#input = input;
    const output = like(input, this.outputs);
    kernels.multiply(output.data, this.weight.value, input.data, this.outputs, this.inputs, rowLength(input));
    return output;
  }

  backward(gradient: Activation): Activation {
    const input = this.#input!;
    const n = rowLength(input);
    kernels.multiplyTransposed(this.weight.gradient, gradient.data, input.data, this.outputs, this.inputs, n);
    const result = like(input);
    const weights = transpose(this.weight.value, this.outputs, this.inputs);
    kernels.multiply(result.data, weights, gradient.data, this.inputs, this.outputs, n);
    return result;
  }
}

/** Depthwise 3x3 convolution, padding 1, no bias. */
export class Depthwise implements Layer {
  readonly weight: Parameter;
  readonly parameters: readonly Parameter[];
  #input: Activation | undefined;

  constructor(
    readonly channels: number,
    readonly stride: number,
    initial: (fanIn: number) => number,
  ) {
    this.weight = newParameter(channels * tapCount, true, () => initial(tapCount));
    this.parameters = [this.weight];
  }

  forward(input: Activation): Activation {
    this.#input = input;
    const { channels, stride } = this;
    const { batch, height, width } = input;
    const output = like(input, channels, Math.ceil(height / stride), Math.ceil(width / stride));
    kernels.depthwise(output.data, input.data, this.weight.value, channels, batch, height, width, stride);
    return output;
  }

  backward(gradient: Activation): Activation {
    const input = this.#input!;
    const { weight, channels, stride } = this;
    const { batch, height, width } = input;
    const result = like(input);
    const arrays = [result.data, weight.gradient, gradient.data, input.data, weight.value] as const;
    kernels.depthwiseGradient(...arrays, channels, batch, height, width, stride);
    return result;
  }
}

/** Batch normalization: by the batch's own statistics in training, by their running averages otherwise. */
export class BatchNormalization implements Layer {
  static readonly epsilon = 1e-5;
  readonly gain: Parameter;
  readonly offset: Parameter;
  readonly runningMean: Float32Array;
  readonly runningVariance: Float32Array;
  readonly parameters: readonly Parameter[];
  #normalized: Activation | undefined;
  #variance: Float32Array;

  constructor(
    readonly channels: number,
    readonly momentum = 0.05,
  ) {
    this.gain = newParameter(channels, false, () => 1);
    this.offset = newParameter(channels, false, () => 0);
    this.runningMean = new Float32Array(channels);
    this.runningVariance = new Float32Array(channels).fill(1);
    this.#variance = new Float32Array(channels);
    this.parameters = [this.gain, this.offset];
  }

  forward(input: Activation, training: boolean): Activation {
    const output = like(input);
    const n = rowLength(input);
    const { channels, gain, offset, runningMean, runningVariance } = this;
    if (training) {
      const normalized = like(input);
      const mean = new Float32Array(channels);
      const outputs = [output.data, normalized.data, mean, this.#variance] as const;
      kernels.normalize(...outputs, input.data, gain.value, offset.value, channels, n, BatchNormalization.epsilon);
      for (let channel = 0; channel < channels; channel++) {
        runningMean[channel]! += this.momentum * (mean[channel]! - runningMean[channel]!);
        runningVariance[channel]! += this.momentum * (this.#variance[channel]! - runningVariance[channel]!);
      }
      this.#normalized = normalized;
      return output;
    }
    for (let channel = 0; channel < channels; channel++) {
      const factor = gain.value[channel]! / Math.sqrt(runningVariance[channel]! + BatchNormalization.epsilon);
      for (let i = channel * n; i < (channel + 1) * n; i++) {
        output.data[i] = (input.data[i]! - runningMean[channel]!) * factor + offset.value[channel]!;
      }
    }
    return output;
  }

  backward(gradient: Activation): Activation {
    const result = like(gradient);
    const { channels, gain, offset } = this;
    const outputs = [result.data, gain.gradient, offset.gradient] as const;
    const inputs = [gradient.data, this.#normalized!.data, this.#variance, gain.value] as const;
    kernels.normalizeGradient(...outputs, ...inputs, channels, rowLength(gradient), BatchNormalization.epsilon);
    return result;
  }
}

export class Relu implements Layer {
  readonly parameters: readonly Parameter[] = [];
  #output: Activation | undefined;

  forward(input: Activation): Activation {
    const output = like(input);
    kernels.rectify(output.data, input.data, output.data.length);
    this.#output = output;
    return output;
  }

  backward(gradient: Activation): Activation {
    const result = like(gradient);
    kernels.rectifyGradient(result.data, gradient.data, this.#output!.data, result.data.length);
    return result;
  }
}

function sum(a: Activation, b: Activation): Activation {
  const result = like(a);
  for (let i = 0; i < result.data.length; i++) result.data[i] = a.data[i]! + b.data[i]!;
  return result;
}

/** The sum of its input and what its body makes of it. */
export class Residual implements Layer {
  readonly parameters: readonly Parameter[];

  constructor(readonly body: readonly Layer[]) {
    this.parameters = body.flatMap((layer) => layer.parameters);
  }

  forward(input: Activation, training: boolean): Activation {
    const output = this.body.reduce((x, layer) => layer.forward(x, training), input);
    return sum(output, input);
  }

  backward(gradient: Activation): Activation {
    const through = this.body.reduceRight((g, layer) => layer.backward(g), gradient);
    return sum(through, gradient);
  }
}

/** The mean of each channel of each image: an activation of one pixel. */
export class GlobalAveragePool implements Layer {
  readonly parameters: readonly Parameter[] = [];
  #input: Activation | undefined;

  forward(input: Activation): Activation {
    this.#input = input;
    const output = like(input, input.channels, 1, 1);
    const pixels = input.height * input.width;
    for (let i = 0; i < input.data.length; i++) output.data[Math.floor(i / pixels)]! += input.data[i]! / pixels;
    return output;
  }

  backward(gradient: Activation): Activation {
    const result = like(this.#input!);
    const pixels = result.height * result.width;
    for (let i = 0; i < result.data.length; i++) result.data[i] = gradient.data[Math.floor(i / pixels)]! / pixels;
    return result;
  }
}

/** A linear map of one-pixel activations, with bias. */
export class Dense implements Layer {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly parameters: readonly Parameter[];
  #map: Pointwise;

  constructor(
    readonly inputs: number,
    readonly outputs: number,
    initial: (fanIn: number) => number,
  ) {
    this.#map = new Pointwise(inputs, outputs, initial);
    this.weight = this.#map.weight;
    this.bias = newParameter(outputs, false, () => 0);
    this.parameters = [this.weight, this.bias];
  }

  forward(input: Activation): Activation {
    const output = this.#map.forward(input);
    for (let i = 0; i < output.data.length; i++) output.data[i]! += this.bias.value[Math.floor(i / output.batch)]!;
    return output;
  }

  backward(gradient: Activation): Activation {
    for (let i = 0; i < gradient.data.length; i++)
      this.bias.gradient[Math.floor(i / gradient.batch)]! += gradient.data[i]!;
    return this.#map.backward(gradient);
  }
}
