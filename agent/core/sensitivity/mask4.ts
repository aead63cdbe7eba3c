import { type Estimator, extrapolated, measuredSensitivity } from './estimator.js';

/** Both softmaxes are softened: a few samples near a decision border would otherwise decide the ranking. */
const temperature = 4;

/**
 * The stronger form of mask-guided estimation at the same number of passes: instead of masking a random share of a tensor, all of
 * it takes its 4-bit values.
 */
export const mask4: Estimator = {
  name: 'mask4',
  summary: 'each tensor at its 4-bit values, softened KL, other precisions by energy ratio; a pass per tensor',
  estimate: (site, context) =>
    extrapolated(site, context, (bits) =>
      measuredSensitivity(site, bits, context.samples, (sample, output) =>
        context.divergence(sample, output, temperature),
      ),
    ),
};
