/**
 * The rollout engine: what a rollout does next, and why. Pure: the same rollout, devices and time give the same answer, so that a console
 * which is killed anywhere goes on from what is written.
 *
 * INVARIANTS
 * 1. A device counts as done only when it says that it runs the release, confirmed; never when it was told.
 * 2. Nothing is assigned while paused, after an abort, to a device that is ahead of the database, or beyond the disruption budget.
 * 3. What a device says later counts as what it said before: a late failure takes its success back, and the rules look again.
 * 4. A rollback sends every device that was told back to the release that was wanted on it before.
 * 5. A rollout that has ended takes over what its devices say for as long as its word holds on them, and orders nothing.
 */
import { type DeviceProgress, type Rollout, stageName } from '../configs/contracts/rollout.js';
import type { RolloutDevice } from './rollout/device.js';
import { type Advance, Draft, hasEnded } from './rollout/draft.js';
import { observe } from './rollout/observe.js';

export { abort, approve, pause, resume, rollBack, startRollout } from './rollout/commands.js';
export { type DeviceFacts, type RolloutDevice, rolloutDeviceOf } from './rollout/device.js';
export { type Advance, hasEnded, type RolloutAssignment } from './rollout/draft.js';

/** Names that are listed in a sentence. */
const mostNames = 5;
const minuteMs = 60_000;

/**
 * Moves a rollout on, as far as it goes now: takes over what the devices say, then begins, ends, pauses or takes back what is due. Of one
 * that has ended, only the former.
 *
 * @param devices all devices of the fleet; of a rollout that has ended, any of them
 * @param nowMs any clock; jumps in either direction do no harm
 */
export function advance(rollout: Rollout, devices: Iterable<RolloutDevice>, nowMs: number): Advance {
  const draft = new Draft(rollout, devices);
  if (!draft.hasEnded) draft.tick(nowMs);
  for (const [id, progress] of draft.members()) {
    const device = draft.devices.get(id);
    if (device !== undefined) observe(draft, device, progress);
  }
  if (draft.head.status === 'running') run(draft);
  if (draft.head.status === 'rolling-back') takeBack(draft);
  return draft.done();
}

function run(draft: Draft): void {
  enroll(draft);
  const ahead = draft.members().filter(([id]) => draft.devices.get(id)?.isAhead);
  if (ahead.length > 0) {
    draft.become(
      'paused',
      `${names(ahead)} ${ahead.length === 1 ? 'has' : 'have'} orders newer than this database, which was restored from an earlier one`,
    );
    return;
  }
  const broken = brokenRule(draft);
  if (broken !== null) {
    fail(draft, broken.text, broken.stage);
    return;
  }
  const unclear = draft.members().find(([, { state, gates, isAccepted }]) => {
    return state === 'confirmed' && !isAccepted && gates.some(({ verdict }) => verdict === 'inconclusive');
  });
  if (unclear !== undefined) {
    const [id, { gates }] = unclear;
    draft.become('paused', `a gate is inconclusive on ${id}: ${gates.find((g) => g.verdict === 'inconclusive')!.text}`);
    return;
  }
  // One round a stage: empty ones pass at once.
  do {
    beginStage(draft);
    startDevices(draft);
  } while (endStage(draft));
}

/** Takes in devices that the rollout is for, and lets those go that it is no longer for, as long as they were not told. */
function enroll(draft: Draft): void {
  const isFirst = draft.head.stages[0]!.startedMs === null;
  for (const device of draft.devices.values()) {
    const progress = draft.progressOf(device.id);
    if (progress === undefined) {
      if (draft.isMeant(device) && (isFirst || draft.policy.lateJoiners === 'adopt')) draft.enroll(device.id);
    } else if (progress.state === 'waiting' && !draft.isMeant(device)) {
      draft.drop(device.id);
      draft.say(device.id, 'left: the rollout is no longer for this device');
    }
  }
}

