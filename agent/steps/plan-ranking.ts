import type { Ceilings } from '../core/plan/allocate.js';
import { doubtedOptima, nearestPlans } from '../core/plan/alternatives.js';
import { type Plan, planKey, planOf } from '../core/plan/plan.js';
import type { Assignment, Problem } from '../core/plan/problem.js';
import type { Job, Ports } from '../pipeline.js';
import type { Progress } from '../ports.js';
import type { SampleReader } from './samples.js';
import { PlanVerifier, verifiedSensitivity } from './verification.js';

/** Plans that are run beside the best of the optima. */
const nearPlans = 3;
/** For each optimum that is run beside the one of least sensitivity: it only has to be another good plan. */
const solverSeconds = 0.5;
/** Calibration samples of a pass: as many as take about 10^10 multiplications, within bounds. */
const verifyingSamples = (macs: number) => Math.min(256, Math.max(8, Math.round(1e10 / Math.max(1, macs))));

/**
 * How far plans are expected to be from float. Where they can be run as they are written (for the engine), every plan that is to be
 * compared is run once on calibration samples, and its estimate is only half of what it is ranked by; elsewhere the estimate is all.
 */
export class PlanRanking {
  readonly #job: Job;
  readonly #runtime: Ports['runtime'];
  readonly #calibrationSamples: SampleReader;
  readonly #signal: AbortSignal;
  readonly #bytesOf: (plan: Plan) => Uint8Array;
  readonly #progress: Progress;
  readonly #divergences = new Map<string, number>();
  #verifier: PlanVerifier | null = null;

  /** @param bytesOf a plan as it is written before weights of its own are found for it */
  constructor(
    context: { job: Job; calibrationSamples: SampleReader; ports: Pick<Ports, 'runtime'>; signal: AbortSignal },
    bytesOf: (plan: Plan) => Uint8Array,
    progress: Progress,
  ) {
    this.#job = context.job;
    this.#runtime = context.ports.runtime;
    this.#calibrationSamples = context.calibrationSamples;
    this.#signal = context.signal;
    this.#bytesOf = bytesOf;
    this.#progress = progress;
  }

  /** Whether plans are run before they are compared. */
  get verifies(): boolean {
    return this.#job.variant === 'native';
  }

  /** For every plan what it is ranked by: smaller is better. Only ratios between plans of one model mean anything. */
  async of(plans: readonly Plan[]): Promise<number[]> {
    if (!this.verifies) return plans.map(({ costs }) => costs.sensitivity);
    const ranks: number[] = [];
    for (const [index, plan] of plans.entries()) {
      this.#progress(index / plans.length, 'running plans on calibration samples');
      ranks.push(verifiedSensitivity(plan.costs.sensitivity, await this.#divergenceOf(plan)));
    }
    return ranks;
  }

  /**
   * The best of a plan and its alternatives under the ceilings: first of the optima where narrow choices are less trusted, then of the
   * plans nearest to the best of those.
   *
   * @param assignment the one of least sensitivity under the ceilings
   */
  async bestNear(problem: Problem, assignment: Assignment, ceilings: Ceilings, solver: Ports['solver']): Promise<Plan> {
    const estimated = planOf(problem, assignment);
    if (!this.verifies) return estimated;
    const optima = await doubtedOptima(problem, assignment, ceilings, solver, solverSeconds, this.#signal);
    const best = await this.#best([estimated, ...optima.map((other) => planOf(problem, other))]);
    const near = nearestPlans(problem, best.assignment, ceilings, nearPlans);
    return this.#best([best, ...near.map((other) => planOf(problem, other))]);
  }

  /** Of plans that rank alike, the first. */
  async #best(plans: readonly Plan[]): Promise<Plan> {
    const ranks = await this.of(plans);
    return plans[ranks.indexOf(Math.min(...ranks))]!;
  }

  async #divergenceOf(plan: Plan): Promise<number> {
    const key = planKey(plan);
    const known = this.#divergences.get(key);
    if (known !== undefined) return known;
    const { prepared, workThreads } = this.#job;
    const options = { most: verifyingSamples(prepared.macs), threads: workThreads };
    this.#verifier ??= await PlanVerifier.open(
      prepared,
      this.#calibrationSamples,
      options,
      this.#runtime,
      this.#signal,
    );
    const divergence = await this.#verifier.divergence(this.#bytesOf(plan), this.#signal);
    this.#divergences.set(key, divergence);
    return divergence;
  }
}
