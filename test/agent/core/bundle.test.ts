/** Micro-models: whatever operators a model has, they can be timed side by side at every precision they can have. */
import t from 'tap';
import { type BundleItem, branchOf, branchTag, buildBundle, bundleAt, itemBytes } from '../../../agent/core/bundle.js';
import { encode } from '../../../agent/core/onnx/codec.js';
import type { Model } from '../../../agent/core/onnx/model.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import { canRunBlockwise } from '../../../agent/core/quant/matmul-nbits.js';
import { canRunInt8 } from '../../../agent/core/quant/qdq.js';
import type { Precision } from '../../../configs/contracts/plan.js';
import { randomNetwork } from '../../support/networks.js';
import { Oracle } from '../../support/ort.js';
import { announceSeed, Random } from '../../support/seed.js';
import { randomGraph } from './onnx/random-graph.js';

const seed = announceSeed();
const precisions: readonly Precision[] = [
  { weightBits: 32, activationBits: 32 },
  { weightBits: 8, activationBits: 8 },
  { weightBits: 4, activationBits: 32 },
];

/** Operators that stand alone: float inputs of known shape, constants for the rest. */
function itemsOf({ operators, model, shapes, floatTensors }: PreparedModel): BundleItem[] {
  const isKnown = (name: string) => shapes.has(name) && floatTensors.has(name);
  return operators
    .filter(({ inputs, outputs }) => inputs.length > 0 && [...inputs, ...outputs].every(isKnown))
    .map((operator) => ({ operator, model, shapes }));
}

function canRun({ operator, model }: BundleItem, precision: Precision): boolean {
  const weight = operator.weight === null ? null : model.graph.initializers.get(operator.weight.name)!;
  if (precision.weightBits === 4) return canRunBlockwise(operator, weight);
  return precision.weightBits === 32 || canRunInt8(operator);
}

async function runs(model: Model, inputs: readonly { name: string; dims: readonly number[] }[]): Promise<number> {
  const oracle = await Oracle.open(encode(model), 'all');
  try {
    const random = new Random(seed);
    const feeds = new Map(
      inputs.map(({ name, dims }) => [name, { dims, data: random.floats(dims.reduce((a, b) => a * b, 1)) }]),
    );
    return (await oracle.run(feeds)).size;
  } finally {
    await oracle.close();
  }
}

t.test('the operators of random networks run as one bundle at each of their precisions', async (t) => {
  for (let at = seed; at < seed + 12; at++) {
    const prepared = prepare(randomNetwork(at, 5), null);
    for (const precision of precisions) {
      const items = itemsOf(prepared).filter((item) => canRun(item, precision));
      if (items.length === 0) continue;
      const bundle = buildBundle(items);
      t.equal(
        await runs(bundleAt(bundle, precision), bundle.inputs),
        items.length,
        `seed ${at}, W${precision.weightBits}`,
      );
    }
  }
});

t.test('so do those of models over most of the registry', async (t) => {
  for (let at = seed; at < seed + 15; at++) {
    const prepared = prepare(randomGraph(at, 8), null);
    for (const precision of precisions) {
      // ONNX Runtime has no pools over four axes.
      const items = itemsOf(prepared).filter(
        (item) =>
          canRun(item, precision) &&
          !(item.operator.op.endsWith('Pool') && prepared.shapes.get(item.operator.inputs[0]!)!.length > 5),
      );
      if (items.length === 0) continue;
      const bundle = buildBundle(items);
      t.ok(
        (await runs(bundleAt(bundle, precision), bundle.inputs)) >= items.length,
        `seed ${at}, W${precision.weightBits}`,
      );
    }
  }
});

t.test('every node of a branch carries its tag, in the order of the items, also after quantization', async (t) => {
  const items = itemsOf(prepare(randomNetwork(seed, 6), null));
  const bundle = buildBundle(items);
  for (const [index, { operator }] of items.entries()) {
    const own = bundle.model.graph.nodes.filter((node) => branchOf(node.name) === index);
    t.strictSame(
      own.map((node) => node.op),
      operator.nodes.map((node) => node.op),
    );
  }
  const int8 = items.filter((item) => canRun(item, precisions[1]!));
  const quantized = bundleAt(buildBundle(int8), precisions[1]!);
  for (const [index, { operator }] of int8.entries()) {
    t.ok(
      quantized.graph.nodes.some((node) => branchOf(node.name) === index && node.op === operator.nodes[0]!.op),
      operator.name,
    );
  }
});

t.test('tags are read back, also in front of names that look like tags; other names have none', async (t) => {
  for (const index of [0, 1, 12, 345]) t.equal(branchOf(`${branchTag(index)}k7~conv_token_3`), index);
  t.equal(branchOf('Conv_3_nchwc'), null);
});

t.test(
  'branches keep shapes and integer constants, and swap large weights for random ones of the same shape',
  async (t) => {
    const prepared = prepare(randomNetwork(seed, 6), null);
    const items = itemsOf(prepared);
    const bundle = buildBundle(items);
    items.forEach(({ operator }, index) => {
      for (const node of operator.nodes) {
        for (const name of node.inputs) {
          const original = prepared.model.graph.initializers.get(name);
          if (original === undefined) continue;
          const copy = bundle.model.graph.initializers.get(`${branchTag(index)}${name}`)!;
          t.strictSame([copy.type, copy.dims], [original.type, original.dims], name);
          if (original.type === 'int64') t.strictSame([...copy.bytes], [...original.bytes]);
        }
      }
    });
  },
);

t.test('the bytes of an item are those of its tensors', async (t) => {
  const prepared = prepare(randomNetwork(seed, 3), null);
  const { operator, model, shapes } = itemsOf(prepared).find((item) => item.operator.weight !== null)!;
  const count = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);
  const tensors = [...operator.inputs, ...operator.outputs].map((name) => shapes.get(name)!);
  const weight = model.graph.initializers.get(operator.weight!.name)!.dims;
  t.equal(itemBytes({ operator, model, shapes }), 4 * [...tensors, weight].reduce((sum, dims) => sum + count(dims), 0));
});
