/** What correcting a bias starts from: an operator's output without activation function, by the float and by the rounded weights. */
export interface OutputPair {
  readonly float: Float32Array;
  readonly rounded: Float32Array;
}

/** Where the values of a channel lie: index = (outer * channels + channel) * inner + k. */
export interface ChannelsOf {
  readonly channels: number;
  readonly inner: number;
}

/** Positions of a channel that are looked at: the error of a mean over so many is far below a step. */
const positionsMost = 4096;

/**
 * Corrections of a bias, one for each output channel, that bring the mean of what the rounded operator computes to the float one's.
 *
 * Matching the means in front of the activation function, as is usual (DFQ, arXiv 1906.04721), can destroy a model: noise widens the
 * distribution, equal means push rare positive values below zero, and it compounds from layer to layer. So each channel chooses between
 * none of it, half and all of it, and the same of the difference of the means behind the activation function: whichever leaves the
 * least squared error behind the activation function.
 *
 * @param pairs one for each sample
 * @param clamp the activation function, as bounds; null: none
 */
export function guardedCorrections(
  pairs: readonly OutputPair[],
  { channels, inner }: ChannelsOf,
  clamp: readonly [number, number] | null,
): Float64Array {
  const [low, high] = clamp ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  const perSample = (pairs[0]?.float.length ?? 0) / channels;
  const stride = Math.max(1, (perSample * pairs.length) / positionsMost);
  const most = Math.ceil((perSample / stride + 1) * pairs.length);
  const [float, rounded] = [new Float64Array(most), new Float64Array(most)];
  const corrections = new Float64Array(channels);
  for (let channel = 0; channel < channels; channel++) {
    let count = 0;
    let difference = 0;
    let activatedDifference = 0;
    for (const pair of pairs) {
      for (let position = 0; position < perSample; position += stride) {
        const at = Math.floor(position);
        const index = (Math.floor(at / inner) * channels + channel) * inner + (at % inner);
        const a = pair.float[index]!;
        const b = pair.rounded[index]!;
        const activated = Math.min(high, Math.max(low, a));
        difference += a - b;
        activatedDifference += activated - Math.min(high, Math.max(low, b));
        float[count] = activated;
        rounded[count] = b;
        count++;
      }
    }
    difference /= Math.max(1, count);
    activatedDifference /= Math.max(1, count);
    let best = 0;
    let bestError = Number.POSITIVE_INFINITY;
    for (const candidate of [0, difference, activatedDifference, difference / 2, activatedDifference / 2]) {
      let error = 0;
      for (let k = 0; k < count; k++) {
        const value = rounded[k]! + candidate;
        const distance = (value < low ? low : value > high ? high : value) - float[k]!;
        error += distance * distance;
      }
      if (error < bestError) {
        bestError = error;
        best = candidate;
      }
    }
    corrections[channel] = best;
  }
  return corrections;
}
