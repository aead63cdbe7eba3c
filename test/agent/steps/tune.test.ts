/** The recipe that is chosen is the one nearest to float, by running every candidate oneself. */
import t from 'tap';
import { klDivergence, normalizedSquaredDistance } from '../../../agent/core/divergence.js';
import { prepare } from '../../../agent/core/prepare.js';
import type { RangeRule } from '../../../agent/core/quant/observer.js';
import { canRunInt8, emitQdq } from '../../../agent/core/quant/qdq.js';
import { calibrate } from '../../../agent/steps/calibrate.js';
import { recipeOf, tune } from '../../../agent/steps/tune.js';
import type { Precision } from '../../../configs/contracts/plan.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { feed, hasSaturatingKernels, Oracle } from '../../support/ort.js';
import { announceSeed, Random } from '../../support/seed.js';
import { CountingRuntime, never, quiet, samplesOf } from '../../support/steps.js';

const seed = announceSeed();
const rules: readonly RangeRule[] = ['mse', 'percentile', 'minmax'];
const saturates = hasSaturatingKernels();
const int8: Precision = { weightBits: 8, activationBits: 8 };

async function calibrated(task: 'classification' | 'other', endsInSoftmax: boolean) {
  const random = new Random(seed);
  const builder = new NetworkBuilder(random, [1, 3, 8, 8]);
  const hidden = builder.silu(builder.conv(builder.same('Relu', builder.conv('x', { out: 8 })), { out: 8 }));
  const logits = builder.gemm(builder.pooled(hidden), 5);
  const prepared = prepare(
    builder.build([endsInSoftmax ? builder.same('Softmax', logits, { axis: -1 }) : logits]),
    imageCard(task, [1, 3, 8, 8]),
  );
  // An outlier now and then, so that the rules differ.
  const samples = Array.from({ length: 6 }, () =>
    random.floats(192).map((value) => (random.next() < 0.01 ? value * 8 : value)),
  );
  const runtime = new CountingRuntime();
  const calibration = await calibrate(
    prepared,
    samplesOf(samples),
    { rules, bits: [8], threads: 1, most: 10 },
    runtime,
    never,
    quiet,
  );
  const precisions = new Map(prepared.operators.filter(canRunInt8).map((operator) => [operator.name, int8] as const));
  return { prepared, samples, calibration, precisions, runtime };
}

for (const [task, endsInSoftmax, variant] of [
  ['classification', true, 'ort'],
  ['classification', false, 'ort'],
  ['other', false, 'ort'],
  ['classification', true, 'tensorrt'],
] as const) {
  t.test(
    `${task}${endsInSoftmax ? ' with Softmax' : ''} for ${variant}: every recipe is scored as deployed, and the best is taken`,
    async (t) => {
      const { prepared, samples, calibration, precisions, runtime } = await calibrated(task, endsInSoftmax);
      const tuning = await tune(
        prepared,
        samplesOf(samples),
        calibration,
        { rules, int8: precisions, variant, saturates, threads: 1 },
        runtime,
        never,
        quiet,
      );
      t.equal(runtime.closed, runtime.opened);
      const output = prepared.model.graph.outputs[0]!.name;
      const outputsOf = async (model: Parameters<typeof Oracle.open>[0]) => {
        const oracle = await Oracle.open(model, 'all');
        const outputs: Float32Array[] = [];
        for (const data of samples)
          outputs.push((await oracle.run(feed('x', prepared.inputDims, data))).get(output)!.data);
        await oracle.close();
        return outputs;
      };
      const logits = (values: Float32Array) => (endsInSoftmax ? values.map(Math.log) : values);
      const float = await outputsOf(prepared.model);
      for (const rule of rules) {
        for (const hasBiasCorrection of [false, true]) {
          const { ranges, biasCorrections } = recipeOf(
            prepared,
            calibration,
            { rule, hasBiasCorrection },
            { variant, saturates },
          );
          t.equal(biasCorrections.size > 0, hasBiasCorrection);
          t.strictSame(Object.fromEntries(ranges), calibration.ranges[rule]!['8']);
          const quantized = await outputsOf(
            emitQdq(prepared.model, prepared.operators, precisions, ranges, {
              variant,
              saturates,
              biasCorrections,
            }),
          );
          const distances = quantized.map((values, i) =>
            task === 'other'
              ? normalizedSquaredDistance(float[i]!, values)
              : klDivergence(logits(float[i]!), logits(values)),
          );
          const expected = distances.reduce((a, b) => a + b, 0) / samples.length;
          const found = tuning.divergences[`${rule}${hasBiasCorrection ? ', bias corrected' : ''}`]!;
          t.ok(
            Math.abs(found - expected) <= 1e-3 * expected + 1e-12,
            `${rule}, ${hasBiasCorrection}: ${found}, expected ${expected}`,
          );
        }
      }
      const chosen = tuning.divergences[`${tuning.rule}${tuning.hasBiasCorrection ? ', bias corrected' : ''}`]!;
      t.equal(chosen, Math.min(...Object.values(tuning.divergences)));
      t.equal(Object.keys(tuning.divergences).length, 6);
    },
  );
}

t.test('an abort ends it with every session closed', async (t) => {
  const { prepared, samples, calibration, precisions, runtime } = await calibrated('other', false);
  const abort = new AbortController();
  abort.abort(new Error('enough'));
  await t.rejects(
    tune(
      prepared,
      samplesOf(samples),
      calibration,
      { rules, int8: precisions, variant: 'ort', saturates, threads: 1 },
      runtime,
      abort.signal,
      quiet,
    ),
    /enough/,
  );
  t.ok(runtime.opened > 1, 'it had begun');
  t.equal(runtime.closed, runtime.opened);
});
