/** Looks at the maintenance gates while something is to be done, and says what they allow. */
import {
  afterLook,
  decide,
  type GateDecision,
  type GateKind,
  type GateReading,
  type GateState,
  unreadGate,
} from '../core/gates/decide.js';
import type { DaemonClock, Gate, Log } from '../device-ports.js';
import { canonical } from '../digest.js';

/** How often each gate is looked at. */
const lookEveryMs = 1000;
/** While nobody wants to know. */
const idleMs = 60_000;
/** How long a question of the moment waits for gates that are slow to answer. */
const answerMs = 2000;

/** A gate as it is shown to whoever asks. */
export interface GateView {
  readonly gate: GateKind;
  /** null: it could not be read. */
  readonly isOpen: boolean | null;
  readonly reason: string;
  readonly detail: string | null;
  /** ISO 8601. */
  readonly since: string;
  readonly until: string | null;
  readonly holds: 'activation' | 'work';
}

/** What the keeper needs of the world. */
export interface GateKeeperPorts {
  readonly gates: readonly Gate[];
  readonly clock: DaemonClock;
  readonly log: Log;
}

/** The gates of a device, each looked at for itself, so that one that hangs makes only itself old. */
export class GateKeeper {
  readonly #openMs: number;
  readonly #ports: GateKeeperPorts;
  readonly #changed: () => void;
  readonly #states: Map<Gate, GateState>;
  #isAttended = false;
  #wake = new AbortController();
  /** The decision that was last told, as text. */
  #told = '';

  /**
   * @param openSeconds how long a gate has to have been open before it counts
   * @param changed called when something else is allowed, or for other reasons, than before
   */
  constructor(openSeconds: number, ports: GateKeeperPorts, changed: () => void) {
    this.#openMs = openSeconds * 1000;
    this.#ports = ports;
    this.#changed = changed;
    const now = ports.clock.now();
    this.#states = new Map(ports.gates.map((gate) => [gate, unreadGate(gate.policy, now)]));
  }

  /** Begins to look; until `signal` aborts. */
  start(signal: AbortSignal): void {
    signal.addEventListener('abort', () => this.#wake.abort(), { once: true });
    for (const gate of this.#ports.gates) void this.#watch(gate, signal);
  }

  /** Whether there is something that gates may hold back: only then they are looked at. */
  attend(isWanted: boolean): void {
    if (isWanted && !this.#isAttended) {
      // Whoever comes to wait has not been told anything.
      this.#told = '';
      this.#wake.abort();
      this.#wake = new AbortController();
    }
    this.#isAttended = isWanted;
  }

  /** What is allowed, by the newest looks. Where nobody has looked lately, nothing that a gate could hold back is. */
  decision(): GateDecision {
    return decide([...this.#states.values()], this.#ports.clock.monotonicMs(), this.#openMs);
  }

  /** Whether another model may begin to serve now: every gate is asked afresh, for one may have closed since it was decided. */
  async mayActivateNow(): Promise<boolean> {
    await this.#lookAtAll(true);
    // Some answer at once and others take long: in the end, all have answered within the same moment.
    await this.#lookAtAll(false);
    return this.decision().mayActivate;
  }

  /** Every gate as it is now. */
  async views(): Promise<GateView[]> {
    const { clock, gates } = this.#ports;
    if (gates.length > 0) {
      const answered = new AbortController();
      const looked = this.#lookAtAll(false).finally(() => answered.abort());
      await Promise.race([looked, clock.sleep(answerMs, answered.signal)]);
    }
    return [...this.#states.values()].map(({ policy, isOpen, reason, detail, since, until }) => ({
      gate: policy.kind,
      isOpen,
      reason,
      detail: detail ?? null,
      since,
      until,
      holds: policy.holds,
    }));
  }

  async close(): Promise<void> {
    await Promise.all(this.#ports.gates.map((gate) => gate.close()));
  }

  async #watch(gate: Gate, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      // Of before the look: who comes to wait meanwhile is not kept waiting.
      const { signal: woken } = this.#wake;
      if (this.#isAttended) await this.#lookAt(gate, false);
      await this.#ports.clock.sleep(this.#isAttended ? lookEveryMs : idleMs, woken);
    }
  }

  async #lookAtAll(isFresh: boolean): Promise<void> {
    await Promise.all(this.#ports.gates.map((gate) => this.#lookAt(gate, isFresh)));
  }

  async #lookAt(gate: Gate, isFresh: boolean): Promise<void> {
    const { clock, log } = this.#ports;
    let reading: GateReading;
    try {
      reading = await gate.read(isFresh);
    } catch (error) {
      reading = { isOpen: null, reason: `it could not be read: ${String(error)}`, until: null };
    }
    const before = this.#states.get(gate)!;
    const after = afterLook(before, reading, { ms: clock.monotonicMs(), now: clock.now() });
    this.#states.set(gate, after);
    if (before.lookedMs === null || before.isOpen !== after.isOpen || before.reason !== after.reason) {
      const word = after.isOpen === null ? 'cannot be read' : after.isOpen ? 'is open' : 'is closed';
      log.info({ gate: gate.policy.kind, reason: after.reason, until: after.until }, `a gate ${word}`);
    }
    const text = canonical(this.decision());
    if (text === this.#told || !this.#isAttended) return;
    this.#told = text;
    this.#changed();
  }
}
