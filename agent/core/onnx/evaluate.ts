/** Evaluates nodes whose inputs are constants: data movement at any size, arithmetic on the few numbers of a shape computation. */
import { intAttribute } from './attributes.js';
import type { ElementType, Tensor } from './model.js';
import { castType } from './operator-table.js';
import type { RuleContext, Shape } from './shape-rules.js';
import * as rules from './shape-rules.js';
import { elementCount, makeTensor, readFloats, readInts, type TypedArray } from './tensor.js';

/** Arithmetic is only for shape computations; weights are left to the runtime. */
const largestArithmetic = 4096;

/** A node with the constants it reads and the shapes of what it makes. */
export interface EvaluationContext extends RuleContext {
  /** Inputs by position; undefined where omitted. */
  readonly constants: readonly (Tensor | undefined)[];
  readonly outputShapes: readonly Shape[];
}

/**
 * The first output of a node as a constant, named as the output; null where this node is not one we evaluate, or not exactly.
 * The inputs must all be constant (Shape and Size: only their shapes are used).
 */
export function evaluate(context: EvaluationContext): Tensor | null {
  const { node, outputShapes } = context;
  const [name] = node.outputs;
  const [dims] = outputShapes;
  if (node.domain !== '' || !name || dims === undefined) return null;
  const move = movements[node.op];
  if (move !== undefined) return move(context, name, dims);
  const compute = arithmetic[node.op];
  if (compute === undefined || elementCount(dims) > largestArithmetic) return null;
  if (context.constants.some((tensor) => tensor !== undefined && tensor.bytes.length > 8 * largestArithmetic))
    return null;
  return compute(context, name, dims);
}

type Evaluator = (context: EvaluationContext, name: string, dims: Shape) => Tensor | null;

const sameBytes: Evaluator = ({ constants: [data] }, name, dims) => (data ? { ...data, name, dims } : null);

/** Operators that move elements; their cost is one copy at most. */
const movements: Readonly<Record<string, Evaluator | undefined>> = {
  __proto__: undefined,
  Reshape: sameBytes,
  Flatten: sameBytes,
  Squeeze: sameBytes,
  Unsqueeze: sameBytes,
  Identity: sameBytes,
  Transpose: ({ node, constants: [data] }, name, dims) => {
    if (data === undefined) return null;
    const strides = stridesOf(data.dims);
    return copyStrided(data, name, dims, permutedStrides(node, strides), 0);
  },
  Slice: (context, name, dims) => {
    const [data] = context.constants;
    if (data === undefined) return null;
    const ranges = rules.sliceRanges(context);
    const strides = stridesOf(data.dims);
    const offset = ranges.reduce((sum, { start }, axis) => sum + start * strides[axis]!, 0);
    return copyStrided(
      data,
      name,
      dims,
      strides.map((stride, axis) => stride * ranges[axis]!.step),
      offset,
    );
  },
  Expand: ({ constants: [data] }, name, dims) => {
    if (data === undefined || elementCount(dims) > Math.max(largestArithmetic, elementCount(data.dims))) return null;
    const strides = stridesOf(data.dims);
    const lead = dims.length - data.dims.length;
    const spread = dims.map((_, axis) => (axis < lead || data.dims[axis - lead] === 1 ? 0 : strides[axis - lead]!));
    return copyStrided(data, name, dims, spread, 0);
  },
  Gather: ({ node, constants: [data, indices] }, name, dims) => {
    if (data === undefined || indices === undefined) return null;
    const axis = rules.normalizeAxis(node, intAttribute(node, 'axis', 0), data.dims.length);
    const size = data.dims[axis]!;
    const positions = readInts(indices).map((index) => (index < 0 ? index + size : index));
    if (positions.some((index) => index < 0 || index >= size)) return null;
    if (elementCount(dims) > Math.max(largestArithmetic, elementCount(data.dims))) return null;
    const inner = elementCount(data.dims.slice(axis + 1));
    return copyRuns(name, dims, data, elementCount(data.dims.slice(0, axis)), (outer) =>
      positions.map((index) => ({ source: data, start: (outer * size + index) * inner, length: inner })),
    );
  },
  Concat: ({ node, constants }, name, dims) => {
    const parts = constants.filter((part) => part !== undefined);
    const [first] = parts;
    if (first === undefined || parts.length !== node.inputs.length) return null;
    if (parts.some((part) => part.type !== first.type)) return null;
    const axis = rules.normalizeAxis(node, intAttribute(node, 'axis', 1), first.dims.length);
    return copyRuns(name, dims, first, elementCount(first.dims.slice(0, axis)), (outer) =>
      parts.map((part) => {
        const length = elementCount(part.dims.slice(axis));
        return { source: part, start: outer * length, length };
      }),
    );
  },
};

