import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { decode } from '../../../../agent/core/onnx/codec.js';
import type { Model, Node, Tensor } from '../../../../agent/core/onnx/model.js';
import { inferShapes, propagate } from '../../../../agent/core/onnx/shapes.js';
import { elementTypes } from '../../../../agent/core/onnx/types.js';
import { EdgeError } from '../../../../configs/contracts/errors.js';
import { randomFeeds, run } from './runtime.js';
import {
  floats,
  type GraphParts,
  info,
  ints,
  model,
  node,
  propertyOptions,
  sampleModels,
  skipWithoutSamples,
} from './support.js';

/** The model with every activation as a graph output. */
function withAllOutputs(original: Model): Model {
  const names = original.graph.nodes.flatMap((each) => each.outputs).filter((name) => name !== '');
  return { ...original, graph: { ...original.graph, outputs: names.map((name) => info(name, null)) } };
}

/** Tensors whose inferred shape is not what ONNX Runtime computes; all of them must be inferred. */
async function disagreements(original: Model): Promise<string[]> {
  const shapes = inferShapes(original);
  const results = await run(withTypes(withAllOutputs(original)), randomFeeds(original, shapes, 7));
  return [...results]
    .filter(([name, { dims }]) => dims.join() !== shapes.get(name)?.join())
    .map(([name, { dims }]) => `${name}: [${shapes.get(name)}] but really [${dims}]`);
}

function single(
  op: string,
  shape: readonly number[],
  attributes: Parameters<typeof node>[3],
  rest: Tensor[] = [],
  extra: Partial<GraphParts> = {},
): Model {
  const inputs = ['x', ...rest.map((tensor) => tensor.name)];
  return model({
    inputs: [info('x', shape)],
    nodes: [node(op, inputs, ['y'], attributes)],
    initializers: rest,
    outputs: [info('y', null)],
    ...extra,
  });
}

t.test(
  'every tensor of the sample models has the shape that ONNX Runtime gives it',
  { skip: skipWithoutSamples },
  async (t) => {
    for (const path of sampleModels) t.same(await disagreements(decode(readFileSync(path))), [], basename(path));
  },
);

