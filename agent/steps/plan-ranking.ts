import { EdgeError } from '../../configs/contracts/errors.js';
import { FloatModelNeeded } from '../core/master.js';
import { allocate, type Ceilings } from '../core/plan/allocate.js';
import { doubtedOptima, uniformPlans } from '../core/plan/alternatives.js';
import { correctedBy } from '../core/plan/corrected.js';
import { type Plan, planKey, planOf, planWith, sameIn } from '../core/plan/plan.js';
import type { Assignment, Problem } from '../core/plan/problem.js';
import { exceededBy, limitsOf } from '../core/plan/search.js';
import { contentKey, sha256 } from '../digest.js';
import type { Job, Ports } from '../pipeline.js';
import type { Progress } from '../ports.js';
import { keptBytes } from './plan-quality.js';
import { isClassifier } from './quality.js';
import type { SampleReader } from './samples.js';
import { type Divergence, PlanVerifier } from './verification.js';

/** For each optimum that is solved for before a plan is chosen: it only has to be another good plan. */
const solverLimits = { timeLimitSeconds: 0.5, relativeGap: 1e-3 } as const;
/** Multiplications for all the plans that are run for one ceiling, and how many plans that may be. */
const searchMacs = 1.2e11;
const searchedPlans = { least: 8, most: 24 } as const;
/** Of as many that were run, a search for another budget is told. */
const rememberedPlans = 32;
/** Plans that are worth timing: how many, and by how much they may diverge more than the best. */
const fewPlans = { most: 4, withinOfBest: 1.3 } as const;
/** A plan is not worth a run if it is expected to diverge by as much, as a share of the best. */
const hopeless = 1.2;
/**
 * A plan is near to float below this mean divergence: KL in nats of a classifier, else the normalised squared distance. Weights rounded
 * for a plan itself, instead of for a width, took the KL of 23 plans down to a half at best: what is given up is half of this at most.
 */
const nearFloat = { kl: 0.1, squaredDistance: 0.01 } as const;
/** Version of what is stored here. */
const version = 3;
/** Calibration samples of a pass: as many as take about 10^10 multiplications, within bounds. */
const verifyingSamples = (macs: number) => Math.min(256, Math.max(8, Math.round(1e10 / Math.max(1, macs))));

/** A plan that was run. */
interface Observed {
  readonly plan: Plan;
  readonly divergence: Divergence;
}

/** What the solver finds; null where it runs out of time: there are other plans already. */
async function inTime<T>(solving: Promise<T>): Promise<T | null> {
  try {
    return await solving;
  } catch (error) {
    if (error instanceof EdgeError && error.code === 'solver/failed') return null;
    throw error;
  }
}

function isUnder(ceilings: Ceilings, { costs }: Plan): boolean {
  return exceededBy(costs, limitsOf(ceilings)).length === 0;
}

/**
 * How far plans are from float. Where they can be run as they are written (for the engine), every plan that is to be compared is run once
 * on calibration samples, and what is learnt from each about the estimates says which is run next; elsewhere the estimate is all.
 */
export class PlanRanking {
  readonly #job: Job;
  readonly #ports: Pick<Ports, 'runtime' | 'store'>;
  readonly #calibrationSamples: SampleReader;
  readonly #signal: AbortSignal;
  readonly #bytesOf: (plan: Plan) => Uint8Array;
  readonly #progress: Progress;
  readonly #divergences = new Map<string, Divergence>();
  /** What plans of the planning problem itself came to; by plan key. */
  readonly #observed = new Map<string, Observed>();
  /** What is remembered of plans that this problem does not have. */
  #otherRunPlans: readonly string[] = [];
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
      ranks.push((await this.#divergenceOf(plan)).logits);
    }
    return ranks;
  }

