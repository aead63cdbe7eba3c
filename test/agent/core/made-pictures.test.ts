/** Made-up pictures: what all of them have in common, and what each kind is like. */
import t from 'tap';
import { drawPicture, drawRecipe, type PictureKind, varyRecipe } from '../../../agent/core/made-pictures.js';
import { xorshift32 } from '../../../agent/core/random.js';
import { announceSeed } from '../../support/seed.js';

const seed = announceSeed();
const square = { channels: 3, height: 24, width: 24 };
const narrow = { channels: 1, height: 49, width: 10 };

const moments = (values: Iterable<number>) => {
  const list = [...values];
  const mean = list.reduce((a, b) => a + b, 0) / list.length;
  return { mean, deviation: Math.sqrt(list.reduce((sum, value) => sum + (value - mean) ** 2, 0) / list.length) };
};

/** Pictures of one kind. */
function picturesOf(kind: PictureKind, size: typeof square, count: number): Float32Array[][] {
  const random = xorshift32(seed);
  const pictures: Float32Array[][] = [];
  while (pictures.length < count) {
    const recipe = drawRecipe(size, random);
    if (recipe.kind === kind) pictures.push(drawPicture(recipe, size));
  }
  return pictures;
}

t.test('the same recipe gives the same picture, after JSON too; a variation gives another', async (t) => {
  const random = xorshift32(seed);
  for (const size of [square, narrow, { channels: 1, height: 1, width: 40 }, { channels: 5, height: 7, width: 3 }]) {
    for (let i = 0; i < 40; i++) {
      const recipe = drawRecipe(size, random);
      const planes = drawPicture(recipe, size);
      t.equal(planes.length, size.channels);
      t.ok(planes.every((plane) => plane.length === size.height * size.width && plane.every(Number.isFinite)));
      t.equal(drawPicture(JSON.parse(JSON.stringify(recipe)), size).join(), planes.join());
      t.not(drawPicture(varyRecipe(recipe, random), size).join(), planes.join());
    }
  }
});

t.test('over many pictures the mean is near 0 and the deviation about 1, and pictures differ in both', async (t) => {
  for (const size of [square, narrow]) {
    const random = xorshift32(seed);
    const pictures = Array.from({ length: 300 }, () => drawPicture(drawRecipe(size, random), size));
    const all = moments(pictures.flatMap((planes) => planes.flatMap((plane) => [...plane])));
    t.ok(Math.abs(all.mean) < 0.4 && all.deviation > 0.5 && all.deviation < 1.6, `${all.mean} +- ${all.deviation}`);
    const own = pictures.map(([plane]) => moments(plane!));
    t.ok(moments(own.map(({ mean }) => mean)).deviation > 0.3);
    t.ok(moments(own.map(({ deviation }) => deviation)).deviation > 0.2);
  }
});

t.test(
  'images have clouds and collages, narrow single channels have bands, and vectors have noise alone',
  async (t) => {
    const kinds = (size: typeof square) => {
      const random = xorshift32(seed);
      return new Set(Array.from({ length: 200 }, () => drawRecipe(size, random).kind));
    };
    t.strictSame(kinds(square), new Set(['cloud', 'collage', 'strokes']));
    t.strictSame(kinds(narrow), new Set(['cloud', 'bands']));
    t.strictSame(kinds({ channels: 1, height: 1, width: 40 }), new Set(['cloud']));
  },
);

t.test(
  'neighbours are alike in a collage, strokes are few on a plain ground, lines of bands have levels',
  async (t) => {
    const flat = picturesOf('collage', square, 30).map(([plane]) => {
      const steps = [...plane!].filter((value, i) => i % 24 > 0 && Math.abs(value - plane![i - 1]!) < 1e-6).length;
      return steps / (24 * 23);
    });
    t.ok(moments(flat).mean > 0.03, `${moments(flat).mean} of neighbours are equal`);
    const ground = picturesOf('strokes', square, 30).map(
      ([plane]) => plane!.filter((value) => Math.abs(value) === 2).length / plane!.length,
    );
    t.ok(moments(ground).mean > 0.5, `${moments(ground).mean} is ground`);
    const levels = picturesOf('bands', narrow, 30).map(([plane]) => {
      const lines = Array.from({ length: 10 }, (_, x) => moments([...plane!].filter((_, i) => i % 10 === x)).mean);
      return moments(lines).deviation / moments(plane!).deviation;
    });
    t.ok(moments(levels).mean > 0.3, `${moments(levels).mean} of the deviation is between lines`);
  },
);
