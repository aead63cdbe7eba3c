import { floatAttribute, intAttribute } from './attributes.js';
import { type GraphIndex, indexGraph, reads, soleConsumer } from './graph.js';
import type { ElementType, Model, Node, Operator, Shapes, Tensor } from './model.js';
import { operatorKey } from './operator-key.js';
import { operatorRow } from './operator-table.js';
import { matchActivation } from './patterns.js';
import { readFloats } from './tensor.js';
import { elementTypes } from './types.js';

const weightedOperators = new Set(['Conv', 'ConvTranspose', 'Gemm', 'MatMul']);
const floatTypes: ReadonlySet<ElementType | undefined> = new Set<ElementType>([
  'float32',
  'float16',
  'float64',
  'bfloat16',
]);

/**
 * Cuts the nodes of a model into operators, ordered by their first nodes; each activation that an operator reads is made by an
 * earlier operator. Meant for folded models, correct for any. Operators that the registry does not know, that compute on other
 * than float tensors, or whose shapes are unknown, have the kind 'float'.
 *
 * @param shapes as inferShapes answers for this model
 */
export function listOperators(model: Model, shapes: Shapes): Operator[] {
  const context: PartitionContext = { model, shapes, index: indexGraph(model.graph), types: elementTypes(model) };
  const taken = new Set<Node>();
  const operators: Operator[] = [];
  for (const node of model.graph.nodes) {
    if (taken.has(node)) continue;
    const draft = draftOperator(node, context);
    for (const each of draft.nodes) taken.add(each);
    operators.push(finish(draft, context));
  }
  return operators;
}

interface PartitionContext {
  readonly model: Model;
  readonly shapes: Shapes;
  readonly index: GraphIndex;
  readonly types: ReadonlyMap<string, ElementType>;
}

/** An operator while nodes are still being added at its end. */
interface Draft {
  op: string;
  nodes: Node[];
  clamp: readonly [number, number] | null;
  weight: Operator['weight'];
  bias: string | null;
}

function draftOperator(node: Node, context: PartitionContext): Draft {
  const pattern = matchActivation(node, context.index, context.model.graph.initializers);
  if (pattern !== null) return { op: pattern.op, nodes: [...pattern.nodes], clamp: null, weight: null, bias: null };

  const weight = weightOf(node, context);
  const draft: Draft = { op: node.op, nodes: [node], clamp: clampBounds(node, context), weight, bias: null };
  if (weight !== null) {
    draft.bias = biasInput(node);
    if (draft.bias === null) addBias(draft, context);
  }
  if (operatorRow(node)?.fusesClamp) addClamp(draft, context);
  return draft;
}

/** The constant weight of a node that multiplies by one, if its bias is of the usual form too. */
function weightOf(node: Node, { model, shapes }: PartitionContext): Operator['weight'] {
  const name = node.inputs[1] ?? '';
  const tensor = model.graph.initializers.get(name);
  const isWeighted =
    node.domain === '' && weightedOperators.has(node.op) && tensor !== undefined && floatTypes.has(tensor.type);
  if (!isWeighted || model.graph.initializers.has(node.inputs[0]!)) return null;
  if (node.op === 'MatMul') return tensor.dims.length === 2 ? { name, channelAxis: 1 } : null;

  const bias = biasInput(node);
  const channels = shapes.get(node.outputs[0] ?? '')?.[1];
  const hasPlainBias =
    bias === null || (model.graph.initializers.has(bias) && shapes.get(bias)?.join() === String(channels));
  if (!hasPlainBias) return null;
  if (node.op === 'Conv') return { name, channelAxis: 0 };
  if (node.op === 'ConvTranspose') return { name, channelAxis: 1 };
  const isPlain = ['alpha', 'beta'].every((factor) => floatAttribute(node, factor, 1) === 1);
  if (!isPlain || intAttribute(node, 'transA', 0) !== 0) return null;
  return { name, channelAxis: intAttribute(node, 'transB', 0) === 0 ? 1 : 0 };
}

function biasInput(node: Node): string | null {
  return node.op === 'MatMul' ? null : node.inputs[2] || null;
}

/** A following Add of one constant per output channel is the bias of a MatMul. (Those of Conv and Gemm are folded.) */
function addBias(draft: Draft, { index, model, shapes }: PartitionContext): void {
  const [node] = draft.nodes;
  const output = node!.outputs[0]!;
  const add = soleConsumer(index, output);
  if (node!.op !== 'MatMul' || add?.op !== 'Add' || add.domain !== '') return;
  const other = add.inputs.find((input) => input !== output) ?? '';
  const tensor = model.graph.initializers.get(other);
  if (tensor?.dims.length !== 1 || tensor.dims[0] !== shapes.get(output)?.at(-1)) return;
  draft.nodes.push(add);
  draft.bias = other;
}

