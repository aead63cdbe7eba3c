import t from 'tap';
import { conversionKey, dispatchKey, LatencyTable, runOverheadKey } from '../../../../agent/core/latency.js';
import { buildProblem } from '../../../../agent/core/plan/build-problem.js';
import { evaluate } from '../../../../agent/core/plan/problem.js';
import { prepare } from '../../../../agent/core/prepare.js';
import { SensitivityTable } from '../../../../agent/core/sensitivity/table.js';
import type { LatencyRow } from '../../../../configs/contracts/plan.js';
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
  const problem = buildProblem(prepared, () => precisions, new LatencyTable(rows), sensitivity, 1000);
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
