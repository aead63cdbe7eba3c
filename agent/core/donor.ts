/** Latency rows of other devices: which of them to check by measuring here, and whether to take the rest. */
import type { LatencyRow } from '../../configs/contracts/plan.js';
import { LatencyTable, scaleRows, speedReferenceKey } from './latency.js';
import { xorshift32 } from './random.js';
import { median } from './statistics.js';

/** A distinct operator of the model that rows are wanted for. */
export interface WantedOperator {
  readonly key: string;
  /** Kind of computation: kernels differ from one to the next. */
  readonly op: string;
  /** How often it occurs in the model. */
  readonly count: number;
  /** Labels of the precisions that it may get. */
  readonly precisions: readonly string[];
}

/** What is measured to check a table: these operators at these precisions, as far as they can have them. */
export interface Sample {
  readonly keys: readonly string[];
  readonly precisions: readonly string[];
}

/** What a sample says about a table. */
export interface Judgement {
  readonly isAccepted: boolean;
  /** What it takes here over what the table says. */
  readonly factor: number;
  readonly why: string;
}

/** Of the rows that are wanted, no more than this share is measured to check a table. */
export const sampledShare = 1 / 5;
/**
 * At one speed of the machine (see `speedReferenceKey`), the operators of a table take at most so many times longer or shorter here: much
 * less than in a table that is wrong by two.
 */
export const largestFactor = 1.4;
/**
 * And the machine's own speed is at most so many times another one, neighbours and clocks included (a factor of two within minutes was seen):
 * more, and it is none of the same kind. What is below, scaling by the common factor makes good.
 */
export const largestSpeed = 2.5;
/** A row agrees when its ratio differs from the common factor by no more than this factor. */
export const tolerance = 1.4;
/** Shorter differences than this are within what timing one operator is off by, in nanoseconds. */
export const negligible = 1500;
/** Of the sample's time, so much may disagree: single operators are timed badly now and then. */
export const tolerableShare = 0.15;

/** Whether a table has a row for every operator at every precision that is wanted. */
export function coversAll(table: LatencyTable, wanted: readonly WantedOperator[]): boolean {
  return wanted.every(({ key, precisions }) =>
    precisions.every((precision) => table.get(key, precision) !== undefined),
  );
}

/**
 * Chooses what to measure. Where fewer operators make measuring shorter: the dearest of them by their share of the model's time, and
 * as many at random, one kind of computation after the other. Where only fewer precisions do: one precision, drawn at random, at which all
 * operators are timed. Never more than `sampledShare` of the rows; null where that is none, and checking is not worth it.
 */
export function drawSample(
  table: LatencyTable,
  wanted: readonly WantedOperator[],
  by: 'operator' | 'precision',
  seed: number,
): Sample | null {
  const random = xorshift32(seed);
  const rows = wanted.reduce((sum, { precisions }) => sum + precisions.length, 0);
  const most = Math.floor(rows * sampledShare);
  return by === 'operator' ? drawOperators(table, wanted, most, random) : drawPrecision(wanted, most, random);
}

function drawOperators(
  table: LatencyTable,
  wanted: readonly WantedOperator[],
  most: number,
  random: () => number,
): Sample | null {
  const timeOf = ({ key, count, precisions }: WantedOperator) =>
    count * Math.max(...precisions.map((precision) => table.median(key, precision, 0)));
  // What takes no time says nothing.
  const dearest = wanted.filter((operator) => timeOf(operator) > 0).sort((a, b) => timeOf(b) - timeOf(a));
  const chosen: WantedOperator[] = [];
  let room = most;
  const take = (operator: WantedOperator) => {
    if (chosen.includes(operator) || operator.precisions.length > room) return;
    chosen.push(operator);
    room -= operator.precisions.length;
  };
  for (const operator of dearest) if (room > most / 2) take(operator);
  const kinds = shuffled([...new Set(dearest.map(({ op }) => op))], random);
  const byKind = kinds.map((kind) =>
    shuffled(
      dearest.filter(({ op }) => op === kind),
      random,
    ),
  );
  for (let turn = 0; byKind.some((operators) => turn < operators.length); turn++) {
    for (const operators of byKind) if (operators[turn] !== undefined) take(operators[turn]!);
  }
  if (chosen.length === 0) return null;
  return {
    keys: chosen.map(({ key }) => key),
    precisions: [...new Set(chosen.flatMap(({ precisions }) => precisions))],
  };
}

