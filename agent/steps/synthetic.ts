import { encode } from '../core/onnx/codec.js';
import type { PreparedModel } from '../core/prepare.js';
import { normal, xorshift32 } from '../core/random.js';
import type { Progress, Runtime } from '../ports.js';
import type { SampleReader } from './samples.js';

/** How many synthetic samples stand in for a calibration or test set. */
export const syntheticCount = 32;

/**
 * Made-up inputs for a device that has no samples. Every candidate is noise with a random spectrum (white to 1/f^2), contrast and
 * offset per channel. Where the graph still had BatchNormalization, each layer's stored mean and deviation say what its input
 * looked like in training: candidates are run, scored by how far their own statistics are from the stored ones (the distance of
 * ZeroQ, arXiv 2001.00281, without its gradient), the best are varied, and the best of all are kept. Without
 * BatchNormalization the prior is all there is: pixels spread over 0..255 put through the card's preprocessing, or standard
 * normal values where the card says nothing.
 */
export async function syntheticSamples(
  prepared: PreparedModel,
  options: { count: number; threads: number },
  runtime: Runtime,
  signal: AbortSignal,
  progress: Progress,
): Promise<SampleReader> {
  const random = xorshift32(20230919);
  const candidates = Array.from({ length: options.count * 2 }, () => draw(prepared, random));
  const kept =
    prepared.batchNorms.length === 0
      ? candidates.slice(0, options.count)
      : await select(prepared, candidates, options, random, runtime, signal, progress);
  const source = prepared.batchNorms.length === 0 ? 'prior' : 'batch-norm';
  return {
    count: kept.length,
    source,
    digest: `synthetic:${source}:${options.count}:1`,
    read: async (index) => render(prepared, kept[index]!),
  };
}

/** What a synthetic image is drawn from. */
interface Recipe {
  readonly seed: number;
  /** Exponent of the power spectrum, 0 (white) to 2 (cloudy). */
  readonly smoothness: number;
  /** Per channel, in units of the input's prior deviation. */
  readonly contrast: readonly number[];
  readonly offset: readonly number[];
}

function draw(prepared: PreparedModel, random: () => number): Recipe {
  const gaussian = normal(random);
  const channels = channelCount(prepared);
  const contrast = 0.4 + random();
  const offset = 0.5 * gaussian();
  return {
    seed: Math.floor(random() * 2 ** 31),
    smoothness: random() * 2,
    contrast: Array.from({ length: channels }, () => contrast * (0.8 + 0.4 * random())),
    offset: Array.from({ length: channels }, () => offset + 0.2 * gaussian()),
  };
}

function vary(recipe: Recipe, random: () => number): Recipe {
  const gaussian = normal(random);
  return {
    seed: random() < 0.5 ? recipe.seed : Math.floor(random() * 2 ** 31),
    smoothness: Math.max(0, Math.min(2.5, recipe.smoothness + 0.25 * gaussian())),
    contrast: recipe.contrast.map((value) => Math.max(0.05, value * Math.exp(0.2 * gaussian()))),
    offset: recipe.offset.map((value) => value + 0.15 * gaussian()),
  };
}

function channelCount(prepared: PreparedModel): number {
  const axis = prepared.card.input.layout.indexOf('C');
  return axis >= 0 && prepared.inputDims.length > 2 ? prepared.inputDims[axis]! : 1;
}

/** Mean and deviation of the input before any sample is seen. */
function inputPrior(prepared: PreparedModel, channel: number): { mean: number; deviation: number } {
  const { scale, zeroPoint = 0, mean = [0], std = [1] } = prepared.card.preprocess;
  if (scale === undefined && prepared.card.preprocess.mean === undefined) return { mean: 0, deviation: 1 };
  const deviation = std[channel] ?? std[0]!;
  const toInput = (pixel: number) => ((pixel - zeroPoint) * (scale ?? 1) - (mean[channel] ?? mean[0]!)) / deviation;
  // Photographs have a mean near the middle of the pixel range and a deviation of about a quarter of it.
  return { mean: toInput(zeroPoint === 0 ? 118 : zeroPoint), deviation: Math.abs(toInput(64) - toInput(0)) };
}

function render(prepared: PreparedModel, recipe: Recipe): Float32Array {
  const dims = prepared.inputDims;
  const result = new Float32Array(dims.reduce((a, b) => a * b, 1));
  const channels = channelCount(prepared);
  const size = result.length / channels;
  const width = dims[dims.length - 1]!;
  const channelAxis = prepared.card.input.layout.indexOf('C');
  const isInterleaved = channelAxis === dims.length - 1 && dims.length > 2;
  for (let channel = 0; channel < channels; channel++) {
    const { mean, deviation } = inputPrior(prepared, channel);
    const field = noiseField(
      size,
      dims.length > 2 ? width : size,
      recipe.smoothness,
      xorshift32(recipe.seed + (channel >> 2)),
    );
    for (let i = 0; i < size; i++) {
      const index = isInterleaved ? i * channels + channel : channel * size + i;
      result[index] = mean + deviation * (recipe.offset[channel]! + recipe.contrast[channel]! * field[i]!);
    }
  }
  return result;
}

