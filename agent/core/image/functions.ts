/** Functions of one value, as tables over codes: exact, and as cheap for a sigmoid as for a Relu. */
import { floatAttribute, stringAttribute } from '../onnx/attributes.js';
import type { Node, Operator, Tensor } from '../onnx/model.js';
import { readFloats } from '../onnx/tensor.js';
import { type Affine, roundHalfEven } from '../quant/affine.js';

type Unary = (x: number) => number;

const sigmoid: Unary = (x) => 1 / (1 + Math.exp(-x));
const softplus: Unary = (x) => Math.log1p(Math.exp(-Math.abs(x))) + Math.max(x, 0);
const hardSigmoid: Unary = (x) => Math.min(1, Math.max(0, x / 6 + 0.5));

/** The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26): far below half a code. */
function erf(x: number): number {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - poly * Math.exp(-x * x));
}

/** Functions without constants, by operator; parameters are attributes of the node. */
const functions: Readonly<Record<string, (node: Node) => Unary>> = {
  Relu: () => (x) => Math.max(0, x),
  Sigmoid: () => sigmoid,
  Tanh: () => Math.tanh,
  Silu: () => (x) => x * sigmoid(x),
  HardSwish: () => (x) => x * hardSigmoid(x),
  HardSigmoid: (node) =>
    node.op === 'HardSigmoid'
      ? (x) =>
          Math.min(
            1,
            Math.max(0, floatAttribute(node, 'alpha', Math.fround(0.2)) * x + floatAttribute(node, 'beta', 0.5)),
          )
      : hardSigmoid,
  LeakyRelu: (node) => {
    const alpha = floatAttribute(node, 'alpha', Math.fround(0.01));
    return (x) => (x < 0 ? alpha * x : x);
  },
  Elu: (node) => {
    const alpha = floatAttribute(node, 'alpha', 1);
    return (x) => (x < 0 ? alpha * Math.expm1(x) : x);
  },
  Selu: (node) => {
    const [alpha, gamma] = [
      floatAttribute(node, 'alpha', Math.fround(1.6732632)),
      floatAttribute(node, 'gamma', Math.fround(1.050701)),
    ];
    return (x) => gamma * (x < 0 ? alpha * Math.expm1(x) : x);
  },
  Celu: (node) => {
    const alpha = floatAttribute(node, 'alpha', 1);
    return (x) => Math.max(0, x) + Math.min(0, alpha * Math.expm1(x / alpha));
  },
  ThresholdedRelu: (node) => {
    const alpha = floatAttribute(node, 'alpha', 1);
    return (x) => (x > alpha ? x : 0);
  },
  Gelu: (node) =>
    stringAttribute(node, 'approximate', 'none') === 'tanh'
      ? (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
      : (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  Mish: () => (x) => x * Math.tanh(softplus(x)),
  Softplus: () => softplus,
  Softsign: () => (x) => x / (1 + Math.abs(x)),
  Abs: () => Math.abs,
  Neg: () => (x) => -x,
};

/** Operators with a second operand, where that is one constant number. */
const withConstant: Readonly<Record<string, (x: number, constant: number, isFirst: boolean) => number>> = {
  Add: (x, c) => x + c,
  Mul: (x, c) => x * c,
  Sub: (x, c, isFirst) => (isFirst ? x - c : c - x),
  Div: (x, c, isFirst) => (isFirst ? x / c : c / x),
  Min: (x, c) => Math.min(x, c),
  Max: (x, c) => Math.max(x, c),
  PRelu: (x, c) => (x < 0 ? c * x : x),
};

/** The function that an operator applies to each value of its one input; null where it is none. */
export function unaryFunction(operator: Operator, initializers: ReadonlyMap<string, Tensor>): Unary | null {
  if (operator.inputs.length !== 1 || operator.weight !== null) return null;
  const [low, high] = operator.clamp ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  const bounded =
    (f: Unary): Unary =>
    (x) =>
      Math.min(high, Math.max(low, f(x)));
  const node = operator.nodes[0]!;
  if (operator.op === 'Clip') return bounded((x) => x);
  const known = functions[operator.op];
  if (known !== undefined) return bounded(known(node));
  const binary = withConstant[operator.op];
  if (binary === undefined || node.inputs.length !== 2) return null;
  const isFirst = node.inputs[0] === operator.inputs[0];
  const tensor = initializers.get(node.inputs[isFirst ? 1 : 0]!);
  if (tensor?.type !== 'float32' || tensor.bytes.length !== 4) return null;
  const constant = readFloats(tensor)[0]!;
  return bounded((x) => binary(x, constant, isFirst));
}

/** Code of a value. */
export function codeOf(value: number, affine: Affine): number {
  const code = roundHalfEven(value / affine.scale) + affine.zeroPoint;
  return Math.min(affine.codeMaximum, Math.max(affine.codeMinimum, Number.isNaN(code) ? affine.zeroPoint : code));
}

/** The table of a function between two grids: 256 codes, those beyond the input's range as the last of it. */
export function tableOf(f: Unary, from: Affine, to: Affine): Uint8Array {
  return Uint8Array.from({ length: 256 }, (_, code) =>
    codeOf(f((Math.min(code, from.codeMaximum) - from.zeroPoint) * from.scale), to),
  );
}
