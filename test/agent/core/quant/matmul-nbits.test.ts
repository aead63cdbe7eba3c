/** Block-wise 4-bit weights: what ONNX Runtime's MatMulNBits computes is a float product with the values we say they stand for. */
import t from 'tap';
import type { Operator } from '../../../../agent/core/onnx/model.js';
import { readFloats } from '../../../../agent/core/onnx/tensor.js';
import { prepare } from '../../../../agent/core/prepare.js';
import {
  blockBytes,
  canRunBlockwise,
  matMulNBitsNode,
  quantizeBlockwise,
} from '../../../../agent/core/quant/matmul-nbits.js';
import { emitQdq } from '../../../../agent/core/quant/qdq.js';
import { NetworkBuilder } from '../../../support/networks.js';
import { feed, run } from '../../../support/ort.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();
const blockSize = 32;

function prepared(build: (builder: NetworkBuilder) => string, input: readonly number[]) {
  const builder = new NetworkBuilder(new Random(seed), input);
  const output = build(builder);
  const { model, operators } = prepare(builder.build([output]), null);
  const operator = operators[0]!;
  return { model, operators, operator, output, weight: model.graph.initializers.get(operator.weight!.name)! };
}

/** Value of a weight by inner index and output, whatever its layout. */
function valueAt(operator: Operator, values: Float32Array, inner: number, outputs: number) {
  return operator.weight!.channelAxis === 0
    ? (k: number, n: number) => values[n * inner + k]!
    : (k: number, n: number) => values[k * outputs + n]!;
}

interface Layout {
  name: string;
  rows: number;
  build(builder: NetworkBuilder, size: number, outputs: number): string;
}

const layouts: readonly Layout[] = [
  { name: 'Gemm, transposed', rows: 1, build: (builder, _size, outputs) => builder.gemm('x', outputs, true) },
  {
    name: 'Gemm, plain, no bias',
    rows: 1,
    build: (builder, _size, outputs) => builder.gemm('x', outputs, false, false),
  },
  {
    name: 'MatMul of three rows',
    rows: 3,
    build: (builder, size, outputs) =>
      builder.emit('MatMul', ['x', builder.weight([size, outputs], size)], [1, 3, outputs]),
  },
];

function inputDims({ rows }: Layout, size: number): number[] {
  return rows === 1 ? [1, size] : [1, rows, size];
}

for (const layout of layouts) {
  t.test(
    `${layout.name}: the runtime's result is the float product, to the rounding of activations to 8 bits a block`,
    async (t) => {
      for (const [size, outputs] of [
        [32, 8],
        [64, 5],
        [33, 3],
        [7, 4],
        [100, 17],
        [96, 1],
      ] as const) {
        const { model, operators, operator, output, weight } = prepared(
          (builder) => layout.build(builder, size, outputs),
          inputDims(layout, size),
        );
        const { values } = quantizeBlockwise(operator, weight);
        const at = valueAt(operator, values, size, outputs);
        const bias = operator.bias === null ? null : readFloats(model.graph.initializers.get(operator.bias)!);
        const quantized = emitQdq(
          model,
          operators,
          new Map([[operator.name, { weightBits: 4, activationBits: 32 }]]),
          new Map(),
          { variant: 'ort' },
        );
        const data = new Random(seed + size).floats(layout.rows * size);
        const result = (await run(quantized, feed('x', inputDims(layout, size), data), 'all')).get(output)!.data;
        for (let row = 0; row < layout.rows; row++) {
          for (let n = 0; n < outputs; n++) {
            let expected = bias?.[n] ?? 0;
            let tolerance = 1e-5;
            for (let from = 0; from < size; from += blockSize) {
              const block = Array.from({ length: Math.min(blockSize, size - from) }, (_, i) => from + i);
              const largest = Math.max(...block.map((k) => Math.abs(data[row * size + k]!)));
              for (const k of block) {
                expected += data[row * size + k]! * at(k, n);
                // Half a step of 127 to the block's largest activation.
                tolerance += (Math.abs(at(k, n)) * largest * 0.505) / 127;
              }
            }
            const actual = result[row * outputs + n]!;
            t.ok(
              Math.abs(actual - expected) <= tolerance,
              `${size} x ${outputs}, row ${row}, output ${n}: ${actual}, expected ${expected} +- ${tolerance}`,
            );
          }
        }
      }
    },
  );
}

t.test(
  'values are within half a step of the weights, and within one where a block ends at the other sign',
  async (t) => {
    const { operator, weight } = prepared((builder) => builder.gemm('x', 9, true), [1, 75]);
    const floats = readFloats(weight);
    const { values, scales, errorEnergy } = quantizeBlockwise(operator, weight);
    const blocks = Math.ceil(75 / blockSize);
    let energy = 0;
    floats.forEach((value, i) => {
      const scale = Math.abs(scales[Math.floor(i / 75) * blocks + Math.floor((i % 75) / blockSize)]!);
      energy += (values[i]! - value) ** 2;
      // Codes end one step short of the extreme on the side without it.
      t.ok(Math.abs(values[i]! - value) <= scale * 1.0001, `weight ${i}`);
    });
    t.ok(Math.abs(energy - errorEnergy) <= 1e-6 * energy);
    const largest = floats
      .slice(0, blockSize)
      .reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
    t.ok(Math.abs(values[floats.indexOf(largest)]! - largest) < 1e-6, 'the largest weight of a block is exact');
  },
);

t.test('a block of zeros stays zero', async (t) => {
  const builder = new NetworkBuilder(new Random(1), [1, 40]);
  const values = new Float32Array(40 * 2);
  values[35] = 1;
  const output = builder.emit('Gemm', ['x', builder.constant([2, 40], values)], [1, 2], { transB: 1 });
  const { model, operators } = prepare(builder.build([output]), null);
  const quantized = quantizeBlockwise(operators[0]!, model.graph.initializers.get(operators[0]!.weight!.name)!);
  t.strictSame([...quantized.values], [...values]);
  t.equal(quantized.errorEnergy, 0);
});

t.test('stored bytes are those of the codes and scales', async (t) => {
  for (const [size, outputs] of [
    [32, 4],
    [33, 5],
    [70, 3],
  ] as const) {
    const { operator, weight } = prepared((builder) => builder.gemm('x', outputs, true), [1, size]);
    const { constants } = matMulNBitsNode(operator, weight, quantizeBlockwise(operator, weight), 'w', 'x', 'y');
    t.equal(
      blockBytes(operator, weight),
      constants.reduce((sum, tensor) => sum + tensor.bytes.length, 0),
    );
  }
});

t.test('only matrices without scaling by alpha or beta can be written this way', async (t) => {
  const can = (build: (builder: NetworkBuilder) => string, input: readonly number[]) => {
    const builder = new NetworkBuilder(new Random(1), input);
    const { model, operators } = prepare(builder.build([build(builder)]), null);
    const operator = operators[0]!;
    return canRunBlockwise(
      operator,
      operator.weight === null ? null : model.graph.initializers.get(operator.weight.name)!,
    );
  };
  t.ok(can((builder) => builder.gemm('x', 4), [1, 8]));
  t.ok(can((builder) => builder.emit('MatMul', ['x', builder.weight([8, 4], 8)], [1, 4]), [1, 8]));
  t.notOk(can((builder) => builder.conv('x', { out: 4 }), [1, 4, 5, 5]));
  t.notOk(can((builder) => builder.same('Relu', 'x'), [1, 8]));
  t.notOk(can((builder) => builder.emit('Gemm', ['x', builder.weight([8, 4], 8)], [8, 4], { transA: 1 }), [8, 8]));
});
