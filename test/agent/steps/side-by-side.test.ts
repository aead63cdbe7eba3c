/** Several sessions of one model: the answers of one, in order, and none at work when it is over. */
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import type { Feed, Feeds, Session } from '../../../agent/ports.js';
import { closeAll, openSideBySide, runSideBySide } from '../../../agent/steps/side-by-side.js';
import { never } from '../../support/steps.js';

const feedOf = (value: number): Feeds => new Map([['x', { dims: [1], data: Float32Array.of(value) }]]);

/** Doubles, the earlier samples slower than the later ones; fails at one value. */
class Doubling {
  atWork = 0;
  mostAtWork = 0;
  closed = 0;
  opened = 0;

  constructor(readonly failsAt: number | null = null) {}

  async open(): Promise<Session> {
    this.opened++;
    let isBusy = false;
    return {
      inputNames: ['x'],
      outputNames: ['y'],
      run: async (feeds) => {
        if (isBusy) throw new Error('a session runs one sample at a time');
        isBusy = true;
        this.mostAtWork = Math.max(this.mostAtWork, ++this.atWork);
        const value = (feeds.get('x') as Feed).data[0] as number;
        await sleep(value % 3 === 0 ? 6 : 1);
        isBusy = false;
        this.atWork--;
        if (value === this.failsAt) throw new Error(`sample ${value}`);
        return new Map([['y', { dims: [1], data: Float32Array.of(2 * value) }]]);
      },
      close: async () => {
        t.equal(isBusy, false, 'nothing is closed at work');
        this.closed++;
      },
    };
  }
}

async function answers(runtime: Doubling, cores: number, count: number, signal = never): Promise<number[]> {
  const sessions = await openSideBySide(runtime, new Uint8Array(), cores, 99);
  const found: number[] = [];
  try {
    const feeds = Array.from({ length: count }, (_, index) => feedOf(index));
    for await (const results of runSideBySide(sessions, feeds, signal)) found.push(results.get('y')!.data[0] as number);
  } finally {
    await closeAll(sessions);
  }
  return found;
}

for (const cores of [1, 2, 3]) {
  t.test(`${cores} at a time: all answers, in the order of the samples`, async (t) => {
    for (const count of [0, 1, 2, 3, 10]) {
      const runtime = new Doubling();
      const expected = Array.from({ length: count }, (_, index) => 2 * index);
      t.strictSame(await answers(runtime, cores, count), expected);
      t.equal(runtime.mostAtWork, Math.min(cores, count));
      t.equal(runtime.closed, cores);
    }
  });
}

t.test('a failure, an abort and a reader who leaves wait for what is under way', async (t) => {
  const failing = new Doubling(4);
  await t.rejects(answers(failing, 3, 10), /sample 4/);
  t.equal(failing.closed, 3);
  t.equal(failing.atWork, 0);
  await t.rejects(answers(new Doubling(), 2, 5, AbortSignal.abort(new Error('enough'))), /enough/);
  const left = new Doubling();
  const sessions = await openSideBySide(left, new Uint8Array(), 2, 3);
  for await (const _ of runSideBySide(sessions, [feedOf(0), feedOf(1), feedOf(2)], never)) break;
  await closeAll(sessions);
  t.equal(left.atWork, 0);
});

t.test('a failure while the next sample is read is one of the caller, not of the process', async (t) => {
  const failing = new Doubling(1);
  const sessions = await openSideBySide(failing, new Uint8Array(), 3, 99);
  async function* slowly() {
    for (let index = 0; index < 6; index++) {
      await sleep(20);
      yield feedOf(index);
    }
  }
  const consume = async () => {
    for await (const _ of runSideBySide(sessions, slowly(), never));
  };
  await t.rejects(consume(), /sample 1/);
  await closeAll(sessions);
  t.equal(failing.closed, 3);
});

t.test('no more sessions are opened than there are samples', async (t) => {
  const runtime = new Doubling();
  await closeAll(await openSideBySide(runtime, new Uint8Array(), 8, 2));
  t.equal(runtime.opened, 2);
});

t.test('where one cannot be opened, those before it are closed', async (t) => {
  const runtime = new Doubling();
  const open = async () => {
    if (runtime.opened === 2) throw new Error('no memory');
    return runtime.open();
  };
  await t.rejects(openSideBySide({ open }, new Uint8Array(), 4, 99), /no memory/);
  t.equal(runtime.closed, 2);
});
