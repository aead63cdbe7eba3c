/**
 * What a device and its console say to each other. Two retained documents per device: `desired` (the console writes it) and
 * `reported` (the device does); everything else hangs off them. Documents are whole: a newer one replaces an older one. Unknown
 * fields are ignored, an unknown major version in `schema` is refused.
 */
import { type Static, Type } from '@sinclair/typebox';
import { Budget } from './plan.js';
import { Release } from './release.js';

/** Name of a device: what is safe in a topic, a file name and a URL. */
export const DeviceId = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$' });
/** Name of a target of a device: `host`, or a microcontroller's name. */
export const TargetId = Type.String({ pattern: '^[a-z0-9][a-z0-9_-]{0,63}$' });
/** ISO 8601 in UTC, by the writer's clock, which may be wrong: for people, never for ordering. */
export const Time = Type.String({ maxLength: 40 });
const Sha256 = Type.String({ pattern: '^[0-9a-f]{64}$' });
const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });

/** Largest `desired` or `reported` document, in bytes of JSON. */
export const documentBytes = 64 * 1024;
/** Largest MQTT packet either side sends or takes. */
export const packetBytes = 256 * 1024;

/** What a target of a device should run. */
export const DesiredTarget = Type.Object({ release: Release, budget: Budget });
export type DesiredTarget = Static<typeof DesiredTarget>;

/** What the console wants of a device. `generation` rises with every change; a device ignores a lower one than it has seen. */
export const DesiredState = Type.Object({
  schema: Type.Literal('quantd/desired/1'),
  device: DeviceId,
  generation: Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER }),
  /** By target id; a target that is absent keeps what it runs. */
  targets: Type.Record(TargetId, DesiredTarget, { additionalProperties: false }),
  time: Time,
});
export type DesiredState = Static<typeof DesiredState>;

/** Kinds of conditions. */
export const ConditionType = Type.Union([
  /** The desired document was understood; false: why it was refused. */
  Type.Literal('Accepted'),
  /** The float model is on the device. */
  Type.Literal('Staged'),
  /** A plan was made, applied and measured here. */
  Type.Literal('Quantized'),
  /** No plan holds the budget; the frontier is in the target's report. */
  Type.Literal('BudgetInfeasible'),
  /** The wanted artifact is the active one. */
  Type.Literal('Active'),
  /** It has answered its probes for the bake time. */
  Type.Literal('Confirmed'),
  /** It was active and was taken back. */
  Type.Literal('RolledBack'),
  /** Something waits for a maintenance gate of the device; the reason is the gate's name. Said only while it waits. */
  Type.Literal('Gated'),
  /** A step keeps failing; what is active stays. */
  Type.Literal('Degraded'),
]);
export type ConditionType = Static<typeof ConditionType>;

/** One statement about a device (target null) or one of its targets. */
export const Condition = Type.Object({
  target: Type.Union([TargetId, Type.Null()]),
  type: ConditionType,
  status: Type.Union([Type.Literal('true'), Type.Literal('false'), Type.Literal('unknown')]),
  /** One word for programs: an error code, or what happened. */
  reason: Type.String({ maxLength: 128 }),
  /** A sentence for people. */
  message: Type.String({ maxLength: 2000 }),
  /** Since when. */
  time: Time,
  /** Of a failure: the step, the error's subject and hint, how often it was tried, and for which generation. */
  failure: Type.Optional(
    Type.Object({
      step: Type.String({ maxLength: 64 }),
      subject: Type.String({ maxLength: 500 }),
      hint: Type.String({ maxLength: 500 }),
      attempts: Count,
      generation: Count,
      /** It is not tried again until `desired` changes. Absent: not known. */
      isFinal: Type.Optional(Type.Boolean()),
    }),
  ),
});
export type Condition = Static<typeof Condition>;

