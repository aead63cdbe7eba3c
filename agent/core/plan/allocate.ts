/** Chooses a precision for every operator: the best value of one metric under ceilings on the others. */
import { EdgeError } from '../../../configs/contracts/errors.js';
import { formulate } from './formulation.js';
import type { LinearProgram, LinearSolution, LinearSolver } from './linear-program.js';
import { type Assignment, evaluate, type Metric, type PlanCosts, type Problem, validateProblem } from './problem.js';
import { unitsOf } from './units.js';

/** Largest allowed value by metric, in the metric's unit. */
export type Ceilings = Partial<Record<Metric, number>>;

export interface AllocateOptions {
  /** For all solves together; 30 when absent. */
  timeLimitSeconds?: number;
  /** Relative distance to the proven optimum that is good enough; 1e-6 when absent. */
  relativeGap?: number;
  /** An assignment that is likely to meet the ceilings and be good, to start from. */
  start?: Assignment;
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

/** An assignment that meets the ceilings. */
export interface Allocated {
  /** `optimal`: proven within the relative gap. `feasible`: the best found in time. */
  status: 'optimal' | 'feasible';
  assignment: Assignment;
  /** `evaluate(problem, assignment)`; never above a ceiling. */
  costs: PlanCosts;
  /** `(value - proven bound) / |value|` of the objective. */
  gap: number;
  /** Time spent in the solver. */
  seconds: number;
  /** Ceilings that keep some operator (or group of tied operators) from a choice with a better objective. */
  binding: Metric[];
}

/** No assignment meets the ceilings. Lists those that cannot be met alone; if each can, all, with what the others leave. */
export interface Infeasible {
  status: 'infeasible';
  infeasible: Shortfall[];
  seconds: number;
}

export type Allocation = Allocated | Infeasible;

/**
 * Minimises `objective` under the ceilings; among solutions of equal value, the one with the least latency (or the least
 * sensitivity, where latency is the objective).
 *
 * @throws EdgeError `budget/invalid` for a ceiling on energy where energy is not known, `budget/infeasible` where tied operators
 *   share no precision, `solver/failed` when the time limit passes before any solution is found, `job/aborted` on the signal;
 *   TypeError for a malformed problem.
 */
export async function allocate(
  problem: Problem,
  objective: Metric,
  ceilings: Ceilings,
  solver: LinearSolver,
  options: AllocateOptions,
  signal: AbortSignal,
): Promise<Allocation> {
  validateProblem(problem);
  if (objective === 'energy' || ceilings.energy !== undefined) requireEnergy(problem);
  const search = new Search(problem, solver, options, signal);
  const best = await search.minimise(objective, ceilings, options.start);
  if (best === 'unknown') {
    throw new EdgeError('solver/failed', `No plan was found within ${search.seconds.toFixed(1)} s`, {
      subject: 'solver',
    });
  }
  if (best === 'infeasible') {
    return { status: 'infeasible', infeasible: await search.shortfalls(ceilings), seconds: search.seconds };
  }
  const assignment = await search.breakTie(objective, ceilings, best);
  return {
    status: best.status,
    assignment,
    costs: evaluate(problem, assignment),
    gap: best.gap,
    seconds: search.seconds,
    binding: bindingCeilings(problem, objective, ceilings, assignment),
  };
}

/** The assignment of least latency; among those, of least sensitivity. */
export function fastest(
  problem: Problem,
  solver: LinearSolver,
  options: AllocateOptions,
  signal: AbortSignal,
): Promise<Allocation> {
  return allocate(problem, 'latency', {}, solver, options, signal);
}

/** The assignment of least sensitivity; among those, of least latency. */
export function mostAccurate(
  problem: Problem,
  solver: LinearSolver,
  options: AllocateOptions,
  signal: AbortSignal,
): Promise<Allocation> {
  return allocate(problem, 'sensitivity', {}, solver, options, signal);
}

/** Objective values below this part of the programme's scale are solved again at a finer one: solvers are exact to about 1e-9. */
const coarsest = 1e-3;

/** How many assignments that exceed a ceiling by rounding are cut off one by one before the ceilings are tightened instead. */
const mostExclusions = 20;

/** The part of a ceiling's room by which it is tightened first; more than a solver's tolerance. */
const firstMargin = 1e-8;

/** A solve gets at least this long, so that what is nearly done is not lost. */
const leastSeconds = 0.05;

interface Found {
  status: 'optimal' | 'feasible';
  assignment: Assignment;
  /** The objective, by `evaluate`. */
  value: number;
  gap: number;
}

/** The solves for one problem, which share a time limit. */
class Search {
  seconds = 0;
  readonly #timeLimitSeconds: number;
  readonly #relativeGap: number;

