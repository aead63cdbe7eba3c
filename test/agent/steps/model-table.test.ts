/** What of a finished run leaves the device. */
import t from 'tap';
import { LatencyTable, runOverheadKey } from '../../../agent/core/latency.js';
import { prepare } from '../../../agent/core/prepare.js';
import type { Job, QuantizeResult } from '../../../agent/pipeline.js';
import { modelTable } from '../../../agent/steps/model-table.js';
import type { LatencyRow } from '../../../configs/contracts/plan.js';
import { fewestSamples, ModelTable } from '../../../configs/contracts/tables.js';
import { validate } from '../../../configs/contracts/validate.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';

const dims = [1, 3, 8, 8];
const builder = new NetworkBuilder(new Random(announceSeed()), dims);
const prepared = prepare(
  builder.build([builder.gemm(builder.pooled(builder.conv('x', { out: 8 })), 4)]),
  imageCard('classification', dims),
);

const row = (operatorKey: string): LatencyRow => {
  const rest = { spread: 0, repeats: 1, throttled: false, energyJoules: null, measuredAt: '2026-01-01T00:00:00Z' };
  return { operatorKey, precision: 'float', minimum: 1, median: 2, ...rest };
};

/** A run as far as its table needs it, with sensitivities that are means over so many samples. */
function result(samples: number, source: 'samples' | 'prior'): QuantizeResult {
  const operators = prepared.operators.map(({ name }) => ({
    name,
    choices: [
      { precision: 'float', format: 'f32', costs: { sensitivity: 0.5, latency: 2, bytes: 3, energy: null, bitOps: 4 } },
    ],
  }));
  const fixed = { latency: 1, bytes: 1, ramBytes: 0 };
  return {
    identity: { kind: 'ort' },
    counter: 'nanoseconds',
    experience: { ratio: 1.1, int8Ratio: null },
    sensitivity: { estimator: 'logits', samples },
    calibration: { source, samples },
    tuning: { rule: 'mse' },
    table: new LatencyTable([
      ...prepared.operators.map(({ key }) => row(key)),
      row(runOverheadKey),
      row('of another model'),
    ]),
    candidates: { operators, edges: [], ties: [], fixed },
    chosen: null,
  } as unknown as QuantizeResult;
}

const job = (variant: Job['variant']) => ({ prepared, variant, modelSha256: 'a'.repeat(64) }) as Job;

t.test('rows of the model, and the problem with the keys of its operators, as the contract has them', async (t) => {
  const table = validate(ModelTable, modelTable(job('ort'), result(32, 'samples')), 'document/invalid', 'table');
  t.same(
    table.problem!.operators.map(({ name, key, type }) => ({ name, key, type })),
    prepared.operators.map(({ name, key, op }) => ({ name, key, type: op })),
  );
  const keys = table.rows.map(({ operatorKey }) => operatorKey);
  t.same(new Set(keys), new Set([...prepared.operators.map(({ key }) => key), runOverheadKey]));
  const native = modelTable(job('native'), result(32, 'samples')).rows.map(({ operatorKey }) => operatorKey);
  t.ok(native.includes(`${runOverheadKey} ${'a'.repeat(64)}`), "the engine's overhead is that of the model");
});

t.test('sensitivities of so few samples that they could tell of one stay on the device', async (t) => {
  t.equal(modelTable(job('ort'), result(fewestSamples - 1, 'samples')).problem, null);
  t.not(modelTable(job('ort'), result(fewestSamples, 'samples')).problem, null);
  t.not(modelTable(job('ort'), result(1, 'prior')).problem, null, 'made-up samples have nothing to hide');
});
