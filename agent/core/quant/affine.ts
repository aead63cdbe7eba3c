import type { Range } from '../../../configs/contracts/plan.js';

/** Affine quantization of one tensor: real = scale * (code - zeroPoint), codes in [codeMinimum, codeMaximum]. */
export interface Affine {
  /** A float32 value, so that runtimes and this program compute with the same number. */
  readonly scale: number;
  readonly zeroPoint: number;
  readonly codeMinimum: number;
  readonly codeMaximum: number;
}

/** The smallest scale used: keeps 1/scale finite in float32 for tensors that are constantly zero. */
const smallestScale = 2 ** -100;

/**
 * Unsigned asymmetric parameters covering `range`, extended to contain zero so that padding and Relu are exact. A range that
 * starts at zero gets zero point 0, which is what lets runtimes drop a Relu (the code cannot be negative).
 */
export function unsignedAffine(range: Range, bits: number): Affine {
  const codeMaximum = 2 ** bits - 1;
  const low = Math.min(range.minimum, 0);
  const high = Math.max(range.maximum, 0);
  const scale = Math.fround(Math.max((high - low) / codeMaximum, smallestScale));
  const zeroPoint = Math.min(codeMaximum, Math.max(0, Math.round(-low / scale)));
  return { scale, zeroPoint, codeMinimum: 0, codeMaximum };
}

/** Signed symmetric parameters (zero point 0), full code range: the form TensorRT asks for. */
export function symmetricAffine(range: Range, bits: number): Affine {
  const codeMaximum = 2 ** (bits - 1) - 1;
  const bound = Math.max(Math.abs(range.minimum), Math.abs(range.maximum));
  const scale = Math.fround(Math.max(bound / codeMaximum, smallestScale));
  return { scale, zeroPoint: 0, codeMinimum: -codeMaximum - 1, codeMaximum };
}

/** Who runs a QDQ model: ONNX Runtime, with unsigned activations that have a zero point, or TensorRT, with signed symmetric ones. */
export type QdqVariant = 'ort' | 'tensorrt';

/** Form of an artifact: a QDQ model, or an image for our own engine, whose activations are as ONNX Runtime's. */
export type ArtifactVariant = QdqVariant | 'native';

/** The parameters with which an activation of this range is deployed. */
export function activationAffine(variant: ArtifactVariant, range: Range, bits: number): Affine {
  return variant === 'tensorrt' ? symmetricAffine(range, bits) : unsignedAffine(range, bits);
}

/** Rounds half to even, as ONNX QuantizeLinear does. Valid for |value| < 2^51. */
export function roundHalfEven(value: number): number {
  // Adding and subtracting 1.5 * 2^52 leaves no fraction bits; IEEE rounding to nearest-even does the rest.
  return value + 6755399441055744 - 6755399441055744;
}

/** Values after quantization and dequantization, as float32; `into` may be `values` itself. */
export function fakeQuantize(
  values: Float32Array,
  affine: Affine,
  into = new Float32Array(values.length),
): Float32Array {
  const { scale, zeroPoint, codeMinimum, codeMaximum } = affine;
  const low = codeMinimum - zeroPoint;
  const high = codeMaximum - zeroPoint;
  for (let i = 0; i < values.length; i++) {
    const code = roundHalfEven(values[i]! / scale);
    into[i] = scale * (code < low ? low : code > high ? high : code);
  }
  return into;
}
