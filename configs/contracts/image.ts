/**
 * The image: a quantized model as our engine executes it, on gateways and on microcontrollers. One little-endian file of 32-bit
 * words: header, tensor records, operator records, data (weights, biases, multipliers, tables). These tables are the format: the
 * writer uses them as they are, and `native/engine/image.h` is generated from them (`npm run build` refuses a stale one).
 *
 * Integers are two's complement; `scale`s are IEEE single precision. Offsets of records are in bytes from the start of the image, offsets
 * into the data from the start of the data; all are multiples of 4. Activations are dense, channels last.
 */

/** First word of an image: the bytes "QIMG". */
export const imageMagic = 0x474d4951;

/** What the names of image files end in. */
export const imageExtension = '.qimg';

/** Raised whenever an old reader would misread a new image. 2: packed weights, patches. */
export const imageVersion = 2;

/** Words of the header, in order. `checksum` is the CRC-32 (zlib's) of everything behind the header. */
export const headerFields = [
  'magic',
  'version',
  'totalBytes',
  'checksum',
  'tensorCount',
  'tensorOffset',
  'operatorCount',
  'operatorOffset',
  'operatorBytes',
  'dataOffset',
  'dataBytes',
  /** Of all activations, by the plan of their lifetimes. */
  'arenaBytes',
  'inputCount',
  'outputCount',
  /** Where the data has a JSON document for people and programs (see `ImageDescription`); the engine does not look at it. */
  'descriptionOffset',
  'descriptionBytes',
  /** Of the record of the stage that runs patch by patch; 0: there is none. */
  'stageOffset',
] as const;

/**
 * Words of a tensor record. `offset` is in the arena, or the position among the model's inputs or outputs. `regions`: where the data has
 * what each patch holds of the tensor (see `regionFields`), or `noTable` for a tensor that is there as a whole; then `elements` are
 * those of the largest patch.
 */
export const tensorFields = ['type', 'bits', 'place', 'offset', 'elements', 'scale', 'zero', 'regions'] as const;

/**
 * Element types: codes of up to 8 bits in a byte each, int32 accumulators, float32; nibbles are codes of up to 4 bits, of every eight the first
 * four in the low halves of four bytes and the others in the high ones. Only convolutions on whole tensors read and write nibbles.
 */
export const tensorTypes = { codes: 0, accumulators: 1, floats: 2, nibbles: 3 } as const;

/** Rows of its output that a convolution computes at a time where it reads or writes nibbles: as bytes they lie in scratch memory. */
export const bandRows = 4;

/** Where a tensor lies while the model runs. */
export const tensorPlaces = { arena: 0, input: 1, output: 2 } as const;

/**
 * Words of the stage record. Operators in front of `firstOperator` run once. Then, for each patch of the grid, row by row: the operator
 * `firstOperator`, which brings the patch's window of the input (it quantizes an input of the model, or crops a tensor), then one of two
 * branches, each of which ends with a `paste` into the stage's output. Operators behind both, the tail, run once.
 */
export const stageFields = [
  'gridRows',
  'gridColumns',
  'firstOperator',
  /** Operators of the branch of patches whose window has codes from `low` to `high` only. */
  'plainOperators',
  /** Operators of the branch of the other patches; 0: the first branch is for all. */
  'outlierOperators',
  'low',
  'high',
] as const;

/**
 * Words at `regions` of a tensor: the size of the whole, then a first and an end (behind the last) of rows for each row of patches, then
 * of columns for each column of patches. A patch's part lies densely at the tensor's offset.
 */
export const regionFields = ['rows', 'columns', 'channels'] as const;

/** Words in front of every operator record; the indices of its inputs follow, then the fields of its kind. `words` counts all of them. */
export const operatorFields = ['kind', 'words', 'inputCount', 'output'] as const;

const window = [
  'batch',
  'inHeight',
  'inWidth',
  'channels',
  'outHeight',
  'outWidth',
  'kernelHeight',
  'kernelWidth',
  'strideY',
  'strideX',
  'dilationY',
  'dilationX',
  'padTop',
  'padLeft',
] as const;
const clamp = ['outputZero', 'outputLow', 'outputHigh'] as const;
const six = (name: string) => [0, 1, 2, 3, 4, 5].map((i) => `${name}${i}`);

