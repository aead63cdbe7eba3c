/**
 * Rollouts: a release spreads over a part of the fleet in stages, and is stopped or taken back by what devices measured. A policy is what
 * a person writes; `parsePolicy` refuses one that could never end or never act. A rollout is the policy with everything that was
 * decided so far.
 */
import { type Static, Type } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { DeviceId, TargetId } from './device.js';
import { EdgeError } from './errors.js';
import { ReleaseId } from './release.js';
import { validate } from './validate.js';

const Seconds = (fallback: number) => Type.Number({ minimum: 0, maximum: 10 * 365 * 86_400, default: fallback });
const strict = { additionalProperties: false } as const;

/** A part of the rollout. Which devices: exactly one of `count`, `percent` and `selector`. */
export const Stage = Type.Object(
  {
    name: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
    /** So many further devices. */
    count: Type.Optional(Type.Integer({ minimum: 1 })),
    /** Further devices until this percentage of all devices of the rollout has had its turn. */
    percent: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 100 })),
    /** All further devices that it names. */
    selector: Type.Optional(Type.String({ minLength: 1, maxLength: 500 })),
    /** How long everything must stay well, after the last device has answered, before the next stage begins. */
    bakeSeconds: Seconds(0),
    /** Whether somebody has to approve before the next stage begins, or before the rollout counts as completed. */
    approval: Type.Boolean({ default: false }),
  },
  strict,
);
export type Stage = Static<typeof Stage>;

/** Why a device has failed. */
export const FailureClass = Type.Union([
  /** It does not take the document: no such target, not understood. */
  Type.Literal('REJECTED'),
  /** A step failed, and is not tried again. */
  Type.Literal('FAILED'),
  /** No plan holds its budget. */
  Type.Literal('INFEASIBLE'),
  /** It was active and was taken back, at once or later. */
  Type.Literal('REVERTED'),
  /** It has not confirmed within its time. */
  Type.Literal('TIMED_OUT'),
  /** It runs, but what was measured is beyond a gate. */
  Type.Literal('GATE'),
]);
export type FailureClass = Static<typeof FailureClass>;

/**
 * Acts when more than `percent` of the devices that have answered failed with the class (`ANY`: with any), in one stage or over all, and
 * at least `minimum` have answered there.
 */
export const AbortRule = Type.Object(
  {
    class: Type.Union([FailureClass, Type.Literal('ANY')]),
    percent: Type.Number({ minimum: 0, exclusiveMaximum: 100 }),
    minimum: Type.Integer({ minimum: 1, default: 1 }),
  },
  strict,
);
export type AbortRule = Static<typeof AbortRule>;

/** What a gate looks at: values that a device has measured of its confirmed artifact. */
export const GateMetric = Type.Union([
  Type.Literal('latencyMedian'),
  Type.Literal('latencyP95'),
  Type.Literal('ramBytes'),
  Type.Literal('energyMj'),
  Type.Literal('kl'),
  Type.Literal('top1'),
  Type.Literal('agreement'),
]);
export type GateMetric = Static<typeof GateMetric>;

/** Metrics of which more is better; they have floors, the others ceilings. */
export const risingMetrics: ReadonlySet<GateMetric> = new Set<GateMetric>(['top1', 'agreement']);

/**
 * A bound on a metric, for every device; exactly one of the four. Milliseconds, bytes, millijoules, fractions. What cannot be compared
 * (not measured, in another unit, nothing before it) is inconclusive, and pauses the rollout.
 */
export const Gate = Type.Object(
  {
    metric: GateMetric,
    /** Ceiling. */
    most: Type.Optional(Type.Number({ minimum: 0 })),
    /** Floor. */
    least: Type.Optional(Type.Number({ minimum: 0 })),
    /** Ceiling, as a multiple of what the release before it measured on the same device. */
    mostRatio: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    /** How far it may be below what the release before it measured on the same device. */
    mostDrop: Type.Optional(Type.Number({ minimum: 0 })),
  },
  strict,
);
export type Gate = Static<typeof Gate>;