/** A point of the frontier as it travels: latency in the unit of the target's counter (`ms` on hosts). */
export const FrontierPoint = Type.Object({
  latency: Type.Number(),
  sensitivity: Type.Number(),
  sizeBytes: Type.Number(),
  ramBytes: Type.Optional(Type.Number()),
  averageWeightBits: Type.Number(),
});
export type FrontierPoint = Static<typeof FrontierPoint>;

const Measured = Type.Union([Type.Number(), Type.Null()]);

/** What was measured of an artifact, as in the `quantize --json` document; unknown is null. */
export const Measurements = Type.Object({
  latency: Type.Object({
    unit: Type.String({ maxLength: 32 }),
    float: Measured,
    int8: Measured,
    predicted: Measured,
    /** Median. */
    measured: Measured,
    /** Of the probes that confirmed it while it served; in the same unit. Absent: not measured. */
    p95: Type.Optional(Measured),
  }),
  quality: Type.Object({
    samples: Count,
    floatTop1: Measured,
    int8Top1: Measured,
    top1: Measured,
    agreement: Measured,
    kl: Measured,
  }),
  sizeBytes: Measured,
  ramBytes: Measured,
  /** Of one inference. Absent: not measured. */
  energyMj: Type.Optional(Measured),
  averageWeightBits: Measured,
  averageActivationBits: Measured,
});
export type Measurements = Static<typeof Measurements>;

/** An artifact that a target runs, or ran before. */
export const ActiveArtifact = Type.Object({
  /** Id of the release, `name@version`. */
  release: Type.String({ maxLength: 200 }),
  modelSha256: Sha256,
  artifactSha256: Sha256,
  planDigest: Type.String({ maxLength: 80 }),
  budget: Budget,
  isConfirmed: Type.Boolean(),
  measurements: Measurements,
  /** Id of the result document with everything that was measured. */
  result: Sha256,
  since: Time,
});
export type ActiveArtifact = Static<typeof ActiveArtifact>;

/** What goes on at this moment. */
export const StepReport = Type.Object({
  name: Type.String({ maxLength: 64 }),
  /** Share done, in [0, 1]. */
  share: Type.Number({ minimum: 0, maximum: 1 }),
  text: Type.String({ maxLength: 200 }),
});
export type StepReport = Static<typeof StepReport>;

/** A device's word on one target. */
export const TargetReport = Type.Object({
  active: Type.Union([ActiveArtifact, Type.Null()]),
  previous: Type.Union([ActiveArtifact, Type.Null()]),
  step: Type.Union([StepReport, Type.Null()]),
  /** Of the newest plan; what there is to choose from when the budget is infeasible. */
  frontier: Type.Array(FrontierPoint, { maxItems: 64 }),
  /** From accepting the newest generation that changed this target to its artifact being active; null until then. */
  secondsToActive: Measured,
  /** Whether that took new timings of operators; null until then. */
  hasReprofiled: Type.Union([Type.Boolean(), Type.Null()]),
  /** How the newest plan came to its latency rows: measured here, or taken from devices alike. Absent: not known. */
  profiling: Type.Optional(
    Type.Object({
      seconds: Type.Number({ minimum: 0 }),
      rowsMeasured: Count,
      rowsTaken: Count,
      /** Digest of the table that rows were taken from. */
      donor: Type.Union([Sha256, Type.Null()]),
    }),
  ),
});
export type TargetReport = Static<typeof TargetReport>;

/** What a device says of itself; `sequence` rises with every document of a session. */
export const ReportedState = Type.Object({
  schema: Type.Literal('quantd/reported/1'),
  device: DeviceId,
  session: Count,
  sequence: Count,
  /** Highest generation that was understood; 0 before any. */
  observedGeneration: Count,
  targets: Type.Record(TargetId, TargetReport, { additionalProperties: false }),
  conditions: Type.Array(Condition, { maxItems: 200 }),
  /** What waits to be sent, and what had to be thrown away for its caps. */
  outbox: Type.Object({ messages: Count, bytes: Count, dropped: Count }),
  time: Time,
});
export type ReportedState = Static<typeof ReportedState>;

