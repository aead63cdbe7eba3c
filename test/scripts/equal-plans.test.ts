/** Plans of equal average bits, against all assignments of small networks. */
import t from 'tap';
import { enginePrecisions } from '../../agent/core/image/precisions.js';
import { formatPrecision } from '../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../agent/core/prepare.js';
import {
  averageBitsOf,
  averageTolerance,
  drawEqualPlans,
  type PlanPrecisions,
} from '../../scripts/bench/equal-plans.js';
import { NetworkBuilder } from '../support/networks.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();

/** A chain of convolutions, then two that read one tensor, one of them behind a Reshape. */
function network(length: number): PreparedModel {
  const builder = new NetworkBuilder(new Random(seed), [1, 3, 6, 6]);
  let tensor = builder.same('Relu', builder.conv('x', { out: 8 }));
  for (let at = 0; at < length; at++) tensor = builder.same('Relu', builder.conv(tensor, { out: 8 }));
  const pooled = builder.pooled(tensor);
  return prepare(builder.build([builder.gemm(pooled, 4), builder.gemm(pooled, 6)]), null);
}

const weighted = ({ operators }: PreparedModel) => operators.filter(({ weight }) => weight !== null);
const keyOf = (prepared: PreparedModel, plan: PlanPrecisions) =>
  weighted(prepared)
    .map(({ name }) => formatPrecision(plan.get(name)!))
    .join();

const isNear = (plan: { weights: number; activations: number }, average: { weights: number; activations: number }) =>
  Math.abs(plan.weights / average.weights - 1) <= averageTolerance &&
  Math.abs(plan.activations / average.activations - 1) <= averageTolerance;

t.test('plans are all different, cost the same on average, and are what the engine can run', async (t) => {
  const prepared = network(8);
  const { plans, average } = drawEqualPlans(prepared, 50, seed);
  t.equal(plans.length, 50);
  t.equal(new Set(plans.map((plan) => keyOf(prepared, plan))).size, 50);
  for (const plan of plans) {
    t.ok(isNear(averageBitsOf(prepared, plan), average));
    for (const operator of weighted(prepared)) {
      const name = formatPrecision(plan.get(operator.name)!);
      t.ok(enginePrecisions(prepared, operator).some((allowed) => formatPrecision(allowed) === name));
      t.ok(Math.min(plan.get(operator.name)!.weightBits, plan.get(operator.name)!.activationBits) >= 4);
    }
    const [one, other] = weighted(prepared).slice(-2);
    t.same(plan.get(one!.name), plan.get(other!.name), 'they read one tensor');
  }
});

t.test('averages are by parameters and by the elements of tensors that are read, each counted once', async (t) => {
  const prepared = network(1);
  const [first, second, one, other] = weighted(prepared);
  const plan: PlanPrecisions = new Map([
    [first!.name, { weightBits: 8, activationBits: 8 }],
    [second!.name, { weightBits: 4, activationBits: 6 }],
    [one!.name, { weightBits: 4, activationBits: 4 }],
    [other!.name, { weightBits: 4, activationBits: 4 }],
  ]);
  const parameters = [8 * 3 * 9, 8 * 8 * 9, 8 * 4, 8 * 6] as const;
  const total = parameters.reduce((a, b) => a + b, 0);
  const { weights, activations } = averageBitsOf(prepared, plan);
  t.ok(Math.abs(weights - (8 * parameters[0] + 4 * (total - parameters[0])) / total) < 1e-9);
  // The input, what the first convolution writes, and the pooled vector.
  t.ok(Math.abs(activations - (8 * 108 + 6 * 288 + 4 * 8) / (108 + 288 + 8)) < 1e-9);
});

t.test('where there are few such plans, those are found and no others', async (t) => {
  const prepared = network(2);
  const { plans, average } = drawEqualPlans(prepared, 1000, seed);
  const units = [
    ...weighted(prepared)
      .slice(0, -2)
      .map((operator) => [operator]),
    weighted(prepared).slice(-2),
  ];
  let every: PlanPrecisions[] = [new Map()];
  for (const unit of units) {
    const choices = enginePrecisions(prepared, unit[0]!).filter((p) => Math.min(p.weightBits, p.activationBits) >= 4);
    every = every.flatMap((plan) =>
      choices.map((choice) => new Map([...plan, ...unit.map(({ name }) => [name, choice] as const)])),
    );
  }
  const equal = every.filter((plan) => isNear(averageBitsOf(prepared, plan), average));
  const sorted = (list: readonly PlanPrecisions[]) => list.map((plan) => keyOf(prepared, plan)).sort();
  t.strictSame(sorted(plans), sorted(equal));
});

t.test('the same seed draws the same plans, another one others', async (t) => {
  const prepared = network(8);
  const keys = (of: number) => drawEqualPlans(prepared, 10, of).plans.map((plan) => keyOf(prepared, plan));
  t.strictSame(keys(seed), keys(seed));
  t.notSame(keys(seed), keys(seed + 1));
});
