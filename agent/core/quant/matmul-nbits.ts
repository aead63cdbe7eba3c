import type { AttributeValue, Node, Operator, Tensor } from '../onnx/model.js';
import { makeTensor, readFloats } from '../onnx/tensor.js';

/** Weights of a Gemm or MatMul as ONNX Runtime's MatMulNBits stores them: 4-bit codes in blocks of 32 along the inner dimension. */
const blockSize = 32;
const bits = 4;
const zeroCode = 8;

interface MatrixView {
  innerCount: number;
  outputCount: number;
  /** Weight of inner index k and output n. */
  at(k: number, n: number): number;
}

function matrixView(operator: Operator, tensor: Tensor): MatrixView {
  const values = readFloats(tensor);
  const [rows, columns] = [tensor.dims[0]!, tensor.dims[1]!];
  return operator.weight!.channelAxis === 0
    ? { innerCount: columns, outputCount: rows, at: (k, n) => values[n * columns + k]! }
    : { innerCount: rows, outputCount: columns, at: (k, n) => values[k * columns + n]! };
}

/** Whether a weighted operator can be written as MatMulNBits: a 2-D constant weight, no scaling by alpha or beta. */
export function canRunBlockwise(operator: Operator, weight: Tensor | null): boolean {
  if (weight === null || weight.dims.length !== 2) return false;
  if (operator.op === 'MatMul') return true;
  if (operator.op !== 'Gemm') return false;
  const attributes = operator.nodes[0]!.attributes;
  const isOne = (name: string) => ((attributes.get(name) as { value: number } | undefined)?.value ?? 1) === 1;
  const transA = (attributes.get('transA') as { value: number } | undefined)?.value ?? 0;
  return isOne('alpha') && isOne('beta') && transA === 0;
}

/** Bytes of the packed codes and block scales. */
export function blockBytes(operator: Operator, weight: Tensor): number {
  const { innerCount, outputCount } = matrixView(operator, weight);
  const blocks = Math.ceil(innerCount / blockSize);
  return outputCount * blocks * ((blockSize * bits) / 8 + 4);
}

/** A weight in blocks of 32 codes along its inner dimension: output by output, block by block. */
export interface BlockwiseWeights {
  /** Two codes a byte, the first in the low half; the last block of an output is filled up. */
  readonly packed: Uint8Array;
  /** One a block: real = scale * (code - 8). */
  readonly scales: Float32Array;
  /** Dequantized values in the layout of the original tensor. */
  readonly values: Float32Array;
  /** Sum over all weights of (dequantized - float)^2. */
  readonly errorEnergy: number;
}

/**
 * Quantizes to 4 bits per block of 32: real = scale * (code - 8), codes 0..15. The signed value of largest magnitude maps to
 * code 0 (that is -8), which uses the whole code range.
 */
export function quantizeBlockwise(operator: Operator, tensor: Tensor): BlockwiseWeights {
  const view = matrixView(operator, tensor);
  const blocks = Math.ceil(view.innerCount / blockSize);
  const packed = new Uint8Array(view.outputCount * blocks * (blockSize / 2));
  const scales = new Float32Array(view.outputCount * blocks);
  const values = new Float32Array(tensor.dims[0]! * tensor.dims[1]!);
  let errorEnergy = 0;
  for (let n = 0; n < view.outputCount; n++) {
    for (let block = 0; block < blocks; block++) {
      const from = block * blockSize;
      const to = Math.min(from + blockSize, view.innerCount);
      let extreme = 0;
      for (let k = from; k < to; k++) if (Math.abs(view.at(k, n)) > Math.abs(extreme)) extreme = view.at(k, n);
      const scale = Math.fround(extreme === 0 ? 1 : -extreme / zeroCode);
      scales[n * blocks + block] = scale;
      for (let k = from; k < from + blockSize; k++) {
        const value = k < to ? view.at(k, n) : 0;
        const code = Math.max(0, Math.min(15, Math.round(value / scale) + zeroCode));
        packed[((n * blocks + block) * blockSize + (k - from)) >> 1]! |= code << (4 * (k & 1));
        if (k >= to) continue;
        const approximation = Math.fround(scale * (code - zeroCode));
        errorEnergy += (approximation - value) ** 2;
        values[operator.weight!.channelAxis === 0 ? n * view.innerCount + k : k * view.outputCount + n] = approximation;
      }
    }
  }
  return { packed, scales, values, errorEnergy };
}

/**
 * The contrib node that replaces the Gemm or MatMul `operator.nodes[0]`, with its constants; the bias of a Gemm becomes an Add.
 *
 * @param quantized the operator's weight, of quantizeBlockwise
 * @param owner begins the constants' names
 */
export function matMulNBitsNode(
  operator: Operator,
  tensor: Tensor,
  { packed, scales }: BlockwiseWeights,
  owner: string,
  input: string,
  output: string,
): { nodes: Node[]; constants: Tensor[] } {
  const { innerCount, outputCount } = matrixView(operator, tensor);
  const blocks = Math.ceil(innerCount / blockSize);
  const codes = makeTensor(`${owner}_w4`, 'uint8', [outputCount, blocks, blockSize / 2], packed);
  const scale = makeTensor(`${owner}_w4_scale`, 'float32', [outputCount * blocks], scales);
  const attributes = new Map<string, AttributeValue>([
    ['K', { kind: 'int', value: innerCount }],
    ['N', { kind: 'int', value: outputCount }],
    ['bits', { kind: 'int', value: bits }],
    ['block_size', { kind: 'int', value: blockSize }],
    // 4: the kernel may round activations to int8 per block; several times faster than float accumulation
    ['accuracy_level', { kind: 'int', value: 4 }],
  ]);
  // A Gemm has its bias inside; that of a MatMul is the Add behind it, which stays.
  const bias = operator.op === 'Gemm' ? operator.bias : null;
  const product = bias === null ? output : `${output}_product`;
  const nodes: Node[] = [
    {
      name: `${operator.name}_w4`,
      op: 'MatMulNBits',
      domain: 'com.microsoft',
      inputs: [input, codes.name, scale.name],
      outputs: [product],
      attributes,
    },
  ];
  if (bias !== null) {
    nodes.push({
      name: `${operator.name}_bias`,
      op: 'Add',
      domain: '',
      inputs: [product, bias],
      outputs: [output],
      attributes: new Map(),
    });
  }
  return { nodes, constants: [codes, scale] };
}