/** Retained, once a connection: what the device is. */
export const Birth = Type.Object({
  schema: Type.Literal('quantd/birth/1'),
  device: DeviceId,
  /** Rises with every start of the daemon; also in `Online`, so that a late will of an older session is known as such. */
  session: Count,
  agentVersion: Type.String({ maxLength: 64 }),
  /** Devices with equal hardware classes may share latency tables. */
  hardwareClass: Type.String({ maxLength: 80 }),
  targets: Type.Record(
    TargetId,
    Type.Object({ kind: Type.String({ maxLength: 32 }), identity: Type.Record(Type.String(), Type.Unknown()) }),
    { additionalProperties: false },
  ),
  /** `group` among them. */
  labels: Type.Record(Type.String({ maxLength: 64 }), Type.String({ maxLength: 128 })),
  time: Time,
});
export type Birth = Static<typeof Birth>;

/** Retained; false is the broker's word, sent as the device's will. */
export const Online = Type.Object({
  schema: Type.Literal('quantd/online/1'),
  online: Type.Boolean(),
  session: Count,
});
export type Online = Static<typeof Online>;

/** Asks for `desired` to be sent again, after each connect: retained documents are a cache, the console's database is the truth. */
export const Sync = Type.Object({ schema: Type.Literal('quantd/sync/1'), session: Count, observedGeneration: Count });
export type Sync = Static<typeof Sync>;

/** Something that happened, for people and for the audit; delivered at least once: `session` and `sequence` tell doubles. */
export const DeviceEvent = Type.Object({
  schema: Type.Literal('quantd/event/1'),
  device: DeviceId,
  session: Count,
  sequence: Count,
  target: Type.Union([TargetId, Type.Null()]),
  type: Type.String({ maxLength: 64 }),
  message: Type.String({ maxLength: 2000 }),
  generation: Count,
  time: Time,
});
export type DeviceEvent = Static<typeof DeviceEvent>;

/** Everything measured about one artifact, delivered at least once; `id` tells doubles. */
export const DeviceResult = Type.Object({
  schema: Type.Literal('quantd/result/1'),
  /** Digest of everything in here but `time`. */
  id: Sha256,
  device: DeviceId,
  target: TargetId,
  generation: Count,
  release: Type.String({ maxLength: 200 }),
  budget: Budget,
  /** The `quantize --json` document. */
  document: Type.Record(Type.String(), Type.Unknown()),
  time: Time,
});
export type DeviceResult = Static<typeof DeviceResult>;

/** The topics of one device. */
export interface DeviceTopics {
  readonly desired: string;
  readonly reported: string;
  readonly birth: string;
  readonly online: string;
  readonly sync: string;
  readonly event: string;
  readonly result: string;
  readonly table: string;
}

/** Last level of each topic; the device's id stands in one place only, so that a broker's access pattern can hold it. */
const topicNames = {
  desired: 'desired',
  reported: 'reported',
  birth: 'birth',
  online: 'online',
  sync: 'sync',
  event: 'evt',
  result: 'result',
  table: 'table',
} as const;

/** Topics of a device; `+` for every device. */
export function topicsOf(namespace: string, tenant: string, device: string): DeviceTopics {
  const base = `${namespace}/1/${tenant}/dev/${device}`;
  return Object.fromEntries(
    Object.entries(topicNames).map(([key, name]) => [key, `${base}/${name}`]),
  ) as unknown as DeviceTopics;
}

/** Device and kind of a topic of `topicsOf`, or null for any other. */
export function parseTopic(
  namespace: string,
  tenant: string,
  topic: string,
): { device: string; kind: keyof DeviceTopics } | null {
  const prefix = `${namespace}/1/${tenant}/dev/`;
  if (!topic.startsWith(prefix)) return null;
  const [device = '', name = '', ...rest] = topic.slice(prefix.length).split('/');
  const kind = (Object.keys(topicNames) as (keyof DeviceTopics)[]).find((key) => topicNames[key] === name);
  return kind === undefined || rest.length > 0 || !/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/.test(device)
    ? null
    : { device, kind };
}
