import { EdgeError } from '../../../configs/contracts/errors.js';
import type { Precision, Range } from '../../../configs/contracts/plan.js';
import type { AttributeValue, Model, Node, Operator, Shapes, Tensor } from '../onnx/model.js';
import { inferShapes } from '../onnx/shapes.js';
import { makeTensor, readFloats } from '../onnx/tensor.js';
import { type Affine, activationAffine, type QdqVariant } from './affine.js';
import { blockBytes, matMulNBitsNode, quantizeBlockwise } from './matmul-nbits.js';
import { deployedOptions, type QuantizedWeights, quantizeWeights } from './weights.js';

/** Which runtime the QDQ model is written for. */
export interface QdqOptions {
  /**
   * 'ort': unsigned activations with an asymmetric zero point, Relu dropped where the codes already clamp; the form ONNX
   * Runtime runs at int8 speed on x64 and arm64. 'tensorrt': signed symmetric activations, Relu kept.
   */
  readonly variant: QdqVariant;
  /** The machine's 8-bit kernels saturate sums of two products at 16 bits: keep weights out of reach. */
  readonly saturates?: boolean;
  /** Corrections added to the float bias of an operator (by operator name), one value per output channel. */
  readonly biasCorrections?: ReadonlyMap<string, Float32Array>;
  /** Shapes of the model's tensors; inferred from the model alone when absent. */
  readonly shapes?: Shapes;
}

/** Operators that ONNX Runtime's CPU provider runs on 8-bit codes when surrounded by Q/DQ pairs. */
const int8Operators = new Set([
  'Conv',
  'Gemm',
  'MatMul',
  'Add',
  'Mul',
  'Concat',
  'MaxPool',
  'AveragePool',
  'GlobalAveragePool',
  'Reshape',
  'Flatten',
  'Transpose',
  'Squeeze',
  'Unsqueeze',
  'Slice',
  'Resize',
  'Sigmoid',
  'LeakyRelu',
  'Silu',
]);

/** Whether an operator has an 8-bit form in a QDQ model for ONNX Runtime. */
export function canRunInt8(operator: Operator): boolean {
  if (!int8Operators.has(operator.op) || operator.outputs.length !== 1 || operator.inputs.length === 0) return false;
  // Two activation inputs need two ranges; a constant operand of Add or Mul has none, so those stay float.
  if (operator.op === 'Add' || operator.op === 'Mul') return operator.inputs.length === 2;
  if (operator.op === 'Resize') return operator.kind === 'passThrough';
  return operator.kind !== 'float';
}

/** Whether the output of an 8-bit operator has the same scale and zero point as its input. */
export function keepsRange(operator: Operator): boolean {
  return operator.kind === 'passThrough' && operator.inputs.length === 1 && operator.clamp === null;
}

/** How one tensor is available while the model is written: under float names, as codes, or both. */
interface Availability {
  float: string | null;
  /** Float too, in a form from which the runtime does not quantize the reader on its own; see `#needsShield`. */
  shielded: string | null;
  codes: string | null;
  affine: Affine | null;
}

function availableAsFloat(name: string): Availability {
  return { float: name, shielded: name, codes: null, affine: null };
}

/**
 * Writes a folded model with Q/DQ pairs around the operators that a plan runs at 8 bits, block-wise 4-bit weights where it says
 * W4A32, and float elsewhere.
 *
 * @param precisions by operator name; an operator without an entry is float
 * @param ranges by activation tensor; every tensor that an 8-bit operator reads or writes needs one
 */
export function emitQdq(
  model: Model,
  operators: readonly Operator[],
  precisions: ReadonlyMap<string, Precision>,
  ranges: ReadonlyMap<string, Range>,
  options: QdqOptions,
): Model {
  return new QdqWriter(model, ranges, options).write(operators, precisions);
}

class QdqWriter {
  readonly #model: Model;
  readonly #ranges: ReadonlyMap<string, Range>;
  readonly #options: QdqOptions;
  readonly #nodes: Node[] = [];
  readonly #initializers: Map<string, Tensor>;
  readonly #tensors = new Map<string, Availability>();
  readonly #graphOutputs: ReadonlySet<string>;
  /** By form and initializer: whose quantized weights there are; see `#ownerOf`. */
  readonly #owners = new Map<string, readonly { readonly name: string; readonly scales: Float32Array }[]>();
  /** Tensors that some 8-bit operator reads. */
  readonly #readAsCodes = new Set<string>();
  #shapes: Shapes | null = null;
  #usesContrib = false;

