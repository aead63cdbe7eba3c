import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { decode, encode } from '../../../../agent/core/onnx/codec.js';
import { fold } from '../../../../agent/core/onnx/fold.js';
import type { Model, Node, Tensor } from '../../../../agent/core/onnx/model.js';
import { listOperators } from '../../../../agent/core/onnx/operators.js';
import { inferShapes } from '../../../../agent/core/onnx/shapes.js';
import { readFloats } from '../../../../agent/core/onnx/tensor.js';
import { largestDifference, randomFeeds, randomNumbers, run } from './runtime.js';
import { floats, info, ints, model, node, propertyOptions, sampleModels, skipWithoutSamples } from './support.js';

/** Float32 sums in another order, over networks of some 50 layers. */
const tolerance = 2e-5;

function random(name: string, dims: readonly number[], seed: number, low = -1): Tensor {
  const next = randomNumbers(seed * 7919 + 1);
  const values = Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => low + ((next() + 1) / 2) * (1 - low));
  return floats(name, dims, values);
}

async function differenceAfterFold(original: Model, seed: number): Promise<{ difference: number; folded: Model }> {
  const shapes = inferShapes(original);
  const { model: folded } = fold(original);
  // Folding must not disturb what the other passes see, nor survive only in memory.
  const again = decode(encode(folded));
  const foldedShapes = inferShapes(again);
  for (const output of original.graph.outputs) {
    if (foldedShapes.get(output.name)?.join() !== shapes.get(output.name)?.join())
      return { difference: Number.NaN, folded };
  }
  const feeds = randomFeeds(original, shapes, seed);
  return { difference: largestDifference(await run(original, feeds), await run(again, feeds)), folded };
}

t.test('folded sample models compute the same', { skip: skipWithoutSamples }, async (t) => {
  for (const path of sampleModels) {
    const original = decode(readFileSync(path));
    const { difference, folded } = await differenceAfterFold(original, 1);
    t.ok(difference < tolerance, `${basename(path)}: relative difference ${difference}`);
    const ops = new Set(folded.graph.nodes.map((each) => each.op));
    t.notOk(ops.has('BatchNormalization') || ops.has('Identity') || ops.has('Dropout'));
  }
});

t.test('statistics of a folded BatchNormalization are kept, by the tensor that holds its output', async (t) => {
  const original = model({
    inputs: [info('x', [1, 2, 4, 4])],
    nodes: [
      node('Conv', ['x', 'w'], ['c']),
      node('BatchNormalization', ['c', 'gamma', 'beta', 'mean', 'variance'], ['n']),
      node('Relu', ['n'], ['y']),
    ],
    initializers: [
      random('w', [3, 2, 1, 1], 1),
      random('gamma', [3], 2),
      random('beta', [3], 3),
      random('mean', [3], 4),
      random('variance', [3], 5, 0.1),
    ],
    outputs: [info('y', null)],
  });
  const { model: folded, batchNorms, report } = fold(original);
  t.same(
    folded.graph.nodes.map((each) => each.op),
    ['Conv', 'Relu'],
  );
  t.same(
    batchNorms.map((each) => each.tensor),
    ['n'],
  );
  t.same(batchNorms[0]?.gamma, readFloats(original.graph.initializers.get('gamma')!));
  t.same(report.folded, [{ node: 'BatchNormalization:n', op: 'BatchNormalization', into: 'Conv:c' }]);
  t.equal(listOperators(folded, inferShapes(folded))[0]?.clamp?.[0], 0);
});

t.test('a weight that two nodes share is folded apart', async (t) => {
  const original = model({
    inputs: [info('x', [1, 2, 3, 3])],
    nodes: [
      node('Conv', ['x', 'w'], ['a']),
      node('Mul', ['a', 'two'], ['b']),
      node('Conv', ['x', 'w'], ['c']),
      node('Add', ['b', 'c'], ['y']),
    ],
    initializers: [random('w', [2, 2, 1, 1], 1), floats('two', [], [2])],
    outputs: [info('y', null)],
  });
  const { difference, folded } = await differenceAfterFold(original, 3);
  t.ok(difference < tolerance, `${difference}`);
  t.same(
    folded.graph.nodes.map((each) => each.op),
    ['Conv', 'Conv', 'Add'],
  );
});

t.test('a shape computed from the input becomes a constant that still allows other batch sizes', async (t) => {
  const original = model({
    inputs: [info('x', ['N', 2, 3, 3])],
    nodes: [
      node('Shape', ['x'], ['s']),
      node('Gather', ['s', 'zero'], ['n'], { axis: 0 }),
      node('Unsqueeze', ['n', 'axes'], ['n1']),
      node('Concat', ['n1', 'rest'], ['target'], { axis: 0 }),
      node('Reshape', ['x', 'target'], ['y']),
    ],
    initializers: [ints('zero', [0], []), ints('axes', [0]), ints('rest', [-1])],
    outputs: [info('y', null)],
  });
  const { model: folded } = fold(original);
  t.same(
    folded.graph.nodes.map((each) => each.op),
    ['Reshape'],
  );
  const feeds = new Map([['x', { dims: [5, 2, 3, 3], data: new Float32Array(90).map((_, i) => i) }]]);
  t.same((await run(folded, feeds)).get('y')?.dims, [5, 18]);
});

/** Operators that may follow each other on a [1, channels, size, size] tensor, drawn at random. */
interface Step {
  kind: number;
  seed: number;
  flag: boolean;
}

