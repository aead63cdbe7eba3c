/** Planning problems from hand-written tables; stored bytes against written artifacts. */
import t from 'tap';
import { conversionKey, dispatchKey, LatencyTable, runOverheadKey } from '../../../../agent/core/latency.js';
import { encode } from '../../../../agent/core/onnx/codec.js';
import { buildProblem } from '../../../../agent/core/plan/build-problem.js';
import { planOf, precisionsOf, restrict } from '../../../../agent/core/plan/plan.js';
import { evaluate } from '../../../../agent/core/plan/problem.js';
import { formatPrecision } from '../../../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../../../agent/core/prepare.js';
import { canRunBlockwise } from '../../../../agent/core/quant/matmul-nbits.js';
import { canRunInt8, emitQdq } from '../../../../agent/core/quant/qdq.js';
import { SensitivityTable } from '../../../../agent/core/sensitivity/table.js';
import type { LatencyRow, Precision } from '../../../../configs/contracts/plan.js';
import { NetworkBuilder } from '../../../support/networks.js';
import { Random } from '../../../support/seed.js';
import { floats, info, model, node } from '../onnx/support.js';

const dims = [1, 2, 4, 4];
const prepared = prepare(
  model({
    inputs: [info('x', dims)],
    nodes: [node('Conv', ['x', 'w'], ['y'], { kernel_shape: [1, 1] })],
    initializers: [floats('w', [2, 2, 1, 1], [1, 2, 3, 4])],
    outputs: [info('y', dims)],
  }),
  null,
);
const [conv] = prepared.operators;
const sensitivity = new SensitivityTable({
  estimator: '',
  samples: 1,
  forwards: 0,
  seconds: 0,
  weights: {},
  activations: {},
});

function row(operatorKey: string, median: number, energyJoules: number | null, precision = 'float'): LatencyRow {
  return {
    operatorKey,
    precision,
    minimum: median,
    median,
    spread: 0,
    repeats: 1,
    throttled: false,
    energyJoules,
    measuredAt: '',
  };
}

const measured = [
  row(conv!.key, 1000, 100),
  row(conv!.key, 400, 40, 'W8A8'),
  row(runOverheadKey, 50, 5),
  row(dispatchKey, 3, 0.3),
  row(conversionKey('QuantizeLinear', dims), 20, 2),
  row(conversionKey('Transpose', dims), 70, 7),
];

/** Latency and energy of the model in float and in int8, with some rows replaced or, where null, left out. */
function costs(changes: Readonly<Record<string, LatencyRow | null>> = {}) {
  const rows = measured.flatMap((each) => {
    const change = changes[each.operatorKey];
    return change === undefined ? [each] : change === null ? [] : [change];
  });
  const precisions = [
    { weightBits: 32, activationBits: 32 },
    { weightBits: 8, activationBits: 8 },
  ] as const;
  const problem = buildProblem(
    prepared,
    () => precisions,
    new LatencyTable(rows),
    sensitivity,
    () => 1000,
  );
  return [0, 1].map((choice) => {
    const { latency, energy } = evaluate(problem, [choice]);
    return { latency, energy };
  });
}

t.test('a plan costs a run, its operators and the conversions between them, in time and in energy', async (t) => {
  const [float, int8] = costs();
  t.same(float, { latency: 1050, energy: 105 });
  // In: quantize and transpose. Out: transpose, and a dequantize that was not met, which counts as a dispatch.
  t.equal(int8!.latency, 50 + 400 + (20 + 70) + (3 + 70));
  t.ok(Math.abs(int8!.energy! - int8!.latency / 10) < 1e-9, `${int8!.energy} J`);
});

t.test('energy is unknown as soon as a part of it is; time is not touched by that', async (t) => {
  const quantize = conversionKey('QuantizeLinear', dims);
  const [float, int8] = costs({ [quantize]: row(quantize, 20, null) });
  t.same([float!.energy, int8!.energy], [105, null]);
  t.equal(int8!.latency, 613);
  t.same(
    costs({ [runOverheadKey]: row(runOverheadKey, 50, null) }).map(({ energy }) => energy),
    [null, null],
  );
  t.same(
    costs({ [dispatchKey]: null }).map(({ latency, energy }) => [latency, energy]),
    [
      [1050, 105],
      [610, null],
    ],
  );
});

const float: Precision = { weightBits: 32, activationBits: 32 };
const int8: Precision = { weightBits: 8, activationBits: 8 };
const blocks: Precision = { weightBits: 4, activationBits: 32 };

