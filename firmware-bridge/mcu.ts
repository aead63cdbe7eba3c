/**
 * A microcontroller with our firmware: typed requests over a connection.
 *
 * INVARIANTS
 * 1. What the firmware says is checked where it enters: numbers of enumerations by name, sizes before anything is allocated for them.
 * 2. An inference is several requests; inferences and loads of one Mcu follow each other, they never mix.
 */

import { EdgeError } from '../configs/contracts/errors.js';
import { tensorPlaces } from '../configs/contracts/image.js';
import { counters, noSlot, pieceBytes, type ReplyOf, starts } from '../configs/contracts/mcu.js';
import type { Connection } from './link/connection.js';
import { type OpenOptions, openConnection } from './link/open.js';

/** What a counter counts. */
export type McuCounter = keyof typeof counters;

/** A board and its firmware. */
export interface McuInfo extends Omit<ReplyOf<'info'>, 'counter'> {
  readonly counter: McuCounter;
}

/** What happened since the firmware started. */
export interface McuStatistics extends Omit<ReplyOf<'statistics'>, 'lastStart'> {
  /** Why it started. */
  readonly lastStart: keyof typeof starts;
}

/** A slot for an image. */
export interface SlotState {
  readonly capacityBytes: number;
  readonly isWritable: boolean;
  /** Of the sealed image; null where there is none. */
  readonly image: { readonly bytes: number; readonly sha256: string } | null;
}

/** Which image serves. Slots are null where there is none. */
export interface Activation {
  readonly activeSlot: number | null;
  readonly previousSlot: number | null;
  /** The next reset makes the previous slot active again. */
  readonly isOnTrial: boolean;
  /** The last start ended a trial. */
  readonly hasReverted: boolean;
  readonly loadedSlot: number | null;
}

/** Operators `first` to `first + count - 1` of the loaded model, one behind the other. */
export interface Measurement {
  readonly first: number;
  readonly count: number;
  readonly warmUps: number;
  /** At most 64. */
  readonly runs: number;
}

const floatBytes = Float32Array.BYTES_PER_ELEMENT;
const pieceFloats = pieceBytes / floatBytes;
/** More than any board has; what claims to be larger is not read. */
const mostElements = 2 ** 24;
const mostTensors = 64;
/** More than any stage has. */
const mostPatches = 4096;

function nameOf<Table extends Readonly<Record<string, number>>>(
  table: Table,
  value: number,
  what: string,
): keyof Table {
  const found = Object.keys(table).find((name) => table[name] === value);
  if (found === undefined) throw new EdgeError('mcu/incompatible', `there is no ${what} ${value}`, { subject: what });
  return found;
}

const slotOrNull = (slot: number) => (slot === noSlot ? null : slot);

/** A microcontroller. Close it. Every method fails as `Connection.request` does. */
export class Mcu {
  readonly connection: Connection;
  #last: Promise<unknown> = Promise.resolve();

  /** Opens one by what the command line calls it; see `openConnection`. */
  static async open(where: string, options: OpenOptions = {}): Promise<Mcu> {
    return new Mcu(await openConnection(where, options));
  }

  constructor(connection: Connection) {
    this.connection = connection;
  }

  async close(): Promise<void> {
    await this.connection.close();
  }

  async info(): Promise<McuInfo> {
    const info = await this.connection.request('info', {});
    return { ...info, counter: nameOf(counters, info.counter, 'counter') };
  }

  async statistics(): Promise<McuStatistics> {
    const statistics = await this.connection.request('statistics', {});
    return { ...statistics, lastStart: nameOf(starts, statistics.lastStart, 'kind of start') };
  }

  async slotState(slot: number): Promise<SlotState> {
    const { capacityBytes, isWritable, isSealed, imageBytes, sha256 } = await this.connection.request('slotState', {
      slot,
    });
    const image = isSealed === 0 ? null : { bytes: imageBytes, sha256: Buffer.from(sha256).toString('hex') };
    return { capacityBytes, isWritable: isWritable !== 0, image };
  }

  async activation(): Promise<Activation> {
    const { activeSlot, previousSlot, isOnTrial, hasReverted, loadedSlot } = await this.connection.request(
      'activation',
      {},
    );
    return {
      activeSlot: slotOrNull(activeSlot),
      previousSlot: slotOrNull(previousSlot),
      isOnTrial: isOnTrial !== 0,
      hasReverted: hasReverted !== 0,
      loadedSlot: slotOrNull(loadedSlot),
    };
  }

  /** Loads a sealed slot and makes it active, until `confirm` only on trial: any reset makes the previous one active again. */
  async activate(slot: number): Promise<void> {
    await this.#exclusively(() => this.connection.request('activate', { slot }));
  }

  /** Ends a trial well. */
  async confirm(): Promise<void> {
    await this.connection.request('confirm', {});
  }

  /** Ends a trial: the previous slot serves again. */
  async revert(): Promise<void> {
    await this.#exclusively(() => this.connection.request('revert', {}));
  }

  /** Prepares a sealed slot to run; the active slot stays what it is. */
  async load(slot: number): Promise<void> {
    await this.#exclusively(() => this.connection.request('load', { slot }));
  }