function permutedStrides(node: EvaluationContext['node'], strides: readonly number[]): number[] {
  return rules.permutation(node, strides.length).map((axis) => strides[axis]!);
}

function stridesOf(dims: Shape): number[] {
  const strides = new Array<number>(dims.length);
  let stride = 1;
  for (let axis = dims.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= dims[axis]!;
  }
  return strides;
}

/** The tensor of `dims` whose element at an index lies at `offset + index . strides` of the source. */
function copyStrided(
  source: Tensor,
  name: string,
  dims: Shape,
  strides: readonly number[],
  offset: number,
): Tensor | null {
  const width = elementBytes(source);
  if (width === null) return null;
  const total = elementCount(dims);
  const bytes = new Uint8Array(total * width);
  const index = new Array<number>(dims.length).fill(0);
  let position = offset;
  for (let element = 0; element < total; element++) {
    for (let byte = 0; byte < width; byte++) bytes[element * width + byte] = source.bytes[position * width + byte]!;
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      position += strides[axis]!;
      if (++index[axis]! < dims[axis]!) break;
      position -= strides[axis]! * dims[axis]!;
      index[axis] = 0;
    }
  }
  return { name, type: source.type, dims, bytes };
}

interface Run {
  readonly source: Tensor;
  /** First element and number of elements. */
  readonly start: number;
  readonly length: number;
}

/** The tensor made of consecutive runs of elements, listed for each of `outerCount` outer positions. */
function copyRuns(
  name: string,
  dims: Shape,
  like: Tensor,
  outerCount: number,
  runs: (outer: number) => Run[],
): Tensor | null {
  const width = elementBytes(like);
  if (width === null) return null;
  const bytes = new Uint8Array(elementCount(dims) * width);
  if (bytes.length === 0) return { name, type: like.type, dims, bytes };
  let offset = 0;
  for (let outer = 0; outer < outerCount; outer++) {
    for (const { source, start, length } of runs(outer)) {
      bytes.set(source.bytes.subarray(start * width, (start + length) * width), offset);
      offset += length * width;
    }
  }
  return { name, type: like.type, dims, bytes };
}

/** Null for types without whole bytes per element. */
function elementBytes({ type }: Tensor): number | null {
  const widths: Partial<Record<ElementType, number>> = {
    float32: 4,
    float64: 8,
    float16: 2,
    bfloat16: 2,
    int8: 1,
    uint8: 1,
    int16: 2,
    uint16: 2,
    int32: 4,
    uint32: 4,
    int64: 8,
    uint64: 8,
    bool: 1,
  };
  return widths[type] ?? null;
}

/** Element-by-element functions of broadcast inputs; integers are told, because division and rounding differ. */
type Scalar = (values: readonly number[], isInteger: boolean) => number;

function elementwise(scalar: Scalar, resultType?: ElementType): Evaluator {
  return ({ constants }, name, dims) => {
    const inputs = constants.map((tensor) => (tensor === undefined ? null : readNumbers(tensor)));
    const types = constants.map((tensor) => tensor?.type);
    const type = resultType ?? types[types.length - 1];
    if (type === undefined || inputs.includes(null)) return null;
    const isInteger = !types[0]!.includes('float');
    const strides = constants.map((tensor) => broadcastStrides(tensor!.dims, dims));
    const outer = stridesOf(dims);
    const values = Array.from({ length: elementCount(dims) }, (_, element) =>
      scalar(
        inputs.map((numbers, input) => {
          const offset = outer.reduce(
            (sum, stride, axis) => sum + (Math.floor(element / stride) % dims[axis]!) * strides[input]![axis]!,
            0,
          );
          return numbers![offset]!;
        }),
        isInteger,
      ),
    );
    return writeNumbers(name, type, dims, values);
  };
}

function broadcastStrides(dims: Shape, target: Shape): number[] {
  const own = stridesOf(dims);
  const lead = target.length - dims.length;
  return target.map((_, axis) => (axis < lead || dims[axis - lead] === 1 ? 0 : own[axis - lead]!));
}

function reduction(combine: (a: number, b: number) => number, start: number): Evaluator {
  return ({ constants: [data] }, name, dims) => {
    const numbers = data === undefined ? null : readNumbers(data);
    // Along one axis only vectors occur in shape computations.
    if (data === undefined || numbers === null || data.dims.length > 1 || elementCount(dims) !== 1) return null;
    return writeNumbers(name, data.type, dims, [numbers.reduce(combine, start)]);
  };
}

const truthy = (value: boolean): number => (value ? 1 : 0);