/** Noise of unit variance: white noise summed over octaves of box averaging, coarse ones weighted by the smoothness. */
function noiseField(size: number, width: number, smoothness: number, random: () => number): Float32Array {
  const gaussian = normal(random);
  const height = Math.max(1, Math.floor(size / width));
  const field = new Float32Array(size);
  for (let cell = 1; cell <= Math.max(1, Math.min(width, height) / 2); cell *= 2) {
    const columns = Math.ceil(width / cell) + 1;
    const grid = Float32Array.from({ length: columns * (Math.ceil(height / cell) + 1) }, gaussian);
    const weight = cell ** (smoothness / 2);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const [gx, gy] = [Math.floor(x / cell), Math.floor(y / cell)];
        const [fx, fy] = [(x % cell) / cell, (y % cell) / cell];
        const at = (dx: number, dy: number) => grid[(gy + dy) * columns + gx + dx]!;
        field[y * width + x]! +=
          weight * ((1 - fy) * ((1 - fx) * at(0, 0) + fx * at(1, 0)) + fy * ((1 - fx) * at(0, 1) + fx * at(1, 1)));
      }
    }
  }
  let sum = 0;
  let squares = 0;
  for (const value of field) {
    sum += value;
    squares += value * value;
  }
  const mean = sum / size;
  const deviation = Math.sqrt(Math.max(squares / size - mean * mean, 1e-12));
  return field.map((value) => (value - mean) / deviation);
}

/** Runs candidates, keeps those nearest to the stored statistics, varies them, and repeats. */
async function select(
  prepared: PreparedModel,
  candidates: readonly Recipe[],
  options: { count: number; threads: number },
  random: () => number,
  runtime: Runtime,
  signal: AbortSignal,
  progress: Progress,
): Promise<Recipe[]> {
  const tensors = prepared.batchNorms.filter((norm) => prepared.shapes.has(norm.tensor));
  const outputs = tensors.map((norm) => ({ name: norm.tensor, type: 'float32' as const, shape: null }));
  const session = await runtime.open(encode({ ...prepared.model, graph: { ...prepared.model.graph, outputs } }), {
    threads: options.threads,
  });
  try {
    const score = async (recipe: Recipe) => {
      signal.throwIfAborted();
      const feeds = new Map([[prepared.card.input.name, { dims: prepared.inputDims, data: render(prepared, recipe) }]]);
      const values = await session.run(feeds);
      let distance = 0;
      for (const norm of tensors) {
        distance += statisticsDistance(values.get(norm.tensor)!.data as Float32Array, norm.beta, norm.gamma);
      }
      return { recipe, distance };
    };
    const generations = 3;
    let pool: { recipe: Recipe; distance: number }[] = [];
    let next = [...candidates];
    for (let generation = 0; generation < generations; generation++) {
      for (const [index, recipe] of next.entries()) {
        pool.push(await score(recipe));
        progress(
          (generation + (index + 1) / next.length) / generations,
          'fitting synthetic inputs to batch statistics',
        );
      }
      pool = pool.sort((a, b) => a.distance - b.distance).slice(0, options.count);
      next = pool.map(({ recipe }) => vary(recipe, random));
    }
    return pool.map(({ recipe }) => recipe);
  } finally {
    await session.close();
  }
}

/**
 * Distance between a BatchNormalization output's per-channel mean and deviation and what it had in training, which is its shift
 * (beta) and the magnitude of its scale (gamma), in units of that deviation.
 */
function statisticsDistance(values: Float32Array, beta: Float32Array, gamma: Float32Array): number {
  const channels = beta.length;
  const size = values.length / channels;
  let distance = 0;
  for (let channel = 0; channel < channels; channel++) {
    let sum = 0;
    let squares = 0;
    for (let i = channel * size; i < (channel + 1) * size; i++) {
      sum += values[i]!;
      squares += values[i]! * values[i]!;
    }
    const mean = sum / size;
    const deviation = Math.sqrt(Math.max(squares / size - mean * mean, 0));
    const unit = Math.max(Math.abs(gamma[channel]!), 1e-3);
    distance += ((mean - beta[channel]!) / unit) ** 2 + ((deviation - unit) / unit) ** 2;
  }
  return distance / channels;
}
