/**
 * How a tensor's elements lie in memory: its axes from outermost to innermost, densely. Convolutions want channels innermost; the
 * rest of a model follows, and elements are moved only where an operator cannot do with what there is.
 */

/** Axes of a tensor in the order of storage. */
export type Order = readonly number[];

/** One dimension of a move of elements: how many, and how far apart they are on either side. */
export interface MoveAxis {
  readonly size: number;
  readonly from: number;
  readonly to: number;
}

/** The order in which the axes are numbered. */
export function plainOrder(rank: number): Order {
  return Array.from({ length: rank }, (_, axis) => axis);
}

/** Axis 1 innermost: the order of images, whatever the number of their spatial axes. */
export function channelsLast(rank: number): Order {
  return rank < 3 ? plainOrder(rank) : [0, ...plainOrder(rank).slice(2), 1];
}

/** Distance between neighbours along each axis, in elements. */
export function stridesOf(dims: readonly number[], order: Order): number[] {
  const strides = new Array<number>(dims.length).fill(0);
  let stride = 1;
  for (const axis of [...order].reverse()) {
    strides[axis] = stride;
    stride *= dims[axis]!;
  }
  return strides;
}

/** Whether two orders put the elements of these dimensions in the same places. */
export function isSameOrder(dims: readonly number[], a: Order, b: Order): boolean {
  const matters = (order: Order) => order.filter((axis) => dims[axis]! > 1).join();
  return matters(a) === matters(b);
}

/** What a transposition leaves where it is: the order of the result in which no element has to move. */
export function transposedOrder(order: Order, permutation: readonly number[]): Order {
  return order.map((axis) => permutation.indexOf(axis));
}

/**
 * The order of a reshaped tensor in which no element has to move, or null where there is none. A reshape splits and joins runs of
 * neighbouring axes; it is free where the axes of each run that is changed are neighbours in memory, in the same order.
 */
export function reshapedOrder(from: readonly number[], order: Order, to: readonly number[]): Order | null {
  const result: number[] = [];
  const runs = matchingRuns(from, to);
  if (runs === null) return null;
  const runOf = new Map(runs.flatMap((run) => run.from.map((axis) => [axis, run] as const)));
  const seen = new Set<(typeof runs)[number]>();
  // Axes of one element lie nowhere in particular.
  const axes = order.filter((axis) => from[axis]! > 1);
  for (let at = 0; at < axes.length; ) {
    const run = runOf.get(axes[at]!)!;
    const wanted = run.from.filter((axis) => from[axis]! > 1);
    const isWhole = wanted.every((axis, index) => axes[at + index] === axis);
    if (!isWhole || seen.has(run)) return null;
    seen.add(run);
    result.push(...run.to);
    at += wanted.length;
  }
  const missing = plainOrder(to.length).filter((axis) => !result.includes(axis));
  return [...missing, ...result];
}

/** The shortest runs of axes on either side that hold the same number of elements; null where the sizes differ or are zero. */
function matchingRuns(
  from: readonly number[],
  to: readonly number[],
): { readonly from: readonly number[]; readonly to: readonly number[] }[] | null {
  const runs: { from: number[]; to: number[] }[] = [];
  let i = 0;
  let j = 0;
  while (i < from.length || j < to.length) {
    const run = { from: [] as number[], to: [] as number[] };
    let [a, b] = [1, 1];
    do {
      if (i < from.length && (a <= b || j >= to.length)) {
        a *= from[i]!;
        run.from.push(i++);
      } else if (j < to.length) {
        b *= to[j]!;
        run.to.push(j++);
      } else return null;
    } while (a !== b);
    runs.push(run);
  }
  return runs;
}

/**
 * The same move with as few dimensions as can be, outermost (on the side that is written) first: axes of one element are dropped,
 * and neighbours that one stride covers are joined.
 */
export function simplify(axes: readonly MoveAxis[]): MoveAxis[] {
  const sorted = axes.filter(({ size }) => size > 1).sort((a, b) => b.to - a.to);
  const joined: MoveAxis[] = [];
  for (const axis of sorted) {
    const outer = joined[joined.length - 1];
    if (outer !== undefined && outer.from === axis.from * axis.size && outer.to === axis.to * axis.size)
      joined[joined.length - 1] = { size: outer.size * axis.size, from: axis.from, to: axis.to };
    else joined.push(axis);
  }
  return joined;
}
