import { basename } from 'node:path';
import { encode } from '../core/onnx/codec.js';
import { float, formatPrecision } from '../core/precision.js';
import { emitQdq } from '../core/quant/qdq.js';
import { xorshift32 } from '../core/random.js';
import type { Ports, StepProgress } from '../pipeline.js';
import { toMs } from '../report.js';
import { activationTensors } from '../steps/calibrate.js';
import { openArtifact } from './artifact.js';
import { type JobOptions, openJob } from './open-job.js';

/** What `bench` takes: a model, and files of artifacts to time beside it. */
export interface BenchOptions extends JobOptions {
  readonly artifacts: readonly string[];
}

/**
 * Times a model as ONNX Runtime float and uniform int8, and any artifacts of it, interleaved in one run. The int8 rival needs no
 * calibration here: its ranges are arbitrary, since dense kernels take the same time whatever the values.
 */
export async function benchJob(options: BenchOptions, ports: Ports, signal: AbortSignal, progress: StepProgress) {
  const job = await openJob({ ...options, data: undefined });
  const { prepared } = job;
  const ranges = new Map(activationTensors(prepared).map((name) => [name, { minimum: -4, maximum: 4 }]));
  const weightOf = (name: string) => prepared.model.graph.initializers.get(name) ?? null;
  const int8 = new Map(
    prepared.operators.map((operator) => {
      const possible = ports.target.precisionsOf(
        operator,
        operator.weight === null ? null : weightOf(operator.weight.name),
      );
      return [operator.name, possible.find((precision) => formatPrecision(precision) === 'W8A8') ?? float];
    }),
  );
  const write = (precisions: typeof int8) =>
    encode(
      emitQdq(prepared.model, prepared.operators, precisions, ranges, { variant: 'ort', shapes: prepared.shapes }),
    );
  const models = [
    { name: 'ort-float', bytes: write(new Map()) },
    { name: 'ort-int8', bytes: write(int8) },
  ];
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
/** An artifact's file name; the whole path where another artifact has the same name. */
function nameOf(path: string, all: readonly string[]): string {
  const name = basename(path);
  return all.filter((other) => basename(other) === name).length > 1 ? path : name;
}

/** The document of `bench --json`: times in milliseconds, speed-ups against uniform int8 by least times. */
export type BenchReport = Awaited<ReturnType<typeof benchJob>>;
