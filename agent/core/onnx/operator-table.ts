/** The operator registry: one row per operator type of the default domain. A new operator is a new row. */
import { intAttribute, stringAttribute } from './attributes.js';
import type { ElementType, Node, Operator, Tensor } from './model.js';
import type { Shape, ShapeRule } from './shape-rules.js';
import * as rules from './shape-rules.js';

/** What the program knows of an operator type. */
export interface OperatorRow {
  readonly shapes: ShapeRule;
  /** Kind of the operator on float tensors, given its constant inputs (by position; undefined for activations). */
  readonly kind: (node: Node, constants: readonly (Tensor | undefined)[]) => Operator['kind'];
  /** Multiply-accumulates, from the input shapes and the first output's; 0 where absent: only products with sums count. */
  readonly macs?: (node: Node, inputs: readonly Shape[], output: Shape) => number;
  /** Runtimes apply a following Relu or Clip on the way out. */
  readonly fusesClamp?: boolean;
  /** Element type of the outputs where it is not that of the first input. */
  readonly outputType?: (node: Node, inputs: readonly (ElementType | undefined)[]) => ElementType | undefined;
}

type Kind = Operator['kind'];

function row(
  kind: Kind | OperatorRow['kind'],
  shapes: ShapeRule,
  rest: Omit<OperatorRow, 'kind' | 'shapes'> = {},
): OperatorRow {
  return { kind: typeof kind === 'string' ? () => kind : kind, shapes, ...rest };
}

/** A product with a constant right-hand side is 'weighted'. */
const byWeight: OperatorRow['kind'] = (_node, constants) =>
  constants[1] !== undefined && constants[0] === undefined ? 'weighted' : 'arithmetic';

/** Nearest-neighbour sampling moves values; interpolation computes new ones. */
const byResizeMode: OperatorRow['kind'] = (node) =>
  stringAttribute(node, 'mode', 'nearest') === 'nearest' ? 'passThrough' : 'arithmetic';

/** Zero is in every range, so padding with it changes no range; padding with another constant may. */
const byPadValue: OperatorRow['kind'] = (node, constants) => {
  const value = constants[2];
  const isZero = node.inputs[2] ? value?.bytes.every((byte) => byte === 0) === true : !node.attributes.has('value');
  return stringAttribute(node, 'mode', 'constant') !== 'constant' || isZero ? 'passThrough' : 'arithmetic';
};

/** Elements of the kernel that one output of a convolution sums over. */
const convMacs: OperatorRow['macs'] = (_node, [, weight], output) => count(output) * count(weight!.slice(1));

/** Every input element is multiplied with the whole kernel of its channel. */
const transposedMacs: OperatorRow['macs'] = (_node, [input, weight]) => count(input!) * count(weight!.slice(1));

const gemmMacs: OperatorRow['macs'] = (node, [a], output) =>
  count(output) * (a![intAttribute(node, 'transA', 0) === 0 ? 1 : 0] ?? 0);

const matMulMacs: OperatorRow['macs'] = (_node, [a], output) => count(output) * (a![a!.length - 1] ?? 0);

const always = (type: ElementType) => () => type;

/** 7 and later; TensorProto.DataType codes of the types that a Cast to matters for. */
const castTypes: Readonly<Record<number, ElementType>> = {
  1: 'float32',
  2: 'uint8',
  3: 'int8',
  4: 'uint16',
  5: 'int16',
  6: 'int32',
  7: 'int64',
  9: 'bool',
  10: 'float16',
  11: 'float64',
  12: 'uint32',
  13: 'uint64',
  16: 'bfloat16',
};

/** Element type that a Cast node converts to. */
export function castType(node: Node): ElementType {
  return castTypes[intAttribute(node, 'to', 0)] ?? 'other';
}

const { sameShape, broadcast, reduce } = rules;
const comparison = row('float', broadcast, { outputType: always('bool') });

/**
 * Float-only elementwise functions (Exp, Sqrt, ...) are 'float': their ranges suit no uniform grid. The bounded ones (Sigmoid,
 * Tanh, ...) are 'arithmetic': a table of 256 entries computes them.
 */
