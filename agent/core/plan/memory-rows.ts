/** Live memory as linear expressions: what `memory.ts` says of one assignment, said of all at once. */
import type { Edge } from './problem.js';
import { combine, constant, type Expression, type ProgramBuilder } from './program-builder.js';

/** Somebody who reads a tensor, and for each format the expression that is 1 when it is read in that format. */
export interface Reader {
  position: number;
  formats: ReadonlyMap<string, Expression>;
}

/** A tensor, for each format the expression that is 1 when it is written in that format, and its readers in order. */
export interface TensorFormats {
  edge: Edge;
  written: ReadonlyMap<string, Expression>;
  readers: readonly Reader[];
}

const zero = constant(0);
const one = constant(1);

/**
 * Bytes in use at each position at which they might exceed `threshold`. `scratch` is what is in use besides tensors, by position.
 * Variables that the binaries do not determine alone are added to the builder; they are exact where memory is kept small.
 */
export function liveBytesByPosition(
  tensors: readonly TensorFormats[],
  scratch: readonly Expression[],
  threshold: number,
  builder: ProgramBuilder,
): Expression[] {
  const shared = new Map<string, Expression[]>();
  return scratch.flatMap((own, position) => {
    const alive = tensors.filter((tensor) => canBeAlive(tensor, position));
    const most = alive.reduce((sum, tensor) => sum + allFormatsBytes(tensor), builder.largest(own));
    if (most <= threshold) return [];
    const parts = alive.flatMap((tensor) => {
      const key = `${tensors.indexOf(tensor)} ${slotOf(tensor, position)}`;
      if (!shared.has(key)) shared.set(key, tensorBytes(tensor, position, builder));
      return shared.get(key)!;
    });
    return [combine([1, own], ...parts.map((part) => [1, part] as const))];
  });
}

function canBeAlive({ edge, readers }: TensorFormats, position: number): boolean {
  const first = edge.producer ?? 0;
  return first <= position && position <= (readers.at(-1)?.position ?? first);
}

function formatsOf({ written, readers }: TensorFormats): Set<string> {
  return new Set([...written.keys(), ...readers.flatMap((reader) => [...reader.formats.keys()])]);
}

function allFormatsBytes(tensor: TensorFormats): number {
  return [...formatsOf(tensor)].reduce((sum, format) => sum + tensor.edge.ramBytes[format]!, 0);
}

/** Positions between the same readers have the same tensors alive. */
function slotOf({ readers }: TensorFormats, position: number): string {
  const before = readers.filter((reader) => reader.position < position).length;
  return readers.some((reader) => reader.position === position) ? `at ${before}` : `before ${before}`;
}

/** Bytes of the tensor in each of its formats, where it is alive. */
function tensorBytes(tensor: TensorFormats, position: number, builder: ProgramBuilder): Expression[] {
  const { edge, written, readers } = tensor;
  if (position < (readers[0]?.position ?? Number.POSITIVE_INFINITY)) {
    return [...written].map(([format, isWritten]) => combine([edge.ramBytes[format]!, isWritten]));
  }
  return [...formatsOf(tensor)].map((format) => {
    const name = `${edge.tensor} ${format} at ${position}`;
    return combine([edge.ramBytes[format]!, builder.maximum(name, livenessBounds(tensor, format, position), 1)]);
  });
}

/**
 * Expressions of which one is 1 exactly when the tensor is alive in `format` at a position not before its first reader:
 * - it has been read in that format, and will be;
 * - it was written in that format, and will be read so, or read in another format in which nobody has read it before (then it is
 *   still to be converted).
 */
function livenessBounds({ written, readers }: TensorFormats, format: string, position: number): Expression[] {
  const reads = (reader: Reader, as: string) => reader.formats.get(as) ?? zero;
  const before = readers.filter((reader) => reader.position < position);
  const later = readers.filter((reader) => reader.position >= position);
  const after = readers.filter((reader) => reader.position > position);
  const bounds = later.filter((reader) => !after.includes(reader)).map((reader) => reads(reader, format));
  for (const reader of before) {
    for (const next of after) bounds.push(both(reads(reader, format), reads(next, format)));
  }
  const isWritten = written.get(format) ?? zero;
  if (before.length === 0) return [...bounds, isWritten];
  for (const reader of later) {
    for (const [as, isRead] of reader.formats) {
      const converted = as === format ? [] : before.map((earlier) => [-1, reads(earlier, as)] as const);
      bounds.push(combine([1, both(isWritten, isRead)], ...converted));
    }
  }
  return bounds;
}

/** At least 1 when both are 1, and at most 0 otherwise. */
function both(a: Expression, b: Expression): Expression {
  return combine([1, a], [1, b], [-1, one]);
}
