/**
 * Plans with patches of their own: codes of few bits take less memory, so that a shorter stage, of which less is computed twice, fits the memory
 * that 8 bits need a longer one for.
 */
import { buildImage } from '../../agent/core/image/build.js';
import { listStages } from '../../agent/core/plan/patch-geometry.js';
import { type LatencyOf, planByValue, type ValuePlan } from '../../agent/core/plan/value-plan.js';
import { classMacs } from '../../agent/core/plan/value-problem.js';
import { searchExact } from '../../agent/core/plan/value-search.js';
import { coarse, imageOptions, type PatchSubject, problemOf } from './patch-subject.js';

/** Finer patches of a short stage compute hardly more, and hold less. */
const grids = [2, 3, 4].map((size) => ({ rows: size, columns: size }));

/** A plan, and the model with its cut. */
export interface CutPlan {
  readonly subject: PatchSubject;
  readonly plan: ValuePlan;
}

/**
 * Plans without classes for stages up to the subject's own whose images take no more memory than its ceiling, the fastest first; codes of up to 4
 * bits lie two in a byte there.
 */
export async function plansOfOwnCuts(
  subject: PatchSubject,
  lambdas: readonly number[],
  latencyOf: LatencyOf,
): Promise<CutPlan[]> {
  const { prepared, sensitivity, ports, signal, task } = subject;
  const found: CutPlan[] = [];
  for (const stage of listStages(prepared).filter(({ split }) => split <= subject.cut.stage.split)) {
    for (const grid of grids) {
      const own = { ...subject, cut: { stage, grid } };
      const { rows, columns } = stage.tensors[stage.output]!;
      if (grid.rows > rows || grid.columns > columns) continue;
      const macs = classMacs(prepared, own.cut, new Array<number>(grid.rows * grid.columns).fill(0));
      const value = problemOf(own, 'sensitivity', coarse, null, latencyOf);
      const options = { lambdas, search: searchExact, weightCandidates: coarse.weights, ceilings: {}, latencyOf };
      const plans = await planByValue(prepared, own.cut, macs, value, sensitivity, options, ports.solver, signal);
      found.push(
        ...plans.filter((plan) => arenaOf(own, plan) <= task.ceilingBytes).map((plan) => ({ subject: own, plan })),
      );
    }
  }
  return found.sort((a, b) => a.plan.latency! - b.plan.latency!);
}

function arenaOf(subject: PatchSubject, { precisions }: ValuePlan): number {
  const { stage, grid } = subject.cut;
  const patches = { split: stage.split, grid, isInputStreamed: true };
  const form = { patches, arenaCeilingBytes: subject.task.ceilingBytes };
  return buildImage(subject.prepared, precisions.plain, { ...imageOptions(subject, precisions, null), ...form })
    .arenaBytes;
}
