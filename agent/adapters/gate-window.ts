import { execFile } from 'node:child_process';
import type { GatePolicy, GateReading } from '../core/gates/decide.js';
import { isOpenAt, opensAfter, type Window } from '../core/gates/window.js';
import type { Gate } from '../device-ports.js';

/** No clock that is right says anything before this program was written. */
const earliest = Date.UTC(2026, 0, 1);
/** How soon a clock that was not synchronised is asked again. */
const askAgainMs = 30_000;
const answerMs = 2000;

/** What tells the time; the system's, but for tests. */
export interface WallClock {
  /** Milliseconds since 1970. */
  now(): number;
  /** null where the system does not say. */
  isSynchronised(): Promise<boolean | null>;
}

/** The clock of this machine, and what systemd says of it. */
export const systemWallClock: WallClock = {
  now: () => Date.now(),
  isSynchronised: () =>
    new Promise((resolve) => {
      const question = ['show', '--property=NTPSynchronized', '--value'];
      execFile('timedatectl', question, { timeout: answerMs }, (error, stdout) => {
        const word = stdout.trim();
        resolve(error !== null || !/^(yes|no)$/.test(word) ? null : word === 'yes');
      });
    }),
};

/** Open at certain times; unreadable while the clock may be wrong. */
export class WindowGate implements Gate {
  readonly policy: GatePolicy;
  readonly #window: Window;
  readonly #trustsClock: boolean;
  readonly #clock: WallClock;
  #opensMs: number | null = null;
  #asked: { atMs: number; isSynchronised: boolean | null } | null = null;

  constructor(policy: GatePolicy, window: Window, trustsClock: boolean, clock: WallClock = systemWallClock) {
    this.policy = policy;
    this.#window = window;
    this.#trustsClock = trustsClock;
    this.#clock = clock;
  }

  async read(): Promise<GateReading> {
    const nowMs = this.#clock.now();
    if (!this.#trustsClock) {
      if (nowMs < earliest) return { isOpen: null, reason: 'the clock cannot be right', until: null };
      if ((await this.#isSynchronised(nowMs)) === false) {
        return { isOpen: null, reason: 'the clock is not synchronised yet', until: null };
      }
    }
    if (isOpenAt(this.#window, nowMs)) return { isOpen: true, reason: 'inside of the window', until: null };
    // Found once for each time that it is closed; anew where the clock was set.
    const known = this.#opensMs;
    if (known === null || nowMs >= known || !isOpenAt(this.#window, known)) {
      this.#opensMs = opensAfter(this.#window, nowMs);
    }
    const until = this.#opensMs === null ? null : new Date(this.#opensMs).toISOString();
    return { isOpen: false, reason: 'outside of the window', until };
  }

  async close(): Promise<void> {}

  /** Once synchronised, a clock stays near enough. */
  async #isSynchronised(nowMs: number): Promise<boolean | null> {
    const asked = this.#asked;
    const isOld = asked === null || Math.abs(nowMs - asked.atMs) >= askAgainMs;
    if (asked?.isSynchronised !== true && isOld) {
      this.#asked = { atMs: nowMs, isSynchronised: await this.#clock.isSynchronised() };
    }
    return this.#asked!.isSynchronised;
  }
}