/** Takes in a following Relu or Clip. */
function addClamp(draft: Draft, context: PartitionContext): void {
  const output = draft.nodes[draft.nodes.length - 1]!.outputs[0];
  const next = output ? soleConsumer(context.index, output) : null;
  if (next === null || next.inputs[0] !== output) return;
  const bounds = clampBounds(next, context);
  if (bounds === null) return;
  draft.nodes.push(next);
  draft.clamp = bounds;
}

/** Bounds of a Relu, or of a Clip with constant ones; null for every other node. */
function clampBounds(node: Node, { model }: PartitionContext): readonly [number, number] | null {
  if (node.domain !== '') return null;
  if (node.op === 'Relu') return [0, Number.POSITIVE_INFINITY];
  if (node.op !== 'Clip') return null;
  const bound = (name: string, input: number, absent: number): number | null => {
    // Bounds were attributes before opset 11.
    if (node.attributes.has(name)) return floatAttribute(node, name, absent);
    if (!node.inputs[input]) return absent;
    const tensor = model.graph.initializers.get(node.inputs[input]);
    return tensor !== undefined && floatTypes.has(tensor.type) ? (readFloats(tensor)[0] ?? null) : null;
  };
  const low = bound('min', 1, Number.NEGATIVE_INFINITY);
  const high = bound('max', 2, Number.POSITIVE_INFINITY);
  return low === null || high === null ? null : [low, high];
}

function finish(draft: Draft, context: PartitionContext): Operator {
  const { model, shapes, index } = context;
  const { nodes, op, clamp, weight, bias } = draft;
  const { initializers } = model.graph;
  const first = nodes[0]!;
  const made = new Set(nodes.flatMap((node) => node.outputs));
  const read = [...new Set(nodes.flatMap(reads))].filter((name) => !made.has(name));
  const inputs = read.filter((name) => !initializers.has(name));
  const constants = read.flatMap((name) => initializers.get(name) ?? []);
  // Outputs that nothing reads (indices of a MaxPool, mask of a Dropout) are not asked for.
  const isRead = (name: string): boolean => index.consumers.has(name) || index.outputs.has(name);
  const last = nodes[nodes.length - 1]!;
  const outputs = last.outputs.filter((name, position) => name !== '' && (position === 0 || isRead(name)));
  return {
    name: first.name,
    op,
    nodes,
    clamp,
    inputs,
    outputs,
    weight,
    bias,
    kind: kindOf(draft, inputs, outputs, context),
    macs: macsOf(first, shapes),
    parameters: constants
      .filter((tensor) => floatTypes.has(tensor.type))
      .reduce((sum, tensor) => sum + elements(tensor), 0),
    key: operatorKey({ op, nodes, clamp, inputs, outputs }, initializers, shapes),
  };
}

function kindOf(
  draft: Draft,
  inputs: readonly string[],
  outputs: readonly string[],
  context: PartitionContext,
): Operator['kind'] {
  const { model, shapes, types } = context;
  const isPlain = [...inputs, ...outputs].every((name) => floatTypes.has(types.get(name)) && shapes.has(name));
  if (!isPlain || inputs.length === 0) return 'float';
  if (draft.nodes.length > 1 && draft.weight === null && draft.op !== draft.nodes[0]!.op) return 'arithmetic';
  const [first] = draft.nodes;
  const kind =
    operatorRow(first!)?.kind(
      first!,
      first!.inputs.map((input) => model.graph.initializers.get(input)),
    ) ?? 'float';
  if (kind === 'weighted') return draft.weight === null ? 'arithmetic' : 'weighted';
  return kind;
}

function macsOf(node: Node, shapes: Shapes): number {
  const output = shapes.get(node.outputs[0] ?? '');
  const inputs = node.inputs.map((input) => shapes.get(input));
  const isKnown = (list: readonly (readonly number[] | undefined)[]): list is readonly (readonly number[])[] =>
    list.slice(0, 2).every((shape) => shape !== undefined);
  return output !== undefined && isKnown(inputs) ? (operatorRow(node)?.macs?.(node, inputs, output) ?? 0) : 0;
}

function elements(tensor: Tensor): number {
  return tensor.dims.reduce((a, b) => a * b, 1);
}
