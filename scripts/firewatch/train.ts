/**
 * Trains the bundled model from nothing, seeded: `node dist/scripts/firewatch/train.js OUT-FOLDER [v1|v2]`. Takes about twenty
 * minutes on one core (hours without a C compiler) and is no part of any test. Writes a checkpoint per version; `export.js`
 * makes the committed files from them. Two rounds, each with its own warm-up and cosine decay: the first gives v1; v2 continues
 * from it.
 */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { compileKernels, kernels } from './kernels.js';
import { type Parameter, recycleActivations } from './layers.js';
import {
  backward,
  crossEntropy,
  forward,
  loadState,
  type Network,
  newNetwork,
  predictions,
  saveState,
  toBatch,
} from './network.js';
import { Random } from './random.js';
import { classNames, makeTile, seedRanges, type Tile, tileSize } from './tiles.js';

const batchSize = 32;
const validationTiles = 600;
/** Each round has seeds of its own within the training range. */
const seedsPerRound = 0x4000000;

interface Round {
  readonly version: string;
  readonly steps: number;
  readonly peakRate: number;
}

const rounds: readonly Round[] = [
  { version: 'v1', steps: 5000, peakRate: 4e-3 },
  { version: 'v2', steps: 4000, peakRate: 2.5e-3 },
];

/**
 * Batches of new tiles and of earlier ones, turned and mirrored: making a tile costs as much as learning from it, and this
 * halves that. Down is nowhere in particular in a picture from above.
 */
class TileFeed {
  static readonly newPerBatch = 8;
  static readonly capacity = 16384;
  readonly #random = new Random(99);
  readonly #kept: Tile[] = [];
  #seed: number;

  constructor(firstSeed: number) {
    this.#seed = firstSeed;
  }

  next(size: number): Tile[] {
    const count = this.#kept.length < 512 ? size : TileFeed.newPerBatch;
    const fresh = tilesFrom(this.#seed, count);
    for (const [i, tile] of fresh.entries()) this.#kept[(this.#seed + i) % TileFeed.capacity] = tile;
    this.#seed += count;
    const earlier = Array.from({ length: size - count }, () =>
      turned(this.#random.pick(this.#kept), this.#random.integer(8)),
    );
    return [...fresh, ...earlier];
  }
}

/** One of the eight ways to lay down a square picture: mirrored left-right (1), top-bottom (2), along the diagonal (4), summed. */
export function turned(tile: Tile, way: number): Tile {
  const pixels = new Uint8Array(tile.pixels.length);
  const last = tileSize - 1;
  for (let y = 0; y < tileSize; y++) {
    for (let x = 0; x < tileSize; x++) {
      const u = way & 1 ? last - x : x;
      const v = way & 2 ? last - y : y;
      const from = (way & 4 ? u * tileSize + v : v * tileSize + u) * 3;
      const to = (y * tileSize + x) * 3;
      for (let channel = 0; channel < 3; channel++) pixels[to + channel] = tile.pixels[from + channel]!;
    }
  }
  return { pixels, label: tile.label };
}

/** Adam with decoupled weight decay (Loshchilov and Hutter 2019). */
export class AdamW {
  readonly #moments: readonly { first: Float32Array; second: Float32Array }[];
  #steps = 0;

  constructor(
    readonly parameters: readonly Parameter[],
    readonly decay = 1e-2,
  ) {
    this.#moments = parameters.map(({ value }) => ({
      first: new Float32Array(value.length),
      second: new Float32Array(value.length),
    }));
  }

  /** Applies the gradients and clears them. */
  step(rate: number): void {
    this.#steps++;
    const firstCorrection = 1 - 0.9 ** this.#steps;
    const secondCorrection = 1 - 0.99 ** this.#steps;
    this.parameters.forEach(({ value, gradient, decays }, index) => {
      const { first, second } = this.#moments[index]!;
      for (let i = 0; i < value.length; i++) {
        const g = gradient[i]!;
        first[i] = 0.9 * first[i]! + 0.1 * g;
        second[i] = 0.99 * second[i]! + 0.01 * g * g;
        const move = first[i]! / firstCorrection / (Math.sqrt(second[i]! / secondCorrection) + 1e-8);
        value[i]! -= rate * (move + (decays ? this.decay * value[i]! : 0));
      }
      gradient.fill(0);
    });
  }
}

