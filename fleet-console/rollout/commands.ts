/** What people may do to a rollout. Pure. */
import { EdgeError } from '../../configs/contracts/errors.js';
import { type Rollout, type RolloutPolicy, type RolloutStatus, stageName } from '../../configs/contracts/rollout.js';
import { parseSelector } from '../selector.js';
import type { RolloutDevice } from './device.js';
import { type Advance, Draft } from './draft.js';

/** What a new rollout is. */
export interface RolloutStart {
  readonly id: number;
  readonly release: string;
  readonly target: string;
  readonly selector: string;
  readonly policy: RolloutPolicy;
}

/**
 * A new rollout, before anything was done. Fails with `rollout/invalid` where its policy could never work on these devices, with
 * `rollout/conflict` where another rollout has one of them, and with `selector/invalid`.
 */
export function startRollout(start: RolloutStart, devices: Iterable<RolloutDevice>): Rollout {
  const { policy } = start;
  for (const { selector } of policy.stages) if (selector !== undefined) parseSelector(selector);
  const stage = { startedMs: null, settledMs: null, isApproved: false, isAccepted: false };
  const rollout: Rollout = {
    ...start,
    selector: parseSelector(start.selector).text,
    status: 'running',
    reason: 'started',
    stage: 0,
    stages: policy.stages.map(() => stage),
    rollbackFrom: null,
    clockMs: 0,
    seenMs: null,
    devices: {},
  };
  const draft = new Draft(rollout, devices);
  const meant = [...draft.devices.values()].filter((device) => draft.isMeant(device));
  const refuse = (message: string, subject: string) => {
    throw new EdgeError('rollout/invalid', message, { subject });
  };
  if (meant.length === 0) refuse('no device is named that has such a target', rollout.selector);
  const held = meant.find(({ heldBy }) => heldBy !== null);
  if (held !== undefined) {
    throw new EdgeError(
      'rollout/conflict',
      `device ${held.id} is part of rollout ${held.heldBy}, which has not ended`,
      {
        subject: held.id,
      },
    );
  }
  const impossible = draft.impossibility();
  if (impossible !== null) refuse(impossible, 'disruption');
  const rule = policy.abort.find(({ minimum }) => minimum > meant.length);
  if (rule !== undefined)
    refuse(
      `the abort rule of class ${rule.class} needs ${rule.minimum} answers, and there are ${meant.length} devices`,
      'abort',
    );
  const slow = tooSlowStage(policy, meant.length);
  if (slow !== null) refuse(slow, 'rate');
  return rollout;
}

/** The sentence about a stage that cannot begin all its devices before its deadline; null where there is none. */
function tooSlowStage({ stages, rate, deadline }: RolloutPolicy, devices: number): string | null {
  if (rate === undefined) return null;
  let reached = 0;
  for (const [index, { count, percent }] of stages.entries()) {
    // Of a selector it is not known here how many it names.
    const upTo =
      count !== undefined ? reached + count : percent !== undefined ? Math.ceil((percent * devices) / 100) : reached;
    const own = Math.min(devices, upTo) - reached;
    reached += Math.max(0, own);
    const minutes = Math.ceil(own / rate.perMinute) - 1;
    if (minutes * 60 > deadline.stageSeconds)
      return `${stageName(stages, index)} has ${own} devices: at ${rate.perMinute} a minute they cannot begin within ${deadline.stageSeconds} s`;
  }
  return null;
}

/** Nothing more is assigned until somebody resumes. Fails with `rollout/state` unless it is running. */
export function pause(rollout: Rollout, why: string): Advance {
  return command(rollout, ['running'], 'paused', (draft) => draft.become('paused', why));
}

/**
 * Goes on, knowing of everything that has happened so far: failures and inconclusive gates until now count no more, and the stage has its
 * whole time again. Fails with `rollout/state` unless it is paused, and while devices of it are ahead of the database.
 */
export function resume(rollout: Rollout, devices: Iterable<RolloutDevice>, why: string): Advance {
  const ahead = [...devices].find(({ id, isAhead }) => isAhead && rollout.devices[id] !== undefined);
  if (ahead !== undefined) {
    throw new EdgeError('rollout/state', `device ${ahead.id} has orders newer than this database`, {
      subject: ahead.id,
      hint: 'Decide first what holds for such devices: fleet ahead.',
    });
  }
  return command(rollout, ['paused'], 'resumed', (draft) => {
    for (const [id, { state, gates, isAccepted }] of draft.members()) {
      const isUnclear = state === 'confirmed' && gates.some(({ verdict }) => verdict === 'inconclusive');
      if (!isAccepted && (state === 'failed' || isUnclear)) draft.change(id, { isAccepted: true });
    }
    const { startedMs, settledMs } = draft.head.stages[draft.head.stage]!;
    draft.setStage({ startedMs: startedMs === null ? null : draft.head.clockMs, isAccepted: settledMs !== null });
    // Time that passed meanwhile does not count.
    draft.set({ seenMs: null });
    draft.become('running', why);
  });
}

/** Lets the next stage begin. Fails with `rollout/state` unless the current one waits for that. */
export function approve(rollout: Rollout, why: string): Advance {
  return command(rollout, ['running'], 'approved', (draft) => {
    const { stages, stage, clockMs } = draft.head;
    const { settledMs, isApproved } = stages[stage]!;
    const isBaked = settledMs !== null && clockMs - settledMs >= draft.stage.bakeSeconds * 1000;
    if (!draft.stage.approval || isApproved || !isBaked) {
      throw new EdgeError('rollout/state', `${draft.nameOf()} does not wait for approval`, {
        subject: `rollout ${rollout.id}`,
      });
    }
    draft.setStage({ isApproved: true });
    draft.say(null, `${draft.nameOf()} approved: ${why}`);
  });
}

/** Ends it for good where it stands: no device is told anything more. Fails with `rollout/state` once it has ended. */
export function abort(rollout: Rollout, why: string): Advance {
  return command(rollout, ['running', 'paused', 'rolling-back'], 'aborted', (draft) => draft.become('aborted', why));
}

/** Sends every device that was told back to what it had before. Fails with `rollout/state` after an abort or a rollback. */
export function rollBack(rollout: Rollout, why: string): Advance {
  return command(rollout, ['running', 'paused', 'completed'], 'rolled back', (draft) => {
    if (rollout.status === 'completed') draft.standing = 'withdraw';
    draft.set({ rollbackFrom: 0, seenMs: null });
    draft.become('rolling-back', why);
  });
}

function command(
  rollout: Rollout,
  allowed: readonly RolloutStatus[],
  what: string,
  work: (draft: Draft) => void,
): Advance {
  if (!allowed.includes(rollout.status)) {
    throw new EdgeError('rollout/state', `rollout ${rollout.id} is ${rollout.status}, and cannot be ${what}`, {
      subject: `rollout ${rollout.id}`,
    });
  }
  const draft = new Draft(rollout, []);
  work(draft);
  return draft.done();
}
