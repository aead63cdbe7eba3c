/** The image as bytes: tensors, records and data are put in, one little-endian file comes out. */
import {
  headerFields,
  type ImageDescription,
  imageMagic,
  imageVersion,
  type OperatorKindName,
  operatorFields,
  operatorKinds,
  tensorFields,
  tensorPlaces,
  tensorTypes,
} from '../../../configs/contracts/image.js';
import { type Lifetime, planArena } from '../plan/memory.js';

/** A tensor of the image, by its position. */
export type TensorId = number;

/** What a tensor holds; `bits`, `scale` and `zero` are of codes. */
export interface TensorSpec {
  readonly type: keyof typeof tensorTypes;
  readonly elements: number;
  readonly bits?: number;
  readonly scale?: number;
  readonly zero?: number;
}

/** A field's value: a 32-bit integer, signed or not, or a single-precision number. */
export type FieldValue = number | { readonly float: number };

interface TensorEntry extends TensorSpec {
  place: keyof typeof tensorPlaces;
  /** Among the inputs or outputs. */
  position: number;
  first: number;
  last: number;
}

const alignment = 64;

/** Collects an image. Operators are executed in the order in which they are added. */
export class ImageWriter {
  readonly #tensors: TensorEntry[] = [];
  readonly #records: Uint32Array[] = [];
  readonly #sources: string[] = [];
  readonly #data: { offset: number; bytes: Uint8Array }[] = [];
  #dataBytes = 0;
  readonly #known = new Map<string, number>();
  #inputs = 0;
  #outputs = 0;

  /** Number of operators so far. */
  get operatorCount(): number {
    return this.#records.length;
  }

  /** A tensor in the arena. */
  tensor(spec: TensorSpec): TensorId {
    const position = this.#records.length;
    this.#tensors.push({ ...spec, place: 'arena', position: 0, first: position, last: position });
    return this.#tensors.length - 1;
  }

  /** The next input of the model: floats that the caller brings. */
  input(elements: number): TensorId {
    const id = this.tensor({ type: 'floats', elements });
    this.#tensors[id]!.place = 'input';
    this.#tensors[id]!.position = this.#inputs++;
    return id;
  }

  /** Makes a tensor the next output of the model: floats that the caller takes. It must not be read by an operator. */
  makeOutput(id: TensorId): void {
    this.#tensors[id]!.place = 'output';
    this.#tensors[id]!.position = this.#outputs++;
  }

  /** Whether an operator reads it. */
  isRead(id: TensorId): boolean {
    return this.#records.some((words) => words.subarray(4, 4 + words[2]!).includes(id));
  }

  isInArena(id: TensorId): boolean {
    return this.#tensors[id]!.place === 'arena';
  }

  /** Adds an operator; `source` is the operator of the model that it belongs to. */
  operator(
    kind: OperatorKindName,
    source: string,
    inputs: readonly TensorId[],
    output: TensorId,
    values: Readonly<Record<string, FieldValue>>,
  ): void {
    const { code, fields } = operatorKinds[kind];
    const words = new Uint32Array(operatorFields.length + inputs.length + fields.length);
    words.set([code, words.length, inputs.length, output, ...inputs]);
    const view = new DataView(words.buffer);
    fields.forEach((field, index) => {
      const value = values[field];
      if (value === undefined) throw new TypeError(`${kind} needs ${field}`);
      const at = 4 * (operatorFields.length + inputs.length + index);
      if (typeof value === 'object') view.setFloat32(at, value.float, true);
      else if (Number.isInteger(value) && value >= -(2 ** 31) && value < 2 ** 32) view.setUint32(at, value >>> 0, true);
      else throw new RangeError(`${field} of ${kind} does not fit 32 bits: ${value}`);
    });
    const position = this.#records.length;
    for (const id of [...inputs, output]) {
      const tensor = this.#tensors[id]!;
      tensor.first = Math.min(tensor.first, position);
      tensor.last = Math.max(tensor.last, position);
    }
    this.#records.push(words);
    this.#sources.push(source);
  }

