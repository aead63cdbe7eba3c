import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { decode } from '../../../../agent/core/onnx/codec.js';
import { fold } from '../../../../agent/core/onnx/fold.js';
import { graphInputs } from '../../../../agent/core/onnx/graph.js';
import { inferShapes } from '../../../../agent/core/onnx/shapes.js';
import { liveTensors, slice } from '../../../../agent/core/onnx/slice.js';
import { largestDifference, randomFeeds, run, type Values } from './runtime.js';
import { floats, info, model, node, propertyOptions, sampleModels, skipWithoutSamples } from './support.js';

t.test('a model run in two parts, cut anywhere, computes the same', { skip: skipWithoutSamples }, async (t) => {
  for (const path of sampleModels.filter((candidate) => /resnet8|dscnn|mobilenetv1|yolox/.test(candidate))) {
    const { model: whole } = fold(decode(readFileSync(path)));
    const shapes = inferShapes(whole);
    const count = whole.graph.nodes.length;
    const feeds = randomFeeds(whole, shapes, 11);
    const expected = await run(whole, feeds);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: count - 1 }), async (cut) => {
        const live = liveTensors(whole, cut);
        const front = slice(whole, { from: 0, to: cut }, { shapes, outputs: live.filter((name) => !feeds.has(name)) });
        const back = slice(whole, { from: cut, to: count }, { shapes });
        const between: Values = new Map([...feeds, ...(await run(front, feeds))]);
        const needed = graphInputs(back.graph).map((input) => input.name);
        if (needed.some((name) => !live.includes(name))) throw new Error(`${needed} of ${live}`);
        const actual = await run(back, between);
        if (largestDifference(expected, new Map([...between, ...actual])) > 0) throw new Error(`cut at ${cut}`);
      }),
      propertyOptions(path.includes('yolox') ? 4 : 12),
    );
    t.pass(basename(path));
  }
});

const small = model({
  inputs: [info('x', ['N', 2])],
  nodes: [
    node('Add', ['x', 'a'], ['s']),
    node('Mul', ['s', 'b'], ['m']),
    node('Sub', ['m', 'x'], ['d']),
    node('Add', ['d', 's'], ['y']),
  ],
  initializers: [floats('a', [2], [1, 2]), floats('b', [2], [3, 4])],
  outputs: [info('y', null)],
});
const shapes = inferShapes(small);

t.test('a slice has the inputs, outputs and initializers that its nodes need', async (t) => {
  const part = slice(small, { from: 1, to: 3 }, { shapes });
  t.same(part.graph.inputs, [info('s', [1, 2]), info('x', [1, 2])]);
  t.same(part.graph.outputs, [info('d', [1, 2])]);
  t.same([...part.graph.initializers.keys()], ['b']);
  t.equal(part.graph.initializers.get('b'), small.graph.initializers.get('b'), 'tensors are shared');
  t.same(
    slice(small, { from: 0, to: 2 }, { shapes }).graph.outputs.map((output) => output.name),
    ['s', 'm'],
  );
  t.same(liveTensors(small, 2), ['x', 's', 'm']);
  t.same(liveTensors(small, 0), ['x']);
  t.same(liveTensors(small, 4), ['y']);
});

t.test('an initializer can be fed instead', async (t) => {
  const part = slice(small, { from: 1, to: 2 }, { shapes, fed: ['b'] });
  t.same(
    part.graph.inputs.map((input) => input.name),
    ['s', 'b'],
  );
  const feeds = new Map([
    ['s', { dims: [1, 2], data: Float32Array.of(1, 1) }],
    ['b', { dims: [2], data: Float32Array.of(7, 8) }],
  ]);
  t.same([...(await run(part, feeds)).get('m')!.data], [7, 8]);
});

t.test("impossible requests are the caller's mistake", async (t) => {
  t.throws(() => slice(small, { from: 3, to: 2 }, { shapes }), RangeError);
  t.throws(() => slice(small, { from: 0, to: 9 }, { shapes }), RangeError);
  t.throws(() => slice(small, { from: 0, to: 1 }, { shapes, outputs: ['y'] }), RangeError);
  t.throws(() => slice(small, { from: 0, to: 1 }, { shapes, fed: ['b'] }), RangeError);
  t.throws(() => liveTensors(small, 5), RangeError);
});
