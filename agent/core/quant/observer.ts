import type { Range } from '../../../configs/contracts/plan.js';

/** Rules that turn what an observer saw into a range. */
export const rangeRules = ['minmax', 'percentile', 'mse', 'entropy'] as const;

/** How a range is chosen: all that was seen, without the outermost values, of least squared error, or of least divergence. */
export type RangeRule = (typeof rangeRules)[number];

const binCount = 2048;

/** Values of one sample, about, that go into the histogram. */
const sampledValues = 65536;

/** One weight for each channel; a channel's values lie `inner` beside each other. */
export interface ChannelWeights {
  readonly values: Float64Array;
  readonly inner: number;
}

/**
 * Watches one activation tensor over a calibration set in bounded memory: exact minimum and maximum, and a histogram of 2048
 * bins over [-bound, bound] whose bound doubles (neighbouring bins merged) whenever a value falls outside. No sample is kept.
 */
export class Observer {
  #minimum = Number.POSITIVE_INFINITY;
  #maximum = Number.NEGATIVE_INFINITY;
  #bound = 0;
  #bins = new Float64Array(binCount);
  #count = 0;
  /** Exact zeros, which every grid represents without error; they are also in the middle bin. */
  #zeros = 0;

  /** Number of values in the histogram. */
  get count(): number {
    return this.#count;
  }

  /**
   * Adds the values of one sample. NaN and infinities are ignored. Minimum and maximum see every value; the histogram of a large
   * tensor takes every k-th, tens of thousands a sample, which is far more than a range rule can tell apart.
   *
   * @param weights how much an error counts, by channel; the histogram is of weights then
   */
  add(values: Float32Array, weights: ChannelWeights | null = null): void {
    let minimum = this.#minimum;
    let maximum = this.#maximum;
    for (let i = 0; i < values.length; i++) {
      const value = values[i]!;
      if (value < minimum && value !== Number.NEGATIVE_INFINITY) minimum = value;
      if (value > maximum && value !== Number.POSITIVE_INFINITY) maximum = value;
    }
    if (minimum > maximum) return;
    this.#minimum = minimum;
    this.#maximum = maximum;
    this.#growTo(Math.max(-minimum, maximum));
    const bins = this.#bins;
    const perUnit = this.#bound > 0 ? binCount / 2 / this.#bound : 0;
    const half = binCount / 2;
    let seen = 0;
    let zeros = 0;
    // Not a whole number, or it would fall into step with channels that lie beside each other.
    const stride = values.length <= sampledValues ? 1 : (values.length / sampledValues) * 1.000618;
    for (let at = 0; at < values.length; at += stride) {
      const value = values[at | 0]!;
      const weight = weights === null ? 1 : weights.values[Math.floor(at / weights.inner) % weights.values.length]!;
      if (value === 0) zeros += weight;
      const position = value * perUnit + half;
      if (position >= 0 && position <= binCount) {
        const bin = position | 0;
        bins[bin === binCount ? binCount - 1 : bin]! += weight;
        seen += weight;
      }
    }
    this.#count += seen;
    this.#zeros += zeros;
  }

