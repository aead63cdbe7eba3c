/**
 * Entry of the worker thread in which HiGHS (WebAssembly, synchronous) runs. One request in, one answer out. Nothing is caught:
 * after a fault inside WebAssembly its memory cannot be trusted, so the thread dies and the adapter starts another.
 */
import { parentPort } from 'node:worker_threads';
import loadHighs, { type Highs, type Model, type ModelData } from 'highs';
import type { LinearProgram, LinearSolution, Row, SolveOptions } from '../core/plan/linear-program.js';

export interface HighsRequest {
  program: LinearProgram;
  options: SolveOptions;
}

const port = parentPort!;
/** The package's types describe its CommonJS build; the module loaded here has the loader as its default export. */
const highsReady = (loadHighs as unknown as typeof loadHighs.default)();

port.on('message', async ({ program, options }: HighsRequest) => {
  port.postMessage(solve(await highsReady, program, options));
});

function solve(highs: Highs, program: LinearProgram, options: SolveOptions): LinearSolution {
  const begun = performance.now();
  return highs.withModel(modelData(highs, program), (model) => {
    model.options.set({
      output_flag: false,
      time_limit: options.timeLimitSeconds,
      mip_rel_gap: options.relativeGap,
      mip_abs_gap: 0,
      // Ten to a thousand times tighter than the defaults: costs within one row differ by many orders of magnitude.
      mip_feasibility_tolerance: 1e-9,
      primal_feasibility_tolerance: 1e-9,
      dual_feasibility_tolerance: 1e-9,
      small_matrix_value: 1e-12,
    });
    if (program.start) model.setSolution({ colValue: program.start });
    model.run();
    return answer(highs, model, program, (performance.now() - begun) / 1000);
  });
}

function modelData(highs: Highs, { variables, objective, rows }: LinearProgram): ModelData {
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

function answer(highs: Highs, model: Model, program: LinearProgram, seconds: number): LinearSolution {
  const { modelStatus, solutionStatus } = highs.constants;
  const outcome = model.getModelStatus();
  const none = { values: new Float64Array(0), objective: Number.NaN, gap: Number.POSITIVE_INFINITY, seconds };
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
  return { status: isOptimal ? 'optimal' : 'feasible', values: model.getSolution().colValue, objective, gap, seconds };
}
