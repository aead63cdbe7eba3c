/** What streaming over samples finds, against looking at every value of every tensor of every sample. */
import t from 'tap';
import { makeTensor } from '../../../agent/core/onnx/tensor.js';
import { prepare } from '../../../agent/core/prepare.js';
import { rangeRules } from '../../../agent/core/quant/observer.js';
import { isEarly } from '../../../agent/core/quant/ranges.js';
import { activationTensors, calibrate } from '../../../agent/steps/calibrate.js';
import type { Range } from '../../../configs/contracts/plan.js';
import { calibratedNetwork, imageCard, type Network, NetworkBuilder, randomNetwork } from '../../support/networks.js';
import { feed, run } from '../../support/ort.js';
import { announceSeed, Random } from '../../support/seed.js';
import { CountingRuntime, never, quiet, samplesOf } from '../../support/steps.js';
import { info } from '../core/onnx/support.js';

const seed = announceSeed();
const options = { rules: rangeRules, bits: [8, 4], threads: 1, most: 100 };

function calibrated(
  network: Network,
  changes: Partial<typeof options> = {},
  runtime = new CountingRuntime(),
  signal = never,
) {
  return calibrate(network.prepared, samplesOf(network.samples), { ...options, ...changes }, runtime, signal, quiet);
}

const isNear = (actual: number, expected: number, scale: number) => Math.abs(actual - expected) <= 1e-5 * scale + 1e-7;

/** The tensors that nothing but SiLU reads: what lies below -8 is cut off. */
function readBySiluAlone({ prepared }: Network): Set<string> {
  const outputs = prepared.model.graph.outputs.map(({ name }) => name);
  const readersOf = (name: string) => prepared.operators.filter(({ inputs }) => inputs.includes(name));
  const isCut = (name: string) => !outputs.includes(name) && readersOf(name).every(({ op }) => op === 'Silu');
  return new Set(activationTensors(prepared).filter(isCut));
}

t.test('minmax of every tensor is that of all its values', async (t) => {
  for (let at = seed; at < seed + 5; at++) {
    const network = await calibratedNetwork(randomNetwork(at, 4), at);
    const { ranges, samples, source } = await calibrated(network);
    t.equal(samples, network.samples.length);
    t.equal(source, 'samples');
    const cut = readBySiluAlone(network);
    const minmax = ranges.minmax!['8']!;
    t.strictSame(new Set(Object.keys(minmax)), new Set(activationTensors(network.prepared)));
    for (const [name, { minimum, maximum }] of network.ranges) {
      const found = minmax[name]!;
      const scale = maximum - minimum;
      const expected: Range = { minimum: cut.has(name) ? Math.max(minimum, -8) : minimum, maximum };
      t.ok(
        isNear(found.minimum, expected.minimum, scale) && isNear(found.maximum, expected.maximum, scale),
        `seed ${at}, ${name}`,
      );
    }
  }
});

t.test('every rule gives every tensor a range at every width, inside that of minmax and with zero in it', async (t) => {
  const network = await calibratedNetwork(randomNetwork(seed, 4), seed);
  const { ranges } = await calibrated(network);
  for (const rule of rangeRules) {
    for (const bits of ['8', '4']) {
      for (const [name, { minimum, maximum }] of Object.entries(ranges[rule]![bits]!)) {
        const outer = ranges.minmax!['8']![name]!;
        t.ok(
          minimum <= 0 && maximum >= 0 && minimum >= outer.minimum && maximum <= outer.maximum,
          `${rule}, ${bits} bits, ${name}`,
        );
      }
    }
  }
});

t.test('means of channels that weighted operators read are those of all pixels and samples', async (t) => {
  const network = await calibratedNetwork(randomNetwork(seed + 1, 5), seed + 1);
  const { prepared, samples } = network;
  const { channelMeans } = await calibrated(network);
  const read = new Set(
    prepared.operators.filter((operator) => operator.weight !== null).map((operator) => operator.inputs[0]!),
  );
  t.strictSame(new Set(Object.keys(channelMeans)), read);
  for (const name of read) {
    const channels = prepared.shapes.get(name)![1]!;
    const sums = new Array<number>(channels).fill(0);
    let pixels = 0;
    for (const data of samples) {
      const watched = { ...prepared.model, graph: { ...prepared.model.graph, outputs: [info(name, null)] } };
      const values = name === 'x' ? data : (await run(watched, feed('x', prepared.inputDims, data))).get(name)!.data;
      values.forEach((value, i) => {
        sums[Math.floor(i / (values.length / channels))]! += value;
      });
      pixels += values.length / channels;
    }
    sums.forEach((sum, channel) => {
      t.ok(isNear(channelMeans[name]![channel]!, sum / pixels, 10), `${name}, channel ${channel}`);
    });
  }
});

