/**
 * What the recipe below 8 bits is worth: every labelled classifier at uniform precisions on our own engine, weights rounded to nearest
 * beside the whole recipe, and each pass of it left out in turn. First and last operator and the model's input stay at 8 bits. `plain` is
 * each weight to nearest (at the scale of least squared error, at 8 bits of the largest magnitude), ranges from minimum to maximum, biases
 * as they are.
 */
import { availableParallelism } from 'node:os';
import { NativeTarget } from '../../agent/adapters/native-target.js';
import { buildImage } from '../../agent/core/image/build.js';
import type { Operator } from '../../agent/core/onnx/model.js';
import { formatPrecision } from '../../agent/core/precision.js';
import type { PreparedModel } from '../../agent/core/prepare.js';
import { Pipeline, type Ports } from '../../agent/pipeline.js';
import { floatModel } from '../../agent/steps/apply.js';
import { calibrate } from '../../agent/steps/calibrate.js';
import { assessQuality, isClassifier, type Quality } from '../../agent/steps/quality.js';
import { type Refinement, type RefineOptions, refine } from '../../agent/steps/refine.js';
import { table } from '../../agent/terminal.js';
import type { Precision, Range } from '../../configs/contracts/plan.js';
import { type BenchModel, benchJob } from './models.js';

const threads = availableParallelism();
const whole: RefineOptions = {
  rule: 'mse',
  rounds: true,
  aims: true,
  correctsBiases: true,
  saturates: false,
  threads,
  samplesMost: 128,
};
/** The recipe with passes left out. */
const ablations: Readonly<Record<string, RefineOptions>> = {
  'nearest, ranges of the quantized model': { ...whole, rounds: false, aims: false, correctsBiases: false },
  'with corrected biases': { ...whole, rounds: false, aims: false },
  'layer-wise rounding, not aimed': { ...whole, aims: false },
  'whole, biases as they are': { ...whole, correctsBiases: false },
};
const int8: Precision = { weightBits: 8, activationBits: 8 };
const columns: readonly { readonly precision: Precision; readonly depthwiseBits: 4 | 8 }[] = [
  { precision: int8, depthwiseBits: 8 },
  { precision: { weightBits: 4, activationBits: 8 }, depthwiseBits: 4 },
  { precision: { weightBits: 4, activationBits: 8 }, depthwiseBits: 8 },
  { precision: { weightBits: 4, activationBits: 6 }, depthwiseBits: 4 },
  { precision: { weightBits: 4, activationBits: 4 }, depthwiseBits: 4 },
];

interface Row {
  readonly model: string;
  readonly form: string;
  readonly floatTop1: number | null;
  readonly plain: Quality | null;
  readonly whole: Quality;
  readonly seconds: number;
}

export async function accuracyBench(
  models: readonly BenchModel[],
  ports: Ports,
  signal: AbortSignal,
): Promise<unknown> {
  const rows: Row[] = [];
  const parts: { model: string; recipe: string; kl: number }[] = [];
  for (const model of models) {
    const job = await benchJob(model);
    if (!isClassifier(job.prepared) || job.test?.labels === null || job.test === null || job.calibration === null)
      continue;
    process.stderr.write(`${model.name}\n`);
    const bench = await open(job.prepared, job.calibration, ports, signal);
    const hasDepthwise = job.prepared.operators.some(isDepthwise);
    for (const { precision, depthwiseBits } of columns) {
      const isSame = !hasDepthwise && depthwiseBits === 8 && precision.weightBits < 8;
      if (isSame) continue;
      const precisions = precisionsOf(job.prepared, precision, depthwiseBits);
      const started = performance.now();
      const refinement = await bench.refine(precisions, whole);
      const seconds = (performance.now() - started) / 1000;
      const images = [bench.image(precisions, refinement), bench.image(precisions, null)];
      const isAblated = formatPrecision(precision) === 'W4A8' && depthwiseBits === 4;
      const names = isAblated ? Object.keys(ablations) : [];
      for (const name of names) images.push(bench.image(precisions, await bench.refine(precisions, ablations[name]!)));
      const { reference, qualities } = await judge(job.prepared, job.test, images, ports, signal);
      const note = hasDepthwise && precision.weightBits < 8 ? `, depthwise W${depthwiseBits}` : '';
      const form = `${formatPrecision(precision)}${note}`;
      rows.push({
        model: model.name,
        form,
        floatTop1: reference.top1,
        plain: qualities[1]!,
        whole: qualities[0]!,
        seconds,
      });
      for (const [index, recipe] of names.entries())
        parts.push({ model: model.name, recipe, kl: qualities[index + 2]!.kl! });
      if (isAblated) {
        parts.push({ model: model.name, recipe: 'plain', kl: qualities[1]!.kl! });
        parts.push({ model: model.name, recipe: 'whole', kl: qualities[0]!.kl! });
      }
    }
    rows.push(await mixed(model, ports, signal));
  }
  const points = (value: number | null) => (value === null ? '-' : value.toFixed(3));
  const cells = rows.map(({ model, form, floatTop1, plain, whole, seconds }) => [
    model,
    form,
    points(floatTop1),
    ...(plain === null ? ['-', '-', '-'] : [points(plain.top1), points(plain.agreement), plain.kl!.toFixed(4)]),
    points(whole.top1),
    points(whole.agreement),
    whole.kl!.toFixed(4),
    seconds.toFixed(1),
  ]);
  const header = ['model', '', 'float', 'plain top-1', 'agreement', 'KL', 'whole top-1', 'agreement', 'KL', 'seconds'];
  process.stdout.write(`${table(header, cells)}\n\nKL at W4A8, with passes of the recipe left out:\n`);
  const recipes = ['plain', ...Object.keys(ablations), 'whole'];
  const names = [...new Set(parts.map(({ model }) => model))];
  const klOf = (model: string, recipe: string) =>
    parts.find((part) => part.model === model && part.recipe === recipe)!.kl.toFixed(4);
  process.stdout.write(
    `${table(
      ['recipe', ...names],
      recipes.map((recipe) => [recipe, ...names.map((name) => klOf(name, recipe))]),
    )}\n`,
  );
  return { rows, parts, peakMegabytes: Math.round(process.resourceUsage().maxRSS / 1024) };
}

