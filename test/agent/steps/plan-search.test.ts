/** The closed loop on a machine that is made up, so that every plan there is can be written and timed. */
import t, { type Test } from 'tap';
import { HighsSolver } from '../../../agent/adapters/highs-solver.js';
import { nativeRounder } from '../../../agent/adapters/native-rounder.js';
import { SqliteStore } from '../../../agent/adapters/sqlite-store.js';
import { dispatchKey, runOverheadKey, speedReferenceKey } from '../../../agent/core/latency.js';
import { decode, encode } from '../../../agent/core/onnx/codec.js';
import type { Operator } from '../../../agent/core/onnx/model.js';
import { planOf, precisionsOf, uniformPlan } from '../../../agent/core/plan/plan.js';
import { formatPrecision } from '../../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import { canRunBlockwise } from '../../../agent/core/quant/matmul-nbits.js';
import { canRunInt8, emitQdq } from '../../../agent/core/quant/qdq.js';
import { type Assessed, type Job, Pipeline, type QuantizeResult } from '../../../agent/pipeline.js';
import type { Comparison, Feeds, Progress, Target, TargetIdentity } from '../../../agent/ports.js';
import type { MeasuredPlan } from '../../../agent/steps/plan-timings.js';
import type { Budget, LatencyRow, Precision } from '../../../configs/contracts/plan.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { feed, Oracle } from '../../support/ort.js';
import { announceSeed, Random } from '../../support/seed.js';
import { CountingRuntime, clock, never, quiet, samplesOf } from '../../support/steps.js';
import { everyAssignment } from '../core/plan/problems.js';

const seed = announceSeed();
const solver = new HighsSolver();
t.teardown(() => solver.close());
const dims = [1, 3, 8, 8];
const classes = 4;

/**
 * A machine whose operators take random times, some longer at 8 bits than in float. A whole model takes a fifth longer than the
 * table says, and longer still for every change of precision on the way: sums of rows do not tell how long a plan takes.
 */
class PretendMachine implements Target {
  readonly kind = 'ort';
  readonly counter = 'nanoseconds';
  readonly #prepared: PreparedModel;
  readonly #times = new Map<string, Readonly<Record<string, number>>>();
  measured = 0;
  comparisons = 0;

  constructor(prepared: PreparedModel, random: Random) {
    this.#prepared = prepared;
    for (const { key, weight } of prepared.operators) {
      const float = weight === null ? 1000 : 10_000 + random.below(90_000);
      const share = (least: number, most: number) => (weight === null ? 1 : least + (most - least) * random.next());
      this.#times.set(key, { float, W8A8: float * share(0.3, 1), W4A32: float * share(0.4, 1.3) });
    }
  }

  async identity(): Promise<TargetIdentity> {
    const unknown = { governor: 'unknown', powerMode: 'unknown', energyMeter: null };
    return {
      ...unknown,
      kind: 'ort',
      processor: 'pretend',
      architecture: 'none',
      cores: 1,
      threads: 1,
      runtime: '',
      features: [],
    };
  }

  async saturates(): Promise<boolean> {
    return true;
  }

  precisionsOf({ model }: PreparedModel, operator: Operator): readonly Precision[] {
    const weight = model.graph.initializers.get(operator.weight?.name ?? '') ?? null;
    return [
      { weightBits: 32, activationBits: 32 },
      ...(canRunInt8(operator) ? [{ weightBits: 8, activationBits: 8 } as const] : []),
      ...(canRunBlockwise(operator, weight) ? [{ weightBits: 4, activationBits: 32 } as const] : []),
    ];
  }