/** The first rule that the outcomes break, with the stage to which that is to be put down. */
function brokenRule(draft: Draft): { text: string; stage: number } | null {
  const answered = draft
    .members()
    .map(([, progress]) => progress)
    .filter(({ state, isAccepted }) => state === 'confirmed' || (state === 'failed' && !isAccepted));
  const scopes = draft.head.stages.slice(0, draft.head.stage + 1).map((_, index) => ({
    stage: index,
    name: draft.nameOf(index),
    outcomes: answered.filter(({ stage }) => stage === index),
  }));
  const all = { stage: draft.head.stage, name: 'the whole rollout', outcomes: answered };
  for (const rule of draft.policy.abort) {
    for (const { stage, name, outcomes } of [...scopes, all]) {
      const failed = outcomes.filter(
        ({ state, failure }) => state === 'failed' && (rule.class === 'ANY' || failure?.class === rule.class),
      ).length;
      if (outcomes.length < rule.minimum || failed * 100 <= rule.percent * outcomes.length) continue;
      const what = rule.class === 'ANY' ? 'failed' : `failed with ${rule.class}`;
      const text = `${failed} of ${outcomes.length} devices of ${name} ${what}, more than ${rule.percent} percent`;
      return { text, stage };
    }
  }
  return null;
}

function fail(draft: Draft, why: string, stage: number): void {
  const { onFail } = draft.policy;
  if (onFail === 'pause') draft.become('paused', why);
  else {
    draft.set({ rollbackFrom: onFail === 'rollback-all' ? 0 : stage });
    draft.become('rolling-back', why);
  }
}

/** Chooses the devices of the current stage; in the last one, also those that came later. */
function beginStage(draft: Draft): void {
  const { stages, stage: index } = draft.head;
  const isBegun = stages[index]!.startedMs !== null;
  if (isBegun && !draft.isLastStage) return;
  const chosen = choose(draft);
  for (const id of chosen) draft.change(id, { stage: index });
  if (isBegun) {
    for (const id of chosen) draft.say(id, `joined ${draft.nameOf()}, later than others`);
    if (chosen.length > 0) draft.setStage({ settledMs: null });
    return;
  }
  draft.setStage({ startedMs: draft.head.clockMs });
  draft.say(null, `${draft.nameOf()} begins with ${chosen.length} ${chosen.length === 1 ? 'device' : 'devices'}`);
}

function choose(draft: Draft): string[] {
  const { count, percent } = draft.stage;
  const members = draft.members();
  const free = members.filter(([, { stage, state }]) => stage === null && state === 'waiting').map(([id]) => id);
  if (count === undefined && percent === undefined) return free.filter((id) => draft.isInStage(id));
  const taken = members.length - free.length;
  const wanted = count ?? Math.ceil((percent! * members.length) / 100) - taken;
  if (wanted >= free.length) return free;
  // Devices that can answer first; among those, by lot, and the same lot at every look.
  const lot = (id: string) => (draft.devices.get(id)?.isOnline ? 0 : 2 ** 32) + hash(`${draft.head.id}/${id}`);
  return free
    .map((id) => [lot(id), id] as const)
    .sort(([a, first], [b, second]) => a - b || (first < second ? -1 : 1))
    .slice(0, Math.max(0, wanted))
    .map(([, id]) => id);
}

/** Tells devices whose turn it is, as many as rate and disruption budget allow. */
function startDevices(draft: Draft): void {
  const { release, clockMs } = draft.head;
  let allowance = rateAllowance(draft);
  for (const [id, progress] of draft.members()) {
    if (allowance <= 0) return;
    const device = draft.devices.get(id);
    if (device === undefined || !isDue(progress) || hindrance(device) !== null) continue;
    if (draft.objection(device) !== null) continue;
    allowance--;
    draft.assign(device, release, {
      state: 'updating',
      startedMs: clockMs,
      previous: device.wanted,
      baseline: device.active !== null && device.active.release === device.wanted ? device.active.metrics : null,
    });
    draft.say(
      id,
      `told to run ${release}: its turn in ${draft.nameOf(progress.stage!)}; before: ${device.wanted ?? 'nothing'}`,
    );
  }
}

const isDue = ({ state, stage }: DeviceProgress) => state === 'waiting' && stage !== null;

/** What keeps a device from being told anything, apart from budgets; null where nothing does. */
function hindrance({ isOnline, isAhead, heldBy }: RolloutDevice): string | null {
  if (isAhead) return 'it has orders newer than this database: decide with fleet ahead';
  if (heldBy !== null) return `rollout ${heldBy} has it`;
  return isOnline ? null : 'it is offline';
}

/** How many devices may still begin in this minute. */
function rateAllowance(draft: Draft): number {
  const { rate } = draft.policy;
  if (rate === undefined) return Number.POSITIVE_INFINITY;
  const since = draft.head.clockMs - minuteMs;
  const recent = draft.members().filter(([, { startedMs }]) => startedMs !== null && startedMs > since);
  return rate.perMinute - recent.length;
}