/** Rate at a step: linear warm-up over the first twentieth, then half a cosine down to nearly nothing. */
export function rateAt(step: number, round: { readonly steps: number; readonly peakRate: number }): number {
  const warmUp = round.steps / 20;
  if (step < warmUp) return (round.peakRate * (step + 1)) / warmUp;
  return round.peakRate * (0.005 + 0.4975 * (1 + Math.cos((Math.PI * (step - warmUp)) / (round.steps - warmUp))));
}

/** `count` tiles of consecutive seeds. */
export function tilesFrom(firstSeed: number, count: number): Tile[] {
  return Array.from({ length: count }, (_, i) => makeTile(firstSeed + i));
}

/** Counts of tiles: rows are true labels, columns predicted ones. */
export function confusionOf(predicted: readonly number[], tiles: readonly Tile[]): number[][] {
  const counts = classNames.map(() => classNames.map(() => 0));
  tiles.forEach((tile, i) => {
    counts[tile.label]![predicted[i]!]!++;
  });
  return counts;
}

function classify(network: Network, tiles: readonly Tile[]): number[] {
  const labels: number[] = [];
  for (let start = 0; start < tiles.length; start += batchSize) {
    labels.push(...predictions(forward(network, toBatch(tiles.slice(start, start + batchSize)), false)));
    recycleActivations();
  }
  return labels;
}

/** The share of a confusion matrix that lies on its diagonal. */
export function accuracyOf(counts: readonly (readonly number[])[]): number {
  const correct = counts.reduce((sum, row, label) => sum + row[label]!, 0);
  return correct / counts.flat().reduce((sum, count) => sum + count, 0);
}

/** Runs the rounds from `firstVersion` on; a later one than the first continues from the checkpoint of the one before. */
function main(folder: string, firstVersion: string): void {
  mkdirSync(folder, { recursive: true });
  const network = newNetwork(1);
  const unseen = tilesFrom(seedRanges.validation, validationTiles);
  const compiled = compileKernels();
  if (compiled === undefined) console.log('no C compiler or Node headers: training with the plain kernels, slowly');
  else Object.assign(kernels, compiled);
  const first = rounds.findIndex((round) => round.version === firstVersion);
  if (first < 0) throw new RangeError(`no version ${firstVersion}`);
  const before = rounds[first - 1];
  if (before !== undefined) {
    const checkpoint = readFileSync(join(folder, `firewatch-${before.version}.state`));
    loadState(network, new Float32Array(Uint8Array.from(checkpoint).buffer));
  }
  for (const [index, round] of rounds.entries()) {
    if (index < first) continue;
    const feed = new TileFeed(seedRanges.training + index * seedsPerRound);
    const optimizer = new AdamW(network.parameters);
    let loss = 0;
    for (let step = 0; step < round.steps; step++) {
      const tiles = feed.next(batchSize);
      const logits = forward(network, toBatch(tiles), true);
      const result = crossEntropy(
        logits,
        tiles.map((tile) => tile.label),
      );
      backward(network, result.gradient);
      optimizer.step(rateAt(step, round));
      recycleActivations();
      loss += (result.loss - loss) / Math.min(step + 1, 50);
      if ((step + 1) % 500 !== 0 && step + 1 !== round.steps) continue;
      const counts = confusionOf(classify(network, unseen), unseen);
      const accuracy = (100 * accuracyOf(counts)).toFixed(1);
      console.log(
        `${round.version} step ${step + 1} loss ${loss.toFixed(3)} unseen ${accuracy} % ${JSON.stringify(counts)}`,
      );
      writeFileSync(join(folder, `firewatch-${round.version}.state`), saveState(network));
    }
  }
}

if (process.argv[1]?.endsWith('firewatch/train.js')) {
  main(process.argv[2] ?? 'firewatch-training', process.argv[3] ?? 'v1');
}
