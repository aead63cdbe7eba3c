import type { Budget, Precision } from '../../configs/contracts/plan.js';
import { floatTail } from '../core/image/build.js';
import { type Fit, fitToRoom, fitted, type Room, uniformInt8 } from '../core/image/room.js';
import type { LatencyTable } from '../core/latency.js';
import type { Operator } from '../core/onnx/model.js';
import { buildProblem } from '../core/plan/build-problem.js';
import { buildEngineProblem } from '../core/plan/engine-problem.js';
import type { Problem } from '../core/plan/problem.js';
import { formatPrecision } from '../core/precision.js';
import type { PreparedModel } from '../core/prepare.js';
import type { SensitivityTable } from '../core/sensitivity/table.js';
import { type ArtifactForm, apply, applyImage } from './apply.js';
import type { QuantizationRecipe } from './tune.js';

/** What a planning problem is made from. */
export interface ProblemSources {
  readonly prepared: PreparedModel;
  readonly budget: Budget;
  /** Of the target; absent: enough. */
  readonly room: Room | undefined;
  readonly allowed: (operator: Operator) => readonly Precision[];
  readonly table: LatencyTable;
  readonly sensitivity: SensitivityTable;
  readonly recipe: QuantizationRecipe;
  readonly form: ArtifactForm;
}

/** The planning problem, what its plans are written as, and how the model fits a target that has little room (null: enough). Fails as `fitToRoom`. */
export function planningProblem(sources: ProblemSources): { problem: Problem; form: ArtifactForm; fit: Fit | null } {
  const { prepared, budget, room, allowed, table, sensitivity, recipe, form } = sources;
  const bytesIn = (of: ArtifactForm) => (precisions: ReadonlyMap<string, Precision>) =>
    apply(prepared, precisions, recipe, of).length;
  if (form.variant !== 'native')
    return { problem: buildProblem(prepared, allowed, table, sensitivity, bytesIn(form)), form, fit: null };
  const tail = floatTail(prepared);
  if (room === undefined)
    return { problem: buildEngineProblem(prepared, allowed, tail, table, sensitivity, bytesIn(form)), form, fit: null };
  const int8 = uniformInt8(prepared);
  const latencyOf = ({ key }: Operator) => table.median(key, 'W8A8', 0);
  const fit = fitToRoom(
    prepared,
    room,
    budget,
    (patches) => applyImage(prepared, int8, recipe, { ...form, patches }),
    latencyOf,
  );
  const own: ArtifactForm = { ...form, patches: fit.patches };
  const stored = storedBytes(prepared, allowed, recipe, own);
  const problem = buildEngineProblem(prepared, allowed, tail, table, sensitivity, bytesIn(own), stored);
  return { problem: fitted(problem, fit), form: own, fit };
}

/** Bytes of an operator's constants at a precision, packed as an image holds them: from images that have each precision wherever it can be. */
function storedBytes(
  { operators, ...rest }: PreparedModel,
  allowed: (operator: Operator) => readonly Precision[],
  recipe: QuantizationRecipe,
  form: ArtifactForm,
): (operator: Operator, precision: Precision) => number {
  const prepared = { operators, ...rest };
  const images = new Map<string, ReadonlyMap<string, number>>();
  const imageAt = (wanted: Precision) => {
    const name = formatPrecision(wanted);
    const known = images.get(name);
    if (known !== undefined) return known;
    const isAllowed = (operator: Operator) =>
      allowed(operator).some((precision) => formatPrecision(precision) === name);
    const precisions = new Map(uniformInt8(prepared));
    for (const operator of operators) if (isAllowed(operator)) precisions.set(operator.name, wanted);
    const { constantBytes } = applyImage(prepared, precisions, recipe, form);
    images.set(name, constantBytes);
    return constantBytes;
  };
  return ({ name }, precision) => imageAt(precision).get(name) ?? 0;
}
