/** Layer-wise rounding against brute force: all integer weights of tiny operators, and outputs computed from the definition. */
import t from 'tap';
import type { RoundingLayer, RoundingWindow } from '../../configs/contracts/rounding.js';
import { roundLayer } from '../../native/index.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();
const random = new Random(seed);

/** A small operator with correlated inputs, as activations are. */
function randomLayer(r: Random, changes: Partial<RoundingWindow> = {}): RoundingLayer {
  const base = {
    channelsPerGroup: 1 + r.below(3),
    inHeight: 3 + r.below(4),
    inWidth: 3 + r.below(4),
    kernelHeight: 1 + r.below(3),
    kernelWidth: 1 + r.below(3),
    strideY: 1 + r.below(2),
    strideX: 1 + r.below(2),
    dilationY: 1,
    dilationX: 1,
    padTop: r.below(2),
    padLeft: r.below(2),
    ...changes,
  };
  const { inHeight, inWidth, kernelHeight, kernelWidth, strideY, strideX, padTop, padLeft } = base;
  const window: RoundingWindow = {
    channelStride: inHeight * inWidth,
    rowStride: inWidth,
    columnStride: 1,
    // What lies beyond the lower and the right border is padding too.
    outHeight: Math.floor((inHeight + 2 * padTop - kernelHeight) / strideY) + 1,
    outWidth: Math.floor((inWidth + 2 * padLeft - kernelWidth) / strideX) + 1,
    ...base,
  };
  const groups = 1 + r.below(3);
  const rows = 1 + r.below(4);
  const inner = window.channelsPerGroup * kernelHeight * kernelWidth;
  const elements = groups * window.channelsPerGroup * inHeight * inWidth;
  const [scale, zero] = [0.05, r.below(120)];
  const references = Array.from({ length: 3 + r.below(6) }, () => {
    let value = 0;
    return Float32Array.from({ length: elements }, () => {
      value = 0.7 * value + r.normal();
      return value;
    });
  });
  const codes = references.map((sample) =>
    Uint8Array.from(sample, (value) =>
      Math.max(0, Math.min(255, Math.round((value + 0.1 * r.normal()) / scale) + zero)),
    ),
  );
  return {
    window,
    groups,
    rows,
    weights: r.floats(groups * rows * inner),
    codes,
    scale,
    zero,
    references,
    limit: r.pick([1, 3, 7]),
    leastScales: new Float32Array(groups * rows),
    damping: 0.01,
    targetDamping: 0.05,
    factors: Float32Array.of(0.8, 0.87, 0.94, 1, 1.07, 1.15),
    sweeps: 2,
    positions: 100_000,
  };
}

/** Every position's operand, of one group: [position][channel, kernel row, kernel column]. */
function operands(layer: RoundingLayer, group: number, valueAt: (sample: number, index: number) => number): number[][] {
  const { window: w, codes } = layer;
  const rows: number[][] = [];
  for (let sample = 0; sample < codes.length; sample++)
    for (let y = 0; y < w.outHeight; y++)
      for (let x = 0; x < w.outWidth; x++) {
        const row: number[] = [];
        for (let channel = 0; channel < w.channelsPerGroup; channel++)
          for (let ky = 0; ky < w.kernelHeight; ky++)
            for (let kx = 0; kx < w.kernelWidth; kx++) {
              const [iy, ix] = [
                y * w.strideY + ky * w.dilationY - w.padTop,
                x * w.strideX + kx * w.dilationX - w.padLeft,
              ];
              const isInside = iy >= 0 && iy < w.inHeight && ix >= 0 && ix < w.inWidth;
              const at = ((group * w.channelsPerGroup + channel) * w.inHeight + iy) * w.inWidth + ix;
              row.push(isInside ? valueAt(sample, at) : 0);
            }
        rows.push(row);
      }
  return rows;
}

const dot = (a: readonly number[], b: ArrayLike<number>) => a.reduce((sum, value, k) => sum + value * b[k]!, 0);

/** Mean squared difference of two outputs about their means. */
function outputError(first: readonly number[], second: readonly number[]): number {
  const differences = first.map((value, i) => value - second[i]!);
  const mean = differences.reduce((a, b) => a + b, 0) / differences.length;
  return differences.reduce((sum, value) => sum + (value - mean) ** 2, 0) / differences.length;
}

/** Rounded to nearest, at the scale of least squared error of the weights. */
function nearest(weights: Float32Array, limit: number): number[] {
  const bound = Math.max(...weights.map(Math.abs));
  let best: number[] = [];
  let bestError = Number.POSITIVE_INFINITY;
  for (let step = 0; step <= 40; step++) {
    const scale = (bound * (1 - 0.02 * step)) / limit;
    const values = [...weights].map((value) => Math.max(-limit, Math.min(limit, Math.round(value / scale))) * scale);
    const error = values.reduce((sum, value, k) => sum + (value - weights[k]!) ** 2, 0);
    if (error < bestError) [best, bestError] = [values, error];
  }
  return best;
}

