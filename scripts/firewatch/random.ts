/**
 * Randomness that is the same on every machine: integers modulo 2^32 and the four operations and square root that IEEE 754
 * fixes to the last bit. `Math.sin`, `Math.exp` and their kin may differ between engines, so nothing here or in the tile
 * painters uses them.
 */

export type Vector = readonly [x: number, y: number];

/** Scrambles a 32-bit integer: the finalizer of MurmurHash3 (Appleby). */
function scramble(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** A stream of random numbers: a counter stepped by the golden ratio, scrambled. Equal seeds give equal streams. */
export class Random {
  #counter: number;

  constructor(seed: number) {
    this.#counter = scramble(seed + 0x51ed270b);
  }

  /** In [0, 1), a multiple of 2^-32. */
  uniform(): number {
    this.#counter = (this.#counter + 0x9e3779b9) | 0;
    return scramble(this.#counter) / 4294967296;
  }

  between(low: number, high: number): number {
    return low + (high - low) * this.uniform();
  }

  /** An integer in [0, count). */
  integer(count: number): number {
    return Math.floor(this.uniform() * count);
  }

  chance(probability: number): boolean {
    return this.uniform() < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.integer(items.length)] as T;
  }

  /** Mean 0, variance 1, bell-shaped (four uniforms; their variance is 4/12). Never beyond 2 * sqrt(3). */
  normal(): number {
    return (this.uniform() + this.uniform() + this.uniform() + this.uniform() - 2) * Math.sqrt(3);
  }

  /** A unit vector of any direction. */
  direction(): Vector {
    for (;;) {
      const x = this.between(-1, 1);
      const y = this.between(-1, 1);
      const square = x * x + y * y;
      if (square > 0.01 && square <= 1) return [x / Math.sqrt(square), y / Math.sqrt(square)];
    }
  }
}

const latticeBits = 6;
const latticeMask = (1 << latticeBits) - 1;

/** Smooth noise over the plane from a lattice of random values, which repeats every 64 units. */
export class Noise {
  readonly #lattice = new Float32Array(1 << (2 * latticeBits));

  constructor(random: Random) {
    for (let i = 0; i < this.#lattice.length; i++) this.#lattice[i] = random.uniform();
  }

  /** In [0, 1]; one feature per unit. */
  at(x: number, y: number): number {
    const column = Math.floor(x);
    const row = Math.floor(y);
    let fx = x - column;
    let fy = y - row;
    fx = fx * fx * (3 - 2 * fx);
    fy = fy * fy * (3 - 2 * fy);
    const left = column & latticeMask;
    const right = (column + 1) & latticeMask;
    const top = (row & latticeMask) << latticeBits;
    const bottom = ((row + 1) & latticeMask) << latticeBits;
    const lattice = this.#lattice;
    const upper = lattice[top | left]! + (lattice[top | right]! - lattice[top | left]!) * fx;
    const lower = lattice[bottom | left]! + (lattice[bottom | right]! - lattice[bottom | left]!) * fx;
    return upper + (lower - upper) * fy;
  }

  /** In [0, 1], mean 0.5: octaves of `at`, each twice as fine and half as strong as the one before. */
  fractal(x: number, y: number, octaves: number): number {
    let sum = 0;
    let weight = 0;
    let amplitude = 1;
    for (let octave = 0; octave < octaves; octave++) {
      sum += amplitude * this.at(x, y);
      weight += amplitude;
      amplitude *= 0.5;
      x = x * 2 + 17.31;
      y = y * 2 + 9.73;
    }
    return sum / weight;
  }
}
