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
 * least squared error behind the activation function. And what a few samples say of a mean is shrunk by how much they differ
 * (James and Stein): where rounding did no harm, correcting would only add noise.
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
    const before = new Means();
    const behind = new Means();
    for (const pair of pairs) {
      let difference = 0;
      let activatedDifference = 0;
      const start = count;
      for (let position = 0; position < perSample; position += stride) {
        const at = Math.floor(position);
        const index = (Math.floor(at / inner) * channels + channel) * inner + (at % inner);
        const a = pair.float[index]!;
        const b = pair.rounded[index]!;
        const activated = a < low ? low : a > high ? high : a;
        difference += a - b;
        activatedDifference += activated - (b < low ? low : b > high ? high : b);
        float[count] = activated;
        rounded[count] = b;
        count++;
      }
      before.add(difference / (count - start));
      behind.add(activatedDifference / (count - start));
    }
    const [whole, activated] = [before.shrunk(), behind.shrunk()];
    let best = 0;
    let bestError = Number.POSITIVE_INFINITY;
    for (const candidate of [0, whole, activated, whole / 2, activated / 2]) {
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

/** A mean over samples, and how far it can be trusted. */
class Means {
  #count = 0;
  #sum = 0;
  #squares = 0;

  add(value: number): void {
    this.#count++;
    this.#sum += value;
    this.#squares += value * value;
  }

  /** The mean times the share of its square that is not explained by the samples' own spread; whole where there is but one sample. */
  shrunk(): number {
    const mean = this.#sum / this.#count;
    if (this.#count < 2 || mean === 0) return Number.isFinite(mean) ? mean : 0;
    const variance = Math.max(0, this.#squares / this.#count - mean * mean) / (this.#count - 1);
    return mean * Math.max(0, 1 - variance / (mean * mean));
  }
}
