import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import t from 'tap';
import { decode } from '../../../../agent/core/onnx/codec.js';
import { fold } from '../../../../agent/core/onnx/fold.js';
import type { Model, Node, Operator, Tensor } from '../../../../agent/core/onnx/model.js';
import { listOperators } from '../../../../agent/core/onnx/operators.js';
import { inferShapes } from '../../../../agent/core/onnx/shapes.js';
import { floats, info, ints, model, node, sampleModels, skipWithoutSamples } from './support.js';

function operatorsOf(
  nodes: readonly Node[],
  initializers: readonly Tensor[],
  shape: readonly number[] = [1, 4, 8, 8],
): Operator[] {
  const outputs = [info(nodes.at(-1)!.outputs[0]!, null)];
  const built = model({ inputs: [info('x', shape)], nodes, initializers, outputs });
  return listOperators(built, inferShapes(built));
}

function zeros(name: string, dims: readonly number[]): Tensor {
  return floats(name, dims, new Array(dims.reduce((a, b) => a * b, 1)).fill(0));
}

/** What a person would say of an operator. */
function summary({ op, kind, clamp, nodes }: Operator): string {
  return `${op}/${kind}/${nodes.length}${clamp === null ? '' : `[${clamp}]`}`;
}

t.test(
  'operators partition the nodes, in an order where inputs come first',
  { skip: skipWithoutSamples },
  async (t) => {
    for (const path of sampleModels) {
      for (const each of [decode(readFileSync(path)), fold(decode(readFileSync(path))).model]) {
        const operators = listOperators(each, inferShapes(each));
        const nodes = operators.flatMap((operator) => operator.nodes);
        t.equal(nodes.length, each.graph.nodes.length, basename(path));
        t.equal(new Set(nodes).size, nodes.length);
        t.equal(new Set(operators.map((operator) => operator.name)).size, operators.length);
        const made = new Set(each.graph.inputs.map((input) => input.name));
        for (const { inputs, outputs } of operators) {
          t.ok(inputs.every((input) => made.has(input)));
          for (const output of outputs) made.add(output);
        }
      }
    }
  },
);

t.test('of the folded sample models nothing but Softmax stays float', { skip: skipWithoutSamples }, async (t) => {
  for (const path of sampleModels) {
    const { model: folded } = fold(decode(readFileSync(path)));
    const floating = listOperators(folded, inferShapes(folded)).filter(({ kind }) => kind === 'float');
    t.ok(
      floating.every(({ op }) => op === 'Softmax'),
      basename(path),
    );
  }
});

t.test('multiply-accumulates of known networks', { skip: skipWithoutSamples }, async (t) => {
  // MobileNetV2: 300 million (Sandler et al. 2018, table 4); ResNet-8 of MLPerf Tiny: 12.5 million. Pinned to the last digit.
  const known: Record<string, number> = { 'mobilenetv2-imagenet': 300_774_272, 'resnet8-cifar10': 12_501_632 };
  for (const [name, macs] of Object.entries(known)) {
    const path = sampleModels.find((candidate) => candidate.includes(name));
    if (path === undefined) continue;
    const { model: folded } = fold(decode(readFileSync(path)));
    const total = listOperators(folded, inferShapes(folded)).reduce((sum, operator) => sum + operator.macs, 0);
    t.equal(total, macs, name);
  }
});

t.test('multiply-accumulates and parameters, counted by hand', async (t) => {
  const counts = (nodes: Node[], initializers: Tensor[], shape?: number[]) => {
    const [operator] = operatorsOf(nodes, initializers, shape);
    return [operator!.macs, operator!.parameters];
  };
  // 8 x 8 outputs of 6 channels, each over 2 channels of 3 x 3.
  t.same(
    counts(
      [node('Conv', ['x', 'w', 'b'], ['y'], { group: 2, pads: [1, 1, 1, 1] })],
      [zeros('w', [6, 2, 3, 3]), zeros('b', [6])],
    ),
    [64 * 6 * 18, 114],
  );
  // Every one of 4 x 8 x 8 inputs touches 5 channels of 2 x 2.
  t.same(counts([node('ConvTranspose', ['x', 'w'], ['y'], { strides: [2, 2] })], [zeros('w', [4, 5, 2, 2])]), [
    256 * 20,
    80,
  ]);
  t.same(counts([node('Gemm', ['x', 'w'], ['y'], { transB: 1 })], [zeros('w', [7, 9])], [1, 9]), [63, 63]);
  t.same(counts([node('MatMul', ['x', 'w'], ['y'])], [zeros('w', [9, 7])], [1, 3, 9]), [189, 63]);
  t.same(counts([node('Add', ['x', 'x'], ['y'])], []), [0, 0]);
});

