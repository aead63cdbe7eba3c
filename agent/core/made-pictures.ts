import { normal, xorshift32 } from './random.js';

/**
 * What a made-up picture is of. `cloud`: noise with the spectrum of photographs or whiter; `collage`: flat patches that hide each
 * other, whose edges and areas are distributed like those of photographs (dead leaves); `strokes`: few lines on a plain ground, like
 * writing; `bands`: noise whose level differs from line to line, like spectrograms.
 */
export type PictureKind = 'cloud' | 'collage' | 'strokes' | 'bands';

/** All that a picture is made from; see `drawPicture`. */
export interface PictureRecipe {
  readonly kind: PictureKind;
  readonly seed: number;
  /** Exponent of the power spectrum, 0 (white) to 2.5 (cloudy); of a collage and of strokes, how large they are. */
  readonly smoothness: number;
  /** Share of each channel that is its own: 0 is grey. */
  readonly colour: number;
  /** Per channel, in units of the prior deviation. */
  readonly contrast: readonly number[];
  /** Per channel, in units of the prior deviation from the prior mean; of strokes, the ground. */
  readonly offset: readonly number[];
}

/** Size of a picture. */
export interface PictureSize {
  readonly channels: number;
  readonly height: number;
  readonly width: number;
}

/** A recipe at random. Over many of them pictures have a mean near 0 and a deviation near 1, and spread about as photographs do. */
export function drawRecipe({ channels, height, width }: PictureSize, random: () => number): PictureRecipe {
  const gaussian = normal(random);
  const kind = drawKind(channels, height, width, random);
  const perChannel = (of: () => number) => Array.from({ length: channels }, of);
  const seed = Math.floor(random() * 2 ** 31);
  const smoothness = random() * 2.5;
  const colour = random() ** 2 * 0.7;
  if (kind === 'strokes') {
    // Writing is mostly black on white or white on black; in deviations from the mean, that is about 2 to either side.
    const [ground, ink] = random() < 0.5 ? [-2, 2] : [2, -2];
    const contrast = (ink - ground) * (0.4 + 0.6 * random());
    return { kind, seed, smoothness, colour, contrast: perChannel(() => contrast), offset: perChannel(() => ground) };
  }
  // How loud features are is not known, other than how bright photographs are.
  const contrast = isFeatures({ channels, height, width }) ? 1.4 * Math.exp(-3 * random()) : 0.25 + 1.15 * random();
  const offset = 0.6 * gaussian() * (isFeatures({ channels, height, width }) ? contrast : 1);
  return {
    kind,
    seed,
    smoothness,
    colour,
    contrast: perChannel(() => contrast * (0.8 + 0.4 * random())),
    offset: perChannel(() => offset + 0.3 * colour * gaussian()),
  };
}

/** A recipe near another one. */
export function varyRecipe(recipe: PictureRecipe, random: () => number): PictureRecipe {
  const gaussian = normal(random);
  return {
    ...recipe,
    seed: random() < 0.5 ? recipe.seed : Math.floor(random() * 2 ** 31),
    smoothness: Math.max(0, Math.min(2.5, recipe.smoothness + 0.25 * gaussian())),
    contrast: recipe.contrast.map((value) => value * Math.exp(0.2 * gaussian())),
    offset: recipe.offset.map((value) => value + 0.15 * gaussian()),
  };
}

/** One plane of values for each channel, in deviations from the prior mean. */
export function drawPicture(recipe: PictureRecipe, size: PictureSize): Float32Array[] {
  const share = Math.sqrt(1 - recipe.colour ** 2);
  const common = drawField(recipe, size, 0);
  return recipe.contrast.map((contrast, channel) => {
    const own = recipe.colour > 0 && recipe.kind !== 'strokes' ? drawField(recipe, size, channel + 1) : common;
    const offset = recipe.offset[channel]!;
    const [a, b] = own === common ? [contrast, 0] : [contrast * share, contrast * recipe.colour];
    return common.map((value, i) => offset + a * value + b * own[i]!);
  });
}

/** Whether an input is features of a signal, by time and band, and no image. */
function isFeatures({ channels, height, width }: PictureSize): boolean {
  return channels === 1 && height !== width && Math.min(height, width) >= 4;
}

function drawKind(channels: number, height: number, width: number, random: () => number): PictureKind {
  const choice = random();
  // Vectors and sequences have no shapes in them.
  if (height < 4 || width < 4) return 'cloud';
  if (isFeatures({ channels, height, width })) return choice < 0.5 ? 'bands' : 'cloud';
  if (channels === 1) return choice < 0.3 ? 'strokes' : choice < 0.5 ? 'collage' : 'cloud';
  return choice < 0.5 ? 'cloud' : choice < 0.95 ? 'collage' : 'strokes';
}

/** Shapes lie at the same places in all channels; what is in them depends on the stream. */
function drawField(recipe: PictureRecipe, size: PictureSize, stream: number): Float32Array {
  const content = xorshift32(recipe.seed + 7919 * stream);
  const shapes = xorshift32(recipe.seed ^ 0x5bd1e995);
  switch (recipe.kind) {
    case 'cloud':
      return noiseField(size, recipe.smoothness, content);
    case 'collage':
      return collage(size, recipe.smoothness, shapes, content);
    case 'strokes':
      return strokes(size, shapes);
    case 'bands':
      return bands(size, recipe.smoothness, shapes, content);
  }
}

