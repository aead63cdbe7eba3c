import type { Ceilings } from '../core/plan/allocate.js';
import { alternatives } from '../core/plan/alternatives.js';
import { type Plan, planKey, planOf } from '../core/plan/plan.js';
import type { Assignment, Problem } from '../core/plan/problem.js';
import type { Job, Ports } from '../pipeline.js';
import type { Progress } from '../ports.js';
import type { SampleReader } from './samples.js';
import { PlanVerifier, verifiedSensitivity } from './verification.js';

/** Plans that are run beside the one of least estimated sensitivity. */
const alternativePlans = 4;
/** For each alternative. Half a percent of sensitivity does not matter: a plan is only to be a different one. */
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

  /** The best of a plan and its alternatives under the ceilings. */
  async bestNear(problem: Problem, assignment: Assignment, ceilings: Ceilings, solver: Ports['solver']): Promise<Plan> {
    const estimated = planOf(problem, assignment);
    if (!this.verifies) return estimated;
    const options = { most: alternativePlans, timeLimitSeconds: solverSeconds };
    const others = await alternatives(problem, assignment, ceilings, solver, options, this.#signal);
    const plans = [estimated, ...others.map((other) => planOf(problem, other))];
    const ranks = await this.of(plans);
    // Where plans are alike, the first: the one of least estimated sensitivity.
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
