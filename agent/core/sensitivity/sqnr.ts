import { energies } from '../divergence.js';
import type { Estimator } from './estimator.js';

/**
 * Local error (QuantuneV2, arXiv 2501.07161): noise-to-signal ratio of the operator's own output, nothing run behind it. Cheap,
 * and blind to what the rest of the model does with the error.
 */
export const sqnr: Estimator = {
  name: 'sqnr',
  summary: "noise-to-signal ratio at the operator's own output (QuantuneV2); about two passes in all, weak ranking",
  async estimate(site, context) {
    const result = new Map<number, number>();
    for (const bits of context.bits) {
      let signal = 0;
      let error = 0;
      for (let sample = 0; sample < context.samples; sample++) {
        const reference = await site.local(sample, site.values(sample));
        const output = await site.local(sample, site.quantized(bits, sample));
        const sums = energies(reference, output);
        signal += sums.signal;
        error += sums.error;
      }
      result.set(bits, signal > 0 ? error / signal : 0);
    }
    return result;
  },
};
