/**
 * The judge of sensitivity estimators (the protocol of EMQ, arXiv 2307.10554): random plans of equal average bits are run as images on
 * our own engine over held-out samples, and an estimator is worth as much as its predictions rank them like their true divergence.
 * An estimator sees calibration samples only, and is asked for every width that the engine's candidates have, as in production.
 *
 * Predictions: for estimators the sum of what they say of the plan's weights and of the tensors that these operators read; all the
 * rest is alike in all plans. Baselines: average bits, and the noise-to-signal ratio of the weights, summed. `verified` is one
 * pass of the plan over calibration samples, as plans are ranked by before one is chosen.
 */
import { availableParallelism } from 'node:os';
import { enginePrecisions } from '../../agent/core/image/precisions.js';
import { readingGroups } from '../../agent/core/plan/engine-problem.js';
import type { PreparedModel } from '../../agent/core/prepare.js';
import type { RangeRule } from '../../agent/core/quant/observer.js';
import type { Estimator } from '../../agent/core/sensitivity/estimator.js';
import { estimators, findEstimator } from '../../agent/core/sensitivity/registry.js';
import { SensitivityTable } from '../../agent/core/sensitivity/table.js';
import { kendall, median, quantile, spearman } from '../../agent/core/statistics.js';
import type { Ports } from '../../agent/pipeline.js';
import type { SampleSource } from '../../agent/ports.js';
import { apply } from '../../agent/steps/apply.js';
import { assess, defaultSampleCounts } from '../../agent/steps/assess.js';
import { calibrate } from '../../agent/steps/calibrate.js';
import type { Quality } from '../../agent/steps/quality.js';
import type { SampleReader } from '../../agent/steps/samples.js';
import { type QuantizationRecipe, recipeOf, tune } from '../../agent/steps/tune.js';
import { PlanVerifier } from '../../agent/steps/verification.js';
import { table } from '../../agent/terminal.js';
import { averageBitsOf, drawEqualPlans, type PlanPrecisions } from './equal-plans.js';
import { divergenceOf, inMemory, Judge } from './judge.js';
import { type BenchModel, openBenchModel } from './models.js';

const planCount = 50;
const seed = 1;
const threads = availableParallelism();
const form = { variant: 'native', saturates: false } as const;
const rules: readonly RangeRule[] = ['mse', 'percentile', 'minmax'];
const quiet = () => {};

const isSmall = ({ macs }: PreparedModel) => macs <= 60e6;
/** Held-out samples for the truth. */
const truthSamples = (prepared: PreparedModel) => (isSmall(prepared) ? 500 : 128);
/** Calibration samples of a verifying pass. */
const verifyingSamples = (prepared: PreparedModel) => (isSmall(prepared) ? 256 : 32);

/** A model with how it is quantized, and its samples. */
interface Subject {
  readonly prepared: PreparedModel;
  readonly recipe: QuantizationRecipe;
  readonly calibration: SampleReader;
  readonly test: SampleSource;
}

/** What somebody predicted of every plan, and what that cost. */
interface Prediction {
  readonly name: string;
  readonly values: readonly number[];
  /** For all plans together; of `verified` the passes alone. */
  readonly seconds: number;
  /** Passes of the whole model for one sample. */
  readonly forwards: number;
}

/** One model and estimator. */
interface Row {
  readonly model: string;
  readonly estimator: string;
  readonly spearman: number;
  readonly kendall: number;
  readonly seconds: number;
  readonly forwards: number;
}

