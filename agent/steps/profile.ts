import type { Counter, LatencyRow, Precision } from '../../configs/contracts/plan.js';
import type { DonorTable, Profiling } from '../../configs/contracts/tables.js';
import { coversAll, drawSample, judge, negligible, takenRows, type WantedOperator } from '../core/donor.js';
import { atSpeedOf, LatencyTable, latencyKeys, runOverheadKey, speedReferenceKey } from '../core/latency.js';
import type { Operator } from '../core/onnx/model.js';
import { formatPrecision, parsePrecision } from '../core/precision.js';
import type { PreparedModel } from '../core/prepare.js';
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
  /** How this run came to its rows. */
  readonly profiling: Profiling;
}

/**
 * Latency rows of every distinct operator at every precision it may get. Where the store lacks some, those of other devices with the
 * same target identity are taken, if a sample that is measured here bears them out; what is left is measured.
 *
 * @param precisionsOf those of an operator; none where it cannot be timed, and costs nothing
 */
export async function profile(
  job: Job,
  precisionsOf: (operator: Operator) => readonly Precision[],
  ports: Pick<Ports, 'target' | 'store' | 'clock' | 'donors'>,
  signal: AbortSignal,
  progress: Progress,
): Promise<Profile> {
  const { prepared } = job;
  const { target, store, clock } = ports;
  const started = clock.nanoseconds();
  const identity = await target.identity();
  const identityDigest = contentKey(identity);
  const overheadKey = storedOverheadKey(job);
  const storedKeys = profileKeys(job);
  const stored = store.latencyRows(identityDigest, storedKeys);
  const distinct = new Map<string, Operator>();
  for (const operator of prepared.operators) {
    if (precisionsOf(operator).length > 0) distinct.set(operator.key, operator);
  }
  const table = new LatencyTable(renamed(stored, overheadKey, runOverheadKey));
  const isMissing = (operator: Operator) =>
    !precisionsOf(operator).every((precision) => table.get(operator.key, formatPrecision(precision)) !== undefined);
  const missing = [...distinct.values()].filter(isMissing);
  const add = (rows: readonly LatencyRow[]) => {
    store.putLatencyRows(identityDigest, identity, renamed(rows, runOverheadKey, overheadKey));
    table.add(rows);
  };
  let rowsMeasured = 0;
  let rowsTaken = 0;
  let timed = missing.length;
  let donor: Profiling['donor'] = null;
  if (missing.length > 0 || table.get(runOverheadKey, 'float') === undefined) {
    const wanted = missing.map((operator): WantedOperator => {
      const count = prepared.operators.filter(({ key }) => key === operator.key).length;
      return { key: operator.key, op: operator.op, count, precisions: precisionsOf(operator).map(formatPrecision) };
    });
    const pairs = wanted.reduce((sum, { precisions }) => sum + precisions.length, 0);
    const offered = (missing.length > 0 && (await ports.donors?.offer(identityDigest, storedKeys, signal))) || null;
    const rows = renamed(offered?.rows ?? [], overheadKey, runOverheadKey);
    const warm =
      offered && (await verify({ ...offered, rows }, { ...ports, wanted, prepared, table }, signal, progress));
    donor = warm?.donor ?? null;
    if (warm?.rows) {
      add(warm.rows);
      timed = warm.measuredKeys;
      rowsMeasured = warm.measuredPairs;
      rowsTaken = pairs - rowsMeasured;
    } else {
      const precisions = distinctPrecisions([...distinct.values()].flatMap(precisionsOf));
      add(atSpeedOf(table, await target.measure(prepared, missing, precisions, signal, progress)));
      // What a sample that was not borne out has measured counts as well: it took its time.
      rowsMeasured = pairs + (warm?.measuredPairs ?? 0);
    }
  }
  for (const operator of prepared.operators) {
    if (!distinct.has(operator.key)) table.add([freeRow(operator, identity, clock.now())]);
  }
  const seconds = Number(clock.nanoseconds() - started) / 1e9;
  return {
    identity,
    counter: target.counter,
    table,
    profiledOperators: timed,
    profiling: { seconds, rowsMeasured, rowsTaken, donor },
  };
}

