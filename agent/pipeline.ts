/**
 * The main job on one target: a float model becomes a verified, quantized one. Steps are functions of their inputs, memoised in
 * the store under the digest of those inputs and of the algorithm's version; whatever already exists is not done again, which is
 * all there is to resuming, re-planning for a new budget, and rolling back.
 *
 * INVARIANTS
 * 1. Nothing is timed outside the target, which holds the host-wide measuring lock.
 * 2. A plan is accepted on measurements alone; predictions only choose what to measure.
 * 3. Of everything measured, the chosen plan is never beaten in its own objective (speed; or accuracy, which is the estimate, for the
 *    engine together with one run over calibration samples) by another that also holds the budget.
 */
import type { Budget, Precision } from '../configs/contracts/plan.js';
import { type Correction, ceilingsOf, requireJudgeable } from './core/budget.js';
import { contradicts } from './core/donor.js';
import { fastestKernel } from './core/image/precisions.js';
import type { Fit } from './core/image/room.js';
import { FloatModelNeeded } from './core/master.js';
import type { Operator } from './core/onnx/model.js';
import type { Ceilings } from './core/plan/allocate.js';
import { type LatencyExperience, noExperience } from './core/plan/expected-latency.js';
import { frontier } from './core/plan/frontier.js';
import { type Plan, planOf, restrict } from './core/plan/plan.js';
import type { Problem } from './core/plan/problem.js';
import { canBeTimed, outputTail } from './core/plan/scope.js';
import { float, formatPrecision } from './core/precision.js';
import type { PreparedModel } from './core/prepare.js';
import type { ArtifactVariant } from './core/quant/affine.js';
import type { RangeRule } from './core/quant/observer.js';
import { findEstimator } from './core/sensitivity/registry.js';
import { type SensitivityDocument, SensitivityTable } from './core/sensitivity/table.js';
import { contentKey } from './digest.js';
import type {
  Clock,
  DonorTables,
  Progress,
  Rounder,
  Runtime,
  SampleSource,
  Solver,
  Store,
  Target,
  TargetIdentity,
} from './ports.js';
import { type ArtifactForm, floatModel } from './steps/apply.js';
import { assess, defaultSampleCounts } from './steps/assess.js';
import { type CalibrationDocument, calibrate } from './steps/calibrate.js';
import type { QualityReport } from './steps/plan-quality.js';
import { type PlanOutcome, PlanSearch } from './steps/plan-search.js';
import type { MeasuredPlan } from './steps/plan-timings.js';
import { planningProblem } from './steps/planning-problem.js';
import { afterContradiction, distinctPrecisions, type Profile, profile, profileKeys } from './steps/profile.js';
import { judgedFromBits, type Refinement, refine } from './steps/refine.js';
import type { SampleReader } from './steps/samples.js';
import {
  findSynthetic,
  type SyntheticDocument,
  syntheticCount,
  syntheticSamples,
  syntheticVersion,
} from './steps/synthetic.js';
import { type QuantizationRecipe, rangesOf, recipeOf, type TuningDocument, tune } from './steps/tune.js';
import { nearestWeights, type WidthWeights } from './steps/width-weights.js';

/** Versions of the steps' algorithms: raising one makes its old results (and what hangs off them) unused. */
const versions = { calibrate: 4, tune: 5, refine: 3, nearest: 1, assess: 8, experience: 2, frontier: 1 } as const;

/** Of everything that decides what an artifact looks like, planning and writing included; for keys of finished artifacts. */
export const pipelineVersion = `${versions.calibrate}.${versions.tune}.${versions.refine}.${versions.nearest}.${versions.assess}.${syntheticVersion}.5`;

