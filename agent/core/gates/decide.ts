/** Maintenance gates: from what each of them says to what the device may do. Pure; how a gate is read is its adapter's business. */

/** Kinds of gates; a device has at most one of each. */
export type GateKind = 'window' | 'lock' | 'exec' | 'power' | 'temperature' | 'mavlink';

/** What a gate says when it is read. */
export interface GateReading {
  /** null: it could not be read. */
  readonly isOpen: boolean | null;
  /** Why, in a few words; the same as long as nothing has changed, since it is reported. */
  readonly reason: string;
  /** ISO 8601: when it will open, where that is known. */
  readonly until: string | null;
  /** What was measured, for whoever looks at this very moment; absent where there is nothing to add. */
  readonly detail?: string;
}

/** How a gate is to be taken, from its settings. */
export interface GatePolicy {
  readonly kind: GateKind;
  /** What it holds back while it is closed: `activation` alone, or `work` (measuring and quantizing) as well. */
  readonly holds: 'activation' | 'work';
  /** What it counts as for activation when it cannot be read. */
  readonly unreadable: 'closed' | 'open';
}

/** A gate as it was found by the newest look at it. */
export interface GateState extends GateReading {
  readonly policy: GatePolicy;
  /** Since when it has been open, closed, or not readable; ISO 8601. */
  readonly since: string;
  /** Monotonic: since when it has counted as open without interruption; null while it does not. */
  readonly openSinceMs: number | null;
  /** Monotonic time of the look; null before the first. */
  readonly lookedMs: number | null;
}

/** Why something is held back. */
export interface GateReason {
  readonly gate: GateKind;
  readonly reason: string;
  /** ISO 8601. */
  readonly since: string;
  readonly until: string | null;
  /** It holds back work as well as activation. */
  readonly holdsWork: boolean;
}

/** What the gates allow. */
export interface GateDecision {
  /** To measure and quantize. */
  readonly mayWork: boolean;
  /** To let another model serve. */
  readonly mayActivate: boolean;
  /** Of every gate that is in the way of anything; without any, everything is allowed. */
  readonly reasons: readonly GateReason[];
}

/** What a device without gates may do. */
export const allowed: GateDecision = { mayWork: true, mayActivate: true, reasons: [] };

/** A look that is older says nothing any more: how it was in between is not known. */
const staleMs = 15_000;

/** A gate before it was first read: closed. */
export function unreadGate(policy: GatePolicy, now: string): GateState {
  const reason = 'it has not been read yet';
  return { policy, isOpen: null, reason, until: null, since: now, openSinceMs: null, lookedMs: null };
}

/** The state of a gate after a look. Time over which nobody looked does not count as open. */
export function afterLook(before: GateState, reading: GateReading, at: { ms: number; now: string }): GateState {
  const { policy } = before;
  const isOpen = reading.isOpen ?? policy.unreadable === 'open';
  const isUnbroken = before.openSinceMs !== null && !isStale(before, at.ms);
  return {
    ...reading,
    policy,
    since: before.lookedMs !== null && before.isOpen === reading.isOpen ? before.since : at.now,
    openSinceMs: isOpen ? (isUnbroken ? before.openSinceMs : at.ms) : null,
    lookedMs: at.ms,
  };
}

/**
 * What is allowed now.
 *
 * @param openMs how long a gate must have been open before it counts
 */
export function decide(states: readonly GateState[], nowMs: number, openMs: number): GateDecision {
  const reasons = states.flatMap((state) => reasonOf(state, nowMs, openMs) ?? []);
  return { mayWork: !reasons.some(({ holdsWork }) => holdsWork), mayActivate: reasons.length === 0, reasons };
}

function reasonOf(state: GateState, nowMs: number, openMs: number): GateReason | null {
  const { policy, openSinceMs, since, until } = state;
  const because = (reason: string, isOfWork: boolean, end: string | null = null): GateReason => ({
    gate: policy.kind,
    reason,
    since,
    until: end,
    holdsWork: isOfWork && policy.holds === 'work',
  });
  if (isStale(state, nowMs)) {
    return because(state.lookedMs === null ? state.reason : 'it has not answered lately', true);
  }
  // What cannot be read is in the way of activation only: that is what has to be safe.
  if (openSinceMs === null) return because(state.reason, state.isOpen === false, until);
  const isSettled = nowMs - openSinceMs >= openMs;
  return isSettled ? null : because(`open, and has to stay so for ${openMs / 1000} s`, state.isOpen === true);
}

function isStale({ lookedMs }: GateState, nowMs: number): boolean {
  return lookedMs === null || nowMs - lookedMs > staleMs;
}

/** Why something waits, as a sentence. */
export function describeReasons(what: string, reasons: readonly GateReason[]): string {
  const each = reasons.map(
    ({ gate, reason, until }) => `${gate} (${reason}${until === null ? '' : `, until ${until}`})`,
  );
  return `${what} waits for ${each.join('; ')}`;
}
