/**
 * Value-driven patch classification (VDPC; Liang et al., "Value-Driven Mixed-Precision Quantization for Patch-Based Inference on
 * Microcontrollers" (QuantMCU), arXiv 2401.13714): activations look like a Gaussian bell, and the few values far from its middle matter most.
 * A patch that holds such a value is an outlier patch and keeps 8 bits on all of its branch; the others may have fewer. The paper has
 * no public code: which mean and deviation (here: of the stage's input over the calibration set), and which reading of the threshold
 * (here: central mass), are reconstructions.
 */
import type { Affine } from '../quant/affine.js';
import type { Region } from './patch-geometry.js';

/** A normal distribution. */
export interface Gaussian {
  readonly mean: number;
  readonly deviation: number;
}

/** Codes from `low` to `high` are not outliers; where `low` is above `high`, all are. */
export interface CodeLimits {
  readonly low: number;
  readonly high: number;
}

/** Mean and standard deviation of the values that were added, without keeping them; NaN and infinities are ignored. */
export class Moments {
  #count = 0;
  #mean = 0;
  #squares = 0;

  add(values: Float32Array): void {
    // Welford's update: sums of squares would cancel where the mean is large.
    for (const value of values) {
      if (!Number.isFinite(value)) continue;
      this.#count++;
      const from = value - this.#mean;
      this.#mean += from / this.#count;
      this.#squares += from * (value - this.#mean);
    }
  }

  /** The Gaussian of these moments; both are 0 where nothing was added. */
  fit(): Gaussian {
    return { mean: this.#mean, deviation: Math.sqrt(this.#squares / Math.max(1, this.#count)) };
  }
}

/**
 * How many standard deviations from the mean hold a share of a Gaussian in their middle: 0.96 is within 2.054.
 *
 * @throws RangeError for a share outside of (0, 1)
 */
export function deviationsOf(centralMass: number): number {
  if (!(centralMass > 0 && centralMass < 1)) throw new RangeError(`a share is between 0 and 1, not ${centralMass}`);
  // Beyond 9 deviations there is less than a double can tell from 1.
  let [below, above] = [0, 9];
  for (let step = 0; step < 60; step++) {
    const middle = (below + above) / 2;
    if (massWithin(middle) < centralMass) below = middle;
    else above = middle;
  }
  return above;
}

/** Share of a Gaussian within so many deviations: the error function by a series of positive terms, which do not cancel. */
function massWithin(deviations: number): number {
  const x = deviations / Math.SQRT2;
  let term = x;
  let sum = x;
  for (let n = 1; term > sum * 1e-17; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return Math.min(1, (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum);
}

/**
 * The limits, as codes of a grid, beyond which a value is an outlier: further from the mean than `centralMass` (the paper's threshold phi)
 * of the Gaussian is.
 *
 * @throws RangeError for a share outside of (0, 1)
 */
export function outlierLimits({ mean, deviation }: Gaussian, centralMass: number, affine: Affine): CodeLimits {
  const reach = deviationsOf(centralMass) * deviation;
  const position = (value: number) => value / affine.scale + affine.zeroPoint;
  const clamp = (code: number) => Math.min(affine.codeMaximum, Math.max(affine.codeMinimum, code));
  // A limit beyond the grid leaves no code outside, and a limit on the wrong side of it leaves no code inside.
  const low = Math.ceil(position(mean - reach));
  const high = Math.floor(position(mean + reach));
  if (low > affine.codeMaximum || high < affine.codeMinimum || low > high)
    return { low: affine.codeMaximum, high: affine.codeMinimum };
  return { low: clamp(low), high: clamp(high) };
}

/** The codes of one image, channel by channel. */
export interface CodeImage {
  readonly codes: Uint8Array;
  readonly channels: number;
  readonly rows: number;
  readonly columns: number;
}

/**
 * Which patches hold an outlier; each is judged by what its branch reads of the stage's input, its halo included. `true` is an outlier
 * patch. This is all that a device computes for it: least and largest code against two numbers.
 */
export function classifyPatches(
  image: CodeImage,
  windows: readonly Region[],
  { low, high }: CodeLimits,
): readonly boolean[] {
  return windows.map(({ rows, columns }) => {
    for (let channel = 0; channel < image.channels; channel++) {
      for (let row = rows.first; row < rows.end; row++) {
        const from = (channel * image.rows + row) * image.columns;
        for (let at = from + columns.first; at < from + columns.end; at++) {
          if (image.codes[at]! < low || image.codes[at]! > high) return true;
        }
      }
    }
    return false;
  });
}

/** How often each patch was an outlier patch, over samples. */
export class PatchVotes {
  readonly #outliers: number[];
  #samples = 0;

  constructor(patches: number) {
    this.#outliers = new Array<number>(patches).fill(0);
  }

  /** @param classes of one sample, as `classifyPatches` answers them */
  add(classes: readonly boolean[]): void {
    this.#samples++;
    classes.forEach((isOutlier, patch) => {
      if (isOutlier) this.#outliers[patch]!++;
    });
  }

  /** Share of the samples in which each patch was an outlier patch; 0 without samples. */
  get shares(): readonly number[] {
    return this.#outliers.map((count) => count / Math.max(1, this.#samples));
  }

  /** One class for each position, whatever the input: an outlier patch where most samples had one there. */
  get majority(): readonly boolean[] {
    return this.shares.map((share) => share > 0.5);
  }
}
