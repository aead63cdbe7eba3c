import fc from 'fast-check';
import t from 'tap';
import {
  argmax,
  energies,
  klDivergence,
  logitVariance,
  logSoftmax,
  normalizedSquaredDistance,
  sqnrDb,
} from '../../../agent/core/divergence.js';
import { announceSeed } from '../../support/seed.js';

const seed = announceSeed();
const pair = fc
  .integer({ min: 1, max: 12 })
  .chain((length) => {
    const logits = fc.array(fc.float({ min: -30, max: 30, noNaN: true }), { minLength: length, maxLength: length });
    return fc.tuple(logits, logits);
  })
  .map(([a, b]) => [Float32Array.from(a), Float32Array.from(b)] as const);
const temperatures = fc.constantFrom(1, 2, 4);

const softmax = (values: Float32Array, temperature: number) => {
  const exponentials = [...values].map((value) => Math.exp(value / temperature));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((value) => value / sum);
};

t.test('log softmax is the logarithm of softmax, and its probabilities sum to one', async () => {
  fc.assert(
    fc.property(pair, temperatures, ([logits], temperature) => {
      const logs = logSoftmax(logits, temperature);
      const expected = softmax(logits, temperature);
      const sum = logs.reduce((total, value) => total + Math.exp(value), 0);
      return Math.abs(sum - 1) < 1e-9 && logs.every((value, i) => Math.abs(value - Math.log(expected[i]!)) < 1e-6);
    }),
    { numRuns: 300, seed },
  );
});

t.test('large logits do not overflow, and a shift of all of them changes nothing', async (t) => {
  const logits = Float32Array.of(1e30, 0, -1e30);
  t.strictSame([...logSoftmax(logits)].slice(0, 1), [0]);
  t.equal(klDivergence(logits, logits), 0);
  const shifted = Float32Array.of(101, 102, 103);
  t.ok(klDivergence(Float32Array.of(1, 2, 3), shifted) < 1e-12);
});

t.test(
  'the variance of logit errors is what squared temperature times KL tends to, and worst for no answer',
  async (t) => {
    fc.assert(
      fc.property(pair, ([a, b]) => {
        const expected = 1e8 * klDivergence(a, b, 1e4);
        return Math.abs(logitVariance(a, b) - expected) <= 0.02 * expected + 1e-3;
      }),
      { numRuns: 300, seed },
    );
    const logits = Float32Array.of(3, -1, 2, 5);
    t.equal(logitVariance(logits, Float32Array.of(4, 0, 3, 6)), 0, 'a shift of all of them');
    t.equal(logitVariance(logits, Float32Array.of(4, -2, 3, 4)), 0.5);
    t.equal(logitVariance(logits, Float32Array.of(Number.NaN, 0, 0, 0)), 1e6);
    t.equal(logitVariance(logits, Float32Array.of(Number.POSITIVE_INFINITY, 0, 0, 0)), 1e6);
  },
);

t.test('KL is its definition where probabilities are not tiny, and never negative', async () => {
  fc.assert(
    fc.property(pair, temperatures, ([a, b], temperature) => {
      const [p, q] = [softmax(a, temperature), softmax(b, temperature)];
      const exact = p.reduce((sum, value, i) => sum + (value > 0 ? value * Math.log(value / q[i]!) : 0), 0);
      const kl = klDivergence(a, b, temperature);
      const isClamped = [...p, ...q].some((value) => value < Math.exp(-20));
      return kl >= 0 && (isClamped ? kl <= exact + 1e-6 && kl <= 20.1 : Math.abs(kl - exact) <= 1e-6 * (1 + exact));
    }),
    { numRuns: 500, seed },
  );
});

t.test('a higher temperature makes outputs more alike', async (t) => {
  const [a, b] = [Float32Array.of(8, 0, 0), Float32Array.of(0, 8, 0)];
  const byTemperature = [1, 2, 4].map((temperature) => klDivergence(a, b, temperature));
  t.ok(byTemperature[0]! > byTemperature[1]! && byTemperature[1]! > byTemperature[2]!);
});

t.test('a class the other model rules out costs no more than the clamp', async (t) => {
  const kl = klDivergence(Float32Array.of(50, 0), Float32Array.of(0, 1e6));
  t.ok(kl > 19 && kl <= 20, String(kl));
});

t.test('NaN and infinite outputs are as far as can be, and can still be added up', async (t) => {
  const reference = Float32Array.of(1, 2, 3);
  const broken = [
    Float32Array.of(Number.NaN, 1, 2),
    Float32Array.of(Number.POSITIVE_INFINITY, 1, 2),
    new Float32Array(3).fill(Number.NEGATIVE_INFINITY),
  ];
  for (const output of broken) {
    for (const distance of [klDivergence(reference, output), normalizedSquaredDistance(reference, output)]) {
      t.ok(Number.isFinite(distance * 1000) && distance > 1e3, `${[...output]}: ${distance}`);
    }
  }
});

t.test('the squared distance is zero for equals, one for answering the mean, and grows with the error', async (t) => {
  const reference = Float32Array.of(1, 2, 3, 6);
  t.equal(normalizedSquaredDistance(reference, reference), 0);
  t.ok(Math.abs(normalizedSquaredDistance(reference, new Float32Array(4).fill(3)) - 1) < 1e-12);
  t.ok(
    Math.abs(
      normalizedSquaredDistance(
        reference,
        reference.map((value) => value * 10),
      ) -
        normalizedSquaredDistance(
          reference.map((value) => value * 5),
          reference.map((value) => value * 50),
        ),
    ) < 1e-9,
    'scale of both does not matter',
  );
  t.equal(normalizedSquaredDistance(Float32Array.of(2), Float32Array.of(2)), 0);
  t.ok(
    normalizedSquaredDistance(Float32Array.of(2, 2), Float32Array.of(2, 2.5)) >= 1,
    'a constant reference has no variance to hide in',
  );
});

t.test('signal to noise is in decibels', async (t) => {
  const sums = energies(Float32Array.of(3, 4), Float32Array.of(3, 4.5));
  t.strictSame(sums, { signal: 25, error: 0.25 });
  t.equal(sqnrDb(sums.signal, sums.error), 20);
  t.equal(sqnrDb(1, 0), Number.POSITIVE_INFINITY);
});

t.test('the largest value wins, the first of equals', async (t) => {
  t.equal(argmax(Float32Array.of(1, 5, 5, 2)), 1);
  t.equal(argmax(Float32Array.of(-3)), 0);
  t.equal(argmax(Float32Array.of(-3, -2)), 1);
});
