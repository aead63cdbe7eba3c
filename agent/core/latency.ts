/** Keys of the latency table on ONNX Runtime, beside the operators' own, and the table as the planner reads it. */
import type { LatencyRow } from '../../configs/contracts/plan.js';
import type { PreparedModel } from './prepare.js';

/** Time of one run of a model that does nothing: thread hop, feeds, fetches. */
export const runOverheadKey = 'run-overhead';

/** Executor time per node beyond its kernel. */
export const dispatchKey = 'node-dispatch';

/**
 * Time of a small fixed model, taken while the other rows were measured: how fast the machine was then. Rows of one table are all
 * scaled to the speed of its first measurement.
 */
export const speedReferenceKey = 'speed-reference';

/** Rows as they would have been at another speed of the machine. */
export function scaleRows(rows: readonly LatencyRow[], factor: number): LatencyRow[] {
  // Energy is mean power times the row's own time.
  const energy = (row: LatencyRow) => (row.energyJoules === null ? null : row.energyJoules * factor);
  return rows.map((row) => ({
    ...row,
    minimum: row.minimum * factor,
    median: row.median * factor,
    energyJoules: energy(row),
  }));
}

/** Layout and quantize nodes that ONNX Runtime puts between regions of different formats. */
export const conversionOps = [
  'QuantizeLinear',
  'DequantizeLinear',
  'Transpose',
  'ReorderInput',
  'ReorderOutput',
] as const;

/** One of the conversion nodes; the first part of its rows' keys. */
export type ConversionOp = (typeof conversionOps)[number];

/** Key of a conversion node on a tensor of the given logical shape (N, C, H, W order). */
export function conversionKey(op: ConversionOp, dims: readonly number[]): string {
  return `${op}[${dims.join('x')}]`;
}

/** Rows by operator key and precision. */
export class LatencyTable {
  readonly #rows = new Map<string, LatencyRow>();

  constructor(rows: Iterable<LatencyRow> = []) {
    this.add(rows);
  }

  add(rows: Iterable<LatencyRow>): void {
    for (const row of rows) this.#rows.set(`${row.operatorKey}@${row.precision}`, row);
  }

  get rows(): readonly LatencyRow[] {
    return [...this.#rows.values()];
  }

  get(operatorKey: string, precision: string): LatencyRow | undefined {
    return this.#rows.get(`${operatorKey}@${precision}`);
  }

  /** Rows of an operator, whatever they are measured at. */
  rowsOf(operatorKey: string): readonly LatencyRow[] {
    return this.rows.filter((row) => row.operatorKey === operatorKey);
  }

  /** Median time of a row, or `fallback` where it was not measured. */
  median(operatorKey: string, precision: string, fallback = Number.NaN): number {
    return this.get(operatorKey, precision)?.median ?? fallback;
  }
}

/** Keys of every row that may say something about a model. */
export function latencyKeys(prepared: PreparedModel): Set<string> {
  const keys = new Set<string>([runOverheadKey, dispatchKey, speedReferenceKey]);
  for (const operator of prepared.operators) keys.add(operator.key);
  for (const dims of prepared.shapes.values()) for (const op of conversionOps) keys.add(conversionKey(op, dims));
  return keys;
}

/** New rows at the speed of the machine that the table's are at, where it has some. */
export function atSpeedOf(table: LatencyTable, rows: readonly LatencyRow[]): LatencyRow[] {
  const now = rows.find((row) => row.operatorKey === speedReferenceKey)?.median ?? Number.NaN;
  const then = table.median(speedReferenceKey, 'float');
  return Number.isNaN(then) || Number.isNaN(now) ? [...rows] : scaleRows(rows, then / now);
}