  /**
   * The range for `bits`-bit unsigned codes by one of the rules; it always contains zero. An observer that saw nothing answers
   * [0, 0].
   */
  range(rule: RangeRule, bits: number, percentile = 0.9999): Range {
    if (this.#count === 0) return { minimum: 0, maximum: 0 };
    const whole = { minimum: Math.min(this.#minimum, 0), maximum: Math.max(this.#maximum, 0) };
    switch (rule) {
      case 'minmax':
        return whole;
      case 'percentile':
        return this.#percentile(whole, percentile);
      case 'mse':
        return this.#search(whole, (candidate) => this.#squaredError(candidate, bits));
      case 'entropy':
        return this.#search(whole, (candidate) => this.#divergence(candidate, bits));
    }
  }

  #growTo(bound: number): void {
    if (bound <= this.#bound || bound === 0) return;
    if (this.#bound === 0) {
      // Values seen so far were all zero and lie in the middle bin, which stays the middle bin at every bound.
      this.#bound = 2 ** Math.ceil(Math.log2(bound));
      return;
    }
    while (this.#bound < bound) {
      const merged = new Float64Array(binCount);
      for (let bin = 0; bin < binCount; bin++) merged[binCount / 4 + (bin >> 1)]! += this.#bins[bin]!;
      this.#bins = merged;
      this.#bound *= 2;
    }
  }

  #binCentre(bin: number): number {
    return ((bin + 0.5) / (binCount / 2) - 1) * this.#bound;
  }

  #percentile(whole: Range, percentile: number): Range {
    const allowed = this.#count * (1 - percentile);
    let minimum = whole.minimum;
    let maximum = whole.maximum;
    for (let bin = 0, outside = 0; bin < binCount; bin++) {
      outside += this.#bins[bin]!;
      if (outside > allowed) {
        minimum = Math.max(whole.minimum, Math.min(0, this.#binCentre(bin) - this.#bound / binCount));
        break;
      }
    }
    for (let bin = binCount - 1, outside = 0; bin >= 0; bin--) {
      outside += this.#bins[bin]!;
      if (outside > allowed) {
        maximum = Math.min(whole.maximum, Math.max(0, this.#binCentre(bin) + this.#bound / binCount));
        break;
      }
    }
    return { minimum, maximum };
  }

  /** The range of least `loss` among shrunken copies of `whole`: both sides together first, then each side alone. */
  #search(whole: Range, loss: (candidate: Range) => number): Range {
    let best = whole;
    let bestLoss = loss(whole);
    const consider = (minimum: number, maximum: number) => {
      const candidate = { minimum, maximum };
      const candidateLoss = loss(candidate);
      if (candidateLoss < bestLoss) {
        best = candidate;
        bestLoss = candidateLoss;
      }
    };
    for (let step = 1; step < 48; step++) {
      const factor = 1 - step / 50;
      consider(whole.minimum * factor, whole.maximum * factor);
    }
    const { minimum, maximum } = best;
    for (let step = 0; step < 24; step++) {
      const factor = 1.2 - step / 24;
      consider(Math.max(whole.minimum, minimum * factor), maximum);
      consider(minimum, Math.min(whole.maximum, maximum * factor));
    }
    return best;
  }

  /** Expected squared error of `bits`-bit codes over the candidate range, from the histogram. */
  #squaredError(candidate: Range, bits: number): number {
    const step = (candidate.maximum - candidate.minimum) / (2 ** bits - 1);
    if (!(step > 0)) return Number.POSITIVE_INFINITY;
    // Zero must be a code: shift the grid as the zero point will.
    const minimum = -Math.round(-candidate.minimum / step) * step;
    const maximum = minimum + step * (2 ** bits - 1);
    let error = 0;
    for (let bin = 0; bin < binCount; bin++) {
      const weight = bin === binCount / 2 ? this.#bins[bin]! - this.#zeros : this.#bins[bin]!;
      if (weight === 0) continue;
      const value = this.#binCentre(bin);
      if (value < minimum) error += weight * (minimum - value) ** 2;
      else if (value > maximum) error += weight * (value - maximum) ** 2;
      else error += weight * (value - minimum - Math.round((value - minimum) / step) * step) ** 2;
    }
    return error;
  }

  /**
   * Kullback-Leibler divergence between the histogram and what is left of it after `bits`-bit codes over the candidate range,
   * with clipped mass counted into the outermost code (the rule TensorRT made known).
   */
  #divergence(candidate: Range, bits: number): number {
    const step = (candidate.maximum - candidate.minimum) / (2 ** bits - 1);
    if (!(step > 0)) return Number.POSITIVE_INFINITY;
    const codes = 2 ** bits;
    const mass = new Float64Array(codes);
    const occupied = new Float64Array(codes);
    const codeOf = (bin: number) => {
      const code = Math.round((this.#binCentre(bin) - candidate.minimum) / step);
      return Math.max(0, Math.min(codes - 1, code));
    };
    for (let bin = 0; bin < binCount; bin++) {
      const weight = this.#bins[bin]!;
      if (weight === 0) continue;
      const value = this.#binCentre(bin);
      // Clipped mass is in the reference but not in what the codes can spread out again.
      if (value >= candidate.minimum && value <= candidate.maximum) mass[codeOf(bin)]! += weight;
      occupied[codeOf(bin)]! += value >= candidate.minimum && value <= candidate.maximum ? 1 : 0;
    }
    const reference = new Float64Array(binCount);
    let first = -1;
    let last = -1;
    let below = 0;
    let above = 0;
    for (let bin = 0; bin < binCount; bin++) {
      const value = this.#binCentre(bin);
      const weight = this.#bins[bin]!;
      if (value < candidate.minimum) below += weight;
      else if (value > candidate.maximum) above += weight;
      else {
        if (first < 0) first = bin;
        last = bin;
        reference[bin] = weight;
      }
    }
    if (first < 0) return Number.POSITIVE_INFINITY;
    reference[first]! += below;
    reference[last]! += above;
    let divergence = 0;
    let kept = 0;
    for (const value of mass) kept += value;
    for (let bin = first; bin <= last; bin++) {
      const p = reference[bin]! / this.#count;
      if (p === 0) continue;
      const code = codeOf(bin);
      const q = occupied[code]! > 0 && kept > 0 ? mass[code]! / occupied[code]! / kept : 0;
      divergence += p * Math.log(p / Math.max(q, 1e-12));
    }
    return divergence;
  }
}
