/** The controller of rollouts: looks at them when devices say something and as time passes, and carries out what is decided. */
import { EdgeError } from '../../configs/contracts/errors.js';
import { type Actor, consoleActor } from '../../configs/contracts/people.js';
import type { Release } from '../../configs/contracts/release.js';
import { type DeviceProgress, parsePolicy, type Rollout } from '../../configs/contracts/rollout.js';
import {
  type Advance,
  abort,
  advance,
  approve,
  describe,
  explain,
  hasEnded,
  pause,
  type RolloutDevice,
  resume,
  rollBack,
  rolloutDeviceOf,
  startRollout,
} from '../rollout.js';
import type { Announce } from './announce.js';
import type { AuditLog } from './audit.js';
import { DeviceViews } from './device-views.js';
import type { Fleet } from './fleet.js';
import type { RolloutStore, RolloutSummary, RolloutTrouble, StoredReason } from './rollout-store.js';
import type { ConsoleStore, DeviceRecord } from './store.js';

/** What is told to whoever watches when a rollout has gone on. */
export interface RolloutNews {
  readonly id: number;
  readonly release: string;
  readonly status: Rollout['status'];
  /** Index of the current stage. */
  readonly stage: number;
  readonly reasons: readonly StoredReason[];
}

/** What somebody may do to a rollout. */
export type RolloutCommand = 'pause' | 'resume' | 'approve' | 'abort' | 'rollback';

/** A rollout as the API shows it. */
export interface RolloutDocument extends RolloutSummary {
  /** What it waits for, in a sentence; of one that has ended, why. */
  readonly waitsFor: string;
  /** Newest first. */
  readonly reasons: readonly StoredReason[];
}

/** Devices of a rollout, by id: a page. */
export interface RolloutDevices {
  readonly devices: readonly ({ readonly id: string } & DeviceProgress)[];
  /** What to ask for the next page with; null at the end. */
  readonly next: string | null;
}

/** Where a device stands in a rollout, and what that is for. */
export interface RolloutAnswer {
  readonly device: string;
  readonly rollout: number;
  readonly release: string;
  readonly status: Rollout['status'];
  readonly state: string;
  readonly why: string;
  /** What was decided about the device, newest first. */
  readonly history: readonly StoredReason[];
}

/** Time passes for rollouts this often. */
const tickMs = 1000;
/** What devices say within this time is looked at together; longer where looks take long, so that they leave most of the time to others. */
const gatherMs = 100;
const gatherLooks = 9;
/** What is said to rollouts that have ended is heard for so long at a time. */
const hearMs = 10;
/** A clock that moved and nothing else is written no more often than this. */
const clockEveryMs = 5000;
/** Reasons that are shown with a rollout, and with a device. */
const shownReasons = 100;
/** Reasons that the audit takes of one step; `rollout status` has all of them. */
const auditedReasons = 10;

/** Somebody who has done something to a rollout, and what, as the audit has it. */
interface Deed {
  readonly by: Actor;
  readonly action: string;
  readonly details: Readonly<Record<string, unknown>>;
}

/**
 * The database is the truth: what is kept here is what was read from it or written to it last, and every step is written in one transaction
 * with the orders that it brings about. A console that is killed goes on from there.
 */
