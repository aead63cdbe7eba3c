/** Solves of one planning problem: formulates, lets the solver propose, and judges what it proposes with `evaluate`. */
import { EdgeError } from '../../../configs/contracts/errors.js';
import { formulate } from './formulation.js';
import type { LinearProgram, LinearSolution, LinearSolver } from './linear-program.js';
import { type Assignment, evaluate, type Metric, type PlanCosts, type Problem } from './problem.js';
import { isAssignment } from './units.js';

/** Largest allowed value by metric, in the metric's unit. */
export type Ceilings = Partial<Record<Metric, number>>;

/** Limits and help for the solver. */
export interface AllocateOptions {
  /** For all solves together; 30 when absent. */
  timeLimitSeconds?: number;
  /** Relative distance to the proven optimum that is good enough; 1e-6 when absent. */
  relativeGap?: number;
  /** An assignment that may meet the ceilings and be good, such as that of a similar budget; ignored where it does not fit. */
  start?: Assignment;
  /** Assignments that are not to be found again. */
  excluded?: readonly Assignment[];
}

/** A ceiling that cannot be met. */
export interface Shortfall {
  metric: Metric;
  ceiling: number;
  /**
   * Smallest value of the metric: over all assignments if `alone`, else over those that meet the other ceilings. null where no
   * assignment meets the other ceilings either, or where it could not be found in time.
   */
  minimum: number | null;
  /** The ceiling cannot be met even without the others. */
  alone: boolean;
}

/** Objective values below this part of the programme's scale are solved again at a finer one: solvers are exact to about 1e-9. */
const coarsest = 1e-3;

/** How many assignments that exceed a ceiling by rounding are cut off one by one before the ceilings are tightened instead. */
const mostExclusions = 20;

/** The part of a ceiling's room by which it is tightened first; more than a solver's tolerance. */
const firstMargin = 1e-8;

/** A solve gets at least this long, so that what is nearly done is not lost. */
const leastSeconds = 0.05;

/** The best assignment found. */
export interface Found {
  /** `optimal`: proven within the relative gap. `feasible`: the best found in time. */
  status: 'optimal' | 'feasible';
  assignment: Assignment;
  costs: PlanCosts;
  /** `(value - proven bound) / |value|` of the objective. */
  gap: number;
}

/** The solves for one problem, which share a time limit. */
export class Search {
  /** Time spent in the solver so far. */
  seconds = 0;
  readonly #timeLimitSeconds: number;
  readonly #relativeGap: number;
  readonly #excluded: readonly Assignment[];

  constructor(
    readonly problem: Problem,
    readonly solver: LinearSolver,
    options: AllocateOptions,
    readonly signal: AbortSignal,
  ) {
    this.#timeLimitSeconds = options.timeLimitSeconds ?? 30;
    this.#relativeGap = options.relativeGap ?? 1e-6;
    this.#excluded = options.excluded ?? [];
  }

  get isOutOfTime(): boolean {
    return this.seconds >= this.#timeLimitSeconds;
  }

  /**
   * The assignment that minimises `objective` under the ceilings and, among those of the same value, has the least latency (or the
   * least sensitivity, where latency is the objective). `start` is used where it meets the ceilings.
   *
   * @throws EdgeError `solver/failed` where the time limit passes before any is found.
   */
  async best(objective: Metric, ceilings: Ceilings, start?: Assignment): Promise<Found | 'infeasible'> {
    const first = await this.#minimise(objective, ceilings, start);
    if (first === 'infeasible') return first;
    if (first === 'unknown') {
      const message = `No plan was found within ${this.#timeLimitSeconds} s`;
      throw new EdgeError('solver/failed', message, { subject: 'solver' });
    }
    const second = objective === 'latency' ? 'sensitivity' : 'latency';
    const kept = { ...ceilings, [objective]: first.costs[objective]! };
    const found = await this.#minimise(second, kept, first.assignment);
    return typeof found === 'string' ? first : { ...first, assignment: found.assignment, costs: found.costs };
  }

