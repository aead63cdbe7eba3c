import t from 'tap';
import { HighsSolver } from '../../../../agent/adapters/highs-solver.js';
import { planByValue } from '../../../../agent/core/plan/value-plan.js';
import {
  bitOperationCost,
  bitOperations,
  buildValueProblem,
  classMacs,
} from '../../../../agent/core/plan/value-problem.js';
import { fits, searchExact } from '../../../../agent/core/plan/value-search.js';
import { SensitivityTable } from '../../../../agent/core/sensitivity/table.js';
import type { Bits } from '../../../../configs/contracts/plan.js';
import { announceSeed } from '../../../support/seed.js';
import { cutNetworks } from './patch-networks.js';

const seed = announceSeed();
const solver = new HighsSolver();
t.teardown(() => solver.close());
const { signal } = new AbortController();
/** Plans are of weights, which there have to be. */
const cases = (count: number) =>
  cutNetworks(seed, count, ({ operators }) => operators.some(({ weight }) => weight !== null));
const candidates: readonly Bits[] = [8, 4, 2];

t.test(
  'weights are the least sensitive ones under what the chosen activations leave of the bit operations',
  async (t) => {
    let [plansSeen, mixed] = [0, 0];
    for (const { prepared, cut, random } of cases(15)) {
      const weighted = prepared.operators.filter(({ weight }) => weight !== null).map(({ name }) => name);
      const falling = () => {
        const two = 1 + random.next();
        return { '8': 0.01 * random.next(), '4': 0.1 + 0.5 * random.next(), '2': two };
      };
      const sensitivity = new SensitivityTable({
        ...{ estimator: 'drawn', samples: 1, forwards: 0, seconds: 0 },
        weights: Object.fromEntries(weighted.map((name) => [name, falling()])),
        activations: Object.fromEntries(
          prepared.operators.flatMap(({ inputs }) => inputs.map((name) => [name, falling()])),
        ),
      });
      const patches = cut.grid.rows * cut.grid.columns;
      const outlierShares = Array.from({ length: patches }, () => random.next());
      const macs = classMacs(prepared, cut, outlierShares);
      const value = buildValueProblem(prepared, cut, {
        ...{ candidates, weightBits: () => 8, costOf: bitOperationCost(() => 8), outlierShares },
        lossOf: (tensor, bits) => sensitivity.activation(tensor, bits),
        memory: { isInputStreamed: true, isInPlace: true },
        ceilingBytes: Number.POSITIVE_INFINITY,
      });
      const eight = value.precisionsOf(value.problem.maps.map(() => 8));
      const ceiling = bitOperations(macs, cut, eight, true).network * (0.1 + 0.9 * random.next());
      const plans = await planByValue(
        ...([prepared, cut, macs, value, sensitivity] as const),
        {
          lambdas: [0, 0.3, 0.5, 0.7, 1],
          search: searchExact,
          weightCandidates: candidates,
          ceilings: { bitOps: ceiling },
          latencyOf: null,
        },
        ...([solver, signal] as const),
      );
      for (const { choice, precisions, bitOperations: counted, weightSensitivity } of plans) {
        plansSeen++;
        t.ok(fits(value.problem, choice.bits));
        t.ok(counted.network <= ceiling * (1 + 1e-9));
        t.ok(Math.abs(counted.network - bitOperations(macs, cut, precisions, true).network) < 1);
        if (new Set(weighted.map((name) => precisions.plain.get(name)!.weightBits)).size > 1) mixed++;
        const costOf = (name: string, bits: number) =>
          bits *
          (macs.get(name)!.plain * precisions.plain.get(name)!.activationBits +
            macs.get(name)!.outlier * precisions.outlier.get(name)!.activationBits);
        let least = Number.POSITIVE_INFINITY;
        const tryAll = (index: number, cost: number, error: number) => {
          if (cost > ceiling || error >= least) return;
          const name = weighted[index];
          if (name === undefined) {
            least = error;
            return;
          }
          for (const weightBits of candidates)
            tryAll(
              index + 1,
              cost + costOf(name, weightBits),
              error + sensitivity.weight(name, { weightBits, activationBits: 8 }),
            );
        };
        tryAll(0, 0, 0);
        t.ok(Math.abs(weightSensitivity - least) <= 1e-5 * Math.max(1, least), `${weightSensitivity} ${least}`);
      }
    }
    t.comment(`${plansSeen} plans, ${mixed} with weights of several widths`);
    t.ok(plansSeen > 15 && mixed > 3);
  },
);

