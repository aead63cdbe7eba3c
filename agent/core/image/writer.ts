/** The image as bytes: tensors, records and data are put in, one little-endian file comes out. */
import {
  headerFields,
  type ImageDescription,
  imageMagic,
  imageVersion,
  noTable,
  type OperatorKindName,
  operatorFields,
  operatorKinds,
  stageFields,
  tensorFields,
  tensorPlaces,
  tensorTypes,
} from '../../../configs/contracts/image.js';
import type { WeightPacker } from '../../../configs/contracts/packing.js';
import { layOutArena } from './arena.js';
import type { Draft, FieldValue, OperatorEntry, Regions, TensorEntry, TensorId, TensorSpec } from './draft.js';
import { joinNibbles } from './nibbles.js';
import { packWeights } from './packing.js';
import { cutPatches, type StageCut } from './stage.js';

/** What becomes of an image beyond its operators one after another. */
export interface ImageForm {
  /** Which of its first operators run patch by patch; null: none. */
  readonly stage: StageCut | null;
  /** Packs weights for a processor; null: kernels pack them themselves, or read them as they are. */
  readonly packer: WeightPacker | null;
  /** Codes of few bits lie two in a byte wherever the arena would be larger; null: they have a byte each. */
  readonly arenaCeilingBytes: number | null;
}

const constantAlignment = 16;

/** Collects an image. Operators are executed in the order in which they are added. */
export class ImageWriter {
  readonly #tensors: TensorEntry[] = [];
  readonly #operators: OperatorEntry[] = [];
  readonly #data: { offset: number; bytes: Uint8Array }[] = [];
  #dataBytes = 0;
  readonly #known = new Map<string, { offset: number; bytes: Uint8Array }[]>();
  #inputs = 0;
  #outputs = 0;

  /** Number of operators so far. */
  get operatorCount(): number {
    return this.#operators.length;
  }

  /** A tensor in the arena. */
  tensor(spec: TensorSpec): TensorId {
    this.#tensors.push({ ...spec, place: 'arena', position: 0, regions: null });
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
    return this.#operators.some(({ inputs }) => inputs.includes(id));
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
    values: OperatorEntry['values'],
  ): void {
    for (const field of operatorKinds[kind].fields) checkField(kind, field, values[field]);
    this.#operators.push({ kind, source, inputs, output, values });
  }

