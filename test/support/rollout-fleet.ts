/** A fleet that is made up: devices with a truth of their own, and a console that knows of it what they last said. */
import type { DeviceProgress, MetricValues, Rollout } from '../../configs/contracts/rollout.js';
import type { Advance, RolloutDevice } from '../../fleet-console/rollout.js';
import type { Random } from './seed.js';

/** What becomes of the new release on a device. */
export type Fate =
  | 'good'
  | 'reverts'
  | 'infeasible'
  | 'fails'
  | 'silent'
  | 'beyond-gate'
  | 'unmeasured'
  | 'reverts-later'
  | 'loses-all';

/** Values that pass every gate of the tests. */
export const goodValues: MetricValues = {
  unit: 'ms',
  latencyMedian: 10,
  latencyP95: 12,
  ramBytes: 1000,
  energyMj: null,
  kl: 0.01,
  top1: 0.9,
  agreement: 0.98,
};

interface Truth {
  release: string | null;
  isConfirmed: boolean;
  failure: RolloutDevice['failure'];
}

/** One device: its truth, and what the console knows. */
export class MadeUpDevice {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly fate: Fate;
  isOnline = true;
  /** It has orders that the console's database does not know. */
  isAhead = false;
  /** Somebody has assigned it something else while the rollout had it. */
  isTaken = false;
  generation = 0;
  /** What it was told, by generation, as the console wrote it. */
  desired: { generation: number; release: string | null } = { generation: 0, release: null };
  truth: Truth;
  /** What it ran before anything began. */
  readonly first: string | null;
  #workLeft = 0;
  #goal: string | null;
  #quietFor = 0;
  #isBadNow = false;
  /** The last report that reached the console. */
  known: { isOnline: boolean; generation: number; truth: Truth; values: MetricValues };

  /** `failure`: what it says of the orders that it has before anything begins. */
  constructor(
    id: string,
    labels: Readonly<Record<string, string>>,
    fate: Fate,
    first: string | null,
    failure: RolloutDevice['failure'] = null,
  ) {
    this.id = id;
    this.labels = labels;
    this.fate = fate;
    this.first = first;
    this.#goal = first;
    this.truth = { release: first, isConfirmed: first !== null, failure };
    this.desired = { generation: first === null ? 0 : 1, release: first };
    this.generation = this.desired.generation;
    this.known = { isOnline: true, generation: this.generation, truth: this.truth, values: goodValues };
  }

  /** In the middle of something, told something that it has not begun, or without the model that it had. */
  get isBusy(): boolean {
    if (this.first !== null && this.truth.release === null) return true;
    const answered =
      this.truth.failure !== null || (this.truth.release === this.desired.release && this.truth.isConfirmed);
    return this.desired.release !== null && (this.generation < this.desired.generation || !answered);
  }

  tell(release: string | null): void {
    this.desired = { generation: this.desired.generation + 1, release };
  }

