/**
 * Shape inference rules, one per family of operators. A rule answers the shapes of a node's outputs in order; it throws
 * `model/malformed` where the node contradicts its inputs, and NotInferable (through the context) where it cannot know.
 */
import { floatsAttribute, intAttribute, intsAttribute, stringAttribute } from './attributes.js';
import { type Geometry, slidingGeometry, transposedGeometry } from './geometry.js';
import { malformed } from './malformed.js';
import type { Node } from './model.js';

/** Sizes of all axes; empty for a scalar. */
export type Shape = readonly number[];

/** A shape or value that a rule needs is not known; caught where rules are run. */
export class NotInferable extends Error {}

/** A node, and what is known of its inputs. */
export interface RuleContext {
  readonly node: Node;
  /** Version of the default-domain operator set. */
  readonly opset: number;
  /** Shape of an input; NotInferable where unknown, `model/malformed` where there is no such input. */
  shape(input: number): Shape;
  hasInput(input: number): boolean;
  /** Numbers in a constant input, null where it is omitted; NotInferable where it is not constant. */
  values(input: number): readonly number[] | null;
}

/** Answers the shapes of a node's outputs, in order. */
export type ShapeRule = (context: RuleContext) => Shape[];

/** All outputs have the shape of the first input. */
export const sameShape: ShapeRule = (context) => context.node.outputs.map(() => context.shape(0));

/** Shape of numpy broadcasting over all inputs. */
export const broadcast: ShapeRule = (context) => {
  const shapes = context.node.inputs.map((_, input) => context.shape(input));
  if (shapes.length === 0) throw malformed(context.node.name, `${context.node.name} has no inputs`);
  return [shapes.reduce((left, right) => broadcastShapes(context.node, left, right))];
};

/** Shape of numpy broadcasting of two; `model/malformed`, naming the node, where they do not go together. */
export function broadcastShapes(node: Node, left: Shape, right: Shape): Shape {
  const rank = Math.max(left.length, right.length);
  return Array.from({ length: rank }, (_, axis) => {
    const a = left[axis - rank + left.length] ?? 1;
    const b = right[axis - rank + right.length] ?? 1;
    if (a !== b && a !== 1 && b !== 1)
      throw malformed(node.name, `${node.name} cannot combine [${left}] and [${right}]`);
    return a === 1 ? b : a;
  });
}

/** A non-negative axis; `model/malformed` outside [-rank, rank). */
export function normalizeAxis(node: Node, axis: number, rank: number): number {
  const positive = axis < 0 ? axis + rank : axis;
  if (positive < 0 || positive >= rank) throw malformed(node.name, `${node.name} has axis ${axis} of rank ${rank}`);
  return positive;
}

/** Kernel geometry of Conv and ConvTranspose on an input of this shape with weights of that shape. */
export function convGeometry(node: Node, input: Shape, weight: Shape): Geometry & { readonly group: number } {
  const group = intAttribute(node, 'group', 1);
  const isTransposed = node.op === 'ConvTranspose';
  const channels = input[1];
  const weightChannels = isTransposed ? weight[0] : (weight[1] ?? 0) * group;
  const isConsistent = group >= 1 && input.length >= 3 && weight.length === input.length && channels === weightChannels;
  if (!isConsistent || (!isTransposed && weight[0]! % group !== 0) || (isTransposed && channels! % group !== 0)) {
    throw malformed(node.name, `${node.name} has an input [${input}], weights [${weight}] and ${group} groups`);
  }
  const kernel = weight.slice(2);
  const declared = intsAttribute(node, 'kernel_shape');
  if (declared !== null && declared.join() !== kernel.join()) {
    throw malformed(node.name, `${node.name} declares the kernel [${declared}] but its weights have [${kernel}]`);
  }
  const geometry = (isTransposed ? transposedGeometry : slidingGeometry)(node, input.slice(2), kernel);
  return { ...geometry, group };
}

/**
 * Conv and ConvTranspose of any number of spatial axes; `model/malformed` where weights, groups and input do not go together.
 */
export const convolution: ShapeRule = ({ node, shape }) => {
  const [input, weight] = [shape(0), shape(1)];
  const { outputSpatial, group } = convGeometry(node, input, weight);
  const channels = node.op === 'ConvTranspose' ? weight[1]! * group : weight[0]!;
  return [[input[0]!, channels, ...outputSpatial]];
};

