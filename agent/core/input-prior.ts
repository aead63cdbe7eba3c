import type { Range } from '../../configs/contracts/plan.js';
import type { PictureSize } from './made-pictures.js';
import type { PreparedModel } from './prepare.js';

/** What of a model says what its input looks like. */
type Described = Pick<PreparedModel, 'card' | 'inputDims'>;

/** What is known of one channel of the input before any sample is seen. */
export interface InputPrior {
  readonly mean: number;
  readonly deviation: number;
  /** Values that samples of 8 bits can have at all; infinite where the card says nothing. */
  readonly least: number;
  readonly most: number;
}

/** The input as planes; a vector is one line. */
export function inputSize({ card, inputDims: dims }: Described): PictureSize {
  const axis = card.input.layout.indexOf('C');
  const channels = axis >= 0 && dims.length > 2 ? dims[axis]! : 1;
  const size = dims.reduce((a, b) => a * b, 1) / channels;
  if (dims.length <= 2) return { channels, height: 1, width: size };
  const spatial = dims.filter((_, at) => at > 0 && at !== axis);
  const width = spatial[spatial.length - 1] ?? 1;
  return { channels, height: size / width, width };
}

/**
 * By the preprocessing of the card, samples being of 8 bits. Codes are unsigned, except that a negative zero point belongs to signed
 * ones, and of features also one below the middle of the unsigned codes.
 */
export function inputPrior(prepared: Described, channel: number): InputPrior {
  const { scale, zeroPoint = 0, mean = [0], std = [1] } = prepared.card.preprocess;
  const { channels, height, width } = inputSize(prepared);
  const isImage = channels > 1 || height === width;
  // Features that are not scaled from codes are numbers already; whoever gives their mean and deviation has standardized them.
  if (scale === undefined && (prepared.card.preprocess.mean === undefined || !isImage))
    return { mean: 0, deviation: 1, least: Number.NEGATIVE_INFINITY, most: Number.POSITIVE_INFINITY };
  const deviation = std[channel] ?? std[0]!;
  const toInput = (code: number) => ((code - zeroPoint) * (scale ?? 1) - (mean[channel] ?? mean[0]!)) / deviation;
  const isSigned = zeroPoint < 0 || (!isImage && zeroPoint > 0 && zeroPoint < 127);
  const first = isSigned ? -128 : 0;
  const ends = [toInput(first), toInput(first + 255)];
  return {
    // Photographs have a mean near the middle of the pixel range and a deviation of about a quarter of it. Of features, nothing but their
    // zero is known.
    mean: toInput(isImage ? first + 118 : zeroPoint),
    deviation: Math.abs(toInput(64) - toInput(0)),
    least: Math.min(...ends),
    most: Math.max(...ends),
  };
}

/** All that the input can be; null where the card does not say. With zero in it, as all ranges. */
export function knownInputRange(prepared: Described): Range | null {
  const priors = Array.from({ length: inputSize(prepared).channels }, (_, channel) => inputPrior(prepared, channel));
  const minimum = Math.min(0, ...priors.map(({ least }) => least));
  const maximum = Math.max(0, ...priors.map(({ most }) => most));
  return Number.isFinite(minimum) && Number.isFinite(maximum) ? { minimum, maximum } : null;
}
