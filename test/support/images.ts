/** Images of small networks, for tests of the engine. */
import { buildImage, type ImageOptions } from '../../agent/core/image/build.js';
import { headerFields, tensorFields } from '../../configs/contracts/image.js';
import type { Precision } from '../../configs/contracts/plan.js';
import { calibratedNetwork, NetworkBuilder, type randomNetwork } from './networks.js';
import { Random } from './seed.js';

/** The image of a network at one precision, calibrated on samples drawn from the seed, and those samples. */
export async function imageOf(
  source: ReturnType<typeof randomNetwork>,
  precision: Precision,
  seed: number,
  form: Pick<ImageOptions, 'packer' | 'patches' | 'arenaCeilingBytes'> = {},
) {
  const { prepared, samples, ranges } = await calibratedNetwork(source, seed, 2);
  const precisions = new Map(prepared.operators.map(({ name }) => [name, precision]));
  const options = {
    rangeOf: (tensor: string) => ranges.get(tensor),
    pairSafe: true,
    biasCorrection: () => null,
    ...form,
  };
  return { ...buildImage(prepared, precisions, options), samples };
}

/** Types of an image's tensors; see `tensorTypes`. */
export function tensorTypesOf(image: Uint8Array): number[] {
  const view = new DataView(image.buffer, image.byteOffset);
  const field = (name: (typeof headerFields)[number]) => view.getUint32(4 * headerFields.indexOf(name), true);
  const offset = field('tensorOffset') + 4 * tensorFields.indexOf('type');
  return Array.from({ length: field('tensorCount') }, (_, index) =>
    view.getUint32(offset + 4 * tensorFields.length * index, true),
  );
}

/** A network with every kind of operator that an image can have. */
export function networkOfEverything(seed: number) {
  const builder = new NetworkBuilder(new Random(seed), [1, 4, 8, 8]);
  const first = builder.silu(builder.conv('x', { out: 8 }));
  const depthwise = builder.conv(first, { out: 8, groups: 8 });
  const sum = builder.emit('Add', [depthwise, first], [1, 8, 8, 8]);
  const gate = builder.same('HardSigmoid', builder.emit('GlobalAveragePool', [sum], [1, 8, 1, 1]));
  const gated = builder.emit('Mul', [sum, gate], [1, 8, 8, 8]);
  const scales = builder.constant([4], Float32Array.of(1, 1, 2, 2));
  const large = builder.emit('Resize', [gated, '', scales], [1, 8, 16, 16], { mode: 'linear' });
  const pooled = builder.emit('MaxPool', [large], [1, 8, 8, 8], { kernel_shape: [2, 2], strides: [2, 2] });
  const joined = builder.emit('Concat', [pooled, first], [1, 16, 8, 8], { axis: 1 });
  const mean = builder.emit('AveragePool', [joined], [1, 16, 4, 4], { kernel_shape: [2, 2], strides: [2, 2] });
  const end = builder.gemm(builder.pooled(builder.conv(mean, { out: 12, groups: 2 })), 6);
  return builder.build([builder.same('Softmax', builder.same('Sigmoid', end), { axis: 1 })]);
}

/** A network whose beginning can run patch by patch, a sum over a halo and pools in it; its first stage has 8 operators. */
export function networkOfPatches(seed: number) {
  const builder = new NetworkBuilder(new Random(seed), [1, 3, 12, 11]);
  const first = builder.same('Relu', builder.conv('x', { out: 8 }));
  const depthwise = builder.silu(builder.conv(first, { out: 8, groups: 8 }));
  const sum = builder.emit('Add', [builder.conv(depthwise, { out: 8, kernel: 1 }), first], [1, 8, 12, 11]);
  const pooled = builder.emit('MaxPool', [sum], [1, 8, 6, 5], { kernel_shape: [2, 2], strides: [2, 2] });
  const mean = builder.emit('AveragePool', [pooled], [1, 8, 6, 5], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] });
  const end = builder.conv(builder.conv(mean, { out: 8, stride: 2 }), { out: 4 });
  return builder.build([builder.gemm(builder.pooled(end), 5)]);
}
