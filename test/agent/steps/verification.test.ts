/** Verifying passes of whole plans against outputs that are recomputed from the models. */
import t from 'tap';
import { klDivergence, normalizedSquaredDistance } from '../../../agent/core/divergence.js';
import { encode } from '../../../agent/core/onnx/codec.js';
import { makeTensor, readFloats } from '../../../agent/core/onnx/tensor.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import { PlanVerifier } from '../../../agent/steps/verification.js';
import type { ModelCard } from '../../../configs/contracts/card.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';
import { CountingRuntime, never, samplesOf } from '../../support/steps.js';

const seed = announceSeed();
const shape = [1, 3, 6, 6];
const random = new Random(seed + 1);
const data = Array.from({ length: 7 }, () => random.floats(108, 2));
const options = { most: 5, threads: 1 };

function network(end: 'softmax' | 'logits' | 'image', task: ModelCard['task']): PreparedModel {
  const builder = new NetworkBuilder(new Random(seed), shape);
  const hidden = builder.conv('x', { out: 6 });
  if (end === 'image')
    return prepare(builder.build([hidden, builder.conv(hidden, { out: 2 })]), imageCard(task, shape));
  const logits = builder.gemm(builder.pooled(hidden), 4);
  return prepare(
    builder.build([end === 'logits' ? logits : builder.same('Softmax', logits, { axis: -1 })]),
    imageCard(task, shape),
  );
}

/** The model with its first weight multiplied by a factor. */
function artifact({ model, operators }: PreparedModel, factor: number): Uint8Array {
  const { name } = operators[0]!.weight!;
  const tensor = model.graph.initializers.get(name)!;
  const values = readFloats(tensor).map((value) => value * factor);
  const initializers = new Map(model.graph.initializers).set(name, makeTensor(name, 'float32', tensor.dims, values));
  return encode({ ...model, graph: { ...model.graph, initializers } });
}

/** All outputs of one sample, one after the other; logarithms where the model ends in a Softmax. */
async function outputOf(prepared: PreparedModel, bytes: Uint8Array, sample: Float32Array): Promise<Float32Array> {
  const session = await new CountingRuntime().open(bytes, { threads: 1 });
  const results = await session.run(new Map([['x', { dims: shape, data: sample }]]));
  await session.close();
  const values = prepared.model.graph.outputs.flatMap(({ name }) => [...(results.get(name)!.data as Float32Array)]);
  return Float32Array.from(values, (value) => (prepared.endsInSoftmax ? Math.log(value) : value));
}

/** Half the variance of what the logits changed by. */
function halfVariance(reference: Float32Array, output: Float32Array): number {
  const changes = [...output].map((value, index) => value - reference[index]!);
  const mean = changes.reduce((sum, value) => sum + value, 0) / changes.length;
  return changes.reduce((sum, value) => sum + (value - mean) ** 2, 0) / changes.length / 2;
}

for (const [end, task] of [
  ['softmax', 'classification'],
  ['logits', 'classification'],
  ['image', 'other'],
] as const) {
  t.test(`${task} that ends in ${end}: the mean divergence over the last samples, none for float itself`, async (t) => {
    const prepared = network(end, task);
    const runtime = new CountingRuntime();
    const verifier = await PlanVerifier.open(prepared, samplesOf(data), options, runtime, never);
    t.equal(verifier.samples, 5);
    t.ok((await verifier.divergence(artifact(prepared, 1), never)).logits < 1e-9);
    const changed = artifact(prepared, 1.2);
    const expected = { logits: 0, exact: 0 };
    for (const sample of data.slice(-5)) {
      const reference = await outputOf(prepared, artifact(prepared, 1), sample);
      const output = await outputOf(prepared, changed, sample);
      const isClassifier = task === 'classification';
      const distance = normalizedSquaredDistance(reference, output);
      expected.logits += (isClassifier ? halfVariance(reference, output) : distance) / 5;
      expected.exact += (isClassifier ? klDivergence(reference, output) : distance) / 5;
    }
    const actual = await verifier.divergence(changed, never);
    for (const kind of ['logits', 'exact'] as const) {
      const [is, should] = [actual[kind], expected[kind]];
      t.ok(Math.abs(is - should) <= 1e-4 * should && should > 0, `${kind}: ${is}, expected ${should}`);
    }
    const { opened } = runtime;
    const again = await PlanVerifier.open(prepared, samplesOf(data), options, runtime, never, verifier.references);
    t.equal(runtime.opened, opened, 'answers of the float model that are known are not computed again');
    t.same(await again.divergence(changed, never), actual);
    t.equal(runtime.closed, runtime.opened);
  });
}

t.test('aborting stops a pass, with its session closed', async (t) => {
  const prepared = network('logits', 'classification');
  const runtime = new CountingRuntime();
  const verifier = await PlanVerifier.open(prepared, samplesOf(data), options, runtime, never);
  const reason = new Error('enough');
  await t.rejects(verifier.divergence(artifact(prepared, 1), AbortSignal.abort(reason)), reason);
  await t.rejects(PlanVerifier.open(prepared, samplesOf(data), options, runtime, AbortSignal.abort(reason)), reason);
  t.equal(runtime.closed, runtime.opened);
});
