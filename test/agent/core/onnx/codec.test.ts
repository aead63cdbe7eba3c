import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import ort from 'onnxruntime-node';
import protobuf from 'protobufjs/light.js';
import t from 'tap';
import { decode, encode } from '../../../../agent/core/onnx/codec.js';
import { readFloats, readInts } from '../../../../agent/core/onnx/tensor.js';
import { floats, info, ints, model, node, sampleModels, skipWithoutSamples } from './support.js';

const { Writer } = protobuf;

t.test(
  'sample models survive decode and encode, and stock ONNX Runtime loads the result',
  { skip: skipWithoutSamples },
  async (t) => {
    for (const path of sampleModels) {
      const bytes = readFileSync(path);
      const once = decode(bytes);
      const encoded = encode(once);
      t.same(decode(encoded).graph.initializers.size, once.graph.initializers.size, basename(path));
      t.ok(Buffer.from(encoded).equals(encode(decode(encoded))), 'encoding is stable');
      const session = await ort.InferenceSession.create(encoded, { graphOptimizationLevel: 'disabled' });
      t.same(
        session.outputNames,
        once.graph.outputs.map((output) => output.name),
      );
      await session.release();
    }
  },
);

t.test('initializers are views of the file', { skip: skipWithoutSamples }, async (t) => {
  const path = sampleModels.find((candidate) => candidate.includes('mobilenetv2'));
  if (path === undefined) return t.pass('no such sample');
  const bytes = readFileSync(path);
  const decoded = decode(bytes);
  const copied = [...decoded.graph.initializers.values()].filter((tensor) => tensor.bytes.buffer !== bytes.buffer);
  t.same(
    copied.reduce((sum, tensor) => sum + tensor.bytes.length, 0) < 1024,
    true,
    'only scalars from attributes are copies',
  );
});

t.test('nodes are sorted, named uniquely, and a sorted list keeps its order', async (t) => {
  const nodes = [
    node('Relu', ['c'], ['d'], {}, ''),
    node('Relu', ['x'], ['b'], {}, 'same'),
    node('Relu', ['b'], ['c'], {}, 'same'),
    node('Relu', ['d'], ['y'], {}, 'last'),
  ];
  const decoded = decode(encode(model({ inputs: [info('x', [1])], nodes, outputs: [info('y', [1])] })));
  t.same(
    decoded.graph.nodes.map((each) => each.outputs[0]),
    ['b', 'c', 'd', 'y'],
  );
  t.equal(new Set(decoded.graph.nodes.map((each) => each.name)).size, 4);
  t.equal(decoded.graph.nodes[0]?.name, 'same');
  const again = decode(encode(decoded));
  t.same(
    again.graph.nodes.map((each) => each.name),
    decoded.graph.nodes.map((each) => each.name),
  );
});

t.test('a Constant node becomes an initializer, whichever attribute holds its value', async (t) => {
  const decoded = decode(
    encode(
      model({
        inputs: [info('x', [2])],
        nodes: [
          node('Constant', [], ['a'], { value: floats('ignored', [2], [1, 2]) }),
          node('Constant', [], ['b'], { value_float: { float: 0.5 } }),
          node('Constant', [], ['c'], { value_ints: [3, -1] }),
          node('Add', ['x', 'a'], ['y']),
        ],
        outputs: [info('y', [2])],
      }),
    ),
  );
  t.same(
    decoded.graph.nodes.map((each) => each.op),
    ['Add'],
  );
  t.same([...readFloats(decoded.graph.initializers.get('a')!)], [1, 2]);
  t.same([...readFloats(decoded.graph.initializers.get('b')!)], [0.5]);
  t.same(readInts(decoded.graph.initializers.get('c')!), [3, -1]);
});

t.test('all attribute kinds and fields unknown to us come back unchanged', async (t) => {
  const original = model({
    inputs: [info('x', ['N', 3, null])],
    nodes: [
      {
        ...node('Custom', ['x', '', 'w'], ['y', ''], {
          i: -7,
          f: { float: 1.5 },
          s: 'text',
          is: [1, -2],
          fs: { floats: [0.25] },
          t: ints('inner', [5]),
        }),
        domain: 'com.example',
        unknown: {
          $unknowns: [
            new Writer()
              .uint32((6 << 3) | 2)
              .string('documentation')
              .finish(),
          ],
        },
      },
    ],
    initializers: [
      {
        ...floats('w', [1], [1]),
        unknown: {
          $unknowns: [
            new Writer()
              .uint32((12 << 3) | 2)
              .string('doc')
              .finish(),
          ],
        },
      },
    ],
    outputs: [info('y', null)],
  });
  const bytes = encode(original);
  const decoded = decode(bytes);
  t.same(decoded.graph.nodes[0]?.attributes, original.graph.nodes[0]?.attributes);
  t.same(decoded.graph.nodes[0]?.inputs, ['x', '', 'w']);
  t.same(decoded.graph.inputs[0]?.shape, ['N', 3, null]);
  t.equal(decoded.graph.outputs[0]?.shape, null);
  t.ok(Buffer.from(encode(decoded)).includes('documentation'));
  t.ok(Buffer.from(encode(decoded)).equals(bytes));
});
