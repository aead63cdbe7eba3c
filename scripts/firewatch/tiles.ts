/**
 * An endless supply of small aerial-looking pictures with known labels. A tile is a function of its seed alone, to the bit, on
 * every machine. Distractors (autumn trees, tents, roofs, glint; clouds, fog, dust) appear in all classes, so that neither the
 * mean colour nor the colour histogram gives the class away.
 */

import { type Colour, newPicture, type Picture, pixelCount, type Scene, tileSize } from './picture.js';
import { paintCloudShadow, paintClouds, paintDust, paintFire, paintFog, paintSmoke } from './plumes.js';
import { Noise, Random, type Vector } from './random.js';
import { paintAutumnTrees, paintGround, paintRoad, paintTents, paintVehicle } from './scenery.js';

export { tileSize } from './picture.js';

/** Names by label. */
export const classNames = ['neither', 'smoke', 'fire'] as const;

/** First seed of each use. Ranges are a quarter of a billion seeds apart, so that no use sees the tiles of another. */
export const seedRanges = {
  training: 0,
  validation: 0x10000000,
  calibrationSamples: 0x20000000,
  testSamples: 0x30000000,
  tests: 0x40000000,
} as const;

export interface Tile {
  /** 64 x 64 x 3, row by row, red green blue. */
  readonly pixels: Uint8Array;
  /** Index into `classNames`; fire with smoke is fire. */
  readonly label: number;
}

/** The tile of a seed (a non-negative integer below 2^32). Its label is the seed modulo 3, so any run of seeds is balanced. */
export function makeTile(seed: number): Tile {
  const random = new Random(seed);
  const label = seed % classNames.length;
  const noise = new Noise(random);
  const light = random.chance(0.2) ? random.between(0.4, 0.7) : random.between(0.75, 1.1);
  let scene: Scene;
  let isShown: boolean;
  do {
    scene = { picture: newPicture(), random, noise, sun: random.direction() };
    paintGround(scene);
    paintDistractors(scene, label, light);
    applyDaylight(scene.picture, random, light);
    if (random.chance(label === 0 ? 0.4 : 0.04)) paintClouds(scene, light);
    isShown = label !== 1 || paintSmoke(scene, light) !== undefined;
  } while (!isShown);
  if (label === 2) paintFire(scene, light, random.chance(0.6));
  if (random.chance(label === 0 ? 0.3 : 0.1)) paintFog(scene, random.between(0.1, label === 0 ? 0.65 : 0.22), light);
  return { pixels: develop(scene.picture, random), label };
}

/** Things of everyday life that share their colours with fire and smoke. */
function paintDistractors(scene: Scene, label: number, light: number): void {
  const { random } = scene;
  if (random.chance(0.35) || label === 0) {
    const road = random.chance(label === 0 ? 0.5 : 1) ? paintRoad(scene) : undefined;
    if (road !== undefined && random.chance(0.6)) {
      const tail: Vector = [-road.along[0], -road.along[1]];
      if (random.chance(0.6)) paintDust(scene, road.point, tail, light);
      paintVehicle(scene, road.point, road.along);
    }
  }
  const warm = label === 2 ? 0.12 : 0.3;
  if (random.chance(warm)) paintTents(scene);
  if (random.chance(warm)) paintAutumnTrees(scene);
  if (random.chance(0.15)) paintCloudShadow(scene);
}

/** The light of the hour: low sun is dim and warm. Flames and what they light are painted after this. */
function applyDaylight(picture: Picture, random: Random, light: number): void {
  const warmth = (1.1 - light) * random.between(-0.1, 0.4);
  const tint: Colour = [light * (1 + warmth), light, light * (1 - warmth)];
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    picture.red[pixel]! *= tint[0];
    picture.green[pixel]! *= tint[1];
    picture.blue[pixel]! *= tint[2];
  }
}

/** The camera: blur, vignetting, exposure, white balance, contrast, sensor noise, eight bits. */
function develop(picture: Picture, random: Random): Uint8Array {
  const pixels = new Uint8Array(pixelCount * 3);
  const blur = random.chance(0.5) ? random.between(0, 0.16) : 0;
  const vignette = random.between(0, 0.25);
  const exposure = random.between(0.85, 1.18);
  const balance = random.between(-0.09, 0.09);
  const contrast = random.between(-0.3, 0.2);
  const noise = random.between(0.003, 0.022);
  [picture.red, picture.green, picture.blue].forEach((plane, channel) => {
    const gain = exposure * (1 + (channel === 0 ? balance : channel === 2 ? -balance : 0));
    for (let pixel = 0; pixel < pixelCount; pixel++) {
      const x = pixel % tileSize;
      const y = Math.floor(pixel / tileSize);
      const left = plane[x > 0 ? pixel - 1 : pixel]!;
      const right = plane[x < tileSize - 1 ? pixel + 1 : pixel]!;
      const up = plane[y > 0 ? pixel - tileSize : pixel]!;
      const down = plane[y < tileSize - 1 ? pixel + tileSize : pixel]!;
      const sharp = plane[pixel]! * (1 - 4 * blur) + blur * (left + right + up + down);
      const distance = ((x - 31.5) * (x - 31.5) + (y - 31.5) * (y - 31.5)) / 1984.5;
      let value = sharp * gain * (1 - vignette * distance);
      value = value < 0 ? 0 : value > 1 ? 1 : value;
      value += contrast * value * (1 - value) * (2 * value - 1) * 2;
      value += noise * (random.uniform() + random.uniform() - 1) * 2.4;
      pixels[pixel * 3 + channel] = Math.floor(255 * (value < 0 ? 0 : value > 1 ? 1 : value) + 0.5);
    }
  });
  return pixels;
}
