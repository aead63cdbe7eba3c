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
  const twins = twinsOf(draft);
  const single = withoutOutliers(draft);
  const { offsets, arenaBytes } = [[], [...elementwise], [...elementwise, 'crop']]
    .map((kinds) => layOut(single, new Set(kinds), twins))
    .reduce((best, arena) => (arena.arenaBytes < best.arenaBytes ? arena : best));
  for (const [id, twin] of twins) offsets.set(id, offsets.get(twin)!);
  return { offsets, arenaBytes };
}

/**
 * What the branch of outlier patches makes, each with the tensor that the other branch makes in its stead: a patch runs one of the two, so both
 * have one place. `cutPatches` sees to it that the branches differ in nothing but grids of codes.
 */
function twinsOf({ operators, stage }: Draft): Map<TensorId, TensorId> {
  if (stage === null || stage.outlierOperators === 0) return new Map();
  const begin = stage.firstOperator + 1;
  const outliers = operators.slice(begin + stage.plainOperators, begin + stage.plainOperators + stage.outlierOperators);
  return new Map(
    outliers
      .map(({ output }, index): [TensorId, TensorId] => [output, operators[begin + index]!.output])
      .filter(([id, twin]) => id !== twin),
  );
}

function withoutOutliers(draft: Draft): Draft {
  const { operators, stage } = draft;
  if (stage === null) return draft;
  const plainEnd = stage.firstOperator + 1 + stage.plainOperators;
  const others = [...operators.slice(0, plainEnd), ...operators.slice(plainEnd + stage.outlierOperators)];
  return { ...draft, operators: others, stage: { ...stage, outlierOperators: 0 } };
}

function layOut(draft: Draft, inPlace: ReadonlySet<string>, elsewhere: ReadonlyMap<TensorId, TensorId>) {
  const ids = [...draft.tensors.keys()].filter((id) => draft.tensors[id]!.place === 'arena' && !elsewhere.has(id));
  const blocks = new Map(ids.map((id): [TensorId, Block] => [id, blockOf(draft, id)]));
  draft.operators.forEach(({ kind, inputs, output }, position) => {
    if (!inPlace.has(kind)) return;
    const to = blocks.get(output);
    const input = inputs.find((id) => {
      const from = blocks.get(id);
      // Its last reader, and the only one that is in the block now; and nothing was written to the output before.
      return from !== undefined && from.last === position && to?.first === position && canHold(draft, kind, id, output);
    });
    if (input === undefined) return;
    const block = blocks.get(input)!;
    block.last = to!.last;
    blocks.set(output, block);
  });
  const unique = [...new Set(blocks.values())];
  const { offsets, arenaBytes } = planArena(unique.map((block): Lifetime => ({ name: '', ...block })));
  const offsetOf = new Map(unique.map((block, index) => [block, offsets[index]!]));
  return { offsets: new Map(ids.map((id) => [id, offsetOf.get(blocks.get(id)!)!])), arenaBytes };
}

/** From the first operator that touches a tensor to the last. What a stage has as a whole is there for all of its patches. */
function blockOf({ tensors, operators, stage }: Draft, id: TensorId): Block {
  const positions = operators.flatMap(({ inputs, output }, position) =>
    output === id || inputs.includes(id) ? [position] : [],
  );
  if (stage !== null && tensors[id]!.regions === null) {
    const end = stage.firstOperator + 1 + stage.plainOperators;
    if (positions.some((position) => position >= stage.firstOperator && position < end))
      positions.push(stage.firstOperator, end - 1);
  }
  const bytes = bytesOf(tensors[id]!);
  if (positions.length === 0) return { bytes, first: 0, last: operators.length };
  return { bytes, first: Math.min(...positions), last: Math.max(...positions) };
}

function canHold({ tensors }: Draft, kind: string, input: TensorId, output: TensorId): boolean {
  const [from, to] = [tensors[input]!, tensors[output]!];
  if (from.type !== 'codes' || to.type !== 'codes') return false;
  return kind === 'crop' ? from.regions !== null : from.elements === to.elements;
}

function bytesOf({ type, elements }: TensorEntry): number {
  const elementBytes = { codes: 1, accumulators: 4, floats: 4, nibbles: 0.5 } as const;
  return Math.ceil((elements * elementBytes[type]) / alignment) * alignment;
}