const table: Readonly<Record<string, OperatorRow>> = {
  Conv: row(byWeight, rules.convolution, { macs: convMacs, fusesClamp: true }),
  ConvTranspose: row(byWeight, rules.convolution, { macs: transposedMacs, fusesClamp: true }),
  Gemm: row(byWeight, rules.gemm, { macs: gemmMacs, fusesClamp: true }),
  MatMul: row(byWeight, rules.matMul, { macs: matMulMacs, fusesClamp: true }),

  Add: row('arithmetic', broadcast, { fusesClamp: true }),
  Sub: row('arithmetic', broadcast, { fusesClamp: true }),
  Mul: row('arithmetic', broadcast, { fusesClamp: true }),
  Div: row('arithmetic', broadcast, { fusesClamp: true }),
  Sum: row('arithmetic', broadcast, { fusesClamp: true }),
  Min: row('arithmetic', broadcast),
  Max: row('arithmetic', broadcast),
  Mean: row('arithmetic', broadcast),

  Relu: row('arithmetic', sameShape),
  Clip: row('arithmetic', sameShape),
  LeakyRelu: row('arithmetic', sameShape),
  PRelu: row('arithmetic', sameShape),
  Sigmoid: row('arithmetic', sameShape),
  HardSigmoid: row('arithmetic', sameShape),
  HardSwish: row('arithmetic', sameShape),
  Tanh: row('arithmetic', sameShape),
  Elu: row('arithmetic', sameShape),
  Selu: row('arithmetic', sameShape),
  Celu: row('arithmetic', sameShape),
  Gelu: row('arithmetic', sameShape),
  Mish: row('arithmetic', sameShape),
  Softplus: row('arithmetic', sameShape),
  Softsign: row('arithmetic', sameShape),
  ThresholdedRelu: row('arithmetic', sameShape),
  Abs: row('arithmetic', sameShape),
  Neg: row('arithmetic', sameShape),
  BatchNormalization: row('arithmetic', sameShape, { fusesClamp: true }),

  AveragePool: row('arithmetic', rules.pool, { fusesClamp: true }),
  GlobalAveragePool: row('arithmetic', rules.globalPool, { fusesClamp: true }),
  LpPool: row('float', rules.pool),
  GlobalLpPool: row('float', rules.globalPool),
  MaxPool: row('passThrough', rules.pool),
  GlobalMaxPool: row('passThrough', rules.globalPool),
  ReduceMean: row('arithmetic', reduce, { fusesClamp: true }),
  ReduceSum: row('arithmetic', reduce, { fusesClamp: true }),
  ReduceMax: row('passThrough', reduce),
  ReduceMin: row('passThrough', reduce),
  ReduceProd: row('float', reduce),
  ReduceL1: row('float', reduce),
  ReduceL2: row('float', reduce),
  ReduceLogSum: row('float', reduce),
  ReduceLogSumExp: row('float', reduce),
  ReduceSumSquare: row('float', reduce),
  ArgMax: row('float', rules.argReduce, { outputType: always('int64') }),
  ArgMin: row('float', rules.argReduce, { outputType: always('int64') }),
  TopK: row('float', rules.topK),

  Softmax: row('float', sameShape),
  LogSoftmax: row('float', sameShape),
  Hardmax: row('float', sameShape),
  Exp: row('float', sameShape),
  Log: row('float', sameShape),
  Sqrt: row('float', sameShape),
  Reciprocal: row('float', sameShape),
  Erf: row('float', sameShape),
  Sin: row('float', sameShape),
  Cos: row('float', sameShape),
  Floor: row('float', sameShape),
  Ceil: row('float', sameShape),
  Round: row('float', sameShape),
  Sign: row('float', sameShape),
  CumSum: row('float', sameShape),
  Trilu: row('float', sameShape),
  LRN: row('float', sameShape),
  InstanceNormalization: row('float', sameShape),
  LpNormalization: row('float', sameShape),
  GroupNormalization: row('float', sameShape),
  LayerNormalization: row('float', (context) => [context.shape(0)]),
  Pow: row('float', broadcast),
  Mod: row('float', broadcast),
  Where: row('float', broadcast, { outputType: (_node, inputs) => inputs[1] }),
  And: comparison,
  Or: comparison,
  Xor: comparison,
  Not: row('float', sameShape, { outputType: always('bool') }),
  Equal: comparison,
  Greater: comparison,
  GreaterOrEqual: comparison,
  Less: comparison,
  LessOrEqual: comparison,
  Cast: row('float', sameShape, { outputType: castType }),

  // Not 'passThrough': its inputs have ranges of their own, which the output's range must unite.
  Concat: row('arithmetic', rules.concat),
  Split: row('passThrough', rules.split),
  Slice: row('passThrough', rules.slice),
  Pad: row(byPadValue, rules.pad),
  Resize: row(byResizeMode, rules.resize),
  Upsample: row(byResizeMode, rules.resize),
  Reshape: row('passThrough', rules.reshape),
  Flatten: row('passThrough', rules.flatten),
  Transpose: row('passThrough', rules.transpose),
  Squeeze: row('passThrough', rules.squeeze),
  Unsqueeze: row('passThrough', rules.unsqueeze),
  Gather: row('passThrough', rules.gather),
  GatherElements: row('passThrough', rules.secondInputShape),
  Expand: row('passThrough', rules.expand),
  Tile: row('passThrough', rules.tile),
  DepthToSpace: row('passThrough', rules.spaceDepth),
  SpaceToDepth: row('passThrough', rules.spaceDepth),
  Identity: row('passThrough', sameShape),
  Dropout: row('passThrough', sameShape),

  Shape: row('float', rules.shapeOf, { outputType: always('int64') }),
  Size: row('float', rules.scalar, { outputType: always('int64') }),
  ConstantOfShape: row('float', rules.constantOfShape, { outputType: constantOfShapeType }),
  Range: row('float', rules.range),
  QuantizeLinear: row('float', sameShape, { outputType: (_node, inputs) => inputs[2] ?? 'uint8' }),
  DequantizeLinear: row('float', sameShape, { outputType: always('float32') }),
};

function constantOfShapeType(node: Node): ElementType {
  const value = node.attributes.get('value');
  return value?.kind === 'tensor' ? value.value.type : 'float32';
}

/** The row of a node's operator; undefined for operators that are not in the registry. */
export function operatorRow(node: Node): OperatorRow | undefined {
  return node.domain === '' && Object.hasOwn(table, node.op) ? table[node.op] : undefined;
}

function count(shape: Shape): number {
  return shape.reduce((a, b) => a * b, 1);
}
