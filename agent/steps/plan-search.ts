import type { Precision } from '../../configs/contracts/plan.js';
import { type Correction, ceilingsOf, latencyCeiling } from '../core/budget.js';
import { allocate, type Shortfall } from '../core/plan/allocate.js';
import type { LatencyExperience } from '../core/plan/expected-latency.js';
import { type Plan, planKey, planOf, precisionsOf, sameIn, uniformPlan } from '../core/plan/plan.js';
import type { Choice } from '../core/plan/problem.js';
import { unitsOf } from '../core/plan/units.js';
import type { PreparedModel } from '../core/prepare.js';
import { canRunInt8 } from '../core/quant/qdq.js';
import type { Assessed, Job, Ports, StepSeconds } from '../pipeline.js';
import type { Progress } from '../ports.js';
import { apply, floatModel } from './apply.js';
import { PlanQualities, type QualityReport } from './plan-quality.js';
import { PlanRanking } from './plan-ranking.js';
import { type Artifact, type MeasuredPlan, PlanTimings } from './plan-timings.js';
import type { Quality } from './quality.js';
import { judgedFromBits, type Refinement, refinedRecipe } from './refine.js';
import type { SampleReader } from './samples.js';

/**
 * How a search ended. `chosen` is null where nothing held the budget; `quality` is then that of the plan that missed the floor on
 * quality, or null.
 */
export interface PlanOutcome {
  readonly feasible: boolean;
  /** Why not, when infeasible: ceilings (and quality floors) that cannot be met. */
  readonly shortfalls: readonly (Shortfall | QualityShortfall)[];
  readonly chosen: MeasuredPlan | null;
  /** What was predicted and measured of every plan that was tried, in order. */
  readonly rounds: readonly Correction[];
  readonly experience: LatencyExperience;
  readonly solver: { status: string; gap: number; seconds: number };
  readonly quality: QualityReport | null;
}

/** A quality floor that even the most accurate plan under the ceilings does not reach. */
export interface QualityShortfall {
  readonly metric: 'drop' | 'agreement';
  readonly ceiling: number;
  readonly minimum: number;
  readonly alone: boolean;
}

/** What a search starts from. */
export interface SearchContext {
  readonly job: Job;
  readonly assessed: Assessed;
  readonly frontier: readonly Plan[];
  readonly calibrationSamples: SampleReader;
  /** The model at given precisions, quantized layer by layer; null where that was not done before and is not worth it. */
  readonly refine: (
    precisions: ReadonlyMap<string, Precision>,
    isWorthIt: () => Promise<boolean>,
  ) => Promise<Refinement | null>;
  /** From this model's earlier runs here. */
  readonly experience: LatencyExperience;
  readonly ports: Ports;
  readonly signal: AbortSignal;
}

type Timed = <T>(step: keyof StepSeconds, work: () => Promise<T>) => Promise<T>;

const defaultRounds = 6;
/** After as many, a plan has to rank below this share of the one that would be chosen to be worth another round. */
const fewRounds = 2;
const worthAnotherRound = 0.9;
/** See `#agreementFloor`. */
const tolerableDisagreement = 0.01;

/**
 * The closed loop: solve, apply, measure, feed the error back, until the measured budget holds. With a ceiling on latency, size,
 * memory or energy the objective is accuracy, as `PlanRanking` expects it; without one it is speed (subject to a ceiling on
 * sensitivity and a quality floor, where they are asked for).
 */
export class PlanSearch {
  readonly #context: SearchContext;
  readonly #progress: (step: keyof StepSeconds) => Progress;
  readonly #timed: Timed;
  /** Uniform int8 of the target itself. */
  readonly #int8: Plan;
  /** Timed in every comparison. The first two are float and int8: ONNX Runtime's, but on a microcontroller, which has no float. */
  readonly #always: readonly [Artifact, Artifact, ...Artifact[]];
  readonly #timings: PlanTimings;
  readonly #rounds: Correction[] = [];
  /** Artifacts of plans with weights of their own. */
  readonly #refinedBytes = new Map<string, Uint8Array>();
  readonly #qualities: PlanQualities;
  /** What decides between plans under ceilings. */
  readonly #ranking: PlanRanking;
  readonly #solver = { status: 'optimal', gap: 0, seconds: 0 };

