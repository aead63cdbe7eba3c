/** What lies on the ground: forest, fields, soil, towns, water, rock and snow, and the things people leave there. */

import {
  type Colour,
  cover,
  eachPixelOf,
  lighten,
  mix,
  newPicture,
  pixelCount,
  type Scene,
  type Slab,
  scaled,
  smoothStep,
  tileSize,
  vary,
} from './picture.js';
import type { Vector } from './random.js';

const leafGreens: readonly Colour[] = [
  [0.14, 0.24, 0.1],
  [0.2, 0.31, 0.13],
  [0.26, 0.35, 0.17],
  [0.17, 0.25, 0.16],
];
const autumnLeaves: readonly Colour[] = [
  [0.92, 0.52, 0.1],
  [0.8, 0.27, 0.09],
  [0.95, 0.75, 0.2],
  [0.6, 0.35, 0.12],
];
const crops: readonly Colour[] = [
  [0.3, 0.45, 0.18],
  [0.62, 0.56, 0.34],
  [0.85, 0.76, 0.22],
  [0.45, 0.5, 0.24],
  [0.9, 0.52, 0.16],
  [0.55, 0.62, 0.36],
];
const soils: readonly Colour[] = [
  [0.5, 0.39, 0.27],
  [0.36, 0.28, 0.21],
  [0.64, 0.55, 0.42],
  [0.62, 0.36, 0.22],
  [0.46, 0.43, 0.38],
];
const waters: readonly Colour[] = [
  [0.08, 0.17, 0.24],
  [0.12, 0.22, 0.2],
  [0.2, 0.3, 0.36],
];
const roofs: readonly Colour[] = [
  [0.74, 0.33, 0.18],
  [0.86, 0.45, 0.2],
  [0.6, 0.24, 0.18],
  [0.5, 0.5, 0.52],
  [0.82, 0.82, 0.8],
  [0.38, 0.34, 0.32],
  [0.3, 0.42, 0.55],
];
const pavings: readonly Colour[] = [
  [0.45, 0.45, 0.45],
  [0.6, 0.58, 0.55],
  [0.36, 0.42, 0.28],
];
const rocks: readonly Colour[] = [
  [0.42, 0.4, 0.39],
  [0.5, 0.45, 0.4],
  [0.33, 0.33, 0.36],
];
const paints: readonly Colour[] = [
  [0.95, 0.45, 0.08],
  [1, 0.72, 0.12],
  [0.9, 0.2, 0.08],
  [0.98, 0.6, 0.15],
  [0.2, 0.4, 0.75],
  [0.95, 0.95, 0.95],
];

type Painter = (scene: Scene) => void;

/** Fills the picture with two colours mixed by noise of the given feature size in pixels. */
function paintMottled(scene: Scene, first: Colour, second: Colour, featureSize: number): void {
  const { picture, noise, random } = scene;
  const ox = random.between(0, 64);
  const oy = random.between(0, 64);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = pixel % tileSize;
    const y = Math.floor(pixel / tileSize);
    const share = noise.fractal(ox + x / featureSize, oy + y / featureSize, 4);
    cover(picture, pixel, mix(first, second, smoothStep(0.25, 0.75, share)), 1);
  }
}

/** One crown: a ball lit by the sun, with the shadow it throws. */
function paintCrown(scene: Scene, cx: number, cy: number, radius: number, colour: Colour): void {
  const { picture, noise, sun } = scene;
  for (const shadow of [true, false]) {
    const x0 = shadow ? cx - sun[0] * radius * 0.8 : cx;
    const y0 = shadow ? cy - sun[1] * radius * 0.8 : cy;
    const bottom = Math.min(tileSize - 1, Math.ceil(y0 + radius));
    for (let y = Math.max(0, Math.floor(y0 - radius)); y <= bottom; y++) {
      const right = Math.min(tileSize - 1, Math.ceil(x0 + radius));
      for (let x = Math.max(0, Math.floor(x0 - radius)); x <= right; x++) {
        const dx = (x - x0) / radius;
        const dy = (y - y0) / radius;
        const height = 1 - dx * dx - dy * dy;
        if (height <= 0) continue;
        const pixel = y * tileSize + x;
        if (shadow) {
          lighten(picture, pixel, 0.7);
        } else {
          const light = 0.62 + 0.35 * height + 0.35 * (dx * sun[0] + dy * sun[1]) + 0.5 * (noise.at(x, y) - 0.5);
          cover(picture, pixel, scaled(colour, light), Math.min(1, height * 4));
        }
      }
    }
  }
}