/** Every precision that an operator can be written at. */
function possible(model: PreparedModel) {
  return (operator: PreparedModel['operators'][number]): Precision[] => {
    const weight = model.model.graph.initializers.get(operator.weight?.name ?? '') ?? null;
    return [float, ...(canRunInt8(operator) ? [int8] : []), ...(canRunBlockwise(operator, weight) ? [blocks] : [])];
  };
}

function artifactBytes(model: PreparedModel, precisions: ReadonlyMap<string, Precision>): number {
  const ranges = new Map([...model.shapes.keys()].map((name) => [name, { minimum: -1, maximum: 1 }]));
  return encode(emitQdq(model.model, model.operators, precisions, ranges, { variant: 'ort' })).length;
}

function problemOf(model: PreparedModel, table = sensitivity, allowed = possible(model)) {
  const rows = model.operators.flatMap((operator) =>
    allowed(operator).map((precision) => row(operator.key, 1, null, formatPrecision(precision))),
  );
  return buildProblem(model, allowed, new LatencyTable(rows), table, (precisions) => artifactBytes(model, precisions));
}

/** Two convolutions and three products read a weight twice or more; biases are shared with them and beyond them. */
function sharing(): PreparedModel {
  const builder = new NetworkBuilder(new Random(7), [1, 48, 6, 6]);
  const again = (input: string) => {
    const [, weight, bias] = builder.nodes[0]!.inputs;
    return builder.emit('Conv', [input, weight!, bias!], [1, 48, 6, 6], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] });
  };
  const image = again(builder.same('Relu', builder.conv('x', { out: 48 })));
  const alone = builder.emit(
    'Conv',
    [image, builder.weight([48, 48, 1, 1], 48), builder.nodes[0]!.inputs[2]!],
    [1, 48, 6, 6],
  );
  const vector = builder.pooled(alone);
  const weight = builder.weight([48, 48], 48);
  const bias = builder.constant([48], new Float32Array(48).fill(0.5));
  const first = builder.same('Relu', builder.emit('Gemm', [vector, weight, bias], [1, 48], { transB: 1 }));
  const second = builder.same('Relu', builder.emit('Gemm', [first, weight, bias], [1, 48], { transB: 1 }));
  return prepare(builder.build([builder.emit('MatMul', [second, weight], [1, 48])]), null);
}

t.test('stored bytes of plans are those of their artifacts, also where operators share constants', async (t) => {
  const model = sharing();
  const problem = problemOf(model);
  t.equal(problem.ties.length, 2);
  const weighted = model.operators.map((operator) => operator.weight?.name);
  t.strictSame(
    problem.ties.map((tie) => new Set(tie.map((index) => weighted[index])).size),
    [1, 1],
  );
  t.strictSame(
    problem.ties.map((tie) => tie.length),
    [2, 3],
  );
  for (const wanted of [['float'], ['W8A8'], ['W4A32'], ['W4A32', 'W8A8']]) {
    const choices = restrict(problem, wanted);
    const plan = planOf(
      choices,
      choices.operators.map((operator) => operator.choices.length - 1),
    );
    const actual = artifactBytes(model, precisionsOf(plan));
    const quantized = [...precisionsOf(plan).values()].filter(({ weightBits }) => weightBits < 32).length;
    // Descriptions of nodes are counted at a flat rate; one shared weight counted once too often would be 9 KB at least.
    t.ok(Math.abs(plan.costs.bytes - actual) <= 600 * quantized + 100, `${wanted}: ${plan.costs.bytes}, is ${actual}`);
  }
});

t.test(
  'operators that share a weight have the precisions that all of them can run, and sensitivities of their own',
  async (t) => {
    const model = sharing();
    const { operators } = model;
    const [first, second] = operators.filter(({ op }) => op === 'Gemm');
    const weights = { [first!.name]: { 8: 0.25 }, [second!.name]: { 8: 0.5 } };
    const table = new SensitivityTable({ ...sensitivity.document, weights });
    const problem = problemOf(model, table);
    const costsOf = (name: string) =>
      problem.operators
        .find((operator) => operator.name === name)!
        .choices.find(({ precision }) => precision === 'W8A8')!.costs;
    t.strictSame([costsOf(first!.name).sensitivity, costsOf(second!.name).sensitivity], [0.25, 0.5]);

    const withoutInt8 = problemOf(model, table, (operator) =>
      possible(model)(operator).filter((precision) => operator !== second || precision !== int8),
    );
    const [, tie] = withoutInt8.ties;
    for (const index of tie!)
      t.strictSame(
        withoutInt8.operators[index]!.choices.map(({ precision }) => precision),
        ['float', 'W4A32'],
      );
  },
);
