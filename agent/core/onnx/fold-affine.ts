import { floatAttribute, intAttribute } from './attributes.js';
import { reads } from './graph.js';
import type { Graph, Node, Shapes, Tensor } from './model.js';
import { makeTensor, readFloats } from './tensor.js';

/** One node that folding took out of the graph. */
export interface FoldedNode {
  readonly node: string;
  readonly op: string;
  /** Node that now does its work; null where it became a constant or did nothing. */
  readonly into: string | null;
}

/**
 * What a BatchNormalization knew about its tensors, one value per channel. Its output has mean `beta` and standard deviation
 * |gamma| on the training data; its input had `mean` and `variance`. Kept for calibration without data.
 */
export interface BatchNormStatistics {
  /** Tensor that holds the normalized values now. */
  readonly tensor: string;
  readonly mean: Float32Array;
  readonly variance: Float32Array;
  readonly gamma: Float32Array;
  readonly beta: Float32Array;
}

/** y = scale * x + offset, per channel, in double precision; a single value stands for all channels. */
interface Affine {
  readonly scale: Float64Array;
  readonly offset: Float64Array;
}

/** A Conv, ConvTranspose or Gemm with float32 constants. */
interface Linear {
  readonly node: Node;
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  readonly channels: number;
  readonly rank: number;
}

/** Merges per-channel arithmetic into the linear nodes before it; see fold(). */
export function absorbAffine(
  graph: Graph,
  shapes: Shapes,
  folded: FoldedNode[],
): { graph: Graph; batchNorms: BatchNormStatistics[] } {
  const absorber = new Absorber(graph, shapes, folded);
  for (const node of graph.nodes) absorber.add(node);
  return absorber.finish();
}

class Absorber {
  readonly #graph: Graph;
  readonly #shapes: Shapes;
  readonly #folded: FoldedNode[];
  readonly #nodes: Node[] = [];
  readonly #initializers: Map<string, Tensor>;
  /** Position in #nodes of the node that makes a tensor. */
  readonly #makers = new Map<string, number>();
  readonly #nodeNames: Set<string>;
  readonly #readCount = new Map<string, number>();
  readonly #batchNorms = new Map<string, BatchNormStatistics>();
  /** Bytes of new weights we may still make: shared weights that are folded apart must not fill the memory. */
  #bytesLeft: number;

  constructor(graph: Graph, shapes: Shapes, folded: FoldedNode[]) {
    this.#graph = graph;
    this.#shapes = shapes;
    this.#folded = folded;
    this.#initializers = new Map(graph.initializers);
    this.#nodeNames = new Set(graph.nodes.map((node) => node.name));
    for (const name of graph.nodes.flatMap(reads)) this.#readCount.set(name, (this.#readCount.get(name) ?? 0) + 1);
    for (const { name } of graph.outputs) this.#readCount.set(name, (this.#readCount.get(name) ?? 0) + 1);
    this.#bytesLeft =
      2 ** 24 + 4 * [...graph.initializers.values()].reduce((sum, tensor) => sum + tensor.bytes.length, 0);
  }

