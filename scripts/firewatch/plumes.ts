/** What the classes are about, and what can be mistaken for it: smoke, fire, dust, clouds and fog. */

import {
  type Colour,
  cover,
  lighten,
  mix,
  pixelCount,
  type Scene,
  scaled,
  smoothStep,
  tileSize,
  vary,
} from './picture.js';
import type { Vector } from './random.js';

/** How a plume drifts from its source: a bent cone that widens and thins out downwind. All lengths in pixels. */
interface Plume {
  readonly source: Vector;
  readonly wind: Vector;
  readonly startWidth: number;
  readonly spread: number;
  readonly bend: number;
  readonly reach: number;
  readonly density: number;
  /** 0 is a smooth veil, 1 is torn into puffs. */
  readonly turbulence: number;
}

/** Opacity of a plume at each pixel. */
function plumeOpacity(scene: Scene, plume: Plume): Float32Array {
  const { noise, random } = scene;
  const ox = random.between(0, 64);
  const oy = random.between(0, 64);
  const opacity = new Float32Array(pixelCount);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = (pixel % tileSize) - plume.source[0];
    const y = Math.floor(pixel / tileSize) - plume.source[1];
    const u = x * plume.wind[0] + y * plume.wind[1];
    if (u < -plume.startWidth) continue;
    const downwind = Math.max(0, u);
    const width = plume.startWidth + plume.spread * downwind;
    const swirl = noise.fractal(ox + u / 11, oy + x / 16 + y / 19, 2) - 0.5;
    const v = y * plume.wind[0] - x * plume.wind[1] - plume.bend * downwind * downwind + swirl * width * 1.1;
    const across = Math.abs(v) / width;
    if (across >= 1) continue;
    // Puffs grow with the plume, so the noise is sampled in units that widen downwind.
    const puff = noise.fractal(ox + u / (2.5 + 0.3 * width), oy + v / (2 + 0.25 * width), 4);
    const torn = 1 + plume.turbulence * 3.2 * (puff - 0.52);
    const start = smoothStep(-plume.startWidth, plume.startWidth * 0.5, u);
    const fade = 1 - smoothStep(plume.reach * 0.35, plume.reach, u);
    const core = (1 - across * across) * (1 - across * across);
    const depth = Math.max(0, plume.density * core * torn * start * fade);
    opacity[pixel] = Math.min(0.95, (1.15 * depth) / (0.75 + depth));
  }
  return opacity;
}

/** Lays a plume over the picture: shaded by its own thickness towards the sun, over the shadow that it throws. */
function paintPlume(scene: Scene, opacity: Float32Array, colour: Colour, shadowOffset: number): void {
  const { picture, sun } = scene;
  const dx = Math.round(sun[0] * shadowOffset);
  const dy = Math.round(sun[1] * shadowOffset);
  const thickness = (x: number, y: number): number =>
    x < 0 || y < 0 || x >= tileSize || y >= tileSize ? 0 : opacity[y * tileSize + x]!;
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = pixel % tileSize;
    const y = Math.floor(pixel / tileSize);
    const shadow = thickness(x + dx, y + dy);
    if (shadow > 0) lighten(picture, pixel, 1 - 0.3 * shadow);
    const here = opacity[pixel]!;
    if (here <= 0) continue;
    const towardsSun = thickness(Math.round(x + sun[0] * 2), Math.round(y + sun[1] * 2));
    cover(picture, pixel, scaled(colour, 1 + 0.45 * (here - towardsSun)), here);
  }
}

/** Whether a plume of this colour would show: it is large, and changes the ground by more than the ground differs from itself. */
function isVisible(scene: Scene, opacity: Float32Array, colour: Colour): boolean {
  const { green } = scene.picture;
  let area = 0;
  let sum = 0;
  let squares = 0;
  let opacitySum = 0;
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    if (opacity[pixel]! < 0.4) continue;
    area++;
    sum += green[pixel]!;
    squares += green[pixel]! * green[pixel]!;
    opacitySum += opacity[pixel]!;
  }
  if (area < 480 || area > 2400) return false;
  const mean = sum / area;
  const roughness = Math.sqrt(Math.max(0, squares / area - mean * mean));
  return (Math.abs(mean - colour[1]) * opacitySum) / area > 0.18 + 1.3 * roughness;
}

/**
 * Smoke from `source` (chosen when absent), always inside the tile. A plume that would hardly show, because it is thin,
 * leaves the tile at once or has the colour of the ground, is thrown away for another, a dozen times. Returns its opacity, or
 * undefined, nothing painted, where this ground does not let smoke be seen.
 */
