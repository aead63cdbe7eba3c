/** Packing a convolution's weights for the kernel that executes them where they lie: what the agent asks of the addon. */

/** Sizes that a convolution has beside those of its record: what one patch of a stage makes of it, all of them counted in elements. */
export interface PackingVariant {
  readonly inHeight: number;
  readonly inWidth: number;
  readonly outHeight: number;
  readonly outWidth: number;
  readonly padTop: number;
  readonly padLeft: number;
}

/** A convolution whose weights are to be packed. */
export interface PackingProblem {
  /** The fields of its record, in the order of `operatorKinds.convolution.fields`; offsets do not matter. */
  readonly fields: Uint32Array;
  /** Bits of the codes that it reads. */
  readonly inputBits: number;
  /** As a record without a layout has them. */
  readonly weights: Uint8Array;
  readonly bias: Int32Array;
  /** All sizes at which the kernel has to run; at least one. */
  readonly variants: readonly PackingVariant[];
}

/** Packed weights, and the words of a record that say so. */
export interface PackedWeights {
  readonly kernel: number;
  readonly layout: number;
  /** Bits that they are packed as: those of the problem, or 8 where a kernel for fewer could not hold the sums. */
  readonly weightBits: number;
  readonly bytes: Uint8Array;
}

/** Packs for a processor; null where none of its kernels with a packed form computes the convolution: weights stay as they are. */
export type WeightPacker = (problem: PackingProblem) => PackedWeights | null;