  /** Why no assignment meets the ceilings: those that cannot be met alone or, where each can, what each would have to be. */
  async shortfalls(ceilings: Ceilings): Promise<Shortfall[]> {
    const limits = limitsOf(ceilings);
    const shortfalls: Shortfall[] = [];
    for (const [metric, ceiling] of limits) {
      const minimum = await this.#minimum(metric, {});
      if (minimum !== null && minimum > ceiling) shortfalls.push({ metric, ceiling, minimum, alone: true });
    }
    if (shortfalls.length > 0) return shortfalls;
    for (const [metric, ceiling] of limits) {
      const minimum = await this.#minimum(metric, { ...ceilings, [metric]: undefined });
      shortfalls.push({ metric, ceiling, minimum, alone: false });
    }
    return shortfalls;
  }

  /** The solver only proposes: `evaluate` decides what meets a ceiling and what is best. */
  async #minimise(
    objective: Metric,
    ceilings: Ceilings,
    start?: Assignment,
  ): Promise<Found | 'infeasible' | 'unknown'> {
    const limits = limitsOf(ceilings);
    const exceeding: Assignment[] = [];
    let best = start && this.#given(start, limits);
    let lastScale = Number.POSITIVE_INFINITY;
    for (;;) {
      const formulation = formulate(this.problem, {
        objective,
        ceilings: limits,
        cutoff: best?.costs[objective] ?? undefined,
        margin: exceeding.length > mostExclusions ? firstMargin * 10 ** (exceeding.length - mostExclusions) : 0,
        excluded: [...this.#excluded, ...exceeding],
        start: best?.assignment,
      });
      const solution = formulation && (await this.#solve(formulation.program));
      // Where something is known to be possible, this proves that nothing is better.
      if (!solution || solution.status === 'infeasible') return best ? proven(best) : 'infeasible';
      if (solution.status === 'unknown') return best ?? 'unknown';
      const assignment = formulation.assignmentOf(solution.values);
      const costs = evaluate(this.problem, assignment);
      if (exceededBy(costs, limits).length > 0) {
        exceeding.push(assignment);
        continue;
      }
      const isBetter = !best || costs[objective]! <= best.costs[objective]!;
      best = toFound(solution, formulation.scale, objective, isBetter ? { assignment, costs } : best!);
      const isFineEnough = solution.objective >= coarsest || formulation.scale > lastScale / 2;
      if (isFineEnough || best.status === 'feasible') return best;
      lastScale = formulation.scale;
    }
  }

  #given(start: Assignment, limits: readonly [Metric, number][]): Found | undefined {
    if (!isAssignment(this.problem, start)) return undefined;
    const costs = evaluate(this.problem, start);
    if (exceededBy(costs, limits).length > 0 || !Number.isFinite(costs.latency)) return undefined;
    return { status: 'feasible', assignment: start, costs, gap: Number.POSITIVE_INFINITY };
  }

  async #minimum(metric: Metric, ceilings: Ceilings): Promise<number | null> {
    const found = await this.#minimise(metric, ceilings);
    return typeof found === 'string' || found.status === 'feasible' ? null : found.costs[metric];
  }

  async #solve(program: LinearProgram): Promise<LinearSolution> {
    const timeLimitSeconds = Math.max(this.#timeLimitSeconds - this.seconds, leastSeconds);
    const options = { timeLimitSeconds, relativeGap: this.#relativeGap };
    const solution = await this.solver.solve(program, options, this.signal);
    this.seconds += solution.seconds;
    if (solution.status !== 'unbounded') return solution;
    throw new EdgeError('solver/failed', 'The solver calls a bounded programme unbounded', { subject: 'solver' });
  }
}

function proven(best: Found): Found {
  return { ...best, status: 'optimal', gap: 0 };
}

function toFound(
  solution: LinearSolution,
  scale: number,
  objective: Metric,
  { assignment, costs }: Pick<Found, 'assignment' | 'costs'>,
): Found {
  const distance = solution.gap === 0 ? 0 : solution.gap * Math.abs(solution.objective) * scale;
  const gap = distance === 0 ? 0 : distance / Math.abs(costs[objective]!);
  return { status: solution.status === 'optimal' ? 'optimal' : 'feasible', assignment, costs, gap };
}

/** The ceilings that are there. */
export function limitsOf(ceilings: Ceilings): [Metric, number][] {
  return (Object.entries(ceilings) as [Metric, number | undefined][]).filter(
    (limit): limit is [Metric, number] => limit[1] !== undefined,
  );
}

/** The metrics that are above their ceiling. */
export function exceededBy(costs: PlanCosts, limits: readonly [Metric, number][]): Metric[] {
  return limits.filter(([metric, ceiling]) => !(costs[metric]! <= ceiling)).map(([metric]) => metric);
}