const paintForest: Painter = (scene) => {
  const { random } = scene;
  const green = random.pick(leafGreens);
  paintMottled(scene, scaled(green, 0.45), scaled(green, 0.8), 9);
  const autumnShare = random.chance(0.3) ? random.between(0.15, 0.9) : 0;
  const spacing = random.between(3.2, 6.5);
  const density = random.between(0.55, 1);
  for (let y = -2; y < tileSize + 2; y += spacing) {
    for (let x = -2; x < tileSize + 2; x += spacing) {
      if (!random.chance(density)) continue;
      const base = random.chance(autumnShare) ? random.pick(autumnLeaves) : green;
      const radius = spacing * random.between(0.45, 0.85);
      const dx = spacing * random.between(-0.5, 0.5);
      const dy = spacing * random.between(-0.5, 0.5);
      paintCrown(scene, x + dx, y + dy, radius, vary(random, base, 0.14));
    }
  }
};

const paintField: Painter = (scene) => {
  const { random, noise, picture } = scene;
  const colour = vary(random, random.pick(crops), 0.1);
  paintMottled(scene, scaled(colour, 0.85), scaled(colour, 1.12), random.between(6, 20));
  const [dx, dy] = random.direction();
  const period = random.between(2.4, 7);
  const depth = random.between(0, 0.3);
  const ox = random.between(0, 64);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = pixel % tileSize;
    const y = Math.floor(pixel / tileSize);
    const phase = (x * dx + y * dy) / period + noise.at(ox + x / 12, y / 12) * 0.6;
    const furrow = Math.abs((phase - Math.floor(phase)) * 2 - 1);
    lighten(picture, pixel, 1 + depth * (furrow - 0.5) + 0.16 * (noise.at(ox + x * 0.9, y * 0.9) - 0.5));
  }
};

const paintSoil: Painter = (scene) => {
  const { random } = scene;
  const colour = vary(random, random.pick(soils), 0.08);
  paintMottled(scene, scaled(colour, 0.75), scaled(colour, 1.2), random.between(4, 16));
  const bushes = random.integer(30);
  for (let i = 0; i < bushes; i++) {
    const green = vary(random, random.pick(leafGreens), 0.15);
    paintCrown(scene, random.between(0, 64), random.between(0, 64), random.between(1, 3), green);
  }
};

const paintWater: Painter = (scene) => {
  const { random, noise, picture } = scene;
  const colour = vary(random, random.pick(waters), 0.12);
  const [dx, dy] = random.direction();
  const glint = random.chance(0.55) ? random.between(0.8, 2.5) : 0;
  const warm = random.between(0, 1);
  const glintColour: Colour = [1.1, 1.02 - 0.32 * warm, 0.95 - 0.7 * warm];
  const gx = random.between(8, 56);
  const gy = random.between(8, 56);
  const reach = random.between(10, 30);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = pixel % tileSize;
    const y = Math.floor(pixel / tileSize);
    const u = x * dx + y * dy;
    const v = y * dx - x * dy;
    const ripple = noise.fractal(u / 6, v / 2.2, 3);
    cover(picture, pixel, scaled(colour, 0.7 + 0.6 * ripple), 1);
    const distance = ((x - gx) * (x - gx) + (y - gy) * (y - gy)) / (reach * reach);
    if (glint > 0 && distance < 1) {
      const spark = smoothStep(0.56, 0.8, noise.fractal(u / 2.4 + 31, v / 1.2, 2)) * (1 - distance) * glint;
      cover(picture, pixel, glintColour, Math.min(1, spark));
    }
  }
};

/** A house, tent or shed: two roof planes of unlike brightness, and its shadow. */
function paintRoof(scene: Scene, slab: Slab, colour: Colour, heightPixels: number): void {
  const { picture, sun, noise } = scene;
  const [cx, cy] = slab.centre;
  const shadow = { ...slab, centre: [cx - sun[0] * heightPixels, cy - sun[1] * heightPixels] as const };
  eachPixelOf(shadow, (pixel, coverage) => lighten(picture, pixel, 1 - 0.5 * coverage));
  const facing = slab.along[0] * sun[1] - slab.along[1] * sun[0];
  eachPixelOf(slab, (pixel, coverage, _along, across) => {
    const light = 0.95 + (across > 0 ? 0.25 : -0.25) * facing + 0.12 * (noise.at(pixel * 0.37, pixel * 0.11) - 0.5);
    cover(picture, pixel, scaled(colour, light), coverage);
  });
}

const paintTown: Painter = (scene) => {
  const { random } = scene;
  const ground = vary(random, random.pick(pavings), 0.1);
  paintMottled(scene, scaled(ground, 0.85), scaled(ground, 1.1), 7);
  const along = random.direction();
  const pitch = random.between(12, 22);
  const favourite = random.pick(roofs);
  for (let row = -4; row <= 4; row++) {
    for (let column = -4; column <= 4; column++) {
      const u = column * pitch + random.between(-1, 1);
      const v = row * pitch * 0.8 + random.between(-1, 1);
      const centre: Vector = [32 + u * along[0] - v * along[1], 32 + u * along[1] + v * along[0]];
      if (random.chance(0.2)) {
        paintCrown(scene, centre[0], centre[1], random.between(2, 4), vary(random, random.pick(leafGreens), 0.12));
        continue;
      }
      const halfLength = pitch * random.between(0.25, 0.42);
      const halfWidth = pitch * random.between(0.18, 0.3);
      const colour = vary(random, random.chance(0.6) ? favourite : random.pick(roofs), 0.08);
      paintRoof(scene, { centre, along, halfLength, halfWidth }, colour, random.between(1, 3));
    }
  }
};

