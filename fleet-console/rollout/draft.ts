import type {
  DeviceFailure,
  DeviceProgress,
  Rollout,
  RolloutReason,
  RolloutStatus,
  Stage,
} from '../../configs/contracts/rollout.js';
import { stageName } from '../../configs/contracts/rollout.js';
import { matches, parseSelector, type Selector } from '../selector.js';
import type { RolloutDevice } from './device.js';
import { Availability } from './disruption.js';

/** A release for a device; null: none, so that what else was asked for holds. */
export interface RolloutAssignment {
  readonly device: string;
  readonly release: string | null;
}

/** What is to be written, together, when a rollout goes on. */
export interface Advance {
  readonly rollout: Rollout;
  readonly assignments: readonly RolloutAssignment[];
  /**
   * What becomes of the release for devices that come after the rollout: `adopt`, they get it from now on (in this order: first this,
   * then the assignments); `withdraw`, no longer.
   */
  readonly standing: 'adopt' | 'withdraw' | null;
  readonly reasons: readonly RolloutReason[];
}

/** The rollout's clock moves by no more than this between two looks: a console that slept or a clock that jumped fails nobody. */
const mostTickMs = 60_000;

/** Whether a rollout has ended; a completed one may still be rolled back. */
export function hasEnded({ status }: Pick<Rollout, 'status'>): boolean {
  return status === 'completed' || status === 'rolled-back' || status === 'aborted';
}

/** A rollout that is being moved on: collects what changes. Devices that do not change keep their objects. */
export class Draft {
  readonly policy: Rollout['policy'];
  readonly devices: ReadonlyMap<string, RolloutDevice>;
  readonly #selector: Selector;
  readonly #before: Rollout;
  #head: Omit<Rollout, 'devices'>;
  readonly #progress: Map<string, DeviceProgress>;
  #hasDevicesChanged = false;
  readonly #assignments: RolloutAssignment[] = [];
  readonly #reasons: RolloutReason[] = [];
  #standing: Advance['standing'] = null;
  #availability: Availability | null = null;

  constructor(rollout: Rollout, devices: Iterable<RolloutDevice>) {
    const { devices: progress, ...head } = rollout;
    this.#before = rollout;
    this.#head = head;
    this.policy = rollout.policy;
    const byId = new Map<string, RolloutDevice>();
    for (const device of devices) byId.set(device.id, device);
    this.devices = byId;
    this.#progress = new Map();
    for (const device in progress) this.#progress.set(device, progress[device]!);
    this.#selector = parseSelector(rollout.selector);
  }

  get head(): Omit<Rollout, 'devices'> {
    return this.#head;
  }

  /** It orders nothing any more, and only takes over what devices say. */
  get hasEnded(): boolean {
    return hasEnded(this.#head);
  }

  get stage(): Stage {
    return this.policy.stages[this.#head.stage]!;
  }

  /** Name of a stage; of the current one without an index. */
  nameOf(index = this.#head.stage): string {
    return stageName(this.policy.stages, index);
  }

  get isLastStage(): boolean {
    return this.#head.stage === this.policy.stages.length - 1;
  }

  progressOf(device: string): DeviceProgress | undefined {
    return this.#progress.get(device);
  }

  /** Devices of the rollout; what changes meanwhile is not seen. */
  members(): [string, DeviceProgress][] {
    return [...this.#progress];
  }

  /** Whether the selector and the release are meant for a device. */
  isMeant(device: RolloutDevice): boolean {
    return device.kind !== null && matches(this.#selector, device);
  }

  /** Whether the current stage's selector names a device. */
  isInStage(id: string): boolean {
    const device = this.devices.get(id);
    return device !== undefined && matches(parseSelector(this.stage.selector!), device);
  }

  /** Moves the clock. */
  tick(nowMs: number): void {
    const { seenMs, clockMs, status } = this.#head;
    const moves = status === 'running' || status === 'rolling-back';
    const passed = seenMs === null || !moves ? 0 : Math.min(mostTickMs, Math.max(0, nowMs - seenMs));
    this.set({ clockMs: clockMs + passed, seenMs: nowMs });
  }

  set(change: Partial<Omit<Rollout, 'devices'>>): void {
    this.#head = { ...this.#head, ...change };
  }

  /** Changes how far the current stage has come. */
  setStage(change: Partial<Rollout['stages'][number]>): void {
    const { stages, stage } = this.#head;
    this.set({ stages: stages.map((progress, index) => (index === stage ? { ...progress, ...change } : progress)) });
  }

  /** Goes over to another status, saying why. */
  become(status: RolloutStatus, reason: string): void {
    this.set({ status, reason });
    this.#availability = null;
    this.say(null, `${status}: ${reason}`);
  }

  say(device: string | null, text: string): void {
    this.#reasons.push({ device, text });
  }

  enroll(device: string): void {
    this.#progress.set(device, {
      stage: null,
      state: 'waiting',
      sinceMs: this.#head.clockMs,
      startedMs: null,
      previous: null,
      baseline: null,
      failure: null,
      gates: [],
      isAccepted: false,
    });
    this.#hasDevicesChanged = true;
  }

  drop(device: string): void {
    this.#progress.delete(device);
    this.#hasDevicesChanged = true;
  }

  /** Changes a device; a new state says since when. */
  change(device: string, change: Partial<DeviceProgress>): void {
    const known = this.#progress.get(device)!;
    const isNewState = change.state !== undefined && change.state !== known.state;
    this.#progress.set(device, { ...known, ...change, ...(isNewState ? { sinceMs: this.#head.clockMs } : {}) });
    this.#hasDevicesChanged = true;
    this.#availability = null;
  }

  fail(device: string, failure: DeviceFailure, gates?: DeviceProgress['gates']): void {
    this.change(device, { state: 'failed', failure, isAccepted: false, ...(gates === undefined ? {} : { gates }) });
    const when = this.hasEnded ? `, after the rollout was ${this.#head.status}` : '';
    this.say(device, `failed${when}, ${failure.class}: ${failure.message}`);
  }

  /** Why a device may not be disturbed now; null where it may. */
  objection(device: RolloutDevice): string | null {
    return this.#available().objection(device);
  }

  /** Tells a device to run a release. */
  assign(device: RolloutDevice, release: string | null, change: Partial<DeviceProgress>): void {
    const availability = this.#available();
    this.change(device.id, change);
    availability.take(device);
    this.#availability = availability;
    this.#assignments.push({ device: device.id, release });
  }

  /** Assigns what a device is to keep, over a standing assignment. */
  hold(device: RolloutDevice): void {
    this.#assignments.push({ device: device.id, release: device.wanted });
  }

  set standing(standing: Advance['standing']) {
    this.#standing = standing;
  }

  /** Why no device could ever be changed; null where all is well. */
  impossibility(): string | null {
    return this.#available().impossibility();
  }

  done(): Advance {
    const devices = this.#hasDevicesChanged ? Object.fromEntries(this.#progress) : this.#before.devices;
    return {
      rollout: { ...this.#head, devices },
      assignments: this.#assignments,
      standing: this.#standing,
      reasons: this.#reasons,
    };
  }

  #available(): Availability {
    this.#availability ??= new Availability(
      this.policy.disruption,
      this.#countedDevices(),
      this.#head.status !== 'rolling-back',
    );
    return this.#availability;
  }

  *#countedDevices(): Generator<readonly [RolloutDevice, DeviceProgress | undefined]> {
    for (const device of this.devices.values()) {
      const progress = this.#progress.get(device.id);
      if (progress !== undefined || this.isMeant(device)) yield [device, progress];
    }
  }
}
