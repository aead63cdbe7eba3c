/**
 * What a gateway and the firmware of a microcontroller say to each other: frames, commands and their records, statuses. These tables
 * are the protocol: both directions in TypeScript are derived from them here, and the header of the firmware
 * (`firmware-bridge/firmware/protocol.h`) is generated from them (`npm run build` refuses a stale one).
 *
 * A frame is a header, a record and its data, closed by the CRC-32 (zlib's) of all of these, stuffed by COBS and set between zero bytes.
 * Everything is little-endian. The gateway asks, one request at a time; the firmware answers with the sequence number of the request.
 */
import { EdgeError } from './errors.js';

/** Raised whenever one side would misread the other. */
export const protocolVersion = 2;

/** At most so many bytes of data in one frame. */
export const pieceBytes = 1024;

/** Header, record, data and checksum of the longest frame, before COBS. */
export const frameBytes = 1152;

/** Slots 0 and 1 are written over the line; this one holds what came with the board. */
export const preloadedSlot = 2;

/** No slot: as an active one, where there is none yet. */
export const noSlot = 0xffffffff;

/**
 * How a field is stored: unsigned integers (`u64` up to 2^53), 32 bytes of a hash, UTF-8 of up to 32 bytes filled with zeros, or all
 * that follows. A field begins on a multiple of its size, texts and hashes on one of 4.
 */
export type FieldType = 'u16' | 'u32' | 'u64' | 'sha256' | 'text32' | 'data';

/** Fields of a record in the order of the wire; `data`, if there is any, is the last. */
export type Fields = Readonly<Record<string, FieldType>>;

type ValueOf<T extends FieldType> = T extends 'u16' | 'u32' | 'u64' ? number : T extends 'text32' ? string : Uint8Array;

/** Values of a record's fields. */
export type RecordOf<F extends Fields> = { readonly [Name in keyof F]: ValueOf<F[Name]> };

/** In front of every record. Requests have status `ok`; the sequence numbers of a session only grow, modulo 2^32. */
export const headerFields = { sequence: 'u32', command: 'u16', status: 'u16' } as const satisfies Fields;

/** How a request ended. Every other status than `ok` comes with a failure record, `started` and `noSession` with a meaningless one. */
export const statuses = {
  ok: 0,
  /** Not the answer yet: the command takes long and has been understood. The firmware hears nothing until it is done. */
  started: 1,
  /** The firmware was reset since the gateway said hello. */
  noSession: 2,
  unknownCommand: 3,
  malformed: 4,
  /** An argument does not fit the slot, the model, or the frame. */
  range: 5,
  slotSealed: 6,
  slotEmpty: 7,
  /** It is active, or what an unconfirmed activation goes back to. */
  slotInUse: 8,
  readOnly: 9,
  /** Something else is written there; `detail`: the offset of the sector to erase. */
  notErased: 10,
  /** What the slot holds has another hash. */
  digest: 11,
  /** The engine refuses the image; `detail`: its status (`native/engine/engine.h`). */
  image: 12,
  /** The model does not fit; `detail`: bytes of RAM that it needs beside the firmware's own. */
  memory: 13,
  noModel: 14,
  /** The inputs are not complete, or a run has used them up. */
  noInput: 15,
  /** Nothing was run since the inputs were written. */
  noOutput: 16,
  /** There is no activation to confirm or to revert. */
  notOnTrial: 17,
  /** The counter went around while it measured. */
  overflow: 18,
  /** The flash memory did not take what was written. */
  storage: 19,
} as const;

/** Name of a status. */
export type StatusName = keyof typeof statuses;

/** Record of a reply that is not `ok`. */
export const failureFields = { detail: 'u32' } as const satisfies Fields;

/** What a counter counts; the numbers of `info.counter`. The names are those of `Counter` in `plan.ts`. */
export const counters = { nanoseconds: 0, cycles: 1, instructions: 2 } as const;