/** MaxPool, AveragePool, LpPool: kernel, strides, pads and dilations over the spatial axes; indices have the same shape. */
export const pool: ShapeRule = ({ node, shape }) => {
  const input = shape(0);
  const kernel = intsAttribute(node, 'kernel_shape');
  if (kernel === null || input.length < 3) throw malformed(node.name, `${node.name} pools [${input}] without a kernel`);
  const output = [...input.slice(0, 2), ...slidingGeometry(node, input.slice(2), kernel).outputSpatial];
  return node.outputs.map(() => output);
};

/** All spatial axes become 1. */
export const globalPool: ShapeRule = ({ node, shape }) => {
  const input = shape(0);
  if (input.length < 3) throw malformed(node.name, `${node.name} pools [${input}], which has no spatial axes`);
  return [input.map((size, axis) => (axis < 2 ? size : 1))];
};

/** A product of two matrices, either of them transposed; what is added must broadcast to it. */
export const gemm: ShapeRule = ({ node, shape, hasInput }) => {
  const [a, b] = [shape(0), shape(1)];
  if (a.length !== 2 || b.length !== 2) throw malformed(node.name, `${node.name} multiplies [${a}] and [${b}]`);
  const [rows, depthA] = intAttribute(node, 'transA', 0) === 0 ? a : [a[1], a[0]];
  const [depthB, columns] = intAttribute(node, 'transB', 0) === 0 ? b : [b[1], b[0]];
  if (depthA !== depthB) throw malformed(node.name, `${node.name} multiplies [${a}] and [${b}]`);
  const output = [rows!, columns!];
  if (hasInput(2) && broadcastShapes(node, output, shape(2)).join() !== output.join()) {
    throw malformed(node.name, `${node.name} cannot add [${shape(2)}] to [${output}]`);
  }
  return [output];
};

/** As numpy.matmul: batches broadcast, vectors lose the axis that they were given. */
export const matMul: ShapeRule = ({ node, shape }) => {
  const [a, b] = [shape(0), shape(1)];
  if (a.length === 0 || b.length === 0) throw malformed(node.name, `${node.name} multiplies a scalar`);
  // numpy: a vector is a row on the left and a column on the right, and the added axis disappears again.
  const left = a.length === 1 ? [1, ...a] : a;
  const right = b.length === 1 ? [...b, 1] : b;
  if (left[left.length - 1] !== right[right.length - 2]) {
    throw malformed(node.name, `${node.name} multiplies [${a}] and [${b}]`);
  }
  const batch = broadcastShapes(node, left.slice(0, -2), right.slice(0, -2));
  const rows = a.length === 1 ? [] : [left[left.length - 2]!];
  const columns = b.length === 1 ? [] : [right[right.length - 1]!];
  return [[...batch, ...rows, ...columns]];
};

/** Axes moved from an attribute to an input: ReduceSum, Squeeze, Unsqueeze in opset 13, the other reductions in 18. */
function axesOf({ node, values }: RuleContext): readonly number[] | null {
  return intsAttribute(node, 'axes') ?? values(1);
}

/** Reductions over some axes, over all where none are named. */
export const reduce: ShapeRule = (context) => {
  const { node, shape } = context;
  const input = shape(0);
  const given = axesOf(context) ?? [];
  if (given.length === 0 && intAttribute(node, 'noop_with_empty_axes', 0) !== 0) return [input];
  const axes = new Set(
    given.length === 0 ? input.keys() : given.map((axis) => normalizeAxis(node, axis, input.length)),
  );
  const keepsAxes = intAttribute(node, 'keepdims', 1) !== 0;
  return [input.flatMap((size, axis) => (!axes.has(axis) ? [size] : keepsAxes ? [1] : []))];
};

/** ArgMax and ArgMin over one axis. */
export const argReduce: ShapeRule = ({ node, shape }) => {
  const input = shape(0);
  const reduced = normalizeAxis(node, intAttribute(node, 'axis', 0), input.length);
  const keepsAxes = intAttribute(node, 'keepdims', 1) !== 0;
  return [input.flatMap((size, axis) => (axis !== reduced ? [size] : keepsAxes ? [1] : []))];
};