  constructor(model: Model, ranges: ReadonlyMap<string, Range>, options: QdqOptions) {
    this.#model = model;
    this.#ranges = ranges;
    this.#options = options;
    this.#initializers = new Map(model.graph.initializers);
    this.#graphOutputs = new Set(model.graph.outputs.map((output) => output.name));
    for (const input of model.graph.inputs) this.#tensors.set(input.name, availableAsFloat(input.name));
  }

  write(operators: readonly Operator[], precisions: ReadonlyMap<string, Precision>): Model {
    for (const operator of operators) {
      if (precisions.get(operator.name)?.activationBits === 8)
        for (const name of operator.inputs) this.#readAsCodes.add(name);
    }
    for (const operator of operators) {
      const precision = precisions.get(operator.name);
      if (precision === undefined || precision.weightBits === 32) this.#writeFloat(operator);
      else if (
        precision.activationBits === 8 &&
        (precision.weightBits === 8 || operator.weight === null) &&
        canRunInt8(operator)
      )
        this.#writeInt8(operator);
      else if (precision.weightBits === 4 && precision.activationBits === 32 && operator.weight !== null)
        this.#writeBlockwise(operator);
      else {
        throw new EdgeError(
          'artifact/invalid',
          `${operator.op} cannot run at W${precision.weightBits}A${precision.activationBits} here`,
          {
            subject: operator.name,
            hint: 'Leave this precision out of the candidates for the ort target.',
          },
        );
      }
    }
    for (const output of this.#model.graph.outputs) this.#floatNameOf(output.name);
    const used = new Set(this.#nodes.flatMap((node) => node.inputs));
    const initializers = new Map(
      [...this.#initializers].filter(([name]) => used.has(name) || this.#graphOutputs.has(name)),
    );
    const opsets = new Map(this.#model.opsets);
    if (this.#usesContrib) opsets.set('com.microsoft', 1);
    return {
      ...this.#model,
      opsets,
      graph: { ...this.#model.graph, nodes: this.#nodes, initializers, valueInfo: new Map() },
    };
  }

  #writeFloat(operator: Operator): void {
    const form = this.#needsShield(operator) ? 'shielded' : 'float';
    const renamed = new Map(operator.inputs.map((name) => [name, this.#floatNameOf(name, form)]));
    for (const node of operator.nodes) {
      // Inputs hidden in subgraphs or outside `operator.inputs` still resolve through the tensor table.
      this.#nodes.push({ ...node, inputs: node.inputs.map((name) => renamed.get(name) ?? name) });
    }
    for (const name of operator.outputs) this.#tensors.set(name, availableAsFloat(name));
  }

  #writeInt8(operator: Operator): void {
    const output = operator.outputs[0]!;
    const inputs = new Map(operator.inputs.map((name) => [name, this.#dequantized(name, operator.name)]));
    const firstInput = this.#tensors.get(operator.inputs[0]!)!;
    const affine = keepsRange(operator) ? firstInput.affine! : this.#affineOf(output, operator.clamp);
    // A Gemm that nothing reads as codes need not round its output: its kernel writes float as well.
    const isBare = operator.op === 'Gemm' && operator.clamp === null && !this.#readAsCodes.has(output);
    const raw = isBare ? output : `${output}_raw`;
    const nodes = this.#dropsClamp(operator, affine) ? operator.nodes.slice(0, -1) : operator.nodes;
    const last = nodes[nodes.length - 1]!;
    const rename = new Map([...inputs, ...this.#correctedAddend(operator)]);
    nodes.forEach((node, index) => {
      const isLast = node === last;
      let nodeInputs = node.inputs.map((name) => rename.get(name) ?? name);
      if (index === 0 && operator.weight !== null)
        nodeInputs = this.#int8Constants(operator, node, nodeInputs, firstInput.affine!);
      this.#nodes.push({ ...node, inputs: nodeInputs, outputs: isLast ? [raw] : node.outputs });
      if (!isLast && operator.op === 'Silu') {
        // The sigmoid inside SiLU lies in (0, 1): a fixed range, no calibration needed.
        const inner = node.outputs[0]!;
        rename.set(inner, this.#quantizeDequantize(inner, this.#affineFor({ minimum: 0, maximum: 1 })));
      }
    });
    if (isBare) this.#tensors.set(output, availableAsFloat(output));
    else
      this.#tensors.set(output, {
        float: null,
        shielded: null,
        codes: this.#quantize(raw, `${output}_q`, affine),
        affine,
      });
  }

  /**
   * A code range that ends within half a step of the clamp does the same as the clamping node: what is clamped rounds to the
   * outermost code. ONNX Runtime has to be spared such nodes; it fails on some of them when it fuses.
   */
  #dropsClamp(operator: Operator, affine: Affine): boolean {
    if (this.#options.variant !== 'ort' || operator.clamp === null || operator.nodes.length < 2) return false;
    const [low, high] = operator.clamp;
    const lowest = (affine.codeMinimum - affine.zeroPoint) * affine.scale;
    const highest = (affine.codeMaximum - affine.zeroPoint) * affine.scale;
    return lowest >= low - affine.scale * 0.501 && highest <= high + affine.scale * 0.501;
  }

  /** Weight and bias of a weighted operator as DQ of int8 and int32 initializers; answers the node's new inputs. */
  #int8Constants(operator: Operator, node: Node, inputs: readonly string[], inputAffine: Affine): string[] {
    const { name, channelAxis } = operator.weight!;
    const tensor = this.#initializers.get(name)!;
    const bias = node.op === 'MatMul' ? null : this.#biasOf(operator, tensor.dims[channelAxis]!);
    // A channel of tiny weights would need bias codes beyond 32 bits: its scale is raised, which costs weights that hardly matter.
    const leastScales = bias?.map((value) => Math.abs(value) / (2 ** 30 * inputAffine.scale));
    const quantized = quantizeWeights(readFloats(tensor), tensor.dims, channelAxis, 8, {
      ...deployedOptions(operator, tensor.dims, 8, this.#options.saturates ?? false),
      ...(leastScales === undefined ? {} : { leastScales }),
    });
    const rewritten = [...inputs];
    rewritten[1] = this.#dequantizedWeights(operator, tensor, channelAxis, quantized);
    if (bias !== null) rewritten[2] = this.#writeBias(operator, bias, quantized, inputAffine);
    else if (node.inputs.length > 2 && node.inputs[2] === '') rewritten.length = 2;
    return rewritten;
  }

  /** The bias of a MatMul is a float Add behind it; one without bias cannot be corrected. */
  #correctedAddend(operator: Operator): [string, string][] {
    const correction = this.#options.biasCorrections?.get(operator.name);
    if (operator.op !== 'MatMul' || operator.bias === null || correction === undefined) return [];
    const bias = this.#initializers.get(operator.bias)!;
    const corrected = readFloats(bias).map((value, channel) => value + correction[channel]!);
    return [[operator.bias, this.#constant(makeTensor(`${operator.name}_corrected`, 'float32', bias.dims, corrected))]];
  }

  #dequantizedWeights(operator: Operator, tensor: Tensor, axis: number, quantized: QuantizedWeights): string {
    const owner = this.#ownerOf('w8', operator, quantized.scales);
    const codes = this.#constant(makeTensor(`${owner}_w8`, 'int8', tensor.dims, quantized.codes));
    const scale = this.#constant(
      makeTensor(`${owner}_w8_scale`, 'float32', [quantized.scales.length], quantized.scales),
    );
    const zero = this.#constant(
      makeTensor(`${owner}_w8_zero`, 'int8', [quantized.scales.length], new Int8Array(quantized.scales.length)),
    );
    const output = `${operator.name}_w8_dq`;
    this.#push('DequantizeLinear', [codes, scale, zero], output, new Map([['axis', int(axis)]]));
    return output;
  }

  /**
   * The operator whose constants hold this operator's quantized weights: the first that reads the same initializer with the same
   * scales, so that what operators share stays shared.
   */
  #ownerOf(form: 'w8' | 'w4', operator: Operator, scales: Float32Array): string {
    const { name, channelAxis } = operator.weight!;
    const key = `${form} ${channelAxis} ${name}`;
    const owners = this.#owners.get(key) ?? [];
    const isSame = (others: Float32Array) => others.every((scale, channel) => scale === scales[channel]);
    const known = owners.find((owner) => isSame(owner.scales));
    if (known !== undefined) return known.name;
    this.#owners.set(key, [...owners, { name: operator.name, scales }]);
    return operator.name;
  }

  /** Float bias with its correction; null where there is neither. */
  #biasOf(operator: Operator, channels: number): Float32Array | null {
    const correction = this.#options.biasCorrections?.get(operator.name);
    if (operator.bias === null && correction === undefined) return null;
    const values = operator.bias === null ? null : readFloats(this.#initializers.get(operator.bias)!);
    return Float32Array.from({ length: channels }, (_, channel) => {
      const value = values === null ? 0 : values[values.length === 1 ? 0 : channel]!;
      return value + (correction?.[channel] ?? 0);
    });
  }

  /** The bias as DQ of int32 codes at the accumulator's scale; as it is for TensorRT, which takes no integer bias. */
  #writeBias(operator: Operator, values: Float32Array, quantized: QuantizedWeights, inputAffine: Affine): string {
    const prefix = operator.name;
    const channels = values.length;
    if (this.#options.variant === 'tensorrt')
      return this.#constant(makeTensor(`${prefix}_bias`, 'float32', [channels], values));
    const codes = new Int32Array(channels);
    const scales = new Float32Array(channels);
    for (let channel = 0; channel < channels; channel++) {
      const scale = Math.fround(quantized.scales[channel]! * inputAffine.scale);
      scales[channel] = scale;
      codes[channel] = Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, Math.round(values[channel]! / scale)));
    }
    const bias = this.#constant(makeTensor(`${prefix}_b32`, 'int32', [channels], codes));
    const scale = this.#constant(makeTensor(`${prefix}_b32_scale`, 'float32', [channels], scales));
    const zero = this.#constant(makeTensor(`${prefix}_b32_zero`, 'int32', [channels], new Int32Array(channels)));
    const output = `${prefix}_b32_dq`;
    this.#push('DequantizeLinear', [bias, scale, zero], output, new Map([['axis', int(0)]]));
    return output;
  }

  #writeBlockwise(operator: Operator): void {
    const tensor = this.#initializers.get(operator.weight!.name)!;
    const [node, ...rest] = operator.nodes;
    const input = this.#floatNameOf(operator.inputs[0]!);
    const output = node!.outputs[0]!;
    const quantized = quantizeBlockwise(operator, tensor);
    const owner = this.#ownerOf('w4', operator, quantized.scales);
    const { nodes, constants } = matMulNBitsNode(operator, tensor, quantized, owner, input, output);
    for (const constant of constants) this.#constant(constant);
    this.#nodes.push(...nodes, ...rest);
    this.#usesContrib = true;
    for (const name of operator.outputs) this.#tensors.set(name, availableAsFloat(name));
  }

  /** The float name of a tensor, dequantized once and shared by all float readers when it exists only as codes. */
  #floatNameOf(name: string, form: 'float' | 'shielded' = 'float'): string {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) return name;
    if (tensor[form] === null) {
      tensor[form] = form === 'float' ? name : `${name}_shielded`;
      if (form === 'float') this.#dequantize(tensor.codes!, tensor[form], tensor.affine!);
      else this.#dequantizeByChannel(tensor.codes!, name, tensor[form], tensor.affine!);
    }
    return tensor[form];
  }

  /**
   * ONNX Runtime quantizes the weights of a float Conv or Gemm between a DQ and a Q (its WeightBiasQuantization: one scale for
   * all channels), and moves a DQ behind pools and reshapes to find more of them. Both look for a DQ of one scale: behind one
   * with a scale for each channel, all of them equal, what the plan says is float stays float.
   */
  #needsShield(operator: Operator): boolean {
    return this.#options.variant === 'ort' && (operator.weight !== null || operator.kind === 'passThrough');
  }

  #dequantizeByChannel(codes: string, name: string, output: string, affine: Affine): void {
    this.#shapes ??= this.#options.shapes ?? inferShapes(this.#model);
    const dims = this.#shapes.get(name) ?? [];
    const axis = (dims[1] ?? 1) > 1 ? 1 : dims.findIndex((size) => size > 1);
    if (axis < 0) {
      this.#dequantize(codes, output, affine);
      return;
    }
    const size = dims[axis]!;
    const scale = this.#constant(
      makeTensor(`${output}_scale`, 'float32', [size], new Float32Array(size).fill(affine.scale)),
    );
    const zero = this.#constant(
      makeTensor(`${output}_zero`, 'uint8', [size], new Uint8Array(size).fill(affine.zeroPoint)),
    );
    this.#push('DequantizeLinear', [codes, scale, zero], output, new Map([['axis', int(axis)]]));
  }

