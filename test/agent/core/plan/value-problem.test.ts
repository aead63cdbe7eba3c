import t from 'tap';
import { activationBits } from '../../../../agent/core/image/build.js';
import { LatencyTable } from '../../../../agent/core/latency.js';
import type { Operator } from '../../../../agent/core/onnx/model.js';
import { branchOf, cutGrid } from '../../../../agent/core/plan/patch-geometry.js';
import { branchMacs, costPatches, type PatchMemory } from '../../../../agent/core/plan/patches.js';
import {
  bitOperationCost,
  bitOperations,
  buildValueProblem,
  classMacs,
  measuredCost,
  type Precisions,
} from '../../../../agent/core/plan/value-problem.js';
import { fits } from '../../../../agent/core/plan/value-search.js';
import type { Bits, LatencyRow } from '../../../../configs/contracts/plan.js';
import { announceSeed } from '../../../support/seed.js';
import { type CutNetwork, cutNetworks } from './patch-networks.js';

const seed = announceSeed();
const cases = (count: number) => cutNetworks(seed, count);

function draw({ prepared, cut, random }: CutNetwork) {
  const patches = cut.grid.rows * cut.grid.columns;
  const memory: Omit<PatchMemory, 'bitsOf'> = { isInputStreamed: random.next() < 0.5, isInPlace: random.next() < 0.5 };
  const weights = new Map(prepared.operators.map(({ name }) => [name, random.pick([8, 4, 2] as const)]));
  const outlierShares = random.next() < 0.3 ? null : Array.from({ length: patches }, () => random.next());
  const value = buildValueProblem(prepared, cut, {
    candidates: [8, 4, 2],
    weightBits: (operator) => weights.get(operator)!,
    costOf: bitOperationCost((operator) => weights.get(operator)!),
    lossOf: (_, bits) => 8 - bits,
    outlierShares,
    memory,
    ceilingBytes: 0,
  });
  const bits = value.problem.maps.map(({ candidates }) => random.pick(candidates));
  return { value, bits, outlierShares, memory };
}

t.test('memory of a choice is that of patches whose tensors have the bits that an image would give them', (t) => {
  for (const each of cases(60)) {
    const { value, bits, outlierShares, memory } = draw(each);
    const { plain, outlier } = value.precisionsOf(bits);
    const peakAt = (precisions: Precisions) => {
      const widths = activationBits(each.prepared, precisions);
      const bitsOf = (tensor: string) => widths.get(tensor) ?? 8;
      return costPatches(each.prepared, each.cut.stage, each.cut.grid, { ...memory, bitsOf }).ram.peakBytes;
    };
    const expected = outlierShares === null ? peakAt(plain) : Math.max(peakAt(plain), peakAt(outlier));
    t.equal(value.peakBytes(bits), expected);
    t.equal(fits({ ...value.problem, ceilingBytes: expected }, bits), true);
    t.equal(fits({ ...value.problem, ceilingBytes: expected - 1 }, bits), false);
  }
  t.end();
});

t.test('classes agree on what the stage hands on and on weights; outlier patches have 8 bits up to there', (t) => {
  for (const each of cases(60)) {
    const { value, bits } = draw(each);
    const { plain, outlier } = value.precisionsOf(bits);
    const { stage } = each.cut;
    const handedOn = stage.tensors[stage.output]!.name;
    const [a, b] = [plain, outlier].map((precisions) => activationBits(each.prepared, precisions));
    t.equal(a!.get(handedOn), b!.get(handedOn));
    for (const { name } of stage.tensors)
      if (name !== handedOn && b!.get(name) !== a!.get(handedOn)) t.equal(b!.get(name) ?? 8, 8);
    for (const [index, { name, weight }] of each.prepared.operators.entries()) {
      if (weight === null) continue;
      t.equal(plain.get(name)!.weightBits, outlier.get(name)!.weightBits);
      if (index >= stage.split) t.same(plain.get(name), outlier.get(name));
    }
  }
  t.end();
});