t.test('forms that operators had in older and newer opsets', async (t) => {
  const shape = [1, 4, 6, 6];
  const cases: [string, Model][] = [
    ['Upsample 9', single('Upsample', shape, {}, [floats('s', [4], [1, 1, 2, 2])], { opset: 9 })],
    ['Upsample 8', single('Upsample', shape, { scales: { floats: [1, 1, 2, 2] } }, [], { opset: 8 })],
    ['Resize 10', single('Resize', shape, {}, [floats('s', [4], [1, 1, 0.5, 2])], { opset: 10 })],
    ['Slice 9', single('Slice', shape, { axes: [1, -1], starts: [1, -3], ends: [2 ** 53, -1] }, [], { opset: 9 })],
    ['Pad 10', single('Pad', shape, { pads: [0, 0, 1, 2, 0, 0, 3, 4] }, [], { opset: 10 })],
    ['Squeeze 11', single('Squeeze', [1, 1, 3], { axes: [0] }, [], { opset: 11 })],
    ['Unsqueeze 11', single('Unsqueeze', [2, 3], { axes: [0, -1] }, [], { opset: 11 })],
    ['ReduceMean 13', single('ReduceMean', shape, { axes: [2, 3], keepdims: 0 })],
    ['ReduceMean 18', single('ReduceMean', shape, {}, [ints('a', [-1, 2])], { opset: 18 })],
    ['ReduceSum 13 without axes', single('ReduceSum', shape, { keepdims: 1 })],
    ['ReduceSum 13 that does nothing', single('ReduceSum', shape, { noop_with_empty_axes: 1 })],
    ['Clip 10', single('Clip', shape, { min: { float: 0 }, max: { float: 6 } }, [], { opset: 10 })],
    ['Dropout 10', single('Dropout', shape, {}, [], { opset: 10 })],
    ['Shape 15', single('Shape', shape, { start: 1, end: -1 }, [], { opset: 15 })],
    ['Flatten from the end', single('Flatten', shape, { axis: -2 })],
    ['Flatten past the end', single('Flatten', shape, { axis: 4 })],
    ['Reshape that copies', single('Reshape', shape, {}, [ints('s', [0, -1])])],
    ['Expand', single('Expand', [3, 1], {}, [ints('s', [2, 1, 5])])],
    ['Tile', single('Tile', [2, 3], {}, [ints('s', [3, 2])])],
    ['DepthToSpace', single('DepthToSpace', shape, { blocksize: 2 })],
    ['SpaceToDepth', single('SpaceToDepth', shape, { blocksize: 3 })],
    ['ArgMax', single('ArgMax', shape, { axis: 1, keepdims: 0 })],
    ['Gather of a scalar', single('Gather', shape, { axis: 2 }, [ints('i', [1], [])])],
    ['Gather of a matrix', single('Gather', shape, { axis: 1 }, [ints('i', [0, 1, -1, 2], [2, 2])])],
    ['MatMul of stacks', single('MatMul', [5, 1, 2, 3], {}, [floats('w', [4, 3, 1], new Array(12).fill(1))])],
    ['MatMul of a vector', single('MatMul', [3], {}, [floats('w', [2, 3, 4], new Array(24).fill(1))])],
  ];
  for (const [name, each] of cases) t.same(await disagreements(each), [], name);

  const splits: [string, Node, number][] = [
    ['Split 11', node('Split', ['x'], ['a', 'b', 'c'], { split: [1, 4, 2] }), 11],
    ['Split 18', node('Split', ['x'], ['a', 'b', 'c'], { num_outputs: 3 }), 18],
  ];
  for (const [name, each, opset] of splits) {
    const outputs = each.outputs.map((output) => info(output, null));
    t.same(await disagreements(model({ inputs: [info('x', [7])], nodes: [each], outputs, opset })), [], name);
  }
  const padded = single('Pad', [1, 4, 6, 6], {}, [ints('p', [1, 2])], { opset: 18 });
  const pad = node('Pad', ['x', 'p', '', 'axes'], ['y']);
  const initializers = new Map(padded.graph.initializers).set('axes', ints('axes', [-1]));
  t.same(await disagreements({ ...padded, graph: { ...padded.graph, nodes: [pad], initializers } }), [], 'Pad 18');
});

const axis = fc.record({
  size: fc.integer({ min: 1, max: 12 }),
  kernel: fc.integer({ min: 1, max: 4 }),
  stride: fc.integer({ min: 1, max: 3 }),
  dilation: fc.integer({ min: 1, max: 2 }),
  begin: fc.integer({ min: 0, max: 2 }),
  end: fc.integer({ min: 0, max: 2 }),
});
const window = fc.record({
  op: fc.constantFrom('Conv', 'ConvTranspose', 'MaxPool', 'AveragePool'),
  axes: fc.array(axis, { minLength: 2, maxLength: 2 }),
  autoPad: fc.constantFrom('NOTSET', 'NOTSET', 'SAME_UPPER', 'SAME_LOWER', 'VALID'),
  ceil: fc.boolean(),
});

t.test(
  'convolutions and pools of random geometry have the output size of ONNX Runtime, or are refused by both',
  async (t) => {
    let compared = 0;
    await fc.assert(
      fc.asyncProperty(window, async ({ op, axes, autoPad, ceil }) => {
        const isPool = op.endsWith('Pool');
        const spread = op !== 'AveragePool' && autoPad === 'NOTSET';
        const shape = [1, 2, ...axes.map((each) => each.size)];
        const kernel = axes.map((each) => each.kernel);
        const built = single(
          op,
          shape,
          {
            ...(isPool ? { kernel_shape: kernel, ceil_mode: ceil && autoPad === 'NOTSET' ? 1 : 0 } : {}),
            // ONNX Runtime refuses SAME pools that step over input.
            strides: axes.map((each) =>
              isPool && autoPad !== 'NOTSET' ? Math.min(each.stride, each.kernel) : each.stride,
            ),
            ...(spread ? { dilations: axes.map((each) => each.dilation) } : {}),
            ...(autoPad === 'NOTSET'
              ? {
                  pads: [
                    ...axes.map((each) => Math.min(each.begin, each.kernel - 1)),
                    ...axes.map((each) => Math.min(each.end, each.kernel - 1)),
                  ],
                }
              : { auto_pad: autoPad }),
          },
          isPool ? [] : [floats('w', [2, 2, ...kernel], new Array(4 * kernel[0]! * kernel[1]!).fill(1))],
        );
        try {
          inferShapes(built);
        } catch (error) {
          if (!(error instanceof EdgeError)) throw error;
          return; // ONNX Runtime answers some of these with empty tensors, which no plan can use.
        }
        compared++;
        const wrong = await disagreements(built);
        if (wrong.length > 0) throw new Error(wrong.join());
      }),
      propertyOptions(250),
    );
    t.ok(compared > 100, `${compared} compared`);
  },
);

