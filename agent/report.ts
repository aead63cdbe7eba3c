/** The `--json` documents of the commands. Fields are relied on from outside: add, never rename. */
import type { Counter } from '../configs/contracts/plan.js';
import { dispatchKey, type LatencyTable, runOverheadKey } from './core/latency.js';
import { intAttribute } from './core/onnx/attributes.js';
import { readFloats } from './core/onnx/tensor.js';
import { expectedLatency, type LatencyExperience, paretoPoints } from './core/plan/expected-latency.js';
import { averageBits, type Plan, precisionsOf, tensorBits, uniformPlan } from './core/plan/plan.js';
import { formatPrecision } from './core/precision.js';
import { canSaturate } from './core/quant/weights.js';
import { contentKey, sha256 } from './digest.js';
import type { Assessed, Job, QuantizeResult } from './pipeline.js';
import type { ArtifactForm } from './steps/apply.js';
import { provenanceOf } from './steps/model-table.js';

/** What documents give latencies in: milliseconds where time is counted, otherwise what is counted. */
export function unitOf(counter: Counter): string {
  return counter === 'nanoseconds' ? 'ms' : counter;
}

/** Milliseconds, to six digits. */
export function toMs(nanoseconds: number): number {
  return Number((nanoseconds / 1e6).toPrecision(6));
}

/** A latency of a table in the unit of documents, to six digits; counts are whole. */
function latencyIn(counter: Counter): (value: number) => number {
  return counter === 'nanoseconds' ? toMs : Math.round;
}

function round(value: number, digits = 6): number {
  return Number(value.toPrecision(digits));
}

/** A plan of the frontier: latency in the document's unit, as it can be expected to measure; the rest as predicted. */
export interface FrontierDocument {
  latency: number;
  sensitivity: number;
  sizeBytes: number;
  ramBytes: number;
  averageWeightBits: number;
}

/** The frontier with latencies as they can be expected to measure; what is then no longer the best of its kind is left out. */
export function frontierDocument(
  job: Job,
  points: readonly Plan[],
  experience: LatencyExperience,
  counter: Counter,
): FrontierDocument[] {
  const convert = latencyIn(counter);
  const documents = points.map((plan) => ({
    latency: convert(expectedLatency(plan.costs.latency, experience)),
    sensitivity: round(plan.costs.sensitivity),
    sizeBytes: plan.costs.bytes,
    ramBytes: plan.costs.ramBytes,
    averageWeightBits: round(averageBits(job.prepared, precisionsOf(plan)).weights, 4),
  }));
  return paretoPoints(documents);
}

/** The `model` part of every document. Parameters are elements of float constants, each constant counted once. */
export function modelDocument(job: Job, path: string) {
  const { macs, parameters, operators } = job.prepared;
  return { path, sha256: job.modelSha256, macs, parameters, operators: operators.length };
}

/**
 * The `plan` part of a document: operators in the order in which they run, each with its predicted latency and
 * sensitivity.
 */
export function planDocument(
  job: Job,
  plan: Plan,
  solver: QuantizeResult['solver'],
  { variant, kernelOf: fastest, patches = null }: ArtifactForm,
  counter: Counter,
) {
  const kernelOf = variant === 'native' ? fastest : undefined;
  const { prepared } = job;
  const precisions = precisionsOf(plan);
  const bits = tensorBits(prepared, precisions);
  const averages = averageBits(prepared, precisions);
  const operators = prepared.operators.map((operator, index) => {
    const choice = plan.problem.operators[index]!.choices[plan.assignment[index]!]!;
    const precision = precisions.get(operator.name)!;
    const inputBits = precision.activationBits;
    return {
      name: operator.name,
      op: operator.op,
      precision: choice.precision,
      weightBits: operator.weight === null ? null : precision.weightBits,
      inputBits,
      outputBits: operator.outputs.length > 0 ? (bits.get(operator.outputs[0]!) ?? 32) : 32,
      kernel:
        kernelOf === undefined
          ? `ort ${choice.precision}`
          : `native ${operator.weight === null ? operator.op : (kernelOf(operator, precision) ?? 'any')}`,
      latency: latencyIn(counter)(choice.costs.latency),
      sensitivity: round(choice.costs.sensitivity),
    };
  });
  return {
    digest: contentKey([
      ...operators.map(({ name, precision }) => [name, precision]),
      ...(patches === null ? [] : [patches]),
    ]),
    operators,
    averageWeightBits: round(averages.weights, 4),
    averageActivationBits: round(averages.activations, 4),
    bitOps: plan.costs.bitOps,
    solver: {
      status: solver.status,
      gap: Number.isFinite(solver.gap) ? solver.gap : null,
      seconds: round(solver.seconds, 4),
    },
  };
}

