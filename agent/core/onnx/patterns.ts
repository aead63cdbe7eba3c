/** Activation functions that exporters spell as several nodes. */
import { floatAttribute } from './attributes.js';
import { type GraphIndex, soleConsumer } from './graph.js';
import type { Node, Tensor } from './model.js';
import { readFloats } from './tensor.js';

/**
 * An activation function found in a graph; its nodes in order, the one it begins at first, the one whose output is its own
 * last.
 */
export interface ActivationMatch {
  readonly op: 'Silu' | 'HardSwish' | 'HardSigmoid';
  readonly nodes: readonly Node[];
}

/**
 * The activation function of several nodes that begins at this node:
 * - Silu: x * Sigmoid(x)
 * - HardSwish: x * HardSigmoid(x) with slope 1/6 and offset 1/2, or x * Clip(x + 3, 0, 6) / 6 with the division on either side
 * - HardSigmoid: Clip(x + 3, 0, 6) / 6
 *
 * Nodes in between must have no other reader. Null where none begins here.
 */
export function matchActivation(
  start: Node,
  index: GraphIndex,
  initializers: ReadonlyMap<string, Tensor>,
): ActivationMatch | null {
  if (start.domain !== '') return null;
  const x = start.inputs.find((input) => !initializers.has(input)) ?? '';
  if (start.op === 'Sigmoid' || (start.op === 'HardSigmoid' && isStandardHardSigmoid(start))) {
    const product = timesInput(start, x, index);
    return product && { op: start.op === 'Sigmoid' ? 'Silu' : 'HardSwish', nodes: [start, product] };
  }
  return start.op === 'Add' ? matchClippedSum(start, x, index, initializers) : null;
}

function matchClippedSum(
  add: Node,
  x: string,
  index: GraphIndex,
  initializers: ReadonlyMap<string, Tensor>,
): ActivationMatch | null {
  const isConstant = (name: string | undefined, expected: number): boolean => scalarOf(name, initializers) === expected;
  const clip = add.inputs.some((input) => isConstant(input, 3)) ? next(add, index) : null;
  const isRelu6 = clip?.op === 'Clip' && isConstant(clip.inputs[1], 0) && isConstant(clip.inputs[2], 6);
  if (
    !isRelu6 &&
    !(clip?.op === 'Clip' && floatAttribute(clip, 'min', -1) === 0 && floatAttribute(clip, 'max', -1) === 6)
  ) {
    return null;
  }
  const dividesBySix = (node: Node | null): node is Node =>
    (node?.op === 'Div' && isConstant(node.inputs[1], 6)) ||
    // 1/6 as float32.
    (node?.op === 'Mul' && node.inputs.some((input) => isConstant(input, Math.fround(1 / 6))));

  const after = next(clip, index);
  if (dividesBySix(after)) {
    const product = timesInput(after, x, index);
    return product === null
      ? { op: 'HardSigmoid', nodes: [add, clip, after] }
      : { op: 'HardSwish', nodes: [add, clip, after, product] };
  }
  const product = timesInput(clip, x, index);
  const last = product && next(product, index);
  return product && dividesBySix(last) ? { op: 'HardSwish', nodes: [add, clip, product, last] } : null;
}

function isStandardHardSigmoid(node: Node): boolean {
  const slope = floatAttribute(node, 'alpha', Math.fround(0.2));
  return Math.abs(slope - 1 / 6) < 1e-6 && floatAttribute(node, 'beta', 0.5) === 0.5;
}

/** The only reader of a node's result. */
function next(node: Node, index: GraphIndex): Node | null {
  const reader = node.outputs[0] ? soleConsumer(index, node.outputs[0]) : null;
  return reader?.domain === '' ? reader : null;
}

/** The Mul of a node's result with `x`, if that is all the result is for. */
function timesInput(node: Node, x: string, index: GraphIndex): Node | null {
  const reader = next(node, index);
  const [a, b] = reader?.inputs ?? [];
  const result = node.outputs[0];
  return reader?.op === 'Mul' && ((a === x && b === result) || (a === result && b === x)) ? reader : null;
}

function scalarOf(name: string | undefined, initializers: ReadonlyMap<string, Tensor>): number | null {
  const tensor = name === undefined ? undefined : initializers.get(name);
  if (tensor?.type !== 'float32' || tensor.bytes.length !== 4) return null;
  return readFloats(tensor)[0] ?? null;
}