  /** A DQ of the tensor's codes for one reader alone, as ONNX Runtime's node groups want it. */
  #dequantized(name: string, reader: string): string {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new Error(`tensor ${name} is read before it is written`);
    if (tensor.codes === null) {
      tensor.affine = this.#affineOf(name, null);
      tensor.codes = this.#quantize(tensor.float!, `${name}_q`, tensor.affine);
    }
    const output = `${name}_dq_${reader}`;
    this.#dequantize(tensor.codes, output, tensor.affine!);
    return output;
  }

  #quantizeDequantize(name: string, affine: Affine): string {
    const codes = this.#quantize(name, `${name}_q`, affine);
    const output = `${name}_dq`;
    this.#dequantize(codes, output, affine);
    return output;
  }

  #affineOf(name: string, clamp: readonly [number, number] | null): Affine {
    const range = this.#ranges.get(name);
    if (range === undefined) {
      throw new EdgeError('artifact/invalid', `there is no range for tensor ${name}`, {
        subject: name,
        hint: 'Calibrate again.',
      });
    }
    const minimum = clamp === null ? range.minimum : Math.max(range.minimum, clamp[0]);
    const maximum = clamp === null ? range.maximum : Math.min(range.maximum, clamp[1]);
    return this.#affineFor({ minimum, maximum });
  }

  #affineFor(range: Range): Affine {
    return activationAffine(this.#options.variant, range, 8);
  }

  #quantize(input: string, output: string, affine: Affine): string {
    this.#push('QuantizeLinear', [input, ...this.#affineConstants(output, affine)], output);
    return output;
  }

  #dequantize(input: string, output: string, affine: Affine): void {
    this.#push('DequantizeLinear', [input, ...this.#affineConstants(output, affine)], output);
  }

  #affineConstants(prefix: string, affine: Affine): [string, string] {
    const scale = this.#constant(makeTensor(`${prefix}_scale`, 'float32', [], Float32Array.of(affine.scale)));
    const zero =
      affine.codeMinimum < 0
        ? makeTensor(`${prefix}_zero`, 'int8', [], Int8Array.of(affine.zeroPoint))
        : makeTensor(`${prefix}_zero`, 'uint8', [], Uint8Array.of(affine.zeroPoint));
    return [scale, this.#constant(zero)];
  }

  #constant(tensor: Tensor): string {
    this.#initializers.set(tensor.name, tensor);
    return tensor.name;
  }

  #push(
    op: string,
    inputs: readonly string[],
    output: string,
    attributes: ReadonlyMap<string, AttributeValue> = new Map(),
  ): void {
    this.#nodes.push({ name: `${output}_${op}`, op, domain: '', inputs, outputs: [output], attributes });
  }
}

