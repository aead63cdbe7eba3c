/** Packing of weights for processors that execute them where they lie. Everything is validated here, before it crosses. */
import type { PackedWeights, PackingProblem, PackingVariant } from '../configs/contracts/packing.js';
import { addon } from './addon.js';

/** Positions of the fields that are looked at here; `packing.test.ts` holds them to `operatorKinds.convolution.fields`. */
export const packedFields = {
  inChannels: 3,
  outChannels: 6,
  kernelHeight: 7,
  kernelWidth: 8,
  groups: 15,
  weightBits: 16,
  storageBits: 17,
  count: 29,
} as const;

/** As many as the engine takes. */
const mostWeights = 2 ** 24;
const variantFields = [
  'inHeight',
  'inWidth',
  'outHeight',
  'outWidth',
  'padTop',
  'padLeft',
] as const satisfies readonly (keyof PackingVariant)[];

/**
 * Packs a convolution's weights for Cortex-M with the DSP extension: for the kernel that its record names, or else for the first that
 * computes it at all of its sizes; null where none does. The bytes are the same on every machine. Throws a RangeError for a problem whose
 * parts do not fit each other.
 */
export function packForCortexM(problem: PackingProblem): PackedWeights | null {
  const { fields, inputBits, weights, bias, variants } = problem;
  const field = (name: keyof typeof packedFields) => fields[packedFields[name]]!;
  const isSize = (value: number) => Number.isInteger(value) && value >= 1 && value <= mostWeights;
  const fail = (what: string) => new RangeError(`weights cannot be packed: ${what}`);
  if (fields.length !== packedFields.count) throw fail(`a record has ${packedFields.count} fields`);
  for (const name of ['inChannels', 'outChannels', 'kernelHeight', 'kernelWidth', 'groups'] as const)
    if (!isSize(field(name))) throw fail(`${name} is ${field(name)}`);
  const [storageBits, weightBits] = [field('storageBits'), field('weightBits')];
  if (![2, 4, 8].includes(storageBits) || weightBits < 2 || weightBits > storageBits)
    throw fail(`they have ${weightBits} bits in ${storageBits}`);
  if (!Number.isInteger(inputBits) || inputBits < 1 || inputBits > 8) throw fail(`codes have ${inputBits} bits`);
  if (field('inChannels') % field('groups') !== 0 || field('outChannels') % field('groups') !== 0)
    throw fail('the groups do not divide the channels');
  const row = (field('kernelHeight') * field('kernelWidth') * field('inChannels')) / field('groups');
  if (row * field('outChannels') > mostWeights) throw fail('there are too many');
  if (weights.length !== Math.ceil((row * storageBits) / 8) * field('outChannels'))
    throw fail('they have another size');
  if (bias.length !== field('outChannels')) throw fail('the bias has another size');
  if (variants.length === 0) throw fail('there is no size to run at');
  const sizes = variants.flatMap((variant) => variantFields.map((name) => variant[name]));
  const isRight = (value: number, index: number) => (index % 6 < 4 ? isSize(value) : value === 0 || isSize(value));
  if (!sizes.every(isRight)) throw fail('a size is out of range');
  return addon().packWeights(fields, inputBits, weights, bias, Int32Array.from(sizes), cortexMFeatures);
}

/** `KN_DSP` of `kernels.h`. */
const cortexMFeatures = 8;
