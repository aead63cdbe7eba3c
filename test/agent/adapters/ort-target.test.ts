/** Timing in ONNX Runtime: what rows there are and how they hang together. How long anything takes is nobody's business here. */
import t from 'tap';
import { OrtTarget } from '../../../agent/adapters/ort-target.js';
import { conversionOps, dispatchKey, runOverheadKey, speedReferenceKey } from '../../../agent/core/latency.js';
import { encode } from '../../../agent/core/onnx/codec.js';
import { formatPrecision } from '../../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import type { EnergyMeter, Feeds } from '../../../agent/ports.js';
import type { Precision } from '../../../configs/contracts/plan.js';
import { NetworkBuilder } from '../../support/networks.js';
import { feed } from '../../support/ort.js';
import { Random } from '../../support/seed.js';
import { never, quiet } from '../../support/steps.js';

const float: Precision = { weightBits: 32, activationBits: 32 };
const int8: Precision = { weightBits: 8, activationBits: 8 };
const blocks: Precision = { weightBits: 4, activationBits: 32 };
const target = new OrtTarget({ threads: 1 });

/** A network with convolutions of several kinds, a sum, a pool and two products. */
function network(): PreparedModel {
  const builder = new NetworkBuilder(new Random(3), [1, 8, 12, 12]);
  const first = builder.same('Relu', builder.conv('x', { out: 8 }));
  const alike = builder.same('Relu', builder.conv(first, { out: 8 }));
  const depthwise = builder.conv(alike, { out: 8, groups: 8 });
  const sum = builder.emit('Add', [depthwise, first], builder.shapes.get(first)!);
  const pooled = builder.emit('MaxPool', [sum], [1, 8, 6, 6], { kernel_shape: [2, 2], strides: [2, 2] });
  const hidden = builder.same('Relu', builder.gemm(builder.pooled(pooled), 64));
  return prepare(builder.build([builder.gemm(hidden, 10)]), null);
}

const prepared = network();
/** Its distinct operators. */
const all = [...new Map(prepared.operators.map((operator) => [operator.key, operator])).values()];
const name = ({ operatorKey, precision }: { operatorKey: string; precision: string }) =>
  `${operatorKey} at ${precision}`;

t.test(
  'every operator has a row at each precision that was asked for and that it can run, and overheads are told',
  async (t) => {
    const shares: number[] = [];
    const rows = await target.measure(prepared, all, [float, int8, blocks], never, (share) => shares.push(share));
    const overheads = [runOverheadKey, dispatchKey, speedReferenceKey];
    const keys = new Set(all.map(({ key }) => key));
    t.strictSame(
      new Set(rows.filter(({ operatorKey }) => keys.has(operatorKey)).map(name)),
      new Set(
        all.flatMap((operator) =>
          target
            .precisionsOf(prepared, operator)
            .map((precision) => name({ operatorKey: operator.key, precision: formatPrecision(precision) })),
        ),
      ),
    );
    t.equal(new Set(rows.map(name)).size, rows.length, 'none twice');
    for (const key of overheads)
      t.ok(
        rows.some(({ operatorKey }) => operatorKey === key),
        key,
      );
    const others = rows.filter(({ operatorKey }) => !keys.has(operatorKey) && !overheads.includes(operatorKey));
    t.ok(others.length > 0, 'conversions between formats were met');
    for (const row of others) {
      t.match(row.operatorKey, new RegExp(`^(${conversionOps.join('|')})\\[\\d+(x\\d+)*\\]$`));
      t.equal(row.precision, 'float');
    }
    for (const row of rows) {
      const { minimum, median, spread, repeats, energyJoules, measuredAt } = row;
      t.ok(minimum >= 0 && minimum <= median && Number.isFinite(median), `${name(row)}: ${minimum} to ${median}`);
      t.ok(spread >= 0 && repeats >= 1, name(row));
      t.equal(energyJoules, null, 'there is no meter');
      t.ok(Date.parse(measuredAt) <= Date.now() && Date.parse(measuredAt) > Date.now() - 600_000);
    }
    const convolutions = rows.filter(({ operatorKey }) => /^Conv/.test(operatorKey));
    t.ok(convolutions.every(({ median, repeats }) => median > 0 && repeats > 1));
    t.ok(
      shares.every((share, at) => share >= 0 && share <= 1 && (at === 0 || share >= shares[at - 1]!)),
      'progress goes on',
    );
  },
);

t.test('precisions that were not asked for are not timed; nothing to time leaves the overheads', async (t) => {
  const [operator] = all;
  const rows = await target.measure(prepared, [operator!], [int8], never, quiet);
  t.strictSame(
    rows.filter(({ operatorKey }) => operatorKey === operator!.key).map(({ precision }) => precision),
    ['W8A8'],
  );
  const none = await target.measure(prepared, [], [float], never, quiet);
  t.strictSame(
    new Set(none.map(({ operatorKey }) => operatorKey)),
    new Set([runOverheadKey, dispatchKey, speedReferenceKey]),
  );
});