/** Why the firmware started last; the numbers of `statistics.lastStart`. */
export const starts = { power: 0, requested: 1, fault: 2, watchdog: 3 } as const;

/** A command: its number, whether it may take longer than a frame, and the records of its request and its reply. */
export interface Command {
  readonly code: number;
  readonly takesLong: boolean;
  readonly request: Fields;
  readonly reply: Fields;
}

/**
 * All commands. Each may be sent twice: the firmware executes a request once and repeats its reply. A new one is a row here and a handler
 * in `commands.c`.
 */
export const commands = {
  /** Begins a session; anything else is refused before. A number that was drawn at random tells one session from another. */
  hello: {
    code: 1,
    takesLong: false,
    request: { protocol: 'u32', session: 'u32' },
    reply: { protocol: 'u32', session: 'u32' },
  },
  echo: { code: 2, takesLong: false, request: { data: 'data' }, reply: { data: 'data' } },
  info: {
    code: 3,
    takesLong: false,
    request: {},
    reply: {
      board: 'text32',
      core: 'text32',
      /** Begin of the sha256 of the sources and the flags that it was built from. */
      firmware: 'text32',
      /** Which counter measures, `none` included: DWT, TIM2, ... */
      counterSource: 'text32',
      counter: 'u32',
      clockHz: 'u32',
      ramBytes: 'u32',
      flashBytes: 'u32',
      /** RAM for a model: records, packed weights, activations, scratch memory, floats of inputs and outputs. */
      workspaceBytes: 'u32',
      slotCount: 'u32',
      /** Flash is erased in so many bytes; an upload resumes at such a border at worst. */
      sectorBytes: 'u32',
    },
  },
  statistics: {
    code: 4,
    takesLong: false,
    request: {},
    reply: {
      framesReceived: 'u32',
      /** Wrong checksum, wrong stuffing, or too long. */
      framesDamaged: 'u32',
      framesRepeated: 'u32',
      framesStale: 'u32',
      /** Bytes that arrived faster than they were read. */
      bytesLost: 'u32',
      lastStart: 'u32',
      stackBytes: 'u32',
      stackBytesUsed: 'u32',
      /** Of the loaded model's activations: what a run has written to, by the marks that it left. */
      arenaBytesUsed: 'u32',
      /** The most that any model took of the workspace. */
      workspaceBytesUsed: 'u32',
    },
  },
  slotState: {
    code: 5,
    takesLong: true,
    request: { slot: 'u32' },
    reply: {
      capacityBytes: 'u32',
      isWritable: 'u32',
      /** Whole and of the right hash; only sealed slots are loaded and activated. */
      isSealed: 'u32',
      imageBytes: 'u32',
      sha256: 'sha256',
    },
  },
  /** Opens a slot for writing. What an upload that was cut off has written stays. */
  slotOpen: { code: 6, takesLong: true, request: { slot: 'u32' }, reply: {} },
  /** Offsets are multiples of 32. Flash is written where it was erased; data that is there already may be written again. */
  slotWrite: { code: 7, takesLong: false, request: { slot: 'u32', offset: 'u32', data: 'data' }, reply: {} },
  /** Erases the sector of an open slot that begins at the offset. */
  slotErase: { code: 23, takesLong: true, request: { slot: 'u32', offset: 'u32' }, reply: {} },
  /** Of the first bytes of a slot. */
  slotChecksum: { code: 8, takesLong: true, request: { slot: 'u32', bytes: 'u32' }, reply: { crc32: 'u32' } },
  /** Checks the hash, then the image; closes the slot. */
  slotSeal: { code: 9, takesLong: true, request: { slot: 'u32', bytes: 'u32', sha256: 'sha256' }, reply: {} },
  /** Loads a slot and makes it the active one, on trial: whatever resets the chip before `confirm` makes the previous one active again. */
  activate: { code: 10, takesLong: true, request: { slot: 'u32' }, reply: {} },
  confirm: { code: 11, takesLong: true, request: {}, reply: {} },
  /** Ends a trial: the previous slot is active and loaded again. */
  revert: { code: 12, takesLong: true, request: {}, reply: {} },
  activation: {
    code: 13,
    takesLong: false,
    request: {},
    reply: {
      activeSlot: 'u32',
      previousSlot: 'u32',
      isOnTrial: 'u32',
      /** The last start found a trial and ended it. */
      hasReverted: 'u32',
      /** What runs now. */
      loadedSlot: 'u32',
    },
  },
  /** Prepares a sealed slot to run and to be measured; what is active does not change. */
  load: { code: 14, takesLong: true, request: { slot: 'u32' }, reply: {} },
  model: {
    code: 15,
    takesLong: false,
    request: {},
    reply: {
      slot: 'u32',
      operators: 'u32',
      inputs: 'u32',
      outputs: 'u32',
      /** Operators that quantize the inputs as they arrive, and are no part of a run. */
      operatorsAtInput: 'u32',
      /** Records of the engine, and weights where the image does not have them packed. */
      preparedBytes: 'u32',
      arenaBytes: 'u32',
      scratchBytes: 'u32',
      /** Floats of inputs, where they are not quantized as they arrive, and of outputs. */
      bufferBytes: 'u32',
      /** Patches whose windows of the input arrive and run one after the other; 0: the input arrives as a whole. */
      patches: 'u32',
    },
  },
  operator: {
    code: 16,
    takesLong: false,
    request: { index: 'u32' },
    reply: { kind: 'u32', kernel: 'text32' },
  },
  tensor: {
    code: 17,
    takesLong: false,
    /** 1: an input, 2: an output, as `tensorPlaces` of images. */
    request: { place: 'u32', index: 'u32' },
    reply: { elements: 'u32' },
  },
  /** Which part of the input a patch takes: all channels of some rows and columns, ends behind the last. */
  patch: {
    code: 24,
    takesLong: false,
    request: { patch: 'u32' },
    reply: {
      /** Of the whole input. */
      rows: 'u32',
      columns: 'u32',
      channels: 'u32',
      firstRow: 'u32',
      endRow: 'u32',
      firstColumn: 'u32',
      endColumn: 'u32',
    },
  },
  /**
   * Single-precision floats, in order from 0; `offset` is that of the first, in elements of the input, or of the window of `patch`, which is the next
   * one to run, or 0 to begin anew; otherwise 0.
   */
  inputWrite: {
    code: 18,
    takesLong: false,
    request: { input: 'u32', patch: 'u32', offset: 'u32', data: 'data' },
    reply: {},
  },
  /** Runs the branch of the patch whose window is complete, with interrupts masked; `ticks` as of `run`. */
  patchRun: { code: 25, takesLong: true, request: { patch: 'u32' }, reply: { ticks: 'u64' } },
  /**
   * Runs the model once, or what is behind its patches when all of them have run, with interrupts masked; `ticks` are of the counter that
   * `info` names, 0 where it went around.
   */
  run: { code: 19, takesLong: true, request: {}, reply: { ticks: 'u64' } },
  outputRead: {
    code: 20,
    takesLong: false,
    request: { output: 'u32', offset: 'u32', count: 'u32' },
    reply: { data: 'data' },
  },
  /**
   * Runs operators of the loaded model, one behind the other, over and over with interrupts masked; the values are of the counter that
   * `info` names. They run on what lies in the arena, one that runs patch by patch for each of them; the inputs are used up.
   */
  measure: {
    code: 21,
    takesLong: true,
    request: { first: 'u32', count: 'u32', warmUps: 'u32', runs: 'u32' },
    reply: { minimum: 'u64', median: 'u64' },
  },
  /** Answers, then starts the chip anew. */
  reset: { code: 22, takesLong: false, request: {}, reply: {} },
} as const satisfies Record<string, Command>;