/** Noise of mean 0 and variance 1: white noise summed over octaves, coarse ones weighted by the smoothness. */
function noiseField({ height, width }: PictureSize, smoothness: number, random: () => number): Float32Array {
  const gaussian = normal(random);
  const field = new Float32Array(height * width);
  for (let cell = 1; cell <= Math.max(1, Math.max(width, height) / 2); cell *= 2) {
    const columns = Math.ceil(width / cell) + 1;
    const grid = Float32Array.from({ length: columns * (Math.ceil(height / cell) + 1) }, gaussian);
    const weight = cell ** (smoothness / 2);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const [gx, gy] = [Math.floor(x / cell), Math.floor(y / cell)];
        const [fx, fy] = [(x % cell) / cell, (y % cell) / cell];
        const at = (dx: number, dy: number) => grid[(gy + dy) * columns + gx + dx]!;
        field[y * width + x]! +=
          weight * ((1 - fy) * ((1 - fx) * at(0, 0) + fx * at(1, 0)) + fy * ((1 - fx) * at(0, 1) + fx * at(1, 1)));
      }
    }
  }
  return standardized(field);
}

/** Discs and rectangles of all sizes, each of one value with a little noise in it, the later ones in front. */
function collage(
  { height, width }: PictureSize,
  smoothness: number,
  shapes: () => number,
  content: () => number,
): Float32Array {
  const gaussian = normal(content);
  const field = new Float32Array(height * width).fill(gaussian());
  const extent = Math.max(height, width);
  const least = 1 + (smoothness / 2.5) * 0.06 * extent;
  for (let count = 40 + Math.floor(80 * shapes()); count > 0; count--) {
    // Areas of all sizes cover as much as each other: sizes are distributed like 1/size^3 between the limits.
    const radius = Math.min(extent / 2, least / Math.sqrt(1 - shapes() * (1 - (2 * least) ** 2 / extent ** 2)));
    const [cx, cy] = [shapes() * width, shapes() * height];
    const isDisc = shapes() < 0.6;
    const aspect = 0.4 + 1.2 * shapes();
    const value = gaussian();
    const grain = 0.3 * content() ** 2;
    for (let y = Math.max(0, Math.ceil(cy - radius)); y < Math.min(height, cy + radius); y++) {
      for (let x = Math.max(0, Math.ceil(cx - radius * aspect)); x < Math.min(width, cx + radius * aspect); x++) {
        if (isDisc && ((x - cx) / aspect) ** 2 + (y - cy) ** 2 > radius ** 2) continue;
        field[y * width + x] = value + (grain > 0.05 ? grain * gaussian() : 0);
      }
    }
  }
  return standardized(field);
}

/** 0 where there is ground, 1 on the lines: smooth curves of one pen. */
function strokes({ height, width }: PictureSize, shapes: () => number): Float32Array {
  const gaussian = normal(shapes);
  const field = new Float32Array(height * width);
  const extent = Math.min(height, width);
  const pen = Math.max(0.6, extent * (0.02 + 0.05 * shapes()));
  for (let count = 1 + Math.floor(4 * shapes()); count > 0; count--) {
    let [x, y] = [width * (0.2 + 0.6 * shapes()), height * (0.2 + 0.6 * shapes())];
    let direction = 2 * Math.PI * shapes();
    const bend = (0.12 * gaussian()) / Math.max(1, extent / 28);
    for (let step = Math.floor(extent * (0.3 + 0.9 * shapes())); step > 0; step--) {
      dab(field, { x, y, pen, height, width });
      x += Math.cos(direction);
      y += Math.sin(direction);
      direction += bend;
      const isOutside = x < pen || y < pen || x > width - pen || y > height - pen;
      if (isOutside) break;
    }
  }
  return field;
}

function dab(
  field: Float32Array,
  { x, y, pen, height, width }: { x: number; y: number; pen: number; height: number; width: number },
): void {
  for (let py = Math.max(0, Math.floor(y - pen - 1)); py <= Math.min(height - 1, y + pen + 1); py++) {
    for (let px = Math.max(0, Math.floor(x - pen - 1)); px <= Math.min(width - 1, x + pen + 1); px++) {
      const cover = Math.max(0, Math.min(1, pen + 0.5 - Math.hypot(px - x, py - y)));
      field[py * width + px] = Math.max(field[py * width + px]!, cover);
    }
  }
}

/** Noise, a level for each line along the shorter axis, and a course of loudness along the longer one. */
function bands(size: PictureSize, smoothness: number, shapes: () => number, content: () => number): Float32Array {
  const { height, width } = size;
  const field = noiseField(size, smoothness, content);
  const isTall = height >= width;
  const [lines, time] = isTall ? [width, height] : [height, width];
  const levelShare = 0.5 + 1.5 * shapes();
  const courseShare = shapes();
  const levels = noiseField({ channels: 1, height: 1, width: lines }, 1, shapes);
  const loudness = noiseField({ channels: 1, height: 1, width: time }, 2, shapes);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [line, moment] = isTall ? [x, y] : [y, x];
      field[y * width + x]! += levelShare * levels[line]! + courseShare * loudness[moment]!;
    }
  }
  return standardized(field);
}

function standardized(field: Float32Array): Float32Array {
  let sum = 0;
  let squares = 0;
  for (const value of field) {
    sum += value;
    squares += value * value;
  }
  const mean = sum / field.length;
  const deviation = Math.sqrt(Math.max(squares / field.length - mean * mean, 1e-12));
  return field.map((value) => (value - mean) / deviation);
}
