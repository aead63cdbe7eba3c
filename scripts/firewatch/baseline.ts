/**
 * The lazy rival: softmax regression on a colour histogram. If it did well, colours alone would give the classes away and the
 * convolutions of the real model would be for show.
 */

import { Random } from './random.js';
import { classNames, type Tile } from './tiles.js';

const binsPerChannel = 4;
const featureCount = binsPerChannel ** 3;

/** 4 x 4 x 4 bins; the square root of each bin's share, which keeps small bright regions visible beside large dull ones. */
export function colourHistogram(pixels: Uint8Array): Float64Array {
  const bins = new Float64Array(featureCount);
  for (let i = 0; i < pixels.length; i += 3) {
    const red = pixels[i]! >> 6;
    const green = pixels[i + 1]! >> 6;
    const blue = pixels[i + 2]! >> 6;
    bins[(red * binsPerChannel + green) * binsPerChannel + blue]! += 1;
  }
  return bins.map((count) => Math.sqrt((count * 3) / pixels.length));
}

/** Trains on tiles (stochastic gradient descent, seeded order) and returns the classifier. */
export function trainHistogramBaseline(tiles: readonly Tile[], epochs = 60): (pixels: Uint8Array) => number {
  const stride = featureCount + 1;
  const weights = new Float64Array(classNames.length * stride);
  const features = tiles.map((tile) => colourHistogram(tile.pixels));
  const random = new Random(7);
  const logits = (x: Float64Array): number[] =>
    classNames.map((_, label) => {
      let sum = weights[label * stride + featureCount]!;
      for (let i = 0; i < featureCount; i++) sum += weights[label * stride + i]! * x[i]!;
      return sum;
    });
  for (let step = 0; step < epochs * tiles.length; step++) {
    const rate = 0.5 * (1 - step / (epochs * tiles.length));
    const chosen = random.integer(tiles.length);
    const x = features[chosen]!;
    const z = logits(x);
    const top = Math.max(...z);
    const powers = z.map((value) => Math.exp(value - top));
    const total = powers.reduce((sum, value) => sum + value, 0);
    for (let label = 0; label < classNames.length; label++) {
      const error = powers[label]! / total - (label === tiles[chosen]!.label ? 1 : 0);
      for (let i = 0; i < featureCount; i++) weights[label * stride + i]! -= rate * error * x[i]!;
      weights[label * stride + featureCount]! -= rate * error;
    }
  }
  return (pixels) => {
    const z = logits(colourHistogram(pixels));
    return z.indexOf(Math.max(...z));
  };
}
