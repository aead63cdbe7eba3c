import { type Estimator, extrapolated, measuredSensitivity } from './estimator.js';

/** Squares of many logits vary little from sample to sample: rankings of plans by 16 samples and by 32 were alike. */
const samplesMost = 16;

/**
 * Squared error of the logits, each tensor at its 4-bit values. Independent errors add up in squares, whereas a divergence
 * saturates, and is decided by the few samples near a decision border: sums of it rank whole plans worse, softened or not.
 */
export const logits: Estimator = {
  name: 'logits',
  summary:
    'each tensor at its 4-bit values, squared error of the logits, other precisions by energy ratio; a pass per tensor (default)',
  estimate(site, context) {
    const samples = Math.min(samplesMost, context.samples);
    return extrapolated(site, { bits: context.bits, samples }, (bits) =>
      measuredSensitivity(site, bits, samples, context.squaredError),
    );
  },
};
