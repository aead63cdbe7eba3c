/** Operators that move elements: reshapes, transpositions, slices, pads, concatenations, resampling. */
import { floatsAttribute, intAttribute, stringAttribute } from '../onnx/attributes.js';
import type { Node, Operator } from '../onnx/model.js';
import { normalizeAxis, padAmounts, permutation, type RuleContext, sliceRanges } from '../onnx/shape-rules.js';
import { readFloats, readInts } from '../onnx/tensor.js';
import { codeOf } from './functions.js';
import { channelsLast, plainOrder, reshapedOrder, stridesOf, transposedOrder } from './storage.js';
import { unsupported } from './unsupported.js';
import { bytesOf, count, type Value, type Values } from './values.js';

/** A node with the constants that its shape rule reads. */
function ruleContext(values: Values, node: Node): RuleContext {
  const { model } = values.prepared;
  const constant = (input: number) => model.graph.initializers.get(node.inputs[input] ?? '');
  return {
    node,
    opset: model.opsets.get('') ?? 13,
    shape: (input) => constant(input)?.dims ?? values.dimsOf(node.inputs[input]!),
    hasInput: (input) => Boolean(node.inputs[input]),
    values: (input) => {
      const tensor = constant(input);
      if (tensor === undefined) return null;
      return tensor.type === 'float32' ? [...readFloats(tensor)] : readInts(tensor);
    },
  };
}

/** A tensor in the form in which the operator is to work: as floats at the end of a model, as codes elsewhere. */
function inputOf(values: Values, name: string, asFloats: boolean): Value {
  return asFloats ? values.floats(name) : values.codes(name);
}

/** A new tensor in the form of another. */
function alike(values: Values, form: Value, dims: readonly number[], order: readonly number[]): Value {
  return form.affine === null ? values.newFloats(dims, order) : values.newCodes(dims, order, form.affine);
}

/** Reshape, Flatten, Squeeze, Unsqueeze, Identity: the same elements under other dimensions. */
export function buildReshape(values: Values, operator: Operator, asFloats: boolean): void {
  const output = operator.outputs[0]!;
  const input = inputOf(values, operator.inputs[0]!, asFloats);
  const dims = values.dimsOf(output);
  const order = reshapedOrder(input.dims, input.order, dims);
  if (order !== null) {
    values.define(output, { ...input, dims, order });
    return;
  }
  const plain = values.ordered(input, plainOrder(input.dims.length));
  values.define(output, { ...plain, dims, order: plainOrder(dims.length) });
}

/** Transpose: another numbering of the axes; nothing moves. */
export function buildTranspose(values: Values, operator: Operator, asFloats: boolean): void {
  const input = inputOf(values, operator.inputs[0]!, asFloats);
  const order = permutation(operator.nodes[0]!, input.dims.length);
  const output = operator.outputs[0]!;
  values.define(output, { ...input, dims: values.dimsOf(output), order: transposedOrder(input.order, order) });
}

/** Slice. */
export function buildSlice(values: Values, operator: Operator, asFloats: boolean): void {
  const output = operator.outputs[0]!;
  const input = inputOf(values, operator.inputs[0]!, asFloats);
  const ranges = sliceRanges(ruleContext(values, operator.nodes[0]!));
  const dims = values.dimsOf(output);
  const sliced = alike(values, input, dims, input.order);
  const [from, to] = [stridesOf(input.dims, input.order), stridesOf(dims, input.order)];
  values.move(input, sliced, {
    axes: ranges.map(({ step }, axis) => ({ size: dims[axis]!, from: from[axis]! * step, to: to[axis]! })),
    fromStart: ranges.reduce((sum, { start }, axis) => sum + start * from[axis]!, 0),
    toStart: 0,
  });
  values.define(output, sliced);
}

/** Split: a slice for each output that is read. */
export function buildSplit(values: Values, operator: Operator, asFloats: boolean): void {
  const node = operator.nodes[0]!;
  const input = inputOf(values, operator.inputs[0]!, asFloats);
  const axis = normalizeAxis(node, intAttribute(node, 'axis', 0), input.dims.length);
  const from = stridesOf(input.dims, input.order);
  let start = 0;
  for (const output of node.outputs) {
    const dims = values.prepared.shapes.get(output);
    if (output === '' || dims === undefined) throw unsupported(operator, 'an output of unknown size');
    const part = alike(values, input, dims, input.order);
    const to = stridesOf(dims, input.order);
    values.move(input, part, {
      axes: dims.map((size, d) => ({ size, from: from[d]!, to: to[d]! })),
      fromStart: start * from[axis]!,
      toStart: 0,
    });
    values.define(output, part);
    start += dims[axis]!;
  }
}