  /** Time passes: it reads its orders, works, reboots, goes and comes. `newRelease`: the one its fate is about. */
  live(seconds: number, newRelease: string, random: Random, isCalm: boolean): void {
    if (!isCalm && random.next() < 0.02) {
      this.isOnline = !this.isOnline;
      if (!this.isOnline && random.next() < 0.3) this.#quietFor = random.below(3 * 86_400);
    }
    this.#quietFor = Math.max(0, Math.min(isCalm ? 3600 : Number.POSITIVE_INFINITY, this.#quietFor) - seconds);
    if (isCalm && this.#quietFor === 0) this.isOnline = true;
    if (this.isOnline && this.generation < this.desired.generation) this.#accept((limit) => random.below(limit));
    if (!isCalm && random.next() < 0.02 && this.#workLeft > 0) this.#workLeft += random.below(200);
    if (this.#workLeft > 0) {
      this.#workLeft = Math.max(0, this.#workLeft - seconds);
      if (this.#workLeft === 0) this.#finish(newRelease);
    } else if (
      this.fate === 'reverts-later' &&
      this.truth.release === newRelease &&
      !this.#isBadNow &&
      random.next() < 0.2
    ) {
      this.#isBadNow = true;
      this.truth = { release: this.first, isConfirmed: this.first !== null, failure: reverted };
    }
    // Its word may be late; it is never wrong about the moment at which it was said.
    if (random.next() < 0.6) this.known = { ...this.known, isOnline: this.isOnline };
    if (this.isOnline && random.next() < 0.6) this.report(newRelease);
  }

  /** It goes back to what it ran before anything began, by itself, for good or ill. */
  fallBack(): void {
    if (this.#workLeft === 0) this.truth = { release: this.first, isConfirmed: this.first !== null, failure: reverted };
  }

  /** Another plan for what it runs was tried and taken back, as for a new budget. */
  replanInVain(): void {
    if (this.#workLeft === 0 && this.truth.isConfirmed) this.truth = { ...this.truth, failure: reverted };
  }

  /** What it is working towards runs after all, confirmed. */
  recover(): void {
    if (this.#workLeft === 0 && this.#goal !== null)
      this.truth = { release: this.#goal, isConfirmed: true, failure: null };
  }

  /** Reads its orders and carries them out, at once. */
  work(newRelease: string): void {
    if (this.generation >= this.desired.generation) return;
    this.#accept(() => 0);
    if (this.#workLeft > 0) this.#finish(newRelease);
    this.#workLeft = 0;
  }

  /** Its word reaches the console. */
  report(newRelease: string): void {
    const isNew = this.truth.release === newRelease;
    const values =
      isNew && this.fate === 'beyond-gate'
        ? { ...goodValues, agreement: 0.94 }
        : isNew && this.fate === 'unmeasured'
          ? { ...goodValues, agreement: null }
          : goodValues;
    this.known = { isOnline: this.isOnline, generation: this.generation, truth: this.truth, values };
  }

  #accept(below: (limit: number) => number): void {
    this.generation = this.desired.generation;
    const { release } = this.desired;
    if (release === null || release === this.#goal) return;
    this.#goal = release;
    this.truth = { ...this.truth, failure: null };
    this.#workLeft = 20 + below(400);
  }

  #finish(newRelease: string): void {
    const goal = this.#goal;
    const fate = goal === newRelease ? this.fate : 'good';
    if (fate === 'silent') {
      // For so long that any deadline has passed; then it does what it was told.
      this.#workLeft = this.#isBadNow ? 0 : 20_000;
      if (!this.#isBadNow) {
        this.#isBadNow = true;
        return;
      }
    }
    if (fate === 'reverts') this.truth = { ...this.truth, failure: reverted };
    else if (fate === 'loses-all') this.truth = { release: null, isConfirmed: false, failure: reverted };
    else if (fate === 'infeasible') this.truth = { ...this.truth, failure: infeasible };
    else if (fate === 'fails')
      this.truth = { ...this.truth, failure: { class: 'FAILED', code: 'model/malformed', message: 'damaged' } };
    else this.truth = { release: goal, isConfirmed: true, failure: null };
  }

  /** What a rollout is shown of it. */
  view(): RolloutDevice {
    const { isOnline, generation, truth, values } = this.known;
    const isCurrent = generation >= this.desired.generation;
    return {
      id: this.id,
      labels: this.labels,
      kind: 'ort',
      isOnline,
      isAhead: this.isAhead,
      heldBy: null,
      wanted: this.desired.release,
      isCurrent,
      active:
        truth.release === null ? null : { release: truth.release, isConfirmed: truth.isConfirmed, metrics: values },
      isConfirmed: truth.isConfirmed && truth.failure === null && truth.release === this.desired.release,
      failure: truth.failure,
      activity: '',
    };
  }
}

/** That no plan holds the budget. */
export const infeasible = { class: 'INFEASIBLE', code: 'infeasible', message: 'no plan' } as const;
const reverted = { class: 'REVERTED', code: 'confirm/failed', message: 'taken back' } as const;

/** Where devices stand, as it was read back: once is enough for what does not change. */
const readBack = new WeakSet<DeviceProgress>();

/** The state as it would be read back from a database. */
export function stored({ devices, ...head }: Rollout): Rollout {
  const again = Object.entries(devices).map(([id, progress]) => {
    if (readBack.has(progress)) return [id, progress];
    const copy = JSON.parse(JSON.stringify(progress)) as DeviceProgress;
    readBack.add(copy);
    return [id, copy];
  });
  return { ...(JSON.parse(JSON.stringify(head)) as typeof head), devices: Object.fromEntries(again) };
}

/** Carries out what was decided. */
export function carryOut(result: Advance, fleet: ReadonlyMap<string, MadeUpDevice>): Rollout {
  for (const { device, release } of result.assignments) fleet.get(device)!.tell(release);
  return stored(result.rollout);
}
