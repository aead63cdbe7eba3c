/** How far a quantized output is from the float output. All take flat float32 outputs of equal length. */

/** Log-probabilities below this count as this: float32 softmax outputs carry no more information there. */
const logFloor = -20;

/** Divergence of an output that is no answer at all (NaN, infinite): as bad as it gets, and still a number to add up. */
const worst = 1e6;

/** log softmax(values / temperature). */
export function logSoftmax(values: Float32Array, temperature = 1): Float64Array {
  const result = new Float64Array(values.length);
  let highest = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < values.length; i++) {
    result[i] = values[i]! / temperature;
    if (result[i]! > highest) highest = result[i]!;
  }
  let sum = 0;
  for (let i = 0; i < result.length; i++) sum += Math.exp(result[i]! - highest);
  const shift = highest + Math.log(sum);
  for (let i = 0; i < result.length; i++) result[i] = result[i]! - shift;
  return result;
}

/** KL(softmax(reference / T) || softmax(other / T)) in nats, log-probabilities clamped at -20; zero or more. */
export function klDivergence(reference: Float32Array, other: Float32Array, temperature = 1): number {
  const p = logSoftmax(reference, temperature);
  const q = logSoftmax(other, temperature);
  let sum = 0;
  for (let i = 0; i < p.length; i++) {
    sum += Math.exp(p[i]!) * (Math.max(p[i]!, logFloor) - Math.max(q[i]!, logFloor));
  }
  // Clamping can leave a rounding-sized negative; a NaN output is as far away as can be.
  return Number.isNaN(sum) ? worst : Math.min(worst, Math.max(0, sum));
}

/**
 * Half the variance, over the classes, of what logits changed by, in nats: what T^2 KL at temperature T tends to as T grows, or the
 * second-order KL of a sample whose classes are all equally likely. A shift of all logits is no change. Unlike KL it does not
 * depend on how sure a sample is, and where errors are independent it adds up.
 */
export function logitVariance(reference: Float32Array, other: Float32Array): number {
  const count = Math.max(1, reference.length);
  let mean = 0;
  for (let i = 0; i < reference.length; i++) mean += (other[i]! - reference[i]!) / count;
  let variance = 0;
  for (let i = 0; i < reference.length; i++) variance += (other[i]! - reference[i]! - mean) ** 2 / count;
  return Number.isFinite(variance) ? Math.min(worst, variance / 2) : worst;
}

/** Mean squared difference over the variance of the reference: 0 is equal, 1 is as bad as answering the mean. */
export function normalizedSquaredDistance(reference: Float32Array, other: Float32Array): number {
  const { error, variance } = errorAndVariance(reference, other);
  if (error === 0) return 0;
  const distance = error / Math.max(variance, 1e-30);
  return Number.isFinite(distance) ? Math.min(worst, distance) : worst;
}

/** 10 log10(signal energy / error energy), Infinity for equal outputs. */
export function sqnrDb(signalEnergy: number, errorEnergy: number): number {
  return errorEnergy === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(signalEnergy / errorEnergy);
}

/** Sums of squares of a reference and of another's difference from it. */
export function energies(reference: Float32Array, other: Float32Array): { signal: number; error: number } {
  let signal = 0;
  let error = 0;
  for (let i = 0; i < reference.length; i++) {
    signal += reference[i]! * reference[i]!;
    error += (other[i]! - reference[i]!) ** 2;
  }
  return { signal, error };
}

function errorAndVariance(reference: Float32Array, other: Float32Array): { error: number; variance: number } {
  const count = Math.max(1, reference.length);
  let mean = 0;
  for (let i = 0; i < reference.length; i++) mean += reference[i]! / count;
  let error = 0;
  let variance = 0;
  for (let i = 0; i < reference.length; i++) {
    error += (other[i]! - reference[i]!) ** 2 / count;
    variance += (reference[i]! - mean) ** 2 / count;
  }
  return { error, variance };
}

/** Index of the largest value; the first of equals. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