t.test(
  'where a target measured them, weights are the fastest, and among equally fast ones the least sensitive',
  async (t) => {
    for (const { prepared, cut, random } of cases(10)) {
      const weighted = prepared.operators.filter(({ weight }) => weight !== null);
      const sensitivity = new SensitivityTable({
        ...{ estimator: 'drawn', samples: 1, forwards: 0, seconds: 0, activations: {} },
        weights: Object.fromEntries(weighted.map(({ name }) => [name, { '8': 0, '4': 1, '2': 2 }])),
      });
      // Few different times, so that some are equal.
      const times = new Map<string, number>(
        weighted.flatMap(({ name }) =>
          candidates.flatMap((weightBits) =>
            candidates.map(
              (activationBits) => [`${name} ${weightBits} ${activationBits}`, 1 + random.below(3)] as const,
            ),
          ),
        ),
      );
      const timeOf = (name: string, weightBits: number, activationBits: number) =>
        times.get(`${name} ${weightBits} ${activationBits}`)!;
      const outlierShares = Array.from({ length: cut.grid.rows * cut.grid.columns }, () => random.next());
      const macs = classMacs(prepared, cut, outlierShares);
      const value = buildValueProblem(prepared, cut, {
        ...{ candidates, weightBits: () => 8, costOf: bitOperationCost(() => 8), outlierShares },
        lossOf: (_, bits) => 8 - bits,
        memory: { isInputStreamed: true, isInPlace: true },
        ceilingBytes: Number.POSITIVE_INFINITY,
      });
      const plans = await planByValue(
        ...([prepared, cut, macs, value, sensitivity] as const),
        {
          ...{ lambdas: [0, 0.5, 1], search: searchExact, weightCandidates: candidates, ceilings: {} },
          latencyOf: ({ name }, { weightBits, activationBits }) => timeOf(name, weightBits, activationBits),
        },
        ...([solver, signal] as const),
      );
      for (const { precisions, latency } of plans) {
        let sum = 0;
        for (const { name, macs: whole } of weighted) {
          const [plain, outlier] = [precisions.plain.get(name)!, precisions.outlier.get(name)!];
          const count = macs.get(name)!;
          const timeAt = (bits: number) =>
            (count.plain * timeOf(name, bits, plain.activationBits) +
              count.outlier * timeOf(name, bits, outlier.activationBits)) /
            whole;
          const least = Math.min(...candidates.map(timeAt));
          sum += least;
          // The most bits of those that are as fast.
          t.equal(
            plain.weightBits,
            candidates.find((bits) => timeAt(bits) <= least * (1 + 1e-9)),
          );
        }
        t.ok(Math.abs(latency! - sum) <= 1e-6 * sum, `${latency} ${sum}`);
      }
    }
  },
);

t.test('where no weights bring it under the ceiling, a choice is left out', async (t) => {
  // Some have no weights.
  const { prepared, cut } = [...cases(20)].find((one) => one.prepared.macs > 0)!;
  const macs = classMacs(prepared, cut, new Array<number>(cut.grid.rows * cut.grid.columns).fill(0));
  const value = buildValueProblem(prepared, cut, {
    ...{ candidates, weightBits: () => 8, costOf: bitOperationCost(() => 8), outlierShares: null },
    lossOf: (_, bits) => 8 - bits,
    memory: { isInputStreamed: true, isInPlace: true },
    ceilingBytes: Number.POSITIVE_INFINITY,
  });
  const none = new SensitivityTable({
    ...{ estimator: 'none', samples: 0, forwards: 0, seconds: 0, weights: {}, activations: {} },
  });
  const options = {
    lambdas: [0, 1],
    search: searchExact,
    weightCandidates: candidates,
    ceilings: { bitOps: 1 },
    latencyOf: null,
  };
  t.same(await planByValue(prepared, cut, macs, value, none, options, solver, signal), []);
});