/** The document of `quantize --json`. */
export function quantizeDocument(
  job: Job,
  result: QuantizeResult,
  paths: { model: string; artifact: string | null; format: string },
) {
  const { chosen, quality, prepared, test, calibration } = {
    ...result,
    prepared: job.prepared,
    test: job.test,
    calibration: job.calibration,
  };
  const convert = latencyIn(result.counter);
  const total = Object.values(result.seconds).reduce((a, b) => a + b, 0);
  const seconds = Object.fromEntries(
    [...Object.entries(result.seconds), ['total', total] as const].map(([name, value]) => [name, round(value, 4)]),
  );
  return {
    model: modelDocument(job, paths.model),
    target: { kind: result.identity.kind, identity: result.identity, counter: result.counter },
    budget: job.budget,
    feasible: result.feasible,
    infeasible: result.shortfalls.map((shortfall) => shortfallDocument(shortfall, result.counter)),
    frontier: frontierDocument(job, result.frontier, result.experience, result.counter),
    plan: chosen === null ? null : planDocument(job, chosen.plan, result.solver, result.form, result.counter),
    /** Distinct operators that were timed for this; 0 where every latency was stored already. */
    profiledOperators: result.profiledOperators,
    /** How it came to its rows: measured here, or taken from devices alike after a sample had borne them out. */
    profiling: { ...result.profiling, seconds: round(result.profiling.seconds, 4) },
    provenance: provenanceOf(job, result),
    size: { floatBytes: result.floatArtifactBytes, artifactBytes: chosen?.bytes.length ?? null },
    ram: { peakBytes: chosen?.plan.costs.ramBytes ?? null, ...roomDocument(result) },
    /** Of a microcontroller whose RAM, or the budget's, activations do not fit layer by layer. */
    patches: patchesDocument(result),
    /** How weights below 8 bits were rounded: for this plan, each width by itself, or each weight to nearest. */
    rounding: result.form.variant !== 'native' ? 'nearest' : chosen?.isRefined ? 'plan' : 'width',
    saturation: saturationDocument(job, result.saturates),
    quality: {
      samples: quality?.samples ?? 0,
      source: quality?.source ?? null,
      floatTop1: quality?.floatTop1 ?? null,
      int8Top1: quality?.int8.top1 ?? null,
      top1: quality?.plan.top1 ?? null,
      agreement: quality?.plan.agreement ?? null,
      int8Agreement: quality?.int8.agreement ?? null,
      kl: quality?.plan.kl ?? null,
      int8Kl: quality?.int8.kl ?? null,
      sqnrDb: quality?.plan.sqnrDb ?? null,
      int8SqnrDb: quality?.int8.sqnrDb ?? null,
    },
    latency: {
      unit: unitOf(result.counter),
      float: chosen === null || Number.isNaN(chosen.floatLatency) ? null : convert(chosen.floatLatency),
      int8: chosen === null ? null : convert(chosen.int8Latency),
      predicted: chosen === null ? null : convert(chosen.plan.costs.latency * chosen.slowdown),
      slowdown: chosen === null ? null : round(chosen.slowdown, 4),
      measured: chosen === null ? null : convert(chosen.latency),
      measuredMinimum: chosen === null ? null : convert(chosen.minimumLatency),
      throttled: chosen?.throttled ?? null,
    },
    latencyRatio: round(result.experience.ratio, 4),
    rounds: result.rounds.map((row) => ({
      predicted: convert(row.predictedLatency),
      measured: convert(row.measuredLatency),
      unit: unitOf(result.counter),
    })),
    estimator: {
      name: result.sensitivity.estimator,
      seconds: round(result.sensitivity.seconds, 4),
      forwards: round(result.sensitivity.forwards, 4),
      samples: result.sensitivity.samples,
    },
    calibration: {
      source: result.calibration.source,
      /** Whether no real sample was seen; then all of this is on made-up ones. */
      isDataFree: result.calibration.source !== 'samples',
      description: calibrationText(result.calibration),
      samples: result.calibration.samples,
      rule: result.tuning.rule,
      hasBiasCorrection: result.tuning.hasBiasCorrection,
      divergences: result.tuning.divergences,
      hasTestSet: test !== null,
      hasCalibrationSet: calibration !== null,
    },
    floatOperators: prepared.operators
      .filter((operator) => operator.kind === 'float')
      .map(({ name, op }) => ({ name, op })),
    card: prepared.hasCard ? 'given' : 'inferred from the graph; no preprocessing',
    seconds,
    artifact: {
      path: paths.artifact,
      sha256: chosen === null ? null : sha256(chosen.bytes),
      format: paths.format,
    },
  };
}

/** What a microcontroller's RAM allows; null elsewhere. */
function roomDocument({ fit }: Assessed) {
  return {
    /** Of activations: the lower of the board's and the budget's. */
    ceilingBytes: fit?.limits.ramBytes ?? null,
    /** What a model takes beside them: records, scratch memory, floats of outputs. */
    besideBytes: fit?.besideBytes ?? null,
  };
}

