import { type Estimator, measuredSensitivity } from './estimator.js';

/** ZeroQ (arXiv 2001.00281): quantize one tensor at a time, at every bit-width, and take the KL divergence of the outputs. */
export const exact: Estimator = {
  name: 'exact',
  summary: 'one tensor at a time at every precision, KL at temperature 1 (ZeroQ); a pass per tensor and precision',
  async estimate(site, context) {
    const kl = (sample: number, output: Float32Array) => context.divergence(sample, output, 1);
    const result = new Map<number, number>();
    for (const bits of context.bits) result.set(bits, await measuredSensitivity(site, bits, context.samples, kl));
    return result;
  },
};