  constructor(
    readonly problem: Problem,
    readonly solver: LinearSolver,
    options: AllocateOptions,
    readonly signal: AbortSignal,
  ) {
    this.#timeLimitSeconds = options.timeLimitSeconds ?? 30;
    this.#relativeGap = options.relativeGap ?? 1e-6;
  }

  /** The best assignment under the ceilings. The solver only proposes: `evaluate` decides what meets a ceiling and what is best. */
  async minimise(objective: Metric, ceilings: Ceilings, start?: Assignment): Promise<Found | 'infeasible' | 'unknown'> {
    const limits = limitsOf(ceilings);
    const excluded: Assignment[] = [];
    let best: Found | undefined;
    let lastScale = Number.POSITIVE_INFINITY;
    for (;;) {
      const formulation = formulate(this.problem, {
        objective,
        ceilings: limits,
        cutoff: best?.value,
        margin: excluded.length > mostExclusions ? firstMargin * 10 ** (excluded.length - mostExclusions) : 0,
        excluded,
        start: best?.assignment ?? start,
      });
      const solution = formulation && (await this.#solve(formulation.program));
      if (!solution || solution.status === 'infeasible') return best ?? 'infeasible';
      if (solution.status === 'unknown') return best ?? 'unknown';
      const assignment = formulation.assignmentOf(solution.values);
      const costs = evaluate(this.problem, assignment);
      if (exceededBy(costs, limits).length > 0) {
        excluded.push(assignment);
        continue;
      }
      const found = toFound(solution, formulation.scale, assignment, costs[objective]!);
      if (!best || found.value <= best.value) best = found;
      const isFineEnough = solution.objective >= coarsest || formulation.scale > lastScale / 2;
      if (isFineEnough || best.status === 'feasible') return best;
      lastScale = formulation.scale;
    }
  }

  /** Among the assignments no worse than `best`, the one with the least latency (sensitivity, where the objective is latency). */
  async breakTie(objective: Metric, ceilings: Ceilings, best: Found): Promise<Assignment> {
    const second = objective === 'latency' ? 'sensitivity' : 'latency';
    const found = await this.minimise(second, { ...ceilings, [objective]: best.value }, best.assignment);
    return typeof found === 'string' ? best.assignment : found.assignment;
  }

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

  async #minimum(metric: Metric, ceilings: Ceilings): Promise<number | null> {
    const found = await this.minimise(metric, ceilings);
    return typeof found === 'string' || found.status === 'feasible' ? null : found.value;
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

function toFound(solution: LinearSolution, scale: number, assignment: Assignment, value: number): Found {
  const distance = solution.gap === 0 ? 0 : solution.gap * Math.abs(solution.objective) * scale;
  const gap = distance === 0 ? 0 : distance / Math.abs(value);
  return { status: solution.status === 'optimal' ? 'optimal' : 'feasible', assignment, value, gap };
}

function limitsOf(ceilings: Ceilings): [Metric, number][] {
  return (Object.entries(ceilings) as [Metric, number | undefined][]).filter(
    (limit): limit is [Metric, number] => limit[1] !== undefined,
  );
}

function exceededBy(costs: PlanCosts, limits: readonly [Metric, number][]): Metric[] {
  return limits.filter(([metric, ceiling]) => !(costs[metric]! <= ceiling)).map(([metric]) => metric);
}

/** Ceilings that a better choice for a single unit would exceed. */
function bindingCeilings(problem: Problem, objective: Metric, ceilings: Ceilings, assignment: Assignment): Metric[] {
  const limits = limitsOf(ceilings);
  if (limits.length === 0) return [];
  const value = evaluate(problem, assignment)[objective]!;
  const binding = new Set<Metric>();
  for (const { operators, options } of unitsOf(problem)) {
    for (const { choices } of options) {
      const neighbour = [...assignment];
      operators.forEach((operator, position) => {
        neighbour[operator] = choices[position]!;
      });
      const costs = evaluate(problem, neighbour);
      if (costs[objective]! < value) for (const metric of exceededBy(costs, limits)) binding.add(metric);
    }
  }
  return limits.map(([metric]) => metric).filter((metric) => binding.has(metric));
}

function requireEnergy(problem: Problem): void {
  const fail = (subject: string) => {
    throw new EdgeError(
      'budget/invalid',
      `Energy is limited, but the energy of ${subject} is not known on this target`,
      {
        subject,
        hint: 'Leave energy out of the budget, or measure on a target that can measure energy.',
      },
    );
  };
  for (const { name, choices } of problem.operators) {
    for (const { precision, costs } of choices) if (costs.energy === null) fail(`${name} at ${precision}`);
  }
  for (const { tensor, conversions } of problem.edges) {
    for (const { from, to, energy } of conversions) {
      if (energy === null) fail(`converting ${tensor} from ${from} to ${to}`);
    }
  }
}
