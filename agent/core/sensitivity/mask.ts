import { xorshift32 } from '../random.js';
import { type Estimator, errorEnergy, quantizationEnergy } from './estimator.js';

/** Share of a tensor that is set to zero. */
const maskedShare = 0.05;

/**
 * Mask-guided quantization estimation (MQE, OHQ arXiv 2309.01945, in the reconstruction measured best): a random 5 % of a tensor
 * is zeroed, freshly for every sample, and the KL divergence of the outputs is divided by the energy that was removed (ratio of
 * sums, not mean of ratios). A width's sensitivity is that ratio times the energy of its quantization error.
 *
 * @param seed varies the masks, to see how much they matter
 */
export function maskEstimator(seed = 0): Estimator {
  return {
    name: 'mask',
    summary:
      'a random 5 % of each tensor set to zero, KL per removed energy; a pass per tensor, needs no quantizer (MQE)',
    async estimate(site, context) {
      // Over-confident models are softened, or their few uncertain samples would decide alone.
      const temperature = [1, 2].find((candidate) => context.topProbability(candidate) <= 0.9) ?? 4;
      let divergence = 0;
      let removed = 0;
      for (let sample = 0; sample < context.samples; sample++) {
        const values = site.values(sample);
        const masked = maskOut(
          values,
          xorshift32(site.seed ^ Math.imul(sample + 1, 0x9e3779b1) ^ Math.imul(seed, 0x85ebca6b)),
        );
        divergence += context.divergence(sample, await site.forward(sample, masked), temperature);
        removed += errorEnergy(values, masked);
      }
      const perEnergy = removed > 0 ? divergence / removed : 0;
      return new Map(
        context.bits.map((bits) => [
          bits,
          (perEnergy * quantizationEnergy(site, bits, context.samples)) / context.samples,
        ]),
      );
    },
  };
}

function maskOut(values: Float32Array, random: () => number): Float32Array {
  const masked = values.slice();
  let count = 0;
  for (let i = 0; i < masked.length; i++) {
    if (random() < maskedShare) {
      masked[i] = 0;
      count++;
    }
  }
  // A tensor of a few values must lose at least one.
  if (count === 0 && masked.length > 0) masked[Math.floor(random() * masked.length)] = 0;
  return masked;
}

/** Mask-guided estimation with the masks of seed 0, which are the same in every run. */
export const mask = maskEstimator();