/**
 * How many devices may be unavailable (offline, or being changed) at one time; exactly one of the two bounds. It counts the devices that the
 * rollout's selector names. A rollback counts only those that it is changing: what is offline anyway does not hold it up.
 */
export const Disruption = Type.Object(
  {
    /** A label: the bound holds for each of its values, devices without it being one group. Absent: all devices are one group. */
    groupBy: Type.Optional(Type.String({ pattern: '^[A-Za-z0-9_.-]{1,64}$' })),
    maxUnavailable: Type.Optional(Type.Integer({ minimum: 1 })),
    minAvailable: Type.Optional(Type.Integer({ minimum: 1 })),
  },
  strict,
);
export type Disruption = Static<typeof Disruption>;

/** How a release spreads. Every key has a default; without any, all devices are one stage, and the first failure pauses. */
export const RolloutPolicy = Type.Object(
  {
    stages: Type.Array(Stage, { minItems: 1, maxItems: 32, default: [{ percent: 100 }] }),
    /** At most so many devices begin within a minute. */
    rate: Type.Optional(Type.Object({ perMinute: Type.Integer({ minimum: 1 }) }, strict)),
    disruption: Type.Optional(Disruption),
    /** Time of the rollout's own clock, which stands still while it is paused and while no console runs. */
    deadline: Type.Object(
      { deviceSeconds: Seconds(86_400), stageSeconds: Seconds(7 * 86_400) },
      { ...strict, default: {} },
    ),
    abort: Type.Array(AbortRule, { maxItems: 32, default: [{ class: 'ANY', percent: 0 }] }),
    gates: Type.Array(Gate, { maxItems: 32, default: [] }),
    /** What an abort rule or a stage's deadline brings about. */
    onFail: Type.Union([Type.Literal('pause'), Type.Literal('rollback-stage'), Type.Literal('rollback-all')], {
      default: 'pause',
    }),
    /** Whether a stage waits for devices that are offline when their turn comes. */
    offline: Type.Union([Type.Literal('wait'), Type.Literal('skip')], { default: 'wait' }),
    /** Whether devices that come later take part: in the last stage, and by a standing assignment once the rollout is completed. */
    lateJoiners: Type.Union([Type.Literal('adopt'), Type.Literal('ignore')], { default: 'adopt' }),
  },
  strict,
);
export type RolloutPolicy = Static<typeof RolloutPolicy>;

/** Fills defaults in and checks a policy. Fails with `rollout/invalid`, naming what is wrong or could never work. */
export function parsePolicy(value: unknown, subject = 'policy'): RolloutPolicy {
  const filled = Value.Default(RolloutPolicy, Value.Clone(value));
  const policy = validate(RolloutPolicy, filled, 'rollout/invalid', subject);
  const fault = stageFault(policy.stages) ?? disruptionFault(policy) ?? gateFault(policy) ?? deadlineFault(policy);
  if (fault !== null) throw new EdgeError('rollout/invalid', fault, { subject });
  return policy;
}

/** A stage as people call it: its name, or its place. */
export function stageName(stages: readonly Stage[], index: number): string {
  const name = stages[index]?.name;
  return name === undefined ? `stage ${index + 1}` : `stage ${index + 1} (${name})`;
}

const takesAll = ({ percent, selector }: Stage) => percent === 100 || selector?.trim() === 'all';

function stageFault(stages: readonly Stage[]): string | null {
  let reached = 0;
  for (const [index, stage] of stages.entries()) {
    const name = stageName(stages, index);
    const ways = [stage.count, stage.percent, stage.selector].filter((way) => way !== undefined);
    if (ways.length !== 1) return `${name} must have exactly one of count, percent and selector`;
    if (index > 0 && takesAll(stages[index - 1]!)) return `${name} comes after a stage that takes all devices`;
    if (stage.percent === undefined) continue;
    if (stage.percent <= reached)
      return `${name} ends at ${stage.percent} percent, which ${reached} percent before it has reached`;
    reached = stage.percent;
  }
  if (takesAll(stages.at(-1)!)) return null;
  return `the stages never reach all devices: the last one must be { "percent": 100 } or { "selector": "all" }`;
}

