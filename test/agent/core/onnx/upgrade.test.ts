/** Models of old opsets compute the same after they are brought to the working one, as ONNX Runtime computes both. */
import t from 'tap';
import type { Tensor } from '../../../../agent/core/onnx/model.js';
import { inferShapes } from '../../../../agent/core/onnx/shapes.js';
import { upgrade, workingOpset } from '../../../../agent/core/onnx/upgrade.js';
import { largestDifference, randomFeeds, run } from './runtime.js';
import { floats, info, ints, model, node } from './support.js';

interface Case {
  name: string;
  op: string;
  opsets: readonly number[];
  shape: readonly number[];
  attributes?: Parameters<typeof node>[3];
  constants?: readonly Tensor[];
  outputs?: number;
}

const scales = floats('scales', [4], [1, 1, 2, 3]);

const cases: readonly Case[] = [
  {
    name: 'Clip with both bounds',
    op: 'Clip',
    opsets: [8, 10],
    shape: [1, 3, 4],
    attributes: { min: { float: -0.3 }, max: { float: 0.5 } },
  },
  {
    name: 'Clip without a lower bound',
    op: 'Clip',
    opsets: [8, 10],
    shape: [1, 3, 4],
    attributes: { max: { float: 0.5 } },
  },
  { name: 'Clip without bounds', op: 'Clip', opsets: [8, 10], shape: [1, 3, 4] },
  {
    name: 'Clip of opset 11',
    op: 'Clip',
    opsets: [11, 12],
    shape: [1, 3, 4],
    constants: [floats('low', [], [-0.2]), floats('high', [], [0.4])],
  },
  { name: 'Dropout', op: 'Dropout', opsets: [8, 10, 11], shape: [1, 5], attributes: { ratio: { float: 0.4 } } },
  {
    name: 'Pad with zeros',
    op: 'Pad',
    opsets: [8, 10],
    shape: [1, 2, 3, 4],
    attributes: { pads: [0, 0, 1, 2, 0, 0, 2, 1] },
  },
  {
    name: 'Pad with a value',
    op: 'Pad',
    opsets: [8],
    shape: [1, 2, 3],
    attributes: { pads: [0, 1, 1, 0, 0, 2], value: { float: 1.5 } },
  },
  {
    name: 'Pad by reflection',
    op: 'Pad',
    opsets: [8],
    shape: [1, 2, 4, 4],
    attributes: { pads: [0, 0, 1, 1, 0, 0, 1, 1], mode: 'reflect' },
  },
  {
    name: 'Slice of named axes',
    op: 'Slice',
    opsets: [8, 9],
    shape: [1, 5, 6],
    attributes: { starts: [1, -4], ends: [4, 100], axes: [1, 2] },
  },
  {
    name: 'Slice of the first axes',
    op: 'Slice',
    opsets: [9],
    shape: [3, 5, 6],
    attributes: { starts: [1, 0], ends: [3, 2] },
  },
  {
    name: 'Slice of opset 10',
    op: 'Slice',
    opsets: [10, 12],
    shape: [1, 5],
    constants: [ints('starts', [1]), ints('ends', [4]), ints('axes', [1])],
  },
  { name: 'Squeeze of an axis', op: 'Squeeze', opsets: [8, 11, 12], shape: [1, 3, 1, 2], attributes: { axes: [2] } },
  { name: 'Squeeze of all', op: 'Squeeze', opsets: [11], shape: [1, 3, 1, 2] },
  { name: 'Unsqueeze', op: 'Unsqueeze', opsets: [8, 11, 12], shape: [1, 3, 2], attributes: { axes: [0, 3] } },
  {
    name: 'ReduceSum over axes',
    op: 'ReduceSum',
    opsets: [8, 11],
    shape: [1, 3, 4, 2],
    attributes: { axes: [2, 3], keepdims: 0 },
  },
  { name: 'ReduceSum over all', op: 'ReduceSum', opsets: [11], shape: [1, 3, 4] },
  {
    name: 'ReduceMean keeps its axes',
    op: 'ReduceMean',
    opsets: [8, 12],
    shape: [1, 3, 4, 2],
    attributes: { axes: [2, 3] },
  },
  {
    name: 'Split into given sizes',
    op: 'Split',
    opsets: [8, 11],
    shape: [1, 6, 2],
    attributes: { axis: 1, split: [1, 2, 3] },
    outputs: 3,
  },
  { name: 'Split into equal parts', op: 'Split', opsets: [11], shape: [1, 6, 2], attributes: { axis: 1 }, outputs: 2 },
  {
    name: 'Upsample with scales as an attribute',
    op: 'Upsample',
    opsets: [8],
    shape: [1, 2, 3, 3],
    attributes: { mode: 'nearest', scales: { floats: [1, 1, 2, 2] } },
  },
  {
    name: 'Upsample with scales as an input',
    op: 'Upsample',
    opsets: [9],
    shape: [1, 2, 3, 2],
    attributes: { mode: 'nearest' },
    constants: [scales],
  },
  {
    name: 'Upsample, linear',
    op: 'Upsample',
    opsets: [9],
    shape: [1, 2, 3, 3],
    attributes: { mode: 'linear' },
    constants: [floats('scales', [4], [1, 1, 2, 2])],
  },
  {
    name: 'Resize of opset 10',
    op: 'Resize',
    opsets: [10],
    shape: [1, 2, 3, 2],
    attributes: { mode: 'nearest' },
    constants: [scales],
  },
  {
    name: 'Resize of opset 10, smaller',
    op: 'Resize',
    opsets: [10],
    shape: [1, 2, 6, 9],
    attributes: { mode: 'nearest' },
    constants: [floats('scales', [4], [1, 1, 0.5, 1 / 3])],
  },
  {
    name: 'Resize of opset 10, linear',
    op: 'Resize',
    opsets: [10],
    shape: [1, 2, 4, 4],
    attributes: { mode: 'linear' },
    constants: [floats('scales', [4], [1, 1, 2, 2])],
  },
  { name: 'Softmax over the last axis', op: 'Softmax', opsets: [8, 11, 12], shape: [2, 5], attributes: { axis: 1 } },
  { name: 'Softmax over all axes but the first', op: 'Softmax', opsets: [8, 11], shape: [2, 3, 4, 2] },
  { name: 'Softmax over channels and a pixel', op: 'Softmax', opsets: [11], shape: [2, 5, 1, 1] },
  { name: 'Softmax from the end', op: 'Softmax', opsets: [11, 12], shape: [2, 3, 4], attributes: { axis: -1 } },
  { name: 'Softmax from the second last', op: 'Softmax', opsets: [12], shape: [2, 3, 4], attributes: { axis: -2 } },
  { name: 'LogSoftmax over several axes', op: 'LogSoftmax', opsets: [11], shape: [2, 3, 4], attributes: { axis: 1 } },
  { name: 'Hardmax over several axes', op: 'Hardmax', opsets: [11], shape: [2, 3, 4], attributes: { axis: 1 } },
  {
    name: 'BatchNormalization',
    op: 'BatchNormalization',
    opsets: [8, 9, 12],
    shape: [1, 2, 3, 3],
    attributes: { epsilon: { float: 1e-3 } },
    constants: [
      floats('scale', [2], [1, 2]),
      floats('offset', [2], [0.5, -1]),
      floats('mean', [2], [0.1, 0.2]),
      floats('variance', [2], [1, 0.25]),
    ],
  },
  { name: 'Flatten and the rest stay', op: 'Flatten', opsets: [8, 12], shape: [1, 2, 3] },
];