  constructor(context: SearchContext, progress: (step: keyof StepSeconds) => Progress, timed: Timed) {
    this.#context = context;
    this.#progress = progress;
    this.#timed = timed;
    const { problem } = context.assessed;
    const fixed = (plan: Plan): Artifact => ({ plan, bytes: this.#applyAssessed(plan) });
    this.#qualities = new PlanQualities(context, progress('verify'));
    this.#ranking = new PlanRanking(context, (plan) => this.#applyAssessed(plan), progress('plan'));
    this.#int8 = uniformPlan(problem, 'W8A8');
    const { prepared } = context.job;
    const other = (bytes: Uint8Array): Artifact => ({ plan: null, bytes });
    const float = other(floatModel(prepared));
    const ends = {
      ort: () => [fixed(uniformPlan(problem, 'float')), fixed(this.#int8)] as const,
      native: () => [float, other(ortInt8(prepared, context.assessed)), fixed(this.#int8)] as const,
      mcu: () => [float, fixed(this.#int8)] as const,
    };
    this.#always = ends[context.ports.target.kind]();
    this.#timings = new PlanTimings(context, this.#int8, this.#always[1].plan !== null);
  }

  async run(): Promise<PlanOutcome> {
    // A ceiling relative to ONNX Runtime's int8 means nothing to the engine's own tables before both were timed.
    const { job, experience } = this.#context;
    const isRelative = this.#always[1].plan === null && job.budget.latencyRatio !== undefined;
    if (isRelative && experience.int8Ratio === null) await this.#measure([]);
    const found = this.#isForAccuracy() ? await this.#mostAccurateUnderCeilings() : await this.#fastest();
    if (found.chosen === null) return this.#outcome(null, null, found.shortfalls);
    const quality = await this.#quality(found.chosen);
    const isGood = this.#isGoodEnough(quality);
    // Weights of its own may be what a plan lacks, before a slower one is looked for.
    const better = isGood ? found.chosen : await this.#refined(found.chosen, async () => true);
    const chosen = isGood || better !== found.chosen ? better : await this.#fastestGoodEnough(found.chosen);
    if (chosen === null) return this.#outcome(null, quality, this.#qualityShortfalls(quality));
    const isWorthIt = async () => !(await this.#ranking.isNearFloat(chosen.plan));
    const last = chosen.isRefined ? chosen : await this.#refined(chosen, isWorthIt);
    return this.#outcome(last, await this.#quality(last), []);
  }

  #outcome(
    chosen: MeasuredPlan | null,
    quality: QualityReport | null,
    shortfalls: PlanOutcome['shortfalls'],
  ): PlanOutcome {
    return {
      feasible: chosen !== null,
      shortfalls,
      chosen,
      rounds: this.#rounds,
      experience: this.#timings.learntFor(this.#context.frontier),
      solver: this.#solver,
      quality,
    };
  }

  /**
   * The plan with weights, biases and ranges of its own instead of those that each width has by itself; as it is, where that does not bring
   * it nearer to the float model, or takes it beyond the budget. That takes longer than everything else about a plan.
   */
  async #refined(chosen: MeasuredPlan, isWorthIt: () => Promise<boolean>): Promise<MeasuredPlan> {
    const { job, assessed } = this.#context;
    if (job.variant !== 'native') return chosen;
    const { plan } = chosen;
    const key = planKey(plan);
    const precisions = precisionsOf(plan);
    // Ranges and biases of their own overfit to made-up samples, and only rounding, which there is none of, would be worth that.
    const roundsNone = [...precisions.values()].every(({ weightBits }) => weightBits >= judgedFromBits);
    if (job.calibration === null && roundsNone) return chosen;
    const refinement = await this.#timed('apply', () => this.#context.refine(precisions, isWorthIt));
    if (refinement === null) return chosen;
    const bytes = apply(job.prepared, precisions, refinedRecipe(assessed.recipe, refinement), assessed.form);
    if (!(await this.#timed('verify', () => this.#ranking.isNearer(bytes, plan)))) return chosen;
    // Weights, biases and ranges are data to the same kernels: it takes as long as what was timed.
    const refined = { ...chosen, bytes, isRefined: true };
    this.#refinedBytes.set(key, bytes);
    if (this.#holds(refined) && this.#isGoodEnoughQuality(await this.#qualityOf(plan))) return refined;
    this.#refinedBytes.delete(key);
    return chosen;
  }

  #isForAccuracy(): boolean {
    const { latencyMs, latencyRatio, sizeBytes, ramBytes, flashBytes, energyMj } = this.#context.job.budget;
    return [latencyMs, latencyRatio, sizeBytes, ramBytes, flashBytes, energyMj].some(
      (ceiling) => ceiling !== undefined,
    );
  }

  /**
   * The best rank under the ceilings: of the plan of least sensitivity, and of its alternatives where plans are run. Every measurement corrects the ceilings of the next round, in both directions: a miss
   * lowers them, room to spare raises them. Ends when a round brings no new plan, or none that is better; after a few, by a tenth.
   */
  async #mostAccurateUnderCeilings(): Promise<{ chosen: MeasuredPlan | null; shortfalls: readonly Shortfall[] }> {
    const { job, assessed, ports, signal } = this.#context;
    const rounds = job.budget.rounds ?? defaultRounds;
    let shortfalls: readonly Shortfall[] = [];
    for (let round = 0; round < rounds; round++) {
      const { problem, corrections, prior } = this.#timings.learnt(assessed.candidates);
      const ceilings = ceilingsOf(assessed.limits, this.#timings.int8Prediction(), corrections, prior);
      this.#progress('plan')(round / rounds, `solving, round ${round + 1}`);
      const allocation = await this.#timed('plan', () =>
        allocate(problem, 'sensitivity', ceilings, ports.solver, {}, signal),
      );
      this.#solver.seconds += allocation.seconds;
      let plans: readonly Plan[];
      if (allocation.status === 'infeasible') {
        shortfalls = allocation.infeasible;
        // The tables may be a few percent off: the fastest plan is worth a measurement before giving up.
        plans = this.#context.frontier.slice(0, 1);
      } else {
        this.#solver.status = allocation.status;
        this.#solver.gap = allocation.gap;
        const found = await this.#timed('plan', () =>
          this.#ranking.bestNear(problem, allocation.assignment, ceilings, ports.solver),
        );
        plans = found.map(({ assignment }) => planOf(assessed.candidates, assignment));
      }
      const fresh: Plan[] = [];
      const worth = round < fewRounds ? 1 : worthAnotherRound;
      for (const plan of plans) if (!this.#timings.has(plan) && (await this.#improves(plan, worth))) fresh.push(plan);
      if (fresh.length === 0) break;
      await this.#measure(fresh);
    }
    const chosen = await this.#mostAccurateEligible();
    if (chosen !== null) return { chosen, shortfalls: [] };
    return { chosen, shortfalls: shortfalls.length === 0 ? this.#missedCeilings() : this.#inMeasuredUnits(shortfalls) };
  }

  async #mostAccurateEligible(): Promise<MeasuredPlan | null> {
    const eligible = this.#eligible();
    const ranks = await this.#ranking.of(eligible.map(({ plan }) => plan));
    return best(
      eligible,
      (candidate) => ranks[eligible.indexOf(candidate)]!,
      (candidate) => candidate.latency,
    );
  }

  /** Whether a plan would be chosen over what is there already, if it held, and ranks below this share of that. */
  async #improves(plan: Plan, share: number): Promise<boolean> {
    const chosen = await this.#mostAccurateEligible();
    if (chosen === null) return true;
    const [rank, least] = await this.#ranking.of([plan, chosen.plan]);
    return rank! < share * least!;
  }

  /** The fastest plan under the ceiling on sensitivity, if there is one, by measurement against both uniform ends. */
  async #fastest(): Promise<{ chosen: MeasuredPlan | null; shortfalls: readonly Shortfall[] }> {
    const { assessed, ports, signal } = this.#context;
    // Beside what was asked for, what the target has no more of.
    const { latency: _, ...ceilings } = ceilingsOf(assessed.limits, 0, [], 1);
    const { problem } = this.#timings.learnt(assessed.candidates);
    const allocation = await this.#timed('plan', () =>
      allocate(problem, 'latency', ceilings, ports.solver, {}, signal),
    );
    this.#solver.seconds += allocation.seconds;
    if (allocation.status === 'infeasible') return { chosen: null, shortfalls: allocation.infeasible };
    this.#solver.status = allocation.status;
    this.#solver.gap = allocation.gap;
    await this.#measure([planOf(assessed.candidates, allocation.assignment)]);
    return {
      chosen: best(
        this.#eligible(),
        (candidate) => candidate.latency,
        (candidate) => candidate.plan.costs.sensitivity,
      ),
      shortfalls: [],
    };
  }

  /**
   * The fastest plan whose measured quality reaches the floor: bisection over the frontier, then over the operators in which the
   * last two points differ, most sensitive first (the order of arXiv 2306.04879).
   */
  async #fastestGoodEnough(failed: MeasuredPlan): Promise<MeasuredPlan | null> {
    const ceiling = this.#timings.ceiling() ?? Number.POSITIVE_INFINITY;
    const points = this.#context.frontier.filter(
      (plan) => plan.costs.sensitivity < failed.plan.costs.sensitivity && plan.costs.latency <= ceiling,
    );
    const first = await this.#firstGoodEnough(points);
    // Where no point is good enough, uniform int8 may be: it is timed and judged in any case, and need not be a point.
    if (first !== null) await this.#measure(await this.#fastestNear(points, first, failed));
    const good = this.#eligible().filter(({ plan }) => {
      const quality = this.#qualities.known(this.#artifactKey(plan));
      return quality !== null && this.#isGoodEnoughQuality(quality);
    });
    return best(
      good,
      (candidate) => candidate.latency,
      (candidate) => candidate.plan.costs.sensitivity,
    );
  }

  /** The first point that is good enough, and a plan between it and the one before that still is. */
  async #fastestNear(points: readonly Plan[], first: number, failed: MeasuredPlan): Promise<readonly Plan[]> {
    const { candidates } = this.#context.assessed;
    const ceiling = this.#timings.ceiling() ?? Number.POSITIVE_INFINITY;
    const worse = first === 0 ? sameIn(candidates, failed.plan) : points[first - 1]!;
    const better = points[first]!;
    const gain = (from: Plan) => (index: number) =>
      choiceAt(from, index).costs.sensitivity - choiceAt(better, index).costs.sensitivity;
    const steps = worse === null ? [] : between(worse, better, gain(worse));
    const refined = steps
      .map((assignment) => planOf(candidates, assignment))
      .filter((plan) => plan.costs.latency <= ceiling);
    const firstRefined = await this.#firstGoodEnough(refined);
    return firstRefined === null ? [better] : [refined[firstRefined]!, better];
  }