/** The sizes along one axis are added; all others must agree. */
export const concat: ShapeRule = ({ node, shape }) => {
  const shapes = node.inputs.map((_, input) => shape(input));
  const first = shapes[0];
  if (first === undefined) throw malformed(node.name, `${node.name} has no inputs`);
  const axis = normalizeAxis(node, intAttribute(node, 'axis', 1), first.length);
  for (const other of shapes) {
    if (other.length !== first.length || other.some((size, index) => index !== axis && size !== first[index])) {
      throw malformed(node.name, `${node.name} cannot concatenate [${first}] and [${other}] along axis ${axis}`);
    }
  }
  const total = shapes.reduce((sum, each) => sum + each[axis]!, 0);
  return [first.map((size, index) => (index === axis ? total : size))];
};

/** Parts of one axis: as long as they are said to be, or equal. */
export const split: ShapeRule = ({ node, shape, values }) => {
  const input = shape(0);
  const axis = normalizeAxis(node, intAttribute(node, 'axis', 0), input.length);
  const size = input[axis]!;
  const parts = node.outputs.length;
  // Equal parts; where that does not come out even (opset 18), the last one is smaller.
  const equal = Math.ceil(size / parts);
  const sizes =
    intsAttribute(node, 'split') ??
    values(1) ??
    Array.from({ length: parts }, (_, part) => Math.max(0, Math.min(equal, size - part * equal)));
  if (sizes.length !== parts || sizes.some((part) => part < 0) || sizes.reduce((a, b) => a + b, 0) !== size) {
    throw malformed(node.name, `${node.name} cannot split ${size} into [${sizes}]`);
  }
  return sizes.map((part) => input.map((dim, index) => (index === axis ? part : dim)));
};

/** One axis of a Slice: `count` elements from `start` in steps of `step`, all inside the axis. */
export interface SliceRange {
  readonly start: number;
  readonly step: number;
  readonly count: number;
}

/** What a Slice node takes of each axis of its input. */
export function sliceRanges({ node, shape, values, opset }: RuleContext): SliceRange[] {
  const input = shape(0);
  const fromInputs = opset >= 10;
  const starts = (fromInputs ? values(1) : intsAttribute(node, 'starts')) ?? [];
  const ends = (fromInputs ? values(2) : intsAttribute(node, 'ends')) ?? [];
  const axes = (fromInputs ? values(3) : intsAttribute(node, 'axes')) ?? starts.map((_, index) => index);
  const steps = (fromInputs ? values(4) : null) ?? starts.map(() => 1);
  if (ends.length !== starts.length || axes.length !== starts.length || steps.length !== starts.length) {
    throw malformed(node.name, `${node.name} has starts, ends, axes and steps of different lengths`);
  }
  const ranges = input.map((size): SliceRange => ({ start: 0, step: 1, count: size }));
  starts.forEach((start, index) => {
    const axis = normalizeAxis(node, axes[index]!, input.length);
    ranges[axis] = sliceRange(node, input[axis]!, start, ends[index]!, steps[index]!);
  });
  return ranges;
}

function sliceRange(node: Node, size: number, start: number, end: number, step: number): SliceRange {
  if (step === 0) throw malformed(node.name, `${node.name} has a step of 0`);
  const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value));
  const from = start < 0 ? start + size : start;
  const to = end < 0 ? end + size : end;
  const first = step > 0 ? clamp(from, 0, size) : clamp(from, 0, size - 1);
  // Not in the specification, but so in ONNX Runtime: the largest integers mean "to the end" backwards too.
  const isEnd = end === 2 ** 31 - 1 || end === Number.MAX_SAFE_INTEGER;
  const last = step > 0 ? clamp(to, 0, size) : isEnd ? -1 : clamp(to, -1, size - 1);
  return { start: first, step, count: Math.max(0, Math.ceil((last - first) / step)) };
}

/** What `sliceRanges` leaves of every axis. */
export const slice: ShapeRule = (context) => [sliceRanges(context).map(({ count }) => count)];

/** All begins, then all ends, for every axis of the input of a Pad node. */
export function padAmounts({ node, shape, values, opset }: RuleContext): readonly number[] {
  const rank = shape(0).length;
  const given = (opset >= 11 ? values(1) : intsAttribute(node, 'pads')) ?? [];
  const axes = opset >= 18 ? values(3) : null;
  const listed = axes ?? Array.from({ length: rank }, (_, axis) => axis);
  if (given.length !== 2 * listed.length)
    throw malformed(node.name, `${node.name} has ${given.length} pads for rank ${rank}`);
  const pads = new Array<number>(2 * rank).fill(0);
  listed.forEach((listedAxis, index) => {
    const axis = normalizeAxis(node, listedAxis, rank);
    pads[axis] = given[index]!;
    pads[rank + axis] = given[listed.length + index]!;
  });
  return pads;
}

