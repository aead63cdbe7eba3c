/** One table out of those of many devices of one target identity. Pure. */
import { LatencyTable, scaleRows, speedReferenceKey } from '../../agent/core/latency.js';
import { median } from '../../agent/core/statistics.js';
import type { Counter, LatencyRow } from '../../configs/contracts/plan.js';

/** What one device has measured. */
export interface Donation {
  readonly device: string;
  readonly rows: readonly LatencyRow[];
}

/** A row with the number of devices whose measurements it is the median of. */
export type SharedRow = LatencyRow & { readonly donors: number };

/** A table that devices have made together. */
export interface SharedTable {
  /** Devices whose rows are in it. */
  readonly devices: readonly string[];
  /** Devices whose rows differ from those of the others, and why that was said. */
  readonly quarantined: readonly { readonly device: string; readonly why: string }[];
  readonly rows: readonly SharedRow[];
}

/** Among fewer devices, nobody can say whose row is the odd one. */
const quorum = 3;
/** A row is odd when it differs from the median by more than this factor, and by more than timing one operator is off by. */
const oddFactor = 1.5;
const oddNanoseconds = 1500;
/** A device is set aside when more than this share of its rows is odd. */
const oddShare = 0.25;

/**
 * The median of every row over the devices that have measured it themselves, all brought to one speed of the machine before. Devices whose
 * rows are odd are set aside, the oddest first, as long as the others are enough to say so. Rows that a device has taken from others do not
 * count: it would only say again what it was told.
 */
export function shareTables(donations: readonly Donation[], counter: Counter): SharedTable {
  const unit = counter === 'nanoseconds' ? oddNanoseconds : 0;
  let kept = atOneSpeed(donations.map(ownRows).filter(({ rows }) => rows.length > 0));
  const quarantined: { device: string; why: string }[] = [];
  while (kept.length >= quorum) {
    const odd = oddest(kept, unit);
    if (odd === null) break;
    quarantined.push({ device: odd.device, why: odd.why });
    kept = kept.filter(({ device }) => device !== odd.device);
  }
  return { devices: kept.map(({ device }) => device).sort(), quarantined, rows: medians(kept) };
}

function ownRows({ device, rows }: Donation): Donation {
  return { device, rows: rows.filter(({ donor }) => donor === undefined) };
}

/** Rows of devices that have timed the speed reference are scaled to the median of its times. */
function atOneSpeed(donations: readonly Donation[]): Donation[] {
  const speedOf = ({ rows }: Donation) => new LatencyTable(rows).median(speedReferenceKey, 'float', 0);
  const speeds = donations.map(speedOf);
  const common = median(speeds.filter((speed) => speed > 0));
  return donations.map(({ device, rows }, index) => ({
    device,
    rows: speeds[index]! > 0 ? scaleRows(rows, common / speeds[index]!) : rows,
  }));
}

function grouped(donations: readonly Donation[]): LatencyRow[][] {
  const groups = new Map<string, LatencyRow[]>();
  for (const { rows } of donations) {
    for (const row of rows) {
      const key = `${row.operatorKey}@${row.precision}`;
      const group = groups.get(key);
      if (group === undefined) groups.set(key, [row]);
      else group.push(row);
    }
  }
  return [...groups.values()];
}

/** The device with the largest share of odd rows, where that is too large; null where there is none. */
function oddest(donations: readonly Donation[], unit: number): { device: string; why: string; share: number } | null {
  const common = new Map<LatencyRow, number>();
  for (const rows of grouped(donations)) {
    if (rows.length < quorum) continue;
    const middle = median(rows.map((row) => row.median));
    for (const row of rows) common.set(row, middle);
  }
  let worst: { device: string; why: string; share: number } | null = null;
  for (const { device, rows } of donations) {
    const judged = rows.filter((row) => common.has(row) && row.operatorKey !== speedReferenceKey);
    const odd = judged.filter((row) => isOdd(row.median, common.get(row)!, unit));
    const share = odd.length / judged.length;
    if (!(share > oddShare) || (worst !== null && share <= worst.share)) continue;
    const factor = median(odd.map((row) => row.median / common.get(row)!));
    const why = `${odd.length} of ${judged.length} rows differ from those of the others, at ${factor.toPrecision(3)} times`;
    worst = { device, why, share };
  }
  return worst;
}

function isOdd(value: number, middle: number, unit: number): boolean {
  return Math.abs(value - middle) > unit && Math.max(value, middle) > oddFactor * Math.min(value, middle);
}

function medians(donations: readonly Donation[]): SharedRow[] {
  return grouped(donations).map((rows) => {
    const of = (value: (row: LatencyRow) => number) => median(rows.map(value));
    const energies = rows.map(({ energyJoules }) => energyJoules);
    return {
      operatorKey: rows[0]!.operatorKey,
      precision: rows[0]!.precision,
      minimum: of((row) => row.minimum),
      median: of((row) => row.median),
      spread: of((row) => row.spread),
      repeats: rows.reduce((sum, { repeats }) => sum + repeats, 0),
      throttled: rows.every(({ throttled }) => throttled),
      energyJoules: energies.includes(null) ? null : median(energies as number[]),
      measuredAt: rows.reduce((last, { measuredAt }) => (measuredAt > last ? measuredAt : last), ''),
      donors: rows.length,
    };
  });
}