t.test('random slices have the shape of ONNX Runtime', async (t) => {
  const bound = fc.oneof(fc.integer({ min: -8, max: 8 }), fc.constantFrom(2 ** 31 - 1, -(2 ** 31), 2 ** 40));
  const step = fc.constantFrom(1, 1, 2, 3, -1, -2);
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 6 }), bound, bound, step, async (size, start, end, by) => {
      const rest = [ints('s', [start]), ints('e', [end]), ints('a', [1]), ints('t', [by])];
      const built = single('Slice', [1, size], {}, rest);
      const wrong = await disagreements(built);
      if (wrong.length > 0) throw new Error(wrong.join());
    }),
    propertyOptions(300),
  );
  t.pass();
});

t.test('sizes computed from Shape are resolved', async (t) => {
  // Doubling the image by the arithmetic that exporters write: Shape, Slice, Cast, Mul, Floor, Cast, Concat, Resize.
  const built = model({
    inputs: [info('x', ['batch', 3, 5, 7])],
    nodes: [
      node('Shape', ['x'], ['shape']),
      node('Slice', ['shape', 'two', 'four', 'zero'], ['space']),
      node('Cast', ['space'], ['spaceFloat'], { to: 1 }),
      node('Mul', ['spaceFloat', 'factor'], ['scaled']),
      node('Floor', ['scaled'], ['floored']),
      node('Cast', ['floored'], ['sizes'], { to: 7 }),
      node('Slice', ['shape', 'zero', 'two', 'zero'], ['lead']),
      node('Concat', ['lead', 'sizes'], ['target'], { axis: 0 }),
      node('Resize', ['x', '', '', 'target'], ['large']),
      node('Shape', ['large'], ['largeShape']),
      node('Gather', ['largeShape', 'zeroScalar'], ['batch']),
      node('Unsqueeze', ['batch', 'zero'], ['batchVector']),
      node('Concat', ['batchVector', 'minusOne'], ['flatShape'], { axis: 0 }),
      node('Reshape', ['large', 'flatShape'], ['y']),
    ],
    initializers: [
      ints('two', [2]),
      ints('four', [4]),
      ints('zero', [0]),
      ints('zeroScalar', [0], []),
      ints('minusOne', [-1]),
      floats('factor', [], [2.3]),
    ],
    outputs: [info('y', null)],
  });
  t.same(inferShapes(built).get('large'), [1, 3, 11, 16]);
  t.same(await disagreements(built), []);
});

t.test('an unknown operator has the shape the file declares, and what follows is inferred from it', async (t) => {
  const nodes = [node('Frobnicate', ['x'], ['f']), node('Relu', ['f'], ['y'])];
  const inputs = [info('x', [1, 3])];
  const declared = model({ inputs, nodes, outputs: [info('y', null)], valueInfo: [info('f', ['N', 9])] });
  t.same(inferShapes(declared).get('y'), [1, 9]);
  const silent = model({ inputs, nodes, outputs: [info('y', null)] });
  t.notOk(inferShapes(silent).has('y'));
});

t.test('shapes given by the caller win over those of the file', async (t) => {
  const open = model({
    inputs: [info('x', ['N', 3, 'H', 'W'])],
    nodes: [node('Relu', ['x'], ['y'])],
    outputs: [info('y', null)],
  });
  t.throws(() => inferShapes(open), { code: 'model/unsupported', subject: 'x' });
  t.same(inferShapes(open, new Map([['x', [1, 3, 8, 9]]])).get('y'), [1, 3, 8, 9]);
});

