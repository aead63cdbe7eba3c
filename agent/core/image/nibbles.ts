/**
 * Codes of up to 4 bits, two in a byte, where memory is scarce. Only convolutions on whole tensors read and write them, by bands of a few rows
 * that lie in scratch memory as bytes: memory for time.
 */
import { bandRows } from '../../../configs/contracts/image.js';
import type { PackingVariant } from '../../../configs/contracts/packing.js';
import { layOutArena } from './arena.js';
import { type Draft, numberOf, type OperatorEntry, type TensorId } from './draft.js';

/** Codes of a row of nibbles are a multiple of this. */
const wholeNibbles = 8;

/** The same image with the least of its codes as nibbles that brings its arena under a ceiling, or all that can be where none does. */
export function joinNibbles(draft: Draft, ceilingBytes: number): Draft {
  // Layouts are not the smallest there are: one at a time, tensors may seem not to go back to bytes where all of them do.
  if (layOutArena(draft).arenaBytes <= ceilingBytes) return draft;
  const nibbles = new Set([...draft.tensors.keys()].filter((id) => canBeNibbles(draft, id)));
  const fits = () => layOutArena(withNibbles(draft, nibbles)).arenaBytes <= ceilingBytes;
  if (!fits()) return withNibbles(draft, nibbles);
  // What costs the most goes back to bytes first.
  for (const id of [...nibbles].sort((a, b) => draft.tensors[b]!.elements - draft.tensors[a]!.elements)) {
    nibbles.delete(id);
    if (!fits()) nibbles.add(id);
  }
  return withNibbles(draft, nibbles);
}

function withNibbles(draft: Draft, nibbles: ReadonlySet<TensorId>): Draft {
  const tensors = draft.tensors.map((tensor, id) =>
    nibbles.has(id) ? { ...tensor, type: 'nibbles' as const } : tensor,
  );
  return { ...draft, tensors };
}

function canBeNibbles({ tensors, operators }: Draft, id: TensorId): boolean {
  const { type, bits = 8, place, regions } = tensors[id]!;
  if (type !== 'codes' || bits > 4 || place !== 'arena' || regions !== null) return false;
  const makers = operators.filter(({ output }) => output === id);
  const readers = operators.filter(({ inputs }) => inputs.includes(id));
  if (makers.length !== 1 || readers.length === 0) return false;
  const isWhole = (operator: OperatorEntry, width: string, channels: string) =>
    operator.kind === 'convolution' &&
    numberOf(operator, 'batch') === 1 &&
    (numberOf(operator, width) * numberOf(operator, channels)) % wholeNibbles === 0 &&
    bandsOf(operator).every(({ inHeight }) => inHeight > 0);
  return (
    makers.every((operator) => isWhole(operator, 'outWidth', 'outChannels')) &&
    readers.every((operator) => isWhole(operator, 'inWidth', 'inChannels'))
  );
}

/** Whether a convolution is computed by bands. */
export function isBanded({ tensors }: Draft, { inputs, output }: OperatorEntry): boolean {
  return [...inputs, output].some((id) => tensors[id]!.type === 'nibbles');
}

/** The sizes of a convolution's bands, as the engine cuts them; a band that reads padding only has an `inHeight` of 0 or less. */
export function bandsOf(operator: OperatorEntry): PackingVariant[] {
  const value = (field: string) => numberOf(operator, field);
  const [inHeight, inWidth] = [value('inHeight'), value('inWidth')];
  const [outHeight, outWidth, stride, padTop] = [
    value('outHeight'),
    value('outWidth'),
    value('strideY'),
    value('padTop'),
  ];
  const reach = (value('kernelHeight') - 1) * value('dilationY') + 1;
  return Array.from({ length: Math.ceil(outHeight / bandRows) }, (_, band) => {
    const out = { first: band * bandRows, end: Math.min(outHeight, (band + 1) * bandRows) };
    const wanted = { first: out.first * stride - padTop, end: (out.end - 1) * stride - padTop + reach };
    const held = { first: Math.max(0, wanted.first), end: Math.min(inHeight, wanted.end) };
    return {
      ...{ inHeight: held.end - held.first, inWidth, outHeight: out.end - out.first, outWidth },
      ...{ padTop: held.first - wanted.first, padLeft: value('padLeft') },
    };
  });
}
