/** ResNet-18 (arXiv 1512.03385) at 224 with seeded random weights: for timing, where the data folder has no model of its size. */
import type { AttributeValue, Model, Node, Tensor } from '../../agent/core/onnx/model.js';
import { makeTensor } from '../../agent/core/onnx/tensor.js';
import { xorshift32 } from '../../agent/core/random.js';

/** Batch normalization is folded already, as it is after preparation. */
export function resnet18(): Model {
  const random = xorshift32(18);
  const nodes: Node[] = [];
  const initializers = new Map<string, Tensor>();
  const constant = (dims: readonly number[], scale: number): string => {
    const name = `c${initializers.size}`;
    const normal = () => random() + random() + random() + random() - 2;
    const values = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => normal() * scale);
    initializers.set(name, makeTensor(name, 'float32', dims, values));
    return name;
  };
  const emit = (op: string, inputs: readonly string[], attributes: Record<string, AttributeValue> = {}): string => {
    const output = `t${nodes.length}`;
    const name = `${op}_${nodes.length}`;
    nodes.push({ name, op, domain: '', inputs, outputs: [output], attributes: new Map(Object.entries(attributes)) });
    return output;
  };
  const ints = (value: readonly number[]): AttributeValue => ({ kind: 'ints', value });
  const conv = (input: string, from: number, to: number, kernel: number, stride: number): string => {
    const pad = kernel >> 1;
    const weight = constant([to, from, kernel, kernel], 1.7 / Math.sqrt(from * kernel * kernel));
    return emit('Conv', [input, weight, constant([to], 0.1)], {
      kernel_shape: ints([kernel, kernel]),
      strides: ints([stride, stride]),
      pads: ints([pad, pad, pad, pad]),
    });
  };
  const relu = (input: string) => emit('Relu', [input]);
  const block = (input: string, from: number, to: number, stride: number): string => {
    const inner = conv(relu(conv(input, from, to, 3, stride)), to, to, 3, 1);
    const shortcut = from === to ? input : conv(input, from, to, 1, stride);
    return relu(emit('Add', [inner, shortcut]));
  };
  let x = relu(conv('x', 3, 64, 7, 2));
  x = emit('MaxPool', [x], { kernel_shape: ints([3, 3]), strides: ints([2, 2]), pads: ints([1, 1, 1, 1]) });
  for (const [from, to, stride] of [
    [64, 64, 1],
    [64, 128, 2],
    [128, 256, 2],
    [256, 512, 2],
  ] as const) {
    x = block(x, from, to, stride);
    x = block(x, to, to, 1);
  }
  x = emit('Flatten', [emit('GlobalAveragePool', [x])]);
  const output = emit('Gemm', [x, constant([1000, 512], 0.05), constant([1000], 0.1)], {
    transB: { kind: 'int', value: 1 },
  });
  const value = (name: string, shape: readonly number[]) => ({ name, type: 'float32' as const, shape });
  return {
    irVersion: 8,
    opsets: new Map([['', 13]]),
    producer: 'quantd',
    metadata: new Map(),
    graph: {
      name: 'resnet18',
      nodes,
      initializers,
      inputs: [value('x', [1, 3, 224, 224])],
      outputs: [value(output, [1, 1000])],
      valueInfo: new Map(),
    },
  };
}