function drawPrecision(wanted: readonly WantedOperator[], most: number, random: () => number): Sample | null {
  const counts = new Map<string, number>();
  for (const { precisions } of wanted) {
    for (const precision of precisions) counts.set(precision, (counts.get(precision) ?? 0) + 1);
  }
  const [precision] = shuffled(
    [...counts].filter(([, count]) => count <= most).map(([name]) => name),
    random,
  );
  if (precision === undefined) return null;
  const keys = wanted.filter(({ precisions }) => precisions.includes(precision)).map(({ key }) => key);
  return { keys, precisions: [precision] };
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, order: random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ item }) => item);
}

/**
 * Holds a table against what was measured of it: the ratios have to agree with their median (each row weighing what it takes), but for
 * `tolerableShare` of the time, and that common factor has to be one that a machine of the same identity can have.
 *
 * @param measured with the speed reference, as far as the target has one
 * @param unit how many of the target's counts are negligible; 0 where nothing is
 */
export function judge(table: LatencyTable, measured: readonly LatencyRow[], unit: number): Judgement {
  const speed = speedOf(new LatencyTable(measured)) / speedOf(table);
  const pairs = measured.flatMap((row) => {
    if (row.operatorKey === speedReferenceKey) return [];
    const donor = table.median(row.operatorKey, row.precision, 0);
    return donor > 0 && row.median > 0 ? [{ row, donor, ratio: row.median / donor }] : [];
  });
  if (pairs.length === 0) return { isAccepted: false, factor: Number.NaN, why: 'nothing of it could be measured here' };
  const factor = weightedMedian(pairs.map(({ ratio, donor }) => [ratio, donor]));
  const isOff = ({ ratio, row, donor }: (typeof pairs)[number]) =>
    Math.max(ratio / factor, factor / ratio) > tolerance && Math.abs(row.median - donor * factor) > unit;
  const total = pairs.reduce((sum, { donor }) => sum + donor, 0);
  const off = pairs.filter(isOff);
  const share = off.reduce((sum, { donor }) => sum + donor, 0) / total;
  const text = factor.toPrecision(3);
  const apart = Math.max(factor / speed, speed / factor);
  const judgement = (isAccepted: boolean, why: string) => ({ isAccepted, factor, why });
  if (Math.max(speed, 1 / speed) > largestSpeed)
    return judgement(false, `this machine's speed reference takes ${speed.toPrecision(3)} times as long`);
  if (apart > largestFactor)
    return judgement(
      false,
      `it takes ${text} times as long here, where the speed reference takes ${speed.toPrecision(3)}`,
    );
  if (share > tolerableShare) {
    const worst = off.reduce((a, b) =>
      Math.abs(Math.log(b.ratio / factor)) > Math.abs(Math.log(a.ratio / factor)) ? b : a,
    );
    const ratio = (worst.ratio / factor).toPrecision(3);
    return judgement(
      false,
      `${off.length} of ${pairs.length} rows disagree, most of all ${worst.row.operatorKey} at ${worst.row.precision}: ${ratio} times`.slice(
        0,
        480,
      ),
    );
  }
  return judgement(true, `${pairs.length - off.length} of ${pairs.length} rows agree, at ${text} times`);
}

function speedOf(table: LatencyTable): number {
  return table.median(speedReferenceKey, 'float', 1);
}

/** The value at which half of the weight is reached. */
function weightedMedian(values: readonly (readonly [value: number, weight: number])[]): number {
  const sorted = [...values].sort(([a], [b]) => a - b);
  let rest = sorted.reduce((sum, [, weight]) => sum + weight, 0) / 2;
  for (const [value, weight] of sorted) {
    rest -= weight;
    if (rest <= 0) return value;
  }
  return sorted.at(-1)![0];
}

/** Rows of a table as they can be expected here. */
export function takenRows(rows: readonly LatencyRow[], factor: number, digest: string): LatencyRow[] {
  return scaleRows(rows, factor).map((row) => ({ ...row, donor: digest }));
}

/** Sums of operators miss what models take by so many times at most, where the rows are the machine's own. */
const largestMiss = 1.8;

/**
 * Whether measurements of whole models contradict a table: half of them, or more, missed their prediction by more than own rows would.
 *
 * @param slowdown how much slower the machine was than when the table was measured
 */
export function contradicts(
  rounds: readonly { readonly predictedLatency: number; readonly measuredLatency: number }[],
  slowdown: number,
): boolean {
  const ratios = rounds
    .filter(({ predictedLatency }) => predictedLatency > 0)
    .map(({ predictedLatency, measuredLatency }) => measuredLatency / (predictedLatency * slowdown));
  const ratio = median(ratios);
  return Math.max(ratio, 1 / ratio) > largestMiss;
}
