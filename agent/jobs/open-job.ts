import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { ModelCard } from '../../configs/contracts/card.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget, Precision } from '../../configs/contracts/plan.js';
import { validate } from '../../configs/contracts/validate.js';
import { fileDigest, readModel } from '../adapters/model-files.js';
import { openSampleSet } from '../adapters/samples.js';
import { buildImage } from '../core/image/build.js';
import { engineCandidates } from '../core/image/precisions.js';
import { type Master, masterOf, preparedFrom } from '../core/master.js';
import { formatPrecision, parsePrecisions } from '../core/precision.js';
import { type PreparedModel, prepare } from '../core/prepare.js';
import type { ArtifactVariant, QdqVariant } from '../core/quant/affine.js';
import { findEstimator } from '../core/sensitivity/registry.js';
import { isMcuTargetName, isTargetName, targetNames } from '../core/target-name.js';
import { contentKey } from '../digest.js';
import type { Job } from '../pipeline.js';
import type { Store } from '../ports.js';

/** Version of how masters are stored. */
const masterVersion = 1;

/** What the job commands take; precisions as typed on the command line. */
export interface JobOptions {
  readonly model: string;
  /** Digest of the model, where it is known. */
  readonly modelSha256?: string;
  readonly card?: string;
  readonly data?: string;
  readonly target: string;
  readonly budget: Budget;
  readonly precisions?: string;
  readonly estimator: string;
  readonly threads: number;
  readonly variant: QdqVariant;
  readonly range: Job['rangeRule'];
  readonly state: string;
}

/** A job, and whether its calibration samples were taken from the test set. */
export type OpenJob = Job & { readonly calibrationFromTest: boolean };

/** Reads and checks everything a job needs from disk, before anything long begins. */
export async function openJob(options: JobOptions): Promise<OpenJob> {
  checkOptions(options);
  const { model, sha256 } = await readModel(options.model);
  const prepared = prepare(model, await readCard(options));
  if (variantOf(options) === 'native') checkEngine(prepared);
  return jobOf(options, prepared, sha256);
}

/**
 * The same from the master of the model, without reading the model itself; null where the store has none for the engine. What such a
 * job turns out to lack it says by throwing FloatModelNeeded.
 */
export async function openJobFromMaster(options: JobOptions, store: Store): Promise<OpenJob | null> {
  if (variantOf(options) !== 'native') return null;
  checkOptions(options);
  const sha256 = options.modelSha256 ?? (await fileDigest(options.model));
  const master = store.result(masterKey(sha256, await readCard(options))) as Master | null;
  if (master === null) return null;
  return { ...(await jobOf(options, preparedFrom(master), sha256)), isMaster: true };
}

/** Keeps the master of a job's model for `openJobFromMaster`. */
export async function keepMaster(
  options: JobOptions,
  { prepared, modelSha256, variant }: Job,
  store: Store,
): Promise<void> {
  const key = masterKey(modelSha256, await readCard(options));
  if (variant === 'native' && store.result(key) === null) store.putResult(key, 'master', masterOf(prepared));
}

function masterKey(modelSha256: string, card: ModelCard | null): string {
  return contentKey(['master', masterVersion, modelSha256, card]);
}

function variantOf({ target, variant }: JobOptions): ArtifactVariant {
  return target === 'ort' ? variant : 'native';
}

function checkOptions(options: JobOptions): void {
  if (!isTargetName(options.target) && !isMcuTargetName(options.target)) {
    throw new EdgeError('target/unknown', `target "${options.target}" is not available`, {
      subject: options.target,
      hint: `Available here: ${targetNames.join(', ')}, and microcontrollers: mcu:/dev/..., mcu:host, mcu:qemu-BOARD.`,
    });
  }
  if (options.target !== 'ort' && options.variant === 'tensorrt') {
    throw new EdgeError('usage/invalid', 'the engine runs images, not QDQ models for TensorRT', {
      subject: '--variant',
    });
  }
  findEstimator(options.estimator);
  checkPrecisions(precisionsOf(options), options.target);
}

function precisionsOf({ precisions }: JobOptions): readonly Precision[] | null {
  return precisions === undefined ? null : parsePrecisions(precisions);
}

async function jobOf(options: JobOptions, prepared: PreparedModel, modelSha256: string): Promise<OpenJob> {
  const { budget } = options;
  const set = options.data === undefined ? null : await openSampleSet(options.data, prepared.card, prepared.inputDims);
  if (budget.drop !== undefined && (set?.test?.labels ?? null) === null) {
    throw new EdgeError('budget/invalid', 'a largest drop of top-1 needs labelled test samples', {
      subject: 'drop',
      hint: 'Give a sample set with test samples and labels.csv, or ask for agreement=99% with the float model instead.',
    });
  }
  return {
    prepared,
    modelSha256,
    calibration: set?.calibration ?? null,
    test: set?.test ?? null,
    calibrationFromTest: set?.calibrationFromTest ?? false,
    budget,
    precisions: precisionsOf(options),
    estimator: options.estimator,
    workThreads: availableParallelism(),
    variant: variantOf(options),
    rangeRule: options.range,
  };
}

/** A precision that no operator can have on the target is a mistake, not a candidate. */
function checkPrecisions(precisions: readonly Precision[] | null, target: string): void {
  const [runnable, hint] =
    target !== 'ort'
      ? [
          engineCandidates.map(formatPrecision),
          `On target ${target}: ${engineCandidates.map(formatPrecision).join(', ')}.`,
        ]
      : [
          ['float', 'W8A8', 'W4A32'],
          'On target ort: float, W8A8, and W4A32 (block-wise 4-bit weights of MatMul and Gemm).',
        ];
  for (const precision of precisions ?? []) {
    const name = formatPrecision(precision);
    if (runnable.includes(name)) continue;
    throw new EdgeError('usage/invalid', `no operator runs at ${name} there`, { subject: '--precisions', hint });
  }
}

/** Whether the engine has a form for everything in a model is known by building it, whatever the ranges. */
function checkEngine(prepared: PreparedModel): void {
  buildImage(prepared, new Map(), {
    rangeOf: () => ({ minimum: -1, maximum: 1 }),
    pairSafe: false,
    biasCorrection: () => null,
  });
}

async function readCard(options: JobOptions): Promise<ModelCard | null> {
  const path = options.card ?? options.model.replace(/\.onnx$/i, '.json');
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (options.card === undefined) return null;
    throw new EdgeError('card/invalid', 'the model card cannot be read', { subject: path, cause });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new EdgeError('card/invalid', `the model card is not JSON: ${(cause as Error).message}`, {
      subject: path,
      cause,
    });
  }
  return validate(ModelCard, value, 'card/invalid', path);
}
