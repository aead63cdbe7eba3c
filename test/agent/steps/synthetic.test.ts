/** Inputs for a device without samples. */
import t from 'tap';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import { findSynthetic, syntheticSamples } from '../../../agent/steps/synthetic.js';
import type { Preprocess } from '../../../configs/contracts/card.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { feed, Oracle } from '../../support/ort.js';
import { announceSeed, Random } from '../../support/seed.js';
import { CountingRuntime, never, quiet } from '../../support/steps.js';
import { info } from '../core/onnx/support.js';

const seed = announceSeed();
const options = { count: 16, threads: 1 };

/** A convolution and a BatchNormalization that saw other inputs in training than the prior has. */
function withBatchNorm(preprocess: Preprocess = {}, of = seed, classes = 3): PreparedModel {
  const random = new Random(of);
  const builder = new NetworkBuilder(random, [1, 3, 12, 12]);
  const hidden = builder.conv('x', { out: 6, hasBias: false });
  const vector = (of: () => number) => builder.constant([6], Float32Array.from({ length: 6 }, of));
  const statistics = [
    vector(() => 1),
    vector(() => 0),
    vector(() => 0.5 * random.normal()),
    vector(() => 0.02 + 0.02 * random.next()),
  ];
  const normalized = builder.emit('BatchNormalization', [hidden, ...statistics], [1, 6, 12, 12]);
  const output = builder.gemm(builder.pooled(builder.same('Relu', normalized)), classes);
  return prepare(builder.build([output]), { ...imageCard('classification', [1, 3, 12, 12]), preprocess });
}

function withoutBatchNorm(
  preprocess: Preprocess,
  layout = 'NCHW',
  dims: readonly number[] = [1, 3, 16, 16],
): PreparedModel {
  const builder = new NetworkBuilder(new Random(seed), dims);
  const card = { ...imageCard('other', dims), preprocess };
  return prepare(builder.build([builder.same('Relu', 'x')]), { ...card, input: { ...card.input, layout } });
}

async function made(prepared: PreparedModel, changes: Partial<typeof options> = {}) {
  const found = await findSynthetic(prepared, { ...options, ...changes }, new CountingRuntime(), never, quiet);
  // As it comes back from the store.
  const reader = syntheticSamples(prepared, JSON.parse(JSON.stringify(found)));
  const samples: Float32Array[] = [];
  for (let i = 0; i < reader.count; i++) samples.push(await reader.read(i));
  return { reader, samples };
}

const moments = (values: Iterable<number>) => {
  const list = [...values];
  const mean = list.reduce((a, b) => a + b, 0) / list.length;
  return { mean, deviation: Math.sqrt(list.reduce((sum, value) => sum + (value - mean) ** 2, 0) / list.length) };
};

t.test('a model with BatchNormalization says so, one without has its prior alone', async (t) => {
  t.equal((await made(withBatchNorm())).reader.source, 'batch-norm');
  t.equal((await made(withoutBatchNorm({}))).reader.source, 'prior');
});

t.test('the same model gives the same samples; another count another digest', async (t) => {
  for (const prepared of [withBatchNorm(), withoutBatchNorm({})]) {
    const [first, second] = [await made(prepared), await made(prepared)];
    t.equal(first.reader.count, 16);
    t.strictSame(first.samples, second.samples);
    t.equal(first.reader.digest, second.reader.digest);
    t.not((await made(prepared, { count: 8 })).reader.digest, first.reader.digest);
    t.equal(new Set(first.samples.map((sample) => sample.join())).size, 16, 'no two are alike');
    t.ok(
      first.samples.every(
        (sample) => sample.length === prepared.inputDims.reduce((a, b) => a * b, 1) && sample.every(Number.isFinite),
      ),
    );
  }
});

t.test(
  'samples fitted to BatchNormalization together come nearer to what it saw in training than the prior does',
  async (t) => {
    const prepared = withBatchNorm();
    const [norm] = prepared.batchNorms;
    const outputs = [info(norm!.tensor, null)];
    const oracle = await Oracle.open({ ...prepared.model, graph: { ...prepared.model.graph, outputs } }, 'disabled');
    const distance = async (samples: readonly Float32Array[]) => {
      const channels: number[][] = Array.from({ length: 6 }, () => []);
      for (const sample of samples) {
        const values = (await oracle.run(feed('x', prepared.inputDims, sample))).get(norm!.tensor)!.data;
        for (const [channel, list] of channels.entries())
          list.push(...(values.subarray(channel * 144, (channel + 1) * 144) as Float32Array));
      }
      return channels.reduce((sum, list, channel) => {
        const { mean, deviation } = moments(list);
        const unit = Math.abs(norm!.gamma[channel]!);
        return sum + ((mean - norm!.beta[channel]!) / unit) ** 2 + ((deviation - unit) / unit) ** 2;
      }, 0);
    };
    const fitted = await distance((await made(prepared)).samples);
    const prior = await distance((await made({ ...prepared, batchNorms: [] })).samples);
    await oracle.close();
    t.ok(fitted < prior * 0.8, `${fitted} instead of ${prior}`);
  },
);