t.test('weights, their channel axis and their bias', async (t) => {
  const cases: [Node[], Tensor[], number[], Operator['weight'], string | null][] = [
    [
      [node('Conv', ['x', 'w', 'b'], ['y'])],
      [zeros('w', [6, 4, 1, 1]), zeros('b', [6])],
      [1, 4, 8, 8],
      { name: 'w', channelAxis: 0 },
      'b',
    ],
    [
      [node('ConvTranspose', ['x', 'w'], ['y'])],
      [zeros('w', [4, 6, 1, 1])],
      [1, 4, 8, 8],
      { name: 'w', channelAxis: 1 },
      null,
    ],
    [
      [node('Gemm', ['x', 'w', 'b'], ['y'], { transB: 1 })],
      [zeros('w', [6, 4]), zeros('b', [6])],
      [1, 4],
      { name: 'w', channelAxis: 0 },
      'b',
    ],
    [[node('Gemm', ['x', 'w'], ['y'])], [zeros('w', [4, 6])], [1, 4], { name: 'w', channelAxis: 1 }, null],
    [
      [node('MatMul', ['x', 'w'], ['m']), node('Add', ['b', 'm'], ['y'])],
      [zeros('w', [4, 6]), zeros('b', [6])],
      [1, 3, 4],
      { name: 'w', channelAxis: 1 },
      'b',
    ],
    [[node('MatMul', ['x', 'x'], ['y'])], [], [4, 4], null, null],
    [[node('Gemm', ['x', 'w'], ['y'], { alpha: { float: 2 } })], [zeros('w', [4, 6])], [1, 4], null, null],
  ];
  for (const [nodes, initializers, shape, weight, bias] of cases) {
    const [operator, ...rest] = operatorsOf(nodes, initializers, shape);
    t.same([rest.length, operator?.weight, operator?.bias], [0, weight, bias], nodes[0]!.op);
    t.equal(operator?.kind, weight === null ? 'arithmetic' : 'weighted');
    t.same(operator?.inputs, ['x']);
  }
});

t.test('a following Relu or Clip is fused where nothing else reads the value before it', async (t) => {
  const w = zeros('w', [4, 4, 1, 1]);
  const six = [floats('low', [], [0]), floats('high', [], [6])];
  const conv = node('Conv', ['x', 'w'], ['c']);
  t.same(operatorsOf([conv, node('Relu', ['c'], ['y'])], [w]).map(summary), ['Conv/weighted/2[0,Infinity]']);
  t.same(operatorsOf([conv, node('Clip', ['c', 'low', 'high'], ['y'])], [w, ...six]).map(summary), [
    'Conv/weighted/2[0,6]',
  ]);
  t.same(operatorsOf([conv, node('Clip', ['c', 'low'], ['y'])], [w, ...six]).map(summary), [
    'Conv/weighted/2[0,Infinity]',
  ]);
  t.same(
    operatorsOf([conv, node('Clip', ['c', 'low', 'x'], ['y'])], [w, ...six]).map((each) => each.op),
    ['Conv', 'Clip'],
  );
  t.same(operatorsOf([conv, node('Relu', ['c'], ['r']), node('Add', ['c', 'r'], ['y'])], [w]).map(summary), [
    'Conv/weighted/1',
    'Relu/arithmetic/1[0,Infinity]',
    'Add/arithmetic/1',
  ]);
  t.same(operatorsOf([node('Add', ['x', 'x'], ['a']), node('Relu', ['a'], ['y'])], []).map(summary), [
    'Add/arithmetic/2[0,Infinity]',
  ]);
  t.same(operatorsOf([node('Concat', ['x', 'x'], ['a']), node('Relu', ['a'], ['y'])], []).map(summary), [
    'Concat/arithmetic/1',
    'Relu/arithmetic/1[0,Infinity]',
  ]);
  const built = model({
    inputs: [info('x', [1, 4, 8, 8])],
    nodes: [conv, node('Relu', ['c'], ['y'])],
    initializers: [w],
    outputs: [info('c', null), info('y', null)],
  });
  t.equal(listOperators(built, inferShapes(built)).length, 2, 'a graph output is read from outside');
});

