/** Layer-wise rounding in the addon. */
import type { RoundedLayer, RoundingLayer } from '../configs/contracts/rounding.js';
import { addon } from './addon.js';

/**
 * The integer weights that bring the operator's output, computed from what the quantized model gives it, nearest to the float model's
 * output (least squares over the samples, about the means, which the bias takes). `rounding/rounding.h` says how. Off the main thread.
 * Rejects with an Error where memory is short; throws a RangeError for sizes that do not fit each other.
 */
export function roundLayer(layer: RoundingLayer, threads: number): Promise<RoundedLayer> {
  const { window: w, groups, rows, weights, codes, references } = layer;
  const check = (isTrue: boolean, what: string) => {
    if (!isTrue) throw new RangeError(`rounding: ${what}`);
  };
  const sizes = [
    groups,
    rows,
    ...Object.entries(w).flatMap(([name, value]) => (name.startsWith('pad') ? [] : [value])),
  ];
  check(
    sizes.every((size) => Number.isSafeInteger(size) && size > 0),
    'sizes are whole and above 0',
  );
  check(Number.isSafeInteger(w.padTop) && Number.isSafeInteger(w.padLeft), 'pads are whole');
  check(weights.length === groups * rows * w.channelsPerGroup * w.kernelHeight * w.kernelWidth, 'number of weights');
  check(layer.leastScales.length === groups * rows, 'number of least scales');
  const last =
    (groups * w.channelsPerGroup - 1) * w.channelStride +
    (w.inHeight - 1) * w.rowStride +
    (w.inWidth - 1) * w.columnStride;
  check(codes.length > 0 && codes.every((sample) => sample.length > last), 'samples are as large as the window says');
  check(references.length === 0 || references.length === codes.length, 'a reference for each sample');
  check(
    references.every((sample) => sample.length > last),
    'references are as large as the window says',
  );
  check(Number.isInteger(layer.limit) && layer.limit >= 1 && layer.limit <= 127, 'limit is from 1 to 127');
  check(layer.zero >= 0 && layer.zero <= 255 && layer.scale > 0, 'the grid of the codes');
  check(layer.damping > 0 && layer.targetDamping > 0, 'damping is above 0');
  check(layer.sweeps >= 0 && layer.positions >= 1 && threads >= 1, 'sweeps, positions and threads');
  return addon().roundLayer(layer, threads);
}