/** Pad with a constant: a filled tensor, and the input in the middle of it. */
export function buildPad(values: Values, operator: Operator): void {
  const node = operator.nodes[0]!;
  const output = operator.outputs[0]!;
  if (stringAttribute(node, 'mode', 'constant') !== 'constant')
    throw unsupported(operator, 'a mode other than constant');
  const context = ruleContext(values, node);
  const pads = padAmounts(context);
  if (pads.some((amount) => amount < 0)) throw unsupported(operator, 'negative pads');
  const input = values.codes(operator.inputs[0]!);
  const dims = values.dimsOf(output);
  const padded = values.newCodes(dims, input.order, input.affine);
  const value = context.values(2)?.[0] ?? 0;
  values.emit('fill', [], padded.id, { code: codeOf(value, input.affine) });
  const [from, to] = [stridesOf(input.dims, input.order), stridesOf(dims, input.order)];
  values.move(input, padded, {
    axes: input.dims.map((size, axis) => ({ size, from: from[axis]!, to: to[axis]! })),
    fromStart: 0,
    toStart: input.dims.reduce((sum, _, axis) => sum + pads[axis]! * to[axis]!, 0),
  });
  values.define(output, padded);
}

/** Concat: every input is moved to its place, codes translated to the output's grid. */
export function buildConcat(values: Values, operator: Operator, asFloats: boolean): void {
  const node = operator.nodes[0]!;
  const output = operator.outputs[0]!;
  const dims = values.dimsOf(output);
  // An activation may be there twice; constants among the inputs are not for codes.
  if (node.inputs.some((name) => !operator.inputs.includes(name)))
    throw unsupported(operator, 'a constant among its inputs');
  const axis = normalizeAxis(node, intAttribute(node, 'axis', 0), dims.length);
  const inputs = node.inputs.map((name) => inputOf(values, name, asFloats));
  const { order } = inputs[0]!;
  const whole = asFloats ? values.newFloats(dims, order) : values.newCodes(dims, order, values.affineOf(output));
  const to = stridesOf(dims, order);
  let start = 0;
  for (const input of inputs) {
    const from = stridesOf(input.dims, input.order);
    values.move(input, whole, {
      axes: input.dims.map((size, d) => ({ size, from: from[d]!, to: to[d]! })),
      fromStart: 0,
      toStart: start * to[axis]!,
    });
    start += input.dims[axis]!;
  }
  values.define(output, whole);
}

/** DepthToSpace and SpaceToDepth: a move with the block's rows and columns as axes of their own. */
export function buildSpaceDepth(values: Values, operator: Operator): void {
  const node = operator.nodes[0]!;
  const output = operator.outputs[0]!;
  const input = values.codes(operator.inputs[0]!);
  const block = intAttribute(node, 'blocksize', 1);
  const dims = values.dimsOf(output);
  const isToSpace = node.op === 'DepthToSpace';
  const [deep, wide] = isToSpace ? [input.dims, dims] : [dims, input.dims];
  const [height, width] = [deep[2]!, deep[3]!];
  const channels = wide[1]!;
  const isColumnFirst = isToSpace && stringAttribute(node, 'mode', 'DCR') === 'CRD';
  const order = channelsLast(4);
  const moved = values.newCodes(dims, order, input.affine);
  const [deepStrides, wideStrides] = isToSpace
    ? [stridesOf(deep, input.order), stridesOf(wide, order)]
    : [stridesOf(deep, order), stridesOf(wide, input.order)];
  // Channel of the deep side: block row, block column, channel (DCR), or channel, block row, block column (CRD).
  const [rowStep, columnStep, channelStep] = isColumnFirst
    ? [block, 1, block * block]
    : [block * channels, channels, 1];
  const axes = [
    { size: deep[0]!, deep: deepStrides[0]!, wide: wideStrides[0]! },
    { size: height, deep: deepStrides[2]!, wide: wideStrides[2]! * block },
    { size: block, deep: deepStrides[1]! * rowStep, wide: wideStrides[2]! },
    { size: width, deep: deepStrides[3]!, wide: wideStrides[3]! * block },
    { size: block, deep: deepStrides[1]! * columnStep, wide: wideStrides[3]! },
    { size: channels, deep: deepStrides[1]! * channelStep, wide: wideStrides[1]! },
  ];
  values.move(input, moved, {
    axes: axes.map(({ size, deep: d, wide: w }) => (isToSpace ? { size, from: d, to: w } : { size, from: w, to: d })),
    fromStart: 0,
    toStart: 0,
  });
  values.define(output, moved);
}