t.test('activation functions spelled as several nodes are one operator', async (t) => {
  const constants = [
    floats('three', [], [3]),
    floats('zero', [], [0]),
    floats('six', [], [6]),
    floats('sixth', [], [1 / 6]),
  ];
  const only = (nodes: Node[]): string[] => operatorsOf(nodes, constants).map(summary);
  const shifted = [node('Add', ['x', 'three'], ['a']), node('Clip', ['a', 'zero', 'six'], ['c'])];
  t.same(only([node('Sigmoid', ['x'], ['s']), node('Mul', ['s', 'x'], ['y'])]), ['Silu/arithmetic/2']);
  t.same(
    only([node('HardSigmoid', ['x'], ['s'], { alpha: { float: Math.fround(1 / 6) } }), node('Mul', ['x', 's'], ['y'])]),
    ['HardSwish/arithmetic/2'],
  );
  t.same(only([node('HardSigmoid', ['x'], ['s']), node('Mul', ['x', 's'], ['y'])]), [
    'HardSigmoid/arithmetic/1',
    'Mul/arithmetic/1',
  ]);
  t.same(only([...shifted, node('Mul', ['x', 'c'], ['m']), node('Div', ['m', 'six'], ['y'])]), [
    'HardSwish/arithmetic/4',
  ]);
  t.same(only([...shifted, node('Mul', ['c', 'sixth'], ['m']), node('Mul', ['x', 'm'], ['y'])]), [
    'HardSwish/arithmetic/4',
  ]);
  t.same(only([...shifted, node('Div', ['c', 'six'], ['y'])]), ['HardSigmoid/arithmetic/3']);
  t.same(only([node('Sigmoid', ['x'], ['s']), node('Mul', ['s', 's'], ['y'])]), [
    'Sigmoid/arithmetic/1',
    'Mul/arithmetic/1',
  ]);
});

t.test('what no plan can quantize stays float', async (t) => {
  const s = ints('s', [0], []);
  t.same(operatorsOf([node('Frobnicate', ['x'], ['f']), node('Relu', ['f'], ['y'])], []).map(summary), [
    'Frobnicate/float/1',
    'Relu/float/1[0,Infinity]',
  ]);
  t.same(operatorsOf([node('Softmax', ['x'], ['y'])], []).map(summary), ['Softmax/float/1']);
  t.same(operatorsOf([node('Shape', ['x'], ['a']), node('Gather', ['a', 's'], ['y'])], [s]).map(summary), [
    'Shape/float/1',
    'Gather/float/1',
  ]);
  t.same(
    operatorsOf([node('Pad', ['x', 'p', 'v'], ['y'])], [ints('p', [0, 0, 1, 1, 0, 0, 1, 1]), floats('v', [], [1])]).map(
      summary,
    ),
    ['Pad/arithmetic/1'],
  );
  t.same(operatorsOf([node('Pad', ['x', 'p'], ['y'])], [ints('p', [0, 0, 1, 1, 0, 0, 1, 1])]).map(summary), [
    'Pad/passThrough/1',
  ]);
  const resize = (mode: string) =>
    operatorsOf([node('Resize', ['x', '', 'f'], ['y'], { mode })], [floats('f', [4], [1, 1, 2, 2])]).map(summary);
  t.same([resize('nearest'), resize('linear')], [['Resize/passThrough/1'], ['Resize/arithmetic/1']]);
});

