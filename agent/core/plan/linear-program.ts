/** A mixed-integer linear programme as plain data: what the planner hands to a solver and what it gets back. */

/** One variable. `integer` with bounds 0 and 1 is a binary. Infinite bounds are `Infinity` and `-Infinity`. */
export interface Variable {
  /** For logs and error messages only; need not be unique. */
  name: string;
  lower: number;
  upper: number;
  integer: boolean;
}

/** `coefficient * variables[variable]`. */
export interface Term {
  variable: number;
  coefficient: number;
}

/** `sum(terms) relation bound`. A variable occurs at most once in one row. */
export interface Row {
  /** For logs and error messages only. */
  name: string;
  terms: readonly Term[];
  relation: '<=' | '>=' | '=';
  bound: number;
}

/** Minimise `sum(objective)` subject to the rows and the variables' bounds. */
export interface LinearProgram {
  variables: readonly Variable[];
  objective: readonly Term[];
  rows: readonly Row[];
  /** A feasible point to start from, one value per variable. A solver may ignore it, and must where it is not feasible. */
  start?: Float64Array;
}

/** When a solver may stop. */
export interface SolveOptions {
  /** The solver stops after this long and answers with the best point it has. */
  timeLimitSeconds: number;
  /** The solver may stop once `(objective - bound) / |objective|` is no more than this; 0 asks for a full proof. */
  relativeGap: number;
}

/** What a solver answers. Failures of the solver itself are thrown, not returned. */
export interface LinearSolution {
  /**
   * `optimal`: proven within the relative gap asked for. `feasible`: the best point found within the time limit. `infeasible` and
   * `unbounded`: proven. `unknown`: the time limit passed before any feasible point was found.
   */
  status: 'optimal' | 'feasible' | 'infeasible' | 'unbounded' | 'unknown';
  /** One value per variable; empty unless the status is `optimal` or `feasible`. */
  values: Float64Array;
  /** The objective at `values`; NaN where there is none. */
  objective: number;
  /** `(objective - proven bound) / |objective|`: 0 is a proof, Infinity is no bound at all. */
  gap: number;
  /** Wall time the solver took. */
  seconds: number;
}

/** The part of the `Solver` port that the planner needs. */
export interface LinearSolver {
  /** Fails with EdgeError `solver/failed`, or `job/aborted` once `signal` is aborted. */
  solve(program: LinearProgram, options: SolveOptions, signal: AbortSignal): Promise<LinearSolution>;
}
