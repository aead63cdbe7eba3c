/** A model with all that plans of patches are made from and judged by: its cut, ranges, sensitivities, values of its feature maps, samples. */
import { availableParallelism } from 'node:os';
import { activationBits, buildImage, type ImageOptions } from '../../agent/core/image/build.js';
import { cutStage } from '../../agent/core/plan/patch-geometry.js';
import { costLayered, type PatchMemory, type PatchPlan, searchPatches } from '../../agent/core/plan/patches.js';
import { type CodeLimits, outlierLimits } from '../../agent/core/plan/value-classes.js';
import type { LatencyOf } from '../../agent/core/plan/value-plan.js';
import {
  bitOperationCost,
  buildValueProblem,
  type ClassPrecisions,
  type PatchCut,
  type PatchValueProblem,
} from '../../agent/core/plan/value-problem.js';
import { entropyLoss } from '../../agent/core/plan/value-search.js';
import type { PreparedModel } from '../../agent/core/prepare.js';
import { unsignedAffine } from '../../agent/core/quant/affine.js';
import { findEstimator } from '../../agent/core/sensitivity/registry.js';
import { SensitivityTable } from '../../agent/core/sensitivity/table.js';
import type { Ports } from '../../agent/pipeline.js';
import type { SampleSource, Session } from '../../agent/ports.js';
import { assess, defaultSampleCounts } from '../../agent/steps/assess.js';
import { calibrate } from '../../agent/steps/calibrate.js';
import { type Classes, PatchSimulation, patchWindows } from '../../agent/steps/patch-simulation.js';
import { type Quality, scoreAgainst } from '../../agent/steps/quality.js';
import { type Refinement, type RefineOptions, refine } from '../../agent/steps/refine.js';
import type { SampleReader } from '../../agent/steps/samples.js';
import { type CodeHistogram, fitInput, gatherHistograms, voteOnPatches } from '../../agent/steps/value-statistics.js';
import type { Bits, Precision, Range } from '../../configs/contracts/plan.js';
import { inMemory, Judge } from './judge.js';
import { type BenchModel, openBenchModel } from './models.js';

export const threads = availableParallelism();
/**
 * Thresholds phi that are tried, see `outlierLimits`: how many patches hold an outlier depends on the samples' normalisation and on the grid. The
 * one is taken that makes outlier patches of about a third of the calibration set's (0.96 does on pictures of ImageNet).
 */
const thresholds = [0.5, 0.6, 0.7, 0.8, 0.9, 0.92, 0.93, 0.935, 0.94, 0.945, 0.95, 0.96, 0.97, 0.98, 0.99, 0.999];
const wantedOutliers = 1 / 3;
/** Widths that plans may have. */
export interface Widths {
  readonly activations: readonly Bits[];
  readonly weights: readonly Bits[];
}

/** The paper's, for activations; of weights, those that microcontrollers' kernels gain by. */
export const coarse: Widths = { activations: [8, 4, 2], weights: [8, 4] };
/** The engine computes with all of these, and counts them; only the coarse ones are faster or smaller on a microcontroller today. */
export const fine: Widths = { activations: [8, 6, 5, 4, 2], weights: [8, 6, 5, 4] };
export const memory: Omit<PatchMemory, 'bitsOf'> = { isInputStreamed: true, isInPlace: true };
const int8: Precision = { weightBits: 8, activationBits: 8 };
const quiet = () => {};

/** What is asked of a model: RAM that patch-based int8 has to fit, and how many samples it is worth. */
export interface PatchTask {
  readonly ceilingBytes: number;
  readonly testSamples: number;
  readonly roundingSamples: number;
}

/** A model with its tables. */
export interface PatchSubject {
  readonly prepared: PreparedModel;
  readonly task: PatchTask;
  readonly cut: PatchCut;
  readonly layered: PatchPlan;
  readonly patched: PatchPlan;
  readonly sensitivity: SensitivityTable;
  /** Weights that were rounded layer by layer for each width by itself; of 8 bits they are rounded to nearest. */
  readonly widthWeights: ReadonlyMap<Bits, Refinement>;
  /** Share of outlier patches in the calibration set by threshold, and the one that was taken. */
  readonly thresholds: readonly { readonly threshold: number; readonly outlierShare: number }[];
  readonly threshold: number;
  /** How often each patch is an outlier patch in the calibration set, and the positions where most are. */
  readonly outlierShares: readonly number[];
  readonly majority: readonly boolean[];
  readonly limits: CodeLimits;
  readonly calibration: SampleSource & SampleReader;
  readonly test: Judge;
  readonly testSamples: SampleSource;
  readonly check: Judge;
  readonly checkSamples: SampleSource;
  readonly histograms: ReadonlyMap<string, CodeHistogram>;
  readonly rangeOf: (tensor: string, bits: number) => Range | undefined;
  readonly ports: Ports;
  readonly signal: AbortSignal;
}

