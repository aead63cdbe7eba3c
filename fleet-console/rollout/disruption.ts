/** The disruption budget: how many devices of a group are unavailable, and whether one more may be. Pure. */
import type { DeviceProgress, Disruption } from '../../configs/contracts/rollout.js';
import type { RolloutDevice } from './device.js';

interface Group {
  size: number;
  readonly unavailable: Set<string>;
}

/** Names that are listed in a sentence. */
const mostNames = 3;

/**
 * Devices that a rollout's selector names, counted by group. A device is unavailable while it is offline, while it was told something by
 * the rollout and has not answered, and when it failed and nothing confirmed runs on it any more.
 *
 * A rollback does not count those that are offline (`countsOffline`): a device that a bad release took down must not keep that release on
 * the others.
 */
export class Availability {
  readonly #disruption: Disruption | undefined;
  readonly #groups = new Map<string, Group>();

  constructor(
    disruption: Disruption | undefined,
    members: Iterable<readonly [RolloutDevice, DeviceProgress | undefined]>,
    countsOffline: boolean,
  ) {
    this.#disruption = disruption;
    if (disruption === undefined) return;
    for (const [device, progress] of members) {
      const group = this.#groupOf(device);
      group.size++;
      const isAway = device.isOnline ? isChanging(device, progress) : countsOffline;
      if (isAway) group.unavailable.add(device.id);
    }
  }

  /** Why a device may not be changed now; null where it may. */
  objection(device: RolloutDevice): string | null {
    if (this.#disruption === undefined) return null;
    const { unavailable, size } = this.#groupOf(device);
    const most = this.#mostOf(size);
    const would = unavailable.size + (unavailable.has(device.id) ? 0 : 1);
    if (would <= most) return null;
    const names = [...unavailable].slice(0, mostNames).join(', ');
    const others = unavailable.size > mostNames ? ` and ${unavailable.size - mostNames} more` : '';
    return `${this.#nameOf(device)}: ${unavailable.size} of ${size} devices are unavailable (${names}${others}), at most ${Math.max(0, most)} may be`;
  }

  /** Counts a device that is about to be changed. */
  take(device: RolloutDevice): void {
    if (this.#disruption !== undefined) this.#groupOf(device).unavailable.add(device.id);
  }

  /** The sentence about a group in which no device could ever be changed; null where every group allows one. */
  impossibility(): string | null {
    for (const [value, { size }] of this.#groups) {
      if (this.#mostOf(size) >= 1) continue;
      const where = this.#disruption!.groupBy === undefined ? 'the selector names' : `${this.#describe(value)} has`;
      return `${where} ${size} ${size === 1 ? 'device' : 'devices'}, and minAvailable is ${this.#disruption!.minAvailable}: none could ever be changed`;
    }
    return null;
  }

  #mostOf(size: number): number {
    const { maxUnavailable, minAvailable } = this.#disruption!;
    return maxUnavailable ?? size - minAvailable!;
  }

  #groupOf(device: RolloutDevice): Group {
    const key = this.#keyOf(device);
    let group = this.#groups.get(key);
    if (group === undefined) this.#groups.set(key, (group = { size: 0, unavailable: new Set() }));
    return group;
  }

  /** `=value`, or empty for devices without the label: no value is mistaken for none. */
  #keyOf({ labels }: RolloutDevice): string {
    const { groupBy } = this.#disruption!;
    return groupBy !== undefined && Object.hasOwn(labels, groupBy) ? `=${labels[groupBy]}` : '';
  }

  #nameOf(device: RolloutDevice): string {
    return this.#disruption!.groupBy === undefined
      ? 'disruption budget'
      : `disruption budget of ${this.#describe(this.#keyOf(device))}`;
  }

  #describe(key: string): string {
    const { groupBy } = this.#disruption!;
    return key === '' ? `devices without ${groupBy}` : `${groupBy}${key}`;
  }
}

/** Whether a device was told something and may be in the middle of it, or has nothing left to serve with. */
function isChanging(device: RolloutDevice, progress: DeviceProgress | undefined): boolean {
  if (progress === undefined) return false;
  const serves = device.active?.isConfirmed === true;
  switch (progress.state) {
    case 'updating':
    case 'returning':
      return true;
    case 'failed':
      return progress.failure?.class === 'TIMED_OUT' || (!serves && progress.previous !== null);
    case 'stranded':
      return !serves;
    default:
      return false;
  }
}