  /** The loaded model. */
  model(): Promise<ReplyOf<'model'>> {
    return this.connection.request('model', {});
  }

  /** Name of the kernel that executes an operator of the loaded model; '' for kinds that have one only. */
  async kernelOf(index: number): Promise<string> {
    return (await this.connection.request('operator', { index })).kernel;
  }

  /** Runs the loaded model once; its input goes there window by window where it runs patch by patch. Throws a RangeError for inputs of other sizes than the model's. */
  infer(inputs: readonly Float32Array[]): Promise<{ outputs: Float32Array[]; ticks: number }> {
    return this.#exclusively(async () => {
      const model = await this.#checkedModel();
      const sizes = await this.#sizes(tensorPlaces.input, model.inputs);
      if (inputs.length !== sizes.length || inputs.some(({ length }, index) => length !== sizes[index]))
        throw new RangeError(`the inputs have ${inputs.map(({ length }) => length)} values, the model takes ${sizes}`);
      let patchTicks = 0;
      for (let patch = 0; patch < model.patches; patch++) {
        await this.#writeInput(0, patch, await this.#windowOf(patch, inputs[0]!));
        patchTicks += (await this.connection.request('patchRun', { patch })).ticks;
      }
      if (model.patches === 0) for (const [input, values] of inputs.entries()) await this.#writeInput(input, 0, values);
      const ticks = patchTicks + (await this.connection.request('run', {})).ticks;
      const outputs: Float32Array[] = [];
      for (const [output, elements] of (await this.#sizes(tensorPlaces.output, model.outputs)).entries())
        outputs.push(await this.#readOutput(output, elements));
      return { outputs, ticks };
    });
  }

  /** Times operators of the loaded model, with interrupts masked; values are of the counter in `info`. */
  measure(measurement: Measurement): Promise<ReplyOf<'measure'>> {
    return this.#exclusively(() => this.connection.request('measure', { ...measurement }));
  }

  /** Starts the chip anew and greets it again. The process of `host` ends instead, and the connection with it. */
  async reset(): Promise<void> {
    await this.connection.request('reset', {});
    await this.connection.greet();
  }

  async #checkedModel(): Promise<ReplyOf<'model'>> {
    const model = await this.model();
    const { inputs, outputs, patches } = model;
    const isPossible = inputs <= mostTensors && outputs <= mostTensors && patches <= mostPatches;
    if (isPossible && (patches === 0 || inputs === 1)) return model;
    const message = `the firmware claims a model of ${inputs} inputs, ${outputs} outputs and ${patches} patches`;
    throw new EdgeError('mcu/incompatible', message, { subject: this.connection.name });
  }

  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work);
    this.#last = turn.catch(() => {});
    return turn;
  }

  async #sizes(place: number, count: number): Promise<number[]> {
    const sizes: number[] = [];
    for (let index = 0; index < count; index++) {
      const { elements } = await this.connection.request('tensor', { place, index });
      if (elements > mostElements) {
        const message = `the firmware claims a tensor of ${elements} elements`;
        throw new EdgeError('mcu/incompatible', message, { subject: this.connection.name });
      }
      sizes.push(elements);
    }
    return sizes;
  }

  /** What a patch takes of an input: [channel][row][column]. */
  async #windowOf(patch: number, input: Float32Array): Promise<Float32Array> {
    const window = await this.connection.request('patch', { patch });
    const { rows, columns, channels, firstRow, endRow, firstColumn, endColumn } = window;
    const isInside = firstRow < endRow && endRow <= rows && firstColumn < endColumn && endColumn <= columns;
    if (!isInside || rows * columns * channels !== input.length) {
      const message = `the firmware claims a window of ${JSON.stringify(window)} in ${input.length} elements`;
      throw new EdgeError('mcu/incompatible', message, { subject: this.connection.name });
    }
    const width = endColumn - firstColumn;
    const values = new Float32Array(channels * (endRow - firstRow) * width);
    let at = 0;
    for (let channel = 0; channel < channels; channel++) {
      for (let row = firstRow; row < endRow; row++, at += width) {
        const start = (channel * rows + row) * columns + firstColumn;
        values.set(input.subarray(start, start + width), at);
      }
    }
    return values;
  }

  async #writeInput(input: number, patch: number, values: Float32Array): Promise<void> {
    for (let offset = 0; offset < values.length; offset += pieceFloats) {
      const piece = values.subarray(offset, offset + pieceFloats);
      const data = new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
      await this.connection.request('inputWrite', { input, patch, offset, data });
    }
  }

  async #readOutput(output: number, elements: number): Promise<Float32Array> {
    const values = new Float32Array(elements);
    const bytes = new Uint8Array(values.buffer);
    for (let offset = 0; offset < elements; offset += pieceFloats) {
      const count = Math.min(pieceFloats, elements - offset);
      const { data } = await this.connection.request('outputRead', { output, offset, count });
      if (data.length !== count * floatBytes) {
        const message = `${data.length} bytes came where ${count} floats were asked for`;
        throw new EdgeError('mcu/incompatible', message, { subject: this.connection.name });
      }
      bytes.set(data, offset * floatBytes);
    }
    return values;
  }
}
