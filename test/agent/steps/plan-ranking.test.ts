/** Plans for the engine under a ceiling: ranked by what they estimate and by what they do on calibration samples. */
import { createHash } from 'node:crypto';
import t from 'tap';
import { HighsSolver } from '../../../agent/adapters/highs-solver.js';
import { nativeRounder } from '../../../agent/adapters/native-rounder.js';
import { SqliteStore } from '../../../agent/adapters/sqlite-store.js';
import { enginePrecisions } from '../../../agent/core/image/precisions.js';
import { runOverheadKey, speedReferenceKey } from '../../../agent/core/latency.js';
import type { Operator } from '../../../agent/core/onnx/model.js';
import { type Plan, planKey, planOf, precisionsOf } from '../../../agent/core/plan/plan.js';
import { formatPrecision } from '../../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import { type Assessed, type Job, Pipeline } from '../../../agent/pipeline.js';
import type { Comparison, Progress, Target, TargetIdentity } from '../../../agent/ports.js';
import { apply } from '../../../agent/steps/apply.js';
import { PlanRanking } from '../../../agent/steps/plan-ranking.js';
import { PlanVerifier } from '../../../agent/steps/verification.js';
import type { Budget, LatencyRow, Precision, Range } from '../../../configs/contracts/plan.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';
import { CountingRuntime, clock, never, quiet, samplesOf } from '../../support/steps.js';
import { everyAssignment } from '../core/plan/problems.js';

const seed = announceSeed();
const solver = new HighsSolver();
t.teardown(() => solver.close());
const dims = [1, 3, 8, 8];
const random = new Random(seed + 1);
const data = Array.from({ length: 24 }, () => random.floats(192, 2));
const calibration = samplesOf(data);

const digestOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
/** Digests of the artifacts that were timed. */
const timed = new Set<string>();

/** An operator takes as long as its precision has bits; a whole model as long as the file that was written is large. */
class PretendEngine implements Target {
  readonly kind = 'native';
  readonly counter = 'nanoseconds';

  constructor(readonly overhead: number) {}

  async identity(): Promise<TargetIdentity> {
    const unknown = { governor: 'unknown', powerMode: 'unknown', energyMeter: null, runtime: '', features: [] };
    return { ...unknown, kind: 'native', processor: 'pretend', architecture: 'none', cores: 1, threads: 1 };
  }

  async saturates(): Promise<boolean> {
    return false;
  }

  precisionsOf(prepared: PreparedModel, operator: Operator): readonly Precision[] {
    return enginePrecisions(prepared, operator);
  }

  async measure(
    _prepared: PreparedModel,
    operators: readonly Operator[],
    precisions: readonly Precision[],
  ): Promise<LatencyRow[]> {
    const row = (operatorKey: string, precision: string, median: number): LatencyRow => {
      const rest = { spread: 0, repeats: 1, throttled: false, energyJoules: null, measuredAt: clock.now() };
      return { operatorKey, precision, minimum: median, median, ...rest };
    };
    const rows = operators.flatMap(({ key, parameters }) =>
      precisions.map((precision) => {
        const { weightBits, activationBits } = precision;
        return row(key, formatPrecision(precision), 100 + parameters * (weightBits + activationBits));
      }),
    );
    return [...rows, row(runOverheadKey, 'float', this.overhead), row(speedReferenceKey, 'float', 500)];
  }

  async compare(models: readonly { name: string; bytes: Uint8Array }[]): Promise<Comparison> {
    const timings = models.map(({ name, bytes }) => {
      timed.add(digestOf(bytes));
      return { name, minimum: bytes.length, median: bytes.length, samples: 9 };
    });
    const ratios = timings.map(({ median }) => median / timings[0]!.median);
    return { timings, ratios, referenceLatency: 500, throttled: false };
  }
}

function network(of: number): PreparedModel {
  const builder = new NetworkBuilder(new Random(of), dims);
  const first = builder.same('Relu', builder.conv('x', { out: 16 }));
  const second = builder.same('Relu', builder.conv(first, { out: 24, stride: 2 }));
  return prepare(builder.build([builder.gemm(builder.pooled(second), 6)]), imageCard('classification', dims));
}

const prepared = network(seed);
const store = new SqliteStore(':memory:');
const runtime = new CountingRuntime();

