import t from 'tap';
import type { Region } from '../../../../agent/core/plan/patch-geometry.js';
import {
  classifyPatches,
  deviationsOf,
  Moments,
  outlierLimits,
  PatchVotes,
} from '../../../../agent/core/plan/value-classes.js';
import { unsignedAffine } from '../../../../agent/core/quant/affine.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();

t.test('shares of a Gaussian are those of the tables, and of drawn values', (t) => {
  const table = [
    [0.5, 0.67448975],
    [0.6826894921, 1],
    [0.9, 1.64485363],
    [0.95, 1.95996398],
    [0.96, 2.05374891],
    [0.9544997361, 2],
    [0.9973002039, 3],
    [0.9999994266968563, 5],
  ] as const;
  for (const [share, deviations] of table) t.ok(Math.abs(deviationsOf(share) - deviations) < 1e-6, `${share}`);
  const random = new Random(seed);
  const drawn = Array.from({ length: 40000 }, () => Math.abs(random.normal()));
  for (const share of [0.5, 0.9, 0.96]) {
    const inside = drawn.filter((value) => value <= deviationsOf(share)).length / drawn.length;
    // Five standard errors.
    t.ok(Math.abs(inside - share) < 5 * Math.sqrt((share * (1 - share)) / drawn.length), `${share}: ${inside}`);
  }
  for (const share of [0, 1, -1, Number.NaN]) t.throws(() => deviationsOf(share), RangeError);
  t.end();
});

t.test('moments are those of all values, however they come', (t) => {
  const random = new Random(seed);
  for (let n = 0; n < 20; n++) {
    const offset = 1000 * random.normal();
    const parts = Array.from({ length: 1 + random.below(5) }, () => random.floats(1 + random.below(200), 2, offset));
    const moments = new Moments();
    for (const part of parts) moments.add(part);
    moments.add(Float32Array.of(Number.NaN, Number.POSITIVE_INFINITY));
    const all = parts.flatMap((part) => [...part]);
    const mean = all.reduce((a, b) => a + b, 0) / all.length;
    const deviation = Math.sqrt(all.reduce((sum, value) => sum + (value - mean) ** 2, 0) / all.length);
    const fitted = moments.fit();
    t.ok(Math.abs(fitted.mean - mean) < 1e-9 * Math.abs(offset) + 1e-9);
    t.ok(Math.abs(fitted.deviation - deviation) < 1e-9 * Math.abs(offset) + 1e-9);
  }
  t.same(new Moments().fit(), { mean: 0, deviation: 0 });
  t.end();
});

t.test('codes within the limits are those whose values are near enough to the mean', (t) => {
  const random = new Random(seed);
  let [all, some, none] = [0, 0, 0];
  for (let n = 0; n < 300; n++) {
    const grid = unsignedAffine({ minimum: -4 * random.next(), maximum: 4 * random.next() }, random.pick([2, 4, 8]));
    const gaussian = { mean: 2 * random.normal(), deviation: random.pick([0.1, 0.5, 2, 5]) * (0.5 + random.next()) };
    const share = 0.05 + 0.94 * random.next();
    const { low, high } = outlierLimits(gaussian, share, grid);
    const reach = deviationsOf(share) * gaussian.deviation;
    let outliers = 0;
    for (let code = 0; code <= grid.codeMaximum; code++) {
      const distance = Math.abs((code - grid.zeroPoint) * grid.scale - gaussian.mean);
      if (Math.abs(distance - reach) < 1e-9) continue;
      const isOutlier = code < low || code > high;
      if (isOutlier) outliers++;
      if (isOutlier !== distance > reach) t.fail(`seed ${seed}, case ${n}, code ${code}`);
    }
    t.ok(low >= 0 && low <= 255 && high >= 0 && high <= 255, 'limits are codes');
    if (outliers === 0) none++;
    else if (outliers === grid.codeMaximum + 1) all++;
    else some++;
  }
  t.ok(all > 5 && some > 5 && none > 5, `${all} ${some} ${none}`);
  t.end();
});

t.test('a patch is an outlier patch where a pixel of its window is beyond the limits', (t) => {
  const random = new Random(seed);
  for (let n = 0; n < 100; n++) {
    const [channels, rows, columns] = [1 + random.below(3), 2 + random.below(9), 2 + random.below(9)];
    const codes = Uint8Array.from({ length: channels * rows * columns }, () => 100 + random.below(56));
    for (let k = random.below(4); k > 0; k--) codes[random.below(codes.length)] = random.pick([0, 99, 160, 255]);
    const span = (size: number) => {
      const first = random.below(size);
      return { first, end: first + 1 + random.below(size - first) };
    };
    const windows: Region[] = Array.from({ length: 5 }, () => ({ rows: span(rows), columns: span(columns) }));
    const expected = windows.map((window) => {
      let isOutlier = false;
      codes.forEach((code, at) => {
        const [row, column] = [Math.floor(at / columns) % rows, at % columns];
        const isInside =
          row >= window.rows.first &&
          row < window.rows.end &&
          column >= window.columns.first &&
          column < window.columns.end;
        if (isInside && (code < 100 || code > 155)) isOutlier = true;
      });
      return isOutlier;
    });
    t.same(classifyPatches({ codes, channels, rows, columns }, windows, { low: 100, high: 155 }), expected);
  }
  t.end();
});

t.test('what is at the mean is no outlier, what is three deviations away is one', (t) => {
  const grid = unsignedAffine({ minimum: -4, maximum: 4 }, 8);
  const limits = outlierLimits({ mean: 0, deviation: 1 }, 0.96, grid);
  const image = { channels: 1, rows: 2, columns: 2, codes: new Uint8Array(4).fill(grid.zeroPoint) };
  const window = { rows: { first: 0, end: 2 }, columns: { first: 0, end: 2 } };
  t.same(classifyPatches(image, [window], limits), [false]);
  image.codes[3] = grid.zeroPoint + Math.round(3 / grid.scale);
  t.same(classifyPatches(image, [window], limits), [true]);
  t.end();
});

t.test('positions are of the class that most samples had there', (t) => {
  const votes = new PatchVotes(3);
  t.same(votes.shares, [0, 0, 0]);
  votes.add([true, false, true]);
  votes.add([true, false, false]);
  votes.add([true, false, true]);
  t.same(votes.shares, [1, 0, 2 / 3]);
  t.same(votes.majority, [true, false, true]);
  t.end();
});
