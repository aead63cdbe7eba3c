/** The device's words: conditions, and reports of what runs, put together from state. */
import type {
  ActiveArtifact,
  Condition,
  ConditionType,
  FrontierPoint,
  Measurements,
  TargetReport,
} from '../../configs/contracts/device.js';
import type { Failure } from '../device-ports.js';
import type { QuantizeDocument } from '../report.js';

/** A condition before it is known since when it holds. */
export type Statement = Omit<Condition, 'time'>;

/** The largest frontier that is reported. */
const frontierPoints = 64;

/** Statements with the time since when each has had its status and reason; what is no longer said is gone. */
export function withTimes(statements: readonly Statement[], before: readonly Condition[], now: string): Condition[] {
  return statements.map((statement) => {
    const old = before.find(({ target, type }) => target === statement.target && type === statement.type);
    const isSame = old?.status === statement.status && old.reason === statement.reason;
    return { ...statement, time: isSame ? old.time : now };
  });
}

/** A statement that something holds, or does not. */
export function statement(
  target: string | null,
  type: ConditionType,
  isTrue: boolean | null,
  reason: string,
  message: string,
): Statement {
  const status = isTrue === null ? 'unknown' : isTrue ? 'true' : 'false';
  return { target, type, status, reason: cut(reason, 128), message: cut(message, 2000) };
}

/** What a failure says about its target. `isFinal`: it is not tried again until something else is wanted. */
export function failureStatement(failure: Failure, type: ConditionType, isFinal: boolean): Statement {
  const { step, subject, hint, attempts, generation } = failure;
  return {
    ...statement(failure.target, type, true, failure.code, failure.message),
    failure: { step, subject: cut(subject, 500), hint: cut(hint, 500), attempts, generation, isFinal },
  };
}

function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** The part of a `quantize` document that is reported. */
export function measurementsOf(document: QuantizeDocument): Measurements {
  const { latency, quality, size, ram, plan } = document;
  const { unit, float, int8, predicted, measured } = latency;
  const { samples, floatTop1, int8Top1, top1, agreement, kl } = quality;
  return {
    latency: { unit, float, int8, predicted, measured },
    quality: { samples, floatTop1, int8Top1, top1, agreement, kl },
    sizeBytes: size.artifactBytes,
    ramBytes: ram.peakBytes,
    averageWeightBits: plan?.averageWeightBits ?? null,
    averageActivationBits: plan?.averageActivationBits ?? null,
  };
}

/** The frontier of a `quantize` document, as it is reported. */
export function frontierOf(document: QuantizeDocument): FrontierPoint[] {
  return document.frontier.slice(0, frontierPoints);
}

/** How an artifact came to its latency rows, as it is reported. Nothing of documents that do not say. */
export function profilingOf({ profiling }: QuantizeDocument): Pick<TargetReport, 'profiling'> {
  // Older programs have not written it.
  if ((profiling as QuantizeDocument['profiling'] | undefined) === undefined) return {};
  const { seconds, rowsMeasured, rowsTaken, donor } = profiling;
  return { profiling: { seconds, rowsMeasured, rowsTaken, donor: donor?.isAccepted ? donor.digest : null } };
}

/** What is said of an artifact that is active, or was. */
export function artifactReport(
  document: QuantizeDocument,
  state: { release: string; since: string; isConfirmed: boolean; result: string; p95Ms: number | null },
): ActiveArtifact {
  const measurements = measurementsOf(document);
  const { latency } = measurements;
  return {
    release: state.release,
    modelSha256: document.model.sha256,
    artifactSha256: document.artifact.sha256 ?? '',
    planDigest: document.plan?.digest ?? '',
    budget: document.budget,
    isConfirmed: state.isConfirmed,
    // Probes are timed in milliseconds, whatever a plan's latency is counted in.
    measurements: { ...measurements, latency: { ...latency, p95: latency.unit === 'ms' ? state.p95Ms : null } },
    result: state.result,
    since: state.since,
  };
}
