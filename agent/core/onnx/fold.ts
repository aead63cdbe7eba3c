import { floatAttribute, intAttribute, stringAttribute } from './attributes.js';
import { absorbAffine, type BatchNormStatistics, type FoldedNode } from './fold-affine.js';
import { pruneUnused, redirectReads } from './graph.js';
import type { Graph, Model, Node, Shapes, Tensor } from './model.js';
import { padAmounts } from './shape-rules.js';
import { propagate } from './shapes.js';
import { readInts } from './tensor.js';

export type { BatchNormStatistics, FoldedNode } from './fold-affine.js';

/** The folded model, and what was folded. */
export interface FoldResult {
  readonly model: Model;
  readonly report: { readonly folded: readonly FoldedNode[] };
  /** Statistics of every BatchNormalization that was folded, by the tensor that was its output. */
  readonly batchNorms: readonly BatchNormStatistics[];
}

/** Elements of weights that may be rearranged while folding constants; larger models keep such nodes. */
const constantLimit = { perNode: Number.POSITIVE_INFINITY, total: 2 ** 25 };

/**
 * An equivalent model with fewer nodes, for batch 1 and the input shapes given:
 * - nodes with constant inputs become initializers, shapes computed from the input's shape included;
 * - Identity and Dropout disappear;
 * - a Pad with zeros in front of a Conv becomes pads of the Conv;
 * - BatchNormalization, and Add, Sub, Mul, Div with constants per channel, merge into the Conv, ConvTranspose or Gemm before
 *   them; a BatchNormalization with none before it becomes a depthwise 1x1 Conv (rank 3 and more) or Mul and Add (rank 2), so
 *   that every plan can treat it; a MatMul with bias becomes a Gemm; Gemm factors go into its weights;
 * - initializers lose their place among the graph inputs, and what no output needs is dropped.
 *
 * Tensor names that remain mean what they meant. Weights of other types than float32 are left alone.
 *
 * @param inputShapes as for inferShapes; computed shapes that depend on an input of unknown shape stay computed
 */
export function fold(model: Model, inputShapes?: ReadonlyMap<string, readonly number[]>): FoldResult {
  const folded: FoldedNode[] = [];
  let graph: Graph = {
    ...model.graph,
    inputs: model.graph.inputs.filter((input) => !model.graph.initializers.has(input.name)),
  };
  const { shapes, constants } = propagate({ ...model, graph }, inputShapes, constantLimit);
  graph = foldConstants(graph, shapes, constants, folded);
  graph = removeIdentities(graph, folded);
  graph = mergePads(graph, shapes, model.opsets.get('') ?? 0, folded);
  const absorbed = absorbAffine(graph, shapes, folded);
  graph = pruneUnused(absorbed.graph);
  const made = new Set(graph.nodes.flatMap((node) => node.outputs));
  return {
    model: { ...model, graph },
    report: { folded },
    batchNorms: absorbed.batchNorms.filter(({ tensor }) => made.has(tensor)),
  };
}

function foldConstants(
  graph: Graph,
  shapes: Shapes,
  constants: ReadonlyMap<string, Tensor>,
  folded: FoldedNode[],
): Graph {
  const initializers = new Map(graph.initializers);
  const outputs = new Set(graph.outputs.map((output) => output.name));
  const nodes: Node[] = [];
  for (const node of graph.nodes) {
    const values = node.outputs.filter((output) => output !== '').map((output) => constants.get(output));
    const isConstant = values.every((value): value is Tensor => value !== undefined && !outputs.has(value.name));
    if (isConstant) {
      for (const value of values) initializers.set(value.name, value);
      folded.push({ node: node.name, op: node.op, into: null });
    } else {
      nodes.push(keepBatchOpen(node, shapes, constants, initializers));
    }
  }
  return { ...graph, nodes, initializers };
}

/**
 * A Reshape to a computed shape keeps its first dimension by 0 ("as in the input") where that is what the computation gives, so
 * that the model still runs at other batch sizes.
 */
function keepBatchOpen(
  node: Node,
  shapes: Shapes,
  constants: ReadonlyMap<string, Tensor>,
  initializers: Map<string, Tensor>,
): Node {
  const target = constants.get(node.inputs[1] ?? '');
  const input = shapes.get(node.inputs[0] ?? '');
  if (node.op !== 'Reshape' || node.domain !== '' || target?.type !== 'int64' || input === undefined) return node;
  const dims = readInts(target);
  if (dims.length === 0 || dims[0] !== input[0] || intAttribute(node, 'allowzero', 0) !== 0) return node;
  const name = `${target.name}_batch_open`;
  const values = BigInt64Array.from([0, ...dims.slice(1)], BigInt);
  initializers.set(name, { ...target, name, bytes: new Uint8Array(values.buffer) });
  return { ...node, inputs: [node.inputs[0]!, name] };
}

