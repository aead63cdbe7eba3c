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
  /**
   * Model output for a sample with the site's values replaced; costs (the rest of) a forward pass. With the very values that
   * `quantized` answered, also the operator's bias is as it is deployed with them.
   */
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
  /** Squared output error of a sample: `logitVariance`, or the normalised squared distance where the output is no softmax. */
  squaredError(sample: number, output: Float32Array): number;
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
  /** Samples beyond which it gains nothing: it is not given more. Absent: the more the better. */
  readonly samplesMost?: number;
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

/** Mean over the samples of what `measure` says of the output with the site quantized at `bits`. */
export async function measuredSensitivity(
  site: Site,
  bits: number,
  samples: number,
  measure: (sample: number, output: Float32Array) => number,
): Promise<number> {
  let sum = 0;
  for (let sample = 0; sample < samples; sample++)
    sum += measure(sample, await site.forward(sample, site.quantized(bits, sample)));
  return sum / samples;
}

const probedBits = 4;
/** Samples that energies are compared over: their ratios hardly differ from one sample to another. */
const energySamples = 4;

/**
 * Sensitivities from a measurement at 4 bits. More bits follow by the ratio of quantization energies, which holds from 4 bits upwards
 * (error grows as energy to the power 1.04 to 1.08 between 8 and 4 bits, measured); 2 and 3 bits are measured as well.
 */
export async function extrapolated(
  site: Site,
  { bits, samples }: Pick<EstimatorContext, 'bits' | 'samples'>,
  measured: (bits: number) => Promise<number>,
): Promise<BitSensitivity> {
  const result = new Map<number, number>();
  const probed = bits.some((width) => width >= probedBits) ? await measured(probedBits) : 0;
  const energyAt = (width: number) => quantizationEnergy(site, width, Math.min(energySamples, samples));
  const probedEnergy = energyAt(probedBits);
  for (const width of bits) {
    if (width === probedBits) result.set(width, probed);
    else if (width < probedBits) result.set(width, await measured(width));
    else result.set(width, probedEnergy === 0 ? 0 : (probed * energyAt(width)) / probedEnergy);
  }
  return result;
}
