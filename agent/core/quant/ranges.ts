import type { Range } from '../../../configs/contracts/plan.js';
import { knownInputRange } from '../input-prior.js';
import type { PreparedModel } from '../prepare.js';

/**
 * Part of a tensor's range that its readers can tell apart, where all of them saturate: SiLU is within 0.003 of zero below -8,
 * HardSwish is zero below -3, Sigmoid is within 0.0004 of its ends outside +-8. Codes spent beyond would be lost.
 */
const usefulRanges: Readonly<Record<string, readonly [number, number]>> = {
  Silu: [-8, Number.POSITIVE_INFINITY],
  HardSwish: [-3, Number.POSITIVE_INFINITY],
  Sigmoid: [-8, 8],
};

/**
 * Whether a tensor is in the first half of a model, where pictures of nothing drive it further than those that it was trained to see (up
 * to 1.8 times on five models); extremes are better cut off there. All of a model counts whose activation functions have an upper end:
 * its last layers cannot be driven much further either.
 */
export function isEarly({ operators }: Pick<PreparedModel, 'operators'>, tensor: string): boolean {
  const isBounded = operators.some(({ clamp }) => clamp !== null && Number.isFinite(clamp[1]));
  return isBounded || operators.findIndex(({ outputs }) => outputs.includes(tensor)) < operators.length / 2;
}

/** Share of the operators in front of those whose outputs are given headroom, and how much the last of them gets. */
const headroom = { from: 0.8, most: 2 };

/**
 * `range`, as it was found on pictures of nothing, with headroom for what a model was trained to see: that drives its last layers, which
 * tell classes apart, up to several times as far (on SqueezeNet 2.4 times; without headroom its int8 diverges 2.7 times as much, and
 * models that would not need it lose next to nothing). It ends where the activation function does.
 */
export function withHeadroom({ operators }: Pick<PreparedModel, 'operators'>, tensor: string, range: Range): Range {
  const index = operators.findIndex(({ outputs }) => outputs.includes(tensor));
  const depth = index / operators.length;
  if (depth <= headroom.from) return range;
  const factor = 1 + ((headroom.most - 1) * (depth - headroom.from)) / (1 - headroom.from);
  const [low, high] = operators[index]!.clamp ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  return {
    // What was seen beyond the ends is kept as it is: the codes decide what to do about it.
    minimum: Math.min(range.minimum, Math.max(range.minimum * factor, low)),
    maximum: Math.max(range.maximum, Math.min(range.maximum * factor, high)),
  };
}

/**
 * What stands for `range`, which was found on made-up samples. Those do not show how far the input goes, but the card does; and the
 * grid of codes that samples are of loses nothing of them. Samples that were not fitted to statistics get headroom.
 */
export function syntheticRange(prepared: PreparedModel, tensor: string, range: Range, isFitted: boolean): Range {
  const known = tensor === prepared.card.input.name ? knownInputRange(prepared) : null;
  if (known !== null) return known;
  return isFitted ? range : withHeadroom(prepared, tensor, range);
}

/** `range` cut to what the tensor's readers can use. */
export function usefulRange(prepared: PreparedModel, tensor: string, range: Range): Range {
  const readers = prepared.operators.filter((operator) => operator.inputs.includes(tensor));
  if (readers.length === 0 || prepared.model.graph.outputs.some((output) => output.name === tensor)) return range;
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const { op } of readers) {
    const [least, most] = usefulRanges[op] ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
    low = Math.min(low, least);
    high = Math.max(high, most);
  }
  return { minimum: Math.max(range.minimum, low), maximum: Math.min(range.maximum, high) };
}