  async measure(
    _prepared: PreparedModel,
    operators: readonly Operator[],
    precisions: readonly Precision[],
  ): Promise<LatencyRow[]> {
    this.measured += operators.length;
    const row = (operatorKey: string, precision: string, median: number): LatencyRow => {
      const rest = { spread: 0, repeats: 1, throttled: false, energyJoules: null, measuredAt: clock.now() };
      return { operatorKey, precision, minimum: median, median, ...rest };
    };
    const rows = operators.flatMap(({ key }) =>
      precisions.map(formatPrecision).map((name) => row(key, name, this.#times.get(key)![name]!)),
    );
    return [...rows, ...[runOverheadKey, dispatchKey, speedReferenceKey].map((key) => row(key, 'float', 500))];
  }

  async compare(
    models: readonly { name: string; bytes: Uint8Array }[],
    _feeds: Feeds,
    signal: AbortSignal,
    progress: Progress,
  ): Promise<Comparison> {
    signal.throwIfAborted();
    this.comparisons++;
    progress(1, 'pretending');
    const timings = models.map(({ name, bytes }) => {
      const latency = this.latencyOf(bytes);
      return { name, minimum: latency, median: latency, samples: 9 };
    });
    const ratios = timings.map(({ median }) => median / timings[0]!.median);
    return { timings, ratios, referenceLatency: 500, throttled: false };
  }

  latencyOf(bytes: Uint8Array): number {
    const { nodes } = decode(bytes).graph;
    const dequantized = new Set(nodes.filter(({ op }) => op === 'DequantizeLinear').map(({ outputs }) => outputs[0]));
    const precisionIn = ({ name, weight }: Operator) => {
      if (nodes.some((node) => node.name === `${name}_w4`)) return 'W4A32';
      const node = nodes.find((candidate) => candidate.name === name)!;
      return weight !== null && dequantized.has(node.inputs[1]) ? 'W8A8' : 'float';
    };
    const operators = this.#prepared.operators.map((operator) => [operator, precisionIn(operator)] as const);
    const sum = operators.reduce((total, [{ key }, precision]) => total + this.#times.get(key)![precision]!, 0);
    const path = operators.filter(([{ weight }]) => weight !== null).map(([, precision]) => precision);
    const changes = path.filter((precision, at) => at > 0 && precision !== path[at - 1]).length;
    return 500 + 1.2 * sum + 2000 * changes;
  }
}

function network(): PreparedModel {
  const builder = new NetworkBuilder(new Random(seed), dims);
  // Linear, without Relu and biases: a sample turned round has all its scores turned round, and so another class.
  const hasBias = false;
  const first = builder.conv('x', { out: 12, hasBias });
  const second = builder.conv(first, { out: 16, stride: 2, hasBias });
  const third = builder.conv(second, { out: 24, kernel: 1, hasBias });
  const hidden = builder.gemm(builder.pooled(third), 64, true, false);
  return prepare(builder.build([builder.gemm(hidden, classes, true, false)]), imageCard('classification', dims));
}

const prepared = network();
const random = new Random(seed + 1);
const data = Array.from({ length: 40 }, () => random.floats(192, 0.5 + random.next(), random.normal()));

const oracle = await Oracle.open(prepared.model, 'disabled');
t.teardown(() => oracle.close());

/** The float model's class. */
async function classOf(sample: Float32Array): Promise<number> {
  const [scores] = [...(await oracle.run(feed('x', dims, sample))).values()];
  return scores!.data.indexOf(Math.max(...scores!.data));
}

/** Samples on the border between two classes of the float model, so that a quantized one falls on the other side of half of them. */
async function undecided(count: number): Promise<Float32Array[]> {
  const samples: Float32Array[] = [];
  while (samples.length < count) {
    let one = random.floats(192);
    // Through some third sample: the middle between a sample and itself turned round is nothing at all.
    let other = random.floats(192).map((value, at) => 0.1 * value - one[at]!);
    const kind = await classOf(one);
    for (let step = 0; step < 20; step++) {
      const middle = one.map((value, at) => (value + other[at]!) / 2);
      if ((await classOf(middle)) === kind) one = middle;
      else other = middle;
    }
    samples.push(one);
  }
  return samples;
}

const machine = new PretendMachine(prepared, random);
const store = new SqliteStore(':memory:');
const runtime = new CountingRuntime();
/** What the float model says, but for every eighth sample. */
const labels: number[] = [];
for (const [index, sample] of data.entries())
  labels.push(((await classOf(sample)) + (index % 8 === 7 ? 1 : 0)) % classes);

function pipelineFor(budget: Budget, changes: Partial<Job> = {}): Pipeline {
  const job: Job = {
    prepared,
    modelSha256: 'network',
    calibration: samplesOf(data.slice(0, 8)),
    test: samplesOf(data, labels),
    budget,
    precisions: null,
    estimator: 'mask4',
    workThreads: 1,
    variant: 'ort',
    rangeRule: 'minmax',
    ...changes,
  };
  return new Pipeline(job, { runtime, target: machine, solver, rounder: nativeRounder, store, clock }, never, quiet);
}

const quantize = (budget: Budget, changes: Partial<Job> = {}): Promise<QuantizeResult> =>
  pipelineFor(budget, changes).quantize();

/** Every plan there is, as predicted, written and timed. */
function everyPlan({ problem, recipe, saturates }: Assessed) {
  return everyAssignment(problem).map(({ assignment }) => {
    const plan = planOf(problem, assignment);
    const settings = { variant: 'ort' as const, saturates, biasCorrections: recipe.biasCorrections };
    const bytes = encode(emitQdq(prepared.model, prepared.operators, precisionsOf(plan), recipe.ranges, settings));
    const names = [...precisionsOf(plan).values()].map(formatPrecision);
    return { costs: plan.costs, names, size: bytes.length, latency: machine.latencyOf(bytes) };
  });
}

const assessed = await pipelineFor({}).assess();
const every = everyPlan(assessed);
const operatorsMeasured = machine.measured;
const least = (values: readonly number[]) => values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
const most = (values: readonly number[]) => values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
const latencies = every.map(({ latency }) => latency);
const uniform = (precision: string) => {
  const wanted = uniformPlan(assessed.problem, precision);
  return every.find(({ names }) => names.join() === [...precisionsOf(wanted).values()].map(formatPrecision).join())!;
};
const [float, int8] = [uniform('float'), uniform('W8A8')];

t.test(
  'without a ceiling: the plan predicted to be the fastest, or the uniform one that measures faster',
  async (t) => {
    const { feasible, chosen, quality, shortfalls, rounds } = await quantize({});
    t.equal(feasible, true);
    t.strictSame(shortfalls, []);
    const predicted = least(every.map(({ costs }) => costs.latency));
    const fastest = every.filter(({ costs }) => costs.latency === predicted);
    t.equal(chosen!.latency, least([float.latency, int8.latency, least(fastest.map(({ latency }) => latency))]));
    t.strictSame([chosen!.floatLatency, chosen!.int8Latency], [float.latency, int8.latency]);
    t.equal(rounds.length, 1);
    t.equal(quality!.samples, data.length);
    t.ok(quality!.floatTop1! > 0.85 && quality!.floatTop1! < 0.9);
  },
);

/** That a plan holds a latency, and that none which holds it with room to spare is more accurate. */
function expectMostAccurate(t: Test, chosen: MeasuredPlan | null, ceiling: number): void {
  t.ok(chosen!.latency <= ceiling * (1 + 1e-12), `${chosen!.latency} of ${ceiling}`);
  // Corrections are factors, what changes of precision cost is not: a tenth of the ceiling may be left.
  const rivals = every.filter(({ latency }) => latency <= ceiling * 0.9);
  t.ok(chosen!.plan.costs.sensitivity <= least(rivals.map(({ costs }) => costs.sensitivity)) * (1 + 1e-6));
}

for (const share of [0.1, 0.3, 0.6]) {
  const ceiling = least(latencies) + share * (most(latencies) - least(latencies));
  const budgets: Readonly<Record<string, Budget>> = {
    milliseconds: { latencyMs: ceiling / 1e6 },
    'times int8': { latencyRatio: ceiling / int8.latency },
  };
  for (const [unit, budget] of Object.entries(budgets)) {
    t.test(
      `latency at ${share} of what there is, in ${unit}: held as measured, and nothing clearly better holds it`,
      async (t) => {
        const { chosen, rounds, feasible } = await quantize(budget);
        t.equal(feasible, true);
        expectMostAccurate(t, chosen, ceiling);
        t.ok(rounds.length <= 6);
      },
    );
  }
}

t.test(
  'every plan has the size that was predicted, but for what its precisions have to say of their borders',
  async (t) => {
    const errors = every.map(({ costs, size }) => costs.bytes - size);
    // Q and DQ nodes between operators of two precisions, with their constants and names.
    const borders = 350 * assessed.problem.operators.length;
    t.ok(least(errors) > -borders && most(errors) < borders, `${least(errors)} to ${most(errors)}`);
    for (const { costs, size } of [float, int8]) t.ok(Math.abs(costs.bytes - size) < 10, 'the uniform ones exactly');
  },
);

t.test('a size is held by the artifact as written, and nothing clearly better holds it', async (t) => {
  const sizes = every.map(({ size }) => size);
  for (const share of [0.05, 0.4, 0.8]) {
    const sizeBytes = Math.round(least(sizes) + share * (most(sizes) - least(sizes)));
    const { chosen } = await quantize({ sizeBytes });
    t.ok(chosen!.bytes.length <= sizeBytes, `${chosen!.bytes.length} of ${sizeBytes}`);
    const rivals = every.filter(({ size }) => size <= sizeBytes * 0.9);
    t.ok(chosen!.plan.costs.sensitivity <= least(rivals.map(({ costs }) => costs.sensitivity)) * (1 + 1e-6));
  }
});

t.test('a sensitivity alone: the fastest plan whose estimated error is at most that', async (t) => {
  for (const share of [0, 0.05, 0.3, 0.7, 1]) {
    const sensitivity = share * most(every.map(({ costs }) => costs.sensitivity));
    const { chosen, feasible, frontier } = await quantize({ sensitivity });
    t.equal(feasible, true);
    t.ok(chosen!.plan.costs.sensitivity <= sensitivity);
    t.ok(frontier.every(({ costs }) => costs.sensitivity <= sensitivity));
    const allowed = every.filter(({ costs }) => costs.sensitivity <= sensitivity);
    const predicted = least(allowed.map(({ costs }) => costs.latency));
    const fastest = allowed.filter(({ costs }) => costs.latency <= predicted * (1 + 1e-6));
    const rivals = [...fastest, ...allowed.filter((plan) => plan === float || plan === int8)];
    // Predictions have learnt from the plans that were timed before, and may prefer another of those that are nearly as fast.
    const bound = 1.02 * least(rivals.map(({ latency }) => latency));
    t.ok(chosen!.latency <= bound, `${chosen!.latency} of ${bound} at ${sensitivity}`);
  }
});

t.test('a sensitivity beside another ceiling is one more ceiling', async (t) => {
  const ceiling = least(latencies) + 0.1 * (most(latencies) - least(latencies));
  const latencyMs = ceiling / 1e6;
  const { chosen } = await quantize({ latencyMs });
  const { sensitivity } = chosen!.plan.costs;
  const higher = await quantize({ latencyMs, sensitivity: sensitivity * 1.01 });
  expectMostAccurate(t, higher.chosen, ceiling);
  t.ok(higher.chosen!.plan.costs.sensitivity <= sensitivity * 1.01);

  const lower = await quantize({ latencyMs, sensitivity: sensitivity / 1000 });
  t.equal(lower.feasible, false);
  t.equal(lower.chosen, null);
  t.strictSame(lower.shortfalls.map(({ metric }) => metric).sort(), ['latency', 'sensitivity']);
  const wanted = lower.shortfalls.find(({ metric }) => metric === 'sensitivity')!;
  t.equal(wanted.ceiling, sensitivity / 1000);
  t.ok(wanted.minimum! > sensitivity / 1000 && !wanted.alone, `${wanted.minimum}`);
});

t.test('a sensitivity that the allowed precisions cannot reach is infeasible, with what they can', async (t) => {
  const precisions: Precision[] = [{ weightBits: 8, activationBits: 8 }];
  const { feasible, shortfalls, frontier } = await quantize({ sensitivity: 1e-12 }, { precisions });
  t.equal(feasible, false);
  t.equal(shortfalls.length, 1);
  const [shortfall] = shortfalls;
  t.strictSame([shortfall!.metric, shortfall!.ceiling, shortfall!.alone], ['sensitivity', 1e-12, true]);
  t.ok(Math.abs(shortfall!.minimum! / int8.costs.sensitivity - 1) < 1e-5);
  t.ok(frontier.length > 0, 'there is still something to choose from');
});

t.test('a latency below everything is infeasible, and says what is the least', async (t) => {
  const { feasible, chosen, shortfalls } = await quantize({ latencyMs: (least(latencies) * 0.5) / 1e6 });
  t.strictSame([feasible, chosen], [false, null]);
  t.equal(shortfalls.length, 1);
  const { metric, ceiling, minimum } = shortfalls[0]!;
  t.equal(metric, 'latency');
  t.ok(Math.abs(ceiling / (least(latencies) * 0.5) - 1) < 1e-9);
  t.ok(Math.abs(minimum! / least(latencies) - 1) < 0.15, `${minimum}, is ${least(latencies)}`);
});

t.test('a floor on quality: reached as measured, by the fastest plan that was found to reach it', async (t) => {
  const free = await quantize({});
  for (const budget of [{ agreement: 1 }, { drop: 0 }, { agreement: 1, sensitivity: int8.costs.sensitivity }]) {
    const { chosen, quality, feasible } = await quantize(budget);
    t.equal(feasible, true);
    t.ok(budget.agreement === undefined || quality!.plan.agreement >= budget.agreement);
    t.ok(budget.drop === undefined || quality!.floatTop1! - quality!.plan.top1! <= budget.drop);
    t.ok(chosen!.latency >= free.chosen!.latency && chosen!.latency <= float.latency);
  }
});

t.test('a floor that uniform int8 reaches can be held, whatever the frontier reaches', async (t) => {
  const precisions: Precision[] = [
    { weightBits: 8, activationBits: 8 },
    { weightBits: 4, activationBits: 32 },
  ];
  for (let round = 0; round < 5; round++) {
    const test = samplesOf(await undecided(12));
    const { agreement } = (await quantize({}, { precisions, test })).quality!.int8;
    const { feasible, quality } = await quantize({ agreement }, { precisions, test });
    t.equal(feasible, true);
    t.ok(quality!.plan.agreement >= agreement, `${quality!.plan.agreement} of ${agreement}`);
  }
});

t.test('a floor that the plans under a ceiling miss is infeasible, with the best that they reach', async (t) => {
  const test = samplesOf(await undecided(30));
  const sizeBytes = Math.round(least(every.map(({ size }) => size)) * 1.05);
  const { feasible, shortfalls, quality } = await quantize({ sizeBytes, agreement: 1 }, { test });
  t.equal(feasible, false);
  t.strictSame(
    shortfalls.map(({ metric, ceiling }) => [metric, ceiling]),
    [['agreement', 1]],
  );
  t.ok(shortfalls[0]!.minimum! < 1 && shortfalls[0]!.minimum! >= quality!.plan.agreement);
});

t.test('only precisions that were asked for are chosen, the uniform ends included', async (t) => {
  const precisions: Precision[] = [
    { weightBits: 32, activationBits: 32 },
    { weightBits: 4, activationBits: 32 },
  ];
  for (const budget of [{}, { sizeBytes: Math.round(float.size * 0.97) }, { sensitivity: 1 }]) {
    const { chosen } = await quantize(budget, { precisions });
    const names = [...precisionsOf(chosen!.plan).values()].map(formatPrecision);
    t.notOk(names.includes('W8A8'), JSON.stringify(budget));
  }
});

t.test('no operator was timed again for any budget, and every session is closed', async (t) => {
  t.equal(machine.measured, operatorsMeasured);
  t.ok(machine.comparisons > 10);
  t.equal(runtime.closed, runtime.opened);
});

t.test('an abort ends it', async (t) => {
  const abort = new AbortController();
  const job = { budget: { sizeBytes: int8.size } };
  const ports = { runtime, target: machine, solver, rounder: nativeRounder, store, clock };
  const aborting = new Pipeline(
    {
      prepared,
      modelSha256: 'network',
      calibration: samplesOf(data.slice(0, 8)),
      test: null,
      precisions: null,
      estimator: 'mask4',
      workThreads: 1,
      variant: 'ort',
      rangeRule: 'minmax',
      ...job,
    },
    ports,
    abort.signal,
    (step) => step === 'verify' && abort.abort(new Error('enough')),
  );
  await t.rejects(aborting.quantize());
  t.equal(runtime.closed, runtime.opened);
});
