/** A square picture in floating point, and the few ways in which the painters touch it. */

import type { Noise, Random, Vector } from './random.js';

/** Edge of a tile in pixels. */
export const tileSize = 64;
export const pixelCount = tileSize * tileSize;

/** Display-referred red, green and blue; 1 is white, more is overexposed. */
export type Colour = readonly [red: number, green: number, blue: number];

/** Three planes, row by row. */
export interface Picture {
  readonly red: Float32Array;
  readonly green: Float32Array;
  readonly blue: Float32Array;
}

/** What every painter gets: the picture, where its chance comes from and where the sun stands (a unit vector towards it). */
export interface Scene {
  readonly picture: Picture;
  readonly random: Random;
  readonly noise: Noise;
  readonly sun: Vector;
}

export function newPicture(): Picture {
  return {
    red: new Float32Array(pixelCount),
    green: new Float32Array(pixelCount),
    blue: new Float32Array(pixelCount),
  };
}

/** 0 below `low`, 1 above `high`, a smooth step between. */
export function smoothStep(low: number, high: number, value: number): number {
  const t = (value - low) / (high - low);
  return t <= 0 ? 0 : t >= 1 ? 1 : t * t * (3 - 2 * t);
}

/** Covers one pixel: opacity 0 leaves it, 1 replaces it. */
export function cover(picture: Picture, pixel: number, colour: Colour, opacity: number): void {
  picture.red[pixel]! += (colour[0] - picture.red[pixel]!) * opacity;
  picture.green[pixel]! += (colour[1] - picture.green[pixel]!) * opacity;
  picture.blue[pixel]! += (colour[2] - picture.blue[pixel]!) * opacity;
}

/** Multiplies one pixel: shadow below 1, light above. */
export function lighten(picture: Picture, pixel: number, factor: number): void {
  picture.red[pixel]! *= factor;
  picture.green[pixel]! *= factor;
  picture.blue[pixel]! *= factor;
}

export function mix(a: Colour, b: Colour, share: number): Colour {
  return [a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share];
}

export function scaled(colour: Colour, factor: number): Colour {
  return [colour[0] * factor, colour[1] * factor, colour[2] * factor];
}

/** A neighbouring colour: brightness and hue each off by about `amount`. */
export function vary(random: Random, colour: Colour, amount: number): Colour {
  const brightness = 1 + amount * random.normal();
  return [
    Math.max(0, colour[0] * (brightness + amount * 0.5 * random.normal())),
    Math.max(0, colour[1] * (brightness + amount * 0.5 * random.normal())),
    Math.max(0, colour[2] * (brightness + amount * 0.5 * random.normal())),
  ];
}

/** A rectangle on the ground, by its centre, the unit vector along its length, and half its extents in pixels. */
export interface Slab {
  readonly centre: Vector;
  readonly along: Vector;
  readonly halfLength: number;
  readonly halfWidth: number;
}

/** Calls `paint` for each pixel that a slab touches, with its coverage (soft edges) and its position in the slab (-1 to 1). */
export function eachPixelOf(
  slab: Slab,
  paint: (pixel: number, coverage: number, along: number, across: number) => void,
): void {
  const reach = slab.halfLength + slab.halfWidth + 1;
  const [cx, cy] = slab.centre;
  const top = Math.max(0, Math.floor(cy - reach));
  const bottom = Math.min(tileSize - 1, Math.ceil(cy + reach));
  const left = Math.max(0, Math.floor(cx - reach));
  const right = Math.min(tileSize - 1, Math.ceil(cx + reach));
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const u = (x - cx) * slab.along[0] + (y - cy) * slab.along[1];
      const v = (y - cy) * slab.along[0] - (x - cx) * slab.along[1];
      const inside = Math.min(slab.halfLength - Math.abs(u), slab.halfWidth - Math.abs(v)) + 0.5;
      if (inside <= 0) continue;
      paint(y * tileSize + x, inside < 1 ? inside : 1, u / slab.halfLength, v / slab.halfWidth);
    }
  }
}