export class Rollouts {
  readonly #store: ConsoleStore;
  readonly #rollouts: RolloutStore;
  readonly #fleet: Fleet;
  readonly #audit: AuditLog;
  readonly #announce: Announce;
  readonly #warn: (text: string) => void;
  readonly #live: Map<number, Rollout>;
  /** Of all devices, by target: kept while a rollout on it is live, or about to begin. */
  readonly #views = new Map<string, DeviceViews<RolloutDevice>>();
  /** Rollouts that are about to begin, by target. */
  readonly #beginning = new Map<string, number>();
  /** Devices that have said something, as far as rollouts that have ended are concerned. */
  readonly #unheard = new Set<string>();
  #ticks: NodeJS.Timeout | undefined;
  #soon: NodeJS.Timeout | undefined;
  #isStopped = false;
  #isLooking = false;
  #lookMs = 0;
  readonly #onDevice = (id: string) => {
    this.#unheard.add(id);
    this.#lookSoon();
  };

  constructor(
    store: ConsoleStore,
    rollouts: RolloutStore,
    fleet: Fleet,
    { audit, announce, warn }: { audit: AuditLog; announce: Announce; warn: (text: string) => void },
  ) {
    this.#store = store;
    this.#rollouts = rollouts;
    this.#fleet = fleet;
    this.#audit = audit;
    this.#announce = announce;
    this.#warn = warn;
    this.#live = new Map(rollouts.live().map((rollout) => [rollout.id, rollout]));
    fleet.on('device', this.#onDevice);
  }

  /** How long the last look took, in milliseconds. */
  get lookMs(): number {
    return this.#lookMs;
  }

  /** Begins to look at rollouts by itself: first at what devices had said when a console was killed before it looked. */
  start(): void {
    for (const id of this.#rollouts.toldDevices()) this.#unheard.add(id);
    this.#lookSoon();
    this.#ticks = setInterval(() => void this.#lookWhenFresh(), tickMs);
  }

  stop(): void {
    this.#isStopped = true;
    clearInterval(this.#ticks);
    clearTimeout(this.#soon);
    this.#fleet.off('device', this.#onDevice);
    for (const views of this.#views.values()) views.close();
    this.#views.clear();
  }

  /**
   * Starts a rollout. Fails with `release/unknown`, `rollout/invalid`, `rollout/conflict` or `selector/invalid`.
   *
   * @param policy as it was written; defaults are filled in
   */
  async begin(
    wanted: { release: string; selector: string; target: string; policy: unknown },
    by: Actor,
  ): Promise<RolloutDocument> {
    const release = this.#release(wanted.release);
    const policy = parsePolicy(wanted.policy);
    this.#beginning.set(wanted.target, (this.#beginning.get(wanted.target) ?? 0) + 1);
    try {
      await this.#viewsOn(wanted.target).fresh();
      const id = this.#rollouts.nextId;
      const start = { ...wanted, id, policy };
      const rollout = startRollout(start, this.#viewsFor(start.target, release, id));
      const text = `started: ${rollout.release} on ${rollout.target} of ${rollout.selector}`;
      const details = { release: rollout.release, selector: rollout.selector, target: rollout.target };
      const deed = { by, action: 'rollout.start', details };
      this.#carryOut(null, { rollout, assignments: [], standing: null, reasons: [{ device: null, text }] }, deed);
      this.#look();
      return this.#document(id);
    } finally {
      const others = this.#beginning.get(wanted.target)! - 1;
      if (others > 0) this.#beginning.set(wanted.target, others);
      else this.#beginning.delete(wanted.target);
      this.#dropUnusedViews(wanted.target);
    }
  }

  /** Newest first. */
  list(): RolloutSummary[] {
    return this.#rollouts.list();
  }

  /** What ended rollouts have left behind for somebody to look at, newest first. */
  left(): RolloutTrouble[] {
    return this.#rollouts.left();
  }

  /** Rollouts by status, every status among them. */
  counts(): Record<Rollout['status'], number> {
    return this.#rollouts.counts();
  }

  /** Fails with `rollout/unknown`. */
  async document(id: number): Promise<RolloutDocument> {
    await this.#freshen();
    return this.#document(id);
  }

  #document(id: number): RolloutDocument {
    const summary = this.#rollouts.summary(id);
    if (summary === null) throw unknown(id);
    const rollout = this.#existing(id);
    const waitsFor = describe(rollout, hasEnded(rollout) ? [] : this.#devicesFor(rollout));
    return { ...summary, waitsFor, reasons: this.#rollouts.reasons(id, shownReasons) };
  }

  /** Devices of a rollout after an id, of any state or one. Fails with `rollout/unknown`. */
  devices(id: number, after: string, limit: number, state: string | null): RolloutDevices {
    const all = Object.entries(this.#existing(id).devices)
      .filter(([device, progress]) => device > after && (state === null || progress.state === state))
      .sort(([a], [b]) => (a < b ? -1 : 1));
    const devices = all.slice(0, limit).map(([device, progress]) => ({ id: device, ...progress }));
    return { devices, next: all.length > limit ? devices.at(-1)!.id : null };
  }

  /** Fails with `rollout/unknown`, with `rollout/state` where that cannot be done now, and with `rollout/conflict`. */
  command(id: number, command: RolloutCommand, why: string, by: Actor): RolloutDocument {
    const rollout = this.#existing(id);
    const commands: Record<RolloutCommand, () => Advance> = {
      pause: () => pause(rollout, why),
      resume: () => resume(rollout, this.#devicesFor(rollout), why),
      approve: () => approve(rollout, why),
      abort: () => abort(rollout, why),
      rollback: () => rollBack(rollout, why),
    };
    if (hasEnded(rollout)) this.#refuseIfHeld(rollout);
    this.#carryOut(rollout, commands[command](), { by, action: `rollout.${command}`, details: { because: why } });
    this.#look();
    return this.#document(id);
  }

  /** Why a device is where it is: in a rollout, or in the newest one that is about it. Fails with `device/unknown`, `rollout/unknown`. */
  async why(device: string, id: number | null): Promise<RolloutAnswer> {
    await this.#freshen();
    const record = this.#store.device(device);
    if (record === null) throw new EdgeError('device/unknown', `there is no device ${device}`, { subject: device });
    const found = id ?? this.#rollouts.newestFor(device);
    if (found === null) throw new EdgeError('rollout/unknown', 'there was no rollout yet', { subject: device });
    const rollout = this.#existing(found);
    const { release, status } = rollout;
    // Of one that has ended, no other device is waited for.
    const devices = hasEnded(rollout)
      ? [meantBy(this.#viewOf(record, rollout.target), this.#release(release).targetKinds)]
      : this.#devicesFor(rollout);
    return {
      device,
      rollout: rollout.id,
      release,
      status,
      state: rollout.devices[device]?.state ?? 'outside',
      why: explain(rollout, devices, device),
      history: this.#rollouts.reasons(rollout.id, shownReasons, device),
    };
  }

  #existing(id: number): Rollout {
    const rollout = this.#live.get(id) ?? this.#rollouts.get(id);
    if (rollout === null) throw unknown(id);
    return rollout;
  }

  #release(id: string): Release {
    const release = this.#store.release(id);
    if (release !== null) return release;
    throw new EdgeError('release/unknown', `there is no release ${id}`, { subject: id });
  }

  /** A rollout that had ended must not go on with devices that another one has. */
  #refuseIfHeld(rollout: Rollout): void {
    const others = this.#othersOn(rollout.target, rollout.id);
    for (const device of Object.keys(rollout.devices)) {
      const holder = holderOf(device, others);
      if (holder === null) continue;
      throw new EdgeError('rollout/conflict', `device ${device} is part of rollout ${holder}, which has not ended`, {
        subject: device,
      });
    }
  }

  #lookSoon(): void {
    if (this.#isStopped) return;
    this.#soon ??= setTimeout(
      () => {
        this.#soon = undefined;
        void this.#lookWhenFresh();
      },
      Math.max(gatherMs, gatherLooks * this.#lookMs),
    );
  }

  /** Makes the views of live rollouts again where devices have changed: what is looked at after that need not wait for many of them. */
  async #freshen(): Promise<void> {
    for (const { id, target } of [...this.#live.values()]) {
      // It may have ended while others were looked at.
      if (this.#live.has(id)) await this.#viewsOn(target).fresh();
    }
  }

  /** Looks, when what it looks at was made again of all that has changed: with many devices, others are served meanwhile. */
  async #lookWhenFresh(): Promise<void> {
    if (this.#isLooking || this.#isStopped) return;
    this.#isLooking = true;
    try {
      await this.#freshen();
    } catch {
      // The look will say so of each rollout.
    } finally {
      this.#isLooking = false;
    }
    this.#look();
  }

  /** Moves every live rollout on, as far as it goes; takes over what devices say to those that have ended. */
  #look(): void {
    if (this.#isStopped) return;
    const started = performance.now();
    for (const rollout of [...this.#live.values()]) {
      try {
        this.#carryOut(rollout, advance(rollout, this.#devicesFor(rollout), Date.now()));
      } catch (error) {
        // Nothing of the step was written: the next look decides again.
        this.#warn(`rollout ${rollout.id} could not go on: ${(error as Error).message}`);
      }
    }
    this.#hearForEnded();
    this.#lookMs = performance.now() - started;
  }

  /** Lets ended rollouts take over what devices say, a few devices at a time. */
  #hearForEnded(): void {
    const until = performance.now() + hearMs;
    for (const id of this.#unheard) {
      if (performance.now() > until) {
        this.#lookSoon();
        return;
      }
      this.#unheard.delete(id);
      try {
        for (const rollout of this.#rollouts.endedWith(id)) {
          const device = this.#viewOf(this.#store.device(id)!, rollout.target);
          this.#carryOut(rollout, advance(rollout, [device], Date.now()));
        }
      } catch (error) {
        this.#unheard.add(id);
        this.#warn(`what ${id} says could not be taken over by rollouts that have ended: ${(error as Error).message}`);
        return;
      }
    }
  }

  /** Writes a step, and tells of it. `deed`: who has asked for it; null: the console itself goes on. */
  #carryOut(before: Rollout | null, advance: Advance, deed: Deed | null = null): void {
    const { rollout, assignments, standing, reasons } = advance;
    const isEmpty =
      before !== null && assignments.length === 0 && reasons.length === 0 && !isWorthWriting(before, rollout);
    if (isEmpty && deed === null) return;
    let stored: readonly StoredReason[] = [];
    this.#fleet.change(() => {
      this.#rollouts.put(rollout, before);
      stored = this.#rollouts.putReasons(rollout.id, reasons);
      const { id, selector, target, release } = rollout;
      if (standing === 'withdraw') this.#store.withdrawAssignment(id);
      if (standing === 'adopt') this.#store.putAssignment({ selector, target, release }, id);
      for (const { device, release } of assignments) this.#store.putPin(device, target, release);
      this.#record(before, advance, deed);
      if (stored.length > 0) this.#announce('rollout', newsOf(rollout, stored));
      return assignments.map(({ device }) => device);
    });
    if (standing !== null) this.#fleet.spreadSoon();
    if (hasEnded(rollout)) this.#live.delete(rollout.id);
    else this.#live.set(rollout.id, rollout);
    if (hasEnded(rollout)) this.#dropUnusedViews(rollout.target);
    if (stored.length > 0) this.#fleet.emit('rollout', newsOf(rollout, stored));
  }

  /** What somebody has asked for; and of what the console does by itself, what it decides, not what devices have said. */
  #record(before: Rollout | null, { rollout, assignments, standing, reasons }: Advance, deed: Deed | null): void {
    const subject = `rollout ${rollout.id}`;
    if (deed !== null) {
      this.#audit.record(deed.by, deed.action, subject, deed.details);
      return;
    }
    const hasMoved = before?.status !== rollout.status || before.stage !== rollout.stage;
    if (!hasMoved && assignments.length === 0 && standing === null) return;
    this.#audit.record(consoleActor, 'rollout.decide', subject, {
      status: rollout.status,
      stage: rollout.stage,
      orders: assignments.length,
      reasons: reasons
        .slice(0, auditedReasons)
        .map(({ device, text }) => (device === null ? text : `${device}: ${text}`)),
      furtherReasons: Math.max(0, reasons.length - auditedReasons),
    });
  }

  #devicesFor({ id, target, release }: Rollout): RolloutDevice[] {
    return this.#viewsFor(target, this.#release(release), id);
  }

  /** All devices, as a rollout of a release on a target looks at them. */
  #viewsFor(target: string, { targetKinds }: Release, id: number): RolloutDevice[] {
    const views = [...this.#viewsOn(target).now().values()];
    const others = this.#othersOn(target, id);
    if (others.length === 0 && targetKinds === undefined) return views;
    return views.map((view) => ({ ...meantBy(view, targetKinds), heldBy: holderOf(view.id, others) }));
  }

  #viewsOn(target: string): DeviceViews<RolloutDevice> {
    let views = this.#views.get(target);
    if (views === undefined) {
      views = new DeviceViews(this.#store, this.#fleet, (record) => this.#viewOf(record, target));
      this.#views.set(target, views);
    }
    return views;
  }

  #dropUnusedViews(target: string): void {
    if (this.#beginning.has(target)) return;
    if ([...this.#live.values()].some((rollout) => rollout.target === target)) return;
    this.#views.get(target)?.close();
    this.#views.delete(target);
  }

  #othersOn(target: string, id: number): Rollout[] {
    return [...this.#live.values()].filter((other) => other.id !== id && other.target === target);
  }

  #viewOf(record: DeviceRecord, target: string): RolloutDevice {
    const isOnline = record.isOnline && this.#fleet.hasHeard(record.id);
    return { ...rolloutDeviceOf({ ...record, isOnline }, target), heldBy: null };
  }
}

/** A device as a rollout for some kinds of targets sees it; undefined: for all. */
function meantBy(view: RolloutDevice, targetKinds: Release['targetKinds']): RolloutDevice {
  const isMeant = view.kind !== null && (targetKinds === undefined || targetKinds.includes(view.kind));
  return isMeant ? view : { ...view, kind: null };
}

/** The rollout among these that has a device and has not let go of it. */
function holderOf(device: string, rollouts: readonly Rollout[]): number | null {
  const holder = rollouts.find(({ devices }) => {
    const state = devices[device]?.state;
    return state !== undefined && state !== 'superseded' && state !== 'returned';
  });
  return holder?.id ?? null;
}

/** Whether a step has changed more than the clock, or the clock by so much that it should be kept. */
function isWorthWriting(before: Rollout, after: Rollout): boolean {
  if (before.devices !== after.devices || before.stages !== after.stages || before.stage !== after.stage) return true;
  if (before.status !== after.status) return true;
  // Of a paused one, the clock stands still.
  if (after.status === 'paused') return false;
  return before.seenMs === null || Math.abs(after.seenMs! - before.seenMs) >= clockEveryMs;
}

function newsOf({ id, release, status, stage }: Rollout, reasons: readonly StoredReason[]): RolloutNews {
  return { id, release, status, stage, reasons };
}

function unknown(id: number): EdgeError {
  return new EdgeError('rollout/unknown', `there is no rollout ${id}`, { subject: String(id) });
}
