import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { imageExtension } from '../../configs/contracts/image.js';
import { preloadedSlot } from '../../configs/contracts/mcu.js';
import type { LatencyRow, Precision } from '../../configs/contracts/plan.js';
import { spareSlot, upload } from '../../firmware-bridge/flash.js';
import { Mcu, type McuInfo } from '../../firmware-bridge/mcu.js';
import { EngineModel, packForCortexM } from '../../native/index.js';
import { buildImage, type ImagePatches } from '../core/image/build.js';
import { isImage, readDescription } from '../core/image/description.js';
import { enginePrecisions, kernelLabel } from '../core/image/precisions.js';
import { fitToRoom, noRoom, type Room } from '../core/image/room.js';
import { runOverheadKey } from '../core/latency.js';
import type { Operator } from '../core/onnx/model.js';
import { formatPrecision } from '../core/precision.js';
import type { PreparedModel } from '../core/prepare.js';
import { xorshift32 } from '../core/random.js';
import { median, minimum, spread } from '../core/statistics.js';
import type { Comparison, Feeds, Progress, Target, TargetIdentity, Timing } from '../ports.js';
import { identityOfMcu } from './mcu-identity.js';
import { withMeasuringLock } from './measuring-lock.js';

/** Of everything in the firmware's workspace (`KN_ALIGNMENT`), and what kernels may read behind the arena (`KN_SLACK`). */
const alignment = 64;
const arenaSlackBytes = 64;

/** Runs of what is timed, after one that is not. An emulator's instructions are the same every time. */
const repeatsOf = { instructions: 1, cycles: 7, nanoseconds: 9 } as const;

/**
 * A microcontroller with our firmware, at the end of a serial line or as a process. Operators are timed on it where they will run: in
 * images of the whole model, one for each precision, in a slot that is not in use.
 */
export class McuTarget implements Target {
  readonly kind = 'mcu';
  readonly packer = packForCortexM;
  readonly room: Room;
  readonly #where: string;
  readonly #info: McuInfo;
  readonly #slotBytes: number;

  /** Looks at the board; see `openConnection` for `where` and what can fail. */
  static async open(where: string): Promise<McuTarget> {
    const mcu = await Mcu.open(where);
    try {
      const [slot, preloaded] = [await mcu.slotState(0), await mcu.slotState(preloadedSlot)];
      return new McuTarget(where, await mcu.info(), slot.capacityBytes, preloaded.capacityBytes);
    } finally {
      await mcu.close();
    }
  }

  private constructor(where: string, info: McuInfo, slotBytes: number, preloadedBytes: number) {
    // What is started here can come with an image that no slot would hold.
    const flashBytes = where.startsWith('/') ? slotBytes : Math.max(slotBytes, preloadedBytes);
    this.room = { ramBytes: info.workspaceBytes, flashBytes, besideArena };
    this.#where = where;
    this.#info = info;
    this.#slotBytes = slotBytes;
  }

  get counter() {
    return this.#info.counter;
  }

