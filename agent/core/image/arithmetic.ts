/** Operators that compute new codes without weights: sums, products, functions of one value, pools; and the float ones at the end. */
import { intAttribute, intsAttribute } from '../onnx/attributes.js';
import { slidingGeometry } from '../onnx/geometry.js';
import type { Operator } from '../onnx/model.js';
import { normalizeAxis } from '../onnx/shape-rules.js';
import { readInts } from '../onnx/tensor.js';
import { tableOf, unaryFunction } from './functions.js';
import { around } from './moves.js';
import { finestShare, wideMultiplier } from './products.js';
import { channelsLast, type Order, plainOrder } from './storage.js';
import { unsupported } from './unsupported.js';
import { type Codes, count, type Values } from './values.js';

const largestMultiplier = 2 ** 15 - 1;
const largestSumShift = 22;
/** Steps of a mean are no finer than this share of its input's: the engine multiplies sums by less than 2^40 in units of 2^-32. */
const finestMeanShare = 2 ** 7;

/** Add or Sub of two activations: multipliers of 16 bits that share one shift. */
export function buildSum(values: Values, operator: Operator): void {
  const output = operator.outputs[0]!;
  const { first, second, sizes, isSwapped } = pairOf(values, operator);
  const coarsest = Math.max(first.affine.scale, second.affine.scale);
  const affine = values.affineOf(output, operator.clamp, coarsest / finestShare);
  const codes = values.newCodes(first.dims, first.order, affine);
  const negative = operator.op === 'Sub';
  const ratios = [first.affine.scale / codes.affine.scale, second.affine.scale / codes.affine.scale] as const;
  const largest = Math.max(...ratios);
  let shift = largestSumShift;
  while (shift > 0 && largest * 2 ** shift > largestMultiplier) shift--;
  if (largest * 2 ** shift > largestMultiplier) throw unsupported(operator, 'its output is far finer than its inputs');
  const sign = (isFirst: boolean) => (negative && isFirst === isSwapped ? -1 : 1);
  const [a, b] = ratios.map((ratio, index) => sign(index === 0) * Math.round(ratio * 2 ** shift)) as [number, number];
  values.emit('add', [first.id, second.id], codes.id, {
    ...sizes,
    firstMultiplier: a,
    secondMultiplier: b,
    offset: (shift > 0 ? 2 ** (shift - 1) : 0) - first.affine.zeroPoint * a - second.affine.zeroPoint * b,
    shift,
    ...values.clampFields(codes.affine, operator.clamp),
  });
  values.define(output, codes);
}

/** Mul of two activations. */
export function buildMultiply(values: Values, operator: Operator): void {
  const output = operator.outputs[0]!;
  const { first, second, sizes } = pairOf(values, operator);
  const scale = first.affine.scale * second.affine.scale;
  const codes = values.newCodes(first.dims, first.order, values.affineOf(output, operator.clamp, scale / finestShare));
  values.emit('multiply', [first.id, second.id], codes.id, {
    ...sizes,
    firstZero: first.affine.zeroPoint,
    secondZero: second.affine.zeroPoint,
    ...wideMultiplier(operator, scale / codes.affine.scale),
    ...values.clampFields(codes.affine, operator.clamp),
  });
  values.define(output, codes);
}