t.test('codes are not spent where every reader of a tensor saturates', async (t) => {
  const builder = new NetworkBuilder(new Random(seed), [1, 2, 4, 4]);
  const wide = builder.emit('Concat', ['x', 'x'], [1, 4, 4, 4], { axis: 1 });
  const shared = builder.emit('Concat', ['x', 'x'], [1, 4, 4, 4], { axis: 1 });
  const sum = builder.emit('Add', [builder.silu(wide), builder.silu(shared)], [1, 4, 4, 4]);
  const both = builder.emit('Add', [sum, shared], [1, 4, 4, 4]);
  const gate = builder.same('Sigmoid', builder.emit('Concat', ['x', both], [1, 6, 4, 4], { axis: 1 }));
  const prepared = prepare(builder.build([gate]), imageCard('other', [1, 2, 4, 4]));
  const data = Float32Array.from({ length: 32 }, (_, i) => i * 4 - 60);
  const { ranges } = await calibrate(prepared, samplesOf([data]), options, new CountingRuntime(), never, quiet);
  const minmax = ranges.minmax!['8']!;
  t.strictSame(minmax[wide], { minimum: -8, maximum: 64 }, 'SiLU: nothing below -8');
  t.strictSame(minmax[shared], { minimum: -60, maximum: 64 }, 'a sum reads it as well');
  t.strictSame(minmax[prepared.operators.at(-1)!.inputs[0]!], { minimum: -8, maximum: 8 }, 'Sigmoid: nothing beyond 8');
  t.strictSame(minmax.x, { minimum: -60, maximum: 64 });
});

t.test('no more samples are read than asked for', async (t) => {
  const network = await calibratedNetwork(randomNetwork(seed, 2), seed);
  let reads = 0;
  const samples = { ...samplesOf(network.samples), read: async (index: number) => network.samples[reads++ && index]! };
  const shares: number[] = [];
  const document = await calibrate(
    network.prepared,
    samples,
    { ...options, most: 2 },
    new CountingRuntime(),
    never,
    (share) => shares.push(share),
  );
  t.equal(reads, 2);
  t.equal(document.samples, 2);
  t.strictSame(shares, [0.5, 1]);
});

t.test('an unreadable sample, and an abort, end it with every session closed', async (t) => {
  const network = await calibratedNetwork(randomNetwork(seed, 2), seed);
  const runtime = new CountingRuntime();
  const broken = {
    ...samplesOf(network.samples),
    read: async (index: number) => (index === 1 ? Promise.reject(new Error('gone')) : network.samples[index]!),
  };
  await t.rejects(calibrate(network.prepared, broken, options, runtime, never, quiet), /gone/);
  const abort = new AbortController();
  abort.abort(new Error('enough'));
  await t.rejects(calibrated(network, {}, runtime, abort.signal), /enough/);
  t.equal(runtime.opened, 2);
  t.equal(runtime.closed, 2);
});

t.test('integer tensors, and those without a shape, are not watched', async (t) => {
  const builder = new NetworkBuilder(new Random(seed), [1, 4, 6, 6]);
  const image = builder.conv('x', { out: 4 });
  const best = builder.emit('ArgMax', [builder.pooled(image)], [1, 1], { axis: 1 });
  // How many values a Compress leaves is not looked into.
  const condition = makeTensor('condition', 'bool', [4], Uint8Array.of(1, 0, 1, 1));
  builder.initializers.push(condition);
  const some = builder.emit('Compress', [image, condition.name], [3]);
  const outputs = [info(image, null), info(best, null, 'int64'), info(some, null)];
  const source = { ...builder.build([]), graph: { ...builder.build([]).graph, outputs } };
  const prepared = prepare(source, imageCard('other', [1, 4, 6, 6]));
  const data = [new Random(seed).floats(144)];
  const { ranges } = await calibrate(prepared, samplesOf(data), options, new CountingRuntime(), never, quiet);
  t.notOk(best in ranges.minmax!['8']!);
  t.notOk(some in ranges.minmax!['8']!);
  t.ok(image in ranges.minmax!['8']!);
});

t.test(
  'extremes of early tensors are cut off for made-up samples alone, and only where that is asked for',
  async (t) => {
    const network = await calibratedNetwork(randomNetwork(seed, 4), seed);
    const rangesOf = async (
      source: 'samples' | 'prior',
      rules: readonly ('mse' | 'percentile')[],
      cutsEarly: boolean,
    ) => {
      const samples = { ...samplesOf(network.samples), source };
      const asked = { ...options, rules, cutsEarly };
      return (await calibrate(network.prepared, samples, asked, new CountingRuntime(), never, quiet)).ranges;
    };
    const { mse, percentile } = await rangesOf('prior', ['mse', 'percentile'], false);
    const { mse: cut } = await rangesOf('prior', ['mse'], true);
    for (const name of activationTensors(network.prepared)) {
      const expected = (isEarly(network.prepared, name) ? percentile! : mse!)['8']![name];
      t.strictSame(cut!['8']![name], expected, `seed ${seed}, ${name}`);
      t.strictSame(cut!['4']![name], mse!['4']![name]);
    }
    t.strictSame(await rangesOf('samples', ['mse'], true), await rangesOf('samples', ['mse'], false));
  },
);
