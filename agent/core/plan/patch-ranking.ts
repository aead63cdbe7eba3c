/** Every way to cut a model into patches, by how long it will take: what a planner tries one after the other until one fits. */
import type { Operator } from '../onnx/model.js';
import { area, branchOf, cutGrid, listStages, type PatchedModel, type Stage } from './patch-geometry.js';
import { costPatches, type PatchGrid, type PatchMemory, type PatchPlan } from './patches.js';

/** A cut, with what it costs beside layer by layer. */
export interface RankedCut {
  readonly plan: PatchPlan;
  /** How often each operator of the stage is computed, by name: 1.2 is a fifth more than once. */
  readonly shares: ReadonlyMap<string, number>;
  /** What the stage takes more than layer by layer, in the unit of `latencyOf`. */
  readonly extraLatency: number;
}

/**
 * All splits and grids of up to `largestGrid` patches along an axis whose live bytes are within the ceiling, the fastest first; equally fast
 * ones by RAM, then by the number of patches.
 *
 * @param latencyOf what an operator takes layer by layer
 * @throws as `costPatches`
 */
export function rankCuts(
  patched: PatchedModel,
  ceilingBytes: number,
  memory: PatchMemory,
  latencyOf: (operator: Operator) => number,
  largestGrid = 8,
): RankedCut[] {
  const cuts: RankedCut[] = [];
  for (const stage of listStages(patched)) {
    for (const grid of gridsOf(stage, largestGrid)) {
      const plan = costPatches(patched, stage, grid, memory);
      if (plan.ram.peakBytes > ceilingBytes) continue;
      const shares = computedShares(stage, grid);
      const extraLatency = stage.operators.reduce(
        (sum, { operator }) => sum + latencyOf(operator) * (shares.get(operator.name)! - 1),
        0,
      );
      cuts.push({ plan, shares, extraLatency });
    }
  }
  const patches = ({ plan }: RankedCut) => plan.grid.rows * plan.grid.columns;
  return cuts.sort(
    (a, b) =>
      a.extraLatency - b.extraLatency ||
      a.plan.ram.peakBytes - b.plan.ram.peakBytes ||
      patches(a) - patches(b) ||
      a.plan.split - b.plan.split,
  );
}

function gridsOf({ tensors, output }: Stage, largest: number): PatchGrid[] {
  const upTo = (size: number) => Array.from({ length: Math.min(size, largest) }, (_, index) => index + 1);
  const { rows, columns } = tensors[output]!;
  return upTo(rows).flatMap((down) => upTo(columns).map((across) => ({ rows: down, columns: across })));
}

/** Positions that all branches compute of an operator's output, in shares of those that it has. */
export function computedShares(stage: Stage, grid: PatchGrid): ReadonlyMap<string, number> {
  const computed = new Array<number>(stage.operators.length).fill(0);
  for (const region of cutGrid(stage.tensors[stage.output]!, grid.rows, grid.columns))
    for (const [index, { computes }] of branchOf(stage, region, 'clipped').steps.entries())
      computed[index]! += area(computes);
  return new Map(
    stage.operators.map(({ operator, outputs }, index) => {
      const { rows, columns } = stage.tensors[outputs[0]!]!;
      return [operator.name, computed[index]! / (rows * columns)];
    }),
  );
}
