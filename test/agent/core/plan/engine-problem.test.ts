/** Planning problems for the engine: ties and counting by hand, stored bytes against written images. */
import t from 'tap';
import { buildImage, floatTail } from '../../../../agent/core/image/build.js';
import { enginePrecisions, fastestKernel, kernelLabel } from '../../../../agent/core/image/precisions.js';
import { LatencyTable, runOverheadKey } from '../../../../agent/core/latency.js';
import { buildEngineProblem } from '../../../../agent/core/plan/engine-problem.js';
import { planOf, precisionsOf, uniformPlan } from '../../../../agent/core/plan/plan.js';
import { evaluate, validateProblem } from '../../../../agent/core/plan/problem.js';
import { formatPrecision, parsePrecision } from '../../../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../../../agent/core/prepare.js';
import { SensitivityTable } from '../../../../agent/core/sensitivity/table.js';
import type { LatencyRow, Precision } from '../../../../configs/contracts/plan.js';
import { NetworkBuilder, randomNetwork } from '../../../support/networks.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();

function row(operatorKey: string, precision: string, median: number): LatencyRow {
  const rest = { spread: 0, repeats: 1, throttled: false, energyJoules: null, measuredAt: '' };
  return { operatorKey, precision, minimum: median, median, ...rest };
}

const bytesOf = (prepared: PreparedModel) => (precisions: ReadonlyMap<string, Precision>) =>
  buildImage(prepared, precisions, {
    rangeOf: () => ({ minimum: -1, maximum: 1 }),
    pairSafe: false,
    biasCorrection: () => null,
  }).bytes.length;

/** A problem whose operators take what `latencyOf` says, and whose tensors all have the error 1 / bits. */
function problemOf(
  prepared: PreparedModel,
  latencyOf: (operator: string, precision: string) => number,
  activations: Record<string, Record<string, number>> = {},
) {
  const allowed = (operator: (typeof prepared.operators)[number]) => enginePrecisions(prepared, operator);
  const rows = prepared.operators.flatMap((operator) =>
    allowed(operator).map((precision) => {
      const name = formatPrecision(precision);
      return row(operator.key, name, latencyOf(operator.name, name));
    }),
  );
  const table = new LatencyTable([...rows, row(runOverheadKey, 'float', 7)]);
  const weights = Object.fromEntries(
    prepared.operators.map(({ name }) => [name, { '8': 1 / 8, '4': 1 / 4, '2': 1 / 2 }] as const),
  );
  const sensitivity = new SensitivityTable({
    ...{ estimator: '', samples: 1, forwards: 0, seconds: 0 },
    weights,
    activations,
  });
  return buildEngineProblem(prepared, allowed, floatTail(prepared), table, sensitivity, bytesOf(prepared));
}

/** Faster the fewer bits. */
const byBits = (_operator: string, precision: string) => {
  const { weightBits, activationBits } = parsePrecision(precision);
  return weightBits * 10 + activationBits;
};

/** Two convolutions that read one tensor, one of them through a pool; a third that reads their sum. */
function forked(): PreparedModel {
  const builder = new NetworkBuilder(new Random(1), [1, 4, 8, 8]);
  const first = builder.same('Relu', builder.conv('x', { out: 4 }));
  const pooled = builder.emit('MaxPool', [first], [1, 4, 8, 8], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] });
  const sum = builder.emit('Add', [builder.conv(first, { out: 4 }), builder.conv(pooled, { out: 4 })], [1, 4, 8, 8]);
  return prepare(builder.build([builder.conv(sum, { out: 2 })]), null);
}

t.test(
  'what reads one tensor, also through a pool, chooses its bits together; the first counts its error',
  async (t) => {
    const prepared = forked();
    const convolutions = prepared.operators.flatMap(({ op }, index) => (op === 'Conv' ? [index] : []));
    const [first, left, right, last] = convolutions as [number, number, number, number];
    const tensor = prepared.operators[left]!.inputs[0]!;
    const problem = problemOf(prepared, byBits, { [tensor]: { '8': 3, '6': 5, '4': 9, '2': 20 } });
    validateProblem(problem);
    t.strictSame(problem.ties, [[left, right]]);
    const costs = (operator: number, precision: string) =>
      problem.operators[operator]!.choices.find((choice) => choice.precision === precision)!.costs;
    t.equal(costs(left, 'W4A4').sensitivity, 1 / 4 + 9);
    t.equal(costs(right, 'W4A4').sensitivity, 1 / 4, 'counted once');
    t.strictSame(
      problem.operators[first]!.choices.map(({ precision }) => precision),
      ['W8A8', 'W7A8', 'W4A8', 'W2A8'],
      'the model’s own input keeps 8 bits',
    );
    t.ok(problem.operators[last]!.choices.length > 3);
    t.equal(planOf(problem, uniformPlan(problem, 'W4A4').assignment).costs.latency, 7 + 3 * 44 + 3 * 88);
  },
);

t.test('a precision that is neither faster nor smaller than a wider one is no choice', async (t) => {
  const builder = new NetworkBuilder(new Random(2), [1, 4, 8, 8]);
  const prepared = prepare(builder.build([builder.conv(builder.conv('x', { out: 8 }), { out: 8 })]), null);
  const slowBelow = (precision: string) => ({ W4A8: 90, W4A6: 95, W4A4: 60, W2A8: 200, W2A2: 59.9 })[precision] ?? 100;
  const problem = problemOf(prepared, (_operator, precision) => slowBelow(precision));
  t.strictSame(
    problem.operators[1]!.choices.map(({ precision }) => precision),
    ['W8A8', 'W4A8', 'W4A4', 'W2A8', 'W2A2'],
    'W4A6 is slower than W4A8 and as large; W2A8 is slower, but smaller',
  );
});

t.test('predicted bytes of mixed plans are those of the images that are written, but for alignment', async (t) => {
  const random = new Random(seed);
  for (let n = 0; n < 8; n++) {
    const prepared = prepare(randomNetwork(seed + n, 6), null);
    const problem = problemOf(prepared, byBits);
    validateProblem(problem);
    for (let repeat = 0; repeat < 3; repeat++) {
      const assignment = problem.operators.map(({ choices }) => random.below(choices.length));
      for (const tie of problem.ties) for (const index of tie) assignment[index] = assignment[tie[0]!]!;
      const { bytes } = evaluate(problem, assignment);
      const written = bytesOf(prepared)(precisionsOf(planOf(problem, assignment)));
      // Each constant begins on a multiple of 16; equal ones are stored once.
      const slack = 48 * prepared.operators.length + 64;
      t.ok(Math.abs(bytes - written) <= slack, `${bytes} predicted, ${written} written, seed ${seed + n}`);
    }
  }
});

t.test('the fastest kernel of an operator is the one whose row is shortest', async (t) => {
  const prepared = forked();
  const [operator] = prepared.operators;
  const precision = { weightBits: 4, activationBits: 4 } as const;
  const table = new LatencyTable([
    row(operator!.key, 'W4A4', 5),
    row(operator!.key, kernelLabel(precision, 'direct8'), 6),
    row(operator!.key, kernelLabel(precision, 'winograd8-2x2'), 5),
    row(operator!.key, 'W4A8 other', 1),
  ]);
  t.equal(fastestKernel(table, operator!, precision), 'winograd8-2x2');
  t.equal(fastestKernel(table, operator!, { weightBits: 8, activationBits: 8 }), null);
});