/** Prints the tables; answers rows, plans and their truth. */
export async function sensitivityBench(
  models: readonly BenchModel[],
  ports: Ports,
  signal: AbortSignal,
): Promise<unknown> {
  const rows: Row[] = [];
  const truths: unknown[] = [];
  for (const model of models) {
    process.stderr.write(`${model.name}\n`);
    const subject = await openSubject(model, ports, signal);
    if (subject === null) continue;
    const { prepared } = subject;
    const { plans, average } = drawEqualPlans(prepared, planCount, seed);
    const weighted = prepared.operators.filter(({ weight }) => weight !== null).length;
    if (plans.length < planCount) {
      process.stderr.write(`  only ${plans.length} plans of equal average bits: too few operators (${weighted})\n`);
      continue;
    }
    const images = plans.map((plan) => apply(prepared, plan, subject.recipe, form));
    const judge = await Judge.open(prepared, subject.test, ports.runtime, signal);
    const qualities: Quality[] = [];
    for (const image of images) qualities.push(await judge.qualityOf(image));
    const { top1, outputs } = judge.reference;
    const truth = { float: { top1 }, samples: outputs.length, plans: qualities };
    const divergences = qualities.map(divergenceOf);
    truths.push({ model: model.name, operators: weighted, average, seed, ...truth, divergences });
    print(describe(model.name, weighted, average, truth, divergences));
    const predictions = await predict(subject, plans, images, ports, signal);
    for (const { name, values, seconds, forwards } of predictions) {
      const correlations = { spearman: spearman(values, divergences), kendall: kendall(values, divergences) };
      rows.push({ model: model.name, estimator: name, ...correlations, seconds, forwards });
    }
  }
  const names = [...new Set(rows.map(({ estimator }) => estimator))];
  print("\nSpearman's correlation with the true divergence of plans of equal average bits\n");
  print(tableOf(rows, names, ({ spearman: value }) => value, 3));
  print("\nKendall's\n");
  print(tableOf(rows, names, ({ kendall: value }) => value, 3));
  print('\nSeconds (of `verified`: one pass over calibration samples for each plan, without the estimate)\n');
  print(tableOf(rows, names, ({ seconds }) => seconds, 2));
  print('\nForward passes of one sample (of `verified`: all plans)\n');
  print(tableOf(rows, names, ({ forwards }) => forwards, 0));
  return { rows, truths };
}

async function openSubject(model: BenchModel, ports: Ports, signal: AbortSignal): Promise<Subject | null> {
  const { prepared, samples } = await openBenchModel(model);
  if (samples.calibration === null || samples.test === null) return null;
  const calibration = await inMemory(samples.calibration, verifyingSamples(prepared));
  const test = await inMemory(samples.test, truthSamples(prepared));
  const most = isSmall(prepared) ? 64 : 32;
  const observed = await calibrate(
    prepared,
    calibration,
    { rules, bits: [8, 6, 4, 2], threads, most },
    ports.runtime,
    signal,
    quiet,
  );
  const int8 = new Map(
    prepared.operators
      .filter((operator) => enginePrecisions(prepared, operator).length > 0)
      .map(({ name }) => [name, { weightBits: 8, activationBits: 8 }] as const),
  );
  const options = { rules, int8, threads, ...form };
  const tuning = await tune(prepared, calibration, observed, options, ports.runtime, signal, quiet);
  return { prepared, calibration, test, recipe: recipeOf(prepared, observed, tuning, form) };
}

async function predict(
  subject: Subject,
  plans: readonly PlanPrecisions[],
  images: readonly Uint8Array[],
  ports: Ports,
  signal: AbortSignal,
): Promise<Prediction[]> {
  const { prepared } = subject;
  const predictions: Prediction[] = [];
  for (const estimator of estimators) predictions.push(await estimated(subject, plans, estimator, ports, signal));
  predictions.push(await verified(subject, images, ports, signal));
  const weightNoise = await assessed(subject, findEstimator('perturbation'), ['weight'], ports, signal);
  const noise = new SensitivityTable(weightNoise);
  predictions.push({
    name: 'weight SQNR',
    values: plans.map((plan) => sumOf([...plan], ([name, precision]) => noise.weight(name, precision))),
    seconds: weightNoise.seconds,
    forwards: 0,
  });
  const bits = plans.map((plan) => averageBitsOf(prepared, plan));
  const values = bits.map(({ weights, activations }) => -(weights + activations));
  predictions.push({ name: 'average bits', values, seconds: 0, forwards: 0 });
  return predictions;
}