const arithmetic: Readonly<Record<string, Evaluator | undefined>> = {
  __proto__: undefined,
  Add: elementwise(([a, b]) => a! + b!),
  Sub: elementwise(([a, b]) => a! - b!),
  Mul: elementwise(([a, b]) => a! * b!),
  // Integer division truncates; by zero it is left to the runtime (NaN is refused by writeNumbers).
  Div: elementwise(([a, b], isInteger) => (isInteger ? (b === 0 ? Number.NaN : Math.trunc(a! / b!)) : a! / b!)),
  Min: elementwise((values) => Math.min(...values)),
  Max: elementwise((values) => Math.max(...values)),
  Neg: elementwise(([a]) => -a!),
  Abs: elementwise(([a]) => Math.abs(a!)),
  Floor: elementwise(([a]) => Math.floor(a!)),
  Ceil: elementwise(([a]) => Math.ceil(a!)),
  Sqrt: elementwise(([a]) => Math.sqrt(a!)),
  Equal: elementwise(([a, b]) => truthy(a === b), 'bool'),
  Less: elementwise(([a, b]) => truthy(a! < b!), 'bool'),
  Greater: elementwise(([a, b]) => truthy(a! > b!), 'bool'),
  Not: elementwise(([a]) => truthy(a === 0), 'bool'),
  And: elementwise(([a, b]) => truthy(a !== 0 && b !== 0), 'bool'),
  Or: elementwise(([a, b]) => truthy(a !== 0 || b !== 0), 'bool'),
  Where: elementwise(([condition, a, b]) => (condition !== 0 ? a! : b!)),
  ReduceProd: reduction((a, b) => a * b, 1),
  ReduceSum: reduction((a, b) => a + b, 0),
  ReduceMax: reduction(Math.max, Number.NEGATIVE_INFINITY),
  ReduceMin: reduction(Math.min, Number.POSITIVE_INFINITY),
  Cast: ({ node, constants: [data] }, name, dims) => {
    const numbers = data === undefined ? null : readNumbers(data);
    const type = castType(node);
    if (numbers === null) return null;
    if (type === 'bool')
      return writeNumbers(
        name,
        type,
        dims,
        numbers.map((value) => truthy(value !== 0)),
      );
    return writeNumbers(name, type, dims, type.includes('float') ? numbers : numbers.map(Math.trunc));
  },
  Shape: ({ node, shape }, name, dims) => {
    const input = shape(0);
    return writeNumbers(name, 'int64', dims, input.slice(...rules.shapeSection(node, input.length)));
  },
  Size: ({ shape }, name, dims) => writeNumbers(name, 'int64', dims, [elementCount(shape(0))]),
  ConstantOfShape: ({ node }, name, dims) => {
    const attribute = node.attributes.get('value');
    const fill = attribute?.kind === 'tensor' ? attribute.value : undefined;
    const value = fill === undefined ? 0 : readNumbers(fill)?.[0];
    if (value === undefined) return null;
    return writeNumbers(name, fill?.type ?? 'float32', dims, new Array<number>(elementCount(dims)).fill(value));
  },
  Range: ({ constants: [start, limit, delta] }, name, dims) => {
    const [from, step] = [start && readNumbers(start)?.[0], delta && readNumbers(delta)?.[0]];
    if (start === undefined || limit === undefined || from === undefined || step === undefined) return null;
    return writeNumbers(
      name,
      start.type,
      dims,
      Array.from({ length: elementCount(dims) }, (_, i) => from + i * step),
    );
  },
};

/** Values of a small constant; null for types we do not compute with. Saturated 64-bit integers are refused when written. */
export function readNumbers(tensor: Tensor): readonly number[] | null {
  switch (tensor.type) {
    case 'float32':
      return [...readFloats(tensor)];
    case 'int64':
    case 'int32':
    case 'uint8':
    case 'int8':
    case 'bool':
      return readInts(tensor);
    default:
      return null;
  }
}

const arrays: Partial<Record<ElementType, (values: readonly number[]) => TypedArray>> = {
  float32: (values) => Float32Array.from(values),
  int64: (values) => BigInt64Array.from(values, BigInt),
  int32: (values) => Int32Array.from(values),
  bool: (values) => Uint8Array.from(values),
};

function writeNumbers(name: string, type: ElementType, dims: Shape, values: readonly number[]): Tensor | null {
  const array = arrays[type];
  if (array === undefined) return null;
  const limit = type === 'int32' ? 2 ** 31 - 1 : Number.MAX_SAFE_INTEGER - 1;
  const isExact = (value: number): boolean => Number.isSafeInteger(value) && Math.abs(value) <= limit;
  if (type !== 'float32' && !values.every(isExact)) return null;
  return makeTensor(name, type, dims, array(values));
}
