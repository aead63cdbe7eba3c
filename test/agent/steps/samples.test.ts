import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { readAhead } from '../../../agent/steps/samples.js';

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
