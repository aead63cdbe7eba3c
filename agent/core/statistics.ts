/** Small-sample statistics for measurements; all return NaN for an empty list. */

function sorted(values: readonly number[]): number[] {
  return [...values].sort((a, b) => a - b);
}

/** Linear interpolation between order statistics; `q` in [0, 1]. */
export function quantile(values: readonly number[], q: number): number {
  const order = sorted(values);
  if (order.length === 0) return Number.NaN;
  const position = q * (order.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, order.length - 1);
  return order[below]! + (order[above]! - order[below]!) * (position - below);
}

/** Mean of the smaller four fifths: finer than a median where values are whole numbers, deaf to interruptions all the same. */
export function trimmedMean(values: readonly number[]): number {
  const kept = sorted(values).slice(0, Math.ceil(values.length * 0.8));
  return kept.reduce((a, b) => a + b, 0) / kept.length;
}

/** Middle value; of an even number of values the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** Smallest value. */
export function minimum(values: readonly number[]): number {
  return values.length === 0 ? Number.NaN : values.reduce((a, b) => Math.min(a, b));
}

/** Interquartile range over median: how noisy a measurement was. */
export function spread(values: readonly number[]): number {
  const middle = median(values);
  return middle > 0 ? (quantile(values, 0.75) - quantile(values, 0.25)) / middle : 0;
}

/** Ranks from 0, ties get their mean rank. */
function ranks(values: readonly number[]): number[] {
  const order = values.map((_, index) => index).sort((a, b) => values[a]! - values[b]!);
  const result = new Array<number>(values.length);
  for (let from = 0; from < order.length; ) {
    let to = from;
    while (to + 1 < order.length && values[order[to + 1]!] === values[order[from]!]) to++;
    for (let k = from; k <= to; k++) result[order[k]!] = (from + to) / 2;
    from = to + 1;
  }
  return result;
}

/** Spearman's rank correlation; NaN where either side is constant. */
export function spearman(a: readonly number[], b: readonly number[]): number {
  const [x, y] = [ranks(a), ranks(b)];
  const mean = (a.length - 1) / 2;
  let xy = 0;
  let xx = 0;
  let yy = 0;
  for (let i = 0; i < a.length; i++) {
    xy += (x[i]! - mean) * (y[i]! - mean);
    xx += (x[i]! - mean) ** 2;
    yy += (y[i]! - mean) ** 2;
  }
  return xx > 0 && yy > 0 ? xy / Math.sqrt(xx * yy) : Number.NaN;
}

/** Kendall's rank correlation tau-b (agreeing pairs less disagreeing ones, ties left out of both); NaN where either side is constant. */
export function kendall(a: readonly number[], b: readonly number[]): number {
  let [agreement, ordered, otherOrdered] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < i; j++) {
      const [x, y] = [Math.sign(a[i]! - a[j]!), Math.sign(b[i]! - b[j]!)];
      agreement += x * y;
      ordered += x * x;
      otherOrdered += y * y;
    }
  }
  return ordered > 0 && otherOrdered > 0 ? agreement / Math.sqrt(ordered * otherOrdered) : Number.NaN;
}
