/**
 * Value-driven quantization search (VDQS; QuantMCU, arXiv 2401.13714): bits for every feature map from one pass over calibration samples,
 * by what a map's entropy loses and what computation gains, under a ceiling on memory. The paper has no public code; its score is
 * `S(i, b) = -lambda * Omega(i, b) + (1 - lambda) * Phi(i, b)`, and how both are normalised (here: by the largest of all maps) is a
 * reconstruction. `searchGreedy` goes map by map as the paper does; `searchExact` finds the best choice that there is.
 */
import { type Affine, roundHalfEven } from '../quant/affine.js';

/** A feature map whose bits are to be chosen. */
export interface ValueMap {
  readonly name: string;
  /** Bits that it may have, the most first; at least one. */
  readonly candidates: readonly number[];
  /** What all that reads it costs at so many bits: bit operations, or time in a target's counter. */
  readonly computation: (bits: number) => number;
  /** What is lost at so many bits: entropy, or an estimate of the output's error. */
  readonly loss: (bits: number) => number;
}

/** A moment of the execution: the maps in memory, and the bytes of all that lies there, in the order of `maps`. */
export interface MemoryStep {
  /** Indices of maps, without repeats. */
  readonly maps: readonly number[];
  readonly bytes: (bits: readonly number[]) => number;
}

/** What a search decides on. */
export interface ValueProblem {
  readonly maps: readonly ValueMap[];
  /** In the order of execution. */
  readonly steps: readonly MemoryStep[];
  readonly ceilingBytes: number;
}

/** Bits of every map. */
export type MapBits = readonly number[];

/** Shannon entropy of a histogram in bits; 0 for an empty one. */
export function entropyOf(histogram: ArrayLike<number>): number {
  let total = 0;
  for (let code = 0; code < histogram.length; code++) total += histogram[code]!;
  let entropy = 0;
  for (let code = 0; code < histogram.length; code++) {
    const share = histogram[code]! / total;
    if (share > 0) entropy -= share * Math.log2(share);
  }
  return entropy;
}

/**
 * The histogram of codes that values would have on a coarser grid, from the histogram of the codes that they have. Every value counts as
 * the middle of its finer code, so no second pass over the samples is needed.
 */
export function regrid(histogram: ArrayLike<number>, from: Affine, to: Affine): Float64Array {
  const result = new Float64Array(to.codeMaximum + 1);
  for (let code = 0; code < histogram.length; code++) {
    const value = (code - from.zeroPoint) * from.scale;
    const coarse = roundHalfEven(value / to.scale) + to.zeroPoint;
    result[Math.min(to.codeMaximum, Math.max(to.codeMinimum, coarse))]! += histogram[code]!;
  }
  return result;
}

/** Bits of entropy that values lose between two grids, as a histogram of their codes on the finer one has it (the paper's `H(i, 8) - H(i, b)`). */
export function entropyLoss(histogram: ArrayLike<number>, from: Affine, to: Affine): number {
  return entropyOf(histogram) - entropyOf(regrid(histogram, from, to));
}

/**
 * The score of every candidate of every map: `-lambda * loss + (1 - lambda) * saving`, each relative to a map's most bits and to the largest of
 * its kind over all maps. With lambda 0 computation is all that counts, with 1 what is lost.
 *
 * @throws RangeError for a lambda outside of [0, 1]
 */
export function scoresOf(maps: readonly ValueMap[], lambda: number): readonly (readonly number[])[] {
  if (!(lambda >= 0 && lambda <= 1)) throw new RangeError(`lambda is from 0 to 1, not ${lambda}`);
  const savings = maps.map(({ candidates, computation }) =>
    candidates.map((bits) => computation(candidates[0]!) - computation(bits)),
  );
  const losses = maps.map(({ candidates, loss }) => candidates.map((bits) => loss(bits) - loss(candidates[0]!)));
  const largest = (values: readonly (readonly number[])[]) => values.flat().reduce((a, b) => Math.max(a, b), 0) || 1;
  const [mostSaved, mostLost] = [largest(savings), largest(losses)];
  return savings.map((of, map) =>
    of.map((saving, index) => -lambda * (losses[map]![index]! / mostLost) + (1 - lambda) * (saving / mostSaved)),
  );
}

/** Whether every step fits in memory. */
export function fits({ steps, ceilingBytes }: ValueProblem, bits: MapBits): boolean {
  return steps.every((step) => step.bytes(step.maps.map((map) => bits[map]!)) <= ceilingBytes);
}

/**
 * The paper's iteration: maps in the order of execution, each at the best score that fits beside what is decided; where nothing fits, it gets
 * the fewest bits, and maps in front of it lose bits, the nearest first. null where that ends in a choice that does not fit: there may
 * be one all the same.
 */