/** Name of a command. */
export type CommandName = keyof typeof commands;
/** What a command is asked with. */
export type RequestOf<Name extends CommandName> = RecordOf<(typeof commands)[Name]['request']>;
/** What a command answers. */
export type ReplyOf<Name extends CommandName> = RecordOf<(typeof commands)[Name]['reply']>;

/** Most runs of one `measure`. */
export const mostRuns = 64;

const sizes: Readonly<Record<FieldType, number>> = { u16: 2, u32: 4, u64: 8, sha256: 32, text32: 32, data: 0 };

/** Bytes of a field without its data. */
export function fieldBytes(type: FieldType): number {
  return sizes[type];
}

/** Bytes of a record without its data. */
export function recordBytes(fields: Fields): number {
  return Object.values(fields).reduce((sum, type) => sum + sizes[type], 0);
}

/** A record as the wire has it. Throws a RangeError for numbers that their fields cannot hold, and for texts and data that are too long. */
export function encodeRecord<F extends Fields>(fields: F, values: RecordOf<F>): Uint8Array {
  const data = 'data' in fields ? (values as { data: Uint8Array }).data : new Uint8Array(0);
  if (data.length > pieceBytes) throw new RangeError(`data of a frame is at most ${pieceBytes} bytes`);
  const fixed = recordBytes(fields);
  const bytes = new Uint8Array(fixed + data.length);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [name, type] of Object.entries(fields)) {
    const value = values[name]!;
    if (typeof value === 'number') writeInteger(view, at, type, value, name);
    else if (type !== 'data') writeBytes(bytes, at, type, value, name);
    at += sizes[type];
  }
  bytes.set(data, fixed);
  return bytes;
}

