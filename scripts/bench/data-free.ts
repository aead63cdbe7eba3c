/**
 * Uniform int8 with calibration samples and without any, on both targets, judged by samples that neither has seen. The pipeline runs as
 * it does in production, but nothing is timed: there is nothing to choose by time.
 */
import { availableParallelism } from 'node:os';
import { NativeTarget } from '../../agent/adapters/native-target.js';
import { OrtTarget } from '../../agent/adapters/ort-target.js';
import { dispatchKey, runOverheadKey, speedReferenceKey } from '../../agent/core/latency.js';
import type { Operator } from '../../agent/core/onnx/model.js';
import { formatPrecision, parsePrecision } from '../../agent/core/precision.js';
import type { PreparedModel } from '../../agent/core/prepare.js';
import { type Job, Pipeline, type Ports } from '../../agent/pipeline.js';
import type { Comparison, SampleSource, Target, TargetIdentity } from '../../agent/ports.js';
import { floatModel } from '../../agent/steps/apply.js';
import { assessQuality, type Quality } from '../../agent/steps/quality.js';
import { formatPercent, table } from '../../agent/terminal.js';
import type { LatencyRow, Precision } from '../../configs/contracts/plan.js';
import { type BenchModel, benchJob } from './models.js';

const threads = availableParallelism();
const quiet = () => {};
/** Weights of 4 bits, which the engine alone has with 8-bit activations, are there for comparison. */
const cases = [
  { target: 'ort', precision: 'W8A8' },
  { target: 'native', precision: 'W8A8' },
  { target: 'native', precision: 'W4A8' },
] as const;

/** One model, target and precision. */
interface Row {
  readonly model: string;
  readonly target: string;
  readonly precision: string;
  readonly samples: number;
  readonly floatTop1: number | null;
  readonly withData: Quality;
  readonly dataFree: Quality;
  /** What the synthetic samples were made from. */
  readonly source: string;
}

/** Prints the table; answers its rows. Models without labelled test samples are left out. */
export async function dataFreeBench(models: readonly BenchModel[], ports: Ports, signal: AbortSignal): Promise<Row[]> {
  const rows: Row[] = [];
  for (const model of models) {
    const { test } = await benchJob(model);
    if (test === null || test.labels === null) continue;
    for (const { target, precision } of cases) {
      process.stderr.write(`${model.name} ${target} ${precision}\n`);
      const untimed = new UntimedTarget(
        target === 'native' ? new NativeTarget({ threads: 1 }) : new OrtTarget({ threads: 1, meter: null }),
      );
      const run = (isDataFree: boolean) =>
        quantized(model, { ...ports, target: untimed }, { isDataFree, precision }, signal);
      const [withData, dataFree] = [await run(false), await run(true)];
      const judged = await judge(withData.prepared, test, [withData.bytes, dataFree.bytes], ports, signal);
      const [first, second] = judged.qualities;
      rows.push({
        ...{ model: model.name, target, precision, samples: test.count, floatTop1: judged.floatTop1 },
        ...{ withData: first!, dataFree: second!, source: dataFree.source },
      });
    }
  }
  const columns = ['top-1', 'agreement', 'KL'];
  const header = [
    ...['model', 'target', 'precision', 'samples', 'float'],
    ...columns.map((name) => `${name}, data`),
    ...columns.map((name) => `${name}, data-free`),
  ];
  const cells = ({ top1, agreement, kl }: Quality) => [
    formatPercent(top1),
    formatPercent(agreement),
    kl?.toFixed(4) ?? '-',
  ];
  const lines = rows.map((row) => [
    ...[row.model, row.target, row.precision, `${row.samples}`, formatPercent(row.floatTop1)],
    ...cells(row.withData),
    ...cells(row.dataFree),
  ]);
  process.stdout.write(`${table(header, lines)}\n`);
  return rows;
}

/** The artifact of a model at one precision. The test samples are kept from the pipeline, which would choose by them. */
async function quantized(
  model: BenchModel,
  ports: Ports,
  { isDataFree, precision }: { isDataFree: boolean; precision: string },
  signal: AbortSignal,
) {
  const job = await benchJob(model);
  const variant: Job['variant'] = ports.target.kind === 'ort' ? 'ort' : 'native';
  const changes = { test: null, variant, precisions: [parsePrecision(precision)] };
  const pipeline = new Pipeline(
    { ...job, ...changes, calibration: isDataFree ? null : job.calibration },
    ports,
    signal,
    quiet,
  );
  const { chosen, calibration } = await pipeline.quantize();
  if (chosen === null) throw new Error(`${model.name}: no plan at ${precision}`);
  return { prepared: job.prepared, bytes: chosen.bytes, source: calibration.source };
}

async function judge(
  prepared: PreparedModel,
  test: SampleSource,
  artifacts: readonly Uint8Array[],
  { runtime }: Ports,
  signal: AbortSignal,
) {
  const sessions = [];
  try {
    for (const bytes of [floatModel(prepared), ...artifacts]) sessions.push(await runtime.open(bytes, { threads }));
    const [float, ...others] = sessions;
    const { reference, qualities } = await assessQuality(prepared, test, float!, others, signal, quiet);
    return { floatTop1: reference.top1, qualities };
  } finally {
    for (const session of sessions) await session.close();
  }
}

/** A target that takes the same time for everything, without looking. */
class UntimedTarget implements Target {
  readonly kind: Target['kind'];
  readonly counter: Target['counter'];
  readonly #target: Target;

  constructor(target: Target) {
    this.#target = target;
    this.kind = target.kind;
    this.counter = target.counter;
  }

  async identity(): Promise<TargetIdentity> {
    return { ...(await this.#target.identity()), runtime: 'untimed' };
  }

  saturates(): Promise<boolean> {
    return this.#target.saturates();
  }

  precisionsOf(prepared: PreparedModel, operator: Operator): readonly Precision[] {
    return this.#target.precisionsOf(prepared, operator);
  }

  async measure(
    _prepared: PreparedModel,
    operators: readonly Operator[],
    precisions: readonly Precision[],
  ): Promise<LatencyRow[]> {
    const row = (operatorKey: string, precision: string): LatencyRow => {
      const times = { minimum: 1, median: 1, spread: 0, repeats: 1, throttled: false, energyJoules: null };
      return { operatorKey, precision, ...times, measuredAt: '' };
    };
    const own = operators.flatMap(({ key }) => precisions.map((precision) => row(key, formatPrecision(precision))));
    return [...own, ...[runOverheadKey, dispatchKey, speedReferenceKey].map((key) => row(key, 'float'))];
  }

  async compare(models: readonly { name: string; bytes: Uint8Array }[]): Promise<Comparison> {
    const timings = models.map(({ name }) => ({ name, minimum: 1, median: 1, samples: 1 }));
    return { timings, ratios: models.map(() => 1), referenceLatency: 1, throttled: false };
  }
}