function pipelineFor(budget: Budget, changes: Partial<Job> = {}, signal = never, overhead = 50): Pipeline {
  const job: Job = {
    prepared,
    modelSha256: 'network',
    calibration,
    test: null,
    budget,
    precisions: null,
    estimator: 'logits',
    workThreads: 1,
    variant: 'native',
    rangeRule: 'minmax',
    ...changes,
  };
  const ports = {
    runtime,
    target: new PretendEngine(overhead),
    solver,
    rounder: nativeRounder,
    store,
    clock,
  };
  return new Pipeline(job, ports, signal, quiet);
}

const assessed = await pipelineFor({}).assess();
const written = (plan: Plan, { recipe, form }: Assessed = assessed) =>
  apply(prepared, precisionsOf(plan), recipe, form);

/** What every plan is ranked by, found another way. */
const verifier = await PlanVerifier.open(prepared, calibration, { most: 256, threads: 1 }, runtime, never);
const every: { plan: Plan; size: number; digest: string; rank: number }[] = [];
for (const { assignment } of everyAssignment(assessed.problem)) {
  const plan = planOf(assessed.problem, assignment);
  const bytes = written(plan);
  const rank = (await verifier.divergence(bytes, never)).logits;
  every.push({ plan, size: bytes.length, digest: digestOf(bytes), rank });
}
const rankOf = (plan: Plan) => every.find((one) => planKey(one.plan) === planKey(plan))!.rank;
const sizes = every.map(({ size }) => size);
const [smallest, largest] = [Math.min(...sizes), Math.max(...sizes)];

function rankingFor(
  variant: Job['variant'],
  signal = never,
  store = new SqliteStore(':memory:'),
  writes: (plan: Plan) => Uint8Array = written,
  progress: Progress = quiet,
): PlanRanking {
  const job: Job = { ...jobOf(variant), prepared };
  const context = {
    job,
    calibrationSamples: { ...calibration, source: 'samples' as const },
    ports: { runtime, store },
    signal,
  };
  return new PlanRanking(context, writes, progress);
}

function jobOf(variant: Job['variant']): Omit<Job, 'prepared'> {
  const rest = { budget: {}, precisions: null, estimator: 'logits', workThreads: 1, rangeRule: 'minmax' as const };
  return { modelSha256: 'network', calibration, test: null, variant, ...rest };
}

for (const share of [0.2, 0.5]) {
  const ceiling = smallest + share * (largest - smallest);
  t.test(
    `latency at ${share} of what there is: held, and nothing that was timed and holds it ranks better`,
    async (t) => {
      timed.clear();
      const { chosen, feasible } = await pipelineFor({ latencyMs: ceiling / 1e6 }).quantize();
      t.equal(feasible, true);
      t.ok(chosen!.latency <= ceiling, `${chosen!.latency} of ${ceiling}`);
      const rivals = every.filter(({ size, digest }) => size <= ceiling && timed.has(digest));
      t.ok(rivals.length > 0);
      for (const { rank } of rivals) t.ok(rankOf(chosen!.plan) <= rank * (1 + 1e-9));
    },
  );
}

t.test('of the plans that were run the one that ranks best, and few others under the ceiling are better', async (t) => {
  const { problem } = assessed;
  let [better, all] = [0, 0];
  for (const { plan } of every.filter((_, index) => index % 29 === 0)) {
    const ceilings = { latency: plan.costs.latency };
    const holding = every.filter(({ plan: other }) => other.costs.latency <= ceilings.latency);
    const estimated = holding.sort((a, b) => a.plan.costs.sensitivity - b.plan.costs.sensitivity)[0]!;
    const ranking = rankingFor('native');
    const few = await ranking.bestNear(problem, estimated.plan.assignment, ceilings, solver);
    const best = few[0]!;
    for (const [index, one] of few.entries()) {
      t.ok(one.costs.latency <= ceilings.latency);
      t.ok(rankOf(one) >= rankOf(few[Math.max(0, index - 1)]!) * (1 - 1e-9), 'best first');
    }
    t.ok(best.costs.latency <= ceilings.latency);
    t.ok(rankOf(best) <= estimated.rank * (1 + 1e-9));
    t.strictSame(await ranking.of([best]), [rankOf(best)]);
    better += holding.filter(({ rank }) => rank < rankOf(best)).length;
    all += holding.length;
  }
  t.ok(better <= all / 20, `${better} of ${all}`);
});

/** A store that answers what was found of artifacts, and forgets which plans they were of. */
class Forgetful extends SqliteStore {
  override putResult(key: string, kind: string, value: unknown): void {
    if (kind !== 'run-plans') super.putResult(key, kind, value);
  }
}

