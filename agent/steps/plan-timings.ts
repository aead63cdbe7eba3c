import { type Correction, latencyCeiling, latencyRatio } from '../core/budget.js';
import { speedReferenceKey } from '../core/latency.js';
import { correctedBy } from '../core/plan/corrected.js';
import type { LatencyExperience } from '../core/plan/expected-latency.js';
import { type Plan, planKey, planWith } from '../core/plan/plan.js';
import type { Problem } from '../core/plan/problem.js';
import { median } from '../core/statistics.js';
import type { Assessed, Job, Ports } from '../pipeline.js';
import type { Feeds, Progress } from '../ports.js';
import type { SampleReader } from './samples.js';

/** A plan with its artifact and what the device said about it. Latencies are in the target's counter. */
export interface MeasuredPlan {
  readonly plan: Plan;
  readonly bytes: Uint8Array;
  /** With weights, biases and ranges found for this plan. */
  readonly isRefined: boolean;
  readonly latency: number;
  readonly minimumLatency: number;
  /** Float and uniform int8 of the same interleaved comparison. */
  readonly floatLatency: number;
  readonly int8Latency: number;
  /** How much slower the machine was than when the table was measured, by the speed reference. */
  readonly slowdown: number;
  readonly throttled: boolean;
}

/** An artifact to be timed; `plan` is null where it is no plan of the target. */
export interface Artifact {
  readonly plan: Plan | null;
  readonly bytes: Uint8Array;
}

/** Of as many plans it is kept for later searches what they took. */
const rememberedPlans = 40;
/** A plan whose share is by as much another than it was speaks against all that is remembered. */
const contradiction = 0.1;

/** The timings of a search: what was measured, and what that says of plans that were not. */
export class PlanTimings {
  readonly #job: Pick<Job, 'prepared' | 'budget'>;
  readonly #assessed: Pick<Assessed, 'table'>;
  readonly #calibrationSamples: SampleReader;
  readonly #target: Ports['target'];
  readonly #signal: AbortSignal;
  readonly #experience: LatencyExperience;
  /** Uniform int8 of the target itself. */
  readonly #int8: Plan;
  /** Whether the int8 that budgets are relative to is that plan; else it is ONNX Runtime's. */
  readonly #isOwnInt8: boolean;
  readonly #measured: MeasuredPlan[] = [];
  /** Of everything measured, the uniform ends too. */
  readonly #corrections: (Correction & { readonly plan: Plan })[] = [];
  /** The same with latencies as the budget counts them: relative to int8 under a relative ceiling. */
  readonly #comparable: (Correction & { readonly plan: Plan })[] = [];
  readonly #int8Latencies: number[] = [];
  /** What plans took as shares of the target's own uniform int8 beside them, by plan key, newest last. */
  readonly #shares: { readonly key: string; readonly share: number }[] = [];
  /** The same from earlier searches, as far as nothing speaks against it; newest first. */
  #remembered: LatencyExperience['plans'];

  constructor(
    context: {
      job: Pick<Job, 'prepared' | 'budget'>;
      assessed: Pick<Assessed, 'table'>;
      calibrationSamples: SampleReader;
      experience: LatencyExperience;
      ports: Pick<Ports, 'target'>;
      signal: AbortSignal;
    },
    int8: Plan,
    isOwnInt8: boolean,
  ) {
    this.#job = context.job;
    this.#assessed = context.assessed;
    this.#calibrationSamples = context.calibrationSamples;
    this.#experience = context.experience;
    this.#target = context.ports.target;
    this.#signal = context.signal;
    this.#int8 = int8;
    this.#isOwnInt8 = isOwnInt8;
    this.#remembered = context.experience.plans;
  }

  /** Everything that was measured; several entries for what was timed in several comparisons. */
  get measured(): readonly MeasuredPlan[] {
    return this.#measured;
  }

  has(plan: Plan): boolean {
    return this.#measured.some((candidate) => planKey(candidate.plan) === planKey(plan));
  }

