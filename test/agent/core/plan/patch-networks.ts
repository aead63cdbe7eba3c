/** Networks to cut into patches, each with an account of its layers that is kept apart from the model. */
import type { Model } from '../../../../agent/core/onnx/model.js';
import { listStages } from '../../../../agent/core/plan/patch-geometry.js';
import type { PatchCut } from '../../../../agent/core/plan/value-problem.js';
import { type PreparedModel, prepare } from '../../../../agent/core/prepare.js';
import { NetworkBuilder } from '../../../support/networks.js';
import { Random } from '../../../support/seed.js';

/** A layer as it was drawn. Tensor 0 is the input, tensor `i + 1` is what layer `i` makes. */
export interface Layer {
  readonly op: 'Conv' | 'MaxPool' | 'AveragePool' | 'Relu' | 'Add' | 'Concat';
  readonly inputs: readonly number[];
  /** By axis; 1, 1, 1 and 0 where nothing slides. */
  readonly kernel: readonly [number, number];
  readonly stride: readonly [number, number];
  readonly dilation: readonly [number, number];
  readonly pad: readonly [number, number];
  readonly macsPerPixel: number;
  readonly isDepthwise: boolean;
}

export interface DrawnNetwork {
  readonly model: Model;
  readonly layers: readonly Layer[];
  /** Names and [channels, rows, columns] of the tensors. */
  readonly names: readonly string[];
  readonly sizes: readonly (readonly [number, number, number])[];
}

type Pair = [number, number];

/**
 * @param hasGaps strides beyond kernels, dilations, paddings wider than kernels or negative: an operator then reads positions that it
 *   has no use for, or windows that lie in the padding
 */
export function drawNetwork(seed: number, steps: number, hasGaps: boolean): DrawnNetwork {
  const random = new Random(seed);
  const input: [number, number, number] = [random.pick([1, 2, 4]), 5 + random.below(12), 5 + random.below(12)];
  const builder = new NetworkBuilder(random, [1, ...input]);
  const names = ['x'];
  const sizes = [input];
  const layers: Layer[] = [];
  const still = { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pad: [0, 0] } as const;

  const add = (name: string, size: [number, number, number], layer: Omit<Layer, 'isDepthwise' | 'macsPerPixel'>) => {
    layers.push({ macsPerPixel: 0, isDepthwise: false, ...layer });
    names.push(name);
    sizes.push(size);
  };

  const slide = (from: number, op: 'Conv' | 'MaxPool' | 'AveragePool'): boolean => {
    const [channels, ...extent] = sizes[from]!;
    const both = (draw: (axis: number) => number): Pair => [draw(0), draw(1)];
    const kernel = both(() => 1 + random.below(4));
    const stride = both((axis) => 1 + random.below(hasGaps ? 3 : Math.min(3, kernel[axis]!)));
    const dilation = both(() => (hasGaps && op !== 'AveragePool' ? 1 + random.below(3) : 1));
    const reach = both((axis) => (kernel[axis]! - 1) * dilation[axis]! + 1);
    const most = (axis: number) => (hasGaps && op === 'Conv' ? reach[axis]! + 1 : kernel[axis]!);
    const least = hasGaps && op === 'Conv' && random.next() < 0.2 ? -1 : 0;
    const pad = both((axis) => least + random.below(most(axis) - least));
    const padEnd = both((axis) => least + random.below(most(axis) - least));
    const roundsUp = op !== 'Conv' && random.next() < 0.4;
    const size = both((axis) => {
      const steps = (extent[axis]! + pad[axis]! + padEnd[axis]! - reach[axis]!) / stride[axis]!;
      const outputs = (roundsUp ? Math.ceil(steps) : Math.floor(steps)) + 1;
      return roundsUp && (outputs - 1) * stride[axis]! >= extent[axis]! + pad[axis]! ? outputs - 1 : outputs;
    });
    if (size.some((outputs, axis) => outputs < 2 || extent[axis]! < reach[axis]! - pad[axis]!)) return false;
    const isDepthwise = op === 'Conv' && random.next() < 0.4;
    const out = op === 'Conv' && !isDepthwise ? random.pick([1, 2, 4]) : channels;
    const group = isDepthwise ? channels : 1;
    const attributes = {
      kernel_shape: kernel,
      strides: stride,
      pads: [...pad, ...padEnd],
      ...(op === 'AveragePool' ? {} : { dilations: dilation }),
      ...(op === 'Conv' ? { group } : { ceil_mode: roundsUp ? 1 : 0 }),
    };
    const taps = (channels / group) * kernel[0] * kernel[1];
    const weights = op === 'Conv' ? [builder.weight([out, channels / group, ...kernel], taps)] : [];
    const name = builder.emit(op, [names[from]!, ...weights], [1, out, ...size], attributes);
    // A convolution of one channel is depthwise however it is meant.
    const depthwise = op === 'Conv' && out === channels && group === channels;
    add(name, [out, ...size], { op, inputs: [from], kernel, stride, dilation, pad });
    layers[layers.length - 1] = {
      ...layers.at(-1)!,
      isDepthwise: depthwise,
      macsPerPixel: op === 'Conv' ? out * taps : 0,
    };
    return true;
  };

  while (layers.length < steps) {
    const last = names.length - 1;
    // Mostly a chain: every tensor that is still wanted later stands in the way of a split.
    const from = random.next() < 0.8 ? last : Math.max(0, last - 1 - random.below(3));
    const [channels, rows, columns] = sizes[from]!;
    const alike = sizes.flatMap((size, tensor) => (size[1] === rows && size[2] === columns ? [tensor] : []));
    const kind = random.pick(['Conv', 'Conv', 'Conv', 'MaxPool', 'AveragePool', 'Relu', 'Add', 'Concat'] as const);
    if (kind === 'Relu') {
      add(builder.same('Relu', names[from]!), [channels, rows, columns], { op: kind, inputs: [from], ...still });
    } else if (kind === 'Add') {
      const other = random.pick(alike.filter((tensor) => sizes[tensor]![0] === channels));
      const name = builder.emit('Add', [names[from]!, names[other]!], [1, channels, rows, columns]);
      add(name, [channels, rows, columns], { op: kind, inputs: [from, other], ...still });
    } else if (kind === 'Concat') {
      const other = random.pick(alike);
      const total = channels + sizes[other]![0];
      if (total > 8) continue;
      const name = builder.emit('Concat', [names[from]!, names[other]!], [1, total, rows, columns], { axis: 1 });
      add(name, [total, rows, columns], { op: kind, inputs: [from, other], ...still });
    } else if (!slide(from, kind)) {
      // Nothing slides over an image that has shrunk this far: what is left is drawn from the others.
      add(builder.same('Relu', names[from]!), [channels, rows, columns], { op: 'Relu', inputs: [from], ...still });
    }
  }
  return { model: builder.build([names.at(-1)!]), layers, names, sizes };
}