for (const { name, op, opsets, shape, attributes = {}, constants = [], outputs = 1 } of cases) {
  t.test(`${name}, opset ${opsets.join(' and ')}`, async (t) => {
    for (const opset of opsets) {
      const names = Array.from({ length: outputs }, (_, i) => `y${i}`);
      const old = model({
        inputs: [info('x', shape)],
        nodes: [node(op, ['x', ...constants.map((tensor) => tensor.name)], names, attributes)],
        outputs: names.map((output) => info(output, null)),
        initializers: constants,
        opset,
      });
      const shapes = inferShapes(old);
      const upgraded = upgrade(old, shapes);
      t.equal(upgraded.opsets.get(''), workingOpset);
      t.ok(upgraded.irVersion >= 7);
      const feeds = randomFeeds(old, shapes, 3);
      const difference = largestDifference(await run(old, feeds), await run(upgraded, feeds));
      t.ok(difference < 1e-6, `opset ${opset}: ${difference}`);
      const [before, after] = [shapes, inferShapes(upgraded)];
      for (const output of names) t.strictSame(after.get(output), before.get(output), `shape of ${output}`);
    }
  });
}

t.test('inputs that name initializers are dropped, in old and new models', async (t) => {
  for (const opset of [9, 13, 17]) {
    const weight = floats('w', [2], [1, 2]);
    const old = model({
      inputs: [info('x', [1, 2]), info('w', [2])],
      nodes: [node('Mul', ['x', 'w'], ['y'])],
      outputs: [info('y', null)],
      initializers: [weight],
      opset,
    });
    const upgraded = upgrade(old, inferShapes(old));
    t.strictSame(
      upgraded.graph.inputs.map((input) => input.name),
      ['x'],
    );
    t.equal(upgraded.graph.initializers.get('w'), weight);
    t.equal(upgraded.opsets.get(''), Math.max(opset, workingOpset));
  }
});

t.test('new models keep their nodes; other domains keep their versions', async (t) => {
  const source = model({
    inputs: [info('x', [1, 2])],
    nodes: [node('Softmax', ['x'], ['y'], { axis: 1 })],
    outputs: [info('y', null)],
    opset: 17,
  });
  const modern = { ...source, opsets: new Map([...source.opsets, ['com.microsoft', 1]]) };
  const upgraded = upgrade(modern, inferShapes(modern));
  t.equal(upgraded.graph.nodes, modern.graph.nodes);
  t.equal(upgraded.opsets.get('com.microsoft'), 1);
});

t.test('a flattening Softmax of unknown shape is model/unsupported', async (t) => {
  const old = model({
    inputs: [info('x', [1, 2])],
    nodes: [{ ...node('Mystery', ['x'], ['m']), domain: 'somewhere' }, node('Softmax', ['m'], ['y'])],
    outputs: [info('y', null)],
    opset: 11,
  });
  t.throws(() => upgrade(old, inferShapes(old)), { code: 'model/unsupported', subject: 'Softmax:y' });
});