function writeInteger(view: DataView, at: number, type: FieldType, value: number, name: string): void {
  const limit = type === 'u64' ? Number.MAX_SAFE_INTEGER : 2 ** (8 * sizes[type]) - 1;
  if (!Number.isInteger(value) || value < 0 || value > limit) throw new RangeError(`${name} is from 0 to ${limit}`);
  if (type === 'u16') view.setUint16(at, value, true);
  else if (type === 'u32') view.setUint32(at, value, true);
  else view.setBigUint64(at, BigInt(value), true);
}

function writeBytes(bytes: Uint8Array, at: number, type: FieldType, value: string | Uint8Array, name: string): void {
  const written = typeof value === 'string' ? new TextEncoder().encode(value) : value;
  const isFitting = type === 'sha256' ? written.length === sizes[type] : written.length <= sizes[type];
  if (!isFitting) throw new RangeError(`${name} has ${written.length} bytes, which its field cannot hold`);
  bytes.set(written, at);
}

/** The values of a record; its data is a view of the bytes. Fails with `mcu/incompatible` where the length is wrong. */
export function decodeRecord<F extends Fields>(fields: F, bytes: Uint8Array): RecordOf<F> {
  const fixed = recordBytes(fields);
  if ('data' in fields ? bytes.length < fixed : bytes.length !== fixed) {
    const message = `a record of ${bytes.length} bytes came where ${fixed} were expected`;
    throw new EdgeError('mcu/incompatible', message, { subject: Object.keys(fields).join(', ') });
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values: Record<string, number | string | Uint8Array> = {};
  let at = 0;
  for (const [name, type] of Object.entries(fields)) {
    values[name] = readField(view, bytes, at, type);
    at += sizes[type];
  }
  return values as RecordOf<F>;
}

function readField(view: DataView, bytes: Uint8Array, at: number, type: FieldType): number | string | Uint8Array {
  if (type === 'u16') return view.getUint16(at, true);
  if (type === 'u32') return view.getUint32(at, true);
  if (type === 'u64') return Number(view.getBigUint64(at, true));
  if (type === 'data') return bytes.subarray(at);
  const field = bytes.subarray(at, at + sizes[type]);
  if (type === 'sha256') return field;
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
}

/** Name of a status by its number; null for one that this version does not know. */
export function statusName(code: number): StatusName | null {
  const found = Object.entries(statuses).find(([, value]) => value === code);
  return (found?.[0] as StatusName | undefined) ?? null;
}
