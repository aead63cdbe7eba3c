/** Small random convolutional networks, such as quantization is for, and what the tests need to know about them. */
import type { Model, Node, Tensor } from '../../agent/core/onnx/model.js';
import { makeTensor } from '../../agent/core/onnx/tensor.js';
import { type PreparedModel, prepare } from '../../agent/core/prepare.js';
import type { ModelCard } from '../../configs/contracts/card.js';
import type { Range } from '../../configs/contracts/plan.js';
import { info, ints, model, node } from '../agent/core/onnx/support.js';
import { run } from './ort.js';
import { Random } from './random.js';

type Attributes = Parameters<typeof node>[3];

/** Grows a model node by node; tensors are known by name and shape (batch 1). */
export class NetworkBuilder {
  readonly random: Random;
  readonly nodes: Node[] = [];
  readonly initializers: Tensor[] = [];
  readonly shapes = new Map<string, readonly number[]>();
  readonly #input: readonly number[];

  constructor(random: Random, input: readonly number[]) {
    this.random = random;
    this.#input = input;
    this.shapes.set('x', input);
  }

  emit(op: string, inputs: readonly string[], shape: readonly number[], attributes: Attributes = {}): string {
    const output = `t${this.nodes.length}`;
    this.nodes.push(node(op, inputs, [output], attributes));
    this.shapes.set(output, shape);
    return output;
  }

  /** Normally distributed weights whose sums keep the scale of what they multiply (He). */
  weight(dims: readonly number[], fanIn: number): string {
    const count = dims.reduce((a, b) => a * b, 1);
    return this.constant(dims, this.random.floats(count, Math.sqrt(2 / fanIn)));
  }

  constant(dims: readonly number[], values: Float32Array): string {
    const name = `k${this.initializers.length}`;
    this.initializers.push(makeTensor(name, 'float32', dims, values));
    return name;
  }

  conv(input: string, options: ConvOptions): string {
    const [, channels, height, width] = this.shapes.get(input) as [number, number, number, number];
    const { out, groups = 1, kernel = 3, stride = 1, pad = kernel >> 1, hasBias = true } = options;
    const inputs = [input, this.weight([out, channels / groups, kernel, kernel], (channels / groups) * kernel ** 2)];
    if (hasBias) inputs.push(this.constant([out], this.random.floats(out, 0.3)));
    const size = (extent: number) => Math.floor((extent + 2 * pad - kernel) / stride) + 1;
    const attributes = {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [pad, pad, pad, pad],
      group: groups,
    };
    return this.emit('Conv', inputs, [1, out, size(height), size(width)], attributes);
  }

  /** A Gemm of a matrix, with its weight in either layout. */
  gemm(input: string, out: number, isTransposed = true, hasBias = true): string {
    const inner = this.shapes.get(input)![1]!;
    const inputs = [input, this.weight(isTransposed ? [out, inner] : [inner, out], inner)];
    if (hasBias) inputs.push(this.constant([out], this.random.floats(out, 0.3)));
    return this.emit('Gemm', inputs, [1, out], { transB: isTransposed ? 1 : 0 });
  }

  /** Global average pool and Reshape: a matrix of one row. */
  pooled(input: string): string {
    const channels = this.shapes.get(input)![1]!;
    const shape = `shape${this.nodes.length}`;
    this.initializers.push(ints(shape, [1, channels]));
    return this.emit('Reshape', [this.emit('GlobalAveragePool', [input], [1, channels, 1, 1]), shape], [1, channels]);
  }

  same(op: string, input: string, attributes: Attributes = {}): string {
    return this.emit(op, [input], this.shapes.get(input)!, attributes);
  }

  clip(input: string, low: number, high: number): string {
    const bounds = [low, high].map((value) => this.constant([], Float32Array.of(value)));
    return this.emit('Clip', [input, ...bounds], this.shapes.get(input)!);
  }

  silu(input: string): string {
    return this.emit('Mul', [input, this.same('Sigmoid', input)], this.shapes.get(input)!);
  }

