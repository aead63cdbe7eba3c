/** Memory of activations: when a tensor is alive, what is alive at once, and where each lies in one static arena. */
import type { Assignment, Edge, Problem } from './problem.js';

/** A tensor that needs memory from position `first` to position `last`, both included. */
export interface Lifetime {
  name: string;
  bytes: number;
  first: number;
  last: number;
}

/** Where each tensor lies, parallel to the tensors given, and the size of the whole. */
export interface Arena {
  offsets: number[];
  arenaBytes: number;
}

/** A tensor of the problem in one of the formats in which it exists. */
export interface TensorLifetime extends Lifetime {
  format: string;
}

/**
 * The tensors that exist under an assignment, converted copies included, with the positions at which they are alive. Position `p`
 * is the run of operator `p`; the position after the last operator is where graph outputs are delivered. A copy is made just
 * before its first reader; the original lives until the last reader of it or of a conversion from it.
 */
export function tensorLifetimes(problem: Problem, assignment: Assignment): TensorLifetime[] {
  return problem.edges.flatMap((edge) => edgeLifetimes(problem, edge, assignment));
}

/** Largest sum of live tensors and scratch memory over all positions, plus what is fixed. No arena can be smaller. */
export function peakRamBytes(problem: Problem, assignment: Assignment): number {
  const scratch = problem.operators.map((operator, index) => operator.choices[assignment[index]!]!.scratchBytes ?? 0);
  const live = liveBytes(tensorLifetimes(problem, assignment), problem.operators.length + 1);
  return (
    problem.fixed.ramBytes + live.reduce((peak, bytes, position) => Math.max(peak, bytes + (scratch[position] ?? 0)), 0)
  );
}

/** Sum of live bytes at each of the positions `0 .. positions - 1`. */
export function liveBytes(tensors: readonly Lifetime[], positions: number): number[] {
  const live = new Array<number>(positions).fill(0);
  for (const { bytes, first, last } of tensors) {
    for (let position = first; position <= last; position++) live[position]! += bytes;
  }
  return live;
}

function edgeLifetimes(problem: Problem, edge: Edge, assignment: Assignment): TensorLifetime[] {
  const format = (operator: number) => problem.operators[operator]!.choices[assignment[operator]!]!.format;
  const written = edge.producer === null ? edge.sourceFormat! : format(edge.producer);
  const first = edge.producer ?? 0;
  const original = { name: edge.tensor, format: written, bytes: edge.ramBytes[written]!, first, last: first };
  const copies = new Map<string, TensorLifetime>();
  for (const { position, sinkFormat } of edgeReaders(problem, edge)) {
    const read = sinkFormat ?? format(position);
    const copy = copies.get(read);
    if (read === written) {
      original.last = position;
    } else if (copy) {
      copy.last = position;
    } else {
      original.last = position;
      copies.set(read, {
        name: edge.tensor,
        format: read,
        bytes: edge.ramBytes[read]!,
        first: position,
        last: position,
      });
    }
  }
  return [original, ...copies.values()];
}

/** Somebody who reads a tensor: an operator, or the outside at the position after the last operator, in a format it demands. */
export interface EdgeReader {
  position: number;
  sinkFormat?: string;
}

/** Who reads the tensor, in the order of execution; graph outputs last. */
export function edgeReaders(problem: Problem, edge: Edge): EdgeReader[] {
  const consumers = [...new Set(edge.consumers)].sort((a, b) => a - b);
  const sinks = [...new Set(edge.sinkFormats ?? [])];
  return [
    ...consumers.map((position) => ({ position })),
    ...sinks.map((sinkFormat) => ({ position: problem.operators.length, sinkFormat })),
  ];
}

/**
 * Lays tensors out in one arena so that no two that are alive at once overlap. The least arena is NP-hard to find; this is the usual
 * heuristic, the most demanding first, each into the smallest gap that holds it (Pisarchyk and Lee, "Efficient Memory Management
 * for Deep Neural Net Inference", 2020), tried with demand as bytes, as lifetime and as their product.
 */
export function planArena(tensors: readonly Lifetime[]): Arena {
  const duration = ({ first, last }: Lifetime) => last - first + 1;
  const demands = [(tensor: Lifetime) => tensor.bytes, (tensor: Lifetime) => tensor.bytes * duration(tensor), duration];
  return demands
    .map((demand) => layOut(tensors, demand))
    .reduce((best, arena) => (arena.arenaBytes < best.arenaBytes ? arena : best));
}

function layOut(tensors: readonly Lifetime[], demand: (tensor: Lifetime) => number): Arena {
  const order = [...tensors.keys()];
  order.sort((a, b) => demand(tensors[b]!) - demand(tensors[a]!) || tensors[a]!.first - tensors[b]!.first || a - b);
  const offsets = new Array<number>(tensors.length).fill(0);
  const placed: number[] = [];
  let arenaBytes = 0;
  for (const index of order) {
    const { bytes, first, last } = tensors[index]!;
    const alive = placed.filter((other) => tensors[other]!.first <= last && first <= tensors[other]!.last);
    const taken = alive.map((other) => ({ start: offsets[other]!, end: offsets[other]! + tensors[other]!.bytes }));
    offsets[index] = smallestGap(bytes, taken);
    placed.push(index);
    arenaBytes = Math.max(arenaBytes, offsets[index]! + bytes);
  }
  return { offsets, arenaBytes };
}

/** Start of the smallest gap between the taken spans that holds `bytes`; behind all of them if there is none. */
function smallestGap(bytes: number, taken: { start: number; end: number }[]): number {
  taken.sort((a, b) => a.start - b.start);
  let best = -1;
  let bestSize = Number.POSITIVE_INFINITY;
  let end = 0;
  for (const span of taken) {
    const size = span.start - end;
    if (size >= bytes && size < bestSize) {
      best = end;
      bestSize = size;
    }
    end = Math.max(end, span.end);
  }
  return best >= 0 ? best : end;
}