const frontierPoints = 8;
/** Time to solve for the frontier: a small model shall not wait long for points that are hard to prove. */
const frontierSeconds = (operators: number) => Math.min(6, Math.max(0.5, operators * 0.025));
/** Points between the ends are for choosing a budget: half a percent of sensitivity is less than the estimate is off. */
const frontierGap = 0.005;
/** Samples that calibration looks at: fewer where a pass, and the activations to look at, are large. */
const calibrationSamples = (macs: number) => (macs <= 450e6 ? 64 : 32);
/** Samples from which weights of a plan are rounded, and those from which weights of each width are that plans are compared with. */
const refineSamples = { plan: 128, width: 32 } as const;
/** Bits that the engine's candidates have for activations. */
const engineActivationBits = [8, 6, 4, 2];
/** Rules that 'auto' tries. */
const candidateRules: readonly RangeRule[] = ['mse', 'percentile', 'minmax'];
/**
 * The rule for synthetic samples, but for early tensors (see `isEarly`): which one suits them best says little about real ones. A
 * percentile cuts off what only real samples show much of (SqueezeNet: KL 0.25 instead of 0.11), and the extremes of some synthetic
 * ones are far out (MobileNetV2: 0.024 instead of 0.014).
 */
const syntheticRule: RangeRule = 'mse';

/** All that a job uses of the world. It leaves them open: whoever made them closes them. */
export interface Ports {
  readonly runtime: Runtime;
  readonly target: Target;
  readonly solver: Solver;
  readonly rounder: Rounder;
  readonly store: Store;
  readonly clock: Clock;
  /** Absent or null: what is not stored is measured, always. */
  readonly donors?: DonorTables | null;
}

/** What is to be done, with everything read from disk already. */
export interface Job {
  readonly prepared: PreparedModel;
  /** Made from a master (see `core/master.ts`): whatever needs the float weights has to be in the store. Absent: from the float model. */
  readonly isMaster?: boolean;
  readonly modelSha256: string;
  readonly calibration: SampleSource | null;
  readonly test: SampleSource | null;
  readonly budget: Budget;
  /** Candidate precisions; null: whatever the target can run. */
  readonly precisions: readonly Precision[] | null;
  readonly estimator: string;
  /** Cores for everything that is not timed. */
  readonly workThreads: number;
  /**
   * Form of the artifact; tuning, estimates and measurements are of this form. Rows of operators are of the target's own form: of ONNX
   * Runtime's QDQ also where TensorRT's is written.
   */
  readonly variant: ArtifactVariant;
  /** Rule for activation ranges; 'auto': whichever measures best on this model. */
  readonly rangeRule: RangeRule | 'auto';
}

/** Seconds spent in each step of one run, repeated steps added up; next to nothing for what was stored. */
export interface StepSeconds {
  profile: number;
  calibrate: number;
  assess: number;
  plan: number;
  apply: number;
  verify: number;
}

/** Called as a step goes on: the share of the step that is done, in [0, 1], and what is being done. */
export type StepProgress = (step: keyof StepSeconds, share: number, text: string) => void;

/** Everything there is to say about a finished run. `chosen` is null where no plan held the budget. */
export interface QuantizeResult extends Assessed {
  readonly frontier: readonly Plan[];
  readonly feasible: boolean;
  /** Why not, when infeasible. */
  readonly shortfalls: PlanOutcome['shortfalls'];
  readonly chosen: MeasuredPlan | null;
  readonly rounds: readonly Correction[];
  readonly experience: LatencyExperience;
  readonly solver: { status: string; gap: number; seconds: number };
  readonly quality: QualityReport | null;
  readonly seconds: StepSeconds;
}

/** Everything in front of planning: measured costs and estimated sensitivities, as a planning problem. */
export interface Assessed extends Profile {
  readonly calibration: CalibrationDocument;
  readonly tuning: TuningDocument;
  readonly recipe: QuantizationRecipe;
  readonly sensitivity: SensitivityDocument;
  /** With every precision that was measured, float and int8 among them. */
  readonly problem: Problem;
  /** The same with the precisions that plans may use. */
  readonly candidates: Problem;
  readonly floatArtifactBytes: number;
  /** What plans are written as. */
  readonly form: ArtifactForm;
  /** How the model fits a target that has little room; null: there is enough. */
  readonly fit: Fit | null;
  /** The budget, with the target's own ceilings. */
  readonly limits: Budget;
  /** See `deployedOptions`. */
  readonly saturates: boolean;
}

/**
 * One job on one target. `profile`, `assess` and `quantize` each do all that is missing in front of them; to be used for one
 * run.
 */