  /** Puts constants into the data, equal ones once; answers their offset. */
  data(bytes: Uint8Array): number {
    const key = bytes.length <= 4096 ? `${bytes.length}:${Array.from(bytes).join(',')}` : null;
    const known = key === null ? undefined : this.#known.get(key);
    if (known !== undefined) return known;
    const offset = this.#dataBytes;
    this.#data.push({ offset, bytes });
    this.#dataBytes = roundUp(offset + bytes.length, 16);
    if (key !== null) this.#known.set(key, offset);
    return offset;
  }

  /** The image, and the memory that its activations take. */
  finish(description: Omit<ImageDescription, 'operators'>): { bytes: Uint8Array; arenaBytes: number } {
    const text = new TextEncoder().encode(JSON.stringify({ ...description, operators: this.#sources }));
    const descriptionOffset = this.data(text);
    const { offsets, arenaBytes } = this.#layOut();
    const headerBytes = 4 * headerFields.length;
    const tensorBytes = 4 * tensorFields.length * this.#tensors.length;
    const operatorBytes = this.#records.reduce((sum, words) => sum + words.byteLength, 0);
    const operatorOffset = headerBytes + tensorBytes;
    const dataOffset = roundUp(operatorOffset + operatorBytes, 16);
    const bytes = new Uint8Array(dataOffset + this.#dataBytes);
    const view = new DataView(bytes.buffer);
    this.#tensors.forEach((tensor, index) => {
      const values = {
        type: tensorTypes[tensor.type],
        bits: tensor.bits ?? (tensor.type === 'codes' ? 8 : 32),
        place: tensorPlaces[tensor.place],
        offset: tensor.place === 'arena' ? offsets.get(index)! : tensor.position,
        elements: tensor.elements,
        scale: 0,
        zero: tensor.zero ?? 0,
        reserved: 0,
      };
      const at = headerBytes + 4 * tensorFields.length * index;
      tensorFields.forEach((field, word) => {
        view.setUint32(at + 4 * word, values[field], true);
      });
      view.setFloat32(at + 4 * tensorFields.indexOf('scale'), tensor.scale ?? 0, true);
    });
    let at = operatorOffset;
    for (const words of this.#records) {
      for (const [index, word] of words.entries()) view.setUint32(at + 4 * index, word, true);
      at += words.byteLength;
    }
    for (const { offset, bytes: constants } of this.#data) bytes.set(constants, dataOffset + offset);
    const header: Record<(typeof headerFields)[number], number> = {
      magic: imageMagic,
      version: imageVersion,
      totalBytes: bytes.length,
      checksum: crc32(bytes.subarray(headerBytes)),
      tensorCount: this.#tensors.length,
      tensorOffset: headerBytes,
      operatorCount: this.#records.length,
      operatorOffset,
      operatorBytes,
      dataOffset,
      dataBytes: this.#dataBytes,
      arenaBytes,
      inputCount: this.#inputs,
      outputCount: this.#outputs,
      descriptionOffset,
      descriptionBytes: text.length,
    };
    headerFields.forEach((field, word) => {
      view.setUint32(4 * word, header[field], true);
    });
    return { bytes, arenaBytes };
  }

  #layOut(): { offsets: Map<TensorId, number>; arenaBytes: number } {
    const ids = [...this.#tensors.keys()].filter((id) => this.#tensors[id]!.place === 'arena');
    const lifetimes: Lifetime[] = ids.map((id) => {
      const { type, elements, first, last } = this.#tensors[id]!;
      return { name: String(id), bytes: roundUp(elements * (type === 'codes' ? 1 : 4), alignment), first, last };
    });
    const { offsets, arenaBytes } = planArena(lifetimes);
    return { offsets: new Map(ids.map((id, index) => [id, offsets[index]!])), arenaBytes };
  }
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc >>> 0;
});

/** CRC-32 as in zlib. */
export function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = crcTable[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}
