/** Cuts by time, against the search by multiply-accumulates, which counts in another way. */
import t from 'tap';
import { area, branchOf, cutGrid, cutStage, listStages } from '../../../../agent/core/plan/patch-geometry.js';
import { rankCuts } from '../../../../agent/core/plan/patch-ranking.js';
import { costPatches, type PatchMemory, searchPatches } from '../../../../agent/core/plan/patches.js';
import { prepare } from '../../../../agent/core/prepare.js';
import { randomNetwork } from '../../../support/networks.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();
const memory: PatchMemory = { bitsOf: () => 8, isInputStreamed: true, isInPlace: true };

t.test('where time is multiply-accumulates, the first cut is the one that the search finds', async (t) => {
  let compared = 0;
  for (let round = 0; round < 30; round++) {
    const random = new Random(seed + round);
    const prepared = prepare(randomNetwork(seed + round, 6), null);
    const least = searchPatches(prepared, 0, memory).plan.ram.peakBytes;
    const ceiling = least + random.below(2 * least);
    const cuts = rankCuts(prepared, ceiling, memory, ({ macs }) => macs);
    const found = searchPatches(prepared, ceiling, memory);
    t.ok(cuts.every(({ plan }) => plan.ram.peakBytes <= ceiling));
    for (const [index, cut] of cuts.entries()) {
      const { clipped, layered } = cut.plan.macs;
      t.ok(Math.abs(cut.extraLatency - (clipped - layered)) < 1e-6 * (1 + layered), 'shares are those of the branches');
      if (index > 0) t.ok(cuts[index - 1]!.extraLatency <= cut.extraLatency);
    }
    if (found.plan.split === 0) continue;
    compared++;
    const { clipped, layered } = found.plan.macs;
    t.ok(Math.abs(cuts[0]!.extraLatency - (clipped - layered)) < 1e-6 * (1 + layered), `round ${round}`);
  }
  t.ok(compared > 5, `${compared} compared`);
});

t.test('every cut within the ceiling is there once, and operators that are slow are computed twice last', async (t) => {
  const prepared = prepare(randomNetwork(seed, 6), null);
  const ceiling = Number.POSITIVE_INFINITY;
  const slow = prepared.operators[0]!;
  const cuts = rankCuts(prepared, ceiling, memory, (operator) => (operator === slow ? 1000 : 1), 3);
  const names = cuts.map(({ plan }) => `${plan.split} ${plan.grid.rows} ${plan.grid.columns}`);
  const expected = listStages(prepared).flatMap((stage) => {
    const { rows, columns } = stage.tensors[stage.output]!;
    return [1, 2, 3].flatMap((down) =>
      [1, 2, 3].flatMap((across) => (down <= rows && across <= columns ? [`${stage.split} ${down} ${across}`] : [])),
    );
  });
  t.strictSame([...names].sort(), expected.sort());
  for (const { plan, shares } of cuts) {
    const stage = cutStage(prepared, plan.split);
    t.strictSame(plan, costPatches(prepared, stage, plan.grid, memory));
    const grid = cutGrid(stage.tensors[stage.output]!, plan.grid.rows, plan.grid.columns);
    stage.operators.forEach(({ operator, outputs }, index) => {
      const { rows, columns } = stage.tensors[outputs[0]!]!;
      const computed = grid.map((region) => area(branchOf(stage, region, 'clipped').steps[index]!.computes));
      t.equal(shares.get(operator.name), computed.reduce((a, b) => a + b, 0) / (rows * columns));
    });
  }
  const shareOfSlow = (index: number) => cuts[index]!.shares.get(slow.name) ?? 1;
  t.ok(shareOfSlow(0) <= shareOfSlow(cuts.length - 1));
});