async function open(
  prepared: PreparedModel,
  source: NonNullable<Awaited<ReturnType<typeof benchJob>>['calibration']>,
  ports: Ports,
  signal: AbortSignal,
) {
  const samples = {
    count: source.count,
    source: 'samples' as const,
    digest: source.digest,
    read: (index: number) => source.read(index),
  };
  const options = { rules: ['minmax', 'mse'] as const, bits: [8, 6, 4], threads, most: 64 };
  const { ranges } = await calibrate(prepared, samples, options, ports.runtime, signal, () => {});
  const inputRange = ranges.mse!['8']![prepared.card.input.name]!;
  return {
    refine: (precisions: ReadonlyMap<string, Precision>, passes: RefineOptions) =>
      refine(prepared, precisions, samples, inputRange, passes, ports, signal, () => {}),
    image: (precisions: ReadonlyMap<string, Precision>, refinement: Refinement | null) =>
      buildImage(prepared, precisions, {
        rangeOf: (tensor, bits): Range | undefined =>
          refinement?.ranges[tensor] ?? ranges[refinement === null ? 'minmax' : 'mse']![bits]![tensor],
        pairSafe: false,
        biasCorrection: () => null,
        roundedOf: ({ name }) => refinement?.operators[name] ?? null,
      }).bytes,
  };
}

async function judge(
  prepared: PreparedModel,
  test: NonNullable<Awaited<ReturnType<typeof benchJob>>['test']>,
  images: readonly Uint8Array[],
  { runtime }: Ports,
  signal: AbortSignal,
) {
  const sessions = [await runtime.open(floatModel(prepared), { threads })];
  try {
    for (const image of images) sessions.push(await runtime.open(image, { threads }));
    const [float, ...others] = sessions;
    return await assessQuality(prepared, test, float!, others, signal, () => {});
  } finally {
    for (const session of sessions) await session.close();
  }
}

/** What `quantd quantize` makes of a budget on bytes halfway between all weights at 8 bits and all at 4. */
async function mixed(model: BenchModel, ports: Ports, signal: AbortSignal): Promise<Row> {
  const job = { ...(await benchJob(model)), variant: 'native' as const };
  const own = { ...ports, target: new NativeTarget({ threads: 1 }) };
  const { candidates } = await new Pipeline(job, own, signal, () => {}).assess();
  const bytesAt = (precision: string) =>
    candidates.operators.reduce((sum, { choices }) => {
      const choice = choices.find((candidate) => candidate.precision === precision) ?? choices[0]!;
      return sum + choice.costs.bytes;
    }, candidates.fixed.bytes);
  const sizeBytes = Math.round((bytesAt('W8A8') + bytesAt('W4A8')) / 2);
  const started = performance.now();
  const { quality } = await new Pipeline({ ...job, budget: { sizeBytes } }, own, signal, () => {}).quantize();
  const seconds = (performance.now() - started) / 1000;
  return {
    model: model.name,
    form: 'mixed, half the bytes saved',
    floatTop1: quality!.floatTop1,
    plain: null,
    whole: quality!.plan,
    seconds,
  };
}

function isDepthwise({ op, nodes }: Operator): boolean {
  const group = nodes[0]?.attributes.get('group');
  return op === 'Conv' && group?.kind === 'int' && group.value > 1;
}

function precisionsOf(
  { operators, card }: PreparedModel,
  precision: Precision,
  depthwiseBits: 4 | 8,
): Map<string, Precision> {
  const weighted = operators.filter(({ weight }) => weight !== null);
  return new Map(
    weighted.map((operator, index): [string, Precision] => {
      if (index === 0 || index === weighted.length - 1) return [operator.name, int8];
      const weightBits = precision.weightBits < 8 && isDepthwise(operator) ? depthwiseBits : precision.weightBits;
      const readsInput = operator.inputs.includes(card.input.name);
      return [operator.name, { weightBits, activationBits: readsInput ? 8 : precision.activationBits }];
    }),
  );
}