t.test('keys are equal exactly where the cost is', async (t) => {
  const key = (
    attributes: Parameters<typeof node>[3],
    dims = [4, 4, 3, 3],
    shape?: number[],
    tail: Node[] = [],
  ): string => operatorsOf([node('Conv', ['x', 'w'], ['c'], attributes), ...tail], [zeros('w', dims)], shape)[0]!.key;
  const same = key({ pads: [1, 1, 1, 1], strides: [1, 1] });
  t.equal(key({ auto_pad: 'SAME_UPPER' }), same, 'auto_pad is resolved');
  t.equal(
    key({ pads: [1, 1, 1, 1], kernel_shape: [3, 3], dilations: [1, 1], group: 1 }),
    same,
    'defaults are spelled out',
  );
  const others = [
    key({}),
    key({ pads: [1, 1, 1, 1], strides: [2, 2] }),
    key({ pads: [2, 2, 2, 2], dilations: [2, 2] }),
    key({ pads: [1, 1, 1, 1], group: 2 }, [4, 2, 3, 3]),
    key({ pads: [1, 1, 1, 1] }, [5, 4, 3, 3]),
    key({ pads: [1, 1, 1, 1] }, [4, 4, 3, 3], [1, 4, 9, 8]),
    key({ pads: [1, 1, 1, 1] }, [4, 4, 3, 3], [1, 4, 8, 8], [node('Relu', ['c'], ['y'])]),
  ];
  t.equal(new Set([same, ...others]).size, others.length + 1, 'everything that matters is in the key');
  t.equal(same, 'Conv(1x4x8x8,4x4x3x3*)->1x4x8x8 kernel=3,3 strides=1,1 dilations=1,1 pads=1,1,1,1 group=1');
});

t.test('two nodes may share a weight', async (t) => {
  const nodes = [node('Conv', ['x', 'w'], ['a']), node('Conv', ['a', 'w'], ['y'])];
  t.same(
    operatorsOf(nodes, [zeros('w', [4, 4, 1, 1])]).map((each) => each.weight?.name),
    ['w', 'w'],
  );
});

/** One block of each family, as exporters write it. */
function familyBlock(name: string): Model {
  const constants: Tensor[] = [];
  const nodes: Node[] = [];
  let last = 'x';
  const add = (op: string, inputs: string[], attributes: Parameters<typeof node>[3] = {}): string => {
    nodes.push(node(op, inputs, [`t${nodes.length}`], attributes));
    return (last = `t${nodes.length - 1}`);
  };
  const weight = (...dims: number[]): string => {
    constants.push(zeros(`w${constants.length}`, dims));
    return `w${constants.length - 1}`;
  };
  if (name === 'squeeze and excite') {
    const pooled = add('GlobalAveragePool', ['x']);
    const squeezed = add('Relu', [add('Conv', [pooled, weight(2, 4, 1, 1)])]);
    const gate = add('HardSigmoid', [add('Conv', [squeezed, weight(4, 2, 1, 1)])], {
      alpha: { float: Math.fround(1 / 6) },
    });
    add('Mul', ['x', gate]);
  } else if (name === 'residual') {
    add('Relu', [add('Add', [add('Conv', ['x', weight(4, 4, 3, 3)], { pads: [1, 1, 1, 1] }), 'x'])]);
  } else {
    const up = add('ConvTranspose', ['x', weight(4, 4, 2, 2)], { strides: [2, 2] });
    const slope = weight(4, 1, 1);
    add('Concat', [add('PRelu', [up, slope]), add('LeakyRelu', [up]), add('Tanh', [up])], { axis: 1 });
    add('ReduceMean', [last], { axes: [2, 3], keepdims: 0 });
  }
  return model({ inputs: [info('x', [1, 4, 8, 8])], nodes, initializers: constants, outputs: [info(last, null)] });
}

t.test('blocks of common families are understood throughout', async (t) => {
  for (const name of ['squeeze and excite', 'residual', 'decoder']) {
    const block = familyBlock(name);
    const operators = listOperators(block, inferShapes(block));
    t.same(
      operators.filter((operator) => operator.kind === 'float'),
      [],
      name,
    );
  }
});