  /** Index of the first plan, in an order of rising accuracy, that reaches the floor; null when the last does not. */
  async #firstGoodEnough(plans: readonly Plan[]): Promise<number | null> {
    let low = 0;
    let high = plans.length - 1;
    if (high < 0 || !this.#isGoodEnoughQuality(await this.#qualityOf(plans[high]!))) return null;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#isGoodEnoughQuality(await this.#qualityOf(plans[middle]!))) high = middle;
      else low = middle + 1;
    }
    return high;
  }

  /** Times plans against both uniform ends. */
  async #measure(plans: readonly Plan[]): Promise<void> {
    // A plan that is timed in any case is the same artifact: it is timed once.
    const known = this.#always.flatMap(({ plan }) => (plan === null ? [] : [planKey(plan)]));
    const others = plans.filter((plan) => !known.includes(planKey(plan)));
    const written = await this.#timed('apply', async () =>
      others.map((plan) => ({ plan, bytes: this.#applyAssessed(plan) })),
    );
    const corrections = await this.#timed('verify', () =>
      this.#timings.measure([...this.#always, ...written], this.#progress('verify')),
    );
    const asked = new Set(plans.map(planKey));
    for (const { plan, ...correction } of corrections) if (asked.has(planKey(plan))) this.#rounds.push(correction);
  }

  #holds(candidate: MeasuredPlan): boolean {
    const limit = latencyCeiling(this.#context.job.budget, candidate.int8Latency) ?? Number.POSITIVE_INFINITY;
    return candidate.latency <= limit && this.#holdsBesidesLatency(candidate);
  }

  #holdsBesidesLatency(candidate: MeasuredPlan): boolean {
    const { limits: budget } = this.#context.assessed;
    const stored = Math.min(
      budget.sizeBytes ?? Number.POSITIVE_INFINITY,
      budget.flashBytes ?? Number.POSITIVE_INFINITY,
    );
    const { ramBytes, energy, sensitivity } = candidate.plan.costs;
    const joules = budget.energyMj === undefined ? Number.POSITIVE_INFINITY : budget.energyMj / 1000;
    return (
      candidate.bytes.length <= stored &&
      sensitivity <= (budget.sensitivity ?? Number.POSITIVE_INFINITY) &&
      ramBytes <= (budget.ramBytes ?? Number.POSITIVE_INFINITY) &&
      (energy === null ? joules === Number.POSITIVE_INFINITY : energy <= joules)
    );
  }

  /** What was measured, holds the budget, and uses no precision that was not asked for. */
  #eligible(): MeasuredPlan[] {
    return this.#timings.measured.filter((candidate) => this.#holds(candidate) && this.#isCandidate(candidate.plan));
  }

  #isCandidate(plan: Plan): boolean {
    return this.#context.assessed.candidates.operators.every(({ choices }, index) =>
      choices.some(({ precision }) => precision === choiceAt(plan, index).precision),
    );
  }

  /** Latencies of the solver are predictions under corrected ceilings: told as asked for, and as they can be expected to measure. */
  #inMeasuredUnits(shortfalls: readonly Shortfall[]): Shortfall[] {
    const unit = this.#timings.unit();
    const asked = this.#timings.ceiling();
    return shortfalls.map((shortfall) => {
      if (shortfall.metric !== 'latency' || asked === null) return shortfall;
      const minimum = shortfall.minimum === null ? null : shortfall.minimum * unit;
      return { ...shortfall, ceiling: asked * unit, minimum };
    });
  }

  /** By prediction there were plans, by measurement none: what the fastest came to of those that hold the rest of the budget. */
  #missedCeilings(): Shortfall[] {
    const isRival = (candidate: MeasuredPlan) =>
      this.#holdsBesidesLatency(candidate) && this.#isCandidate(candidate.plan);
    const rivals = this.#timings.measured.filter(isRival);
    const fastest = best(
      rivals.length > 0 ? rivals : this.#timings.measured,
      (candidate) => candidate.latency,
      () => 0,
    );
    const limit = fastest === null ? null : latencyCeiling(this.#context.job.budget, fastest.int8Latency);
    if (fastest === null || limit === null) return [];
    const alone = rivals.length === this.#timings.measured.length;
    return [{ metric: 'latency', ceiling: limit, minimum: fastest.latency, alone }];
  }

  /** Quality of a measured plan and of the int8 end on the best samples there are. */
  async #quality(measured: MeasuredPlan): Promise<QualityReport> {
    const plan = await this.#qualityOf(measured.plan);
    const int8 = await this.#qualityOf(this.#int8);
    return { ...this.#qualities.basis!, int8, plan };
  }

  /** The float model and uniform int8 are run along with the first plan that is asked for. */
  #qualityOf(plan: Plan): Promise<Quality> {
    const artifact = (of: Plan) => ({ key: this.#artifactKey(of), bytes: () => this.#apply(of) });
    return this.#timed('verify', () => this.#qualities.of(artifact(plan), artifact(this.#int8)));
  }

  #isGoodEnough(quality: QualityReport): boolean {
    return this.#isGoodEnoughQuality(quality.plan);
  }

  #isGoodEnoughQuality(quality: Quality): boolean {
    const { drop } = this.#context.job.budget;
    const agreement = this.#agreementFloor();
    const floatTop1 = this.#qualities.basis?.floatTop1 ?? null;
    const isDropOk =
      drop === undefined || (floatTop1 !== null && quality.top1 !== null && floatTop1 - quality.top1 <= drop + 1e-9);
    return isDropOk && (agreement === undefined || quality.agreement >= agreement - 1e-9);
  }

  /**
   * The least agreement that will do. The engine has precisions at which a model is fast and useless: where the budget asks for speed
   * alone, that is not what is meant, and a plan has to come within a point of uniform int8.
   */
  #agreementFloor(): number | undefined {
    const { agreement, drop, sensitivity } = this.#context.job.budget;
    const asksForSpeedAlone = agreement === undefined && drop === undefined && sensitivity === undefined;
    const isNative = this.#context.job.variant === 'native';
    // Who leaves 8 bits out of the candidates has chosen.
    if (!isNative || !asksForSpeedAlone || this.#isForAccuracy() || !this.#isCandidate(this.#int8)) return agreement;
    const int8 = this.#qualities.known(this.#artifactKey(this.#int8));
    return int8 === null ? undefined : int8.agreement - tolerableDisagreement;
  }

  /** What the best of the plans that hold the ceilings reaches, where that is not enough. */
  #qualityShortfalls(quality: QualityReport): QualityShortfall[] {
    const { drop, agreement } = this.#context.job.budget;
    const reached = this.#eligible().flatMap(({ plan }) => this.#qualities.known(this.#artifactKey(plan)) ?? []);
    const qualities = reached.length > 0 ? reached : [quality.plan];
    const shortfalls: QualityShortfall[] = [];
    if (drop !== undefined && quality.floatTop1 !== null) {
      const least = Math.min(...qualities.map((other) => quality.floatTop1! - (other.top1 ?? 0)));
      if (least > drop) shortfalls.push({ metric: 'drop', ceiling: drop, minimum: least, alone: false });
    }
    if (agreement !== undefined) {
      const most = Math.max(...qualities.map((other) => other.agreement));
      if (most < agreement) shortfalls.push({ metric: 'agreement', ceiling: agreement, minimum: most, alone: false });
    }
    return shortfalls;
  }

  /** Tells a plan's artifacts apart. */
  #artifactKey(plan: Plan): string {
    return this.#refinedOf(plan) === null ? planKey(plan) : `${planKey(plan)}, refined`;
  }

  #refinedOf(plan: Plan | null): Uint8Array | null {
    return plan === null ? null : (this.#refinedBytes.get(planKey(plan)) ?? null);
  }

  #apply(plan: Plan): Uint8Array {
    return this.#refinedOf(plan) ?? this.#applyAssessed(plan);
  }

  #applyAssessed(plan: Plan): Uint8Array {
    const { job, assessed } = this.#context;
    return apply(job.prepared, precisionsOf(plan), assessed.recipe, assessed.form);
  }
}