/** An operator kind: its number, how many tensors it reads, its fields. What the fields mean is in `native/kernels/kernels.h`. */
export interface OperatorKind {
  readonly code: number;
  readonly inputs: number;
  readonly fields: readonly string[];
}

/** Bytes behind packed weights that a kernel may read. */
export const packedSlackBytes = 64;

/** Word of a table offset that means: no table. */
export const noTable = 0xffffffff;

/** All operator kinds. A new kind is a row here, a kernel, and a case in the engine. */
export const operatorKinds = {
  quantize: { code: 1, inputs: 1, fields: ['outer', 'channels', 'inner', 'inverseScale', 'zero', 'low', 'high'] },
  dequantize: {
    code: 2,
    inputs: 1,
    fields: ['outer', 'channels', 'inner', 'zero', 'scaleCount', 'scales', 'low', 'high'],
  },
  convolution: {
    code: 3,
    inputs: 1,
    fields: [
      'batch',
      'inHeight',
      'inWidth',
      'inChannels',
      'outHeight',
      'outWidth',
      'outChannels',
      'kernelHeight',
      'kernelWidth',
      'strideY',
      'strideX',
      'dilationY',
      'dilationX',
      'padTop',
      'padLeft',
      'groups',
      'weightBits',
      'storageBits',
      'inputZero',
      ...clamp,
      'rule',
      'weights',
      'bias',
      'multipliers',
      'shifts',
      /** FNV-1a hash of the name of the kernel that the plan wants, without its variant; 0: whichever the engine prefers. */
      'kernel',
      /**
       * 0: weights are as `native/kernels/kernels.h` has them. Otherwise they are packed for `kernel`, which alone can execute them where
       * they lie: the version of its packed form. Behind packed weights the data has `packedSlackBytes` more.
       */
      'layout',
    ],
  },
  add: {
    code: 4,
    inputs: 2,
    fields: ['outer', 'inner', 'secondIsRepeated', 'firstMultiplier', 'secondMultiplier', 'offset', 'shift', ...clamp],
  },
  multiply: {
    code: 5,
    inputs: 2,
    fields: ['outer', 'inner', 'secondIsRepeated', 'firstZero', 'secondZero', 'multiplier', 'shift', ...clamp],
  },
  table: { code: 6, inputs: 1, fields: ['table'] },
  maxPool: { code: 7, inputs: 1, fields: [...window] },
  averagePool: {
    code: 8,
    inputs: 1,
    fields: [...window, 'ratioLow', 'ratioHigh', 'countsPadding', 'inputZero', ...clamp],
  },
  copy: {
    code: 9,
    inputs: 1,
    fields: [...six('size'), ...six('inStride'), ...six('outStride'), 'inStart', 'outStart', 'table'],
  },
  /** Sets every code of the output; a copy into the middle of it follows. */
  fill: { code: 10, inputs: 0, fields: ['code'] },
  resize: {
    code: 11,
    inputs: 1,
    fields: ['batch', 'inHeight', 'inWidth', 'channels', 'outHeight', 'outWidth', 'rows', 'columns'],
  },
  softmax: { code: 12, inputs: 1, fields: ['outer', 'count', 'inner'] },
  sigmoid: { code: 13, inputs: 1, fields: [] },
  /** In a stage: what a patch holds of the output, out of a whole tensor or of a patch's larger part of one; in place is allowed. */
  crop: { code: 14, inputs: 1, fields: [] },
  /** In a stage: puts what a patch holds of the input into its place in a whole tensor. */
  paste: { code: 15, inputs: 1, fields: [] },
} as const satisfies Record<string, OperatorKind>;

/** Name of an operator kind. */
export type OperatorKindName = keyof typeof operatorKinds;

/** What an image says of itself beside what the engine needs. */
export interface ImageDescription {
  readonly inputs: readonly { readonly name: string; readonly dims: readonly number[] }[];
  readonly outputs: readonly { readonly name: string; readonly dims: readonly number[] }[];
  /** Of every operator record, the operator of the model that it belongs to. */
  readonly operators: readonly string[];
}
