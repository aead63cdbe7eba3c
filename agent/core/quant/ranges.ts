import type { Range } from '../../../configs/contracts/plan.js';
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
