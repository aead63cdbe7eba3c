/** The native addon. Everything is validated here, before it crosses; the addon trusts its arguments. */
import { type AddonFacts, type AddonModel, addon } from './addon.js';

export { addonPath } from './addon.js';
export { packForCortexM } from './packing.js';
export { roundLayer } from './rounding.js';

/**
 * Sends one datagram to a Unix socket; `@name` is in Linux's abstract namespace. Answers 0, or the system's error number.
 * Throws a TypeError for what is no path, and an Error where the addon was not built.
 */
export function sendDatagram(path: string, text: string): number {
  if (!/^[/@][^\0]*$/.test(path)) throw new TypeError('a socket path begins with / or @');
  return addon().sendDatagram(path, text);
}

/** Instruction sets that kernels are written for; the bits of `kernels.h`. */
const featureBits = { avx2: 1, neon: 2, dotprod: 4, dsp: 8 } as const;

/** Name of an instruction set. */
export type Feature = keyof typeof featureBits;

/** One way to compute a convolution. */
export interface Kernel {
  /** ARITHMETIC.VARIANT, or `reference`. */
  readonly name: string;
  /** Whether this machine has the instructions that it needs. */
  readonly isAvailable: boolean;
}

/** The kernels of this build, the reference last. */
export function listKernels(): Kernel[] {
  const { features, kernels } = addon().catalogue();
  return kernels.map((kernel) => ({ name: kernel.name, isAvailable: (kernel.features & ~features) === 0 }));
}

/** Instruction sets of this machine that kernels are written for. */
export function machineFeatures(): Feature[] {
  const { features } = addon().catalogue();
  return (Object.keys(featureBits) as Feature[]).filter((name) => (features & featureBits[name]) !== 0);
}

/** What is wrong with an image; the numbers of `en_status`. */
const faults = [
  '',
  'the image is not aligned in memory',
  'the image is cut off',
  'this is not an image',
  'the image is of another version',
  'the checksum of the image is wrong',
  'sections of the image overlap or are missing',
  'a tensor of the image is impossible',
  'an operator of the image is impossible',
  'there is too little memory',
] as const;

/** An image that the engine refuses. */
export class ImageFault extends Error {}

/** How a model is prepared. */
export interface EngineOptions {
  /** From 1 to 256. */
  readonly threads: number;
  /** Instruction sets that may be used; all of this machine where absent. */
  readonly features?: readonly Feature[];
  /** The one kernel to use wherever it can, by name without variant. */
  readonly onlyKernel?: string;
}

/** A prepared model. Close it: its memory is not the garbage collector's. */
export class EngineModel {
  readonly #model: AddonModel;
  readonly #facts: AddonFacts;
  #isClosed = false;

  /** Checks and prepares an image, which is copied. Throws ImageFault. */
  constructor(image: Uint8Array, options: EngineOptions) {
    const { threads, features, onlyKernel = '' } = options;
    if (!Number.isInteger(threads) || threads < 1 || threads > 256) throw new RangeError('threads are from 1 to 256');
    const mask = features === undefined ? 0xffffffff : features.reduce((bits, name) => bits | featureBits[name], 0);
    try {
      this.#model = new (addon().Model)(image, mask, onlyKernel, threads);
    } catch (cause) {
      const { status, index, message } = cause as { status?: number; index?: number; message: string };
      if (status === undefined) throw cause;
      const where = message === '' ? '' : ` (number ${index}: ${message})`;
      throw new ImageFault(`${faults[status]}${where}`);
    }
    this.#facts = this.#model.facts!;
  }

  /** Kernel of each operator of the image; '' for kinds that have one only. */
  get kernels(): readonly string[] {
    return this.#facts.kernels;
  }

  /** Bytes of packed weights and the model's own records, of activations, and of scratch memory of all threads. */
  get memory(): { readonly preparedBytes: number; readonly arenaBytes: number; readonly scratchBytes: number } {
    const { preparedBytes, arenaBytes, scratchBytes } = this.#facts;
    return { preparedBytes, arenaBytes, scratchBytes };
  }

  /** Runs the model once, off the main thread. Inputs and outputs are dense and as many as the image says, or a RangeError. */
  async run(inputs: readonly Float32Array[]): Promise<Float32Array[]> {
    return (await this.#run(inputs, 1, false)).outputs;
  }

  /** Runs the model some times in a row; answers the nanoseconds that each operator took in each round. */
  async observe(inputs: readonly Float32Array[], rounds: number): Promise<Float64Array[]> {
    if (!Number.isInteger(rounds) || rounds < 1 || rounds > 10_000) throw new RangeError('rounds are from 1 to 10000');
    const { nanoseconds } = await this.#run(inputs, rounds, true);
    const operators = this.#facts.kernels.length;
    return Array.from({ length: rounds }, (_, round) =>
      nanoseconds!.subarray(round * operators, (round + 1) * operators),
    );
  }

  /** A run that is under way ends first. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#model.close();
  }

  #run(inputs: readonly Float32Array[], rounds: number, observe: boolean) {
    if (this.#isClosed) throw new Error('the model is closed');
    const { inputs: sizes } = this.#facts;
    if (inputs.length !== sizes.length || inputs.some((values, index) => values.length !== sizes[index]))
      throw new RangeError(`the inputs have ${inputs.map((values) => values.length)} values, the model takes ${sizes}`);
    return this.#model.run(inputs, rounds, observe);
  }
}
