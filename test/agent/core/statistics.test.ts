import fc from 'fast-check';
import t from 'tap';
import { normal, seedOf, xorshift32 } from '../../../agent/core/random.js';
import { kendall, median, minimum, quantile, spearman, spread, trimmedMean } from '../../../agent/core/statistics.js';
import { announceSeed } from '../../support/seed.js';

const seed = announceSeed();
const values = fc.array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 40 });
const isNear = (a: number, b: number) => Object.is(a, b) || Math.abs(a - b) <= 1e-9 * (1 + Math.abs(a) + Math.abs(b));

t.test('the median has half of the values on either side, the quantiles end at the extremes', async () => {
  fc.assert(
    fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (list, q) => {
      const middle = median(list);
      const below = list.filter((value) => value < middle).length;
      const above = list.filter((value) => value > middle).length;
      const isMonotone = quantile(list, q) <= quantile(list, Math.min(1, q + 0.1)) + 1e-9;
      return (
        below <= list.length / 2 &&
        above <= list.length / 2 &&
        isMonotone &&
        quantile(list, 0) === Math.min(...list) &&
        quantile(list, 1) === Math.max(...list)
      );
    }),
    { numRuns: 300, seed },
  );
});

t.test('order does not matter and lists are left alone', async () => {
  fc.assert(
    fc.property(values, (list) => {
      const before = [...list];
      const reversed = [...list].reverse();
      const same = [median, minimum, trimmedMean, spread].every((of) => isNear(of(list), of(reversed)));
      return same && list.every((value, i) => Object.is(value, before[i]));
    }),
    { numRuns: 200, seed },
  );
});

t.test('one slow run in five moves neither median nor trimmed mean; spread sees scatter', async (t) => {
  const times = [10, 11, 12, 11, 10, 12, 11, 10, 500, 400];
  t.equal(median(times), 11);
  t.equal(trimmedMean(times), 10.875);
  t.equal(minimum(times), 10);
  t.equal(spread([5, 5, 5, 5]), 0);
  t.equal(spread([8, 9, 10, 11, 12]), 0.2);
  t.equal(spread([0, 0, 0]), 0);
});

t.test('nothing has no statistics', async (t) => {
  for (const of of [median, minimum, trimmedMean]) t.ok(Number.isNaN(of([])));
});

/** Pearson's correlation of ranks, ranks by counting. */
function slowSpearman(a: readonly number[], b: readonly number[]): number {
  const ranks = (list: readonly number[]) =>
    list.map(
      (value) =>
        list.filter((other) => other < value).length + (list.filter((other) => other === value).length - 1) / 2,
    );
  const [x, y] = [ranks(a), ranks(b)];
  const mean = (list: readonly number[]) => list.reduce((sum, value) => sum + value, 0) / list.length;
  const [mx, my] = [mean(x), mean(y)];
  const sum = (of: (i: number) => number) => x.reduce((total, _, i) => total + of(i), 0);
  return (
    sum((i) => (x[i]! - mx) * (y[i]! - my)) / Math.sqrt(sum((i) => (x[i]! - mx) ** 2) * sum((i) => (y[i]! - my) ** 2))
  );
}

t.test("Spearman's correlation is Pearson's of the ranks, ties and all", async (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.integer({ min: 0, max: 6 }), fc.integer({ min: 0, max: 6 })), {
        minLength: 3,
        maxLength: 20,
      }),
      (pairs) => {
        const [a, b] = [pairs.map(([x]) => x), pairs.map(([, y]) => y)];
        const [fast, slow] = [spearman(a, b), slowSpearman(a, b)];
        return Number.isNaN(slow) ? Number.isNaN(fast) : isNear(fast, slow);
      },
    ),
    { numRuns: 300, seed },
  );
  t.equal(spearman([1, 2, 3], [10, 20, 30]), 1);
  t.equal(spearman([1, 2, 3], [3, 2, 1]), -1);
});

t.test(
  "Kendall's correlation is agreeing less disagreeing pairs, over the geometric mean of the untied ones",
  async (t) => {
    t.equal(kendall([1, 2, 3], [10, 20, 30]), 1);
    t.equal(kendall([1, 2, 3], [3, 2, 1]), -1);
    t.ok(isNear(kendall([1, 2, 3, 4], [1, 3, 2, 4]), (5 - 1) / 6));
    // Five pairs differ on the left, six on the right; four agree, one disagrees.
    t.ok(isNear(kendall([1, 1, 2, 3], [1, 2, 4, 3]), (4 - 1) / Math.sqrt(5 * 6)));
    t.ok(Number.isNaN(kendall([1, 1], [1, 2])));
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.integer({ max: 9 }), fc.integer({ max: 9 })), { maxLength: 20 }), (pairs) => {
        const [a, b] = [pairs.map(([x]) => x), pairs.map(([, y]) => y)];
        const value = kendall(a, b);
        const opposite = kendall(
          a.map((x) => -x),
          b,
        );
        return (
          Number.isNaN(value) ||
          (Math.abs(value) <= 1 + 1e-9 && isNear(value, -opposite) && isNear(value, kendall(b, a)))
        );
      }),
      { numRuns: 200, seed },
    );
  },
);

t.test('random streams are the same for the same seed, and apart for neighbouring ones', async (t) => {
  const stream = (of: number) => Array.from({ length: 5 }, xorshift32(of));
  t.strictSame(stream(7), stream(7));
  const firsts = Array.from({ length: 1000 }, (_, i) => stream(i)[0]!);
  t.equal(new Set(firsts).size, 1000);
  const mean = firsts.reduce((a, b) => a + b, 0) / 1000;
  t.ok(Math.abs(mean - 0.5) < 0.05, `first numbers of neighbouring seeds average ${mean}`);
  t.ok([0, -1, 2 ** 32, 0x9e3779b9].every((of) => stream(of).every((value) => value >= 0 && value < 1)));
  t.not(seedOf('conv1.weight'), seedOf('conv2.weight'));
});

t.test('numbers are uniform and normal numbers normal', async (t) => {
  const random = xorshift32(seed);
  const counts = new Array<number>(10).fill(0);
  for (let i = 0; i < 100_000; i++) counts[Math.floor(random() * 10)]!++;
  t.ok(
    counts.every((count) => Math.abs(count - 10_000) < 600),
    counts.join(' '),
  );
  const gaussian = normal(xorshift32(seed + 1));
  const drawn = Array.from({ length: 50_000 }, gaussian);
  const mean = drawn.reduce((a, b) => a + b, 0) / drawn.length;
  const variance = drawn.reduce((sum, value) => sum + (value - mean) ** 2, 0) / drawn.length;
  const within = drawn.filter((value) => Math.abs(value) < 1).length / drawn.length;
  t.ok(
    Math.abs(mean) < 0.03 && Math.abs(variance - 1) < 0.05 && Math.abs(within - 0.6827) < 0.015,
    `${mean}, ${variance}, ${within}`,
  );
  t.ok(drawn.every(Number.isFinite));
});
