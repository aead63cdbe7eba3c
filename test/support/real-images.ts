/** Images of the trained models in the data folder, for tests of what executes images. */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readModel } from '../../agent/adapters/model-files.js';
import { openSampleSet } from '../../agent/adapters/samples.js';
import { type BuiltImage, buildImage, type ImageOptions } from '../../agent/core/image/build.js';
import { parsePrecision } from '../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../agent/core/prepare.js';
import type { ModelCard } from '../../configs/contracts/card.js';
import type { Precision } from '../../configs/contracts/plan.js';
import { rangesOver } from './networks.js';
import type { Random } from './seed.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
/** Folder of trained models and their sample sets. */
export const dataFolder = resolve(root, process.env.QUANTD_DATA ?? '../shared/data');

/** Why tests with trained models are skipped; false where they need not be. */
export const skipsModels = !existsSync(join(dataFolder, 'models')) && `no models in ${dataFolder}`;

/** A trained model, and how its activations lie on a few samples of its set. */
export interface RealModel {
  readonly name: string;
  readonly prepared: PreparedModel;
  readonly samples: readonly Float32Array[];
  readonly ranges: Awaited<ReturnType<typeof rangesOver>>;
}

/** Opens a model of the data folder with its first samples. */
export async function openRealModel(name: string, sampleCount = 3): Promise<RealModel> {
  const path = join(dataFolder, 'models', `${name}.onnx`);
  const card = JSON.parse(readFileSync(path.replace(/\.onnx$/, '.json'), 'utf8')) as ModelCard;
  const prepared = prepare((await readModel(path)).model, card);
  const set = await openSampleSet(join(dataFolder, 'sets', card.set!), prepared.card, prepared.inputDims);
  const samples: Float32Array[] = [];
  for (let index = 0; index < sampleCount; index++) samples.push(await set.calibration!.read(index));
  return { name, prepared, samples, ranges: await rangesOver(prepared, samples) };
}

/** Its image, and what its activations take by plan, at one precision, or, with a generator, at one drawn for each operator. */
export function realImage(
  { prepared, ranges }: RealModel,
  precision: string | Random,
  form: Pick<ImageOptions, 'packer' | 'patches' | 'arenaCeilingBytes'> = {},
): BuiltImage {
  const choices: Precision[] = ['W8A8', 'W4A8', 'W4A4', 'W2A8', 'W2A2'].map(parsePrecision);
  const precisions = prepared.operators.map((operator): [string, Precision] => {
    const chosen = typeof precision === 'string' ? parsePrecision(precision) : precision.pick(choices);
    const readsInput = operator.inputs.includes(prepared.card.input.name);
    return [operator.name, readsInput ? { ...chosen, activationBits: 8 } : chosen];
  });
  return buildImage(prepared, new Map(precisions), {
    rangeOf: (tensor) => ranges.get(tensor),
    pairSafe: false,
    biasCorrection: () => null,
    ...form,
  });
}
