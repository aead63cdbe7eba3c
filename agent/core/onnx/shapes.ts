import { EdgeError } from '../../../configs/contracts/errors.js';
import { evaluate, readNumbers } from './evaluate.js';
import { graphInputs } from './graph.js';
import { malformed } from './malformed.js';
import type { Model, Node, Shapes, Tensor, ValueInfo } from './model.js';
import { operatorRow } from './operator-table.js';
import { NotInferable, type RuleContext, type Shape } from './shape-rules.js';
import { elementCount } from './tensor.js';

/** Constants larger than this are never read as values while shapes are inferred: shapes, scales and indices are smaller. */
const largestValue = 4096;

/** How much is computed from constants, in elements; keeps a hostile chain of Transposes from filling the memory. */
export interface EvaluationLimit {
  readonly perNode: number;
  readonly total: number;
}

const shapeComputations: EvaluationLimit = { perNode: largestValue, total: 2 ** 22 };

/**
 * Fixed shapes of all tensors of a model, initializers included, for one batch: an open first dimension of an input is 1.
 * Tensors behind operators we do not know have their declared shape, or none.
 *
 * @param inputShapes shapes of graph inputs that the model leaves open, or that shall differ from its own
 * @throws EdgeError `model/unsupported` where an input shape stays open, `model/malformed` where a node contradicts its inputs,
 * `model/too-large` for tensors past 2^31 elements
 */
export function inferShapes(model: Model, inputShapes?: ReadonlyMap<string, readonly number[]>): Shapes {
  for (const input of graphInputs(model.graph)) {
    if (resolveInput(input, inputShapes) !== null) continue;
    throw new EdgeError('model/unsupported', `the input ${input.name} has no fixed shape`, {
      subject: input.name,
      hint: `Give the shape of ${input.name} in the model card, or export the model with fixed dimensions.`,
    });
  }
  return propagate(model, inputShapes, shapeComputations).shapes;
}

/** What can be known of a model's tensors without running it. */
export interface Propagation {
  readonly shapes: Shapes;
  /** Tensors that nodes compute from constants and shapes alone, by name; initializers are not repeated. */
  readonly constants: ReadonlyMap<string, Tensor>;
}

/** inferShapes without the demand that every input has a shape: what depends on such an input is absent. */
export function propagate(
  model: Model,
  inputShapes: ReadonlyMap<string, readonly number[]> | undefined,
  limit: EvaluationLimit,
): Propagation {
  const { graph } = model;
  const shapes = new Map<string, Shape>();
  const constants = new Map<string, Tensor>();
  for (const input of graphInputs(graph)) {
    const shape = resolveInput(input, inputShapes);
    if (shape !== null) shapes.set(input.name, shape);
  }
  for (const tensor of graph.initializers.values()) shapes.set(tensor.name, tensor.dims);

  const opset = model.opsets.get('') ?? 0;
  const constantOf = (name: string): Tensor | undefined => constants.get(name) ?? graph.initializers.get(name);
  const declared = new Map(graph.valueInfo);
  for (const output of graph.outputs) declared.set(output.name, output);

  let elementsLeft = limit.total;
  for (const node of graph.nodes) {
    const context = contextOf(node, opset, shapes, constantOf);
    const inferred = ifKnown(() => operatorRow(node)?.shapes(context) ?? null);
    node.outputs.forEach((output, position) => {
      const shape = inferred?.[position] ?? resolveDeclared(declared.get(output));
      if (output === '' || shape === null) return;
      elementCount(shape, output);
      shapes.set(output, shape);
    });
    const value = inferred === null ? null : evaluateWithin(elementsLeft, limit, context, inferred, constantOf);
    if (value === null) continue;
    elementsLeft -= elementCount(value.dims);
    constants.set(value.name, value);
  }
  return { shapes, constants };
}

/** The node's value where its inputs are constant and it is not too large. */
function evaluateWithin(
  elementsLeft: number,
  limit: EvaluationLimit,
  context: RuleContext,
  outputShapes: readonly Shape[],
  constantOf: (name: string) => Tensor | undefined,
): Tensor | null {
  const { node } = context;
  const [output] = outputShapes;
  if (output === undefined || elementCount(output) > Math.min(elementsLeft, limit.perNode)) return null;
  const needsOnlyShape = node.op === 'Shape' || node.op === 'Size';
  const constants = needsOnlyShape ? [] : node.inputs.map((input) => (input === '' ? undefined : constantOf(input)));
  const isKnown = needsOnlyShape || node.inputs.every((input, position) => input === '' || constants[position]);
  return isKnown ? ifKnown(() => evaluate({ ...context, constants, outputShapes })) : null;
}

/** The result of a rule or evaluation; null where it needs something that is not known. */
function ifKnown<Result>(compute: () => Result | null): Result | null {
  try {
    return compute();
  } catch (error) {
    if (error instanceof NotInferable) return null;
    throw error;
  }
}

function contextOf(
  node: Node,
  opset: number,
  shapes: Shapes,
  constantOf: (name: string) => Tensor | undefined,
): RuleContext {
  const nameOf = (input: number): string => node.inputs[input] ?? '';
  return {
    node,
    opset,
    hasInput: (input) => nameOf(input) !== '',
    shape: (input) => {
      if (nameOf(input) === '') throw malformed(node.name, `${node.op} ${node.name} has no input ${input}`);
      const shape = shapes.get(nameOf(input));
      if (shape === undefined) throw new NotInferable(nameOf(input));
      return shape;
    },
    values: (input) => {
      if (nameOf(input) === '') return null;
      const tensor = constantOf(nameOf(input));
      if (tensor === undefined || elementCount(tensor.dims) > largestValue) throw new NotInferable(nameOf(input));
      const numbers = readNumbers(tensor);
      if (numbers === null) throw new NotInferable(nameOf(input));
      return numbers;
    },
  };
}

/** The shape of a graph input, batch 1; null where a dimension other than the first is open. */
function resolveInput(input: ValueInfo, given?: ReadonlyMap<string, readonly number[]>): Shape | null {
  const shape = given?.get(input.name) ?? resolveDeclared(input);
  if (shape !== null && elementCount(shape, input.name) === 0) {
    throw malformed(input.name, `the input ${input.name} has no elements: [${shape}]`);
  }
  return shape;
}

function resolveDeclared(info: ValueInfo | undefined): Shape | null {
  const shape = info?.shape?.map((dim, axis) => (typeof dim === 'number' ? dim : axis === 0 ? 1 : null));
  const isFixed = (dims: readonly (number | null)[]): dims is readonly number[] => !dims.includes(null);
  return shape !== undefined && isFixed(shape) ? shape : null;
}
