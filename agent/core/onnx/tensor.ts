import { EdgeError } from '../../../configs/contracts/errors.js';
import type { ElementType, Tensor } from './model.js';

/** Largest number of elements, and of bytes, that one tensor may have. 2 GB is also protobuf's own limit. */
export const maxTensorElements = 2 ** 31;

/** Highest rank we accept; real models stay below 8. */
const maxRank = 16;

/** Bits of one element in ONNX raw data; 0 where the type has no fixed size. */
const bitsPerElement: Record<ElementType, number> = {
  float32: 32,
  float64: 64,
  float16: 16,
  bfloat16: 16,
  int8: 8,
  uint8: 8,
  int16: 16,
  uint16: 16,
  int32: 32,
  uint32: 32,
  int64: 64,
  uint64: 64,
  bool: 8,
  int4: 4,
  uint4: 4,
  string: 0,
  other: 0,
};

/** Memory that tensors can be made over. */
export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

/**
 * Product of the dimensions; 1 for a scalar. `subject` names the tensor in errors: `model/malformed` for a dimension that is not a
 * natural number, `model/too-large` past 2^31 elements, `model/unsupported` past 16 dimensions.
 */
export function elementCount(dims: readonly number[], subject = 'tensor'): number {
  if (dims.length > maxRank) {
    throw new EdgeError('model/unsupported', `${subject} has ${dims.length} dimensions; ${maxRank} are supported`, {
      subject,
    });
  }
  let count = 1;
  let isEmpty = false;
  for (const dim of dims) {
    if (!Number.isSafeInteger(dim) || dim < 0) {
      throw new EdgeError('model/malformed', `${subject} has the impossible dimension ${dim}`, { subject });
    }
    if (dim === 0) isEmpty = true;
    else count *= dim;
    // Checked at every step, so that a zero elsewhere cannot hide an absurd dimension and the product stays exact.
    if (count > maxTensorElements) {
      throw new EdgeError('model/too-large', `${subject} has more than 2^31 elements`, { subject });
    }
  }
  return isEmpty ? 0 : count;
}

/** Bytes of raw data that `dims` elements of `type` take, or null where the type has no fixed size. Errors as elementCount. */
export function byteCount(type: ElementType, dims: readonly number[], subject = 'tensor'): number | null {
  const bytes = Math.ceil((elementCount(dims, subject) * bitsPerElement[type]) / 8);
  if (bytes > 2 ** 31) throw new EdgeError('model/too-large', `${subject} takes more than 2 GB`, { subject });
  return bitsPerElement[type] === 0 ? null : bytes;
}

/** A tensor over the memory of `values` (shared, not copied). The element size must be that of `type`; else RangeError. */
export function makeTensor(name: string, type: ElementType, dims: readonly number[], values: TypedArray): Tensor {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (byteCount(type, dims, name) !== bytes.length) {
    throw new RangeError(`${bytes.length} bytes do not fill ${type}[${dims}] of ${name}`);
  }
  return { name, type, dims, bytes };
}

/**
 * Values of a floating-point tensor as float32: a view of the tensor's bytes where they are aligned float32, a copy otherwise.
 * `model/unsupported` for other element types.
 */
export function readFloats(tensor: Tensor): Float32Array {
  switch (tensor.type) {
    case 'float32': {
      const bytes = aligned(tensor.bytes, 4);
      return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    }
    case 'float64': {
      const bytes = aligned(tensor.bytes, 8);
      return Float32Array.from(new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8));
    }
    case 'float16':
      return Float32Array.from(words(tensor), floatFromHalf);
    case 'bfloat16':
      return new Float32Array(Uint32Array.from(words(tensor), (bits) => bits << 16).buffer);
    default:
      throw wrongType(tensor, 'floating-point');
  }
}

/**
 * Values of an integer or bool tensor. 64-bit values beyond the safe integers saturate there: they only occur as "to the end".
 * `model/unsupported` for other element types.
 */
export function readInts(tensor: Tensor): number[] {
  const { bytes } = tensor;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const read = integerReaders[tensor.type];
  if (read === undefined) throw wrongType(tensor, 'integer');
  const stride = bitsPerElement[tensor.type] / 8;
  const values = new Array<number>(bytes.length / stride);
  for (let i = 0; i < values.length; i++) values[i] = read(view, i * stride);
  return values;
}

const integerReaders: Partial<Record<ElementType, (view: DataView, offset: number) => number>> = {
  int8: (view, offset) => view.getInt8(offset),
  uint8: (view, offset) => view.getUint8(offset),
  bool: (view, offset) => (view.getUint8(offset) === 0 ? 0 : 1),
  int16: (view, offset) => view.getInt16(offset, true),
  uint16: (view, offset) => view.getUint16(offset, true),
  int32: (view, offset) => view.getInt32(offset, true),
  uint32: (view, offset) => view.getUint32(offset, true),
  int64: (view, offset) => toSafeInteger(view.getBigInt64(offset, true)),
  uint64: (view, offset) => toSafeInteger(view.getBigUint64(offset, true)),
};

/** The nearest integer that a number holds exactly. */
export function toSafeInteger(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) return Number.MAX_SAFE_INTEGER;
  if (value < BigInt(Number.MIN_SAFE_INTEGER)) return Number.MIN_SAFE_INTEGER;
  return Number(value);
}

/** IEEE 754 binary16 bits to a number. */
function floatFromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

function words(tensor: Tensor): Uint16Array {
  const bytes = aligned(tensor.bytes, 2);
  return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
}

/** The same bytes where a typed array of `size`-byte elements may lie: themselves, or a copy. */
function aligned(bytes: Uint8Array, size: number): Uint8Array {
  return bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes);
}

function wrongType(tensor: Tensor, expected: string): EdgeError {
  const subject = tensor.name;
  return new EdgeError(
    'model/unsupported',
    `${subject} holds ${tensor.type} values where ${expected} ones are expected`,
    {
      subject,
      hint: 'Export the model in float32.',
    },
  );
}
