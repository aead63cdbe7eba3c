/** Which precisions operators can have in the engine, and which kernel of it suits them. */
import type { Precision } from '../../../configs/contracts/plan.js';
import type { LatencyTable } from '../latency.js';
import type { Operator } from '../onnx/model.js';
import { formatPrecision } from '../precision.js';
import type { PreparedModel } from '../prepare.js';
import { hasCodesForm } from './build.js';

const int8: Precision = { weightBits: 8, activationBits: 8 };

/**
 * Candidates for operators with weights, from the most accurate. What a kernel can do with fewer bits decides which of them is worth
 * having: sums of two products fit 16 bits with weights of 7 bits, 8-bit Winograd takes weights of 4 or 5 bits and activations of 6, the
 * fewest bits the widest tile.
 */
export const engineCandidates: readonly Precision[] = [
  int8,
  { weightBits: 7, activationBits: 8 },
  { weightBits: 4, activationBits: 8 },
  { weightBits: 4, activationBits: 6 },
  { weightBits: 4, activationBits: 4 },
  { weightBits: 2, activationBits: 8 },
  { weightBits: 2, activationBits: 2 },
];

/** Precisions that an operator can have. What reads the model's input keeps 8 bits of it. */
export function enginePrecisions(prepared: PreparedModel, operator: Operator): readonly Precision[] {
  if (!hasCodesForm(prepared, operator)) return [];
  if (operator.weight === null) return [int8];
  const readsInput = operator.inputs.includes(prepared.card.input.name);
  return readsInput ? engineCandidates.filter(({ activationBits }) => activationBits === 8) : engineCandidates;
}

/** Label of a row that was measured with one kernel: `W4A4 winograd22`. */
export function kernelLabel(precision: Precision, kernel: string): string {
  return `${formatPrecision(precision)} ${kernel}`;
}

/** The kernel by which an operator was fastest at a precision, without its variant; null where none was told apart. */
export function fastestKernel(table: LatencyTable, operator: Operator, precision: Precision): string | null {
  const prefix = kernelLabel(precision, '');
  let best: { kernel: string; median: number } | null = null;
  for (const row of table.rowsOf(operator.key)) {
    if (!row.precision.startsWith(prefix)) continue;
    if (best === null || row.median < best.median)
      best = { kernel: row.precision.slice(prefix.length), median: row.median };
  }
  return best?.kernel ?? null;
}