t.test('without statistics, every second sample drives the outputs further, and to more classes', async (t) => {
  const winner = (scores: readonly number[]) => scores.indexOf(Math.max(...scores));
  const strengthOf = (list: readonly number[][]) =>
    Math.max(...list.map((scores) => Math.max(...scores) - moments(scores).mean));
  const classesOf = (list: readonly number[][]) => new Set(list.map(winner)).size;
  // Of few classes, in one network, one more or less is chance.
  const classes = { common: 0, exciting: 0 };
  for (let network = 0; network < 8; network++) {
    const prepared = { ...withBatchNorm({}, seed + network, 12), batchNorms: [] };
    const { samples } = await made(prepared, { count: 40 });
    const oracle = await Oracle.open(prepared.model, 'disabled');
    const outputs: number[][] = [];
    for (const sample of samples) {
      const results = await oracle.run(feed('x', prepared.inputDims, sample));
      outputs.push(Array.from(results.get(prepared.logits)!.data, Number));
    }
    await oracle.close();
    const [common, exciting] = [0, 1].map((parity) => outputs.filter((_, index) => index % 2 === parity));
    t.ok(strengthOf(exciting!) >= strengthOf(common!), `${strengthOf(exciting!)} and ${strengthOf(common!)}`);
    classes.common += classesOf(common!);
    classes.exciting += classesOf(exciting!);
  }
  t.ok(classes.exciting >= classes.common, `${classes.exciting} and ${classes.common} classes`);
});

t.test('pixels stay within the range that the preprocessing of the card gives them', async (t) => {
  for (const zeroPoint of [0, 127.5]) {
    const preprocess = { scale: 1 / 64, zeroPoint, mean: [0.5], std: [2] };
    const ends = [0, 255].map((pixel) => ((pixel - zeroPoint) / 64 - 0.5) / 2);
    const { samples } = await made(withoutBatchNorm(preprocess), { count: 48 });
    const values = samples.flatMap((sample) => [...sample]);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    t.ok(least >= ends[0]! - 1e-6 && most <= ends[1]! + 1e-6, `[${least}, ${most}] in [${ends}]`);
    t.ok(most - least > 0.9 * (ends[1]! - ends[0]!), 'and fill it');
  }
});

t.test('without statistics, inputs look like photographs after the preprocessing of the card', async (t) => {
  const cards: { preprocess: Preprocess; mean: number; deviation: number }[] = [
    { preprocess: {}, mean: 0, deviation: 1 },
    { preprocess: { scale: 1 / 255 }, mean: 118 / 255, deviation: 64 / 255 },
    {
      preprocess: { scale: 1 / 255, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] },
      mean: (118 / 255 - 0.5) * 4,
      deviation: 256 / 255,
    },
    { preprocess: { scale: 1 / 127.5, zeroPoint: 127.5 }, mean: 0, deviation: 64 / 127.5 },
  ];
  for (const { preprocess, mean, deviation } of cards) {
    const { samples } = await made(withoutBatchNorm(preprocess), { count: 96 });
    // Of the others, the model chose those that excite it.
    const found = moments(samples.filter((_, index) => index % 2 === 0).flatMap((sample) => [...sample]));
    t.ok(
      Math.abs(found.mean - mean) < 0.4 * deviation,
      `${JSON.stringify(preprocess)}: mean ${found.mean}, prior ${mean}`,
    );
    t.ok(
      found.deviation > 0.5 * deviation && found.deviation < 2 * deviation,
      `${JSON.stringify(preprocess)}: deviation ${found.deviation}, prior ${deviation}`,
    );
  }
});

t.test('vectors and channels-last images get samples too', async (t) => {
  const vector = await made(withoutBatchNorm({}, 'NC', [1, 40]));
  t.ok(vector.samples.every((sample) => moments(sample).deviation > 0.1));
  const { samples } = await made(withoutBatchNorm({ mean: [0, 100, 200], scale: 1 }, 'NHWC', [1, 8, 8, 3]));
  const channel = (at: number) => moments(samples.flatMap((sample) => [...sample].filter((_, i) => i % 3 === at))).mean;
  t.ok(
    Math.abs(channel(0) - channel(1) - 100) < 40 && Math.abs(channel(1) - channel(2) - 100) < 40,
    `${channel(0)}, ${channel(1)}, ${channel(2)}`,
  );
});

t.test('an abort ends the fitting with its session closed', async (t) => {
  const runtime = new CountingRuntime();
  const abort = new AbortController();
  abort.abort(new Error('enough'));
  await t.rejects(findSynthetic(withBatchNorm(), options, runtime, abort.signal, quiet), /enough/);
  t.strictSame([runtime.opened, runtime.closed], [1, 1]);
});
