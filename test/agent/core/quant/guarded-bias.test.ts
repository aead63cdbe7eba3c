/** Bias corrections on outputs whose best correction is known. */
import t from 'tap';
import { guardedCorrections, type OutputPair } from '../../../../agent/core/quant/guarded-bias.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();
const random = new Random(seed);
const relu = [0, Number.POSITIVE_INFINITY] as const;

function pairs(
  samples: number,
  channels: number,
  inner: number,
  of: (channel: number) => [number, number],
): OutputPair[] {
  return Array.from({ length: samples }, () => {
    const [float, rounded] = [new Float32Array(channels * inner), new Float32Array(channels * inner)];
    for (let i = 0; i < float.length; i++) [float[i], rounded[i]] = of(Math.floor(i / inner));
    return { float, rounded };
  });
}

/** Squared error behind the activation function, of one channel. */
function errorOf(list: readonly OutputPair[], channel: number, inner: number, shift: number, low: number): number {
  let error = 0;
  for (const { float, rounded } of list)
    for (let i = channel * inner; i < (channel + 1) * inner; i++)
      error += (Math.max(low, rounded[i]! + shift) - Math.max(low, float[i]!)) ** 2;
  return error;
}

t.test('a shift is found, for each channel its own', (t) => {
  const shifts = [0.5, -0.25, 2];
  const list = pairs(8, 3, 100, (channel) => {
    const value = random.normal();
    return [value, value - shifts[channel]! + 0.01 * random.normal()];
  });
  const corrections = guardedCorrections(list, { channels: 3, inner: 100 }, null);
  shifts.forEach((shift, channel) => {
    t.ok(Math.abs(corrections[channel]! - shift) < 0.02, `${corrections[channel]} for ${shift}`);
  });
  t.end();
});

t.test('no channel is worse behind its activation function than without a correction', (t) => {
  for (let repeat = 0; repeat < 30; repeat++) {
    const spread = 1 + 3 * random.next();
    const offset = random.normal();
    const list = pairs(6, 4, 50, () => {
      const value = random.normal() - 1.5;
      return [value, value * spread + offset];
    });
    const corrections = guardedCorrections(list, { channels: 4, inner: 50 }, relu);
    for (let channel = 0; channel < 4; channel++) {
      const before = errorOf(list, channel, 50, 0, 0);
      t.ok(errorOf(list, channel, 50, corrections[channel]!, 0) <= before + 1e-6);
    }
  }
  t.end();
});

t.test('a sparse channel is not pushed below zero, as equal means would', (t) => {
  // Float: rarely positive. Rounded: positive where it should be; its mean is higher for noise that nobody sees, below zero.
  const list = pairs(8, 1, 2000, () => {
    const value = random.next() < 0.05 ? 3 : -2;
    return [value, value === 3 ? 3 : -2 + 0.4 * Math.abs(random.normal())];
  });
  const [correction] = guardedCorrections(list, { channels: 1, inner: 2000 }, relu);
  const plain = -0.3;
  t.ok(errorOf(list, 0, 2000, correction!, 0) < 0.1 * errorOf(list, 0, 2000, plain, 0));
  t.end();
});

t.test('what samples disagree about is left alone', (t) => {
  const list = Array.from({ length: 6 }, (_, sample) => {
    const float = random.floats(400);
    const shift = sample % 2 === 0 ? 0.3 : -0.3;
    return { float, rounded: float.map((value) => value + shift) };
  });
  t.strictSame([...guardedCorrections(list, { channels: 1, inner: 400 }, null)], [0]);
  t.end();
});

t.test('channels are found behind each other where nothing lies within them', (t) => {
  const float = Float32Array.of(1, 2, 1, 2, 1, 2);
  const list = [{ float, rounded: Float32Array.of(0, 0, 0, 0, 0, 0) }];
  t.strictSame([...guardedCorrections(list, { channels: 2, inner: 1 }, null)], [1, 2]);
  t.end();
});
