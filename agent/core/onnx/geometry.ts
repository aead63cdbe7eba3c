import { intAttribute, intsAttribute, stringAttribute } from './attributes.js';
import { malformed } from './malformed.js';
import type { Node } from './model.js';

/** How a kernel moves over the spatial axes of its input, with everything implied by the node spelled out. */
export interface Geometry {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** All begins, then all ends, as in ONNX; `auto_pad` resolved. May be negative (cropping). */
  readonly pads: readonly number[];
  readonly outputSpatial: readonly number[];
}

/**
 * Geometry of a convolution or pool over an input of the given spatial size. `model/malformed` where it is impossible: a stride of
 * zero, a kernel larger than the padded input, lists of the wrong length.
 */
export function slidingGeometry(node: Node, spatial: readonly number[], kernel: readonly number[]): Geometry {
  const axes = spatial.length;
  const strides = positiveList(node, 'strides', axes);
  const dilations = positiveList(node, 'dilations', axes);
  if (kernel.length !== axes || kernel.some((size) => !isPositive(size))) {
    throw malformed(node.name, `${node.name} has the kernel [${kernel}] for ${axes} spatial axes`);
  }
  const reach = kernel.map((size, axis) => (size - 1) * dilations[axis]! + 1);
  const pads = resolvePads(node, axes, (axis) => {
    // SAME: as many outputs as strides fit in the input.
    const outputs = Math.ceil(spatial[axis]! / strides[axis]!);
    return Math.max(0, (outputs - 1) * strides[axis]! + reach[axis]! - spatial[axis]!);
  });
  const roundsUp = intAttribute(node, 'ceil_mode', 0) !== 0;
  const outputSpatial = spatial.map((size, axis) => {
    const padded = size + pads[axis]! + pads[axes + axis]!;
    const steps = (padded - reach[axis]!) / strides[axis]!;
    if (steps < 0) {
      throw malformed(
        node.name,
        `${node.name} has a kernel that reaches over ${reach[axis]} of ${padded} input positions`,
      );
    }
    if (!roundsUp) return Math.floor(steps) + 1;
    const outputs = Math.ceil(steps) + 1;
    // The last window must start inside the input or its leading padding.
    return (outputs - 1) * strides[axis]! >= size + pads[axis]! ? outputs - 1 : outputs;
  });
  return { kernel, strides, dilations, pads, outputSpatial };
}

/** Geometry of a ConvTranspose; errors as slidingGeometry. */
export function transposedGeometry(node: Node, spatial: readonly number[], kernel: readonly number[]): Geometry {
  const axes = spatial.length;
  const strides = positiveList(node, 'strides', axes);
  const dilations = positiveList(node, 'dilations', axes);
  if (kernel.length !== axes || kernel.some((size) => !isPositive(size))) {
    throw malformed(node.name, `${node.name} has the kernel [${kernel}] for ${axes} spatial axes`);
  }
  const outputPadding = intsAttribute(node, 'output_padding') ?? spatial.map(() => 0);
  const wanted = intsAttribute(node, 'output_shape')?.slice(-axes) ?? null;
  const full = spatial.map(
    (size, axis) =>
      strides[axis]! * (size - 1) + (outputPadding[axis] ?? 0) + (kernel[axis]! - 1) * dilations[axis]! + 1,
  );
  const pads = resolvePads(node, axes, (axis) => {
    const outputs = wanted?.[axis] ?? spatial[axis]! * strides[axis]!;
    return Math.max(0, full[axis]! - outputs);
  });
  const outputSpatial = full.map((size, axis) => wanted?.[axis] ?? size - pads[axis]! - pads[axes + axis]!);
  if (outputSpatial.some((size) => !isPositive(size))) {
    throw malformed(node.name, `${node.name} has an output of [${outputSpatial}] positions`);
  }
  return { kernel, strides, dilations, pads, outputSpatial };
}

/** The pads given, or those that `auto_pad` asks for, of which `totalFor` knows the sum along an axis. */
function resolvePads(node: Node, axes: number, totalFor: (axis: number) => number): readonly number[] {
  const mode = stringAttribute(node, 'auto_pad', 'NOTSET');
  const given = intsAttribute(node, 'pads');
  if (mode === 'NOTSET' || mode === '') {
    if (given !== null && given.length !== 2 * axes) {
      throw malformed(node.name, `${node.name} has ${given.length} pads for ${axes} spatial axes`);
    }
    return given ?? new Array<number>(2 * axes).fill(0);
  }
  if (mode === 'VALID') return new Array<number>(2 * axes).fill(0);
  if (mode !== 'SAME_UPPER' && mode !== 'SAME_LOWER') {
    throw malformed(node.name, `${node.name} has the unknown auto_pad '${mode}'`);
  }
  const totals = Array.from({ length: axes }, (_, axis) => totalFor(axis));
  const smaller = totals.map((total) => Math.floor(total / 2));
  const larger = totals.map((total) => Math.ceil(total / 2));
  return mode === 'SAME_UPPER' ? [...smaller, ...larger] : [...larger, ...smaller];
}

function positiveList(node: Node, name: string, length: number): readonly number[] {
  const values = intsAttribute(node, name) ?? new Array<number>(length).fill(1);
  if (values.length !== length || values.some((value) => !isPositive(value))) {
    throw malformed(node.name, `${node.name} has ${name} [${values}] for ${length} spatial axes`);
  }
  return values;
}

function isPositive(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0;
}
