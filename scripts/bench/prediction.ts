/**
 * Predicted against measured end-to-end latency, before any feedback: three plans a model (the fastest, the most accurate and the
 * one in the middle of the frontier; all int8 where the frontier is shorter), timed interleaved. Predictions are the tables' sums,
 * at the machine's speed during the comparison (a small reference model is timed during both).
 */
import { speedReferenceKey } from '../../agent/core/latency.js';
import { encode } from '../../agent/core/onnx/codec.js';
import { type Plan, planKey, precisionsOf, uniformPlan } from '../../agent/core/plan/plan.js';
import { emitQdq } from '../../agent/core/quant/qdq.js';
import { median } from '../../agent/core/statistics.js';
import { type Assessed, type Job, Pipeline, type Ports } from '../../agent/pipeline.js';
import { table } from '../../agent/terminal.js';
import { type BenchModel, benchJob } from './models.js';

export interface PredictionRow {
  readonly model: string;
  readonly plan: string;
  readonly predictedMs: number;
  readonly measuredMs: number;
  /** Of the machine between profiling and this comparison, by the speed reference; contained in predictedMs. */
  readonly slowdown: number;
  /** (predicted - measured) / measured. */
  readonly error: number;
}

export async function predictionBench(
  models: readonly BenchModel[],
  ports: Ports,
  signal: AbortSignal,
): Promise<unknown> {
  const rows: PredictionRow[] = [];
  for (const model of models) {
    process.stderr.write(`${model.name}\n`);
    const job = await benchJob(model);
    const pipeline = new Pipeline(job, ports, signal, () => {});
    const assessed = await pipeline.assess();
    const plans = threePlans(assessed, await pipeline.frontier(assessed));
    const bytes = plans.map(({ plan }) => write(job, assessed, plan));
    const data = await job.calibration!.read(0);
    const feeds = new Map([[job.prepared.card.input.name, { dims: job.prepared.inputDims, data }]]);
    const candidates = plans.map(({ name }, index) => ({ name, bytes: bytes[index]! }));
    const comparison = await ports.target.compare(candidates, feeds, signal, () => {});
    const slowdown = comparison.referenceLatency / assessed.table.median(speedReferenceKey, 'float');
    plans.forEach(({ name, plan }, index) => {
      const predictedMs = (plan.costs.latency * slowdown) / 1e6;
      const measuredMs = comparison.timings[index]!.median / 1e6;
      rows.push({
        model: model.name,
        plan: name,
        predictedMs,
        measuredMs,
        slowdown,
        error: predictedMs / measuredMs - 1,
      });
    });
  }
  const absolute = rows.map((row) => Math.abs(row.error));
  const worst = rows.reduce((a, b) => (Math.abs(b.error) > Math.abs(a.error) ? b : a));
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  const cells = rows.map((row) => [
    row.model,
    row.plan,
    row.predictedMs.toFixed(3),
    row.measuredMs.toFixed(3),
    row.slowdown.toFixed(2),
    percent(row.error),
  ]);
  process.stdout.write(`${table(['model', 'plan', 'predicted ms', 'measured ms', 'slowdown', 'error'], cells)}\n`);
  process.stdout.write(
    `\nmedian absolute error ${percent(median(absolute))}, worst ${percent(worst.error)} (${worst.model}, ${worst.plan})\n`,
  );
  return { rows, medianError: median(absolute), worst };
}

function threePlans(assessed: Assessed, frontier: readonly Plan[]): { name: string; plan: Plan }[] {
  const candidates = [
    { name: 'fastest', plan: frontier[0] },
    { name: 'middle', plan: frontier[Math.floor(frontier.length / 2)] },
    { name: 'all float', plan: uniformPlan(assessed.problem, 'float') },
    { name: 'all int8', plan: uniformPlan(assessed.problem, 'W8A8') },
  ];
  const distinct = new Map<string, { name: string; plan: Plan }>();
  for (const { name, plan } of candidates) {
    if (plan !== undefined && !distinct.has(planKey(plan))) distinct.set(planKey(plan), { name, plan });
  }
  return [...distinct.values()].slice(0, 3);
}

function write(job: Job, assessed: Assessed, plan: Plan): Uint8Array {
  const { ranges, biasCorrections } = assessed.recipe;
  const { model, operators } = job.prepared;
  return encode(
    emitQdq(model, operators, precisionsOf(plan), ranges, {
      variant: 'ort',
      saturates: assessed.saturates,
      biasCorrections,
    }),
  );
}
