/**
 * What a sensitivity estimator is. An estimator sees one site at a time (a weight tensor or an activation tensor), may run the
 * model with that tensor replaced, and answers the output error to expect from each bit-width of it.
 */

/** One tensor whose precision is in question. */
export interface Site {
  readonly kind: 'weight' | 'activation';
  /** Initializer or activation tensor. */
  readonly name: string;
  /** Seed of the site's own random streams. */
  readonly seed: number;
  /** Float values; a weight has the same for every sample. */
  values(sample: number): Float32Array;
  /** The values that the deployed quantizer at `bits` stands for. */
  quantized(bits: number, sample: number): Float32Array;
  /** Model output for a sample with the site's values replaced; costs (the rest of) a forward pass. */
  forward(sample: number, values: Float32Array): Promise<Float32Array>;
  /** Output of the site's operator alone, with the values replaced; for an activation, the values themselves. */
  local(sample: number, values: Float32Array): Promise<Float32Array>;
}

/** How much is asked of an estimator, and how it is to judge outputs. */
export interface EstimatorContext {
  /** Number of samples that sites can be probed with. */
  readonly samples: number;
  /** Bit-widths asked for, below 32. */
  readonly bits: readonly number[];
  /** Output error of a sample at a softmax temperature (ignored where the output is no softmax). */
  divergence(sample: number, output: Float32Array, temperature: number): number;
  /** Mean largest probability of the float model at a temperature; 0 where the output is no softmax. */
  topProbability(temperature: number): number;
}

/** Expected output error of a tensor by bit-width, averaged over samples; zero or more. */
export type BitSensitivity = ReadonlyMap<number, number>;

/** A way to estimate sensitivities; the registry lists them. */
export interface Estimator {
  /** Name on the command line and in reports. */
  readonly name: string;
  /** One sentence for `--help`: what it measures and what it costs. */
  readonly summary: string;
  estimate(site: Site, context: EstimatorContext): Promise<BitSensitivity>;
}

/** Sum of squared differences. */
export function errorEnergy(values: Float32Array, other: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i]! - other[i]!) ** 2;
  return sum;
}

/** Energy of the deployed quantizer's error at `bits`, summed over the samples. */
export function quantizationEnergy(site: Site, bits: number, samples: number): number {
  // A weight is the same for every sample.
  if (site.kind === 'weight') return samples * errorEnergy(site.values(0), site.quantized(bits, 0));
  let sum = 0;
  for (let sample = 0; sample < samples; sample++)
    sum += errorEnergy(site.values(sample), site.quantized(bits, sample));
  return sum;
}

/** Mean divergence over the samples with the site quantized at `bits`. */
export async function measuredSensitivity(
  site: Site,
  bits: number,
  context: EstimatorContext,
  temperature: number,
): Promise<number> {
  let sum = 0;
  for (let sample = 0; sample < context.samples; sample++) {
    sum += context.divergence(sample, await site.forward(sample, site.quantized(bits, sample)), temperature);
  }
  return sum / context.samples;
}
