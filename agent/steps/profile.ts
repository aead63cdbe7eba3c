import type { Counter, LatencyRow, Precision } from '../../configs/contracts/plan.js';
import { atSpeedOf, LatencyTable, latencyKeys, runOverheadKey } from '../core/latency.js';
import type { Operator } from '../core/onnx/model.js';
import { formatPrecision } from '../core/precision.js';
import { contentKey } from '../digest.js';
import type { Job, Ports } from '../pipeline.js';
import type { Progress, TargetIdentity } from '../ports.js';

/** Latencies of a model's operators on a target. */
export interface Profile {
  readonly identity: TargetIdentity;
  /** What latencies are counted in. */
  readonly counter: Counter;
  readonly table: LatencyTable;
  /** Distinct operators that were timed for this run; 0 where everything was stored. */
  readonly profiledOperators: number;
}

/**
 * Latency rows of every distinct operator at every precision it may get; measured where the store has none.
 *
 * @param precisionsOf those of an operator; none where it cannot be timed, and costs nothing
 */
export async function profile(
  job: Job,
  precisionsOf: (operator: Operator) => readonly Precision[],
  ports: Pick<Ports, 'target' | 'store' | 'clock'>,
  signal: AbortSignal,
  progress: Progress,
): Promise<Profile> {
  const { prepared } = job;
  const { target, store, clock } = ports;
  const identity = await target.identity();
  const identityDigest = contentKey(identity);
  const overheadKey = storedOverheadKey(job);
  const storedKeys = [...latencyKeys(prepared)].map((key) => (key === runOverheadKey ? overheadKey : key));
  const stored = store.latencyRows(identityDigest, storedKeys);
  const distinct = new Map<string, Operator>();
  for (const operator of prepared.operators) {
    if (precisionsOf(operator).length > 0) distinct.set(operator.key, operator);
  }
  const table = new LatencyTable(renamed(stored, overheadKey, runOverheadKey));
  const missing = [...distinct.values()].filter(
    (operator) =>
      !precisionsOf(operator).every((precision) => table.get(operator.key, formatPrecision(precision)) !== undefined),
  );
  if (missing.length > 0 || table.get(runOverheadKey, 'float') === undefined) {
    const precisions = distinctPrecisions([...distinct.values()].flatMap(precisionsOf));
    const rows = await target.measure(prepared, missing, precisions, signal, progress);
    const scaled = atSpeedOf(table, rows);
    store.putLatencyRows(identityDigest, identity, renamed(scaled, runOverheadKey, overheadKey));
    table.add(scaled);
  }
  for (const operator of prepared.operators) {
    if (!distinct.has(operator.key)) table.add([freeRow(operator, identity, clock.now())]);
  }
  return { identity, counter: target.counter, table, profiledOperators: missing.length };
}

/** The different ones of a list, in its order. */
export function distinctPrecisions(precisions: readonly Precision[]): Precision[] {
  return [...new Map(precisions.map((precision) => [formatPrecision(precision), precision])).values()];
}

/** The engine's overhead is measured with the model, whose inputs and outputs are part of it: that of another one is not it. */
function storedOverheadKey({ variant, modelSha256 }: Job): string {
  return variant === 'native' ? `${runOverheadKey} ${modelSha256}` : runOverheadKey;
}

function freeRow(operator: Operator, { energyMeter }: TargetIdentity, measuredAt: string): LatencyRow {
  const energyJoules = energyMeter === null ? null : 0;
  const common = { precision: 'float', minimum: 0, median: 0, spread: 0, repeats: 1, throttled: false, energyJoules };
  return { operatorKey: operator.key, ...common, measuredAt };
}

function renamed(rows: readonly LatencyRow[], from: string, to: string): LatencyRow[] {
  return rows.map((row) => (row.operatorKey === from ? { ...row, operatorKey: to } : row));
}