  /**
   * The best few under the ceilings of all plans that were run, best first: among them the one of least sensitivity, those for which narrow
   * choices are less trusted, the uniform ones, and then, again and again, the one of least sensitivity by what has been learnt so far. A few, for how long
   * a plan takes is not known to the percent before it is timed.
   *
   * @param assignment the one of least sensitivity under the ceilings
   */
  async bestNear(
    problem: Problem,
    assignment: Assignment,
    ceilings: Ceilings,
    solver: Ports['solver'],
  ): Promise<Plan[]> {
    const estimated = planOf(problem, assignment);
    if (!this.verifies) return [estimated];
    if (this.#observed.size === 0) this.#remember(problem);
    // Another ceiling finds most of what there is to learn learnt.
    const wanted = this.#searchedPlans();
    const most = Math.max(Math.ceil(wanted / 3), wanted - this.#observed.size);
    let ran = 0;
    const run = async (plan: Plan) => {
      this.#progress(Math.min(1, ran++ / most), 'running plans on calibration samples');
      this.#observed.set(planKey(plan), { plan, divergence: await this.#divergenceOf(plan) });
    };
    if (!this.#observed.has(planKey(estimated))) await run(estimated);
    const { timeLimitSeconds } = solverLimits;
    const solving = doubtedOptima(problem, assignment, ceilings, solver, timeLimitSeconds, this.#signal);
    const optima = ((await inTime(solving)) ?? []).map((other) => planOf(problem, other));
    const uniform = uniformPlans(problem).filter((plan) => isUnder(ceilings, plan));
    uniform.sort((a, b) => a.costs.sensitivity - b.costs.sensitivity);
    for (const plan of [...optima, ...uniform])
      if (ran < most / 2 && !this.#observed.has(planKey(plan))) await run(plan);
    while (ran < most) {
      const next = await this.#mostPromising(problem, ceilings, solver);
      if (next === null) break;
      await run(next);
    }
    const runPlans = [...this.#otherRunPlans, ...this.#observed.keys()].slice(-rememberedPlans);
    this.#ports.store.putResult(this.#keyOf('run-plans'), 'run-plans', runPlans);
    const held = this.#observedUnder(problem, ceilings);
    const enough = fewPlans.withinOfBest * (held[0]?.divergence.logits ?? 0);
    const few = held.filter(({ divergence }) => divergence.logits <= enough).slice(0, fewPlans.most);
    return few.length === 0 ? [estimated] : few.map(({ plan }) => plan);
  }

  /** Takes in what earlier searches have run, as far as it would still be written as it was. */
  #remember(problem: Problem): void {
    const { store } = this.#ports;
    const keys = (store.result(this.#keyOf('run-plans')) ?? []) as readonly string[];
    for (const key of keys) {
      this.#signal.throwIfAborted();
      const plan = planWith(problem, key);
      const artifact = plan === null ? null : sha256(this.#bytesOf(plan));
      const divergence =
        artifact === null ? null : (store.result(this.#keyOf('divergence', artifact)) as Divergence | null);
      if (plan === null || divergence === null) continue;
      this.#observed.set(key, { plan, divergence });
      this.#divergences.set(key, divergence);
    }
    this.#otherRunPlans = keys.filter((key) => !this.#observed.has(key));
  }

  /** The plan of least sensitivity that has not been run, as far as those that were tell; null where that is hopeless. */
  async #mostPromising(problem: Problem, ceilings: Ceilings, solver: Ports['solver']): Promise<Plan | null> {
    const observations = this.#observedIn(problem).map(({ plan, divergence }) => {
      return { assignment: plan.assignment, value: divergence.logits };
    });
    const held = this.#observedUnder(problem, ceilings);
    const limits = { ...solverLimits, excluded: held.map(({ plan }) => plan.assignment) };
    const corrected = correctedBy(problem, 'sensitivity', observations);
    // A ceiling on sensitivity is for the estimate as it is.
    const { sensitivity: _, ...kept } = ceilings;
    const next = await inTime(allocate(corrected, 'sensitivity', kept, solver, limits, this.#signal));
    if (next === null || next.status === 'infeasible') return null;
    const plan = planOf(problem, next.assignment);
    const isHopeless = next.costs.sensitivity > hopeless * (held[0]?.divergence.logits ?? Number.POSITIVE_INFINITY);
    return isHopeless || this.#observed.has(planKey(plan)) || !isUnder(ceilings, plan) ? null : plan;
  }

  /** Plans that were run and hold the ceilings, best first. */
  #observedUnder(problem: Problem, ceilings: Ceilings): Observed[] {
    return this.#observedIn(problem)
      .filter(({ plan }) => isUnder(ceilings, plan))
      .sort((a, b) => a.divergence.logits - b.divergence.logits);
  }

  /** Plans that were run, with what a problem of the same operators says of them. */
  #observedIn(problem: Problem): Observed[] {
    return [...this.#observed.values()].flatMap(({ plan, divergence }) => {
      const same = sameIn(problem, plan);
      return same === null ? [] : [{ plan: same, divergence }];
    });
  }

  /** Fewer of large models, and of those with few samples no more than can be told apart. */
  #searchedPlans(): number {
    const { macs } = this.#job.prepared;
    const samples = Math.min(this.#calibrationSamples.count, verifyingSamples(macs));
    const affordable = Math.round(searchMacs / Math.max(1, samples * macs));
    return Math.min(searchedPlans.most, Math.max(searchedPlans.least, affordable));
  }

  /** Whether a plan is so near to the float model, on calibration samples, that weights of its own could hardly win anything. */
  async isNearFloat(plan: Plan): Promise<boolean> {
    const near = isClassifier(this.#job.prepared) ? nearFloat.kl : nearFloat.squaredDistance;
    return (await this.#divergenceOf(plan)).exact <= near;
  }

  /** Whether an artifact is nearer to the float model than a plan as it is. */
  async isNearer(artifact: Uint8Array, plan: Plan): Promise<boolean> {
    return (await this.#divergenceOfArtifact(artifact)).logits < (await this.#divergenceOf(plan)).logits;
  }

  async #divergenceOf(plan: Plan): Promise<Divergence> {
    const key = planKey(plan);
    const known = this.#divergences.get(key);
    if (known !== undefined) return known;
    const divergence = await this.#divergenceOfArtifact(this.#bytesOf(plan));
    this.#divergences.set(key, divergence);
    return divergence;
  }

  /** Stored by content: another budget's search runs many of the same plans. */
  async #divergenceOfArtifact(artifact: Uint8Array): Promise<Divergence> {
    const { store } = this.#ports;
    const key = this.#keyOf('divergence', sha256(artifact));
    const known = store.result(key) as Divergence | null;
    if (known !== null) return known;
    const divergence = await (await this.#verifierOf()).divergence(artifact, this.#signal);
    store.putResult(key, 'divergence', divergence);
    return divergence;
  }

  #keyOf(kind: string, ...more: readonly string[]): string {
    const { prepared, modelSha256 } = this.#job;
    const samples = [this.#calibrationSamples.digest, verifyingSamples(prepared.macs)];
    return contentKey([kind, version, modelSha256, prepared.card, samples, ...more]);
  }

  /** With what the float model answers: from an earlier plan, where there was one. */
  async #verifierOf(): Promise<PlanVerifier> {
    if (this.#verifier !== null) return this.#verifier;
    const { prepared, workThreads, isMaster } = this.#job;
    const { store, runtime } = this.#ports;
    const samples = this.#calibrationSamples;
    const options = { most: verifyingSamples(prepared.macs), threads: workThreads };
    const key = this.#keyOf('verifying-outputs');
    const known = store.result(key) as readonly Float32Array[] | null;
    if (known === null && isMaster) throw new FloatModelNeeded('verifying plans');
    this.#verifier = await PlanVerifier.open(prepared, samples, options, runtime, this.#signal, known);
    const { references } = this.#verifier;
    const bytes = references.reduce((sum, output) => sum + output.byteLength, 0);
    if (known === null && bytes <= keptBytes) store.putResult(key, 'verifying-outputs', references);
    return this.#verifier;
  }
}
