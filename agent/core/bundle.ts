/**
 * Micro-models for profiling on ONNX Runtime: every operator to be timed becomes a branch of one model, so that one run executes
 * each of them once, in turn. That interleaves the candidates by construction and leaves the caches as an ordinary run would:
 * warm input (a layout or quantize node has just written it), weights evicted by the other branches.
 */
import type { Precision, Range } from '../../configs/contracts/plan.js';
import type { AttributeValue, Model, Node, Operator, Shapes, Tensor } from './onnx/model.js';
import { makeTensor } from './onnx/tensor.js';
import { formatPrecision } from './precision.js';
import { emitQdq } from './quant/qdq.js';
import { xorshift32 } from './random.js';

/** An operator of a folded model, with what is needed to rebuild it alone. */
export interface BundleItem {
  readonly operator: Operator;
  readonly model: Model;
  readonly shapes: Shapes;
}

export interface Bundle {
  readonly model: Model;
  readonly inputs: readonly { readonly name: string; readonly dims: readonly number[] }[];
  /** In the order of the items; the names of everything that belongs to item n contain `branchTag(n)`. */
  readonly operators: readonly Operator[];
  readonly ranges: ReadonlyMap<string, Range>;
}

/** Marks every node and tensor name of a branch; survives the runtime's renaming, which only appends. */
export function branchTag(index: number): string {
  return `k${index}~`;
}

const branchPattern = /k(\d+)~/;

/** Index of the branch that a profiled node belongs to, or null for the runtime's own layout nodes. */
export function branchOf(nodeName: string): number | null {
  const match = branchPattern.exec(nodeName);
  return match === null ? null : Number(match[1]);
}

/** Bytes of activations and weights that an item's branch holds while it runs. */
export function itemBytes({ operator, model, shapes }: BundleItem): number {
  const count = (dims: readonly number[] | undefined) => (dims ?? []).reduce((a, b) => a * b, 1);
  const activations = [...operator.inputs, ...operator.outputs].reduce((sum, name) => sum + count(shapes.get(name)), 0);
  const weights = operator.weight === null ? 0 : count(model.graph.initializers.get(operator.weight.name)?.dims);
  return 4 * (activations + weights);
}

/** Builds the float model of all branches. Weights are random: timing of dense kernels does not depend on values. */
export function buildBundle(items: readonly BundleItem[], opset: number): Bundle {
  const nodes: Node[] = [];
  const initializers = new Map<string, Tensor>();
  const inputs = new Map<string, readonly number[]>();
  const outputs: { name: string; rank: number }[] = [];
  const ranges = new Map<string, Range>();
  const operators = items.map((item, index) => {
    const tag = branchTag(index);
    const { operator, model, shapes } = item;
    const rename = new Map<string, string>();
    const occurrences = new Map<string, number>();
    for (const name of operator.inputs) {
      const dims = shapes.get(name)!;
      const shape = dims.join('x');
      const occurrence = occurrences.get(shape) ?? 0;
      occurrences.set(shape, occurrence + 1);
      const shared = `in${occurrence}_${shape}`;
      inputs.set(shared, dims);
      rename.set(name, shared);
      ranges.set(shared, { minimum: -1, maximum: 1 });
    }
    const nameIn = (name: string) => (name === '' ? '' : (rename.get(name) ?? `${tag}${name}`));
    for (const node of operator.nodes) {
      for (const name of node.inputs) {
        const tensor = model.graph.initializers.get(name);
        if (tensor !== undefined) initializers.set(nameIn(name), standIn(nameIn(name), tensor, index));
      }
    }
    const branchNodes = operator.nodes.map((node) => ({
      ...node,
      name: `${tag}${node.name}`,
      inputs: node.inputs.map(nameIn),
      outputs: node.outputs.map(nameIn),
    }));
    nodes.push(...branchNodes);
    for (const name of operator.outputs) {
      ranges.set(nameIn(name), operator.clamp === null ? { minimum: -1, maximum: 1 } : { minimum: 0, maximum: Math.min(6, operator.clamp[1]) });
      outputs.push({ name: nameIn(name), rank: shapes.get(name)!.length });
    }
    return {
      ...operator,
      name: branchNodes[0]!.name,
      nodes: branchNodes,
      inputs: operator.inputs.map(nameIn),
      outputs: operator.outputs.map(nameIn),
      weight: operator.weight === null ? null : { ...operator.weight, name: nameIn(operator.weight.name) },
      bias: operator.bias === null ? null : nameIn(operator.bias),
    };
  });
  const taps = outputs.flatMap(({ name, rank }, index) => tap(name, rank, index, initializers));
  const tapOperators = taps.map((node) => tapOperator(node));
  const float32 = 'float32' as const;
  return {
    model: {
      irVersion: 8,
      opsets: new Map([['', opset]]),
      producer: 'quantd',
      metadata: new Map(),
      graph: {
        name: 'bundle',
        nodes: [...nodes, ...taps],
        initializers,
        inputs: [...inputs].map(([name, shape]) => ({ name, type: float32, shape })),
        outputs: taps.map((node) => ({ name: node.outputs[0]!, type: float32, shape: null })),
        valueInfo: new Map(),
      },
    },
    inputs: [...inputs].map(([name, dims]) => ({ name, dims })),
    operators: [...operators, ...tapOperators],
    ranges,
  };
}

/** The bundle at one precision, written by the same code that writes artifacts. */
export function bundleAt(bundle: Bundle, precision: Precision): Model {
  if (formatPrecision(precision) === 'float') return bundle.model;
  const timed = bundle.operators.filter((operator) => branchOf(operator.name) !== null);
  const precisions = new Map(timed.map((operator) => [operator.name, precision]));
  return emitQdq(bundle.model, bundle.operators, precisions, bundle.ranges, { variant: 'ort' });
}

/** Keeps one element of a branch's output, so that the branch is not dead code and nothing big is copied out. */
function tap(name: string, rank: number, index: number, initializers: Map<string, Tensor>): Node[] {
  if (rank === 0) return [];
  const vector = (suffix: string, value: bigint) => {
    const tensor = makeTensor(`tap_${suffix}_${rank}`, 'int64', [rank], new BigInt64Array(rank).fill(value));
    initializers.set(tensor.name, tensor);
    return tensor.name;
  };
  const attributes: ReadonlyMap<string, AttributeValue> = new Map();
  const inputs = [name, vector('starts', 0n), vector('ends', 1n)];
  return [{ name: `tap${index}`, op: 'Slice', domain: '', inputs, outputs: [`tap${index}_out`], attributes }];
}

function tapOperator(node: Node): Operator {
  return {
    name: node.name, op: 'Slice', nodes: [node], clamp: null, inputs: [node.inputs[0]!], outputs: node.outputs,
    weight: null, bias: null, kind: 'float', macs: 0, parameters: 0, key: 'tap',
  };
}

/** A tensor of the same shape: random weights instead of the model's, integers (shapes, axes) as they are. */
function standIn(name: string, tensor: Tensor, seed: number): Tensor {
  if (tensor.type !== 'float32' || tensor.dims.reduce((a, b) => a * b, 1) < 16) return { ...tensor, name };
  const random = xorshift32(seed + 1);
  const values = Float32Array.from({ length: tensor.dims.reduce((a, b) => a * b, 1) }, () => random() * 0.1 - 0.05);
  return makeTensor(name, 'float32', tensor.dims, values);
}