export class Pipeline {
  readonly #job: Job;
  readonly #ports: Ports;
  readonly #signal: AbortSignal;
  readonly #progress: (step: keyof StepSeconds) => Progress;
  /** What the target can run, by operator name. */
  readonly #possible: ReadonlyMap<string, readonly Precision[]>;
  readonly #seconds: StepSeconds = { profile: 0, calibrate: 0, assess: 0, plan: 0, apply: 0, verify: 0 };
  #samples: SampleReader | null = null;

  constructor(job: Job, ports: Ports, signal: AbortSignal, progress: StepProgress) {
    this.#job = job;
    this.#ports = ports;
    this.#signal = signal;
    this.#progress = (step) => (share, text) => progress(step, share, text);
    this.#possible = this.#possiblePrecisions();
  }

  /** Profile, calibrate and assess; only what is missing is done. `donors`: null asks none. */
  async assess(donors = this.#ports.donors): Promise<Assessed> {
    const { prepared } = this.#job;
    await this.#requireJudgeable();
    const profiled = await this.profile(donors);
    const { table } = profiled;
    const saturates = await this.#ports.target.saturates();
    const calibration = await this.#timed('calibrate', () => this.#calibrate());
    const tuning = await this.#timed('calibrate', () => this.#tune(calibration, saturates));
    const { variant } = this.#job;
    const plain = recipeOf(prepared, calibration, tuning, { variant, saturates });
    const rounded = await this.#timed('calibrate', () => this.#weightsByWidth(plain, saturates));
    const recipe = { ...plain, rounded };
    const sensitivity = await this.#timed('assess', () => this.#assess(calibration, tuning, recipe, saturates));
    const kernelOf = (operator: Operator, precision: Precision) => fastestKernel(table, operator, precision);
    const { packer = null, room } = this.#ports.target;
    const { problem, form, fit } = planningProblem({
      ...{ prepared, budget: this.#job.budget, room, table, recipe },
      allowed: (operator) => this.#precisionsOf(operator),
      sensitivity: new SensitivityTable(sensitivity),
      form: { variant, saturates, kernelOf, packer },
    });
    const candidates = restrict(problem, this.#job.precisions?.map(formatPrecision) ?? null);
    return {
      ...profiled,
      calibration,
      tuning,
      recipe,
      sensitivity,
      problem,
      candidates,
      floatArtifactBytes: floatModel(prepared).length,
      saturates,
      form,
      fit,
      limits: fit?.limits ?? this.#job.budget,
    };
  }

  /** Latency rows of every distinct operator at every precision it may get; taken from donors or measured where the store has none. */
  async profile(donors = this.#ports.donors): Promise<Profile> {
    const precisionsOf = (operator: Operator) => (this.#canBeTimed(operator) ? this.#precisionsOf(operator) : []);
    return this.#timed('profile', () =>
      profile(this.#job, precisionsOf, { ...this.#ports, donors }, this.#signal, this.#progress('profile')),
    );
  }

  /** The Pareto set under the budget's ceilings other than latency. */
  async frontier({ candidates, limits }: Assessed): Promise<Plan[]> {
    return this.#timed('plan', async () => {
      const { latency: _, ...ceilings } = ceilingsOf(limits, 0, [], 1);
      this.#progress('plan')(0, 'solving for the frontier');
      const solve = (kept: Ceilings) => {
        const options = {
          points: frontierPoints,
          ceilings: kept,
          timeLimitSeconds: frontierSeconds(candidates.operators.length),
          relativeGap: frontierGap,
        };
        return frontier(candidates, this.#ports.solver, options, this.#signal);
      };
      // The same for every ceiling on latency, and so for most changes of a budget.
      const key = contentKey(['frontier', versions.frontier, candidates, ceilings]);
      let points = this.#ports.store.result(key) as Awaited<ReturnType<typeof solve>> | null;
      if (points === null) {
        const held = await solve(ceilings);
        // Where nothing holds the other ceilings, the frontier without them is what there is to choose from.
        points = held.length > 0 ? held : await solve({});
        this.#ports.store.putResult(key, 'frontier', points);
      }
      this.#progress('plan')(1, `${points.length} points on the frontier`);
      return points.map(({ assignment }) => planOf(candidates, assignment));
    });
  }

  /** The whole job. An infeasible budget is a result, not an error. */
  async quantize(): Promise<QuantizeResult> {
    const result = await this.#planned(await this.assess());
    const isOfOthers = result.table.rows.some(({ donor }) => donor !== undefined);
    if (!isOfOthers || !contradicts(result.rounds, result.chosen?.slowdown ?? 1)) return result;
    // Whole models do not bear out the rows of other devices: all are measured here, and planned with again, once.
    this.#ports.store.dropDonorRows(contentKey(result.identity), profileKeys(this.#job));
    const again = await this.#planned(await this.assess(null));
    return { ...again, profiling: afterContradiction(result.profiling, again.profiling) };
  }

  async #planned(assessed: Assessed): Promise<QuantizeResult> {
    const points = await this.frontier(assessed);
    const samples = await this.#calibrationSamples();
    const experience = this.experience(assessed.identity);
    const search = new PlanSearch(
      {
        job: this.#job,
        assessed,
        frontier: points,
        calibrationSamples: samples,
        experience,
        refine: (precisions, isWorthIt) => this.#refinedPlan(precisions, assessed, isWorthIt),
        ports: this.#ports,
        signal: this.#signal,
      },
      this.#progress,
      (step, work) => this.#timed(step, work),
    );
    const outcome = await search.run();
    this.#ports.store.putResult(this.#experienceKey(assessed.identity), 'latency-experience', outcome.experience);
    return { ...assessed, frontier: points, ...outcome, seconds: this.#seconds };
  }

  /** What the last run here has learnt about predictions for this model. */
  experience(identity: TargetIdentity): LatencyExperience {
    return {
      ...noExperience,
      ...(this.#ports.store.result(this.#experienceKey(identity)) as LatencyExperience | null),
    };
  }

  #experienceKey(identity: TargetIdentity): string {
    const { modelSha256, prepared, variant } = this.#job;
    return contentKey(['latency-experience', versions.experience, modelSha256, prepared.card, variant, identity]);
  }

  /** A budget that cannot be judged is refused before anything long begins. */
  async #requireJudgeable(): Promise<void> {
    const { target } = this.#ports;
    requireJudgeable(this.#job.budget, target.counter, (await target.identity()).energyMeter !== null);
  }

  async #calibrate(): Promise<CalibrationDocument> {
    const { prepared, modelSha256, workThreads } = this.#job;
    const samples = await this.#calibrationSamples();
    const bits = this.#job.variant === 'native' ? engineActivationBits : [8, 4];
    const cutsEarly = this.#job.calibration === null && this.#job.rangeRule === 'auto';
    const options = { rules: this.#rules(), bits, most: calibrationSamples(prepared.macs), cutsEarly };
    const key = contentKey(['calibrate', versions.calibrate, modelSha256, prepared.card, samples.digest, options]);
    return this.#memo(key, 'calibrate', () =>
      calibrate(
        prepared,
        samples,
        { ...options, threads: workThreads },
        this.#ports.runtime,
        this.#signal,
        this.#progress('calibrate'),
      ),
    );
  }

  async #tune(calibration: CalibrationDocument, saturates: boolean): Promise<TuningDocument> {
    const { prepared, modelSha256, workThreads, variant } = this.#job;
    const samples = await this.#calibrationSamples();
    const rules = this.#rules();
    const int8 = new Map(
      [...this.#possible].flatMap(([name, list]) =>
        list.filter((p) => formatPrecision(p) === 'W8A8').map((p) => [name, p] as const),
      ),
    );
    const key = contentKey([
      'tune',
      versions.tune,
      modelSha256,
      prepared.card,
      samples.digest,
      rules,
      variant,
      saturates,
      calibrationSamples(prepared.macs),
    ]);
    return this.#memo(key, 'tune', () =>
      tune(
        prepared,
        samples,
        calibration,
        { rules, int8, variant, saturates, threads: workThreads },
        this.#ports.runtime,
        this.#signal,
        this.#progress('calibrate'),
      ),
    );
  }

  async #assess(
    calibration: CalibrationDocument,
    tuning: TuningDocument,
    recipe: QuantizationRecipe,
    saturates: boolean,
  ): Promise<SensitivityDocument> {
    const { prepared, modelSha256, estimator, variant } = this.#job;
    const samples = await this.#calibrationSamples();
    const counts = defaultSampleCounts(prepared.macs);
    const key = contentKey([
      'assess',
      versions.assess,
      modelSha256,
      prepared.card,
      samples.digest,
      tuning.rule,
      this.#weightWidths().filter((bits) => bits < judgedFromBits),
      versions.refine,
      versions.nearest,
      tuning.hasBiasCorrection,
      estimator,
      counts,
      variant,
      saturates,
    ]);
    return this.#memo(key, 'assess', () =>
      assess(
        prepared,
        samples,
        rangesOf(calibration, tuning.rule, variant),
        findEstimator(estimator),
        {
          precisionsOf: (index) => this.#precisionsOf(prepared.operators[index]!),
          samples: counts.weights,
          activationSamples: counts.activations,
          threads: this.#job.workThreads,
          kinds: ['weight', 'activation'],
          variant,
          saturates,
          ...(variant === 'native' ? { rounded: recipe.rounded } : {}),
          // QDQ models have corrected biases at 8 bits alone; what is probed there are 4.
          channelMeans: variant === 'native' && tuning.hasBiasCorrection ? calibration.channelMeans : null,
        },
        this.#ports,
        this.#signal,
        this.#progress('assess'),
      ),
    );
  }

  /** Widths of weights that plans may have. */
  #weightWidths(): Precision['weightBits'][] {
    const { precisions, variant } = this.#job;
    if (variant !== 'native') return [];
    // Uniform int8 is compared with in any case.
    const wanted = precisions ?? distinctPrecisions([...this.#possible.values()].flat());
    return [...new Set([8 as const, ...wanted.map(({ weightBits }) => weightBits)])].filter((bits) => bits <= 8);
  }

  /**
   * Weights of every width, which plans are compared with: those that are rounded with regard to what they multiply are each from a
   * model that has all its weights at that width.
   */
  async #weightsByWidth(recipe: QuantizationRecipe, saturates: boolean): Promise<QuantizationRecipe['rounded']> {
    const byWidth = new Map<number, WidthWeights>();
    for (const weightBits of this.#weightWidths()) {
      byWidth.set(
        weightBits,
        weightBits < judgedFromBits
          ? await this.#refinedWeights(weightBits, recipe, saturates)
          : await this.#nearestWeights(weightBits, recipe, saturates),
      );
    }
    return (operator, weightBits) => {
      const found = byWidth.get(weightBits)?.[operator] ?? null;
      // It would be rounded from the weights that are there, and those are no float ones.
      if (found === null && this.#job.isMaster) throw new FloatModelNeeded(operator);
      return found;
    };
  }

  async #refinedWeights(weightBits: Precision['weightBits'], recipe: QuantizationRecipe, saturates: boolean) {
    const precision: Precision = { weightBits, activationBits: 8 };
    const precisions = new Map(this.#job.prepared.operators.map(({ name }) => [name, precision]));
    const refinement = await this.#refinementOf(precisions, recipe, saturates, refineSamples.width);
    return (await refinement.find()).operators;
  }

  async #nearestWeights(weightBits: Precision['weightBits'], recipe: QuantizationRecipe, saturates: boolean) {
    const { prepared, modelSha256 } = this.#job;
    const samples = await this.#calibrationSamples();
    const { rangesByBits, channelMeans } = recipe;
    const given = [modelSha256, prepared.card, samples.digest, weightBits, rangesByBits['8'], channelMeans, saturates];
    return this.#memo(contentKey(['nearest', versions.nearest, ...given]), 'nearest', async () =>
      nearestWeights(prepared, weightBits, recipe, saturates),
    );
  }

  /** The model at the precisions of a plan, where that was done before or is found to be worth it now; else null. */
  async #refinedPlan(
    precisions: ReadonlyMap<string, Precision>,
    { recipe, saturates }: Assessed,
    isWorthIt: () => Promise<boolean>,
  ): Promise<Refinement | null> {
    const wanted = await this.#refinementOf(precisions, recipe, saturates, refineSamples.plan);
    const isThere = this.#ports.store.result(wanted.key) !== null;
    return isThere || (await isWorthIt()) ? wanted.find() : null;
  }

  /** The model at given precisions, quantized layer by layer (see `refine`), and the key under which it is stored. */
  async #refinementOf(
    precisions: ReadonlyMap<string, Precision>,
    recipe: QuantizationRecipe,
    saturates: boolean,
    samplesMost: number,
  ): Promise<{ key: string; find: () => Promise<Refinement> }> {
    const { prepared, modelSha256, workThreads, rangeRule } = this.#job;
    const samples = await this.#calibrationSamples();
    const inputRange = recipe.ranges.get(prepared.card.input.name)!;
    const rule: RangeRule = rangeRule === 'auto' ? 'mse' : rangeRule;
    const passes = { rule, rounds: true, aims: true, correctsBiases: true, saturates, samplesMost };
    const inputs = [modelSha256, prepared.card, samples.digest, [...precisions], inputRange, passes];
    const key = contentKey(['refine', versions.refine, ...inputs]);
    const options = { ...passes, threads: workThreads };
    const progress = this.#progress('calibrate');
    const find = () =>
      this.#memo(key, 'refine', () =>
        refine(prepared, precisions, samples, inputRange, options, this.#ports, this.#signal, progress),
      );
    return { key, find };
  }

  #rules(): readonly RangeRule[] {
    const { rangeRule, calibration } = this.#job;
    if (rangeRule !== 'auto') return [rangeRule];
    return calibration === null ? [syntheticRule] : candidateRules;
  }

  async #calibrationSamples(): Promise<SampleReader> {
    if (this.#samples === null) {
      const { calibration, prepared } = this.#job;
      this.#samples =
        calibration !== null
          ? {
              count: calibration.count,
              source: 'samples',
              digest: calibration.digest,
              read: (index) => calibration.read(index),
            }
          : syntheticSamples(prepared, await this.#synthetic());
    }
    return this.#samples;
  }

  #synthetic(): Promise<SyntheticDocument> {
    const { prepared, modelSha256, workThreads } = this.#job;
    const key = contentKey(['synthetic', syntheticVersion, modelSha256, prepared.card, syntheticCount]);
    return this.#memo(key, 'synthetic', () =>
      findSynthetic(
        prepared,
        { count: syntheticCount, threads: workThreads },
        this.#ports.runtime,
        this.#signal,
        this.#progress('calibrate'),
      ),
    );
  }

  async #memo<T>(key: string, kind: string, work: () => Promise<T>): Promise<T> {
    const known = this.#ports.store.result(key);
    if (known !== null) return known as T;
    if (this.#job.isMaster) throw new FloatModelNeeded(kind);
    const result = await work();
    this.#ports.store.putResult(key, kind, result);
    return result;
  }

  #precisionsOf(operator: Operator): readonly Precision[] {
    return this.#possible.get(operator.name) ?? [float];
  }

  /** What the target can run; TensorRT knows nothing of ONNX Runtime's own block-wise operator. */
  #precisionsFor(operator: Operator): readonly Precision[] {
    const possible = this.#ports.target.precisionsOf(this.#job.prepared, operator);
    return this.#job.variant === 'tensorrt' ? possible.filter((p) => p.weightBits === p.activationBits) : possible;
  }

  #possiblePrecisions(): Map<string, readonly Precision[]> {
    const { prepared, variant } = this.#job;
    // The engine's own float tail is no choice of a plan.
    const tail = variant === 'native' ? new Set<Operator>() : outputTail(prepared);
    return new Map(
      prepared.operators.map((operator) => {
        const isFree = this.#canBeTimed(operator) && !tail.has(operator);
        return [operator.name, isFree ? this.#precisionsFor(operator) : [float]];
      }),
    );
  }

  /** The engine times whole models, whose operators were all found possible before the job began. */
  #canBeTimed(operator: Operator): boolean {
    return this.#job.variant === 'native' || canBeTimed(operator, this.#job.prepared);
  }

  async #timed<T>(step: keyof StepSeconds, work: () => Promise<T>): Promise<T> {
    const started = this.#ports.clock.nanoseconds();
    try {
      return await work();
    } finally {
      this.#seconds[step] += Number(this.#ports.clock.nanoseconds() - started) / 1e9;
    }
  }
}
