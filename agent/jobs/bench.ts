import { basename } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Precision } from '../../configs/contracts/plan.js';
import { canRunInt8 } from '../core/quant/qdq.js';
import { xorshift32 } from '../core/random.js';
import { isMcuTargetName } from '../core/target-name.js';
import type { Ports, StepProgress } from '../pipeline.js';
import { toMs } from '../report.js';
import { apply, floatModel } from '../steps/apply.js';
import { activationTensors } from '../steps/calibrate.js';
import { openArtifact } from './artifact.js';
import { type JobOptions, openJob } from './open-job.js';

/** What `bench` takes: a model, and files of artifacts to time beside it. */
export interface BenchOptions extends JobOptions {
  readonly artifacts: readonly string[];
}

/**
 * Times a model as ONNX Runtime float and uniform int8, as uniform int8 in our engine (where it has all operators), and any artifacts
 * of it, interleaved in one run. The int8 models need no calibration here: their ranges are arbitrary, since dense kernels take the
 * same time whatever the values.
 */
export async function benchJob(options: BenchOptions, ports: Ports, signal: AbortSignal, progress: StepProgress) {
  if (isMcuTargetName(options.target)) {
    const hint = 'Use profile or quantize, which compare with uniform int8 on the board itself.';
    throw new EdgeError('usage/invalid', 'a microcontroller runs no ONNX Runtime to compare with', {
      subject: '--target',
      hint,
    });
  }
  const job = await openJob({ ...options, data: undefined });
  const { prepared } = job;
  const ranges = new Map(activationTensors(prepared).map((name) => [name, { minimum: -4, maximum: 4 }]));
  const w8a8: Precision = { weightBits: 8, activationBits: 8 };
  const int8 = new Map(
    prepared.operators.filter((operator) => canRunInt8(operator)).map(({ name }) => [name, w8a8] as const),
  );
  const recipe = { ranges, rangesByBits: {}, biasCorrections: new Map(), channelMeans: null, rounded: () => null };
  const models = [
    { name: 'ort-float', bytes: floatModel(prepared) },
    { name: 'ort-int8', bytes: apply(prepared, int8, recipe, { variant: 'ort', saturates: false }) },
  ];
  const native = engineModel(() => apply(prepared, new Map(), recipe, { variant: 'native', saturates: true }));
  if (native !== null) models.push({ name: 'native-W8A8', bytes: native });
  for (const path of options.artifacts)
    models.push({ name: nameOf(path, options.artifacts), bytes: (await openArtifact(path)).bytes });
  const random = xorshift32(7);
  const data = Float32Array.from({ length: prepared.inputDims.reduce((a, b) => a * b, 1) }, () => random() * 2 - 1);
  const feeds = new Map([[prepared.card.input.name, { dims: prepared.inputDims, data }]]);
  const comparison = await ports.target.compare(models, feeds, signal, (share, text) =>
    progress('verify', share, text),
  );
  const int8Minimum = comparison.timings[1]!.minimum;
  return {
    threads: options.threads,
    machine: await ports.target.identity(),
    throttled: comparison.throttled,
    runs: comparison.timings.map(({ name, minimum, median, samples }) => ({
      name,
      minMs: toMs(minimum),
      medianMs: toMs(median),
      samples,
    })),
    speedups: Object.fromEntries(
      comparison.timings.map(({ name, minimum }) => [name, Number((int8Minimum / minimum).toPrecision(4))]),
    ),
  };
}

/** The image, or null where the engine lacks an operator of the model. */
function engineModel(build: () => Uint8Array): Uint8Array | null {
  try {
    return build();
  } catch (error) {
    if (error instanceof EdgeError && error.code === 'model/unsupported') return null;
    throw error;
  }
}

/** An artifact's file name; the whole path where another artifact has the same name. */
function nameOf(path: string, all: readonly string[]): string {
  const name = basename(path);
  return all.filter((other) => basename(other) === name).length > 1 ? path : name;
}

/** The document of `bench --json`: times in milliseconds, speed-ups against uniform int8 by least times. */
export type BenchReport = Awaited<ReturnType<typeof benchJob>>;
