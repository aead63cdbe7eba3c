/** How HiGHS is asked to solve a programme, whichever thread it has been loaded in. The library itself is handed in. */
import type { LinearProgram, LinearSolution, Row, SolveOptions } from './linear-program.js';

type Code = number | null | undefined;

/** The part of the HiGHS package that is used here. */
export interface HighsLibrary {
  readonly infinity: number;
  readonly errors: { readonly HighsError: abstract new (...rest: never[]) => Error };
  readonly constants: {
    readonly modelStatus: Readonly<Record<'optimal' | 'empty' | 'infeasible' | 'unbounded' | 'timeLimit', Code>>;
    readonly solutionStatus: { readonly feasible: Code };
    readonly variableType: { readonly integer: Code; readonly continuous: Code };
  };
  withModel<T>(data: object, work: (model: HighsModel) => T): T;
}

/** A model that HiGHS has taken over. */
export interface HighsModel {
  readonly options: { set(options: Readonly<Record<string, unknown>>): unknown };
  readonly info: { get(name: string): unknown };
  setSolution(solution: { colValue: Float64Array }): unknown;
  run(): unknown;
  getModelStatus(): Code;
  getObjectiveValue(): number;
  getSolution(): { colValue: Float64Array };
}

/** Presolve rule "parallel rows and columns" (bit 13 of HiGHS's PresolveRuleType). */
const parallelRowsAndColumns = 1 << 13;

/**
 * Presolve is where HiGHS is fast and, up to 1.15.1 at least, now and then wrong: its rule for parallel rows and columns compares
 * costs with an absolute tolerance and has called worse points optimal, so it is off. A presolved run that fails, or that claims
 * an optimum its own bound does not support, is done again without presolve.
 *
 * A fault inside WebAssembly is thrown on: what is left of its memory cannot be trusted, and the thread has to end.
 *
 * @param nowMs a monotonic clock
 */
export function solveWithHighs(
  highs: HighsLibrary,
  program: LinearProgram,
  options: SolveOptions,
  nowMs: () => number,
): LinearSolution {
  const data = modelData(highs, program);
  const begun = nowMs();
  const seconds = () => (nowMs() - begun) / 1000;
  try {
    const solution = run(highs, data, program, options, { presolve: 'on', presolve_rule_off: parallelRowsAndColumns });
    if (isSupported(solution, options.relativeGap)) return { ...solution, seconds: seconds() };
  } catch (error) {
    // A fault inside WebAssembly is not survived; what HiGHS reports as its own failure is.
    if (!(error instanceof highs.errors.HighsError)) throw error;
  }
  const timeLimitSeconds = Math.max(options.timeLimitSeconds - seconds(), 0);
  const solution = run(highs, data, program, { ...options, timeLimitSeconds }, { presolve: 'off' });
  return { ...solution, seconds: seconds() };
}

function isSupported({ status, objective, gap }: Omit<LinearSolution, 'seconds'>, relativeGap: number): boolean {
  // Distances up to 1e-9 are within the tolerances below.
  return status !== 'optimal' || gap === 0 || gap * Math.abs(objective) <= relativeGap * Math.abs(objective) + 1e-9;
}

function run(
  highs: HighsLibrary,
  data: object,
  program: LinearProgram,
  options: SolveOptions,
  presolve: Record<string, string | number>,
): Omit<LinearSolution, 'seconds'> {
  return highs.withModel(data, (model) => {
    model.options.set({
      output_flag: false,
      time_limit: options.timeLimitSeconds,
      mip_rel_gap: options.relativeGap,
      mip_abs_gap: 1e-12,
      // Ten to a thousand times tighter than the defaults: costs within one row differ by many orders of magnitude.
      mip_feasibility_tolerance: 1e-9,
      primal_feasibility_tolerance: 1e-9,
      dual_feasibility_tolerance: 1e-9,
      small_matrix_value: 1e-12,
      ...presolve,
    });
    if (program.start) model.setSolution({ colValue: program.start });
    model.run();
    return answer(highs, model, program);
  });
}

function modelData(highs: HighsLibrary, { variables, objective, rows }: LinearProgram): object {
  const colCost = new Float64Array(variables.length);
  for (const { variable, coefficient } of objective) colCost[variable]! += coefficient;
  const starts = [0];
  for (const row of rows) starts.push(starts.at(-1)! + row.terms.length);
  const terms = rows.flatMap((row) => row.terms);
  const { integer, continuous } = highs.constants.variableType;
  return {
    numCols: variables.length,
    numRows: rows.length,
    colCost,
    colLower: variables.map((variable) => variable.lower),
    colUpper: variables.map((variable) => variable.upper),
    rowLower: rows.map((row: Row) => (row.relation === '<=' ? -highs.infinity : row.bound)),
    rowUpper: rows.map((row: Row) => (row.relation === '>=' ? highs.infinity : row.bound)),
    integrality: variables.map((variable) => (variable.integer ? integer : continuous)),
    matrix: {
      format: 'csr',
      numRows: rows.length,
      numCols: variables.length,
      starts,
      indices: terms.map((term) => term.variable),
      values: terms.map((term) => term.coefficient),
    },
  };
}

function answer(highs: HighsLibrary, model: HighsModel, program: LinearProgram): Omit<LinearSolution, 'seconds'> {
  const { modelStatus, solutionStatus } = highs.constants;
  const outcome = model.getModelStatus();
  const none = { values: new Float64Array(0), objective: Number.NaN, gap: Number.POSITIVE_INFINITY };
  if (outcome === modelStatus.infeasible) return { status: 'infeasible', ...none };
  if (outcome === modelStatus.unbounded) return { status: 'unbounded', ...none };
  const hasPoint = model.info.get('primal_solution_status') === solutionStatus.feasible;
  const isOptimal = outcome === modelStatus.optimal || outcome === modelStatus.empty;
  if (!isOptimal && outcome !== modelStatus.timeLimit) throw new Error(`HiGHS stopped with model status ${outcome}`);
  if (!isOptimal && !hasPoint) return { status: 'unknown', ...none };
  const objective = model.getObjectiveValue();
  const isMixed = program.variables.some((variable) => variable.integer);
  const bound = isMixed ? Number(model.info.get('mip_dual_bound')) : isOptimal ? objective : Number.NEGATIVE_INFINITY;
  const gap = bound >= objective ? 0 : (objective - bound) / Math.abs(objective);
  return { status: isOptimal ? 'optimal' : 'feasible', values: model.getSolution().colValue, objective, gap };
}