  /** Puts constants into the data, equal ones once; answers their offset. */
  data(bytes: Uint8Array): number {
    const key = `${bytes.length}:${crc32(bytes)}`;
    const alike = this.#known.get(key) ?? [];
    const known = alike.find((constants) => constants.bytes.every((byte, index) => byte === bytes[index]));
    if (known !== undefined) return known.offset;
    const constants = { offset: this.#dataBytes, bytes };
    this.#data.push(constants);
    this.#dataBytes = roundUp(constants.offset + bytes.length, constantAlignment);
    this.#known.set(key, [...alike, constants]);
    return constants.offset;
  }

  /** The image, and the memory that its activations take. Fails with `model/unsupported` where patches are asked for and impossible. */
  finish(
    description: Omit<ImageDescription, 'operators'>,
    { stage: cut, packer, arenaCeilingBytes }: ImageForm = { stage: null, packer: null, arenaCeilingBytes: null },
  ): { bytes: Uint8Array; arenaBytes: number; constantBytes: ReadonlyMap<string, number> } {
    let draft: Draft = { tensors: this.#tensors, operators: this.#operators, stage: null };
    if (cut !== null) draft = cutPatches(draft, cut);
    if (arenaCeilingBytes !== null) draft = joinNibbles(draft, arenaCeilingBytes);
    if (packer !== null) draft = packWeights(draft, packer);
    const { tensors, operators, stage } = draft;
    const slots = recordSlots(tensors);
    const records = operators.map((operator) => this.#encode(operator, slots));
    const regions = tensors.map((tensor) =>
      tensor.regions === null ? noTable : this.data(encodeRegions(tensor.regions)),
    );
    const sources = operators.map(({ source }) => source);
    const text = new TextEncoder().encode(JSON.stringify({ ...description, operators: sources }));
    const descriptionOffset = this.data(text);
    const { offsets, arenaBytes } = layOutArena(draft);
    const headerBytes = 4 * headerFields.length;
    const tensorBytes = 4 * tensorFields.length * tensors.length;
    const operatorBytes = records.reduce((sum, words) => sum + words.byteLength, 0);
    const operatorOffset = headerBytes + tensorBytes;
    const stageOffset = operatorOffset + operatorBytes;
    const dataOffset = roundUp(stageOffset + (stage === null ? 0 : 4 * stageFields.length), 16);
    const bytes = new Uint8Array(dataOffset + this.#dataBytes);
    const view = new DataView(bytes.buffer);
    tensors.forEach((tensor, index) => {
      const values = {
        type: tensorTypes[tensor.type],
        bits: tensor.bits ?? (tensor.type === 'codes' ? 8 : 32),
        place: tensorPlaces[tensor.place],
        offset: tensor.place === 'arena' ? offsets.get(index)! : tensor.position,
        elements: tensor.elements,
        scale: 0,
        zero: tensor.zero ?? 0,
        regions: regions[index]!,
      };
      const at = headerBytes + 4 * tensorFields.length * slots[index]!;
      tensorFields.forEach((field, word) => {
        view.setUint32(at + 4 * word, values[field], true);
      });
      view.setFloat32(at + 4 * tensorFields.indexOf('scale'), tensor.scale ?? 0, true);
    });
    let at = operatorOffset;
    for (const words of records) {
      for (const [index, word] of words.entries()) view.setUint32(at + 4 * index, word, true);
      at += words.byteLength;
    }
    if (stage !== null) {
      stageFields.forEach((field, word) => {
        view.setUint32(stageOffset + 4 * word, stage[field], true);
      });
    }
    for (const { offset, bytes: constants } of this.#data) bytes.set(constants, dataOffset + offset);
    const header: Record<(typeof headerFields)[number], number> = {
      magic: imageMagic,
      version: imageVersion,
      totalBytes: bytes.length,
      checksum: crc32(bytes.subarray(headerBytes)),
      tensorCount: tensors.length,
      tensorOffset: headerBytes,
      operatorCount: operators.length,
      operatorOffset,
      operatorBytes,
      dataOffset,
      dataBytes: this.#dataBytes,
      arenaBytes,
      inputCount: this.#inputs,
      outputCount: this.#outputs,
      descriptionOffset,
      descriptionBytes: text.length,
      stageOffset: stage === null ? 0 : stageOffset,
    };
    headerFields.forEach((field, word) => {
      view.setUint32(4 * word, header[field], true);
    });
    return { bytes, arenaBytes, constantBytes: constantsOf(operators) };
  }

  #encode({ kind, inputs, output, values }: OperatorEntry, slots: readonly number[]): Uint32Array {
    const { code, fields } = operatorKinds[kind];
    const words = new Uint32Array(operatorFields.length + inputs.length + fields.length);
    words.set([code, words.length, inputs.length, slots[output]!, ...inputs.map((id) => slots[id]!)]);
    const view = new DataView(words.buffer);
    fields.forEach((field, index) => {
      const value = values[field]!;
      const at = 4 * (operatorFields.length + inputs.length + index);
      if (typeof value === 'number') view.setUint32(at, value >>> 0, true);
      else if ('float' in value) view.setFloat32(at, value.float, true);
      else view.setUint32(at, this.data(value.bytes), true);
    });
    return words;
  }
}

/** Where the record of each tensor is among all: its own place, but outputs, whichever is computed first, are in the order of their numbers. */
function recordSlots(tensors: readonly TensorEntry[]): number[] {
  const slots = [...tensors.keys()];
  const outputs = slots.filter((id) => tensors[id]!.place === 'output');
  const numbered = [...outputs].sort((a, b) => tensors[a]!.position - tensors[b]!.position);
  for (const [number, id] of numbered.entries()) slots[id] = outputs[number]!;
  return slots;
}

/** Bytes of constants as they are stored, by the operator of the model that they belong to. */
function constantsOf(operators: readonly OperatorEntry[]): ReadonlyMap<string, number> {
  const bytes = new Map<string, number>();
  for (const { source, values } of operators) {
    for (const value of Object.values(values)) {
      if (typeof value !== 'object' || !('bytes' in value)) continue;
      bytes.set(source, (bytes.get(source) ?? 0) + roundUp(value.bytes.length, constantAlignment));
    }
  }
  return bytes;
}

function checkField(kind: OperatorKindName, field: string, value: FieldValue | undefined): void {
  if (value === undefined) throw new TypeError(`${kind} needs ${field}`);
  if (typeof value !== 'number') return;
  if (!Number.isInteger(value) || value < -(2 ** 31) || value >= 2 ** 32)
    throw new RangeError(`${field} of ${kind} does not fit 32 bits: ${value}`);
}

function encodeRegions({ rows, columns, channels, rowSpans, columnSpans }: Regions): Uint8Array {
  const spans = [...rowSpans, ...columnSpans].flatMap(({ first, end }) => [first, end]);
  return new Uint8Array(Uint32Array.of(rows, columns, channels, ...spans).buffer);
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
