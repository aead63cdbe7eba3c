/** Scores of a model against labels and against float, recomputed from the outputs. */
import t from 'tap';
import { encode } from '../../../agent/core/onnx/codec.js';
import type { Model } from '../../../agent/core/onnx/model.js';
import { makeTensor, readFloats } from '../../../agent/core/onnx/tensor.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import type { Session } from '../../../agent/ports.js';
import {
  assessQuality,
  comparedOutput,
  isClassifier,
  qualitySamples,
  scoreAgainst,
} from '../../../agent/steps/quality.js';
import type { ModelCard } from '../../../configs/contracts/card.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';
import { CountingRuntime, never, quiet, samplesOf } from '../../support/steps.js';

const seed = announceSeed();
const classes = 4;

function network(end: 'softmax' | 'reshaped softmax' | 'logits' | 'image', task: ModelCard['task']): PreparedModel {
  const builder = new NetworkBuilder(new Random(seed), [1, 3, 6, 6]);
  // Without biases and Relu the scores of noise are centred, so that samples fall into all classes, and other weights change some.
  const hidden = builder.conv('x', { out: 6, hasBias: false });
  if (end === 'image')
    return prepare(builder.build([hidden, builder.conv(hidden, { out: 2 })]), imageCard(task, [1, 3, 6, 6]));
  const logits = builder.gemm(builder.pooled(hidden), classes, true, false);
  const scores = end === 'logits' ? logits : builder.same('Softmax', logits, { axis: -1 });
  const output = end === 'reshaped softmax' ? builder.emit('Flatten', [scores], [1, classes]) : scores;
  return prepare(builder.build([output]), imageCard(task, [1, 3, 6, 6]));
}

/** The model with other weights: worse, but not at random. */
function disturbed({ model, operators }: PreparedModel): Model {
  const random = new Random(seed + 1);
  const initializers = new Map(model.graph.initializers);
  for (const { weight } of operators) {
    if (weight === null) continue;
    const tensor = initializers.get(weight.name)!;
    initializers.set(
      weight.name,
      makeTensor(
        weight.name,
        'float32',
        tensor.dims,
        readFloats(tensor).map((value) => value * (1 + 0.6 * random.normal())),
      ),
    );
  }
  return { ...model, graph: { ...model.graph, initializers } };
}

const random = new Random(seed + 2);
const data = Array.from({ length: 20 }, () => random.floats(108, 2));
const labels = data.map(() => random.below(classes));
const runtime = new CountingRuntime();
const open = (model: Model): Promise<Session> => runtime.open(encode(model), { threads: 1 });

async function outputsOf(prepared: PreparedModel, session: Session): Promise<Float32Array[]> {
  const outputs: Float32Array[] = [];
  for (const sample of data)
    outputs.push(
      comparedOutput(await session.run(new Map([['x', { dims: prepared.inputDims, data: sample }]])), prepared),
    );
  return outputs;
}

const softmax = (values: Float32Array) => {
  const exponentials = [...values].map((value) => Math.exp(value));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((value) => value / sum);
};
const best = (values: Float32Array) => values.indexOf(Math.max(...values));
const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
const isNear = (actual: number | null, expected: number) =>
  actual !== null && Math.abs(actual - expected) <= 1e-5 * (1 + Math.abs(expected));