/** How a run came to its rows that took those of a donor first, and measured all when whole models contradicted them. */
export function afterContradiction(first: Profiling, second: Profiling): Profiling {
  const { donor } = first;
  return {
    seconds: first.seconds + second.seconds,
    rowsMeasured: first.rowsMeasured + second.rowsMeasured,
    rowsTaken: 0,
    donor: donor && { ...donor, isAccepted: false, why: 'whole models took much longer or shorter than it predicts' },
  };
}

/** Keys under which the rows of a job's model are stored. */
export function profileKeys(job: Job): string[] {
  const overheadKey = storedOverheadKey(job);
  return [...latencyKeys(job.prepared)].map((key) => (key === runOverheadKey ? overheadKey : key));
}

/** Rows as the store names them. */
export function storedRows(job: Job, rows: readonly LatencyRow[]): LatencyRow[] {
  return renamed(rows, runOverheadKey, storedOverheadKey(job));
}

/** What a table of other devices came to; `rows` are to be stored, null where it is not to be believed. */
interface Verified {
  readonly rows: readonly LatencyRow[] | null;
  readonly measuredKeys: number;
  /** Operators at precisions that were measured. */
  readonly measuredPairs: number;
  readonly donor: NonNullable<Profiling['donor']>;
}

/** Measures a sample of what a table of other devices says, and takes the rest where that bears it out. Null where it says too little. */
async function verify(
  offered: DonorTable,
  {
    wanted,
    prepared,
    table,
    target,
    donors,
  }: Pick<Ports, 'target' | 'donors'> & {
    readonly wanted: readonly WantedOperator[];
    readonly prepared: PreparedModel;
    readonly table: LatencyTable;
  },
  signal: AbortSignal,
  progress: Progress,
): Promise<Verified | null> {
  const foreign = new LatencyTable(offered.rows);
  if (!coversAll(foreign, wanted)) return null;
  // ONNX Runtime's operators are timed a few at a time, those of images by executing the whole.
  const sample = drawSample(foreign, wanted, target.kind === 'ort' ? 'operator' : 'precision', donors!.seed);
  if (sample === null) return null;
  const keys = new Set(sample.keys);
  const operators = new Map(prepared.operators.filter(({ key }) => keys.has(key)).map((item) => [item.key, item]));
  const precisions = sample.precisions.map(parsePrecision);
  const checked = await target.measure(prepared, [...operators.values()], precisions, signal, progress, 'sample');
  const measured = atSpeedOf(table, checked);
  const own = measured.filter(({ operatorKey }) => keys.has(operatorKey));
  const labels = new Map(wanted.map(({ key, precisions: each }) => [key, each]));
  const negligibleCounts = target.counter === 'nanoseconds' ? negligible : 0;
  const reference = measured.filter(({ operatorKey }) => operatorKey === speedReferenceKey);
  const { isAccepted, factor, why } = judge(foreign, [...own, ...reference], negligibleCounts);
  // A target times an operator at all of the precisions, also at those that plans may not use: these are not wanted.
  const isWanted = (row: LatencyRow) => labels.get(row.operatorKey)!.includes(row.precision);
  const measuredPairs = own.filter(isWanted).length;
  const donor = {
    digest: offered.digest,
    devices: offered.devices,
    isAccepted,
    factor: Number.isFinite(factor) ? factor : null,
    why,
  };
  if (!isAccepted) return { rows: null, measuredKeys: operators.size, measuredPairs, donor };
  // At the speed that its operators were found to have here; what was measured, and how fast the machine was, is this device's own.
  const taken = takenRows(offered.rows, factor, offered.digest);
  const fresh = taken.filter(({ operatorKey, precision }) => table.get(operatorKey, precision) === undefined);
  const overhead = measured.filter(
    ({ operatorKey, precision }) => operatorKey === runOverheadKey && foreign.get(operatorKey, precision) === undefined,
  );
  return { rows: [...fresh, ...overhead, ...reference, ...own], measuredKeys: operators.size, measuredPairs, donor };
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