  add(node: Node): void {
    if (this.#absorb(node)) return;
    const replacement = this.#loneBatchNorm(node) ?? [this.#plainGemm(node)];
    for (const each of replacement) this.#push(each);
  }

  finish(): { graph: Graph; batchNorms: BatchNormStatistics[] } {
    return {
      graph: { ...this.#graph, nodes: this.#nodes, initializers: this.#initializers },
      batchNorms: [...this.#batchNorms.values()],
    };
  }

  #push(node: Node): void {
    for (const output of node.outputs) this.#makers.set(output, this.#nodes.length);
    this.#nodes.push(node);
  }

  /** Merges the node into the linear node that makes its input, if it is per-channel arithmetic on that alone. */
  #absorb(node: Node): boolean {
    const input = node.inputs.find((name) => !this.#initializers.has(name)) ?? '';
    const output = node.outputs[0];
    const position = this.#makers.get(input);
    if (position === undefined || !output || this.#readCount.get(input) !== 1 || !this.#hasOneOutput(node))
      return false;
    const linear = this.#linearOf(this.#nodes[position]!);
    const affine = linear && this.#affineOf(node, input, linear.channels, linear.rank);
    if (!linear || !affine || !this.#spend(linear.weight.bytes.length + 8 * linear.channels)) return false;

    const merged = this.#withAffine(linear, affine, output);
    this.#nodes[position] = merged;
    this.#makers.set(output, position);
    this.#followStatistics(node, input, output, affine);
    this.#folded.push({ node: node.name, op: node.op, into: merged.name });
    return true;
  }

  #hasOneOutput(node: Node): boolean {
    return node.outputs.slice(1).every((name) => name === '' || !this.#readCount.has(name));
  }

  #spend(bytes: number): boolean {
    if (bytes > this.#bytesLeft) return false;
    this.#bytesLeft -= bytes;
    return true;
  }

  #constant(name: string | undefined): Tensor | null {
    const tensor = name ? this.#initializers.get(name) : undefined;
    return tensor?.type === 'float32' ? tensor : null;
  }

  #linearOf(node: Node): Linear | null {
    const weight = this.#constant(node.inputs[1]);
    const biasName = node.inputs[2] ?? '';
    const bias = this.#constant(biasName);
    if (
      node.domain !== '' ||
      weight === null ||
      (biasName !== '' && bias === null) ||
      this.#initializers.has(node.inputs[0]!)
    ) {
      return null;
    }
    const rank = weight.dims.length;
    if (node.op === 'MatMul') {
      const isMatrix = rank === 2 && this.#shapes.get(node.inputs[0]!)?.length === 2;
      return isMatrix ? { node, weight, bias: null, channels: weight.dims[1]!, rank } : null;
    }
    const channels = channelCount(node, weight);
    if (channels === null || (bias !== null && !isChannelVector(bias, channels))) return null;
    return { node, weight, bias, channels, rank };
  }

  /** The node as y = scale * x + offset with x its input `input`, or null. */
  #affineOf(node: Node, input: string, channels: number, rank: number): Affine | null {
    if (node.domain !== '') return null;
    if (node.op === 'BatchNormalization') return this.#normalization(node, channels)?.affine ?? null;
    if (!['Add', 'Sub', 'Mul', 'Div'].includes(node.op) || node.inputs.length !== 2) return null;
    const isLeft = node.inputs[0] === input;
    const operand = this.#constant(isLeft ? node.inputs[1] : node.inputs[0]);
    if (operand === null || !isPerChannel(operand.dims, channels, rank)) return null;
    const values = Float64Array.from(readFloats(operand));
    switch (node.op) {
      case 'Add':
        return { scale: Float64Array.of(1), offset: values };
      case 'Mul':
        return { scale: values, offset: Float64Array.of(0) };
      case 'Sub':
        return isLeft
          ? { scale: Float64Array.of(1), offset: values.map((v) => -v) }
          : { scale: Float64Array.of(-1), offset: values };
      default:
        return isLeft ? { scale: values.map((v) => 1 / v), offset: Float64Array.of(0) } : null;
    }
  }

  /** Inference form of a BatchNormalization whose statistics are constants of `channels` values. */
  #normalization(
    node: Node,
    channels: number,
  ): { affine: Affine; statistics: Omit<BatchNormStatistics, 'tensor'> } | null {
    if (node.op !== 'BatchNormalization' || node.domain !== '' || node.inputs.length < 5) return null;
    if (intAttribute(node, 'training_mode', 0) !== 0 || intAttribute(node, 'spatial', 1) === 0) return null;
    const constants = node.inputs.slice(1, 5).map((name) => this.#constant(name));
    if (!constants.every((tensor): tensor is Tensor => tensor?.dims.length === 1 && tensor.dims[0] === channels))
      return null;
    const [gamma, beta, mean, variance] = constants.map(readFloats) as [
      Float32Array,
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    const epsilon = floatAttribute(node, 'epsilon', 1e-5);
    const scale = Float64Array.from(gamma, (value, channel) => value / Math.sqrt(variance[channel]! + epsilon));
    const offset = Float64Array.from(beta, (value, channel) => value - mean[channel]! * scale[channel]!);
    return { affine: { scale, offset }, statistics: { gamma, beta, mean, variance } };
  }

  /** The linear node followed by the affine function, making tensor `output`. */
  #withAffine(linear: Linear, { scale, offset }: Affine, output: string): Node {
    const { channels } = linear;
    // Both as a MatMul, which has no bias and thus becomes a Gemm, and as a Gemm with factors.
    const node = linear.node.op === 'MatMul' ? { ...linear.node, op: 'Gemm' } : linear.node;
    const alpha = node.op === 'Gemm' ? floatAttribute(node, 'alpha', 1) : 1;
    const beta = node.op === 'Gemm' ? floatAttribute(node, 'beta', 1) : 1;
    const old = linear.bias === null ? Float32Array.of(0) : readFloats(linear.bias);
    const bias = Float32Array.from({ length: channels }, (_, c) => at(scale, c) * beta * at(old, c) + at(offset, c));

    let weightName = linear.weight.name;
    if (alpha !== 1 || scale.some((value) => value !== 1)) {
      const values = scaleChannels(node, linear.weight, (channel) => alpha * at(scale, channel));
      weightName = this.#rename(weightName, `${node.name}_weight`);
      this.#initializers.set(weightName, makeTensor(weightName, 'float32', linear.weight.dims, values));
    }
    const biasName = this.#rename(linear.bias?.name ?? null, `${node.name}_bias`);
    this.#initializers.set(biasName, makeTensor(biasName, 'float32', [channels], bias));
    const attributes = new Map(node.attributes);
    attributes.delete('alpha');
    attributes.delete('beta');
    return { ...node, inputs: [node.inputs[0]!, weightName, biasName], outputs: [output], attributes };
  }

  /** The name for a changed initializer: its own where only one node reads it, otherwise a new one. */
  #rename(name: string | null, wanted: string): string {
    if (name !== null && this.#readCount.get(name) === 1) return name;
    let fresh = wanted;
    const isTaken = (candidate: string): boolean =>
      this.#initializers.has(candidate) || this.#shapes.has(candidate) || this.#readCount.has(candidate);
    for (let suffix = 2; isTaken(fresh); suffix++) fresh = `${wanted}_${suffix}`;
    this.#readCount.set(fresh, 1);
    return fresh;
  }

  #freshNodeName(wanted: string): string {
    let fresh = wanted;
    for (let suffix = 2; this.#nodeNames.has(fresh); suffix++) fresh = `${wanted}_${suffix}`;
    this.#nodeNames.add(fresh);
    return fresh;
  }

  /** A Gemm with its factors in its constants and a bias of one value per channel, where it has constants. */
  #plainGemm(node: Node): Node {
    if (node.op !== 'Gemm' || node.domain !== '') return node;
    const linear = this.#linearOf(node);
    const factors = floatAttribute(node, 'alpha', 1) !== 1 || (linear?.bias && floatAttribute(node, 'beta', 1) !== 1);
    const isPlain =
      !factors &&
      (!linear?.bias || linear.bias.dims.length === 1) &&
      (!linear?.bias || linear.bias.dims[0] === linear.channels);
    if (linear === null || isPlain || !this.#spend(linear.weight.bytes.length)) return node;
    return this.#withAffine(linear, { scale: Float64Array.of(1), offset: Float64Array.of(0) }, node.outputs[0]!);
  }

  /** What a BatchNormalization becomes when there is nothing to merge it into; null for other nodes. */
  #loneBatchNorm(node: Node): Node[] | null {
    const shape = this.#shapes.get(node.inputs[0] ?? '');
    const channels = shape?.[1];
    const output = node.outputs[0];
    if (shape === undefined || channels === undefined || !output || !this.#hasOneOutput(node)) return null;
    const normalization = this.#normalization(node, channels);
    if (normalization === null || !this.#spend(8 * channels)) return null;
    const { affine, statistics } = normalization;
    this.#batchNorms.set(output, { tensor: output, ...statistics });
    const scale = this.#addConstant(
      `${node.name}_scale`,
      affine.scale,
      shape.length === 2 ? [channels] : [channels, ...shape.slice(1).map(() => 1)],
    );
    const offset = this.#addConstant(`${node.name}_offset`, affine.offset, [channels]);
    if (shape.length > 2) {
      const attributes: Node['attributes'] = new Map([['group', { kind: 'int', value: channels }]]);
      this.#folded.push({ node: node.name, op: node.op, into: node.name });
      return [
        {
          name: node.name,
          op: 'Conv',
          domain: '',
          inputs: [node.inputs[0]!, scale, offset],
          outputs: [output],
          attributes,
        },
      ];
    }
    const scaled = this.#rename(null, `${node.name}_scaled`);
    const addName = this.#freshNodeName(`${node.name}_add`);
    const common = { domain: '', attributes: new Map() };
    this.#folded.push({ node: node.name, op: node.op, into: node.name });
    return [
      { ...common, name: node.name, op: 'Mul', inputs: [node.inputs[0]!, scale], outputs: [scaled] },
      { ...common, name: addName, op: 'Add', inputs: [scaled, offset], outputs: [output] },
    ];
  }

  #addConstant(wanted: string, values: Float64Array, dims: readonly number[]): string {
    const name = this.#rename(null, wanted);
    this.#initializers.set(name, makeTensor(name, 'float32', dims, Float32Array.from(values)));
    return name;
  }

