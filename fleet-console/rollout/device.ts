/** A device as a rollout looks at it: what is wanted on one of its targets, and what it says of that. Pure. */
import type { Birth, Condition, DesiredState, Measurements, ReportedState } from '../../configs/contracts/device.js';
import { type ErrorCode, errorTable } from '../../configs/contracts/errors.js';
import type { DeviceFailure, MetricValues } from '../../configs/contracts/rollout.js';
import type { Selectable } from '../selector.js';

/** What a rollout knows of a device. */
export interface RolloutDevice extends Selectable {
  /** Kind of the target; null where the device has no such target. */
  readonly kind: string | null;
  /** It is connected, and has been heard since this console started. */
  readonly isOnline: boolean;
  /** It has orders that are newer than the database: nothing is decided over its head. */
  readonly isAhead: boolean;
  /** Another rollout that has not ended and has this device; null where none has. */
  readonly heldBy: number | null;
  /** Release that is wanted on the target; null where none is. */
  readonly wanted: string | null;
  /** It has seen its newest orders: what it says is about them. */
  readonly isCurrent: boolean;
  /** What runs on the target. */
  readonly active: { readonly release: string; readonly isConfirmed: boolean; readonly metrics: MetricValues } | null;
  /** What is wanted, under the budget that is wanted, runs and is confirmed. */
  readonly isConfirmed: boolean;
  /** Why it will not do what is wanted unless something changes; null where it says nothing of the kind. */
  readonly failure: DeviceFailure | null;
  /** What it is doing, or what holds it up, in words; empty where it says nothing. */
  readonly activity: string;
}

/** What the console knows of a device, as far as this needs it. */
export interface DeviceFacts {
  readonly id: string;
  readonly birth: Birth;
  readonly isOnline: boolean;
  readonly isAhead: boolean;
  readonly reported: ReportedState | null;
  readonly desired: DesiredState | null;
}

/** A device, for rollouts on one of its targets. */
export function rolloutDeviceOf(facts: DeviceFacts, target: string): Omit<RolloutDevice, 'heldBy'> {
  const { id, birth, reported, desired } = facts;
  const active = reported?.targets[target]?.active ?? null;
  const said = (reported?.conditions ?? []).filter((condition) => condition.target === target);
  const isTrue = (type: Condition['type']) => said.find((c) => c.type === type && c.status === 'true');
  const step = reported?.targets[target]?.step ?? null;
  const trouble = isTrue('Degraded');
  const gated = isTrue('Gated');
  const refusal = reported?.conditions.find(({ type, status }) => type === 'Accepted' && status === 'false');
  const activity =
    refusal !== undefined
      ? `it does not take its orders: ${refusal.message}`
      : trouble !== undefined
        ? `in trouble: ${trouble.message}`
        : step !== null
          ? `${step.name}, ${Math.round(step.share * 100)} %`
          : gated !== undefined
            ? `waiting: gated (${gated.message})`
            : '';
  return {
    id,
    labels: birth.labels,
    kind: birth.targets[target]?.kind ?? null,
    isOnline: facts.isOnline,
    isAhead: facts.isAhead,
    wanted: desired?.targets[target]?.release.id ?? null,
    isCurrent: (reported?.observedGeneration ?? 0) >= (desired?.generation ?? 0),
    active:
      active === null
        ? null
        : { release: active.release, isConfirmed: active.isConfirmed, metrics: metricsOf(active.measurements) },
    isConfirmed: isTrue('Confirmed') !== undefined,
    failure: failureOf(facts, isTrue, refusal),
    activity,
  };
}

function failureOf(
  { birth }: DeviceFacts,
  isTrue: (type: Condition['type']) => Condition | undefined,
  refusal: Condition | undefined,
): DeviceFailure | null {
  const of = (failureClass: DeviceFailure['class'], { reason, message }: Condition): DeviceFailure => ({
    class: failureClass,
    code: reason,
    message,
  });
  const [reverted, infeasible, degraded] = [isTrue('RolledBack'), isTrue('BudgetInfeasible'), isTrue('Degraded')];
  if (reverted !== undefined) return of('REVERTED', reverted);
  if (infeasible !== undefined) return of('INFEASIBLE', infeasible);
  if (degraded !== undefined && isFinal(degraded)) return of('FAILED', degraded);
  // With several targets, a refusal may be about another one; the deadline will tell.
  return refusal !== undefined && Object.keys(birth.targets).length === 1 ? of('REJECTED', refusal) : null;
}

/** What a device goes on trying is no failure yet: its deadline decides. */
function isFinal({ reason, failure }: Condition): boolean {
  return failure?.isFinal ?? !(Object.hasOwn(errorTable, reason) && errorTable[reason as ErrorCode].retryable);
}

function metricsOf({ latency, quality, ramBytes, energyMj }: Measurements): MetricValues {
  return {
    unit: latency.unit,
    latencyMedian: latency.measured,
    latencyP95: latency.p95 ?? null,
    ramBytes,
    energyMj: energyMj ?? null,
    kl: quality.kl,
    top1: quality.top1,
    agreement: quality.agreement,
  };
}
