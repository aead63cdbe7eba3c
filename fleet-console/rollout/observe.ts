import type { DeviceFailure, DeviceProgress } from '../../configs/contracts/rollout.js';
import type { RolloutDevice } from './device.js';
import type { Draft } from './draft.js';
import { judgeGate } from './gates.js';

/** Takes over what a device says. Of one that is ahead of the database nothing is: it speaks of orders that are not known here. */
export function observe(draft: Draft, device: RolloutDevice, progress: DeviceProgress): void {
  if (device.isAhead) return;
  const { state, previous } = progress;
  const isForward = state === 'updating' || state === 'confirmed' || state === 'failed';
  const isBackward = state === 'returning' || state === 'returned' || state === 'stranded';
  if (!isForward && !isBackward) return;
  const { isLetGo = false } = progress;
  if (isLetGo && draft.hasEnded) return;
  if (isLetGo || device.wanted !== (isForward ? draft.head.release : previous)) {
    // What came of it in a rollout that has ended stays on record, whatever is wanted later.
    const isOnRecord = draft.hasEnded && (state === 'confirmed' || state === 'returned');
    draft.change(device.id, isOnRecord ? { isLetGo: true } : { state: 'superseded' });
    draft.say(
      device.id,
      `left alone from here on: it was assigned ${isLetGo ? 'something else' : (device.wanted ?? 'nothing')} outside of the rollout`,
    );
  } else if (isBackward) observeReturn(draft, device, progress);
  else observeUpdate(draft, device, progress);
}

function observeUpdate(draft: Draft, device: RolloutDevice, progress: DeviceProgress): void {
  const { release, clockMs } = draft.head;
  const runsIt = device.active?.release === release && device.active.isConfirmed;
  // Budgets that come after the end, and plans for them, are no matter of the rollout: only that a device falls back is.
  if (draft.hasEnded && progress.state === 'confirmed' && device.active?.release === release) return;
  if (device.isCurrent) {
    const failure = failureOf(device, progress, runsIt);
    if (failure !== null) {
      const known = progress.state === 'failed' ? progress.failure : null;
      if (known?.class !== failure.class || known.code !== failure.code)
        draft.fail(device.id, progress.state === 'confirmed' ? fallen(device, release, failure) : failure);
      return;
    }
    if (runsIt && device.isConfirmed) {
      judge(draft, device, progress);
      return;
    }
    if (progress.state === 'confirmed' && device.active?.release !== release) {
      draft.fail(device.id, fallen(device, release, null));
      return;
    }
  }
  const { deviceSeconds } = draft.policy.deadline;
  if (progress.state === 'updating' && clockMs - progress.startedMs! >= deviceSeconds * 1000) {
    const why = device.activity !== '' ? device.activity : device.isOnline ? 'it says nothing of why' : 'it is offline';
    draft.fail(device.id, {
      class: 'TIMED_OUT',
      code: 'deadline',
      message: `it has not confirmed within ${deviceSeconds} s: ${why}`,
    });
  }
}

/** The failure of a device that had confirmed a release. `failure`: what it says itself; null where it says nothing. */
function fallen({ active }: RolloutDevice, release: string, failure: DeviceFailure | null): DeviceFailure {
  if (active?.release === release && failure !== null) return failure;
  const what = `it had confirmed ${release}, and runs ${active?.release ?? 'nothing'} now`;
  return {
    class: failure?.class ?? 'REVERTED',
    code: failure?.code ?? 'reverted',
    message: failure === null ? what : `${what}: ${failure.message}`,
  };
}

/** What the device says has failed. A newer budget that it cannot hold takes nothing from a release that it runs and has confirmed. */
function failureOf({ failure }: RolloutDevice, { state }: DeviceProgress, runsIt: boolean): DeviceFailure | null {
  if (failure === null) return null;
  const isAboutBudget = failure.class === 'INFEASIBLE' || failure.class === 'FAILED';
  return state === 'confirmed' && runsIt && isAboutBudget ? null : failure;
}

/** A device that runs the release, confirmed: the gates decide. */
function judge(draft: Draft, device: RolloutDevice, progress: DeviceProgress): void {
  const { metrics } = device.active!;
  // Nothing new was measured: with many devices, this is what most looks come to.
  if (progress.state === 'confirmed' && progress.gates.every(({ metric, value }) => metrics[metric] === value)) return;
  const gates = draft.policy.gates.map((gate) => judgeGate(gate, metrics, progress.baseline));
  const isSame = gates.every(({ text }, index) => text === progress.gates[index]?.text);
  const beyond = gates.find(({ verdict }) => verdict === 'fail');
  if (beyond !== undefined) {
    if (progress.state === 'failed' && progress.failure?.class === 'GATE' && isSame) return;
    draft.fail(device.id, { class: 'GATE', code: beyond.metric, message: beyond.text }, gates);
    return;
  }
  if (progress.state === 'confirmed') {
    if (!isSame) draft.change(device.id, { gates });
    return;
  }
  draft.change(device.id, { state: 'confirmed', failure: null, gates, isAccepted: false });
  const after = progress.state === 'failed' ? `, after it had failed with ${progress.failure!.class}` : '';
  const evidence = gates.length === 0 ? '' : `; ${gates.map(({ text }) => text).join('; ')}`;
  draft.say(device.id, `confirmed ${draft.head.release}${after}${evidence}`);
}

function observeReturn(draft: Draft, device: RolloutDevice, progress: DeviceProgress): void {
  if (!device.isCurrent) return;
  const { previous, state } = progress;
  const isBack =
    previous === null || (device.isConfirmed && device.active?.isConfirmed && device.active.release === previous);
  if (isBack && state !== 'returned') {
    draft.change(device.id, { state: 'returned' });
    const keeps = previous === null ? ': it had none before, and keeps what it runs' : '';
    draft.say(device.id, `back at ${previous ?? 'no release'}${keeps}`);
  } else if (!isBack && device.failure !== null && state !== 'stranded') {
    draft.change(device.id, { state: 'stranded', failure: device.failure });
    draft.say(device.id, `cannot go back to ${previous}, ${device.failure.class}: ${device.failure.message}`);
  }
}