/** How the first operators run patch by patch; null where all run layer by layer. */
function patchesDocument({ fit }: Assessed) {
  if (fit === null || fit.patches === null) return null;
  const { patches, redundancy, arenaBytes, layeredArenaBytes } = fit;
  return {
    /** Operators of the model that do. */
    split: patches.split,
    grid: { rows: patches.grid.rows, columns: patches.grid.columns },
    /** Share of multiply-accumulates that they add to those of the stage; `nominal` as if no patch were at a border. */
    redundancy: { nominal: round(redundancy.nominal, 4), clipped: round(redundancy.clipped, 4) },
    ramBytes: arenaBytes,
    ramBytesWithout: layeredArenaBytes,
  };
}

/**
 * Where ONNX Runtime's 8-bit kernels on x86 without VNNI would sum two products beyond 16 bits and be wrong, if weights had their full range.
 * Our own engine is exact everywhere; for ONNX Runtime weights are kept small on such machines.
 */
function saturationDocument({ prepared }: Job, isThisMachine: boolean) {
  const { initializers } = prepared.model.graph;
  const operators = prepared.operators.filter(({ weight, op, nodes }) => {
    const tensor = weight === null ? undefined : initializers.get(weight.name);
    if (tensor === undefined || (op === 'Conv' && intAttribute(nodes[0]!, 'group', 1) === tensor.dims[0])) return false;
    return canSaturate(readFloats(tensor), tensor.dims, weight!.channelAxis);
  });
  return { isThisMachine, operatorsAtRisk: operators.map(({ name }) => name) };
}

/** Where the ranges come from, for people. */
function calibrationText({ samples, source }: Assessed['calibration']): string {
  const made = `data-free, ${samples} synthetic samples`;
  if (source === 'batch-norm') return `${made} fitted to the statistics of BatchNormalization`;
  if (source === 'prior') return `${made}; the graph has no BatchNormalization to fit them to`;
  return `${samples} samples of the given set`;
}

/** A ceiling or floor that cannot be met, in the units of the document. */
function shortfallDocument(shortfall: QuantizeResult['shortfalls'][number], counter: Counter) {
  const { metric, ceiling, minimum, alone } = shortfall;
  const asIs = (value: number) => value;
  const [unit, convert] =
    metric === 'latency'
      ? [unitOf(counter), latencyIn(counter)]
      : metric === 'energy'
        ? ['mJ', (joules: number) => joules * 1000]
        : [metric.endsWith('ytes') ? 'bytes' : null, asIs];
  return {
    metric: metric as string,
    ceiling: convert(ceiling),
    minimum: minimum === null ? null : convert(minimum),
    unit,
    alone,
  };
}

/** The document of `quantize --json`, which is also `report.json` beside the artifact. */
export type QuantizeDocument = ReturnType<typeof quantizeDocument>;

/** The document of `profile --json`: one row a distinct operator and precision. */
export function profileDocument(
  job: Job,
  path: string,
  table: LatencyTable,
  { identity, counter }: Pick<QuantizeResult, 'identity' | 'counter'>,
) {
  const convert = latencyIn(counter);
  const counts = new Map<string, number>();
  for (const operator of job.prepared.operators) counts.set(operator.key, (counts.get(operator.key) ?? 0) + 1);
  const wanted = job.precisions?.map(formatPrecision) ?? null;
  const rows = [...new Map(job.prepared.operators.map((operator) => [operator.key, operator])).values()].flatMap(
    (operator) =>
      table.rows
        .filter((row) => row.operatorKey === operator.key && (wanted === null || wanted.includes(row.precision)))
        .map((row) => ({
          op: operator.op,
          key: operator.key,
          count: counts.get(operator.key)!,
          precision: row.precision,
          minimum: convert(row.minimum),
          median: convert(row.median),
          spread: round(row.spread, 3),
          repeats: row.repeats,
          throttled: row.throttled,
          energyMj: row.energyJoules === null ? null : row.energyJoules * 1000,
          measuredAt: row.measuredAt,
        })),
  );
  return {
    model: modelDocument(job, path),
    target: { kind: identity.kind, identity, counter },
    unit: unitOf(counter),
    overheads: {
      run: convert(table.median(runOverheadKey, 'float', 0)),
      node: convert(table.median(dispatchKey, 'float', 0)),
    },
    rows,
  };
}

/** Predicted latency of the two uniform plans, for the frontier's frame; null for float where the target has none. */
export function uniformPredictions(assessed: Assessed, ratio: number) {
  const convert = latencyIn(assessed.counter);
  const of = (precision: string) => convert(uniformPlan(assessed.problem, precision).costs.latency * ratio);
  const hasFloat = assessed.problem.operators.some(({ choices }) => choices.some((c) => c.precision === 'float'));
  return { float: hasFloat ? of('float') : null, int8: of('W8A8') };
}
