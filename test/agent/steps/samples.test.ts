import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { prepare } from '../../../agent/core/prepare.js';
import { readAhead, withMirrored } from '../../../agent/steps/samples.js';
import type { ModelCard } from '../../../configs/contracts/card.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';
import { samplesOf } from '../../support/steps.js';

function source(failsAt = Number.POSITIVE_INFINITY) {
  const started: number[] = [];
  return {
    started,
    read: async (index: number) => {
      started.push(index);
      // The later sample is the faster one.
      await sleep(index % 2 === 0 ? 8 : 1);
      if (index === failsAt) throw new Error(`sample ${index}`);
      return Float32Array.of(index);
    },
  };
}

t.test('samples come in order, one read ahead and no more', async (t) => {
  const samples = source();
  const seen: number[] = [];
  for await (const sample of readAhead(samples, 5)) {
    seen.push(sample[0]!);
    t.strictSame(samples.started.length, Math.min(5, seen.length + 1), `after ${seen.length}`);
  }
  t.strictSame(seen, [0, 1, 2, 3, 4]);
});

t.test('the next sample is read to its end while the caller works', async (t) => {
  const finished: ((value: unknown) => void)[] = [];
  const isRead = Array.from({ length: 4 }, (_, index) => new Promise((resolve) => (finished[index] = resolve)));
  const samples = {
    read: async (index: number) => {
      await sleep(1);
      finished[index]!(null);
      return Float32Array.of(index);
    },
  };
  let seen = 0;
  // The caller's work ends with the next read: were that not under way, it would never end.
  for await (const _ of readAhead(samples, 4)) await isRead[Math.min(++seen, 3)];
  t.equal(seen, 4);
});

t.test('none are read when none are asked for', async (t) => {
  const samples = source();
  for await (const _ of readAhead(samples, 0)) t.fail('a sample');
  t.strictSame(samples.started, []);
});

t.test('a failure comes when its sample is due, after those before it', async (t) => {
  const seen: number[] = [];
  const consume = async () => {
    for await (const sample of readAhead(source(2), 5)) {
      seen.push(sample[0]!);
      await sleep(20);
    }
  };
  await t.rejects(consume(), /sample 2/);
  t.strictSame(seen, [0, 1]);
});

t.test('a failure of a sample that nobody waits for harms nobody', async (t) => {
  let unhandled = 0;
  const count = () => {
    unhandled++;
  };
  process.on('unhandledRejection', count);
  for await (const sample of readAhead(source(1), 5)) {
    t.equal(sample[0], 0);
    break;
  }
  await sleep(30);
  process.off('unhandledRejection', count);
  t.equal(unhandled, 0);
});

const seed = announceSeed();

function preparedFor(channels: number, layout: 'NCHW' | 'NHWC') {
  const dims = layout === 'NCHW' ? [1, channels, 4, 5] : [1, 4, 5, channels];
  const builder = new NetworkBuilder(new Random(seed), dims);
  const card: ModelCard = imageCard('classification', dims);
  const model = builder.build([builder.same('Relu', 'x')]);
  return prepare(model, { ...card, input: { ...card.input, layout } });
}

for (const layout of ['NCHW', 'NHWC'] as const) {
  t.test(`pictures in ${layout} are followed by their mirror images`, async (t) => {
    const random = new Random(seed);
    const data = [random.floats(60, 1), random.floats(60, 1)];
    const samples = withMirrored(samplesOf(data), preparedFor(3, layout));
    t.equal(samples.count, 4);
    const read: Float32Array[] = [];
    for await (const sample of readAhead(samples, samples.count)) read.push(sample);
    t.same(read.slice(0, 2), data);
    for (const [index, picture] of data.entries()) {
      for (let channel = 0; channel < 3; channel++) {
        for (let y = 0; y < 4; y++) {
          for (let x = 0; x < 5; x++) {
            const at = (column: number) =>
              layout === 'NCHW' ? (channel * 4 + y) * 5 + column : (y * 5 + column) * 3 + channel;
            t.equal(read[3 - index]![at(x)], picture[at(4 - x)]);
          }
        }
      }
    }
  });
}

t.test('what is no picture, and what was made up, stays as it is', async (t) => {
  const samples = samplesOf([new Float32Array(20)]);
  t.equal(withMirrored(samples, preparedFor(1, 'NCHW')), samples);
  const made = { ...samplesOf([new Float32Array(60)]), source: 'prior' as const };
  t.equal(withMirrored(made, preparedFor(3, 'NCHW')), made);
});