t.test('searches for other ceilings start from the plans that the ones before them ran', async (t) => {
  const { problem } = assessed;
  /** How often a plan was run or looked up, and the rank of what was found, over ceilings in turn. */
  const searches = async (store: SqliteStore, writes = written) => {
    let [looks, rank] = [0, 0];
    for (const part of [0.3, 0.6, 0.45, 0.75, 0.5]) {
      const ceilings = { latency: every[Math.floor(part * every.length)]!.plan.costs.latency };
      const holding = every.filter(({ plan }) => plan.costs.latency <= ceilings.latency);
      const estimated = holding.sort((a, b) => a.plan.costs.sensitivity - b.plan.costs.sensitivity)[0]!;
      const ranking = rankingFor('native', never, store, writes, () => looks++);
      const few = await ranking.bestNear(problem, estimated.plan.assignment, ceilings, solver);
      t.ok(few.every(({ costs }) => costs.latency <= ceilings.latency));
      rank += Math.log(rankOf(few[0]!)) / 5;
    }
    return { looks, rank };
  };
  const [told, untold] = [await searches(new SqliteStore(':memory:')), await searches(new Forgetful(':memory:'))];
  t.comment(
    `${untold.looks} plans by searches that are told nothing, ${told.looks} by those that are; ranks ${untold.rank}, ${told.rank}`,
  );
  t.ok(told.looks < untold.looks, `${told.looks} and ${untold.looks}`);
  t.ok(told.rank <= untold.rank + 0.2, `${told.rank} and ${untold.rank}`);
  // Plans that would be written otherwise now are not what was run.
  const shared = new SqliteStore(':memory:');
  await searches(shared);
  let looks = 0;
  const { recipe } = assessed;
  const narrower = (ranges: Iterable<[string, Range]>) =>
    [...ranges].map(
      ([name, { minimum, maximum }]) => [name, { minimum: 0.9 * minimum, maximum: 0.9 * maximum }] as const,
    );
  const byBits = Object.entries(recipe.rangesByBits).map(([bits, ranges]) => {
    return [bits, Object.fromEntries(narrower(Object.entries(ranges)))] as const;
  });
  const others = { ...recipe, ranges: new Map(narrower(recipe.ranges)), rangesByBits: Object.fromEntries(byBits) };
  const otherwise = (plan: Plan) => written(plan, { ...assessed, recipe: others });
  const ranking = rankingFor('native', never, shared, otherwise, () => looks++);
  const { plan } = every[Math.floor(every.length / 2)]!;
  await ranking.bestNear(problem, plan.assignment, { latency: plan.costs.latency }, solver);
  const alone = looks;
  looks = 0;
  const fresh = rankingFor('native', never, new SqliteStore(':memory:'), otherwise, () => looks++);
  await fresh.bestNear(problem, plan.assignment, { latency: plan.costs.latency }, solver);
  t.equal(alone, looks);
});

t.test('elsewhere plans are not run, and the estimate is all', async (t) => {
  const ranking = rankingFor('ort');
  const opened = runtime.opened;
  const plans = every.slice(0, 5).map(({ plan }) => plan);
  t.strictSame(
    await ranking.of(plans),
    plans.map(({ costs }) => costs.sensitivity),
  );
  const { assignment } = plans[0]!;
  const few = await ranking.bestNear(assessed.problem, assignment, {}, solver);
  t.strictSame(
    few.map((plan) => plan.assignment),
    [assignment],
  );
  t.equal(runtime.opened, opened);
});

t.test('a plan is run once, however often it is asked for; an abort ends it and closes every session', async (t) => {
  const abort = new AbortController();
  const ranking = rankingFor('native', abort.signal);
  const plans = every.slice(0, 2).map(({ plan }) => plan);
  await ranking.of(plans);
  const opened = runtime.opened;
  await ranking.of([...plans, ...plans]);
  t.equal(runtime.opened, opened);
  abort.abort(new Error('enough'));
  await t.rejects(ranking.of([every[3]!.plan]), { message: 'enough' });
  t.equal(runtime.closed, runtime.opened);
});

t.test("the overhead of one model's runs is not another's", async (t) => {
  const other = { prepared: network(seed + 7), modelSha256: 'another network' };
  const first = await pipelineFor({}, other, never, 99_000).assess();
  t.equal(first.problem.fixed.latency, 99_000);
  const again = await pipelineFor({}, {}, never, 1).assess();
  t.equal(again.profiledOperators, 0);
  t.equal(again.problem.fixed.latency, 50);
});
