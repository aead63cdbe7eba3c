import { FloatModelNeeded } from '../core/master.js';
import type { Ceilings } from '../core/plan/allocate.js';
import { doubtedOptima, nearestPlans } from '../core/plan/alternatives.js';
import { type Plan, planKey, planOf } from '../core/plan/plan.js';
import type { Assignment, Problem } from '../core/plan/problem.js';
import { contentKey } from '../digest.js';
import type { Job, Ports } from '../pipeline.js';
import type { Progress } from '../ports.js';
import { isClassifier } from './quality.js';
import type { SampleReader } from './samples.js';
import { type Divergence, PlanVerifier, verifiedSensitivity } from './verification.js';

/** Plans that are run beside the best of the optima. */
const nearPlans = 3;
/** For each optimum that is run beside the one of least sensitivity: it only has to be another good plan. */
const solverSeconds = 0.5;
/**
 * A plan is near to float below this mean divergence: KL in nats of a classifier, else the normalised squared distance. Weights rounded
 * for a plan itself, instead of for a width, took the KL of 23 plans down to a half at best: what is given up is half of this at most.
 */
const nearFloat = { kl: 0.1, squaredDistance: 0.01 } as const;
/** Version of the stored outputs. */
const version = 2;
/** Calibration samples of a pass: as many as take about 10^10 multiplications, within bounds. */
const verifyingSamples = (macs: number) => Math.min(256, Math.max(8, Math.round(1e10 / Math.max(1, macs))));

/**
 * How far plans are expected to be from float. Where they can be run as they are written (for the engine), every plan that is to be
 * compared is run once on calibration samples, and its estimate is only half of what it is ranked by; elsewhere the estimate is all.
 */
export class PlanRanking {
  readonly #job: Job;
  readonly #ports: Pick<Ports, 'runtime' | 'store'>;
  readonly #calibrationSamples: SampleReader;
  readonly #signal: AbortSignal;
  readonly #bytesOf: (plan: Plan) => Uint8Array;
  readonly #progress: Progress;
  readonly #divergences = new Map<string, Divergence>();
  #verifier: PlanVerifier | null = null;

  /** @param bytesOf a plan as it is written before weights of its own are found for it */
  constructor(
    context: {
      job: Job;
      calibrationSamples: SampleReader;
      ports: Pick<Ports, 'runtime' | 'store'>;
      signal: AbortSignal;
    },
    bytesOf: (plan: Plan) => Uint8Array,
    progress: Progress,
  ) {
    this.#job = context.job;
    this.#ports = context.ports;
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
      ranks.push(verifiedSensitivity(plan.costs.sensitivity, (await this.#divergenceOf(plan)).softened));
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

  /** Whether a plan is so near to the float model, on calibration samples, that weights of its own could hardly win anything. */
  async isNearFloat(plan: Plan): Promise<boolean> {
    const near = isClassifier(this.#job.prepared) ? nearFloat.kl : nearFloat.squaredDistance;
    return (await this.#divergenceOf(plan)).exact <= near;
  }

  /** Whether an artifact is nearer to the float model than a plan as it is. */
  async isNearer(artifact: Uint8Array, plan: Plan): Promise<boolean> {
    const verifier = await this.#verifierOf();
    return (await verifier.divergence(artifact, this.#signal)).exact < (await this.#divergenceOf(plan)).exact;
  }

  async #divergenceOf(plan: Plan): Promise<Divergence> {
    const key = planKey(plan);
    const known = this.#divergences.get(key);
    if (known !== undefined) return known;
    const verifier = await this.#verifierOf();
    const divergence = await verifier.divergence(this.#bytesOf(plan), this.#signal);
    this.#divergences.set(key, divergence);
    return divergence;
  }

  /** With what the float model answers: from an earlier plan, where there was one. */
  async #verifierOf(): Promise<PlanVerifier> {
    if (this.#verifier !== null) return this.#verifier;
    const { prepared, workThreads, modelSha256, isMaster } = this.#job;
    const { store, runtime } = this.#ports;
    const samples = this.#calibrationSamples;
    const options = { most: verifyingSamples(prepared.macs), threads: workThreads };
    const key = contentKey(['verifying-outputs', version, modelSha256, prepared.card, samples.digest, options.most]);
    const known = store.result(key) as readonly Float32Array[] | null;
    if (known === null && isMaster) throw new FloatModelNeeded('verifying plans');
    this.#verifier = await PlanVerifier.open(prepared, samples, options, runtime, this.#signal, known);
    if (known === null) store.putResult(key, 'verifying-outputs', this.#verifier.references);
    return this.#verifier;
  }
}
