import fc from 'fast-check';
import t from 'tap';
import { decode, encode } from '../../../../agent/core/onnx/codec.js';
import { fold } from '../../../../agent/core/onnx/fold.js';
import type { Model } from '../../../../agent/core/onnx/model.js';
import { listOperators } from '../../../../agent/core/onnx/operators.js';
import { inferShapes } from '../../../../agent/core/onnx/shapes.js';
import { elementTypes } from '../../../../agent/core/onnx/types.js';
import { randomGraph } from './random-graph.js';
import { largestDifference, randomFeeds, run } from './runtime.js';
import { info, propertyOptions } from './support.js';

/** The model with every tensor that nodes make as an output. */
function withAllOutputs(original: Model): Model {
  const types = elementTypes(original);
  const names = original.graph.nodes.flatMap((each) => each.outputs);
  return { ...original, graph: { ...original.graph, outputs: names.map((name) => info(name, null, types.get(name))) } };
}

/** What is wrong with our view of a model; empty when ONNX Runtime agrees with all of it. */
async function faults(original: Model): Promise<string[]> {
  const found: string[] = [];
  const shapes = inferShapes(original);
  const feeds = randomFeeds(original, shapes, 3);
  const everything = await run(withAllOutputs(original), feeds);
  for (const [name, { dims }] of everything) {
    if (dims.join() !== shapes.get(name)?.join()) found.push(`${name} has [${dims}], not [${shapes.get(name)}]`);
  }
  const { model: folded, batchNorms } = fold(decode(encode(original)));
  // Not the outputs alone: names that remain must mean what they meant.
  const results = await run(withAllOutputs(folded), feeds);
  const expected = new Map([...everything].filter(([name]) => results.has(name)));
  const difference = largestDifference(expected, results);
  if (!(difference < 1e-4)) found.push(`folding changes values by ${difference}`);
  if (original.graph.outputs.some(({ name }) => !results.has(name))) found.push('outputs are missing');

  const tensors = new Set(folded.graph.nodes.flatMap((each) => each.outputs));
  for (const { tensor } of batchNorms)
    if (!tensors.has(tensor)) found.push(`statistics of ${tensor}, which is not there`);
  const operators = listOperators(folded, inferShapes(folded));
  if (operators.flatMap((each) => each.nodes).length !== folded.graph.nodes.length)
    found.push('operators do not partition');
  return found;
}

t.test('shapes and folding of random models agree with ONNX Runtime', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 1e9 }), fc.integer({ min: 1, max: 12 }), async (seed, steps) => {
      const found = await faults(randomGraph(seed, steps));
      if (found.length > 0) throw new Error(found.join('; '));
    }),
    propertyOptions(200),
  );
  t.pass();
});
