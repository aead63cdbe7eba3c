/** Models in 16-bit floating point against the same model in float32, and against ONNX Runtime computing in 16 bits. */
import t from 'tap';
import { decode, encode } from '../../../../agent/core/onnx/codec.js';
import { widenHalves } from '../../../../agent/core/onnx/half.js';
import type { ElementType, Model, Tensor } from '../../../../agent/core/onnx/model.js';
import { makeTensor, readFloats } from '../../../../agent/core/onnx/tensor.js';
import { prepare } from '../../../../agent/core/prepare.js';
import { canRunInt8 } from '../../../../agent/core/quant/qdq.js';
import { NetworkBuilder } from '../../../support/networks.js';
import { announceSeed, Random } from '../../../support/seed.js';
import { largestDifference, randomFeeds, run } from './runtime.js';
import { floats, info, ints, model, node } from './support.js';

const seed = announceSeed();
type Half = 'float16' | 'bfloat16';
const codes: Readonly<Record<Half, number>> = { float16: 10, bfloat16: 16 };

/** Bits of a number that the type holds exactly. */
function bitsOf(value: number, type: Half): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!;
  if (type === 'bfloat16') return bits >>> 16;
  const exponent = (bits >>> 23) & 255;
  return value === 0 ? 0 : ((bits >>> 16) & 0x8000) | ((exponent - 127 + 15) << 10) | ((bits >>> 13) & 1023);
}

function toHalf(tensor: Tensor, type: Half): Tensor {
  const values = Uint16Array.from(readFloats(tensor), (value) => bitsOf(value, type));
  return makeTensor(tensor.name, type, tensor.dims, values);
}

/** A small classifier whose weights need few bits. */
function network(): Model {
  const random = new Random(seed);
  const builder = new NetworkBuilder(random, [1, 3, 6, 6]);
  const hidden = builder.silu(builder.clip(builder.conv('x', { out: 6 }), 0, 6));
  const source = builder.build([builder.same('Softmax', builder.gemm(builder.pooled(hidden), 4), { axis: -1 })]);
  const round = (tensor: Tensor) =>
    tensor.type === 'float32'
      ? makeTensor(
          tensor.name,
          'float32',
          tensor.dims,
          readFloats(tensor).map((value) => Math.round(value * 32) / 32),
        )
      : tensor;
  const initializers = new Map([...source.graph.initializers].map(([name, tensor]) => [name, round(tensor)]));
  return { ...source, graph: { ...source.graph, initializers } };
}

/** The network as a converter writes it in 16 bits: throughout, or between casts of inputs and outputs that stay float32. */
function halved(source: Model, type: Half, keepsInterface: boolean): Model {
  const { graph } = source;
  const initializers = new Map(
    [...graph.initializers].map(([name, tensor]) => [name, tensor.type === 'float32' ? toHalf(tensor, type) : tensor]),
  );
  const retyped = (of: typeof graph.inputs) => of.map((value) => ({ ...value, type: type as ElementType }));
  if (!keepsInterface)
    return {
      ...source,
      graph: { ...graph, initializers, inputs: retyped(graph.inputs), outputs: retyped(graph.outputs) },
    };
  const output = graph.outputs[0]!.name;
  const inside = (name: string) => (name === 'x' || name === output ? `${name}_half` : name);
  const nodes = [
    node('Cast', ['x'], ['x_half'], { to: codes[type] }),
    ...graph.nodes.map((each) => ({ ...each, inputs: each.inputs.map(inside), outputs: each.outputs.map(inside) })),
    node('Cast', [`${output}_half`], [output], { to: 1 }),
  ];
  return { ...source, graph: { ...graph, initializers, nodes } };
}

for (const type of ['float16', 'bfloat16'] as const) {
  for (const keepsInterface of [true, false]) {
    t.test(
      `${type}, ${keepsInterface ? 'between casts' : 'throughout'}: becomes the float32 model, ready to be quantized`,
      async (t) => {
        const source = network();
        const given = decode(encode(halved(source, type, keepsInterface)));
        const widened = widenHalves(given);
        const feeds = randomFeeds(source, new Map([['x', [1, 3, 6, 6]]]), seed);
        t.equal(largestDifference(await run(source, feeds), await run(widened, feeds)), 0);

        const [plain, prepared] = [prepare(source, null), prepare(given, null)];
        t.strictSame(
          prepared.operators.map(({ op, kind }) => [op, kind]),
          plain.operators.map(({ op, kind }) => [op, kind]),
        );
        t.strictSame([prepared.macs, prepared.parameters], [plain.macs, plain.parameters]);
        t.ok(prepared.operators.every((operator) => canRunInt8(operator) || operator.op === 'Softmax'));
        const tensors = prepared.operators.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]);
        t.ok(tensors.every((name) => prepared.floatTensors.has(name)));
        t.equal(largestDifference(await run(plain.model, feeds), await run(prepared.model, feeds)), 0);
      },
    );
  }
}

t.test('what 16 bits compute is near what float32 computes afterwards', async (t) => {
  const given = halved(network(), 'float16', true);
  const feeds = randomFeeds(given, new Map([['x', [1, 3, 6, 6]]]), seed);
  const difference = largestDifference(await run(given, feeds), await run(widenHalves(given), feeds));
  t.ok(difference < 0.02, String(difference));
});

t.test('types in attributes are widened too: casts, constants and tensors that are made', async (t) => {
  const value = toHalf(floats('value', [1], [1.5]), 'float16');
  const given = model({
    inputs: [info('x', [2, 2])],
    initializers: [ints('shape', [2, 2])],
    nodes: [
      node('Cast', ['x'], ['whole'], { to: 7 }),
      node('Cast', ['whole'], ['half'], { to: 10 }),
      node('ConstantOfShape', ['shape'], ['made'], { value }),
      node('EyeLike', ['half'], ['eye'], { dtype: 10 }),
      node('Add', ['half', 'made'], ['sum']),
      node('Add', ['sum', 'eye'], ['total']),
      node('Cast', ['total'], ['y'], { to: 1 }),
    ],
    outputs: [info('y', [2, 2])],
  });
  const feeds = new Map([['x', { dims: [2, 2], data: Float32Array.of(1.25, -2.75, 3, 4.5) }]]);
  const widened = widenHalves(given);
  t.strictSame([...(await run(widened, feeds)).get('y')!.data], [3.5, -0.5, 4.5, 6.5]);
  t.strictSame(
    widened.graph.nodes.map(({ op }) => op),
    ['Cast', 'Cast', 'ConstantOfShape', 'EyeLike', 'Add', 'Add', 'Identity'],
  );
});

t.test('a float32 model comes back as it is', async (t) => {
  const source = network();
  t.equal(widenHalves(source), source);
});

t.test('what cannot be looked into is refused, with what to do', async (t) => {
  const plain = halved(network(), 'float16', true);
  const nodes = plain.graph.nodes.map((each) => (each.op === 'Clip' ? { ...each, op: 'If', captures: ['k0'] } : each));
  t.throws(() => prepare({ ...plain, graph: { ...plain.graph, nodes } }, null), {
    code: 'model/unsupported',
    subject: /^Clip:/,
    hint: /float32/,
  });
});