/** Amounts are added on both sides of every axis; negative ones cut off. */
export const pad: ShapeRule = (context) => {
  const input = context.shape(0);
  const pads = padAmounts(context);
  return [input.map((size, axis) => size + pads[axis]! + pads[input.length + axis]!)];
};

/** Resize and Upsample, by sizes or by scales (rounded down); not inferable where an aspect ratio is to be kept. */
export const resize: ShapeRule = ({ node, shape, values, opset, hasInput }) => {
  const input = shape(0);
  const isUpsample = node.op === 'Upsample';
  const scales = floatsAttribute(node, 'scales') ?? values(isUpsample || opset < 11 ? 1 : 2) ?? [];
  const sizes = !isUpsample && opset >= 11 && hasInput(3) ? values(3)! : [];
  const axes = (opset >= 18 ? intsAttribute(node, 'axes') : null) ?? input.map((_, axis) => axis);
  const given = sizes.length > 0 ? sizes : scales;
  if (given.length !== axes.length)
    throw malformed(node.name, `${node.name} has ${given.length} factors for [${input}]`);
  if (sizes.length > 0 && stringAttribute(node, 'keep_aspect_ratio_policy', 'stretch') !== 'stretch') {
    throw new NotInferable('aspect ratio policy');
  }
  const output = [...input];
  axes.forEach((listedAxis, index) => {
    const axis = normalizeAxis(node, listedAxis, input.length);
    output[axis] = sizes.length > 0 ? sizes[index]! : Math.floor(input[axis]! * scales[index]!);
  });
  return [output];
};

/** 0 keeps the size of the input, -1 is what is left; `model/malformed` where the number of elements would change. */
export const reshape: ShapeRule = ({ node, shape, values }) => {
  const input = shape(0);
  const wanted = values(1) ?? intsAttribute(node, 'shape') ?? [];
  const keepsZeros = intAttribute(node, 'allowzero', 0) !== 0;
  const total = product(input);
  const dims = wanted.map((dim, axis) => (dim === 0 && !keepsZeros ? (input[axis] ?? -2) : dim));
  const known = product(dims.filter((dim) => dim !== -1));
  const open = dims.filter((dim) => dim === -1).length;
  const output = dims.map((dim) => (dim === -1 ? total / (known || 1) : dim));
  if (open > 1 || product(output) !== total || output.some((dim) => dim < 0 || !Number.isSafeInteger(dim))) {
    throw malformed(node.name, `${node.name} cannot reshape [${input}] to [${wanted}]`);
  }
  return [output];
};

/** A matrix: the axes in front of `axis` and those from it on. */
export const flatten: ShapeRule = ({ node, shape }) => {
  const input = shape(0);
  const axis = intAttribute(node, 'axis', 1);
  const cut = axis === input.length ? axis : normalizeAxis(node, axis, Math.max(1, input.length));
  return [[product(input.slice(0, cut)), product(input.slice(cut))]];
};

/** The permutation of a Transpose node; reverses the axes where none is given. */
export function permutation(node: Node, rank: number): readonly number[] {
  const perm = intsAttribute(node, 'perm') ?? Array.from({ length: rank }, (_, axis) => rank - 1 - axis);
  const isPermutation = perm.length === rank && new Set(perm).size === rank && perm.every((a) => a >= 0 && a < rank);
  if (!isPermutation) throw malformed(node.name, `${node.name} permutes ${rank} axes by [${perm}]`);
  return perm;
}

/** The axes in the order of the permutation. */
export const transpose: ShapeRule = ({ node, shape }) => {
  const input = shape(0);
  return [permutation(node, input.length).map((axis) => input[axis]!)];
};

/** Without the axes named, each of which must be 1; without all that are 1 where none is named. */
export const squeeze: ShapeRule = (context) => {
  const { node, shape } = context;
  const input = shape(0);
  const axes = axesOf(context)?.map((axis) => normalizeAxis(node, axis, input.length)) ?? null;
  if (axes?.some((axis) => input[axis] !== 1))
    throw malformed(node.name, `${node.name} squeezes axes [${axes}] of [${input}]`);
  return [input.filter((size, axis) => (axes === null ? size !== 1 : !axes.includes(axis)))];
};