t.test('energy is the mean power of the machine for the time of the operator', async (t) => {
  const watts = 7;
  let running = 0;
  const meter: EnergyMeter = {
    name: 'a steady source',
    start: () => {
      const started = performance.now();
      running++;
      const stop = () => {
        running--;
        return (watts * (performance.now() - started)) / 1000;
      };
      return { stop };
    },
  };
  const metered = new OrtTarget({ threads: 1, meter });
  t.equal((await metered.identity()).energyMeter, meter.name);
  const rows = await metered.measure(prepared, all.slice(0, 2), [float, int8], never, quiet);
  t.equal(running, 0, 'every measurement was ended');
  const keys = all.slice(0, 2).map(({ key }) => key);
  for (const row of rows.filter(({ operatorKey }) => keys.includes(operatorKey))) {
    const expected = watts * row.median * 1e-9;
    t.ok(Math.abs(row.energyJoules! / expected - 1) < 0.1, `${name(row)}: ${row.energyJoules}, expected ${expected}`);
  }
  const unreadable = new OrtTarget({ threads: 1, meter: { name: 'broken', start: () => ({ stop: () => null }) } });
  const without = await unreadable.measure(prepared, all.slice(0, 1), [float], never, quiet);
  t.ok(without.every(({ energyJoules }) => energyJoules === null));
});

t.test('an abort stops measuring where it is, and the lock is free for the next', async (t) => {
  const abort = new AbortController();
  const stopping = target.measure(prepared, all, [float, int8], abort.signal, (share) => {
    if (share > 0) abort.abort(new Error('enough'));
  });
  await t.rejects(stopping, /enough/);
  await t.rejects(target.measure(prepared, all, [float], abort.signal, quiet), /enough/);
  await t.rejects(target.compare([{ name: 'a', bytes: chain(1) }], feeds, abort.signal, quiet), /enough/);
  const midway = new AbortController();
  const progress = (share: number) => share > 0 && midway.abort(new Error('enough of that'));
  await t.rejects(target.compare([{ name: 'a', bytes: chain(1) }], feeds, midway.signal, progress), /enough of that/);
  t.equal((await target.compare([{ name: 'a', bytes: chain(1) }], feeds, never, quiet)).timings.length, 1);
});

const dims = [1, 16, 16, 16];
const feeds: Feeds = feed('x', dims, new Random(1).floats(4096));

/** So many convolutions one after the other. */
function chain(length: number): Uint8Array {
  const builder = new NetworkBuilder(new Random(2), dims);
  let end = 'x';
  for (let i = 0; i < length; i++) end = builder.conv(end, { out: 16 });
  return encode(builder.build([end]));
}

t.test(
  'models are compared in turn: as often as each other, in the order given, by their ratio to the first',
  async (t) => {
    const names = ['one', 'twenty', 'one again'];
    const models = [chain(1), chain(20), chain(1)].map((bytes, index) => ({ name: names[index]!, bytes }));
    const { timings, ratios, referenceLatency } = await target.compare(models, feeds, never, quiet);
    t.strictSame(
      timings.map((timing) => timing.name),
      names,
    );
    t.equal(new Set(timings.map(({ samples }) => samples)).size, 1);
    t.ok(timings.every(({ minimum, median, samples }) => minimum > 0 && minimum <= median && samples >= 15));
    t.equal(ratios.length, 3);
    t.equal(ratios[0], 1);
    // Of twenty times the work the ratio is far from one whatever the machine does meanwhile; of the same work it is near.
    t.ok(ratios[1]! > 4, String(ratios));
    t.ok(ratios[2]! > 0.4 && ratios[2]! < 2.5, String(ratios));
    t.ok(referenceLatency > 0);

    const reversed = await target.compare([...models].reverse().slice(1), feeds, never, quiet);
    t.strictSame(
      reversed.timings.map((timing) => timing.name),
      ['twenty', 'one'],
    );
    t.ok(reversed.ratios[1]! < 0.25, String(reversed.ratios));
  },
);

t.test('two comparisons at once wait for each other, and the one that waits says so', async (t) => {
  const models = [{ name: 'a', bytes: chain(2) }];
  const turns: string[] = [];
  const waiting: string[] = [];
  const compare = (who: string) =>
    target.compare(models, feeds, never, (_share, text) => {
      if (text.startsWith('waiting')) waiting.push(text);
      else if (turns.at(-1) !== who) turns.push(who);
    });
  await Promise.all([compare('one'), compare('other')]);
  t.strictSame(turns.sort(), ['one', 'other'], 'neither came back after the other had begun');
  t.match(waiting.at(-1), `waiting for process ${process.pid}`);
});

t.test('a model that the runtime does not accept is target/failed, and the lock is free afterwards', async (t) => {
  const broken = [
    { name: 'a', bytes: chain(1) },
    { name: 'b', bytes: Uint8Array.of(1, 2, 3) },
  ];
  await t.rejects(target.compare(broken, feeds, never, quiet), { code: 'target/failed' });
  t.equal((await target.compare(broken.slice(0, 1), feeds, never, quiet)).timings.length, 1);
});

t.test('identities are equal where tables may be shared, and tell threads apart', async (t) => {
  const [one, same, two] = await Promise.all([1, 1, 2].map((threads) => new OrtTarget({ threads }).identity()));
  t.strictSame(one, same);
  t.notSame(one, two);
  t.equal(one!.threads, 1);
  t.match(one!.runtime, /^onnxruntime \d+\./);
  t.equal(typeof (await target.saturates()), 'boolean');
});