export function paintSmoke(scene: Scene, light: number, source?: Vector): Float32Array | undefined {
  const { random } = scene;
  for (let attempt = 0; attempt < 12; attempt++) {
    const plume: Plume = {
      source: source ?? [random.between(12, 52), random.between(12, 52)],
      wind: random.direction(),
      startWidth: random.between(2.4, 5.5),
      spread: random.between(0.2, 0.5),
      bend: random.between(-0.008, 0.008),
      reach: random.between(38, 95),
      density: random.between(1.4, 3.2),
      turbulence: random.between(0.45, 1),
    };
    const opacity = plumeOpacity(scene, plume);
    const grey = random.pick([0.1, 0.6, 0.7, 0.78, 0.85, 0.9, 0.95, 0.97]) * (0.55 + 0.45 * light);
    const warmth = random.between(-0.04, 0.08);
    const colour = vary(random, [grey * (1 + warmth), grey, grey * (1 - warmth)], 0.02);
    if (!isVisible(scene, opacity, colour)) continue;
    paintPlume(scene, opacity, colour, random.between(0, 5));
    return opacity;
  }
  return undefined;
}

/** The dust behind a vehicle: a narrow, straight, earth-coloured veil that starts at the vehicle and follows the track. */
export function paintDust(scene: Scene, source: Vector, along: Vector, light: number): void {
  const { random } = scene;
  const plume: Plume = {
    source,
    wind: along,
    startWidth: random.between(1.2, 2),
    spread: random.between(0.04, 0.13),
    bend: 0,
    reach: random.between(22, 50),
    density: random.between(0.6, 1.6),
    turbulence: random.between(0.15, 0.45),
  };
  const colour = scaled(vary(random, [0.74, 0.63, 0.47], 0.06), 0.55 + 0.45 * light);
  paintPlume(scene, plumeOpacity(scene, plume), colour, 0);
}

/** Clouds below the camera, with their shadows: no source, no direction, mostly cut by the edge of the tile. */
export function paintClouds(scene: Scene, light: number): void {
  const { random, noise } = scene;
  const size = random.between(10, 26);
  const ox = random.between(0, 64);
  const oy = random.between(0, 64);
  const threshold = random.between(0.34, 0.46);
  const softness = random.between(0.2, 0.42);
  const thick = random.between(0.55, 1);
  const opacity = new Float32Array(pixelCount);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = (pixel % tileSize) / size;
    const y = Math.floor(pixel / tileSize) / size;
    opacity[pixel] = thick * smoothStep(threshold, threshold + softness, noise.fractal(ox + x, oy + y, 4));
  }
  const grey = random.between(0.72, 1) * (0.55 + 0.45 * light);
  paintPlume(scene, opacity, vary(random, [grey, grey, grey * 1.02], 0.02), random.between(6, 14));
}

/** The shadow of a cloud that is itself outside the tile. */
export function paintCloudShadow(scene: Scene): void {
  const { random, noise, picture } = scene;
  const size = random.between(20, 40);
  const ox = random.between(0, 64);
  const depth = random.between(0.15, 0.32);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const value = noise.fractal(ox + (pixel % tileSize) / size, Math.floor(pixel / tileSize) / size, 2);
    lighten(picture, pixel, 1 - depth * smoothStep(0.38, 0.68, value));
  }
}

/** Fog or haze over the whole tile, thicker in some places, `strength` at most. */
export function paintFog(scene: Scene, strength: number, light: number): void {
  const { random, noise, picture } = scene;
  const ox = random.between(0, 64);
  const size = random.between(30, 60);
  const grey = random.between(0.6, 0.85) * (0.55 + 0.45 * light);
  const colour: Colour = [grey * random.between(0.95, 1.05), grey, grey * random.between(0.98, 1.08)];
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const value = noise.fractal(ox + (pixel % tileSize) / size, Math.floor(pixel / tileSize) / size, 2);
    cover(picture, pixel, colour, strength * (0.55 + 0.9 * (value - 0.5)));
  }
}

/** Colour of flame by heat: dark red, orange, yellow, almost white. */
function flameColour(heat: number): Colour {
  return [
    0.45 + 0.65 * smoothStep(0.05, 0.4, heat),
    0.08 + 0.9 * smoothStep(0.2, 0.9, heat),
    0.03 + 0.75 * smoothStep(0.65, 1.15, heat),
  ];
}

interface Lobe {
  readonly x: number;
  readonly y: number;
  readonly radius: number;
}