/** Weights are zero: shapes are all that matters, and drawing millions takes seconds. */
class ShapeBuilder extends NetworkBuilder {
  override weight(dims: readonly number[]): string {
    return this.constant(dims, new Float32Array(dims.reduce((a, b) => a * b, 1)));
  }
}

/**
 * MobileNetV2 1.0 at 224 x 224 (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2).
 *
 * @param isRedistributed the receptive field of MCUNetV2's stage: the depthwise kernels of the first and third block are 1 x 1
 * @param hasResiduals false: without the sums, as memory is often counted
 */
export function mobileNetV2(isRedistributed: boolean, hasResiduals: boolean): Model {
  const builder = new ShapeBuilder(new Random(0), [1, 3, 224, 224]);
  const conv = (input: string, out: number, rest: { kernel?: number; stride?: number; groups?: number } = {}) =>
    builder.conv(input, { out, kernel: 1, hasBias: false, ...rest });
  const relu6 = (input: string) => builder.clip(input, 0, 6);
  let image = relu6(conv('x', 32, { kernel: 3, stride: 2 }));
  let block = 0;
  const settings = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
  ] as const;
  for (const [expansion, out, repeats, firstStride] of settings) {
    for (let repeat = 0; repeat < repeats; repeat++) {
      block++;
      const channels = builder.shapes.get(image)![1]!;
      const wide = channels * expansion;
      const expanded = expansion === 1 ? image : relu6(conv(image, wide));
      const kernel = isRedistributed && (block === 1 || block === 3) ? 1 : 3;
      const stride = repeat === 0 ? firstStride : 1;
      const projected = conv(relu6(conv(expanded, wide, { kernel, stride, groups: wide })), out);
      const isSum = hasResiduals && stride === 1 && channels === out;
      image = isSum ? builder.emit('Add', [image, projected], builder.shapes.get(image)!) : projected;
    }
  }
  return builder.build([builder.gemm(builder.pooled(relu6(conv(image, 1280))), 1000, true, false)]);
}

/** A random network that is cut somewhere, with something behind the stage, and what else is to be drawn for it. */
export interface CutNetwork {
  readonly prepared: PreparedModel;
  readonly cut: PatchCut;
  readonly random: Random;
}

/** So many cut networks, of those that are wanted. */
export function* cutNetworks(
  seed: number,
  count: number,
  isWanted: (prepared: PreparedModel) => boolean = () => true,
): Generator<CutNetwork> {
  for (let n = 0, found = 0; found < count; n++) {
    const random = new Random(seed + n);
    const prepared = prepare(drawNetwork(seed + n, 3 + random.below(6), false).model, null);
    const stages = listStages(prepared).filter(({ split }) => split < prepared.operators.length);
    if (stages.length === 0 || !isWanted(prepared)) continue;
    found++;
    const stage = random.pick(stages);
    const { rows, columns } = stage.tensors[stage.output]!;
    const upTo = (size: number) => 1 + random.below(Math.min(4, size));
    yield { prepared, cut: { stage, grid: { rows: upTo(rows), columns: upTo(columns) } }, random };
  }
}
