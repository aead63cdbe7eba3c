/** The models and sample sets that benchmarks run on: the data folder's where there is one, always the bundled one. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readModel } from '../../agent/adapters/model-files.js';
import { openSampleSet, type SampleSet } from '../../agent/adapters/samples.js';
import { type PreparedModel, prepare } from '../../agent/core/prepare.js';
import { defaultEstimator } from '../../agent/core/sensitivity/registry.js';
import type { Job } from '../../agent/pipeline.js';
import type { ModelCard } from '../../configs/contracts/card.js';

export const packageRoot = resolve(fileURLToPath(new URL('../../..', import.meta.url)));

/** A model file with its sample set. */
export interface BenchModel {
  readonly name: string;
  readonly path: string;
  readonly data: string;
}

/** Models of the data folder (`QUANTD_DATA`, or ../shared/data beside the checkout) that have a card, and the bundled one. */
export function benchModels(environment: NodeJS.ProcessEnv, only: readonly string[]): BenchModel[] {
  const data = resolve(environment.QUANTD_DATA ?? join(packageRoot, '..', 'shared', 'data'));
  const bundled = join(packageRoot, 'scripts', 'firewatch', 'model');
  const models: BenchModel[] = [
    { name: 'firewatch-v2', path: join(bundled, 'firewatch-v2.onnx'), data: join(bundled, 'samples') },
  ];
  const folder = join(data, 'models');
  for (const file of existsSync(folder) ? readdirSync(folder).sort() : []) {
    if (!file.endsWith('.onnx')) continue;
    const name = file.slice(0, -'.onnx'.length);
    const card = JSON.parse(readFileSync(join(folder, `${name}.json`), 'utf8')) as ModelCard;
    if (card.set !== undefined) models.push({ name, path: join(folder, file), data: join(data, 'sets', card.set) });
  }
  return models.filter(({ name }) => only.length === 0 || only.some((wanted) => name.startsWith(wanted)));
}

export async function openBenchModel(
  model: BenchModel,
): Promise<{ prepared: PreparedModel; sha256: string; samples: SampleSet }> {
  const card = JSON.parse(readFileSync(model.path.replace(/\.onnx$/, '.json'), 'utf8')) as ModelCard;
  const file = await readModel(model.path);
  const prepared = prepare(file.model, card);
  return { prepared, sha256: file.sha256, samples: await openSampleSet(model.data, prepared.card, prepared.inputDims) };
}

export async function benchJob(model: BenchModel): Promise<Job> {
  const { prepared, sha256, samples } = await openBenchModel(model);
  return {
    prepared,
    modelSha256: sha256,
    calibration: samples.calibration,
    test: samples.test,
    budget: {},
    precisions: null,
    estimator: defaultEstimator,
    workThreads: availableParallelism(),
    variant: 'ort',
    rangeRule: 'auto',
  };
}
