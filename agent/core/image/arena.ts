/** Where the tensors of an image lie while it runs. */
import { type Lifetime, planArena } from '../plan/memory.js';
import type { Draft, TensorEntry, TensorId } from './draft.js';

const alignment = 64;

/** Operators that may write over what they read, element by element. */
const elementwise: ReadonlySet<string> = new Set(['table', 'add', 'multiply']);

/** Tensors that share memory: at most one of them is there at a time, but for the operator that makes one of the other in place. */
interface Block {
  bytes: number;
  first: number;
  last: number;
}

/**
 * Offsets in the arena, of tensors that have their place there, and its size. Operators that can write over an input do so where nobody
 * reads that any more; crops only where it makes the arena smaller, since what is cropped in place keeps the memory of the larger.
 */
export function layOutArena(draft: Draft): {
  readonly offsets: ReadonlyMap<TensorId, number>;
  readonly arenaBytes: number;
} {
  return [[], [...elementwise], [...elementwise, 'crop']]
    .map((kinds) => layOut(draft, new Set(kinds)))
    .reduce((best, arena) => (arena.arenaBytes < best.arenaBytes ? arena : best));
}

function layOut(draft: Draft, inPlace: ReadonlySet<string>) {
  const ids = [...draft.tensors.keys()].filter((id) => draft.tensors[id]!.place === 'arena');
  const blocks = new Map(ids.map((id): [TensorId, Block] => [id, blockOf(draft, id)]));
  draft.operators.forEach(({ kind, inputs, output }, position) => {
    if (!inPlace.has(kind)) return;
    const to = blocks.get(output);
    const now = momentOf(draft, position);
    const input = inputs.find((id) => {
      const from = blocks.get(id);
      return from !== undefined && to !== undefined && isHandedOver(from, to, now) && canHold(draft, kind, id, output);
    });
    if (input === undefined) return;
    const block = blocks.get(input)!;
    block.first = Math.min(block.first, to!.first);
    block.last = Math.max(block.last, to!.last);
    blocks.set(output, block);
  });
  const unique = [...new Set(blocks.values())];
  const { offsets, arenaBytes } = planArena(unique.map((block): Lifetime => ({ name: '', ...block })));
  const offsetOf = new Map(unique.map((block, index) => [block, offsets[index]!]));
  return { offsets: new Map(ids.map((id) => [id, offsetOf.get(blocks.get(id)!)!])), arenaBytes };
}

/** From the first operator that touches a tensor to the last. What a stage has as a whole is there for all of its patches. */
function blockOf(draft: Draft, id: TensorId): Block {
  const { tensors, operators, stage } = draft;
  const positions = operators.flatMap(({ inputs, output }, position) =>
    output === id || inputs.includes(id) ? [position] : [],
  );
  if (stage !== null && tensors[id]!.regions === null) {
    const { plainEnd, end } = stageEnds(stage);
    if (positions.some((position) => position >= stage.firstOperator && position < end))
      positions.push(stage.firstOperator, plainEnd - 1, end - 1);
  }
  const bytes = bytesOf(tensors[id]!);
  if (positions.length === 0) return { bytes, first: momentOf(draft, 0), last: operators.length };
  const moments = positions.map((position) => momentOf(draft, position));
  return { bytes, first: Math.min(...moments), last: Math.max(...moments) };
}

function stageEnds({ firstOperator, plainOperators, outlierOperators }: NonNullable<Draft['stage']>) {
  const plainEnd = firstOperator + 1 + plainOperators;
  return { plainEnd, end: plainEnd + outlierOperators };
}

/**
 * When an operator runs. A patch takes one of two branches from its window on: one is put behind the window and the other, backwards, in
 * front of it, so that what only one of them has takes no memory from the other, and what both read lasts as long as it must in each.
 */
function momentOf({ stage }: Draft, position: number): number {
  if (stage === null) return position;
  const { plainEnd, end } = stageEnds(stage);
  if (position < stage.firstOperator) return position - stage.outlierOperators;
  if (position < plainEnd || position >= end) return position;
  return stage.firstOperator - 1 - (position - plainEnd);
}

/**
 * Whether the operator of a moment is the last reader of what is in one block, and nothing was written to the other before. In the branch that
 * is put backwards, last is first.
 */
function isHandedOver(from: Block, to: Block, moment: number): boolean {
  return (from.last === moment && to.first === moment) || (from.first === moment && to.last === moment);
}

function canHold({ tensors }: Draft, kind: string, input: TensorId, output: TensorId): boolean {
  const [from, to] = [tensors[input]!, tensors[output]!];
  if (from.type !== 'codes' || to.type !== 'codes') return false;
  return kind === 'crop' ? from.regions !== null : from.elements === to.elements;
}

function bytesOf({ type, elements }: TensorEntry): number {
  return Math.ceil((elements * (type === 'codes' ? 1 : 4)) / alignment) * alignment;
}
