import { energies } from '../divergence.js';
import type { Estimator } from './estimator.js';

/** Relative energy of the quantization error of the tensor itself. No forward pass; the baseline that others must beat. */
export const perturbation: Estimator = {
  name: 'perturbation',
  summary: 'relative quantization error of the tensor itself; no pass at all, a baseline only',
  async estimate(site, context) {
    const samples = site.kind === 'weight' ? 1 : context.samples;
    const result = new Map<number, number>();
    for (const bits of context.bits) {
      let signal = 0;
      let error = 0;
      for (let sample = 0; sample < samples; sample++) {
        const sums = energies(site.values(sample), site.quantized(bits, sample));
        signal += sums.signal;
        error += sums.error;
      }
      result.set(bits, signal > 0 ? error / signal : 0);
    }
    return result;
  },
};
