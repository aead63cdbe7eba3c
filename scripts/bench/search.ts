/**
 * Ways to choose a plan, on the same tables, at equal latency: uniform W4A8 says how long a plan may take, and every other way gets as
 * long. Each is told what its plans measured and may choose again: the planner, as in the product, learns from that what choices take, the
 * others get a ceiling that is corrected by how much longer their plans took than the tables say. Plans are written as the pipeline writes them before it refines the chosen one, and
 * judged by their divergence from float on held-out samples.
 */
import { NativeTarget } from '../../agent/adapters/native-target.js';
import { allocate } from '../../agent/core/plan/allocate.js';
import { correctedBy } from '../../agent/core/plan/corrected.js';
import { type Plan, planKey, planOf, precisionsOf, restrict, uniformPlan } from '../../agent/core/plan/plan.js';
import type { Assignment } from '../../agent/core/plan/problem.js';
import { parsePrecision } from '../../agent/core/precision.js';
import type { PreparedModel } from '../../agent/core/prepare.js';
import { median } from '../../agent/core/statistics.js';
import { type Assessed, type Job, Pipeline, type Ports } from '../../agent/pipeline.js';
import type { Comparison, Feeds } from '../../agent/ports.js';
import { apply } from '../../agent/steps/apply.js';
import { PlanRanking } from '../../agent/steps/plan-ranking.js';
import type { SampleReader } from '../../agent/steps/samples.js';
import { table } from '../../agent/terminal.js';
import { bisectedPlan, exchangedPlan, greedyPlan, randomPlans } from './heuristics.js';
import { divergenceOf, inMemory, Judge } from './judge.js';
import { type BenchModel, benchJob } from './models.js';

const baseline = 'W4A8';
const planner = 'planner';
const random = { plans: 50, timed: 6, seed: 1 } as const;
/** Random plans have no fewer bits: with 2 bits drawn at random a model is no better than chance. */
const leastBits = 4;
/** How often a way may choose, each time under a better ceiling. */
const rounds = 4;
/** How often plans are opened and compared for one timing. */
const comparisons = 3;
/** Two measurements of one plan differ by as much. */
const tolerance = 0.02;
/** While plans are chosen, less of it is given away. */
const choosingTolerance = 0.01;
/** Divergences nearer than this are those of plans that differ in nothing that matters. */
const alike = 0.999;
const quiet = () => {};

/** Held-out samples that plans are judged on. */
const judgeSamples = ({ macs }: PreparedModel) => (macs <= 60e6 ? 500 : 128);

/** What a way to choose came to on one model. */
interface Row {
  readonly model: string;
  readonly method: string;
  /** Sums of the tables. */
  readonly sensitivity: number;
  readonly predictedMs: number;
  readonly measuredMs: number;
  /** Measured, over uniform W4A8's in the same rounds. */
  readonly ratio: number;
  readonly divergence: number;
  readonly top1: number | null;
  readonly agreement: number;
  /** Spent on choosing, without the timing of plans; of random plans, on judging them. */
  readonly seconds: number;
  readonly plan: string;
}

/** Chooses plans to be timed under a ceiling on predicted latency, best first; none where it finds none. */
interface Method {
  readonly name: string;
  /**
   * @param ceiling what uniform W4A8 is predicted to take, corrected by how much longer the method's plans took than predicted
   * @param trials what it was told of its plans so far
   */
  readonly choose: (ceiling: number, trials: readonly Trial[]) => Promise<readonly Plan[]>;
  /** Of plans that were chosen under several ceilings, the one with the least of this counts; estimated sensitivity where absent. */
  readonly ranksOf?: (plans: readonly Plan[]) => Promise<number[]>;
}

/** What a method came to; null where it found no plan. */
interface Contender {
  readonly name: string;
  readonly plan: Plan | null;
  readonly seconds: number;
}