for (const end of ['softmax', 'reshaped softmax', 'logits'] as const) {
  t.test(`a classifier that ends in ${end}: accuracy, agreement and KL`, async (t) => {
    const prepared = network(end, 'classification');
    const [float, other] = [await open(prepared.model), await open(disturbed(prepared))];
    const [references, outputs] = [await outputsOf(prepared, float), await outputsOf(prepared, other)];
    const { reference, qualities } = await assessQuality(
      prepared,
      samplesOf(data, labels),
      float,
      [other, float],
      never,
      quiet,
    );
    const share = (isRight: (i: number) => boolean) => mean(data.map((_, i) => (isRight(i) ? 1 : 0)));
    t.ok(
      isNear(
        reference.top1,
        share((i) => best(references[i]!) === labels[i]),
      ),
    );
    const [quality, same] = qualities;
    t.ok(
      isNear(
        quality!.top1,
        share((i) => best(outputs[i]!) === labels[i]),
      ),
    );
    t.ok(
      isNear(
        quality!.agreement,
        share((i) => best(outputs[i]!) === best(references[i]!)),
      ),
    );
    t.ok(quality!.agreement < 1, 'the other model is another one');
    const kl = data.map((_, i) => {
      const [p, q] = end !== 'logits' ? [references[i]!, outputs[i]!] : [softmax(references[i]!), softmax(outputs[i]!)];
      return [...p].reduce((sum, value, k) => sum + value * Math.log(value / q[k]!), 0);
    });
    t.ok(Math.abs(quality!.kl! - mean(kl)) <= 1e-3 * mean(kl), `${quality!.kl}, expected ${mean(kl)}`);
    const signal = references.flatMap((values) => [...values]).reduce((sum, value) => sum + value ** 2, 0);
    const error = references
      .flatMap((values, i) => [...values].map((value, k) => (value - outputs[i]![k]!) ** 2))
      .reduce((a, b) => a + b, 0);
    t.ok(isNear(quality!.sqnrDb, 10 * Math.log10(signal / error)));
    t.strictSame(same, { top1: reference.top1, agreement: 1, kl: 0, sqnrDb: null });

    t.strictSame(
      await scoreAgainst(prepared, samplesOf(data, labels), reference, [other], never),
      quality,
      'against what was kept',
    );
    for (const session of [float, other]) await session.close();
  });
}

t.test('without labels there is no accuracy, but there is agreement', async (t) => {
  const prepared = network('logits', 'classification');
  const float = await open(prepared.model);
  const { reference, qualities } = await assessQuality(prepared, samplesOf(data), float, [float], never, quiet);
  t.equal(reference.top1, null);
  t.strictSame(qualities, [{ top1: null, agreement: 1, kl: 0, sqnrDb: null }]);
  await float.close();
});

t.test('images and the like: the share of the variance that is reproduced, over all outputs', async (t) => {
  const prepared = network('image', 'reconstruction');
  const [float, other] = [await open(prepared.model), await open(disturbed(prepared))];
  const [references, outputs] = [await outputsOf(prepared, float), await outputsOf(prepared, other)];
  t.equal(references[0]!.length, 6 * 36 + 2 * 36);
  const { qualities } = await assessQuality(prepared, samplesOf(data, labels), float, [other], never, quiet);
  const expected = references.map((values, i) => {
    const center = mean([...values]);
    const variance = mean([...values].map((value) => (value - center) ** 2));
    return Math.max(0, 1 - mean([...values].map((value, k) => (value - outputs[i]![k]!) ** 2)) / variance);
  });
  t.ok(isNear(qualities[0]!.agreement, mean(expected)));
  t.strictSame([qualities[0]!.top1, qualities[0]!.kl], [null, null], 'labels mean nothing here');
  for (const session of [float, other]) await session.close();
});

t.test('what counts as a classifier', async (t) => {
  t.equal(isClassifier(network('logits', 'classification')), true);
  t.equal(isClassifier(network('softmax', 'other')), true, 'shown by its Softmax');
  t.equal(isClassifier(network('reshaped softmax', 'other')), true, 'reshaped afterwards');
  t.equal(isClassifier(network('logits', 'other')), false);
  t.equal(isClassifier(network('softmax', 'detection')), false, 'the card knows better');
  t.equal(isClassifier(network('image', 'other')), false);
});

t.test('sets are cut where the outputs of the float model would fill the memory', async (t) => {
  const prepared = network('logits', 'classification');
  const many = { ...samplesOf(data), count: 10_000_000 };
  t.equal(qualitySamples(prepared, samplesOf(data)), data.length);
  const shapes = new Map(prepared.shapes).set(prepared.model.graph.outputs[0]!.name, [1, 85, 100, 100]);
  const limit = qualitySamples({ ...prepared, shapes }, many);
  t.ok(limit >= 1 && limit * 85 * 100 * 100 * 4 <= 2 ** 28, String(limit));
  t.equal(
    qualitySamples(
      { ...prepared, shapes: new Map(shapes).set(prepared.model.graph.outputs[0]!.name, [2 ** 29]) },
      many,
    ),
    1,
  );
});

t.test('an abort ends it', async (t) => {
  const prepared = network('logits', 'classification');
  const float = await open(prepared.model);
  const abort = new AbortController();
  abort.abort(new Error('enough'));
  await t.rejects(assessQuality(prepared, samplesOf(data), float, [], abort.signal, quiet), /enough/);
  await float.close();
});