t.test('outputs come nearer to the float ones than by rounding to nearest, whatever the geometry', async (t) => {
  let [ours, plain] = [0, 0];
  for (let repeat = 0; repeat < 60; repeat++) {
    const layer = randomLayer(random);
    const { codes, scales } = await roundLayer(layer, 1 + (repeat % 3));
    const inner = layer.weights.length / (layer.groups * layer.rows);
    t.ok(codes.every((code) => Math.abs(code) <= layer.limit));
    t.equal(scales.length, layer.groups * layer.rows);
    for (let group = 0; group < layer.groups; group++) {
      const float = operands(layer, group, (sample, at) => layer.references[sample]![at]!);
      const rounded = operands(layer, group, (sample, at) => (layer.codes[sample]![at]! - layer.zero) * layer.scale);
      for (let row = 0; row < layer.rows; row++) {
        const channel = group * layer.rows + row;
        const weights = layer.weights.subarray(channel * inner, (channel + 1) * inner);
        const own = [...codes.subarray(channel * inner, (channel + 1) * inner)].map((code) => code * scales[channel]!);
        const wanted = float.map((operand) => dot(operand, weights));
        ours += outputError(
          wanted,
          rounded.map((operand) => dot(operand, own)),
        );
        plain += outputError(
          wanted,
          rounded.map((operand) => dot(operand, nearest(weights, layer.limit))),
        );
      }
    }
  }
  t.ok(ours < 0.7 * plain, `${ours.toFixed(3)} against ${plain.toFixed(3)}`);
});

t.test(
  'without references, the error is near the least there is at any of the scales, and never above that of nearest',
  async (t) => {
    let [ours, least] = [0, 0];
    for (let repeat = 0; repeat < 10; repeat++) {
      const single = { channelsPerGroup: 1, kernelHeight: 2, kernelWidth: 2, inHeight: 6, inWidth: 6 };
      const layer = { ...randomLayer(random, single), references: [], limit: 2, damping: 1e-6 };
      const { codes, scales } = await roundLayer(layer, 1);
      for (let channel = 0; channel < scales.length; channel++) {
        const group = Math.floor(channel / layer.rows);
        const inputs = operands(layer, group, (sample, at) => (layer.codes[sample]![at]! - layer.zero) * layer.scale);
        const weights = layer.weights.subarray(channel * 4, channel * 4 + 4);
        const wanted = inputs.map((operand) => dot(operand, weights));
        const errorOf = (values: ArrayLike<number>) =>
          outputError(
            wanted,
            inputs.map((operand) => dot(operand, values)),
          );
        const own = errorOf([...codes.subarray(channel * 4, channel * 4 + 4)].map((code) => code * scales[channel]!));
        const plain = nearest(weights, 2);
        t.ok(own <= errorOf(plain) * 1.001 + 1e-9, 'never above nearest');
        const base = plain.map((value) => Math.abs(value)).filter((value) => value > 0);
        const unit = Math.min(...base);
        const candidates = [...layer.factors].flatMap((factor) => [unit, unit / 2].map((scale) => scale * factor));
        let best = own;
        for (const scale of candidates)
          for (let index = 0; index < 5 ** 4; index++) {
            const values = [0, 1, 2, 3].map((digit) => ((Math.floor(index / 5 ** digit) % 5) - 2) * scale);
            best = Math.min(best, errorOf(values));
          }
        ours += own;
        least += best;
      }
    }
    t.ok(ours <= 1.25 * least, `${ours.toFixed(4)} against ${least.toFixed(4)}`);
  },
);

t.test('threads do not change the result', async (t) => {
  const layer = randomLayer(random, { channelsPerGroup: 12, inHeight: 9, inWidth: 9, kernelHeight: 3, kernelWidth: 3 });
  const wide = { ...layer, groups: 1, rows: 90, weights: random.floats(90 * 108), leastScales: new Float32Array(90) };
  t.strictSame(await roundLayer(wide, 1), await roundLayer(wide, 3));
});

t.test('a channel of zeros, and inputs that never change, are no trouble', async (t) => {
  const layer = randomLayer(random);
  const zeros = { ...layer, weights: new Float32Array(layer.weights.length) };
  t.ok((await roundLayer(zeros, 1)).codes.every((code) => code === 0));
  const dead = { ...layer, codes: layer.codes.map((sample) => new Uint8Array(sample.length).fill(layer.zero)) };
  const { scales } = await roundLayer(dead, 1);
  t.ok(scales.every((scale) => Number.isFinite(scale) && scale > 0));
});

t.test('scales stay at or above the least ones', async (t) => {
  const layer = randomLayer(random);
  const least = new Float32Array(layer.leastScales.length).fill(0.9);
  const { scales } = await roundLayer({ ...layer, leastScales: least }, 1);
  t.ok(scales.every((scale) => scale >= Math.fround(0.9)));
});

t.test('sizes that do not fit each other are refused before they reach the addon', (t) => {
  const layer = randomLayer(random);
  const wrong: Partial<RoundingLayer>[] = [
    { weights: new Float32Array(layer.weights.length + 1) },
    { rows: 0 },
    { codes: [] },
    { codes: layer.codes.map((sample) => sample.subarray(1)) },
    { references: layer.references.slice(1) },
    { limit: 128 },
    { damping: 0 },
    { leastScales: new Float32Array(0) },
    { window: { ...layer.window, strideX: 0 } },
    { positions: 0 },
  ];
  for (const change of wrong) t.throws(() => roundLayer({ ...layer, ...change }, 1), RangeError);
  t.throws(() => roundLayer(layer, 0), RangeError);
  t.end();
});