  /**
   * Times artifacts against each other and answers what was found of the plans among them. The first two are float and the int8 that
   * budgets are relative to; the target's own uniform int8 has to be among them.
   */
  async measure(artifacts: readonly Artifact[], progress: Progress): Promise<readonly (Correction & { plan: Plan })[]> {
    const { prepared } = this.#job;
    const data = await this.#calibrationSamples.read(0);
    const feeds: Feeds = new Map([[prepared.card.input.name, { dims: prepared.inputDims, data }]]);
    const models = artifacts.map(({ bytes }, index) => ({ name: String(index), bytes }));
    const comparison = await this.#target.compare(models, feeds, this.#signal, progress);
    const { timings, referenceLatency, throttled } = comparison;
    const [float, int8] = [timings[0]!, timings[1]!];
    const slowdown = referenceLatency / this.#assessed.table.median(speedReferenceKey, 'float', referenceLatency);
    this.#int8Latencies.push(int8.median);
    const corrections: (Correction & { plan: Plan })[] = [];
    artifacts.forEach(({ plan, bytes }, index) => {
      if (plan === null) return;
      const { median: latency, minimum: minimumLatency } = timings[index]!;
      const ends = { floatLatency: float.median, int8Latency: int8.median };
      this.#measured.push({ plan, bytes, isRefined: false, latency, minimumLatency, ...ends, slowdown, throttled });
      corrections.push({
        plan,
        predictedLatency: plan.costs.latency,
        measuredLatency: latency,
        predictedBytes: plan.costs.bytes,
        measuredBytes: bytes.length,
      });
    });
    this.#corrections.push(...corrections);
    const own = corrections.find(({ plan }) => planKey(plan) === planKey(this.#int8))!.measuredLatency;
    for (const row of corrections) this.#learn(planKey(row.plan), row.measuredLatency / own);
    for (const correction of corrections) {
      const measuredLatency = this.#comparableLatency(correction.measuredLatency, int8.median);
      this.#comparable.push({ ...correction, measuredLatency });
    }
    return corrections;
  }

  /** What is measured now counts for more than what was; where that is far off, everything that was may be. */
  #learn(key: string, share: number): void {
    const before = this.#remembered.find((one) => one.key === key);
    if (before !== undefined) {
      const isOff = Math.abs(share / before.share - 1) > contradiction;
      this.#remembered = isOff ? [] : this.#remembered.filter((one) => one.key !== key);
    }
    this.#shares.push({ key, share });
  }

  /** Under a relative ceiling a plan is held against the int8 latency of its own comparison. */
  #comparableLatency(latency: number, int8Latency: number): number {
    return this.#job.budget.latencyRatio === undefined ? latency : (latency / int8Latency) * this.int8Prediction();
  }

  /** What ONNX Runtime's int8 takes, in the units of the tables: as they predict it, or by how it measured against the engine's. */
  int8Prediction(): number {
    return this.#int8.costs.latency * (this.#int8Ratio() ?? 1);
  }

  #int8Ratio(): number | null {
    if (this.#isOwnInt8) return 1;
    if (this.#int8Latencies.length === 0) return this.#experience.int8Ratio;
    return median(this.#int8Latencies) / this.#ownInt8Latency()!;
  }

  /** Of the target's own uniform int8, in its counter; null before anything was measured. */
  #ownInt8Latency(): number | null {
    const own = this.#measured.filter(({ plan }) => planKey(plan) === planKey(this.#int8));
    return own.length === 0 ? this.#experience.int8Latency : median(own.map(({ latency }) => latency));
  }

  /**
   * A problem of the model's choices with latencies nearer to what plans measured here and in earlier searches, in the unit of the tables
   * still: in both, uniform int8 takes what the tables say. And what was measured now of its plans, held against those. As it is, before
   * anything was measured.
   */
  learnt(problem: Problem): { problem: Problem; corrections: readonly Correction[]; prior: number } {
    const int8 = this.#int8.costs.latency;
    const observations = [...this.#remembered, ...this.#shares].flatMap(({ key, share }) => {
      const plan = planWith(problem, key);
      return plan === null ? [] : [{ assignment: plan.assignment, value: share * int8 }];
    });
    const corrected = correctedBy(problem, 'latency', observations);
    const corrections = this.#comparable.flatMap((correction) => {
      const plan = planWith(corrected, planKey(correction.plan));
      return plan === null ? [] : [{ ...correction, predictedLatency: plan.costs.latency }];
    });
    return { problem: corrected, corrections, prior: this.#job.budget.latencyRatio === undefined ? this.unit() : 1 };
  }

  /** How much longer plans take than the tables say. */
  ratio(): number {
    return latencyRatio(this.#corrections, this.#experience.ratio);
  }

  /** What a plan is to be multiplied by that takes a time in the tables' unit, to be in the target's counter. */
  unit(): number {
    const measured = this.#ownInt8Latency();
    return measured === null ? this.#experience.ratio : measured / this.#int8.costs.latency;
  }

  /** The budget's ceiling in the tables' unit, as far as that is known; null: none. */
  ceiling(): number | null {
    const ceiling = latencyCeiling(this.#job.budget, this.int8Prediction());
    return ceiling === null || this.#job.budget.latencyRatio !== undefined ? ceiling : ceiling / this.unit();
  }

  /** What later searches for this model may start from. */
  learntFor(frontier: readonly Plan[]): LatencyExperience {
    const points = frontier.flatMap((plan) => {
      const measured = this.#measured.filter((candidate) => planKey(candidate.plan) === planKey(plan));
      return measured.length === 0
        ? []
        : [{ predicted: plan.costs.latency, measured: median(measured.map((candidate) => candidate.latency)) }];
    });
    const newest = new Map<string, number>();
    for (const { key, share } of [...[...this.#shares].reverse(), ...this.#remembered])
      if (!newest.has(key)) newest.set(key, share);
    const plans = [...newest].slice(0, rememberedPlans).map(([key, share]) => ({ key, share }));
    return { ratio: this.ratio(), points, int8Ratio: this.#int8Ratio(), int8Latency: this.#ownInt8Latency(), plans };
  }
}
