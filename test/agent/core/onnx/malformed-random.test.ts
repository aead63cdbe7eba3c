import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { encode } from '../../../../agent/core/onnx/codec.js';
import type { Model, Node, Tensor, ValueInfo } from '../../../../agent/core/onnx/model.js';
import { failureOf, wholePath } from './hostile.js';
import { info, model, node, propertyOptions, sampleModels, skipWithoutSamples } from './support.js';

t.test('a valid model cut off or changed anywhere never crashes', { skip: skipWithoutSamples }, async (t) => {
  const small = sampleModels.filter((path) => /cnn-mnist|dscnn|resnet20/.test(path));
  for (const path of small) {
    const bytes = readFileSync(path);
    const damage = fc.record({
      cut: fc.option(fc.integer({ min: 0, max: bytes.length }), { freq: 3 }),
      changes: fc.array(
        fc.record({ at: fc.integer({ min: 0, max: bytes.length - 1 }), bit: fc.integer({ min: 0, max: 7 }) }),
        { maxLength: 4 },
      ),
    });
    fc.assert(
      fc.property(damage, ({ cut, changes }) => {
        const copy = new Uint8Array(bytes.subarray(0, cut ?? bytes.length));
        for (const { at, bit } of changes) if (at < copy.length) copy[at]! ^= 1 << bit;
        failureOf(() => wholePath(copy));
      }),
      propertyOptions(60),
    );
    t.pass(basename(path));
  }
});

/** Small models in which every field may be wrong. Values are drawn so that sense and nonsense are both common. */
const anyName = fc.constantFrom('x', 'a', 'b', 'c', 'w', 'k', 's', '');
const anyInt = fc.oneof(
  fc.integer({ min: -3, max: 9 }),
  fc.constantFrom(2 ** 31, -(2 ** 31), 2 ** 53 - 1, -(2 ** 53 - 1)),
);
const anyDims = fc.array(
  fc.oneof({ weight: 5, arbitrary: fc.constantFrom(1, 2, 4) }, { weight: 1, arbitrary: anyInt }),
  { maxLength: 5 },
);
const operatorNames = [
  'Conv',
  'ConvTranspose',
  'Gemm',
  'MatMul',
  'Add',
  'Mul',
  'Relu',
  'Clip',
  'PRelu',
  'Sigmoid',
  'HardSigmoid',
  'Softmax',
  'MaxPool',
  'AveragePool',
  'GlobalAveragePool',
  'ReduceMean',
  'ReduceSum',
  'Concat',
  'Split',
  'Slice',
  'Pad',
  'Resize',
  'Upsample',
  'Reshape',
  'Flatten',
  'Transpose',
  'Squeeze',
  'Unsqueeze',
  'Gather',
  'Shape',
  'Size',
  'Cast',
  'Constant',
  'Identity',
  'Dropout',
  'BatchNormalization',
  'Exp',
  'Pow',
  'ArgMax',
  'Expand',
  'Tile',
  'ConstantOfShape',
  'Range',
  'Where',
  'TopK',
  'DepthToSpace',
  'QuantizeLinear',
  'LayerNormalization',
  'GatherElements',
  'Frobnicate',
];
const attributeNames = [
  'strides',
  'pads',
  'dilations',
  'group',
  'kernel_shape',
  'auto_pad',
  'axis',
  'axes',
  'perm',
  'alpha',
  'beta',
  'min',
  'max',
  'transA',
  'transB',
  'keepdims',
  'mode',
  'value',
  'to',
  'epsilon',
  'split',
  'starts',
  'ends',
  'scales',
  'ceil_mode',
  'output_shape',
  'output_padding',
  'blocksize',
  'allowzero',
  'shape',
  'training_mode',
];
const anyFloat = fc.oneof(fc.double(), fc.constantFrom(0, 1, -1, 1e30)).map((value) => Math.fround(value));
const anyTensor = fc
  .record({
    dims: anyDims,
    kind: fc.integer({ min: 0, max: 2 }),
    values: fc.array(anyInt, { minLength: 1, maxLength: 6 }),
  })
  .map(({ dims, kind, values }): Tensor => {
    const count = dims.reduce((a, b) => a * b, 1);
    const fill = Array.from({ length: count >= 0 && count <= 256 ? count : 1 }, (_, i) => values[i % values.length]!);
    const type = (['float32', 'int64', 'bool'] as const)[kind]!;
    const array = [Float32Array.from(fill), BigInt64Array.from(fill, BigInt), Uint8Array.from(fill)][kind]!;
    return { name: '', type, dims, bytes: new Uint8Array(array.buffer) };
  });
const anyAttribute = fc.oneof(
  anyInt,
  fc.array(anyInt, { maxLength: 8 }),
  fc.constantFrom('SAME_UPPER', 'VALID', 'nearest', 'linear', 'reflect', ''),
  anyFloat.map((float) => ({ float })),
  fc.array(anyFloat, { maxLength: 4 }).map((values) => ({ floats: values })),
  anyTensor,
);
const anyNode = fc.record({
  op: fc.constantFrom(...operatorNames),
  inputs: fc.array(anyName, { maxLength: 5 }),
  outputs: fc.array(anyName, { minLength: 1, maxLength: 2 }),
  attributes: fc.dictionary(fc.constantFrom(...attributeNames), anyAttribute, { maxKeys: 4 }),
});
const anyModel = fc.record({
  nodes: fc.array(anyNode, { maxLength: 5 }),
  input: anyDims,
  w: anyTensor,
  k: anyTensor,
  s: anyTensor,
  output: fc.constantFrom('a', 'b', 'c', 'x'),
  opset: fc.integer({ min: 8, max: 21 }),
});

/** Makes names unique and known where chance did not, so that most models get past the first checks. */
function connect(
  nodes: readonly { op: string; inputs: string[]; outputs: string[]; attributes: Parameters<typeof node>[3] }[],
): Node[] {
  const made = new Set(['x', 'w', 'k', 's', '']);
  return nodes.map(({ op, inputs, outputs, attributes }, position) => {
    const known = inputs.map((input) => (made.has(input) ? input : 'x'));
    const fresh = outputs.map((output) => (made.has(output) ? `${output}${position}` : output));
    for (const output of fresh) made.add(output);
    return node(op, known, [...new Set(fresh)], attributes);
  });
}

t.test('random models are understood or refused, never a crash', async (t) => {
  let understood = 0;
  let refused = 0;
  fc.assert(
    fc.property(anyModel, fc.boolean(), (parts, connects) => {
      const nodes = connects
        ? connect(parts.nodes)
        : parts.nodes.map((each) => node(each.op, each.inputs, each.outputs, each.attributes));
      const outputs: ValueInfo[] = [info(connects ? (nodes.at(-1)?.outputs[0] ?? 'x') : parts.output, null)];
      const initializers = (['w', 'k', 's'] as const).map((name): Tensor => ({ ...parts[name], name }));
      const built: Model = model({
        inputs: [info('x', parts.input)],
        nodes,
        initializers,
        outputs,
        opset: parts.opset,
      });
      if (failureOf(() => wholePath(encode(built))) === null) understood++;
      else refused++;
    }),
    propertyOptions(2000),
  );
  t.ok(understood > 50, `${understood} understood, ${refused} refused`);
});

t.test('arbitrary bytes are refused', async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => failureOf(() => wholePath(bytes)) !== null),
    propertyOptions(2000),
  );
  t.pass();
});