export async function openPatchSubject(
  model: BenchModel,
  task: PatchTask,
  ports: Ports,
  signal: AbortSignal,
): Promise<PatchSubject | null> {
  const { prepared, samples } = await openBenchModel(model);
  if (samples.calibration === null || samples.test === null) return null;
  const calibration = await inMemory(samples.calibration, task.roundingSamples);
  const testSamples = await inMemory(samples.test, task.testSamples);
  const atEight = { ...memory, bitsOf: () => 8 };
  const { plan: patched, isWithin } = searchPatches(prepared, task.ceilingBytes, atEight);
  if (!isWithin || patched.split === 0)
    throw new Error(`${model.name} has no patches within ${task.ceilingBytes} bytes`);
  const cut = { stage: cutStage(prepared, patched.split), grid: patched.grid };
  const request = { rules: ['mse'] as const, bits: fine.activations, threads, most: 64 };
  const { ranges } = await calibrate(prepared, calibration, request, ports.runtime, signal, quiet);
  const rangesByBits = ranges.mse!;
  const rangeOf = (tensor: string, bits: number) => rangesByBits[bits]?.[tensor];
  const widthWeights = new Map<Bits, Refinement>();
  for (const weightBits of fine.weights) {
    if (weightBits === 8) continue;
    const precisions = new Map(int8Precisions(prepared).plain);
    for (const [name, precision] of precisions) precisions.set(name, { ...precision, weightBits });
    const inputRange = rangeOf(prepared.card.input.name, 8)!;
    const found = await refine(prepared, precisions, calibration, inputRange, recipe(task), ports, signal, quiet);
    widthWeights.set(weightBits, found);
  }
  const counts = defaultSampleCounts(prepared.macs);
  const document = await assess(
    prepared,
    calibration,
    rangesByBits,
    findEstimator('logits'),
    {
      precisionsOf: () =>
        fine.weights.flatMap((weightBits) =>
          fine.activations.map((activationBits) => ({ weightBits, activationBits })),
        ),
      samples: counts.weights,
      activationSamples: counts.activations,
      threads,
      kinds: ['weight', 'activation'],
      variant: 'native',
      saturates: false,
      channelMeans: null,
      rounded: (operator, bits) => widthWeights.get(bits as Bits)?.operators[operator] ?? null,
    },
    ports,
    signal,
    quiet,
  );
  const tensors = prepared.operators.flatMap(({ weight, inputs }) => (weight === null ? [] : [inputs[0]!]));
  const histograms = await gatherHistograms(
    prepared,
    [...new Set(tensors)],
    (tensor) => rangeOf(tensor, 8)!,
    calibration,
    { most: 32, threads },
    ports.runtime,
    signal,
  );
  const input = prepared.card.input.name;
  const grid = unsignedAffine(rangeOf(input, 8)!, 8);
  const gaussian = await fitInput(calibration, calibration.count);
  const image = cut.stage.tensors[cut.stage.input]!;
  const classified = [];
  for (const threshold of thresholds) {
    const limits = outlierLimits(gaussian, threshold, grid);
    const votes = await voteOnPatches(image, patchWindows(cut), limits, grid, calibration, calibration.count);
    const outlierShare = votes.shares.reduce((a, b) => a + b, 0) / votes.shares.length;
    classified.push({ threshold, limits, votes, outlierShare });
  }
  const distance = ({ outlierShare }: { outlierShare: number }) => Math.abs(outlierShare - wantedOutliers);
  const { threshold, limits, votes } = classified.reduce((a, b) => (distance(b) < distance(a) ? b : a));
  const checkSamples = { ...calibration, labels: null };
  return {
    prepared,
    task,
    cut,
    layered: costLayered(prepared, atEight),
    patched,
    sensitivity: new SensitivityTable(document),
    widthWeights,
    thresholds: classified.map(({ threshold, outlierShare }) => ({ threshold, outlierShare })),
    threshold,
    outlierShares: votes.shares,
    majority: votes.majority,
    limits,
    calibration,
    test: await Judge.open(prepared, testSamples, ports.runtime, signal),
    testSamples,
    check: await Judge.open(prepared, checkSamples, ports.runtime, signal),
    checkSamples,
    histograms,
    rangeOf,
    ports,
    signal,
  };
}

