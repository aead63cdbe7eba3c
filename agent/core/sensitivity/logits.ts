import { type Estimator, extrapolated, measuredSensitivity } from './estimator.js';

/**
 * Squares of logits vary less from sample to sample than divergences do: plans were ranked alike by 16 samples and by 32, and tensors
 * at 2 bits, where errors are large, by 4 and by 16.
 */
const samplesMost = { ordinary: 16, coarse: 4 };

/**
 * Squared error of the logits, each tensor at its 4-bit values. Independent errors add up in squares, whereas a divergence
 * saturates, and is decided by the few samples near a decision border: sums of it rank whole plans worse, softened or not.
 */
export const logits: Estimator = {
  name: 'logits',
  summary:
    'each tensor at its 4-bit values, squared error of the logits, other precisions by energy ratio; a pass per tensor (default)',
  estimate(site, context) {
    const samples = Math.min(samplesMost.ordinary, context.samples);
    const coarse = Math.min(samplesMost.coarse, samples);
    return extrapolated(site, { bits: context.bits, samples }, (bits) =>
      measuredSensitivity(site, bits, bits < 4 ? coarse : samples, context.squaredError),
    );
  },
};
