/** Rounding one operator's weights with regard to what it reads: what the agent asks of the addon. */

/**
 * Which values of its input an output position is computed from. A matrix product is a convolution of 1x1 over as many columns as it
 * has rows. Strides of the input are in elements.
 */
export interface RoundingWindow {
  readonly channelsPerGroup: number;
  readonly inHeight: number;
  readonly inWidth: number;
  readonly channelStride: number;
  readonly rowStride: number;
  readonly columnStride: number;
  readonly outHeight: number;
  readonly outWidth: number;
  readonly kernelHeight: number;
  readonly kernelWidth: number;
  readonly strideY: number;
  readonly strideX: number;
  readonly dilationY: number;
  readonly dilationX: number;
  readonly padTop: number;
  readonly padLeft: number;
}

/** An operator whose weights are to be rounded, with what it reads. */
export interface RoundingLayer {
  readonly window: RoundingWindow;
  readonly groups: number;
  /** Output channels of one group. */
  readonly rows: number;
  /** [groups][rows][channel, kernel row, kernel column] */
  readonly weights: Float32Array;
  /** One sample each: the input as the quantized model has it; real = scale * (code - zero). */
  readonly codes: readonly Uint8Array[];
  readonly scale: number;
  readonly zero: number;
  /** The same samples' input as the float model has it; none: the weights are aimed at themselves. */
  readonly references: readonly Float32Array[];
  /** Codes of weights lie in [-limit, limit]; 1 to 127. */
  readonly limit: number;
  /** Smallest scale of each output channel. */
  readonly leastScales: Float32Array;
  /** Shares of the mean second moment added to the moments' diagonal: when weights are rounded, and when they are aimed. Above 0. */
  readonly damping: number;
  readonly targetDamping: number;
  /** Scales tried, as multiples of the one of least squared error. */
  readonly factors: Float32Array;
  /** Sweeps of coordinate descent after rounding. */
  readonly sweeps: number;
  /** Output positions looked at, over all samples. */
  readonly positions: number;
}

/** Integer weights in the layout of the float ones, and a scale for each output channel. */
export interface RoundedLayer {
  readonly codes: Int8Array;
  readonly scales: Float32Array;
}
