/**
 * How well estimators rank operators (how well they rank whole plans, which is what they are for, is `sensitivity.ts`): Spearman's correlation, over the weighted operators of a model, between an estimator's
 * sensitivity at 4 bits (from calibration samples) and the exact one-at-a-time KL at 4 bits on other samples, temperature 1.
 * Baselines in the same run: local output error, relative weight error, and the exact KL on the calibration samples themselves.
 */
import { availableParallelism } from 'node:os';
import type { PreparedModel } from '../../agent/core/prepare.js';
import type { Estimator } from '../../agent/core/sensitivity/estimator.js';
import { exact } from '../../agent/core/sensitivity/exact.js';
import { logits } from '../../agent/core/sensitivity/logits.js';
import { maskEstimator } from '../../agent/core/sensitivity/mask.js';
import { mask4 } from '../../agent/core/sensitivity/mask4.js';
import { perturbation } from '../../agent/core/sensitivity/perturbation.js';
import { sqnr } from '../../agent/core/sensitivity/sqnr.js';
import type { SensitivityDocument } from '../../agent/core/sensitivity/table.js';
import { spearman } from '../../agent/core/statistics.js';
import type { Ports } from '../../agent/pipeline.js';
import type { SampleSource } from '../../agent/ports.js';
import { assess, defaultSampleCounts } from '../../agent/steps/assess.js';
import { table } from '../../agent/terminal.js';
import type { Precision } from '../../configs/contracts/plan.js';
import { type BenchModel, openBenchModel } from './models.js';

const probe: Precision = { weightBits: 4, activationBits: 32 };

/** Held-out samples for the truth. */
const heldOut = (macs: number) => (macs <= 60e6 ? 128 : 48);

const contenders: readonly { name: string; estimator: Estimator }[] = [
  { name: 'logits (default)', estimator: logits },
  { name: 'mask4', estimator: mask4 },
  { name: 'mask, seed 1', estimator: maskEstimator(1) },
  { name: 'mask, seed 2', estimator: maskEstimator(2) },
  { name: 'mask, seed 3', estimator: maskEstimator(3) },
  { name: 'exact, same samples', estimator: exact },
  { name: 'sqnr', estimator: sqnr },
  { name: 'perturbation', estimator: perturbation },
];

/** Prints the table; answers its rows. */
export async function rankingBench(models: readonly BenchModel[], ports: Ports, signal: AbortSignal): Promise<unknown> {
  const rows: {
    model: string;
    estimator: string;
    spearman: number;
    passes: number;
    seconds: number;
    operators: number;
  }[] = [];
  for (const model of models) {
    process.stderr.write(`${model.name}\n`);
    const { prepared, samples } = await openBenchModel(model);
    if (samples.calibration === null || samples.test === null) continue;
    const truth = await rank(prepared, samples.test, exact, heldOut(prepared.macs), ports, signal);
    const names = Object.keys(truth.weights);
    if (names.length < 4) continue;
    const expected = names.map((name) => truth.weights[name]!['4']!);
    for (const { name, estimator } of contenders) {
      const result = await rank(
        prepared,
        samples.calibration,
        estimator,
        defaultSampleCounts(prepared.macs).weights,
        ports,
        signal,
      );
      const correlation = spearman(
        expected,
        names.map((weight) => result.weights[weight]!['4']!),
      );
      rows.push({
        model: model.name,
        estimator: name,
        spearman: correlation,
        passes: result.forwards,
        seconds: result.seconds,
        operators: names.length,
      });
    }
  }
  const summary = contenders.map(({ name }) => {
    const own = rows.filter((row) => row.estimator === name);
    const mean = (of: (row: (typeof own)[number]) => number) => own.reduce((sum, row) => sum + of(row), 0) / own.length;
    return {
      estimator: name,
      models: own.length,
      spearman: mean((row) => row.spearman),
      least: Math.min(...own.map((row) => row.spearman)),
      passes: mean((row) => row.passes),
      seconds: mean((row) => row.seconds),
    };
  });
  const modelNames = [...new Set(rows.map((row) => row.model))];
  const cells = summary.map((entry) => [
    entry.estimator,
    ...modelNames.map((model) =>
      rows.find((row) => row.model === model && row.estimator === entry.estimator)!.spearman.toFixed(2),
    ),
    entry.spearman.toFixed(3),
    entry.passes.toFixed(1),
    entry.seconds.toFixed(1),
  ]);
  process.stdout.write(`${table(['estimator', ...modelNames, 'mean', 'passes', 'seconds'], cells)}\n`);
  return { rows, summary };
}

async function rank(
  prepared: PreparedModel,
  source: SampleSource,
  estimator: Estimator,
  samples: number,
  ports: Ports,
  signal: AbortSignal,
): Promise<SensitivityDocument> {
  const reader = {
    count: source.count,
    source: 'samples' as const,
    digest: source.digest,
    read: (index: number) => source.read(index),
  };
  const request = {
    precisionsOf: (index: number) => (prepared.operators[index]!.weight === null ? [] : [probe]),
    samples,
    activationSamples: samples,
    threads: availableParallelism(),
    kinds: ['weight'] as const,
    variant: 'ort' as const,
    saturates: false,
    channelMeans: null,
  };
  return assess(prepared, reader, {}, estimator, request, ports, signal, () => {});
}
