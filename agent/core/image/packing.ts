/** Weights in the form in which a kernel executes them where they lie. */
import { operatorKinds, packedSlackBytes } from '../../../configs/contracts/image.js';
import type { PackingVariant, WeightPacker } from '../../../configs/contracts/packing.js';
import { length } from '../plan/patch-geometry.js';
import { type Draft, numberOf, type OperatorEntry } from './draft.js';
import { bandsOf, isBanded } from './nibbles.js';

/** The same image with the weights of convolutions packed. */
export function packWeights(draft: Draft, packer: WeightPacker): Draft {
  return { ...draft, operators: draft.operators.map((operator) => packed(draft, operator, packer)) };
}

function packed(draft: Draft, operator: OperatorEntry, packer: WeightPacker): OperatorEntry {
  if (operator.kind !== 'convolution') return operator;
  const { weights, bias } = operator.values;
  if (typeof weights !== 'object' || !('bytes' in weights) || typeof bias !== 'object' || !('bytes' in bias))
    throw new TypeError('a convolution has weights and a bias');
  const { bytes } = bias;
  const result = packer({
    fields: Uint32Array.from(operatorKinds.convolution.fields, (field) => {
      const value = operator.values[field];
      return typeof value === 'number' ? value : 0;
    }),
    inputBits: draft.tensors[operator.inputs[0]!]!.bits!,
    weights: weights.bytes,
    bias: new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4),
    variants: variantsOf(draft, operator),
  });
  if (result === null) return operator;
  const { kernel, layout, weightBits } = result;
  // How they were stored before says nothing of packed weights, but never that they are wider.
  const storageBits = Math.max(weightBits, numberOf(operator, 'storageBits'));
  const padded = new Uint8Array(result.bytes.length + packedSlackBytes);
  padded.set(result.bytes);
  return {
    ...operator,
    values: { ...operator.values, kernel, layout, weightBits, storageBits, weights: { bytes: padded } },
  };
}

/** The sizes of a convolution, one for each kind of patch or band. */
function variantsOf(draft: Draft, operator: OperatorEntry): PackingVariant[] {
  const { tensors } = draft;
  if (isBanded(draft, operator)) return distinct(bandsOf(operator));
  const value = (field: string) => numberOf(operator, field);
  const [from, to] = [tensors[operator.inputs[0]!]!.regions, tensors[operator.output]!.regions];
  if (from === null || to === null) {
    const [inHeight, inWidth] = [value('inHeight'), value('inWidth')];
    const [outHeight, outWidth] = [value('outHeight'), value('outWidth')];
    return [{ inHeight, inWidth, outHeight, outWidth, padTop: value('padTop'), padLeft: value('padLeft') }];
  }
  const variants: PackingVariant[] = [];
  from.rowSpans.forEach((inRows, row) => {
    from.columnSpans.forEach((inColumns, column) => {
      const [outRows, outColumns] = [to.rowSpans[row]!, to.columnSpans[column]!];
      const variant = {
        ...{ inHeight: length(inRows), inWidth: length(inColumns) },
        ...{ outHeight: length(outRows), outWidth: length(outColumns) },
        padTop: value('padTop') + inRows.first - outRows.first * value('strideY'),
        padLeft: value('padLeft') + inColumns.first - outColumns.first * value('strideX'),
      };
      variants.push(variant);
    });
  });
  return distinct(variants);
}

function distinct(variants: readonly PackingVariant[]): PackingVariant[] {
  return [...new Map(variants.map((variant) => [Object.values(variant).join(), variant])).values()];
}