function disruptionFault({ disruption }: RolloutPolicy): string | null {
  if (disruption === undefined) return null;
  const isOne = (disruption.maxUnavailable === undefined) !== (disruption.minAvailable === undefined);
  return isOne ? null : 'disruption must have exactly one of maxUnavailable and minAvailable';
}

function gateFault({ gates, abort }: RolloutPolicy): string | null {
  for (const gate of gates) {
    const { metric, most, least, mostRatio, mostDrop } = gate;
    const bounds = [most, least, mostRatio, mostDrop].filter((bound) => bound !== undefined);
    if (bounds.length !== 1)
      return `the gate on ${metric} must have exactly one of most, least, mostRatio and mostDrop`;
    const isFloor = least !== undefined || mostDrop !== undefined;
    if (isFloor !== risingMetrics.has(metric)) {
      const fitting = risingMetrics.has(metric)
        ? 'least or mostDrop: more is better'
        : 'most or mostRatio: less is better';
      return `the gate on ${metric} must have ${fitting}`;
    }
    if (isFloor && (least ?? mostDrop)! > 1) return `the gate on ${metric} is a fraction, at most 1`;
  }
  const acts = abort.some((rule) => rule.class === 'GATE' || rule.class === 'ANY');
  return gates.length > 0 && !acts
    ? 'there are gates, but no abort rule of class GATE or ANY that would act on them'
    : null;
}

function deadlineFault({ deadline: { deviceSeconds, stageSeconds } }: RolloutPolicy): string | null {
  if (deviceSeconds === 0 || stageSeconds === 0) return 'a deadline of 0 seconds fails every device';
  return deviceSeconds > stageSeconds ? 'a device has more time than its whole stage' : null;
}

/** Milliseconds of the rollout's own clock. */
const Clock = Type.Number({ minimum: 0 });

/** What came of a gate on a device. */
export const GateVerdict = Type.Object({
  metric: GateMetric,
  verdict: Type.Union([Type.Literal('pass'), Type.Literal('fail'), Type.Literal('inconclusive')]),
  /** Measured of the new release; null where it was not. */
  value: Type.Union([Type.Number(), Type.Null()]),
  /** Measured of the release before it on the same device; null where it was not, or the gate needs none. */
  previous: Type.Union([Type.Number(), Type.Null()]),
  /** In a sentence. */
  text: Type.String(),
});
export type GateVerdict = Static<typeof GateVerdict>;

/** Values of the metrics as a device measured them; latencies with their unit. */
export const MetricValues = Type.Object({
  unit: Type.String(),
  latencyMedian: Type.Union([Type.Number(), Type.Null()]),
  latencyP95: Type.Union([Type.Number(), Type.Null()]),
  ramBytes: Type.Union([Type.Number(), Type.Null()]),
  energyMj: Type.Union([Type.Number(), Type.Null()]),
  kl: Type.Union([Type.Number(), Type.Null()]),
  top1: Type.Union([Type.Number(), Type.Null()]),
  agreement: Type.Union([Type.Number(), Type.Null()]),
});
export type MetricValues = Static<typeof MetricValues>;

/** A failure of a device. */
export const DeviceFailure = Type.Object({ class: FailureClass, code: Type.String(), message: Type.String() });
export type DeviceFailure = Static<typeof DeviceFailure>;