function randomChain(steps: readonly Step[]): Model {
  const nodes: Node[] = [];
  const initializers: Tensor[] = [];
  let channels = 4;
  let tensor = 'x';
  const constant = (dims: readonly number[], seed: number, low = -1): string => {
    const name = `k${initializers.length}`;
    initializers.push(random(name, dims, seed, low));
    return name;
  };
  const emit = (op: string, inputs: string[], attributes: Parameters<typeof node>[3] = {}): void => {
    const output = `t${nodes.length}`;
    nodes.push(node(op, inputs, [output], attributes));
    tensor = output;
  };
  for (const { kind, seed, flag } of steps) {
    switch (kind) {
      case 0: {
        const outputs = flag ? 6 : 4;
        const bias = seed % 2 === 0 ? [constant([outputs], seed)] : [];
        emit('Conv', [tensor, constant([outputs, channels / 2, 3, 3], seed), ...bias], {
          group: 2,
          pads: [1, 1, 1, 1],
        });
        channels = outputs;
        break;
      }
      case 1: {
        const bias = flag ? [constant([6], seed)] : [];
        emit('ConvTranspose', [tensor, constant([channels, 3, 1, 1], seed), ...bias], { group: 2 });
        channels = 6;
        break;
      }
      case 2: {
        const statistics = [seed, seed + 1, seed + 2].map((each) => constant([channels], each));
        emit('BatchNormalization', [tensor, ...statistics, constant([channels], seed, 0.2)]);
        break;
      }
      case 3: {
        const op = ['Add', 'Sub', 'Mul', 'Div'][seed % 4]!;
        const other = constant(flag ? [channels, 1, 1] : [], seed, 0.3);
        emit(op, op !== 'Div' && seed % 3 === 0 ? [other, tensor] : [tensor, other]);
        break;
      }
      case 4:
        emit(flag ? 'Identity' : 'Dropout', [tensor]);
        break;
      case 5:
        initializers.push(ints(`k${initializers.length}`, [0, 0, 1, 0, 0, 0, 0, 1]));
        emit('Pad', [tensor, `k${initializers.length - 1}`]);
        break;
      case 6:
        emit(flag ? 'Relu' : 'Sigmoid', [tensor]);
        break;
      case 7:
        emit('Add', [tensor, tensor]);
        break;
      default:
        // A second reader, so that merging must not happen here.
        nodes.push(node('Relu', [tensor], [`side${nodes.length}`]));
    }
  }
  const sides = nodes.flatMap((each) => each.outputs).filter((name) => name.startsWith('side'));
  const outputs = [...new Set([...(tensor === 'x' ? [] : [tensor]), ...sides])];
  if (outputs.length === 0) {
    nodes.push(node('Relu', ['x'], ['y']));
    outputs.push('y');
  }
  return model({
    inputs: [info('x', [1, 4, 5, 5])],
    nodes,
    initializers,
    outputs: outputs.map((name) => info(name, null)),
  });
}

t.test('folding random chains keeps their function', async (t) => {
  const step = fc.record({
    kind: fc.integer({ min: 0, max: 8 }),
    seed: fc.integer({ min: 1, max: 1000 }),
    flag: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 9 }), fc.integer({ min: 1, max: 1e6 }), async (steps, seed) => {
      const { difference } = await differenceAfterFold(randomChain(steps), seed);
      return difference < 1e-4;
    }),
    propertyOptions(150),
  );
  t.pass();
});

t.test('folding random matrix chains keeps their function', async (t) => {
  const step = fc.record({
    kind: fc.integer({ min: 0, max: 4 }),
    seed: fc.integer({ min: 1, max: 1000 }),
    flag: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 8 }), async (steps) => {
      const nodes: Node[] = [];
      const initializers: Tensor[] = [];
      const constant = (dims: readonly number[], seed: number, low = -1): string => {
        initializers.push(random(`k${initializers.length}`, dims, seed, low));
        return `k${initializers.length - 1}`;
      };
      let tensor = 'x';
      const emit = (op: string, inputs: string[], attributes: Parameters<typeof node>[3] = {}): void => {
        nodes.push(node(op, inputs, [`t${nodes.length}`], attributes));
        tensor = `t${nodes.length - 1}`;
      };
      for (const { kind, seed, flag } of steps) {
        if (kind === 0) {
          const bias = [[], ['[6]'], ['[1,6]'], ['[]']][seed % 4]!.map((dims) => constant(JSON.parse(dims), seed));
          const factors: Record<string, { float: number }> =
            seed % 3 === 0 ? { alpha: { float: 0.5 }, beta: { float: 2 } } : {};
          emit('Gemm', [tensor, constant([6, 6], seed), ...bias], { ...factors, transB: flag ? 1 : 0 });
        } else if (kind === 1) emit('MatMul', [tensor, constant([6, 6], seed)]);
        else if (kind === 2) emit('Add', [tensor, constant(flag ? [6] : [1, 6], seed)]);
        else if (kind === 3) {
          const statistics = [seed, seed + 1, seed + 2].map((each) => constant([6], each));
          emit('BatchNormalization', [tensor, ...statistics, constant([6], seed, 0.2)]);
        } else emit(flag ? 'Relu' : 'Identity', [tensor]);
      }
      const original = model({ inputs: [info('x', [1, 6])], nodes, initializers, outputs: [info(tensor, null)] });
      return (await differenceAfterFold(original, 5)).difference < 1e-4;
    }),
    propertyOptions(100),
  );
  t.pass();
});
