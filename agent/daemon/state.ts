import type { Have } from '../core/reconcile.js';
import type { ArtifactStore, Goal, ModelCache, RunnerHost } from '../device-ports.js';
import { contentKey } from '../digest.js';
import type { TargetIdentity } from '../ports.js';
import type { Memory } from './memory.js';

/** A target of this device. */
export interface DaemonTarget {
  readonly id: string;
  readonly kind: string;
  /** null: it was never reached. */
  readonly identity: TargetIdentity | null;
  readonly runners: RunnerHost;
  /** See `SlotTarget`; true for targets of this machine. */
  readonly isSettled: boolean;
}

/** What is wanted of a target, and what is there. */
export interface TargetState {
  readonly goal: Goal | null;
  /** null where nothing is wanted, or nobody knows yet who the target is. */
  readonly goalKey: string | null;
  readonly have: Have;
}

/** What the look at the world needs. */
export interface StatePorts {
  readonly memory: Memory;
  readonly artifacts: ArtifactStore;
  readonly models: ModelCache;
}

/** Key of the artifact that a goal asks for: everything that it depends on. */
export function goalKeyOf(goal: Goal, identity: TargetIdentity, algorithm: string): string {
  const { release, budget } = goal.wanted;
  const samples = goal.samples?.digest ?? null;
  return contentKey(['artifact', algorithm, release.id, release.model.sha256, release.card, budget, identity, samples]);
}

/** The one look at the world that decisions and reports rest on. */
export async function stateOf(
  { id, identity, isSettled }: DaemonTarget,
  algorithm: string,
  { memory, artifacts, models }: StatePorts,
): Promise<TargetState> {
  const goal = memory.goal(id);
  const goalKey = goal === null || identity === null ? null : goalKeyOf(goal, identity, algorithm);
  const activeKey = await artifacts.linked(id, 'active');
  const document = goalKey === null ? null : await artifacts.report(goalKey);
  const model = goal === null ? null : await models.find(goal.wanted.release.model.sha256);
  return {
    goal,
    goalKey,
    have: {
      isSettled,
      hasModel: model !== null,
      made: document === null ? 'no' : document.feasible ? 'feasible' : 'infeasible',
      isPublished: goalKey !== null && memory.isPublished(id, goalKey),
      active: activeKey === null ? null : { key: activeKey, isConfirmed: memory.isConfirmed(id, activeKey) },
      previous: await artifacts.linked(id, 'previous'),
      failed: new Set(memory.failures(id).map(({ key }) => key)),
    },
  };
}