/** What is lost at fewer bits: the paper's entropy, or the estimate that the planner of whole models goes by. */
export type Loss = 'entropy' | 'sensitivity';

/**
 * The search's problem; `outlierShares` null: without classes. Computation is bit operations with 8-bit weights or, where it is known, the time
 * that operators take with the weights that are fastest.
 */
export function problemOf(
  { prepared, cut, sensitivity, histograms, rangeOf, task }: PatchSubject,
  loss: Loss,
  { activations: candidates, weights }: Widths,
  outlierShares: readonly number[] | null,
  latencyOf: LatencyOf | null,
): PatchValueProblem {
  const losses = {
    entropy: (tensor: string, bits: Bits) => {
      const known = histograms.get(tensor);
      const range = rangeOf(tensor, bits);
      if (known === undefined || range === undefined || bits === 8) return 0;
      return entropyLoss(known.counts, known.grid, unsignedAffine(range, bits));
    },
    sensitivity: (tensor: string, bits: Bits) => sensitivity.activation(tensor, bits),
  };
  return buildValueProblem(prepared, cut, {
    candidates,
    weightBits: () => 8,
    costOf:
      latencyOf === null
        ? bitOperationCost(() => 8)
        : (operator, activationBits) =>
            Math.min(...weights.map((weightBits) => latencyOf(operator, { weightBits, activationBits }))),
    lossOf: losses[loss],
    outlierShares,
    memory,
    ceilingBytes: task.ceilingBytes,
  });
}

/** Weights, biases and ranges for the precisions of patches without outliers; those with outliers have the same weights. */
export function refined({ prepared, calibration, task, rangeOf, ports, signal }: PatchSubject, of: ClassPrecisions) {
  const inputRange = rangeOf(prepared.card.input.name, 8)!;
  return refine(prepared, of.plain, calibration, inputRange, recipe(task), ports, signal, quiet);
}

function recipe({ roundingSamples }: PatchTask): RefineOptions {
  const passes = { rule: 'mse', rounds: true, aims: true, correctsBiases: true, saturates: false } as const;
  return { ...passes, threads, samplesMost: roundingSamples };
}

/**
 * How images of a plan are written. With a refinement of the plan: its weights, and its ranges where a tensor has the plan's bits. Without: weights
 * that each width has by itself, and ranges as calibrated.
 */
export function imageOptions(
  { prepared, rangeOf, widthWeights }: PatchSubject,
  { plain }: ClassPrecisions,
  refinement: Refinement | null,
): ImageOptions {
  const bits = activationBits(prepared, plain);
  const own = (tensor: string, width: number) =>
    width === (bits.get(tensor) ?? 8) ? refinement?.ranges[tensor] : undefined;
  return {
    rangeOf: (tensor, width) => own(tensor, width) ?? rangeOf(tensor, width),
    pairSafe: false,
    biasCorrection: () => null,
    roundedOf: ({ name }, { weightBits }) => (refinement ?? widthWeights.get(weightBits))?.operators[name] ?? null,
  };
}

/** Runs a plan over samples that a judge knows; `classes` null: all patches are alike, and so is what layers compute. */
export async function judged(
  subject: PatchSubject,
  precisions: ClassPrecisions,
  options: ImageOptions,
  classes: Classes | null,
  set: 'test' | 'check',
): Promise<{ quality: Quality; outlierShares: readonly number[] | null }> {
  const { prepared, cut, ports, signal } = subject;
  const samples = set === 'test' ? subject.testSamples : subject.checkSamples;
  const session: Session =
    classes === null
      ? await ports.runtime.open(buildImage(prepared, precisions.plain, options).bytes, { threads })
      : await PatchSimulation.open(prepared, cut, precisions, classes, options, { runtime: ports.runtime, threads: 1 });
  try {
    const quality = await scoreAgainst(prepared, samples, subject[set].reference, [session], signal);
    return { quality, outlierShares: session instanceof PatchSimulation ? session.votes.shares : null };
  } finally {
    await session.close();
  }
}

/** Uniform int8, for both classes. */
export function int8Precisions({ operators }: PreparedModel): ClassPrecisions {
  const all = new Map(operators.flatMap(({ name, weight }) => (weight === null ? [] : [[name, int8] as const])));
  return { plain: all, outlier: all };
}