function removeIdentities(graph: Graph, folded: FoldedNode[]): Graph {
  const graphOutputs = new Set(graph.outputs.map((output) => output.name));
  const captured = new Set(graph.nodes.flatMap((node) => node.captures ?? []));
  const readers = new Set(graph.nodes.flatMap((node) => node.inputs));
  const renames = new Map<string, string>();
  const nodes: Node[] = [];
  const makers = new Map<string, number>();
  for (const node of graph.nodes) {
    const source = renames.get(node.inputs[0] ?? '') ?? node.inputs[0] ?? '';
    const result = node.outputs[0] ?? '';
    const isUnused = (name: string): boolean => !readers.has(name) && !graphOutputs.has(name) && !captured.has(name);
    const isRemovable =
      passesThrough(node, graph.initializers) && !captured.has(result) && node.outputs.slice(1).every(isUnused);
    const maker = makers.get(source);
    if (isRemovable && !graphOutputs.has(result)) {
      renames.set(result, source);
    } else if (isRemovable && maker !== undefined && !graphOutputs.has(source) && !captured.has(source)) {
      // A graph output keeps its name, so its maker takes it over.
      const made = nodes[maker]!;
      nodes[maker] = { ...made, outputs: made.outputs.map((output) => (output === source ? result : output)) };
      makers.set(result, maker);
      renames.set(source, result);
    } else {
      for (const output of node.outputs) makers.set(output, nodes.length);
      nodes.push(node);
      continue;
    }
    folded.push({ node: node.name, op: node.op, into: null });
  }
  return redirectReads({ ...graph, nodes }, renames);
}

function passesThrough(node: Node, initializers: ReadonlyMap<string, Tensor>): boolean {
  if (node.domain !== '' || !node.inputs[0] || !node.outputs[0]) return false;
  if (node.op === 'Identity') return true;
  if (node.op !== 'Dropout') return false;
  const training = node.inputs[2];
  return !training || initializers.get(training)?.bytes[0] === 0;
}

/** Moves the zeros that a Pad node adds around the spatial axes into the Conv behind it. */
function mergePads(graph: Graph, shapes: Shapes, opset: number, folded: FoldedNode[]): Graph {
  const readCount = new Map<string, number>();
  for (const name of graph.nodes.flatMap((node) => [...node.inputs, ...(node.captures ?? [])])) {
    readCount.set(name, (readCount.get(name) ?? 0) + 1);
  }
  for (const { name } of graph.outputs) readCount.set(name, (readCount.get(name) ?? 0) + 1);

  const mergeable = new Map<string, { pad: Node; amounts: readonly number[] }>();
  for (const node of graph.nodes) {
    const output = node.outputs[0] ?? '';
    const amounts = node.op === 'Pad' && readCount.get(output) === 1 ? zeroPads(node, graph, shapes, opset) : null;
    if (amounts !== null) mergeable.set(output, { pad: node, amounts });
  }
  const removed = new Set<Node>();
  const nodes = graph.nodes.map((node) => {
    const merge = mergeable.get(node.inputs[0] ?? '');
    const mode = stringAttribute(node, 'auto_pad', 'NOTSET');
    if (merge === undefined || node.op !== 'Conv' || node.domain !== '' || !['NOTSET', 'VALID', ''].includes(mode))
      return node;
    const { pad, amounts } = merge;
    const rank = amounts.length / 2;
    const spatial = [...amounts.slice(2, rank), ...amounts.slice(rank + 2)];
    const own = node.attributes.get('pads');
    const before = own?.kind === 'ints' && mode !== 'VALID' ? own.value : spatial.map(() => 0);
    if (before.length !== spatial.length) return node;
    removed.add(pad);
    folded.push({ node: pad.name, op: 'Pad', into: node.name });
    const attributes = new Map(node.attributes);
    attributes.delete('auto_pad');
    attributes.set('pads', { kind: 'ints', value: spatial.map((amount, side) => amount + before[side]!) });
    return { ...node, inputs: [pad.inputs[0]!, ...node.inputs.slice(1)], attributes };
  });
  return { ...graph, nodes: nodes.filter((node) => !removed.has(node)) };
}

/** Amounts of a Pad node that adds nothing but zeros, and only around the spatial axes; else null. */
function zeroPads(node: Node, graph: Graph, shapes: Shapes, opset: number): readonly number[] | null {
  const input = shapes.get(node.inputs[0] ?? '');
  const constants = node.inputs.slice(1).map((name) => graph.initializers.get(name));
  if (node.domain !== '' || input === undefined || input.length < 3) return null;
  if (stringAttribute(node, 'mode', 'constant') !== 'constant' || floatAttribute(node, 'value', 0) !== 0) return null;
  if (node.inputs.slice(1).some((name, position) => name !== '' && constants[position] === undefined)) return null;
  if (constants[1]?.bytes.some((byte) => byte !== 0)) return null;
  const amounts = padAmounts({
    node,
    opset,
    shape: () => input,
    hasInput: (position) => (node.inputs[position] ?? '') !== '',
    values: (position) => {
      const tensor = constants[position - 1];
      return tensor === undefined ? null : readInts(tensor);
    },
  });
  const rank = input.length;
  const isSpatial = amounts.every((amount, side) => amount === 0 || (amount > 0 && side % rank >= 2));
  return isSpatial ? amounts : null;
}