/** Ends the current stage if that is due. Answers whether another one is to begin. */
function endStage(draft: Draft): boolean {
  const { clockMs, stage: index, stages, release } = draft.head;
  const progress = stages[index]!;
  const members = draft.members();
  const open = members.filter(([id, device]) => isAwaited(draft, id, device));
  if (open.length > 0) {
    if (progress.settledMs !== null) draft.setStage({ settledMs: null });
    const { stageSeconds } = draft.policy.deadline;
    if (clockMs - progress.startedMs! > stageSeconds * 1000)
      fail(draft, `${draft.nameOf()} did not end within ${stageSeconds} s: waiting for ${names(open)}`, index);
    return false;
  }
  const own = members.filter(([, { stage }]) => stage === index);
  if (own.length > 0 && !progress.isAccepted && !own.some(([, { state }]) => state === 'confirmed')) {
    draft.setStage({ settledMs: progress.settledMs ?? clockMs });
    draft.become('paused', `no device of ${draft.nameOf()} has confirmed: there is nothing to go on by`);
    return false;
  }
  if (progress.settledMs === null) {
    draft.setStage({ settledMs: clockMs });
    draft.say(null, `${draft.nameOf()}: every device has answered`);
  }
  const bakedMs = clockMs - (progress.settledMs ?? clockMs);
  if (own.length > 0 && bakedMs < draft.stage.bakeSeconds * 1000) return false;
  if (draft.stage.approval && !progress.isApproved) return false;
  draft.say(null, `${draft.nameOf()} has ended: ${tally(own)}`);
  if (!draft.isLastStage) {
    draft.set({ stage: index + 1 });
    return true;
  }
  draft.become('completed', tally(members));
  if (draft.policy.lateJoiners !== 'adopt') return false;
  draft.standing = 'adopt';
  draft.say(null, `devices that come from now on get ${release}`);
  for (const [id, { state }] of members) {
    const device = draft.devices.get(id);
    if (state === 'superseded' && device !== undefined) draft.hold(device);
  }
  return false;
}

/** Whether the current stage has to wait for a device of its own, or of one before. */
function isAwaited(draft: Draft, id: string, progress: DeviceProgress): boolean {
  if (progress.state === 'updating') return true;
  if (!isDue(progress)) return false;
  const device = draft.devices.get(id);
  return device !== undefined && (device.isOnline || draft.policy.offline === 'wait');
}

/** Sends devices back, the last stage first, as the disruption budget allows; ends when all have answered. */
function takeBack(draft: Draft): void {
  const from = draft.head.rollbackFrom!;
  const told = draft
    .members()
    .filter(
      ([, { stage, startedMs, state }]) =>
        stage !== null && stage >= from && startedMs !== null && state !== 'superseded',
    )
    .sort(([, a], [, b]) => b.stage! - a.stage!);
  for (const [id, { state, previous }] of told) {
    const device = draft.devices.get(id);
    if (device === undefined || device.isAhead || !['updating', 'confirmed', 'failed'].includes(state)) continue;
    if (draft.objection(device) !== null) continue;
    draft.assign(device, previous, { state: 'returning' });
    draft.say(id, `told to go back to ${previous ?? 'nothing'}: ${draft.head.reason}`);
  }
  const states = told.map(([id]) => draft.progressOf(id)!.state);
  if (states.every((state) => state === 'returned' || state === 'stranded')) {
    draft.become('rolled-back', `${draft.head.reason}; ${tally(told.map(([id]) => [id, draft.progressOf(id)!]))}`);
  }
}

/**
 * Where a device stands and what it waits for, in a sentence: the answer to why it is not updated.
 *
 * @param devices all devices of the fleet, as the budget counts them
 */