/** The model as ONNX Runtime runs it at 8 bits, from the same ranges. */
function ortInt8(prepared: PreparedModel, { recipe, saturates }: Assessed): Uint8Array {
  const int8 = { weightBits: 8, activationBits: 8 } as const;
  const operators = prepared.operators.filter((operator) => canRunInt8(operator));
  const precisions = new Map(operators.map(({ name }) => [name, int8] as const));
  return apply(prepared, precisions, recipe, { variant: 'ort', saturates });
}

/** The element of least `first`, then least `second`; null of none. */
function best<T>(items: readonly T[], first: (item: T) => number, second: (item: T) => number): T | null {
  let chosen: T | null = null;
  for (const item of items) {
    if (
      chosen === null ||
      first(item) < first(chosen) ||
      (first(item) === first(chosen) && second(item) < second(chosen))
    )
      chosen = item;
  }
  return chosen;
}

function choiceAt({ problem, assignment }: Plan, index: number): Choice {
  return problem.operators[index]!.choices[assignment[index]!]!;
}

/** Assignments on the way from one plan to another, one differing operator (or group of tied ones) at a time, largest gain first. */
function between(worse: Plan, better: Plan, gain: (index: number) => number): number[][] {
  const gainOf = (operators: readonly number[]) => operators.reduce((sum, index) => sum + gain(index), 0);
  const differing = unitsOf(worse.problem)
    .map(({ operators }) => operators)
    .filter((operators) => operators.some((index) => worse.assignment[index] !== better.assignment[index]))
    .sort((a, b) => gainOf(b) - gainOf(a));
  const assignments: number[][] = [];
  const current = [...worse.assignment];
  for (const operators of differing) {
    for (const index of operators) current[index] = better.assignment[index]!;
    assignments.push([...current]);
  }
  return assignments;
}