  async identity(): Promise<TargetIdentity> {
    return identityOfMcu(this.#info, this.#slotBytes);
  }

  /** Our engine is exact for all weights. */
  async saturates(): Promise<boolean> {
    return false;
  }

  precisionsOf(prepared: PreparedModel, operator: Operator): readonly Precision[] {
    return enginePrecisions(prepared, operator);
  }

  /**
   * Where activations do not fit its RAM layer by layer, operators are timed patch by patch, and rows are what they would take once. Fails
   * with `mcu/no-room` where an image of the model at some precision fits in no way.
   */
  async measure(
    prepared: PreparedModel,
    operators: readonly Operator[],
    precisions: readonly Precision[],
    signal: AbortSignal,
    progress: Progress,
  ): Promise<LatencyRow[]> {
    const wanted = new Set(operators.map(({ key }) => key));
    const measureAll = async () => {
      const rows: LatencyRow[] = [];
      for (const [index, precision] of precisions.entries()) {
        const name = formatPrecision(precision);
        const tell = (share: number) => progress((index + share) / precisions.length, `timing at ${name}`);
        rows.push(...(await this.#measureAt(prepared, precision, signal, tell)));
      }
      // A run is its operators; nothing comes on top.
      return [...rows.filter(({ operatorKey }) => wanted.has(operatorKey)), row(runOverheadKey, 'float', [0])];
    };
    return withMeasuringLock(signal, measureAll, { waiting: (text) => progress(0, text) });
  }

  /**
   * One model after the other, since each has to be brought there: a board has no neighbours that would make it slower for a while. What is
   * no image does not run there, and has NaN for times.
   */
  async compare(
    models: readonly { name: string; bytes: Uint8Array }[],
    feeds: Feeds,
    signal: AbortSignal,
    progress: Progress,
  ): Promise<Comparison> {
    const compareAll = async () => {
      const timings: Timing[] = [];
      for (const [index, { name, bytes }] of models.entries()) {
        const tell = (share: number) => progress((index + share) / models.length, 'timing whole models');
        const samples = isImage(bytes) ? await this.#timeWhole(bytes, feeds, signal, tell) : [Number.NaN];
        timings.push({ name, minimum: minimum(samples), median: median(samples), samples: samples.length });
      }
      const first = timings.find((timing) => !Number.isNaN(timing.median))?.median ?? Number.NaN;
      const ratios = timings.map((timing) => timing.median / first);
      return { timings, ratios, referenceLatency: 1, throttled: false };
    };
    return withMeasuringLock(signal, compareAll, { waiting: (text) => progress(0, text) });
  }

  /** Loads an image on the board for as long as `work` takes; what is active there serves again afterwards. */
  async #withModel<T>(
    image: Uint8Array,
    signal: AbortSignal,
    progress: (share: number) => void,
    work: (mcu: Mcu) => Promise<T>,
  ): Promise<T> {
    if (image.length > this.#slotBytes && !this.#where.startsWith('/')) return this.#withPreloaded(image, work);
    const mcu = await Mcu.open(this.#where);
    try {
      const spare = await spareSlot(mcu);
      const { activeSlot } = await mcu.activation();
      await upload(mcu, spare, image, { signal, progress: (done, total) => progress(done / total) });
      await mcu.load(spare);
      const result = await work(mcu);
      if (activeSlot !== null) await mcu.load(activeSlot);
      return result;
    } finally {
      await mcu.close();
    }
  }

  /** The same with an image that is too large for a slot, on a board that is started here and can come with it. */
  async #withPreloaded<T>(image: Uint8Array, work: (mcu: Mcu) => Promise<T>): Promise<T> {
    const folder = await mkdtemp(join(tmpdir(), 'quantd-mcu-'));
    try {
      const preloaded = join(folder, `model${imageExtension}`);
      await writeFile(preloaded, image);
      const mcu = await Mcu.open(this.#where, { preloaded });
      try {
        await mcu.load(preloadedSlot);
        return await work(mcu);
      } finally {
        await mcu.close();
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  }

  async #measureAt(
    prepared: PreparedModel,
    precision: Precision,
    signal: AbortSignal,
    progress: (share: number) => void,
  ): Promise<LatencyRow[]> {
    const label = formatPrecision(precision);
    const able = prepared.operators.filter((operator) =>
      enginePrecisions(prepared, operator).some((candidate) => formatPrecision(candidate) === label),
    );
    const precisions = new Map(able.map(({ name }) => [name, precision]));
    const build = (patches: ImagePatches | null) =>
      buildImage(prepared, precisions, {
        // Times do not depend on ranges.
        rangeOf: () => ({ minimum: -4, maximum: 4 }),
        pairSafe: false,
        biasCorrection: () => null,
        packer: this.packer,
        patches,
      });
    const { patches, shares } = fitToRoom(prepared, this.room, {}, build, ({ macs }) => macs);
    const { bytes } = build(patches);
    if (bytes.length > this.room.flashBytes) throw noRoom('flash', bytes.length, this.room.flashBytes);
    const { operators: sources } = readDescription(bytes);
    const random = xorshift32(1);
    const input = Float32Array.from({ length: count(prepared.inputDims) }, () => random() * 2 - 1);
    const times = new Map<number, number[]>();
    const kernels = new Map<number, string>();
    const timeAll = async (mcu: Mcu) => {
      await mcu.infer([input]);
      const { operatorsAtInput } = await mcu.model();
      // What quantizes inputs as they arrive takes no time of a run.
      for (let at = operatorsAtInput; at < sources.length; at++) {
        signal.throwIfAborted();
        times.set(at, await this.#time(mcu, at, 1));
        kernels.set(at, (await mcu.kernelOf(at)).split('.')[0]!);
        progress(0.5 + (0.5 * at) / sources.length);
      }
    };
    await this.#withModel(bytes, signal, (share) => progress(share / 2), timeAll);
    const rows: LatencyRow[] = [];
    for (const operator of new Map(able.map((one) => [one.key, one])).values()) {
      const positions = [...times.keys()].filter((at) => sources[at] === operator.name);
      const samples = Array.from(
        { length: repeatsOf[this.counter] },
        (_, repeat) =>
          positions.reduce((sum, at) => sum + times.get(at)![repeat]!, 0) / (shares.get(operator.name) ?? 1),
      );
      rows.push(row(operator.key, label, samples));
      const kernel = positions.map((at) => kernels.get(at)!).find((name) => name !== '');
      if (kernel !== undefined) rows.push(row(operator.key, kernelLabel(precision, kernel), samples));
    }
    return rows;
  }

  #timeWhole(
    image: Uint8Array,
    feeds: Feeds,
    signal: AbortSignal,
    progress: (share: number) => void,
  ): Promise<number[]> {
    const inputs = readDescription(image).inputs.map(({ name }) => feeds.get(name)?.data);
    return this.#withModel(image, signal, progress, async (mcu) => {
      await mcu.infer(inputs.map((data) => (data instanceof Float32Array ? data : new Float32Array(0))));
      const { operators, operatorsAtInput } = await mcu.model();
      return this.#time(mcu, operatorsAtInput, operators - operatorsAtInput);
    });
  }

  async #time(mcu: Mcu, first: number, count: number): Promise<number[]> {
    const samples: number[] = [];
    for (let repeat = 0; repeat < repeatsOf[this.counter]; repeat++) {
      const warmUps = repeat === 0 && this.counter !== 'instructions' ? 1 : 0;
      samples.push((await mcu.measure({ first, count, warmUps, runs: 1 })).minimum);
    }
    return samples;
  }
}

/**
 * By the engine as it is on this machine, whose records are larger than on a processor of 32 bits; the kernels, and with them scratch memory,
 * are those of Cortex-M.
 */
function besideArena(image: Uint8Array): number {
  const engine = new EngineModel(image, { threads: 1, features: ['dsp'] });
  try {
    const { preparedBytes, scratchBytes } = engine.memory;
    const floats = readDescription(image).outputs.map(({ dims }) => 4 * count(dims));
    const bytes = [preparedBytes, scratchBytes, arenaSlackBytes, ...floats];
    return bytes.reduce((sum, part) => sum + Math.ceil(part / alignment) * alignment, 0);
  } finally {
    engine.close();
  }
}

const count = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);

function row(operatorKey: string, precision: string, samples: readonly number[]): LatencyRow {
  return {
    operatorKey,
    precision,
    minimum: minimum(samples),
    median: median(samples),
    spread: samples.length > 1 ? spread(samples) : 0,
    repeats: samples.length,
    throttled: false,
    energyJoules: null,
    measuredAt: new Date().toISOString(),
  };
}