/** With axes of size 1 put in at the places named, counted in the output. */
export const unsqueeze: ShapeRule = (context) => {
  const { node, shape } = context;
  const input = shape(0);
  const given = axesOf(context) ?? [];
  const rank = input.length + given.length;
  const axes = new Set(given.map((axis) => normalizeAxis(node, axis, rank)));
  if (axes.size !== given.length) throw malformed(node.name, `${node.name} inserts an axis twice`);
  const rest = [...input];
  return [Array.from({ length: rank }, (_, axis) => (axes.has(axis) ? 1 : rest.shift()!))];
};

/** One axis of the data is replaced by the axes of the indices. */
export const gather: ShapeRule = ({ node, shape }) => {
  const [data, indices] = [shape(0), shape(1)];
  const axis = normalizeAxis(node, intAttribute(node, 'axis', 0), data.length);
  return [[...data.slice(0, axis), ...indices, ...data.slice(axis + 1)]];
};

/** The output has the shape of the second input (GatherElements). */
export const secondInputShape: ShapeRule = ({ shape }) => [shape(1)];

/** The input broadcast with the shape in its second input. */
export const expand: ShapeRule = ({ node, shape, values }) => [broadcastShapes(node, shape(0), values(1) ?? [])];

/** Every axis as many times as the second input says. */
export const tile: ShapeRule = ({ node, shape, values }) => {
  const input = shape(0);
  const repeats = values(1) ?? [];
  if (repeats.length !== input.length)
    throw malformed(node.name, `${node.name} has ${repeats.length} repeats for [${input}]`);
  return [input.map((size, axis) => size * repeats[axis]!)];
};

/** Shape: a vector of as many elements as axes are asked for. */
export const shapeOf: ShapeRule = ({ node, shape }) => {
  const rank = shape(0).length;
  return [[shapeSection(node, rank)[1] - shapeSection(node, rank)[0]]];
};

/** The part [start, end) of the dimensions that a Shape node answers (attributes since opset 15). */
export function shapeSection(node: Node, rank: number): readonly [number, number] {
  const clamp = (value: number): number => Math.min(rank, Math.max(0, value < 0 ? value + rank : value));
  const start = clamp(intAttribute(node, 'start', 0));
  return [start, Math.max(start, clamp(intAttribute(node, 'end', rank)))];
}

/** One output without axes. */
export const scalar: ShapeRule = () => [[]];

/** The shape in the first input; a scalar where that is empty. */
export const constantOfShape: ShapeRule = ({ values }) => [values(0) ?? []];

/** A vector of the numbers from start to limit, in steps of delta. */
export const range: ShapeRule = ({ node, values }) => {
  const [start, limit, delta] = [values(0)?.[0], values(1)?.[0], values(2)?.[0]];
  if (start === undefined || limit === undefined || !delta) throw malformed(node.name, `${node.name} is not a range`);
  return [[Math.max(0, Math.ceil((limit - start) / delta))]];
};

/** DepthToSpace and SpaceToDepth, for blocks of `blocksize` squared. */
export const spaceDepth: ShapeRule = ({ node, shape }) => {
  const [batch, channels, height, width, ...rest] = shape(0);
  const block = intAttribute(node, 'blocksize', 0);
  const output =
    node.op === 'DepthToSpace'
      ? [batch!, channels! / block ** 2, height! * block, width! * block]
      : [batch!, channels! * block ** 2, height! / block, width! / block];
  if (width === undefined || rest.length > 0 || block < 1 || !output.every(Number.isSafeInteger)) {
    throw malformed(node.name, `${node.name} cannot move blocks of ${block} in [${shape(0)}]`);
  }
  return [output];
};

/** Values and indices alike: one axis has as many elements as are taken. */
export const topK: ShapeRule = ({ node, shape, values }) => {
  const input = shape(0);
  const axis = normalizeAxis(node, intAttribute(node, 'axis', -1), input.length);
  const count = values(1)?.[0] ?? 0;
  if (count < 0 || count > input[axis]!) throw malformed(node.name, `${node.name} takes ${count} of ${input[axis]}`);
  return node.outputs.map(() => input.map((size, index) => (index === axis ? count : size)));
};

function product(values: Shape): number {
  return values.reduce((a, b) => a * b, 1);
}
