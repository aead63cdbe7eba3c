import { intAttribute } from '../onnx/attributes.js';
import { slidingGeometry } from '../onnx/geometry.js';
import type { Operator } from '../onnx/model.js';
import type { PreparedModel } from '../prepare.js';
import { unsupported } from './unsupported.js';

/** Any Conv, Gemm or MatMul as one convolution over two spatial axes; in elements. */
export interface ProductShape {
  readonly batch: number;
  readonly inHeight: number;
  readonly inWidth: number;
  readonly inChannels: number;
  readonly outHeight: number;
  readonly outWidth: number;
  readonly outChannels: number;
  readonly kernelHeight: number;
  readonly kernelWidth: number;
  readonly strideY: number;
  readonly strideX: number;
  readonly dilationY: number;
  readonly dilationX: number;
  readonly padTop: number;
  readonly padLeft: number;
  readonly groups: number;
}

/**
 * The shape of an operator with a weight. One spatial axis is a row; a matrix product is a convolution of 1x1 over as many columns as it
 * has rows. Fails with `model/unsupported` for what is neither.
 */
export function productShape({ shapes, model }: PreparedModel, operator: Operator): ProductShape {
  const dims = shapes.get(operator.inputs[0]!)!;
  const weight = model.graph.initializers.get(operator.weight!.name)!.dims;
  const node = operator.nodes[0]!;
  if (operator.op !== 'Conv') {
    if (weight.length !== 2) throw unsupported(operator, 'its weight is no matrix');
    if (intAttribute(node, 'transA', 0) !== 0) throw unsupported(operator, 'its input is transposed');
    const { channelAxis } = operator.weight!;
    const [outChannels, inChannels] = [weight[channelAxis]!, weight[1 - channelAxis]!];
    const rows = dims.reduce((a, b) => a * b, 1) / inChannels;
    const single = { inHeight: 1, outHeight: 1, kernelHeight: 1, kernelWidth: 1, strideY: 1, strideX: 1 };
    const plain = { batch: 1, dilationY: 1, dilationX: 1, padTop: 0, padLeft: 0, groups: 1 };
    return { ...single, ...plain, inWidth: rows, outWidth: rows, inChannels, outChannels };
  }
  if (dims.length !== 3 && dims.length !== 4) throw unsupported(operator, `${dims.length - 2} spatial axes`);
  const spatial = dims.slice(2);
  const geometry = slidingGeometry(node, spatial, weight.slice(2));
  const two = (list: readonly number[], single: number): [number, number] =>
    spatial.length === 2 ? [list[0]!, list[1]!] : [single, list[0]!];
  const [inHeight, inWidth] = two(spatial, 1);
  const [kernelHeight, kernelWidth] = two(geometry.kernel, 1);
  const [outHeight, outWidth] = two(geometry.outputSpatial, 1);
  const [strideY, strideX] = two(geometry.strides, 1);
  const [dilationY, dilationX] = two(geometry.dilations, 1);
  const [padTop, padLeft] = two(geometry.pads, 0);
  return {
    batch: dims[0]!,
    inHeight,
    inWidth,
    inChannels: dims[1]!,
    outHeight,
    outWidth,
    outChannels: weight[0]!,
    kernelHeight,
    kernelWidth,
    strideY,
    strideX,
    dilationY,
    dilationX,
    padTop,
    padLeft,
    groups: intAttribute(node, 'group', 1),
  };
}