export function searchGreedy(problem: ValueProblem, lambda: number): MapBits | null {
  const { maps, steps, ceilingBytes } = problem;
  const scores = scoresOf(maps, lambda);
  const least = maps.map(({ candidates }) => candidates[candidates.length - 1]!);
  const bits: (number | undefined)[] = maps.map(() => undefined);
  // What is not decided yet may still become as small as it can.
  const isRoom = ({ maps: held, bytes }: MemoryStep) =>
    bytes(held.map((map) => bits[map] ?? least[map]!)) <= ceilingBytes;
  const decided: number[] = [];
  for (const step of steps) {
    for (const map of step.maps) {
      if (bits[map] !== undefined) continue;
      const { candidates } = maps[map]!;
      const wished = byScore(candidates, scores[map]!).find((candidate) => {
        bits[map] = candidate;
        return isRoom(step);
      });
      bits[map] = wished ?? least[map]!;
      decided.push(map);
    }
    for (let back = decided.length - 1; back >= 0 && !isRoom(step); back--) {
      const { candidates } = maps[decided[back]!]!;
      const lower = candidates.filter((candidate) => candidate < bits[decided[back]!]!);
      for (const candidate of lower) {
        bits[decided[back]!] = candidate;
        if (isRoom(step)) break;
      }
    }
  }
  const result = bits.map((chosen, map) => chosen ?? byScore(maps[map]!.candidates, scores[map]!)[0]!);
  return fits(problem, result) ? result : null;
}

/** Candidates by falling score; of equal ones the most bits. */
function byScore(candidates: readonly number[], scores: readonly number[]): number[] {
  return [...candidates.keys()].sort((a, b) => scores[b]! - scores[a]! || a - b).map((index) => candidates[index]!);
}

/** Choices made so far, for maps that no later step holds as well. */
interface Path {
  readonly score: number;
  readonly bits: readonly (number | undefined)[];
}

/**
 * The choice of the largest sum of scores among all that fit; of equal ones, one with more bits in front. null where none fits. Viterbi's
 * algorithm over the steps: what is decided in front of a step matters to later ones only through the maps that are still in memory, so
 * one best path for each of their combinations is enough. Time grows with the number of maps that are in memory at once, not with
 * how many there are.
 */
export function searchExact({ maps, steps, ceilingBytes }: ValueProblem, lambda: number): MapBits | null {
  const scores = scoresOf(maps, lambda);
  const lastStep = maps.map((_, map) => steps.findLastIndex((step) => step.maps.includes(map)));
  let paths: Path[] = [{ score: 0, bits: maps.map(() => undefined) }];
  for (const [index, step] of steps.entries()) {
    const best = new Map<string, Path>();
    const stays = maps.flatMap((_, map) => (lastStep[map]! > index ? [map] : []));
    for (const path of paths) {
      for (const extended of extensions(path, step.maps, maps, scores)) {
        if (step.bytes(step.maps.map((map) => extended.bits[map]!)) > ceilingBytes) continue;
        const state = stays.map((map) => extended.bits[map] ?? '').join();
        const known = best.get(state);
        if (known === undefined || extended.score > known.score) best.set(state, extended);
      }
    }
    paths = [...best.values()];
  }
  const [first, ...others] = paths;
  if (first === undefined) return null;
  const { bits } = others.reduce((a, b) => (b.score > a.score ? b : a), first);
  return bits.map((chosen, map) => chosen ?? byScore(maps[map]!.candidates, scores[map]!)[0]!);
}

/** A path with every combination of bits of the maps that it has not decided. */
function extensions(
  path: Path,
  held: readonly number[],
  maps: readonly ValueMap[],
  scores: readonly (readonly number[])[],
): Path[] {
  let result = [path];
  for (const map of held) {
    if (path.bits[map] !== undefined) continue;
    result = result.flatMap(({ score, bits }) =>
      maps[map]!.candidates.map((candidate, index) => ({
        score: score + scores[map]![index]!,
        bits: bits.with(map, candidate),
      })),
    );
  }
  return result;
}

/** A choice, and the lambdas that led to it. */
export interface SweptChoice {
  readonly lambdas: readonly number[];
  readonly bits: MapBits;
  readonly computation: number;
  readonly loss: number;
}

/** The different choices that a search makes for a list of lambdas, with what they cost and lose in sum; the least computation first. */
export function sweepLambda(
  problem: ValueProblem,
  lambdas: readonly number[],
  search: (problem: ValueProblem, lambda: number) => MapBits | null,
): SweptChoice[] {
  const found = new Map<string, SweptChoice>();
  for (const lambda of lambdas) {
    const bits = search(problem, lambda);
    if (bits === null) continue;
    const known = found.get(bits.join());
    const sum = (of: (map: ValueMap, bits: number) => number) =>
      problem.maps.reduce((total, map, index) => total + of(map, bits[index]!), 0);
    found.set(bits.join(), {
      lambdas: [...(known?.lambdas ?? []), lambda],
      bits,
      computation: sum((map, chosen) => map.computation(chosen)),
      loss: sum((map, chosen) => map.loss(chosen)),
    });
  }
  return [...found.values()].sort((a, b) => a.computation - b.computation);
}

/** Those of a list that nothing in it beats in one of two measures without being worse in the other; less is better. */
export function paretoSet<T>(items: readonly T[], cost: (item: T) => number, loss: (item: T) => number): T[] {
  return items.filter(
    (item) =>
      !items.some(
        (other) =>
          cost(other) <= cost(item) &&
          loss(other) <= loss(item) &&
          (cost(other) < cost(item) || loss(other) < loss(item)),
      ),
  );
}