/** Where it burns: a cluster of spots, or a front along a bent line. */
function placeLobes(scene: Scene): Lobe[] {
  const { random } = scene;
  const cx = random.between(13, 51);
  const cy = random.between(13, 51);
  if (random.chance(0.5)) {
    const count = 3 + random.integer(6);
    const scatter = random.between(2.5, 6);
    return Array.from({ length: count }, () => ({
      x: cx + scatter * random.normal(),
      y: cy + scatter * random.normal(),
      radius: random.between(2.2, 5.5),
    }));
  }
  const [dx, dy] = random.direction();
  const length = random.between(14, 38);
  const bend = random.between(-0.02, 0.02);
  const count = Math.ceil(length / 2.5);
  const radius = random.between(2, 3.6);
  return Array.from({ length: count }, (_, i) => {
    const u = (i / (count - 1) - 0.5) * length;
    const v = bend * u * u + random.normal() * 0.8;
    return { x: cx + u * dx - v * dy, y: cy + u * dy + v * dx, radius: radius * random.between(0.6, 1.4) };
  });
}

/** Heat at each pixel: 0 is cold, around 1 is the core of a flame. */
function heatOf(scene: Scene, lobes: readonly Lobe[]): Float32Array {
  const { random, noise } = scene;
  const ox = random.between(0, 64);
  const oy = random.between(0, 64);
  const strength = random.between(1.4, 2.1);
  const canopy = random.chance(0.35) ? random.between(0.5, 0.62) : 2;
  const heat = new Float32Array(pixelCount);
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const x = (pixel % tileSize) + 5 * (noise.at(ox + (pixel % tileSize) / 3, oy + pixel / (3 * tileSize)) - 0.5);
    const y =
      Math.floor(pixel / tileSize) + 5 * (noise.at(oy + (pixel % tileSize) / 3, ox + pixel / (3 * tileSize)) - 0.5);
    let nearest = 0;
    for (const lobe of lobes) {
      const square = ((x - lobe.x) * (x - lobe.x) + (y - lobe.y) * (y - lobe.y)) / (lobe.radius * lobe.radius);
      if (1 - square > nearest) nearest = 1 - square;
    }
    if (nearest <= 0) continue;
    const flicker = noise.fractal(ox + x / 2.6, oy + y / 2.6, 2);
    const leaves = smoothStep(canopy, canopy + 0.06, noise.fractal(oy + x / 3.5, ox + y / 3.5, 2));
    heat[pixel] = nearest * strength * Math.max(0, flicker * 1.7 - 0.3) * (1 - 0.92 * leaves);
  }
  return heat;
}

/** Fire with its glow and often the ground it has burnt; `smokes` adds a plume from one of its spots. Always big enough to see. */
export function paintFire(scene: Scene, light: number, smokes: boolean): void {
  const { random, noise, picture } = scene;
  let lobes = placeLobes(scene);
  let heat = heatOf(scene, lobes);
  while (heat.reduce((count, value) => count + (value > 0.45 ? 1 : 0), 0) < 45) {
    lobes = placeLobes(scene);
    heat = heatOf(scene, lobes);
  }
  const burnt = random.chance(0.5) ? random.between(0.3, 0.7) : 0;
  const glow = random.between(0.08, 0.3);
  const [bx, by] = random.direction();
  const around = (x: number, y: number, scale: number): number => {
    let sum = 0;
    for (const lobe of lobes) {
      const square = lobe.radius * lobe.radius * scale;
      sum += square / (square + (x - lobe.x) * (x - lobe.x) + (y - lobe.y) * (y - lobe.y));
    }
    return sum / (1 + sum);
  };
  if (burnt > 0) {
    for (let pixel = 0; pixel < pixelCount; pixel++) {
      const x = pixel % tileSize;
      const y = Math.floor(pixel / tileSize);
      const near = around(x + bx * 4, y + by * 4, 2) + 0.5 * (noise.fractal(x / 5, y / 5, 3) - 0.5);
      lighten(picture, pixel, 1 - burnt * smoothStep(0.55, 0.75, near));
    }
  }
  const hearth = random.pick(lobes);
  const source: Vector = [Math.min(58, Math.max(5, hearth.x)), Math.min(58, Math.max(5, hearth.y))];
  const smoke = smokes ? paintSmoke(scene, light, source) : undefined;
  for (let pixel = 0; pixel < pixelCount; pixel++) {
    const near = glow * around(pixel % tileSize, Math.floor(pixel / tileSize), 1);
    cover(picture, pixel, mix([1, 0.5, 0.12], [1, 0.62, 0.25], light), near);
    const value = heat[pixel]!;
    if (value <= 0) continue;
    const veil = smoke === undefined ? 0 : 0.45 * smoke[pixel]!;
    cover(picture, pixel, flameColour(value), smoothStep(0.1, 0.38, value) * (1 - veil));
  }
}