  build(outputs: readonly string[]): Model {
    return model({
      inputs: [info('x', this.#input)],
      nodes: this.nodes,
      initializers: this.initializers,
      outputs: outputs.map((name) => info(name, this.shapes.get(name)!)),
    });
  }
}

export interface ConvOptions {
  out: number;
  groups?: number;
  kernel?: number;
  stride?: number;
  pad?: number;
  hasBias?: boolean;
}

/**
 * A random network of about `steps` blocks (convolutions with groups, strides and pads, depthwise ones, sums, concatenations,
 * pools, activations) that ends in one or two Gemms.
 */
export function randomNetwork(seed: number, steps: number): Model {
  const random = new Random(seed);
  const builder = new NetworkBuilder(random, [1, random.pick([1, 3, 4, 8]), 6 + random.below(7), 6 + random.below(7)]);
  const images = ['x'];
  for (let step = 0; step < steps; step++) images.push(randomBlock(builder, images));
  const end = images.at(-1)!;
  // A vector of one value cannot be shielded from ONNX Runtime's own quantization: it has no axis for scales.
  const vector = builder.pooled(builder.shapes.get(end)![1] === 1 ? builder.conv(end, { out: 4, kernel: 1 }) : end);
  const hidden =
    random.next() < 0.5
      ? vector
      : builder.same('Relu', builder.gemm(vector, 8 + random.below(40), random.next() < 0.5));
  return builder.build([builder.gemm(hidden, 2 + random.below(9), random.next() < 0.5, random.next() < 0.8)]);
}

function randomBlock(builder: NetworkBuilder, images: readonly string[]): string {
  const { random } = builder;
  const input = images[Math.max(random.below(images.length), random.below(images.length))]!;
  const [, channels, height, width] = builder.shapes.get(input) as [number, number, number, number];
  const convolve = (options: Partial<ConvOptions>) =>
    builder.conv(input, { out: 4 * (1 + random.below(4)), hasBias: random.next() < 0.8, ...options });
  const same = (axisFree: boolean) =>
    images.filter((other) => {
      const shape = builder.shapes.get(other)!;
      return shape[2] === height && shape[3] === width && (axisFree || shape[1] === channels);
    });
  const canShrink = height >= 4 && width >= 4;
  // ONNX Runtime fails to fuse what is clamped twice in a row.
  const isClamped = builder.nodes.some(({ op, outputs }) => outputs[0] === input && (op === 'Relu' || op === 'Clip'));
  const blocks: (() => string)[] = [
    () => convolve({ kernel: random.pick([1, 3]), hasBias: true }),
    () =>
      builder.same(
        'Relu',
        convolve({ kernel: random.pick([1, 3]), pad: height >= 3 && width >= 3 ? random.below(2) : 1 }),
      ),
    () => builder.clip(convolve({ kernel: 3 }), 0, 6),
    () => builder.silu(convolve({ kernel: random.pick([1, 3]) })),
    () => builder.same('Relu', convolve({ out: channels, groups: channels, kernel: 3 })),
    () => convolve({ out: channels * 2, groups: channels % 2 === 0 ? 2 : 1, kernel: 3 }),
    () => convolve({ out: channels * 2, groups: channels, kernel: 3 }),
    () => builder.emit('Add', [convolve({ out: channels }), random.pick(same(false))], builder.shapes.get(input)!),
    () =>
      builder.same(
        'Relu',
        builder.emit('Add', [input, convolve({ out: channels, kernel: 1 })], builder.shapes.get(input)!),
      ),
    () => {
      const other = random.pick(same(true));
      const total = channels + builder.shapes.get(other)![1]!;
      return builder.emit('Concat', [input, other], [1, total, height, width], { axis: 1 });
    },
    () => builder.same('Relu', convolve({ kernel: 1, stride: canShrink ? 2 : 1 })),
    () => (isClamped ? builder.silu(input) : builder.same('Relu', input)),
  ];
  if (canShrink) {
    blocks.push(
      () => builder.same('Relu', convolve({ kernel: 3, stride: 2 })),
      () => {
        const shape = [1, channels, Math.floor((height - 2) / 2) + 1, Math.floor((width - 2) / 2) + 1];
        return builder.emit('MaxPool', [input], shape, { kernel_shape: [2, 2], strides: [2, 2] });
      },
    );
  }
  // A concatenation of a tensor with itself and the like may grow without end.
  return channels > 48 ? convolve({ kernel: 1 }) : random.pick(blocks)();
}

/** A card for an image model: values as they are. */
export function imageCard(task: ModelCard['task'], shape: readonly number[], name = 'x'): ModelCard {
  return { input: { name, layout: 'NCHW'.slice(0, shape.length), shape: [...shape] }, preprocess: {}, task };
}

export interface Network {
  readonly prepared: PreparedModel;
  /** Inputs to calibrate with and to test on. */
  readonly samples: readonly Float32Array[];
  /** Smallest and largest value of every activation tensor over the samples. */
  readonly ranges: ReadonlyMap<string, Range>;
}

/** Prepares a model and calibrates it by brute force: every tensor of every sample is looked at. */
export async function calibratedNetwork(source: Model, seed: number, sampleCount = 6): Promise<Network> {
  const prepared = prepare(source, null);
  const random = new Random(seed);
  const size = prepared.inputDims.reduce((a, b) => a * b, 1);
  const samples = Array.from({ length: sampleCount }, () =>
    random.floats(size, 0.5 + random.next(), 0.3 * random.normal()),
  );
  return { prepared, samples, ranges: await rangesOver(prepared, samples) };
}

/** Smallest and largest value of every activation tensor over samples. */
export async function rangesOver(
  prepared: PreparedModel,
  samples: readonly Float32Array[],
): Promise<Map<string, Range>> {
  const names = [...new Set(prepared.operators.flatMap((operator) => operator.outputs))];
  const outputs = names.map((name) => info(name, null));
  const watched = { ...prepared.model, graph: { ...prepared.model.graph, outputs } };
  const ranges = new Map<string, Range>();
  const widen = (name: string, values: Float32Array) => {
    const { minimum, maximum } = ranges.get(name) ?? { minimum: 0, maximum: 0 };
    ranges.set(name, {
      minimum: values.reduce((a, b) => Math.min(a, b), minimum),
      maximum: values.reduce((a, b) => Math.max(a, b), maximum),
    });
  };
  const { name: input } = prepared.card.input;
  for (const data of samples) {
    widen(input, data);
    for (const [name, value] of await run(watched, new Map([[input, { dims: prepared.inputDims, data }]])))
      widen(name, value.data);
  }
  return ranges;
}
