/** What the daemon remembers across restarts, as typed values over the key-value store. */
import type { Condition, DesiredState } from '../../configs/contracts/device.js';
import type { Failure, Goal, KeyValues } from '../device-ports.js';
import type { TargetIdentity } from '../ports.js';
import type { Statement } from './report.js';

/** Everything here is durable when a method returns. Failures to write are the store's EdgeErrors. */
export class Memory {
  readonly #values: KeyValues;

  constructor(values: KeyValues) {
    this.#values = values;
  }

  /**
   * The number of this start of the daemon: more than that of any earlier one, also of those that a wiped state folder knew. That is
   * what the time is for: a console takes a device with a lower number for one that is long gone.
   *
   * @param unixSeconds of the wall clock, as far as it is known
   */
  beginSession(unixSeconds: number): number {
    const last = (this.#values.read('session') as number | null) ?? 0;
    const session = Math.max(last + 1, Math.floor(unixSeconds));
    this.#values.write(new Map([['session', session]]));
    return session;
  }

  get observedGeneration(): number {
    return (this.#values.read('generation') as number | null) ?? 0;
  }

  goal(target: string): Goal | null {
    return this.#values.read(`goal.${target}`) as Goal | null;
  }

  /**
   * Takes over a desired document: its generation, and the goals that it changed, whose old failures and times count no longer; and
   * what of it cannot be done here. All of it or nothing.
   */
  accept(
    document: DesiredState,
    changed: readonly Goal[],
    forgotten: readonly { target: string; key: string }[],
    refusal: Statement | null,
  ): void {
    this.#values.write(
      new Map<string, unknown>([
        ['generation', document.generation],
        ['refusal', refusal],
        ...changed.map((goal): [string, unknown] => [`goal.${goal.target}`, goal]),
        ...changed.map((goal): [string, unknown] => [`timing.${goal.target}`, null]),
        ...forgotten.map(({ target, key }): [string, unknown] => [`failure.${target}.${key}`, null]),
      ]),
    );
  }

  /** What of the document of the observed generation cannot be done here. */
  get refusal(): Statement | null {
    return this.#values.read('refusal') as Statement | null;
  }

  failures(target: string): Failure[] {
    return this.#values.keys(`failure.${target}.`).map((key) => this.#values.read(key) as Failure);
  }

  fail(failure: Failure): void {
    this.#values.write(new Map([[`failure.${failure.target}.${failure.key}`, failure]]));
  }

  /** How often an artifact has begun to prove itself without coming to an end. */
  bakes(target: string, key: string): number {
    return (this.#values.read(`bakes.${target}.${key}`) as number | null) ?? 0;
  }

  setBakes(target: string, key: string, count: number): void {
    this.#values.write(new Map([[`bakes.${target}.${key}`, count === 0 ? null : count]]));
  }

  isConfirmed(target: string, key: string): boolean {
    return this.#values.read(`confirmed.${target}.${key}`) !== null;
  }

  /** `p95Ms`: of the probes by which it proved itself; null where they were too few to tell. */
  confirm(target: string, key: string, at: string, p95Ms: number | null): void {
    this.#values.write(
      new Map<string, unknown>([
        [`confirmed.${target}.${key}`, at],
        [`p95Ms.${target}.${key}`, p95Ms],
        [`bakes.${target}.${key}`, null],
      ]),
    );
  }

  p95Ms(target: string, key: string): number | null {
    return this.#values.read(`p95Ms.${target}.${key}`) as number | null;
  }

  isPublished(target: string, key: string): boolean {
    return this.#values.read(`published.${target}.${key}`) !== null;
  }

  setPublished(target: string, key: string, resultId: string): void {
    this.#values.write(new Map([[`published.${target}.${key}`, resultId]]));
  }

  /** Id of the result document that was published for an artifact. */
  resultOf(target: string, key: string): string | null {
    return this.#values.read(`published.${target}.${key}`) as string | null;
  }

  /** What is remembered of an artifact that is no longer wanted is forgotten with it. */
  forgetArtifacts(target: string, kept: ReadonlySet<string>): void {
    const changes = new Map<string, unknown>();
    for (const kind of ['confirmed', 'p95Ms', 'published', 'activated', 'failure', 'bakes']) {
      const prefix = `${kind}.${target}.`;
      for (const key of this.#values.keys(prefix)) if (!kept.has(key.slice(prefix.length))) changes.set(key, null);
    }
    if (changes.size > 0) this.#values.write(changes);
  }

  /** When, and for which release, an artifact became active. */
  activation(target: string, key: string): { release: string; since: string } | null {
    return this.#values.read(`activated.${target}.${key}`) as { release: string; since: string } | null;
  }

  setActivation(target: string, key: string, release: string, since: string): void {
    this.#values.write(new Map([[`activated.${target}.${key}`, { release, since }]]));
  }

  /** Of a target that may be away: as it was when it was last reached. */
  identity(target: string): TargetIdentity | null {
    return this.#values.read(`identity.${target}`) as TargetIdentity | null;
  }

  setIdentity(target: string, identity: TargetIdentity): void {
    this.#values.write(new Map([[`identity.${target}`, identity]]));
  }

  get conditions(): readonly Condition[] {
    return (this.#values.read('conditions') as Condition[] | null) ?? [];
  }

  setConditions(conditions: readonly Condition[]): void {
    this.#values.write(new Map([['conditions', conditions]]));
  }

  /** Seconds from accepting the newest goal of a target to its artifact being active, and whether operators were timed for it. */
  timing(target: string): { secondsToActive: number | null; hasReprofiled: boolean | null } {
    const none = { secondsToActive: null, hasReprofiled: null };
    return (this.#values.read(`timing.${target}`) as typeof none | null) ?? none;
  }

  setTiming(target: string, timing: { secondsToActive: number | null; hasReprofiled: boolean | null }): void {
    this.#values.write(new Map([[`timing.${target}`, timing]]));
  }
}