/** Both operands in one order, the larger first; the other as large, or one image's channels, repeated at every position. */
function pairOf(values: Values, operator: Operator) {
  const { inputs } = operator.nodes[0]!;
  if (inputs.length !== 2 || inputs.some((name) => !operator.inputs.includes(name)))
    throw unsupported(operator, 'operands other than two activations');
  const [left, right] = inputs as readonly [string, string];
  const isSwapped = count(values.dimsOf(left)) < count(values.dimsOf(right));
  const [larger, smaller] = isSwapped ? [right, left] : [left, right];
  const [dims, smallerDims] = [values.dimsOf(larger), values.dimsOf(smaller)];
  if (dims.join() === smallerDims.join()) {
    const first = values.codes(larger);
    const second = values.codesIn(smaller, first.order);
    // Rows are what threads share; several elements each, so that a row is worth the call.
    const inner = dims.length > 0 ? dims[first.order[first.order.length - 1]!]! : 1;
    return { first, second, isSwapped, sizes: { outer: count(dims) / inner, inner, secondIsRepeated: 0 } };
  }
  const isChannels =
    dims.length === smallerDims.length &&
    dims[0] === 1 &&
    smallerDims.every((size, axis) => size === (axis === 1 ? dims[1] : 1));
  if (!isChannels) throw unsupported(operator, `operands [${dims}] and [${smallerDims}]`);
  const order = channelsLast(dims.length);
  const sizes = { outer: count(dims) / dims[1]!, inner: dims[1]!, secondIsRepeated: 1 };
  return { first: values.codesIn(larger, order), second: values.codesIn(smaller, order), isSwapped, sizes };
}

/** Whatever is a function of one value. */
export function buildFunction(values: Values, operator: Operator): void {
  const f = unaryFunction(operator, values.prepared.model.graph.initializers);
  if (f === null) throw unsupported(operator, 'it is no function of one value');
  const output = operator.outputs[0]!;
  const input = values.codes(operator.inputs[0]!);
  const codes = values.newCodes(input.dims, input.order, values.affineOf(output));
  values.emit('table', [input.id], codes.id, { table: values.writer.data(tableOf(f, input.affine, codes.affine)) });
  values.define(output, codes);
}

/** Window fields of a pool, and its input as codes with channels innermost. */
function windowOf(values: Values, operator: Operator): { input: Codes; order: Order; fields: Record<string, number> } {
  const node = operator.nodes[0]!;
  const name = operator.inputs[0]!;
  const dims = values.dimsOf(name);
  if (dims.length !== 3 && dims.length !== 4) throw unsupported(operator, `${dims.length - 2} spatial axes`);
  const spatial = dims.slice(2);
  const isGlobal = !/^(Max|Average)Pool$/.test(node.op);
  const geometry = isGlobal
    ? {
        kernel: spatial,
        strides: spatial.map(() => 1),
        dilations: spatial.map(() => 1),
        pads: spatial.map(() => 0),
        outputSpatial: spatial.map(() => 1),
      }
    : slidingGeometry(node, spatial, intsAttribute(node, 'kernel_shape')!);
  const two = (list: readonly number[], single: number) => (spatial.length === 2 ? list : [single, list[0]!]);
  const pair = (name1: string, name2: string, list: readonly number[], single: number) => {
    const [y, x] = two(list, single);
    return { [name1]: y!, [name2]: x! };
  };
  const order = channelsLast(dims.length);
  return {
    input: values.codesIn(name, order),
    order,
    fields: {
      batch: dims[0]!,
      channels: dims[1]!,
      ...pair('inHeight', 'inWidth', spatial, 1),
      ...pair('outHeight', 'outWidth', geometry.outputSpatial, 1),
      ...pair('kernelHeight', 'kernelWidth', geometry.kernel, 1),
      ...pair('strideY', 'strideX', geometry.strides, 1),
      ...pair('dilationY', 'dilationX', geometry.dilations, 1),
      ...pair('padTop', 'padLeft', geometry.pads, 0),
    },
  };
}

/** MaxPool, on the codes as they are. */
export function buildMaxPool(values: Values, operator: Operator): void {
  const output = operator.outputs[0]!;
  const { input, order, fields } = windowOf(values, operator);
  const codes = values.newCodes(values.dimsOf(output), order, input.affine);
  values.emit('maxPool', [input.id], codes.id, fields);
  values.define(output, codes);
}