t.test('bit operations are those of all branches and of the tail, counted one by one', (t) => {
  for (const each of cases(60)) {
    const { value, bits, outlierShares } = draw(each);
    const { prepared, cut } = each;
    const patches = cut.grid.rows * cut.grid.columns;
    const shares = outlierShares ?? new Array<number>(patches).fill(0);
    const precisions = value.precisionsOf(bits);
    const macs = classMacs(prepared, cut, shares);
    const product = (name: string, of: Precisions) => of.get(name)!.weightBits * of.get(name)!.activationBits;
    let stage = 0;
    let executed = 0;
    const regions = cutGrid(cut.stage.tensors[cut.stage.output]!, cut.grid.rows, cut.grid.columns);
    regions.forEach((region, patch) => {
      const branch = branchOf(cut.stage, region, 'clipped');
      executed += branchMacs(cut.stage, branch);
      cut.stage.operators.forEach(({ operator, macsPerPosition }, index) => {
        if (operator.weight === null) return;
        const { rows, columns } = branch.steps[index]!.computes;
        const count = macsPerPosition * (rows.end - rows.first) * (columns.end - columns.first);
        stage += count * (1 - shares[patch]!) * product(operator.name, precisions.plain);
        stage += count * shares[patch]! * product(operator.name, precisions.outlier);
      });
    });
    const tail = prepared.operators.slice(cut.stage.split).filter(({ weight }) => weight !== null);
    const network = tail.reduce((sum, { name, macs: own }) => sum + own * product(name, precisions.plain), stage);
    const counted = bitOperations(macs, cut, precisions, true);
    const isNear = (a: number, b: number) => Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(b));
    t.ok(isNear(counted.stage, stage) && isNear(counted.network, network));
    const all8 = bitOperations(macs, cut, value.precisionsOf(value.problem.maps.map(() => 8)), false);
    t.ok(isNear(all8.stage, 64 * executed), 'with 8 bits everywhere, 64 for each multiply-accumulate');
    // Of what is not at 8 bits in all patches alike, the maps' sum is the difference that a choice makes.
    const computation = (of: readonly number[]) =>
      value.problem.maps.reduce((sum, map, index) => sum + map.computation(of[index]!), 0);
    const eight = value.problem.maps.map(({ candidates }) => candidates[0]!);
    const base = bitOperations(macs, cut, value.precisionsOf(eight), true);
    t.ok(isNear(computation(eight) - computation(bits), base.network - counted.network));
  }
  t.end();
});

t.test('measured costs are those of the table; bits without a row cost what the next more do', (t) => {
  const row = (operatorKey: string, precision: string, median: number): LatencyRow => ({
    ...{ operatorKey, precision, minimum: median, median, spread: 0, repeats: 1, throttled: false },
    ...{ energyJoules: null, measuredAt: '' },
  });
  const table = new LatencyTable([row('a', 'W4A8', 10), row('a', 'W4A4', 6), row('b', 'W8A8', 5)]);
  const cost = measuredCost(table, (operator) => (operator === 'b' ? 8 : 4));
  const at = (key: string, bits: Bits) => cost({ name: key, key } as Operator, bits);
  t.same(
    [8, 6, 4, 2].map((bits) => at('a', bits as Bits)),
    [10, 10, 6, 6],
  );
  t.equal(at('b', 2), 5);
  t.throws(() => at('c', 4), { code: 'artifact/invalid' });
  t.end();
});

t.test('measured counts of branches are those of the operator, by the share of it that they compute', (t) => {
  let total = 0;
  for (const { prepared, cut } of cases(5)) {
    const value = buildValueProblem(prepared, cut, {
      candidates: [8, 4, 2],
      weightBits: () => 8,
      costOf: (_, bits) => 100 * bits,
      lossOf: () => 0,
      outlierShares: null,
      memory: { isInputStreamed: true, isInPlace: true },
      ceilingBytes: 0,
    });
    const macs = classMacs(prepared, cut, new Array<number>(cut.grid.rows * cut.grid.columns).fill(0));
    const weighted = prepared.operators.filter(({ weight }) => weight !== null);
    const expected = weighted.reduce((sum, { name, macs: own }) => sum + (800 * macs.get(name)!.plain) / own, 0);
    const sum = value.problem.maps.reduce((counted, map) => counted + map.computation(8), 0);
    t.ok(Math.abs(sum - expected) <= 1e-9 * expected);
    total += sum;
  }
  t.ok(total > 0);
  t.end();
});

t.test('more than 8 bits are refused', (t) => {
  const [each] = cases(1);
  const { prepared, cut } = each as CutNetwork;
  const options = {
    candidates: [16, 8] as Bits[],
    weightBits: () => 8 as const,
    costOf: () => 0,
    lossOf: () => 0,
    outlierShares: null,
    memory: { isInputStreamed: true, isInPlace: true },
    ceilingBytes: 0,
  };
  t.throws(() => buildValueProblem(prepared, cut, options), RangeError);
  t.end();
});
