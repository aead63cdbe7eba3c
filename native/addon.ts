/** Loads the compiled addon; what it is called with is validated by the callers beside this file. */
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { PackedWeights } from '../configs/contracts/packing.js';
import type { RoundedLayer, RoundingLayer } from '../configs/contracts/rounding.js';

/** What a prepared model says of itself. */
export interface AddonFacts {
  kernels: string[];
  inputs: number[];
  outputs: number[];
  preparedBytes: number;
  arenaBytes: number;
  scratchBytes: number;
}

/** A prepared model. */
export interface AddonModel {
  readonly facts: AddonFacts | null;
  run(
    inputs: readonly Float32Array[],
    rounds: number,
    observe: boolean,
  ): Promise<{ outputs: Float32Array[]; nanoseconds?: Float64Array }>;
  close(): void;
}

/** What the addon exports. */
export interface Addon {
  sendDatagram(path: string, text: string): number;
  catalogue(): { features: number; kernels: { name: string; features: number }[] };
  roundLayer(layer: RoundingLayer, threads: number): Promise<RoundedLayer>;
  packWeights(
    fields: Uint32Array,
    inputBits: number,
    weights: Uint8Array,
    bias: Int32Array,
    variants: Int32Array,
    features: number,
  ): PackedWeights | null;
  Model: new (image: Uint8Array, features: number, onlyKernel: string, threads: number) => AddonModel;
}

/** `native/` in the package, seen from `dist/native/`. */
const folder = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'native');
const load = createRequire(import.meta.url)('node-gyp-build') as {
  (folder: string): Addon;
  path(folder: string): string;
};
let loaded: Addon | null = null;

/** The addon. Throws an Error where it was not built. */
export function addon(): Addon {
  loaded ??= load(folder);
  return loaded;
}

/** Path of the compiled addon; another file is another engine. */
export function addonPath(): string {
  return load.path(folder);
}