/** Resize by nearest neighbour or bilinearly over the two spatial axes; fractions are kept to 1/256. */
export function buildResize(values: Values, operator: Operator): void {
  const node = operator.nodes[0]!;
  const output = operator.outputs[0]!;
  const mode = stringAttribute(node, 'mode', 'nearest');
  const dims = values.dimsOf(output);
  if (dims.length !== 4 || (mode !== 'nearest' && mode !== 'linear')) throw unsupported(operator, `mode ${mode}`);
  const input = values.codesIn(operator.inputs[0]!, channelsLast(4));
  if (input.dims[0] !== dims[0] || input.dims[1] !== dims[1])
    throw unsupported(operator, 'other axes than height and width');
  const scales = scalesOf(values, node);
  const axis = (index: number) =>
    samplesOf(operator, mode, input.dims[index]!, dims[index]!, scales?.[index] ?? dims[index]! / input.dims[index]!);
  const resized = values.newCodes(dims, input.order, input.affine);
  values.emit('resize', [input.id], resized.id, {
    batch: dims[0]!,
    inHeight: input.dims[2]!,
    inWidth: input.dims[3]!,
    channels: dims[1]!,
    outHeight: dims[2]!,
    outWidth: dims[3]!,
    rows: values.writer.data(bytesOf(axis(2))),
    columns: values.writer.data(bytesOf(axis(3))),
  });
  values.define(output, resized);
}

/** Scales of all axes where the node names them. */
function scalesOf(values: Values, node: Node): readonly number[] | null {
  const context = ruleContext(values, node);
  const given = floatsAttribute(node, 'scales') ?? (context.hasInput(2) ? context.values(2) : null);
  return given !== null && given.length === 4 ? given : null;
}

/** Where each output position along an axis samples the input: low, high, fraction of 256. ONNX's Resize, opset 13. */
function samplesOf(
  operator: Operator,
  mode: 'nearest' | 'linear',
  from: number,
  to: number,
  scale: number,
): Uint32Array {
  const node = operator.nodes[0]!;
  const transform = stringAttribute(node, 'coordinate_transformation_mode', 'half_pixel');
  const rounding = stringAttribute(node, 'nearest_mode', 'round_prefer_floor');
  const position = (x: number): number => {
    switch (transform) {
      case 'half_pixel':
        return (x + 0.5) / scale - 0.5;
      case 'pytorch_half_pixel':
        return to > 1 ? (x + 0.5) / scale - 0.5 : 0;
      case 'asymmetric':
        return x / scale;
      case 'align_corners':
        return to > 1 ? (x * (from - 1)) / (to - 1) : 0;
      default:
        throw unsupported(operator, `coordinates by ${transform}`);
    }
  };
  const nearest = (x: number): number => {
    switch (rounding) {
      case 'round_prefer_floor':
        return Math.ceil(x - 0.5);
      case 'round_prefer_ceil':
        return Math.floor(x + 0.5);
      case 'floor':
        return Math.floor(x);
      case 'ceil':
        return Math.ceil(x);
      default:
        throw unsupported(operator, `rounding by ${rounding}`);
    }
  };
  const inside = (index: number) => Math.min(from - 1, Math.max(0, index));
  const words = new Uint32Array(3 * to);
  for (let x = 0; x < to; x++) {
    // Scales such as 2 / 3 leave positions a rounding error beside whole numbers.
    const at = Number(position(x).toFixed(6));
    if (mode === 'nearest') words.set([inside(nearest(at)), inside(nearest(at)), 0], 3 * x);
    else {
      const low = Math.floor(Math.min(from - 1, Math.max(0, at)));
      const fraction = Math.round((Math.min(from - 1, Math.max(0, at)) - low) * 256);
      words.set([low, inside(low + 1), fraction], 3 * x);
    }
  }
  return words;
}

/** Elements of everything in front of an axis, of the axis, and behind it. */
export function around(dims: readonly number[], axis: number): { outer: number; count: number; inner: number } {
  return { outer: count(dims.slice(0, axis)), count: dims[axis]!, inner: count(dims.slice(axis + 1)) };
}