  /** Keeps the statistics of normalized tensors true: a new BatchNormalization replaces them, other arithmetic changes them. */
  #followStatistics(node: Node, input: string, output: string, { scale, offset }: Affine): void {
    const before = this.#batchNorms.get(input);
    this.#batchNorms.delete(input);
    if (node.op === 'BatchNormalization') {
      const [gamma, beta, mean, variance] = node.inputs.slice(1, 5).map((name) => readFloats(this.#constant(name)!));
      this.#batchNorms.set(output, { tensor: output, gamma: gamma!, beta: beta!, mean: mean!, variance: variance! });
    } else if (before !== undefined) {
      const gamma = before.gamma.map((value, channel) => value * at(scale, channel));
      const beta = before.beta.map((value, channel) => value * at(scale, channel) + at(offset, channel));
      this.#batchNorms.set(output, { ...before, tensor: output, gamma, beta });
    }
  }
}

/** The value for a channel, where one value may stand for all. */
function at(values: Float64Array | Float32Array, channel: number): number {
  return values.length === 1 ? values[0]! : values[channel]!;
}

/** Output channels of a Conv, ConvTranspose or Gemm; null for other nodes and for weights that cannot be theirs. */
function channelCount(node: Node, weight: Tensor): number | null {
  const { dims } = weight;
  const group = intAttribute(node, 'group', 1);
  if (node.op === 'Gemm') return dims.length === 2 ? dims[intAttribute(node, 'transB', 0) === 0 ? 1 : 0]! : null;
  if (dims.length < 3 || group < 1 || dims[0]! % group !== 0) return null;
  if (node.op === 'Conv') return dims[0]!;
  return node.op === 'ConvTranspose' ? dims[1]! * group : null;
}

/** A copy of the weights, each multiplied by the factor of its output channel. */
function scaleChannels(node: Node, weight: Tensor, factor: (channel: number) => number): Float32Array {
  const { dims } = weight;
  const values = Float32Array.from(readFloats(weight));
  const [rows, columns] = [dims[0]!, dims[1]!];
  const kernel = dims.slice(2).reduce((a, b) => a * b, 1);
  const rowsPerGroup = rows / intAttribute(node, 'group', 1);
  const byRow = node.op === 'Conv' || (node.op === 'Gemm' && intAttribute(node, 'transB', 0) !== 0);
  for (let row = 0; row < rows; row++) {
    // A ConvTranspose has its input channels as rows; those of one group share the group's output channels.
    const firstColumn = node.op === 'ConvTranspose' ? Math.floor(row / rowsPerGroup) * columns : 0;
    for (let column = 0; column < columns; column++) {
      const multiplier = factor(byRow ? row : firstColumn + column);
      const start = (row * columns + column) * kernel;
      for (let i = start; i < start + kernel; i++) values[i] = values[i]! * multiplier;
    }
  }
  return values;
}

/** Whether a bias can be written as one value per channel. */
function isChannelVector({ dims }: Tensor, channels: number): boolean {
  const size = dims.reduce((a, b) => a * b, 1);
  return (size === 1 || size === channels) && size === (dims[dims.length - 1] ?? 1);
}

/** Whether a constant broadcasts over a tensor of this rank with one value per channel (axis 1), or one for all. */
function isPerChannel(dims: readonly number[], channels: number, rank: number): boolean {
  if (dims.length > rank) return false;
  const lead = rank - dims.length;
  return dims.every((size, axis) => size === 1 || (axis + lead === 1 && size === channels));
}