/** AveragePool, GlobalAveragePool, and ReduceMean over the spatial axes; as floats at the end of a model, if every window is whole. */
export function buildMean(values: Values, operator: Operator, asFloats: boolean): void {
  const node = operator.nodes[0]!;
  const output = operator.outputs[0]!;
  if (node.op === 'ReduceMean' && !isSpatialMean(values, operator))
    throw unsupported(operator, 'axes other than the spatial ones');
  const { input, order, fields } = windowOf(values, operator);
  const dims = [...values.dimsOf(operator.inputs[0]!).slice(0, 2), ...values.dimsOf(operator.inputs[0]!).slice(2)];
  const spatial = [fields.outHeight!, fields.outWidth!].slice(4 - dims.length);
  const means = [dims[0]!, dims[1]!, ...spatial];
  const elements = fields.kernelHeight! * fields.kernelWidth!;
  const isWhole = fields.padTop === 0 && fields.padLeft === 0 && fields.outHeight === 1 && fields.outWidth === 1;
  const common = {
    ...fields,
    countsPadding: intAttribute(node, 'count_include_pad', 0),
    inputZero: input.affine.zeroPoint,
  };
  const finalDims = values.dimsOf(output);
  // A reduction may drop the axes, which are of one element then.
  const finalOrder = finalDims.length === means.length ? order : plainOrder(finalDims.length);
  if (asFloats && isWhole) {
    const id = values.writer.tensor({ type: 'accumulators', elements: count(means) });
    const none = { ratioLow: 0, ratioHigh: 0, outputZero: 0, outputLow: 0, outputHigh: 0 };
    values.emit('averagePool', [input.id], id, { ...common, ...none });
    const scales = [input.affine.scale / elements];
    values.define(
      output,
      values.dequantize({ id, dims: finalDims, order: finalOrder }, { zero: 0, scales, clamp: operator.clamp }),
    );
    return;
  }
  const affine = values.affineOf(output, operator.clamp, input.affine.scale / finestMeanShare);
  const codes = values.newCodes(means, order, affine);
  const ratio = BigInt(Math.round((input.affine.scale / affine.scale) * 2 ** 32));
  values.emit('averagePool', [input.id], codes.id, {
    ...common,
    ratioLow: Number(ratio & 0xffffffffn),
    ratioHigh: Number(ratio >> 32n),
    ...values.clampFields(affine, operator.clamp),
  });
  values.define(output, { ...codes, dims: finalDims, order: finalOrder });
}

/** Whether a ReduceMean is a global average pool. */
export function isSpatialMean(values: Pick<Values, 'prepared' | 'dimsOf'>, operator: Operator): boolean {
  const node = operator.nodes[0]!;
  const rank = values.dimsOf(operator.inputs[0]!).length;
  const tensor = values.prepared.model.graph.initializers.get(node.inputs[1] ?? '');
  const axes = intsAttribute(node, 'axes') ?? (tensor === undefined ? null : readInts(tensor));
  if (axes === null || rank < 3 || rank > 4) return false;
  const spatial = plainOrder(rank).slice(2);
  return (
    [...axes]
      .map((axis) => (axis < 0 ? axis + rank : axis))
      .sort((a, b) => a - b)
      .join() === spatial.join()
  );
}

/** Softmax, on floats. */
export function buildSoftmax(values: Values, operator: Operator): void {
  const node = operator.nodes[0]!;
  const input = values.floats(operator.inputs[0]!);
  const axis = normalizeAxis(node, intAttribute(node, 'axis', -1), input.dims.length);
  const output = values.newFloats(input.dims);
  values.emit('softmax', [input.id], output.id, around(input.dims, axis));
  values.define(operator.outputs[0]!, output);
}

/** Sigmoid, on floats. */
export function buildFloatSigmoid(values: Values, operator: Operator): void {
  const input = values.floats(operator.inputs[0]!);
  const output = values.newFloats(input.dims);
  values.emit('sigmoid', [input.id], output.id, {});
  values.define(operator.outputs[0]!, output);
}