/** A plan that was timed beside uniform W4A8. */
interface Trial {
  readonly plan: Plan;
  readonly ratio: number;
}

/** A model with its tables and everything that plans are timed and judged by. */
interface Subject {
  readonly job: Job;
  readonly assessed: Assessed;
  /** A plan's artifact. */
  readonly written: (plan: Plan) => Uint8Array;
  readonly uniform: Plan;
  readonly judge: Judge;
  readonly ranking: PlanRanking;
  readonly ports: Ports;
  readonly signal: AbortSignal;
}

/** Prints the table of each model and who won where; answers all rows. */
export async function searchBench(
  models: readonly BenchModel[],
  ports: Ports,
  signal: AbortSignal,
): Promise<{ rows: Row[] }> {
  const rows: Row[] = [];
  for (const model of models) {
    process.stderr.write(`${model.name}\n`);
    const subject = await openSubject(model, { ...ports, target: new NativeTarget({ threads: 1 }) }, signal);
    if (subject === null) continue;
    const own = await compareMethods(model.name, subject);
    rows.push(...own);
    process.stdout.write(`${tableOf(own)}\n\n`);
  }
  process.stdout.write(verdict(rows));
  return { rows };
}

async function openSubject(model: BenchModel, ports: Ports, signal: AbortSignal): Promise<Subject | null> {
  const job: Job = { ...(await benchJob(model)), variant: 'native' };
  if (job.calibration === null || job.test === null) return null;
  const { calibration } = job;
  const calibrationSamples: SampleReader = {
    count: calibration.count,
    source: 'samples',
    digest: calibration.digest,
    read: (index) => calibration.read(index),
  };
  const assessed = await new Pipeline(job, ports, signal, quiet).assess();
  const test = await inMemory(job.test, judgeSamples(job.prepared));
  const judge = await Judge.open(job.prepared, test, ports.runtime, signal);
  const written = (plan: Plan) => apply(job.prepared, precisionsOf(plan), assessed.recipe, assessed.form);
  const ranking = new PlanRanking({ job, calibrationSamples, ports, signal }, written, quiet);
  return { job, assessed, written, uniform: uniformPlan(assessed.problem, baseline), judge, ranking, ports, signal };
}

async function compareMethods(model: string, subject: Subject): Promise<Row[]> {
  const { uniform } = subject;
  const contenders = await closedLoop(subject, methodsOf(subject));
  contenders.push(await bestOfRandom(subject));
  const chosen: { name: string; plan: Plan; seconds: number }[] = [
    { name: `uniform ${baseline}`, plan: uniform, seconds: 0 },
    ...contenders.flatMap(({ name, plan, seconds }) => (plan === null ? [] : [{ name, plan, seconds }])),
  ];
  const timings = await timed(
    subject,
    chosen.map(({ plan }) => plan),
  );
  const rows: Row[] = [];
  for (const { name, plan, seconds } of chosen) {
    const quality = await subject.judge.qualityOf(subject.written(plan));
    const { median: measured, ratio } = timings.get(planKey(plan))!;
    rows.push({
      model,
      method: name,
      sensitivity: plan.costs.sensitivity,
      predictedMs: plan.costs.latency / 1e6,
      measuredMs: measured / 1e6,
      ratio,
      divergence: divergenceOf(quality),
      top1: quality.top1,
      agreement: quality.agreement,
      seconds,
      plan: planKey(plan),
    });
  }
  return rows;
}