/** Nodes over constants alone, whose values we compute too. */
const constantNode = fc.oneof(
  fc
    .constantFrom('Add', 'Sub', 'Mul', 'Min', 'Max', 'Equal', 'Less', 'Greater')
    .map((op) => node(op, ['a', 'b'], ['y'])),
  fc.constantFrom('Neg', 'Abs').map((op) => node(op, ['a'], ['y'])),
  fc.constant(node('Div', ['a', 'three'], ['y'])),
  fc.shuffledSubarray([0, 1, 2], { minLength: 3 }).map((perm) => node('Transpose', ['a'], ['y'], { perm })),
  fc.integer({ min: -3, max: 2 }).map((axis) => node('Concat', ['a', 'a'], ['y'], { axis })),
  fc.integer({ min: -3, max: 2 }).map((axis) => node('Gather', ['a', 'index'], ['y'], { axis })),
  fc.constantFrom(1, 6, 7, 9).map((to) => node('Cast', ['a'], ['y'], { to })),
  fc.constant(node('Slice', ['a', 'starts', 'ends', 'axes', 'steps'], ['y'])),
  fc.constant(node('Expand', ['b', 'target'], ['y'])),
  fc.constant(node('Reshape', ['a', 'flat'], ['y'])),
  fc.constant(node('Unsqueeze', ['a', 'axes'], ['y'])),
  fc.constantFrom('Shape', 'Size').map((op) => node(op, ['a'], ['y'])),
  fc.constant(node('Where', ['condition', 'a', 'b'], ['y'])),
);

t.test('values computed from constants are those of ONNX Runtime', async (t) => {
  const value = fc.integer({ min: -9, max: 9 });
  const parts = fc.record({
    node: constantNode,
    a: fc.array(value, { minLength: 12, maxLength: 12 }),
    b: fc.array(value, { minLength: 3, maxLength: 3 }),
    isFloat: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(parts, async ({ node: each, a, b, isFloat }) => {
      const tensor = (name: string, dims: readonly number[], values: readonly number[]): Tensor =>
        isFloat
          ? floats(
              name,
              dims,
              values.map((v) => v * 0.75),
            )
          : ints(name, values, dims);
      const condition: Tensor = { name: 'condition', type: 'bool', dims: [2, 1, 1], bytes: Uint8Array.of(1, 0) };
      const initializers = [
        tensor('a', [2, 2, 3], a),
        tensor('b', [1, 3], b),
        tensor('three', [], [3]),
        condition,
        ints('index', [0, -1], [2]),
        ints('starts', [-1, 0]),
        ints('ends', [-9, 2]),
        ints('axes', [2, 0]),
        ints('steps', [-2, 1]),
        ints('target', [2, 2, 3]),
        ints('flat', [3, -1]),
      ];
      const built = model({ inputs: [], nodes: [each as Node], initializers, outputs: [info('y', null)] });
      const limit = { perNode: 1000, total: 1000 };
      const ours = propagate(built, undefined, limit).constants.get('y');
      const theirs = (await run(withTypes(built), new Map())).get('y')!;
      if (ours === undefined) throw new Error(`${each.op} was not evaluated`);
      if (ours.dims.join() !== theirs.dims.join() || numbers(ours).join() !== [...theirs.data].join()) {
        throw new Error(`${each.op}: [${ours.dims}] ${numbers(ours)} but really [${theirs.dims}] ${theirs.data}`);
      }
    }),
    propertyOptions(250),
  );
  t.pass();
});

function numbers({ type, bytes }: Tensor): number[] {
  const copy = new Uint8Array(bytes).buffer;
  if (type === 'float32') return [...new Float32Array(copy)];
  if (type === 'int64') return [...new BigInt64Array(copy)].map(Number);
  return type === 'int32' ? [...new Int32Array(copy)] : [...bytes];
}

/** The outputs with the element types they really have, which ONNX Runtime insists on. */
function withTypes(original: Model): Model {
  const types = elementTypes(original);
  const outputs = original.graph.outputs.map((output) => ({ ...output, type: types.get(output.name) ?? output.type }));
  return { ...original, graph: { ...original.graph, outputs } };
}
