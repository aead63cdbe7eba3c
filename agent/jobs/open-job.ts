import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { ModelCard } from '../../configs/contracts/card.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget, Precision } from '../../configs/contracts/plan.js';
import { validate } from '../../configs/contracts/validate.js';
import { readModel } from '../adapters/model-files.js';
import { openSampleSet } from '../adapters/samples.js';
import { buildImage } from '../core/image/build.js';
import { engineCandidates } from '../core/image/precisions.js';
import { formatPrecision, parsePrecisions } from '../core/precision.js';
import { type PreparedModel, prepare } from '../core/prepare.js';
import type { QdqVariant } from '../core/quant/affine.js';
import { findEstimator } from '../core/sensitivity/registry.js';
import { isMcuTargetName, isTargetName, targetNames } from '../core/target-name.js';
import type { Job } from '../pipeline.js';

/** What the job commands take; precisions as typed on the command line. */
export interface JobOptions {
  readonly model: string;
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

/** Reads and checks everything a job needs from disk, before anything long begins. */
export async function openJob(options: JobOptions): Promise<Job & { calibrationFromTest: boolean }> {
  if (!isTargetName(options.target) && !isMcuTargetName(options.target)) {
    throw new EdgeError('target/unknown', `target "${options.target}" is not available`, {
      subject: options.target,
      hint: `Available here: ${targetNames.join(', ')}, and microcontrollers: mcu:/dev/..., mcu:host, mcu:qemu-BOARD.`,
    });
  }
  const runsImages = options.target !== 'ort';
  if (runsImages && options.variant === 'tensorrt') {
    throw new EdgeError('usage/invalid', 'the engine runs images, not QDQ models for TensorRT', {
      subject: '--variant',
    });
  }
  findEstimator(options.estimator);
  const { budget } = options;
  const precisions = options.precisions === undefined ? null : parsePrecisions(options.precisions);
  checkPrecisions(precisions, options.target);
  const { model, sha256 } = await readModel(options.model);
  const prepared = prepare(model, await readCard(options));
  const variant = runsImages ? 'native' : options.variant;
  if (variant === 'native') checkEngine(prepared);
  const set = options.data === undefined ? null : await openSampleSet(options.data, prepared.card, prepared.inputDims);
  if (budget.drop !== undefined && (set?.test?.labels ?? null) === null) {
    throw new EdgeError('budget/invalid', 'a largest drop of top-1 needs labelled test samples', {
      subject: 'drop',
      hint: 'Give a sample set with test samples and labels.csv, or ask for agreement=99% with the float model instead.',
    });
  }
  return {
    prepared,
    modelSha256: sha256,
    calibration: set?.calibration ?? null,
    test: set?.test ?? null,
    calibrationFromTest: set?.calibrationFromTest ?? false,
    budget,
    precisions,
    estimator: options.estimator,
    workThreads: availableParallelism(),
    variant,
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