function int(value: number): AttributeValue {
  return { kind: 'int', value };
}

/**
 * Bytes that an operator's weight and bias take in the artifact at a precision, by what they are: equal names of two operators are
 * one constant. Float constants go by their initializers.
 */
export function storedConstants(operator: Operator, weight: Tensor | null, precision: Precision): Map<string, number> {
  if (weight === null || operator.weight === null) return new Map();
  const { name, channelAxis } = operator.weight;
  const count = weight.dims.reduce((a, b) => a * b, 1);
  const channels = weight.dims[channelAxis] ?? 1;
  const stored = new Map<string, number>();
  if (precision.weightBits === 32) stored.set(name, count * 4);
  else if (precision.activationBits === 32)
    stored.set(`${name} in blocks, ${channelAxis}`, blockBytes(operator, weight));
  // Codes, and a scale and a zero point per channel.
  else stored.set(`${name} in codes, ${channelAxis}`, count + channels * 5);
  if (operator.bias === null) return stored;
  // Codes, scales and zero points too, for the input's scale is in them; the bias of a MatMul is an Add that stays.
  const isInteger = precision.activationBits === 8 && operator.op !== 'MatMul';
  return isInteger ? stored.set(`${operator.name} bias`, channels * 12) : stored.set(operator.bias, channels * 4);
}