/** Where a device stands in a rollout. */
export const ProgressState = Type.Union([
  /** Its turn has not come. */
  Type.Literal('waiting'),
  /** It was told, and has not answered. */
  Type.Literal('updating'),
  /** It runs the release, confirmed, within every gate. */
  Type.Literal('confirmed'),
  Type.Literal('failed'),
  /** Somebody has assigned it something else meanwhile; the rollout leaves it alone. */
  Type.Literal('superseded'),
  /** It was told to go back, and has not answered. */
  Type.Literal('returning'),
  /** It runs what it ran before, confirmed. */
  Type.Literal('returned'),
  /** It was told to go back, and cannot. */
  Type.Literal('stranded'),
]);
export type ProgressState = Static<typeof ProgressState>;

/** One device of a rollout. */
export const DeviceProgress = Type.Object({
  /** Index of its stage; null until it is chosen for one. */
  stage: Type.Union([Type.Integer({ minimum: 0 }), Type.Null()]),
  state: ProgressState,
  /** Since when it is in this state. */
  sinceMs: Clock,
  /** When it was told; null before. */
  startedMs: Type.Union([Clock, Type.Null()]),
  /** Release that was wanted on it before; null where none was. */
  previous: Type.Union([ReleaseId, Type.Null()]),
  /** What that one measured; null where it was not known. */
  baseline: Type.Union([MetricValues, Type.Null()]),
  failure: Type.Union([DeviceFailure, Type.Null()]),
  gates: Type.Array(GateVerdict),
  /** Somebody has resumed the rollout knowing of its failure, or of its inconclusive gates. */
  isAccepted: Type.Boolean(),
  /** After the rollout had ended, something else was wanted on it: what it does from then on is no matter of the rollout, even with the release. */
  isLetGo: Type.Optional(Type.Boolean()),
});
export type DeviceProgress = Static<typeof DeviceProgress>;

/** Where a rollout stands. The last three are final, but for a completed one, which may still be rolled back. */
export const RolloutStatus = Type.Union([
  Type.Literal('running'),
  Type.Literal('paused'),
  Type.Literal('rolling-back'),
  Type.Literal('completed'),
  Type.Literal('rolled-back'),
  Type.Literal('aborted'),
]);
export type RolloutStatus = Static<typeof RolloutStatus>;

/** How far a stage has come. */
export const StageProgress = Type.Object({
  startedMs: Type.Union([Clock, Type.Null()]),
  /** Since when every device has answered; null while one has not. */
  settledMs: Type.Union([Clock, Type.Null()]),
  isApproved: Type.Boolean(),
  /** Somebody has resumed the rollout though nothing was confirmed in this stage. */
  isAccepted: Type.Boolean(),
});
export type StageProgress = Static<typeof StageProgress>;

/** A rollout without its devices. */
export const RolloutHead = Type.Object({
  id: Type.Integer({ minimum: 1 }),
  release: ReleaseId,
  target: TargetId,
  selector: Type.String(),
  policy: RolloutPolicy,
  status: RolloutStatus,
  /** Why it is in this status: a sentence. */
  reason: Type.String(),
  /** Index of the current stage. */
  stage: Type.Integer({ minimum: 0 }),
  stages: Type.Array(StageProgress),
  /** A rollback takes back the devices of this stage and of those after it; null without one. */
  rollbackFrom: Type.Union([Type.Integer({ minimum: 0 }), Type.Null()]),
  /** The rollout's own clock. It stands still while paused, and moves by at most a minute from one look to the next. */
  clockMs: Clock,
  /** The console's clock at the last look, in milliseconds; null before the first. */
  seenMs: Type.Union([Type.Number(), Type.Null()]),
});
export type RolloutHead = Static<typeof RolloutHead>;

/** A rollout with everything that was decided so far. */
export const Rollout = Type.Composite([RolloutHead, Type.Object({ devices: Type.Record(DeviceId, DeviceProgress) })]);
export type Rollout = Omit<RolloutHead, never> & { readonly devices: Readonly<Record<string, DeviceProgress>> };

/** Something that was decided, and why. */
export const RolloutReason = Type.Object({
  /** null: about the rollout as a whole. */
  device: Type.Union([DeviceId, Type.Null()]),
  text: Type.String(),
});
export type RolloutReason = Static<typeof RolloutReason>;