const paintRock: Painter = (scene) => {
  const { random, noise, picture, sun } = scene;
  const rock = vary(random, random.pick(rocks), 0.1);
  const snowLine = random.between(0.3, 0.75);
  const size = random.between(14, 28);
  const ox = random.between(0, 64);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = ox + (pixel % tileSize) / size;
    const y = Math.floor(pixel / tileSize) / size;
    const height = noise.fractal(x, y, 4);
    const slope = (noise.fractal(x + sun[0] * 0.12, y + sun[1] * 0.12, 4) - height) * 2.2;
    const snow = smoothStep(snowLine - 0.09, snowLine + 0.09, height);
    cover(picture, pixel, scaled(mix(rock, [0.92, 0.94, 0.98], snow), 0.95 - slope), 1);
  }
};

const grounds: readonly Painter[] = [
  paintForest,
  paintForest,
  paintField,
  paintField,
  paintSoil,
  paintTown,
  paintWater,
  paintRock,
];

/** Paints the ground: one kind of land, or two that meet along a ragged border. */
export function paintGround(scene: Scene): void {
  const { random, noise, picture } = scene;
  random.pick(grounds)(scene);
  if (!random.chance(0.4)) return;
  const other = { ...scene, picture: newPicture() };
  random.pick(grounds)(other);
  const [dx, dy] = random.direction();
  const ragged = random.between(1, 14);
  const offset = random.between(-14, 14);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = (pixel % tileSize) - 32;
    const y = Math.floor(pixel / tileSize) - 32;
    const side = x * dx + y * dy + offset + (noise.fractal(x / 11, y / 11, 3) - 0.5) * 2 * ragged;
    const { red, green, blue } = other.picture;
    cover(picture, pixel, [red[pixel]!, green[pixel]!, blue[pixel]!], smoothStep(-1, 1, side));
  }
}

/** A straight or slightly bent road or track across the tile; returns a point on it and its direction. */
export function paintRoad(scene: Scene): { point: Vector; along: Vector } {
  const { random, noise, picture } = scene;
  const along = random.direction();
  const point: Vector = [random.between(16, 48), random.between(16, 48)];
  const halfWidth = random.between(1.1, 3);
  const bend = random.between(-0.006, 0.006);
  const colour = vary(random, random.chance(0.5) ? [0.48, 0.48, 0.49] : [0.66, 0.58, 0.45], 0.1);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = (pixel % tileSize) - point[0];
    const y = Math.floor(pixel / tileSize) - point[1];
    const u = x * along[0] + y * along[1];
    const v = y * along[0] - x * along[1] + bend * u * u;
    const coverage = smoothStep(halfWidth + 0.6, halfWidth - 0.6, Math.abs(v));
    if (coverage > 0) cover(picture, pixel, scaled(colour, 0.92 + 0.16 * noise.at(x * 0.7, y * 0.7)), coverage * 0.95);
  }
  return { point, along };
}

export function paintVehicle(scene: Scene, centre: Vector, along: Vector): void {
  const halfLength = scene.random.between(1.6, 2.8);
  const colour = vary(scene.random, scene.random.pick([...paints, [0.15, 0.15, 0.17]] as const), 0.05);
  paintRoof(scene, { centre, along, halfLength, halfWidth: halfLength * 0.5 }, colour, 1);
}

/** A camp of bright tents or tarpaulins: flame-coloured, but with straight edges and flat planes. */
export function paintTents(scene: Scene): void {
  const { random } = scene;
  const cx = random.between(14, 50);
  const cy = random.between(14, 50);
  const favourite = random.pick(paints);
  const count = 2 + random.integer(6);
  for (let i = 0; i < count; i++) {
    const centre: Vector = [cx + 9 * random.normal(), cy + 9 * random.normal()];
    const halfLength = random.between(1.8, 5.5);
    const colour = vary(random, random.chance(0.6) ? favourite : random.pick(paints), 0.06);
    const slab = { centre, along: random.direction(), halfLength, halfWidth: halfLength * random.between(0.45, 0.9) };
    paintRoof(scene, slab, colour, 1.2);
  }
}

/** A few trees in full autumn colour on whatever ground there is. */
export function paintAutumnTrees(scene: Scene): void {
  const { random } = scene;
  const cx = random.between(12, 52);
  const cy = random.between(12, 52);
  const favourite = random.pick(autumnLeaves);
  const count = 3 + random.integer(10);
  for (let i = 0; i < count; i++) {
    const colour = vary(random, random.chance(0.7) ? favourite : random.pick(autumnLeaves), 0.12);
    const x = cx + 8 * random.normal();
    const y = cy + 8 * random.normal();
    paintCrown(scene, x, y, random.between(1.8, 4.5), scaled(colour, random.between(0.9, 1.25)));
  }
}