function methodsOf({ assessed, uniform, ranking, ports, signal }: Subject): Method[] {
  const { problem } = assessed;
  const planFrom = (assignment: Assignment | null) => (assignment === null ? [] : [planOf(problem, assignment)]);
  const programme = async (latency: number) => {
    const allocation = await allocate(problem, 'sensitivity', { latency }, ports.solver, {}, signal);
    return allocation.status === 'infeasible' ? null : allocation.assignment;
  };
  // What was measured corrects the latency of each choice, not only that of all.
  const verified = async (_: number, trials: readonly Trial[]) => {
    const latency = uniform.costs.latency;
    const measured = trials.map(({ plan, ratio }) => ({ assignment: plan.assignment, value: ratio * latency }));
    const learnt = correctedBy(problem, 'latency', measured);
    const allocation = await allocate(learnt, 'sensitivity', { latency }, ports.solver, {}, signal);
    if (allocation.status === 'infeasible') return [];
    const best = await ranking.bestNear(learnt, allocation.assignment, { latency }, ports.solver);
    return best.map(({ assignment }) => planOf(problem, assignment));
  };
  const exchange = async (ceiling: number) => {
    const starts = [greedyPlan(problem, ceiling), uniform.costs.latency <= ceiling ? uniform.assignment : null];
    const plans = starts.flatMap((start) =>
      start === null ? [] : [planOf(problem, exchangedPlan(problem, start, ceiling))],
    );
    plans.sort((a, b) => a.costs.sensitivity - b.costs.sensitivity);
    return plans.slice(0, 1);
  };
  return [
    { name: planner, choose: verified, ranksOf: (plans) => ranking.of(plans) },
    { name: 'programme alone', choose: async (ceiling) => planFrom(await programme(ceiling)) },
    { name: 'greedy', choose: async (ceiling) => planFrom(greedyPlan(problem, ceiling)) },
    { name: 'bisection', choose: async (ceiling) => planFrom(bisectedPlan(problem, ceiling)) },
    { name: 'exchange', choose: exchange },
  ];
}

/**
 * What methods come to, each by itself: the least sensitive of its plans that measured no slower than uniform W4A8, or that one, which
 * is there without being chosen. Every plan corrects the ceiling of the method's next. Plans of one round are timed in one comparison.
 */
async function closedLoop(subject: Subject, methods: readonly Method[]): Promise<Contender[]> {
  const { uniform } = subject;
  const searches = methods.map((method) => ({
    ...method,
    ceiling: uniform.costs.latency,
    trials: [{ plan: uniform, ratio: 1 }] as Trial[],
    seconds: 0,
  }));
  for (let round = 0; round < rounds; round++) {
    const fresh: { search: (typeof searches)[number]; plan: Plan }[] = [];
    for (const search of searches) {
      const started = performance.now();
      const plans = await search.choose(search.ceiling, search.trials);
      search.seconds += (performance.now() - started) / 1000;
      const known = search.trials.map((trial) => planKey(trial.plan));
      for (const plan of plans) if (!known.includes(planKey(plan))) fresh.push({ search, plan });
    }
    if (fresh.length === 0) break;
    const timings = await timed(subject, [uniform, ...fresh.map(({ plan }) => plan)]);
    for (const { search, plan } of fresh) {
      const { ratio } = timings.get(planKey(plan))!;
      search.trials.push({ plan, ratio });
      search.ceiling = median(search.trials.slice(1).map((trial) => trial.plan.costs.latency / trial.ratio));
    }
  }
  const contenders: Contender[] = [];
  for (const { name, ranksOf = estimates, trials, seconds } of searches) {
    const holding = trials.filter(({ ratio }) => ratio <= 1 + choosingTolerance).map(({ plan }) => plan);
    const ranks = await ranksOf(holding);
    trials.sort((a, b) => a.ratio - b.ratio);
    const plan = holding[ranks.indexOf(Math.min(...ranks))] ?? trials[0]?.plan ?? null;
    contenders.push({ name, plan, seconds });
  }
  return contenders;
}

async function estimates(plans: readonly Plan[]): Promise<number[]> {
  return plans.map(({ costs }) => costs.sensitivity);
}