export function explain(rollout: Rollout, devices: Iterable<RolloutDevice>, id: string): string {
  const draft = new Draft(rollout, devices);
  const device = draft.devices.get(id);
  const progress = draft.progressOf(id);
  const { release, status, reason, target, selector } = rollout;
  if (device === undefined) return `no device ${id} has ever connected`;
  if (progress === undefined) {
    if (device.kind === null) return `it has no target ${target} that ${release} is for`;
    if (!draft.isMeant(device)) return `the selector ${selector} does not name it`;
    return hasEnded(rollout)
      ? `it came after the rollout, which is ${status}`
      : draft.policy.lateJoiners === 'ignore'
        ? 'it came after the rollout had begun, and late joiners are ignored'
        : `it has just come: the rollout is ${status}`;
  }
  const doing = device.activity === '' ? '' : `; ${device.activity}`;
  const verdicts = progress.gates.map(({ text }) => text).join('; ');
  if (progress.isLetGo && hasEnded(rollout)) {
    const end =
      progress.state === 'confirmed' ? `had confirmed ${release}` : `went back to ${progress.previous ?? 'nothing'}`;
    return `it ${end}, and was assigned something else after the rollout was ${status}: what it does now is no matter of the rollout`;
  }
  switch (progress.state) {
    case 'confirmed':
      return `it runs ${release}, confirmed${verdicts === '' ? '' : `; ${verdicts}`}`;
    case 'failed':
      return `it failed, ${progress.failure!.class} (${progress.failure!.code}): ${progress.failure!.message}`;
    case 'superseded':
      return `it was assigned ${device.wanted ?? 'nothing'} meanwhile, outside of the rollout`;
    case 'returned':
      return `it went back to ${progress.previous ?? 'nothing'}: ${reason}`;
    case 'stranded':
      return `it was told to go back to ${progress.previous ?? 'nothing'} and cannot: ${progress.failure?.message ?? 'it does not say why'}`;
    case 'returning':
      return `it was told to go back to ${progress.previous ?? 'nothing'} and has not confirmed that${whereabouts(device)}${doing}`;
    case 'updating':
      return `it was told to run ${release} and has not confirmed that${whereabouts(device)}${doing}`;
  }
  if (status !== 'running') return `the rollout is ${status}: ${reason}`;
  if (progress.stage === null) return `its turn has not come: ${waitOf(draft)}`;
  const obstacle = hindrance(device) ?? draft.objection(device);
  if (obstacle !== null) return obstacle;
  return rateAllowance(draft) <= 0
    ? `${rollout.policy.rate!.perMinute} devices have begun within the last minute, as many as the rate allows`
    : 'it is about to be told';
}

function whereabouts({ isOnline, isCurrent }: RolloutDevice): string {
  if (!isOnline) return '; it is offline';
  return isCurrent ? '' : '; it has not seen its orders yet';
}

/** What a rollout waits for, in a sentence; of one that has ended, what came of it, and what has become of that. */
export function describe(rollout: Rollout, devices: Iterable<RolloutDevice>): string {
  const draft = new Draft(rollout, devices);
  if (rollout.status === 'running') return waitOf(draft);
  if (rollout.status === 'completed') {
    const now = tally(draft.members());
    return now === rollout.reason ? now : `${rollout.reason}; by now ${now}`;
  }
  if (rollout.status !== 'rolling-back') return rollout.reason;
  const open = draft.members().filter(([, { state, stage, startedMs }]) => {
    const isMeant = startedMs !== null && stage !== null && stage >= rollout.rollbackFrom!;
    return isMeant && !['returned', 'stranded', 'superseded'].includes(state);
  });
  return `the rollback waits for ${names(open)}`;
}

function waitOf(draft: Draft): string {
  const { clockMs, stage: index, stages } = draft.head;
  const { settledMs, startedMs, isApproved } = stages[index]!;
  const name = stageName(draft.policy.stages, index);
  if (startedMs === null) return `${name} is about to begin`;
  if (settledMs === null) {
    const open = draft.members().filter(([id, progress]) => isAwaited(draft, id, progress));
    return `${name} waits for ${names(open)}`;
  }
  const leftMs = draft.stage.bakeSeconds * 1000 - (clockMs - settledMs);
  if (leftMs > 0) return `${name} bakes for ${Math.ceil(leftMs / 1000)} s more`;
  return draft.stage.approval && !isApproved ? `${name} waits for approval` : `${name} is about to end`;
}

function names(list: readonly (readonly [string, unknown])[]): string {
  const shown = list.slice(0, mostNames).map(([id]) => id);
  return `${shown.join(', ')}${list.length > mostNames ? ` and ${list.length - mostNames} more` : ''}`;
}

/** Devices by state: `3 confirmed, 1 failed`. */
function tally(list: readonly (readonly [string, DeviceProgress])[]): string {
  const counts = new Map<string, number>();
  for (const [, { state }] of list) counts.set(state, (counts.get(state) ?? 0) + 1);
  const states = [...counts].sort(([a], [b]) => (a < b ? -1 : 1));
  return states.map(([state, count]) => `${count} ${state}`).join(', ') || 'no device';
}

/** FNV-1a, 32 bits: an order that no naming scheme of devices favours. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return value;
}
