import fc from 'fast-check';
import protobuf from 'protobufjs/light.js';
import t from 'tap';
import { decode, encode } from '../../../../agent/core/onnx/codec.js';
import { fold } from '../../../../agent/core/onnx/fold.js';
import {
  graphInputs,
  indexGraph,
  pruneUnused,
  soleConsumer,
  sortTopologically,
} from '../../../../agent/core/onnx/graph.js';
import type { Model, Node } from '../../../../agent/core/onnx/model.js';
import { largestDifference, run } from './runtime.js';
import { floats, info, model, node, propertyOptions } from './support.js';

t.test('sorting a shuffled graph puts makers before readers and leaves a sorted one alone', async (t) => {
  const sources = fc.array(fc.array(fc.nat(), { maxLength: 3 }), { minLength: 1, maxLength: 20 });
  fc.assert(
    fc.property(sources, fc.infiniteStream(fc.nat()), (inputs, random) => {
      // Node n reads tensors of earlier nodes, so the list as built is sorted.
      const sorted = inputs.map((from, n) =>
        node('Sum', n === 0 ? ['x'] : from.map((pick) => `t${pick % n}`), [`t${n}`]),
      );
      if (sortTopologically(sorted).some((each, n) => each !== sorted[n])) return false;
      const shuffled = [...sorted];
      for (let n = shuffled.length - 1; n > 0; n--) {
        const other = random.next().value % (n + 1);
        [shuffled[n], shuffled[other]] = [shuffled[other]!, shuffled[n]!];
      }
      const made = new Set(['x']);
      return sortTopologically(shuffled).every((each) => {
        const isReady = each.inputs.every((input) => made.has(input));
        made.add(each.outputs[0]!);
        return isReady;
      });
    }),
    propertyOptions(200),
  );
  t.pass();
});

t.test('the index knows makers, readers and outputs', async (t) => {
  const nodes = [node('Relu', ['x'], ['a']), node('Add', ['a', 'a'], ['b']), node('Relu', ['a'], ['c'])];
  const { graph } = model({
    inputs: [info('x', [1]), info('w', [1])],
    nodes,
    initializers: [floats('w', [1], [1])],
    outputs: [info('b', null)],
  });
  const index = indexGraph(graph);
  t.equal(index.producers.get('b'), nodes[1]);
  t.same(index.consumers.get('a'), [nodes[1], nodes[2]], 'a node that reads twice counts once');
  t.equal(soleConsumer(index, 'x'), nodes[0]);
  t.equal(soleConsumer(index, 'a'), null);
  t.equal(soleConsumer(index, 'b'), null);
  t.same(
    graphInputs(graph).map((input) => input.name),
    ['x'],
    'an input with a default need not be fed',
  );
});

t.test('pruning drops what no output needs', async (t) => {
  const nodes = [node('Relu', ['x'], ['a']), node('Relu', ['a'], ['y']), node('Add', ['a', 'w'], ['unused'])];
  const pruned = pruneUnused(
    model({
      inputs: [info('x', [1])],
      nodes,
      initializers: [floats('w', [1], [1])],
      outputs: [info('y', null)],
      valueInfo: [info('a', [1]), info('unused', [1])],
    }).graph,
  );
  t.same(pruned.nodes, nodes.slice(0, 2));
  t.same([...pruned.initializers.keys(), ...pruned.valueInfo.keys()], ['a']);
});

/** The bytes of a model's GraphProto, to be used as a subgraph. */
function graphBytes(subgraph: Model): Uint8Array {
  const reader = protobuf.Reader.create(encode(subgraph));
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag === ((7 << 3) | 2)) return reader.bytes();
    reader.skipType(tag & 7);
  }
  throw new Error('no graph');
}

t.test('tensors that only a subgraph reads survive folding', async (t) => {
  const branch = (name: string, op: string) => {
    const subgraph = model({ inputs: [], nodes: [node(op, ['i', 'w'], [name])], outputs: [info(name, [2])] });
    return { kind: 'opaque', value: { name, g: graphBytes(subgraph), type: 5 } } as const;
  };
  const choose: Node = {
    ...node('If', ['condition'], ['y']),
    attributes: new Map([
      ['then_branch', branch('t', 'Add')],
      ['else_branch', branch('e', 'Sub')],
    ]),
  };
  const built = model({
    inputs: [info('x', [2])],
    nodes: [
      node('Identity', ['x'], ['i']),
      node('ReduceSum', ['x'], ['sum'], { keepdims: 0 }),
      node('Greater', ['sum', 'zero'], ['condition']),
      choose,
      node('Conv', ['image', 'w4'], ['c']),
      node('Mul', ['c', 'w'], ['unusual']),
    ],
    initializers: [
      floats('w', [2], [1, 2]),
      floats('zero', [], [0]),
      floats('image', [1, 1, 1, 2], [1, 2]),
      floats('w4', [1, 1, 1, 1], [1]),
    ],
    outputs: [info('y', [2])],
  });
  const decoded = decode(encode(built));
  t.same(decoded.graph.nodes.find((each) => each.op === 'If')?.captures, ['i', 'w']);
  const { model: folded } = fold(decoded);
  t.ok(folded.graph.initializers.has('w'));
  t.same(
    folded.graph.nodes.map((each) => each.op),
    ['Identity', 'ReduceSum', 'Greater', 'If'],
  );
  for (const values of [
    [1, 2],
    [-1, -2],
  ]) {
    const feeds = new Map([['x', { dims: [2], data: Float32Array.from(values) }]]);
    t.equal(largestDifference(await run(decoded, feeds), await run(folded, feeds)), 0);
  }
});
