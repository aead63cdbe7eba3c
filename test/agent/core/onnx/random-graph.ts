/** Random valid models over most of the operator registry, grown node by node from a stream of numbers. */
import type { Model, Node, Tensor } from '../../../../agent/core/onnx/model.js';
import { inferShapes } from '../../../../agent/core/onnx/shapes.js';
import { randomNumbers } from './runtime.js';
import { floats, info, ints, model, node } from './support.js';

type Attributes = Parameters<typeof node>[3];

/** A model of about `steps` nodes that ONNX Runtime accepts. Equal seeds give equal models. */
export function randomGraph(seed: number, steps: number): Model {
  const grower = new Grower(seed);
  for (let step = 0; step < steps; step++) grower.step();
  return grower.finish();
}

class Grower {
  readonly #random: () => number;
  readonly #opset: number;
  readonly #nodes: Node[] = [];
  readonly #initializers: Tensor[] = [];
  /** Activation tensors with their shapes. */
  readonly #tensors: [string, readonly number[]][] = [];
  readonly #inputShape: readonly number[];

  constructor(seed: number) {
    this.#random = randomNumbers(seed * 2654435761 + 1);
    for (let i = 0; i < 8; i++) this.#random(); // The first numbers of near seeds are alike.
    this.#opset = this.#pick([13, 14, 17, 18, 21]);
    this.#inputShape = this.#pick([
      [1, 4, 6, 6],
      [1, 8, 5, 4],
      [1, 6],
      [1, 3, 8],
    ]);
    this.#tensors.push(['x', this.#inputShape]);
  }

  finish(): Model {
    const read = new Set(this.#nodes.flatMap((each) => each.inputs));
    const ends = this.#tensors.map(([name]) => name).filter((name) => name !== 'x' && !read.has(name));
    if (ends.length === 0) ends.push(this.#emit('Relu', ['x']));
    return this.#model(ends);
  }

  #model(outputs: readonly string[]): Model {
    return model({
      inputs: [info('x', ['N', ...this.#inputShape.slice(1)])],
      nodes: this.#nodes,
      initializers: this.#initializers,
      outputs: outputs.map((name) => info(name, null)),
      opset: this.#opset,
    });
  }

  #below(limit: number): number {
    return Math.min(limit - 1, Math.floor(((this.#random() + 1) / 2) * limit));
  }

  #pick<Choice>(choices: readonly Choice[]): Choice {
    return choices[this.#below(choices.length)]!;
  }

  /** A float constant with values in [low, 1). */
  #weight(dims: readonly number[], low = -1): string {
    const name = `k${this.#initializers.length}`;
    const count = dims.reduce((a, b) => a * b, 1);
    const values = Array.from({ length: count }, () => low + ((this.#random() + 1) / 2) * (1 - low));
    this.#initializers.push(floats(name, dims, values));
    return name;
  }

  #ints(values: readonly number[], dims?: readonly number[]): string {
    const name = `k${this.#initializers.length}`;
    this.#initializers.push(ints(name, values, dims));
    return name;
  }

  #emit(op: string, inputs: readonly string[], attributes: Attributes = {}, outputCount = 1): string {
    const base = `t${this.#nodes.length}`;
    const outputs = Array.from({ length: outputCount }, (_, i) => (i === 0 ? base : `${base}_${i}`));
    this.#nodes.push(node(op, inputs, outputs, attributes));
    return base;
  }

  /** Adds one node, or the few of one idiom, behind a tensor made so far; recent ones are preferred. */
  step(): void {
    const [name, shape] =
      this.#tensors[Math.max(this.#below(this.#tensors.length), this.#below(this.#tensors.length))]!;
    const before = this.#nodes.length;
    const grow = this.#pick(this.#choices(name, shape));
    grow();
    const shapes = inferShapes(this.#model(this.#nodes.at(-1)!.outputs));
    for (const output of this.#nodes.slice(before).flatMap((each) => each.outputs)) {
      const made = shapes.get(output);
      const isUsable =
        output.startsWith('t') && made !== undefined && made.length > 0 && made.reduce((a, b) => a * b, 1) <= 4096;
      if (isUsable && !this.#integers.has(output)) this.#tensors.push([output, made]);
    }
  }

  /** Outputs that hold shapes, which the operators on floats cannot read. */
  readonly #integers = new Set<string>();

  #choices(name: string, shape: readonly number[]): (() => unknown)[] {
    const common = [...this.#elementwise(name, shape), ...this.#movement(name, shape)];
    const rank = shape.length;
    if (rank >= 2) common.push(() => this.#batchNorm(name, shape[1]!));
    if (rank >= 3 && shape.slice(2).every((size) => size >= 2)) common.push(...this.#windows(name, shape));
    if (rank === 4) common.push(...this.#windows(name, shape));
    if (rank >= 2) common.push(...this.#matrices(name, shape));
    return common;
  }

  #elementwise(name: string, shape: readonly number[]): (() => unknown)[] {
    const unary = [
      'Relu',
      'LeakyRelu',
      'Sigmoid',
      'HardSigmoid',
      'Tanh',
      'Elu',
      'Softplus',
      'Abs',
      'Neg',
      'Identity',
      'Dropout',
      'Erf',
      'Softsign',
    ];
    const sameShape = this.#tensors.filter(([, other]) => other.join() === shape.join()).map(([other]) => other);
    const perChannel = [shape.length > 1 ? shape[1]! : 1, ...shape.slice(2).map(() => 1)];
    return [
      () => this.#emit(this.#pick(unary), [name]),
      () => this.#emit(this.#opset >= 14 ? 'HardSwish' : 'Relu', [name]),
      () => this.#emit('Clip', [name, this.#weight([], -0.5), this.#weight([], 0.5)]),
      () => this.#emit(this.#pick(['Add', 'Sub', 'Mul', 'Max']), [name, this.#pick(sameShape)]),
      () =>
        this.#emit(this.#pick(['Add', 'Sub', 'Mul', 'Div']), [
          name,
          this.#weight(this.#pick([[], [1], perChannel]), 0.3),
        ]),
      () => this.#emit(this.#pick(['Add', 'Sub', 'Mul']), [this.#weight(perChannel), name]),
      () => this.#emit('PRelu', [name, this.#weight(perChannel)]),
      () => this.#emit('Softmax', [name], { axis: -1 }),
      () => this.#emit('Mul', [name, this.#emit('Sigmoid', [name])]),
      () => {
        const [three, six] = [3, 6].map((value) => this.#constant(value));
        const clipped = this.#emit('Clip', [this.#emit('Add', [name, three!]), this.#constant(0), six!]);
        return this.#emit('Mul', [name, this.#emit('Div', [clipped, six!])]);
      },
    ];
  }

  #constant(value: number): string {
    const name = `k${this.#initializers.length}`;
    this.#initializers.push(floats(name, [], [value]));
    return name;
  }

  #movement(name: string, shape: readonly number[]): (() => unknown)[] {
    const rank = shape.length;
    const axis = this.#below(rank);
    const size = shape[axis]!;
    const perm = shape.map((_, index) => index);
    for (let last = rank - 1; last > 1; last--) {
      const other = 1 + this.#below(last);
      [perm[last], perm[other]] = [perm[other]!, perm[last]!];
    }
    const reduced = this.#pick(['ReduceMean', 'ReduceMax', 'ReduceSum']);
    const asInput = reduced === 'ReduceSum' || this.#opset >= 18;
    const keepdims = this.#pick([0, 1]);
    return [
      () => this.#emit('Transpose', [name], { perm }),
      () => this.#emit('Flatten', [name], { axis: this.#pick([1, Math.min(2, rank)]) }),
      () => this.#emit('Reshape', [name, this.#ints([0, -1])]),
      () => this.#computedReshape(name, rank),
      () => this.#emit('Concat', [name, name], { axis: Math.min(rank - 1, Math.max(1, axis)) }),
      () => this.#emit('Concat', [name, this.#weight(shape)], { axis: Math.min(rank - 1, Math.max(1, axis)) }),
      () => size >= 2 && this.#emit('Split', [name, this.#ints([1, size - 1])], { axis }, 2),
      () => this.#emit('Slice', [name, this.#ints([this.#below(size)]), this.#ints([size + 3]), this.#ints([axis])]),
      () => this.#emit('Slice', [name, this.#ints([-1]), this.#ints([-99]), this.#ints([axis]), this.#ints([-2])]),
      () => this.#emit('Gather', [name, this.#ints([0, -1], [2])], { axis }),
      () => this.#emit('Unsqueeze', [name, this.#ints([1])]),
      () => this.#emit('Expand', [name, this.#ints([2, ...shape.map(() => 1)])]),
      () => this.#emit('Tile', [name, this.#ints(shape.map((_, index) => (index === axis ? 2 : 1)))]),
      () =>
        this.#emit('Pad', [name, this.#ints(perm.concat(perm).map((_, side) => (side === axis ? 1 : 0)))], {
          mode: this.#pick(['constant', 'edge']),
        }),
      () =>
        this.#emit(reduced, [name, ...(asInput ? [this.#ints([axis])] : [])], {
          keepdims,
          ...(asInput ? {} : { axes: [axis] }),
        }),
    ].map((grow) => () => grow() || this.#emit('Identity', [name]));
  }

  /** The flattening that exporters write: to the computed batch size, and whatever remains. */
  #computedReshape(name: string, rank: number): string {
    const shape = this.#emit('Shape', [name]);
    const batch = this.#emit('Gather', [shape, this.#ints([0], [])]);
    const vector = this.#emit('Unsqueeze', [batch, this.#ints([0])]);
    const target = this.#emit('Concat', [vector, this.#ints(rank > 2 ? [1, -1] : [-1])], { axis: 0 });
    for (const integer of [shape, batch, vector, target]) this.#integers.add(integer);
    return this.#emit('Reshape', [name, target]);
  }

  #batchNorm(name: string, channels: number): string {
    const [scale, offset, mean] = [0, 1, 2].map(() => this.#weight([channels]));
    return this.#emit('BatchNormalization', [name, scale!, offset!, mean!, this.#weight([channels], 0.2)]);
  }

  #windows(name: string, shape: readonly number[]): (() => unknown)[] {
    const channels = shape[1]!;
    const spatial = shape.slice(2);
    const kernel = spatial.map((size) => 1 + this.#below(Math.min(3, size)));
    const pads = [...kernel, ...kernel].map((size) => this.#below(size));
    const strides = spatial.map(() => 1 + this.#below(2));
    const group = channels % 2 === 0 ? this.#pick([1, 2, channels]) : this.#pick([1, channels]);
    const outputs = group * (1 + this.#below(3));
    const placement = this.#pick<Attributes>([{ pads }, { auto_pad: 'SAME_UPPER' }, {}]);
    const bias = (count: number): string[] => (this.#below(2) === 0 ? [] : [this.#weight([count])]);
    const conv = (source: string): string =>
      this.#emit('Conv', [source, this.#weight([outputs, channels / group, ...kernel]), ...bias(outputs)], {
        ...placement,
        strides,
        group,
      });
    const zeroPads = [0, 0, ...spatial.map(() => 1), 0, 0, ...spatial.map(() => this.#below(2))];
    return [
      () => conv(name),
      () => this.#batchNorm(conv(name), outputs),
      () => this.#emit('Relu', [this.#emit('Mul', [conv(name), this.#weight([outputs, ...spatial.map(() => 1)])])]),
      () =>
        this.#emit('Conv', [this.#emit('Pad', [name, this.#ints(zeroPads)]), this.#weight([2, channels, ...kernel])], {
          pads,
        }),
      () => {
        const weight = this.#weight([channels, 2, ...kernel]);
        return this.#batchNorm(
          this.#emit('ConvTranspose', [name, weight, ...bias(2 * group)], { strides, group }),
          2 * group,
        );
      },
      () => this.#emit('MaxPool', [name], { kernel_shape: kernel, strides, pads }),
      () => this.#emit('AveragePool', [name], { kernel_shape: kernel, strides, count_include_pad: this.#below(2) }),
      () => this.#emit(this.#pick(['GlobalAveragePool', 'GlobalMaxPool']), [name]),
      () => {
        const scales = floats(`k${this.#initializers.length}`, [shape.length], [1, 1, ...spatial.map(() => 2)]);
        this.#initializers.push(scales);
        return this.#emit('Resize', [name, '', scales.name], {
          mode: this.#pick(['nearest', 'linear']),
          coordinate_transformation_mode: 'asymmetric',
        });
      },
    ];
  }

  #matrices(name: string, shape: readonly number[]): (() => unknown)[] {
    const depth = shape[shape.length - 1]!;
    const columns = 1 + this.#below(6);
    const added = (product: string): string => this.#emit('Add', [product, this.#weight([columns])]);
    const choices = [
      () => this.#emit('MatMul', [name, this.#weight([depth, columns])]),
      () => added(this.#emit('MatMul', [name, this.#weight([depth, columns])])),
      // A weight that reaches its place only through other nodes.
      () =>
        added(
          this.#emit('MatMul', [name, this.#emit('Transpose', [this.#weight([columns, depth])], { perm: [1, 0] })]),
        ),
      () =>
        added(
          this.#emit('MatMul', [
            name,
            this.#emit('Reshape', [this.#weight([columns * depth]), this.#ints([depth, columns])]),
          ]),
        ),
    ];
    if (shape.length !== 2) return choices;
    const bias = (): string[] =>
      this.#pick([[], [[columns]], [[1, columns]], [[1]], [[]]]).map((dims) => this.#weight(dims as number[]));
    const factors = this.#pick<Attributes>([{}, { alpha: { float: 0.5 }, beta: { float: 3 } }]);
    return [
      ...choices,
      () => this.#emit('Gemm', [name, this.#weight([depth, columns]), ...bias()], factors),
      () =>
        this.#batchNorm(
          this.#emit('Gemm', [name, this.#weight([columns, depth]), ...bias()], { ...factors, transB: 1 }),
          columns,
        ),
    ];
  }
}