/** By divergence on the very samples that all are judged by. */
async function bestOfRandom(subject: Subject): Promise<Contender> {
  const name = `best of ${random.plans} random`;
  const { problem } = subject.assessed;
  const names = new Set(problem.operators.flatMap(({ choices }) => choices.map(({ precision }) => precision)));
  const isWide = (name: string) => Math.min(...Object.values(parsePrecision(name))) >= leastBits;
  const wide = restrict(problem, [...names].filter(isWide));
  const started = performance.now();
  const drawn: { plan: Plan; divergence: number }[] = [];
  for (const assignment of randomPlans(wide, subject.uniform.costs.latency, random.plans, random.seed)) {
    const plan = planOf(wide, assignment);
    drawn.push({ plan, divergence: divergenceOf(await subject.judge.qualityOf(subject.written(plan))) });
  }
  const seconds = (performance.now() - started) / 1000;
  const nearest = drawn.sort((a, b) => a.divergence - b.divergence).slice(0, random.timed);
  const timings = await timed(subject, [subject.uniform, ...nearest.map(({ plan }) => plan)]);
  const held = nearest.find(({ plan }) => timings.get(planKey(plan))!.ratio <= 1 + choosingTolerance);
  return { name, plan: held?.plan ?? null, seconds };
}

/**
 * By plan key: median nanoseconds of plans in interleaved comparisons, and the median of their ratios to the first, round by round. Every
 * comparison opens the plans anew: where memory comes to lie makes a tiny model several percent slower for as long as it is open.
 */
async function timed(
  subject: Subject,
  plans: readonly Plan[],
): Promise<ReadonlyMap<string, { median: number; ratio: number }>> {
  const { job, ports, signal } = subject;
  const distinct = new Map(plans.map((plan) => [planKey(plan), plan]));
  const data = await job.calibration!.read(0);
  const feeds: Feeds = new Map([[job.prepared.card.input.name, { dims: job.prepared.inputDims, data }]]);
  const models = [...distinct].map(([name, plan]) => ({ name, bytes: subject.written(plan) }));
  const found: Comparison[] = [];
  for (let time = 0; time < comparisons; time++) found.push(await ports.target.compare(models, feeds, signal, quiet));
  return new Map(
    models.map(({ name }, at) => {
      const times = found.map(({ timings }) => timings[at]!.median);
      return [name, { median: median(times), ratio: median(found.map(({ ratios }) => ratios[at]!)) }];
    }),
  );
}

function tableOf(rows: readonly Row[]): string {
  const header = [
    'model',
    'method',
    'sensitivity',
    'predicted ms',
    'measured ms',
    'ratio',
    'KL',
    'top-1',
    'agreement',
    's',
  ];
  const cells = rows.map((row) => [
    row.model,
    row.method,
    row.sensitivity.toPrecision(4),
    row.predictedMs.toFixed(3),
    row.measuredMs.toFixed(3),
    row.ratio.toFixed(3),
    row.divergence.toPrecision(4),
    row.top1 === null ? '-' : `${(100 * row.top1).toFixed(1)} %`,
    `${(100 * row.agreement).toFixed(1)} %`,
    row.seconds.toFixed(2),
  ]);
  return table(header, cells);
}

/** On how many models no other plan at no more latency diverges less than the planner's, and where one does, which. */
function verdict(rows: readonly Row[]): string {
  const models = [...new Set(rows.map(({ model }) => model))];
  const lost = models.flatMap((model) => {
    const held = rows.filter((row) => row.model === model && row.ratio <= 1 + tolerance);
    const own = held.find(({ method }) => method === planner);
    if (own === undefined) return [`${model}: the planner's plan takes longer`];
    const better = held.filter(({ divergence }) => divergence < own.divergence * alike);
    const list = better.map(({ method, divergence }) => `${method} ${(divergence / own.divergence).toFixed(3)}`);
    return list.length === 0 ? [] : [`${model}: less KL (as a share of the planner's) by ${list.join(', ')}`];
  });
  const count = `the planner's plan has the least KL at no more latency on ${models.length - lost.length} of ${models.length} models`;
  return [...lost, count, ''].join('\n');
}
