import { EdgeError } from '../../../configs/contracts/errors.js';
import { malformed } from './malformed.js';
import type { ElementType, Tensor } from './model.js';
import type { EntryProto, Int64, Message, TensorProto } from './schema.js';
import { byteCount, type TypedArray, toSafeInteger } from './tensor.js';

/** Reads `length` bytes at `offset` of the file `location`, a path relative to the model's folder. */
export type ReadExternal = (location: string, offset: number, length: number) => Uint8Array;

/** TensorProto.DataType of each element type. */
const typeCodes: Partial<Record<ElementType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  uint16: 4,
  int16: 5,
  int32: 6,
  int64: 7,
  string: 8,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  uint64: 13,
  bfloat16: 16,
  uint4: 21,
  int4: 22,
};

const typesByCode = new Map(Object.entries(typeCodes).map(([type, code]) => [code, type as ElementType]));

/** Element type of a DataType code; 'other' for those we cannot hold. */
export function elementType(code: number | undefined): ElementType {
  return typesByCode.get(code ?? 0) ?? 'other';
}

/** DataType code of an element type; undefined for 'other'. */
export function typeCode(type: ElementType): number | undefined {
  return typeCodes[type];
}

/** A dimension or version: exact, or `model/malformed`. */
export function exactInteger(value: Int64 | undefined, subject: string): number {
  if (value === undefined) return 0;
  if (typeof value === 'number') return value;
  throw malformed(subject, `${subject} contains an absurd integer`);
}

/** The nearest integer that a number holds exactly. */
export function nearestInteger(value: Int64): number {
  return typeof value === 'number' ? value : toSafeInteger(toBigInt(value));
}

/** Exact for every 64-bit integer, signed or not. */
export function toBigInt(value: Int64): bigint {
  if (typeof value === 'number') return BigInt(value);
  const high = BigInt(value.unsigned ? value.high >>> 0 : value.high);
  return (high << 32n) | BigInt(value.low >>> 0);
}

/**
 * The tensor of a message, over the message's memory where the file stores it as raw data, under the given name. Throws `model/malformed` where shape and data disagree, `model/too-large`, and `model/external-data`.
 */
export function decodeTensor(proto: TensorProto, name: string, readExternal?: ReadExternal): Tensor {
  const type = elementType(proto.dataType);
  const dims = (proto.dims ?? []).map((dim) => exactInteger(dim, name));
  const expectedBytes = byteCount(type, dims, name);
  // Nothing but the shape of these can be used, so the message itself is what is kept.
  if (expectedBytes === null) return { name, type, dims, bytes: new Uint8Array(0), unknown: proto };

  const bytes =
    proto.dataLocation === 1
      ? readExternalData(proto.externalData ?? [], name, expectedBytes, readExternal)
      : (proto.rawData ?? typedData(proto, type));
  if (bytes.length !== expectedBytes) {
    throw malformed(name, `${name} needs ${expectedBytes} bytes for ${type}[${dims}] but the file has ${bytes.length}`);
  }
  return { name, type, dims, bytes, ...keepUnknown(proto) };
}

/** The message of a tensor, its data as raw data. */
export function encodeTensor(tensor: Tensor): TensorProto {
  if (tensor.type === 'other' || tensor.type === 'string') {
    return { ...(tensor.unknown as TensorProto), ...restoreUnknown(tensor.unknown), name: tensor.name };
  }
  return {
    ...restoreUnknown(tensor.unknown),
    dims: [...tensor.dims],
    dataType: typeCode(tensor.type),
    name: tensor.name,
    rawData: tensor.bytes,
  };
}

/** `{ unknown }` to spread into a value of ours, where the message carries fields that the schema does not name. */
export function keepUnknown(message: Message): { unknown?: Message } {
  return message.$unknowns === undefined ? {} : { unknown: { $unknowns: message.$unknowns } };
}

/** The reverse of keepUnknown. */
export function restoreUnknown(unknown: unknown): Message {
  const fields = (unknown as Message | undefined)?.$unknowns;
  return fields === undefined ? {} : { $unknowns: fields };
}

function readExternalData(entries: EntryProto[], name: string, expectedBytes: number, read?: ReadExternal): Uint8Array {
  const entry = (key: string): string | undefined => entries.find((candidate) => candidate.key === key)?.value;
  const location = entry('location');
  if (location === undefined || location === '') throw malformed(name, `${name} is external but names no file`);
  const offset = naturalNumber(entry('offset'), 0, name);
  const length = naturalNumber(entry('length'), expectedBytes, name);
  if (length !== expectedBytes) {
    throw malformed(name, `${name} needs ${expectedBytes} bytes but its external data is declared to have ${length}`);
  }
  if (read === undefined) {
    throw new EdgeError('model/external-data', `${name} lies in ${location}, which cannot be read from here`, {
      subject: name,
      hint: 'Save the model as one file.',
    });
  }
  return read(location, offset, length);
}

function naturalNumber(text: string | undefined, absent: number, name: string): number {
  if (text === undefined || text === '') return absent;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value)) throw malformed(name, `${name} has external data at an impossible position`);
  return value;
}

/** Data that the file holds in one of the typed fields, as raw data. Which field serves which type: onnx.proto, TensorProto. */
function typedData(proto: TensorProto, type: ElementType): Uint8Array {
  const { int32Data = [], int64Data = [], uint64Data = [] } = proto;
  switch (type) {
    case 'float32':
      return bytesOf(Float32Array.from(proto.floatData ?? []));
    case 'float64':
      return bytesOf(Float64Array.from(proto.doubleData ?? []));
    case 'int64':
      return bytesOf(BigInt64Array.from(int64Data, toBigInt));
    case 'uint64':
      return bytesOf(BigUint64Array.from(uint64Data, toBigInt));
    case 'uint32':
      return bytesOf(Uint32Array.from(uint64Data, nearestInteger));
    case 'int32':
      return bytesOf(Int32Array.from(int32Data));
    case 'int16':
    case 'uint16':
    case 'float16':
    case 'bfloat16':
      return bytesOf(Uint16Array.from(int32Data));
    default:
      // int8, uint8, bool, and the 4-bit types, which come two to an entry.
      return Uint8Array.from(int32Data);
  }
}

function bytesOf(values: TypedArray): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
