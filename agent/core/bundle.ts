/**
 * Micro-models for profiling on ONNX Runtime: every operator to be timed becomes a branch of one model, so that one run executes
 * each of them once, in turn. That interleaves the candidates by construction and leaves the caches as an ordinary run would:
 * warm input (a layout or quantize node has just written it), weights evicted by the other branches.
 */
import type { Precision, Range } from '../../configs/contracts/plan.js';
import type { Model, Node, Operator, Shapes, Tensor } from './onnx/model.js';
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

/**
 * Micro-models of several operators side by side in one float model that runs as it is; `bundleAt` writes it at a precision.
 */
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
export function buildBundle(items: readonly BundleItem[]): Bundle {
  return new BundleBuilder().build(items);
}

class BundleBuilder {
  readonly #initializers = new Map<string, Tensor>();
  readonly #inputs = new Map<string, readonly number[]>();
  readonly #ranges = new Map<string, Range>();
  /** Untimed convolutions around operators without weights, by output. */
  readonly #neighbours = new Map<string, Operator>();

  build(items: readonly BundleItem[]): Bundle {
    const branches = items.map((item, index) => this.#branch(item, index));
    const feeders = [...this.#neighbours.values()];
    const ends = branches.flatMap(({ operator, outputs }) =>
      outputs.map(({ name, dims }) => ({
        name: operator.weight === null && dims.length === 4 ? this.#convolved(name, dims) : name,
        rank: dims.length,
      })),
    );
    const followers = [...this.#neighbours.values()].slice(feeders.length);
    const taps = ends.map(({ name, rank }) => this.#tap(name, rank));
    const operators = [...feeders, ...branches.map(({ operator }) => operator), ...followers, ...taps];
    const value = (name: string, shape: readonly number[] | null) => ({ name, type: 'float32' as const, shape });
    return {
      model: {
        irVersion: 8,
        opsets: items[0]?.model.opsets ?? new Map([['', 13]]),
        producer: 'quantd',
        metadata: new Map(),
        graph: {
          name: 'bundle',
          nodes: operators.flatMap((operator) => operator.nodes),
          initializers: this.#initializers,
          inputs: [...this.#inputs].map(([name, shape]) => value(name, shape)),
          outputs: taps.map((tap) => value(tap.outputs[0]!, null)),
          valueInfo: new Map(),
        },
      },
      inputs: [...this.#inputs].map(([name, dims]) => ({ name, dims })),
      operators,
      ranges: this.#ranges,
    };
  }

  #branch(
    { operator, model, shapes }: BundleItem,
    index: number,
  ): { operator: Operator; outputs: { name: string; dims: readonly number[] }[] } {
    const tag = branchTag(index);
    const rename = this.#inputsOf(operator, shapes);
    const nameIn = (name: string) => (name === '' ? '' : (rename.get(name) ?? `${tag}${name}`));
    for (const name of operator.nodes.flatMap((node) => node.inputs)) {
      const tensor = model.graph.initializers.get(name);
      if (tensor !== undefined) this.#initializers.set(nameIn(name), standIn(nameIn(name), tensor, index));
    }
    const nodes = operator.nodes.map((node) => ({
      ...node,
      name: `${tag}${node.name}`,
      inputs: node.inputs.map(nameIn),
      outputs: node.outputs.map(nameIn),
    }));
    const outputs = operator.outputs.map((name) => ({ name: nameIn(name), dims: shapes.get(name)! }));
    for (const { name } of outputs) this.#ranges.set(name, rangeAfter(operator));
    const branch: Operator = {
      ...operator,
      name: nodes[0]!.name,
      nodes,
      inputs: operator.inputs.map(nameIn),
      outputs: outputs.map(({ name }) => name),
      weight: operator.weight === null ? null : { ...operator.weight, name: nameIn(operator.weight.name) },
      bias: operator.bias === null ? null : nameIn(operator.bias),
    };
    return { operator: branch, outputs };
  }

  /** Graph inputs, shared by shape; operators without weights read images behind a convolution. */
  #inputsOf(operator: Operator, shapes: Shapes): Map<string, string> {
    const rename = new Map<string, string>();
    const occurrences = new Map<string, number>();
    for (const name of operator.inputs) {
      const dims = shapes.get(name)!;
      const shape = dims.join('x');
      const occurrence = occurrences.get(shape) ?? 0;
      occurrences.set(shape, occurrence + 1);
      const input = `in${occurrence}_${shape}`;
      this.#inputs.set(input, dims);
      this.#ranges.set(input, { minimum: -1, maximum: 1 });
      rename.set(name, operator.weight === null && dims.length === 4 ? this.#convolved(input, dims) : input);
    }
    return rename;
  }

  /**
   * The tensor behind a depthwise 1x1 convolution that is not timed. Operators without weights are put between two of them: that
   * leaves images in the layout that convolutions use at this precision, which is what pools, concatenations and the like find
   * in a real model, and what decides which of their kernels runs.
   */
  #convolved(input: string, dims: readonly number[]): string {
    const output = `${input}_conv`;
    if (this.#neighbours.has(output)) return output;
    const channels = dims[1]!;
    const values = new Float32Array(channels).fill(0.9);
    const weight = makeTensor(`${output}_weight`, 'float32', [channels, 1, 1, 1], values);
    this.#initializers.set(weight.name, weight);
    this.#ranges.set(output, { minimum: -1, maximum: 1 });
    const node: Node = {
      name: `${output.replaceAll('~', '_')}_node`,
      op: 'Conv',
      domain: '',
      inputs: [input, weight.name],
      outputs: [output],
      attributes: new Map([['group', { kind: 'int', value: channels }]]),
    };
    const operator = untimed(node, [input]);
    this.#neighbours.set(output, { ...operator, kind: 'weighted', weight: { name: weight.name, channelAxis: 0 } });
    return output;
  }

  /** Keeps one element of a branch's output, so that the branch is not dead code and nothing big is copied out. */
  #tap(name: string, rank: number): Operator {
    const vector = (suffix: string, value: bigint) => {
      const tensor = makeTensor(`tap_${suffix}_${rank}`, 'int64', [rank], new BigInt64Array(rank).fill(value));
      this.#initializers.set(tensor.name, tensor);
      return tensor.name;
    };
    const inputs = rank === 0 ? [name] : [name, vector('starts', 0n), vector('ends', 1n)];
    const op = rank === 0 ? 'Identity' : 'Slice';
    const outputs = [`tap_${name.replaceAll('~', '_')}`];
    return untimed({ name: `${outputs[0]}_node`, op, domain: '', inputs, outputs, attributes: new Map() }, [name]);
  }
}

/** A helper of the bundle as an operator of one node. */
function untimed(node: Node, inputs: readonly string[]): Operator {
  const none = { clamp: null, weight: null, bias: null, macs: 0, parameters: 0 };
  return {
    ...none,
    name: node.name,
    op: node.op,
    nodes: [node],
    inputs,
    outputs: node.outputs,
    kind: 'float',
    key: node.name,
  };
}

/**
 * Range of a branch's output: another one than its inputs', as in real models. Where ranges are equal, a concatenation of codes
 * is a mere copy, several times as fast as the translation from one scale to the other that it nearly always is.
 */
function rangeAfter(operator: Operator): Range {
  return operator.clamp === null
    ? { minimum: -1.25, maximum: 1.25 }
    : { minimum: 0, maximum: Math.min(6, operator.clamp[1]) };
}

/** The bundle at one precision, written by the same code that writes artifacts. The convolutions around it follow its format. */
export function bundleAt(bundle: Bundle, precision: Precision): Model {
  if (formatPrecision(precision) === 'float') return bundle.model;
  const follows = (operator: Operator) =>
    operator.weight !== null && branchOf(operator.name) === null && precision.activationBits === 8;
  const changed = bundle.operators.filter((operator) => branchOf(operator.name) !== null || follows(operator));
  const precisions = new Map(changed.map((operator) => [operator.name, precision]));
  return emitQdq(bundle.model, bundle.operators, precisions, bundle.ranges, { variant: 'ort' });
}

/** A tensor of the same shape: random weights instead of the model's, integers (shapes, axes) as they are. */
function standIn(name: string, tensor: Tensor, seed: number): Tensor {
  if (tensor.type !== 'float32' || tensor.dims.reduce((a, b) => a * b, 1) < 16) return { ...tensor, name };
  const random = xorshift32(seed + 1);
  const values = Float32Array.from({ length: tensor.dims.reduce((a, b) => a * b, 1) }, () => random() * 0.1 - 0.05);
  return makeTensor(name, 'float32', tensor.dims, values);
}