/** What an estimator says of every plan. */
async function estimated(
  subject: Subject,
  plans: readonly PlanPrecisions[],
  estimator: Estimator,
  ports: Ports,
  signal: AbortSignal,
): Promise<Prediction> {
  const { operators } = subject.prepared;
  const document = await assessed(subject, estimator, ['weight', 'activation'], ports, signal);
  const sensitivity = new SensitivityTable(document);
  const groups = readingGroups(operators).all;
  const values = plans.map((plan) => {
    const weights = sumOf([...plan], ([name, precision]) => sensitivity.weight(name, precision));
    const read = sumOf(groups, ({ readers, tensors }) => {
      const bits = plan.get(operators[readers[0]!]!.name)!.activationBits;
      return sumOf(tensors, (tensor) => sensitivity.activation(tensor, bits));
    });
    return weights + read;
  });
  return { name: estimator.name, values, seconds: document.seconds, forwards: document.forwards * document.samples };
}

function assessed(
  { prepared, calibration, recipe }: Subject,
  estimator: Estimator,
  kinds: readonly ('weight' | 'activation')[],
  ports: Ports,
  signal: AbortSignal,
) {
  const counts = defaultSampleCounts(prepared.macs);
  const request = {
    precisionsOf: (index: number) => enginePrecisions(prepared, prepared.operators[index]!),
    samples: counts.weights,
    activationSamples: counts.activations,
    threads,
    kinds,
    channelMeans: recipe.channelMeans,
    ...form,
  };
  return assess(prepared, calibration, recipe.rangesByBits, estimator, request, ports, signal, quiet);
}

async function verified(
  { prepared, calibration }: Subject,
  images: readonly Uint8Array[],
  { runtime, clock }: Ports,
  signal: AbortSignal,
): Promise<Prediction> {
  const options = { most: verifyingSamples(prepared), threads };
  const verifier = await PlanVerifier.open(prepared, calibration, options, runtime, signal);
  const started = clock.nanoseconds();
  const values: number[] = [];
  for (const image of images) values.push((await verifier.divergence(image, signal)).logits);
  const seconds = Number(clock.nanoseconds() - started) / 1e9;
  return { name: 'verified', values, seconds, forwards: images.length * verifier.samples };
}

function sumOf<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((sum, item) => sum + of(item), 0);
}

function describe(
  model: string,
  operators: number,
  average: { weights: number; activations: number },
  { float, samples, plans }: { float: { top1: number | null }; samples: number; plans: readonly Quality[] },
  divergences: readonly number[],
): string {
  const spread = (values: readonly number[]) =>
    [0.1, 0.5, 0.9].map((q) => quantile(values, q).toPrecision(3)).join('/');
  const top1 =
    float.top1 === null
      ? ''
      : `, top-1 ${spread(plans.map((plan) => plan.top1!))} (float ${float.top1.toPrecision(3)})`;
  const bits = `${average.weights.toFixed(2)} bits of weights, ${average.activations.toFixed(2)} of activations`;
  return `${model}: ${operators} operators, ${plans.length} plans at ${bits}; ${samples} samples: divergence ${spread(divergences)}${top1} (deciles 1/5/9)`;
}

/** Estimators down, models across, and the median over the models. */
function tableOf(rows: readonly Row[], names: readonly string[], of: (row: Row) => number, digits: number): string {
  const models = [...new Set(rows.map(({ model }) => model))];
  const cells = names.map((name) => {
    const own = models.map((model) => rows.find((row) => row.model === model && row.estimator === name)!);
    return [name, ...own.map((row) => of(row).toFixed(digits)), median(own.map(of)).toFixed(digits)];
  });
  return table(['estimator', ...models.map(shortName), 'median'], cells);
}

function shortName(model: string): string {
  return model.split('-')[0]!;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
