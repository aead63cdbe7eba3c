/**
 * The fleet as lists and numbers: what it shows comes from one summary a device, made when the device has changed, so that neither ten
 * thousand documents are read for a page of a list, nor sent for a count.
 */
import type { ActiveArtifact, Measurements, ReportedState, StepReport } from '../../configs/contracts/device.js';
import type { Budget } from '../../configs/contracts/plan.js';
import { type DeviceState, deviceStates, standingOf } from '../device-state.js';
import { matches, parseSelector } from '../selector.js';
import { DeviceViews } from './device-views.js';
import type { Fleet } from './fleet.js';
import type { ConsoleStore, DeviceRecord } from './store.js';

/** A target of a device in a list. */
export interface TargetSummary {
  readonly target: string;
  readonly kind: string;
  /** Id of the release that is wanted; null where none is. */
  readonly wanted: string | null;
  readonly budget: Budget;
  readonly active: ArtifactSummary | null;
  readonly previous: ArtifactSummary | null;
  readonly step: StepReport | null;
}

/** An artifact in a list. */
export interface ArtifactSummary {
  readonly release: string;
  readonly isConfirmed: boolean;
  readonly measurements: Measurements;
}

/** A device in a list. */
export interface DeviceSummary {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly hardwareClass: string;
  readonly state: DeviceState;
  /** A sentence; empty where there is nothing to explain. */
  readonly why: string;
  readonly isOnline: boolean;
  /** ISO 8601, by the console's clock. */
  readonly lastSeen: string;
  readonly targets: readonly TargetSummary[];
}

/** Devices by state; every state is there. */
export type StateCounts = Readonly<Record<DeviceState, number>>;

/** The whole fleet in numbers. */
export interface Overview {
  readonly devices: number;
  readonly online: number;
  readonly states: StateCounts;
  /** Most devices first. */
  readonly classes: readonly {
    readonly hardwareClass: string;
    readonly devices: number;
    readonly states: StateCounts;
  }[];
  /** Targets by release; those that most want first. `active`: that run it, `confirmed`: of these, confirmed. */
  readonly releases: readonly ReleaseShare[];
  /** The first few devices in each state that needs somebody. */
  readonly attention: readonly {
    readonly state: DeviceState;
    readonly devices: number;
    readonly first: readonly DeviceSummary[];
  }[];
}

/** How far a release is spread, in targets of devices. */
export interface ReleaseShare {
  readonly release: string;
  readonly wanted: number;
  readonly active: number;
  readonly confirmed: number;
}

/** Which devices a list is to have; all conditions must hold. */
export interface DeviceQuery {
  readonly selector?: string;
  /** A part of the id, of a label's value, of the hardware class or of a release, in any case. */
  readonly search?: string;
  readonly state?: string;
  readonly hardwareClass?: string;
  /** Wanted or active on one of its targets. */
  readonly release?: string;
  readonly after?: string;
  readonly limit: number;
}

/** A page of devices, by id. */
export interface DevicePage {
  readonly devices: readonly DeviceSummary[];
  /** All that the query finds, on this page or not. */
  readonly total: number;
  /** What to ask for the next page with; null at the end. */
  readonly next: string | null;
}

/** What two releases measured on one target of a device. */
export interface ComparedTarget {
  readonly device: string;
  readonly target: string;
  readonly hardwareClass: string;
  readonly base: Measurements;
  readonly other: Measurements;
}

/** States in which somebody has to look. */
const alarming: readonly DeviceState[] = ['ahead', 'in trouble', 'rolled back', 'infeasible', 'offline'];
/** Devices that are named with each of them. */
const namedWithState = 5;

/** Keeps a summary of every device. Everything it answers is as new as the store was when it was asked. */
export class FleetView {
  readonly #summaries: DeviceViews<DeviceSummary>;

  constructor(store: ConsoleStore, fleet: Fleet) {
    this.#summaries = new DeviceViews(store, fleet, summaryOf);
  }

  /** Counts of the whole fleet. */
  async overview(): Promise<Overview> {
    const summaries = await this.#summaries.fresh();
    const states = noStates();
    const classes = new Map<string, { devices: number; states: Record<DeviceState, number> }>();
    const releases = new Map<string, { wanted: number; active: number; confirmed: number }>();
    const first = new Map<DeviceState, DeviceSummary[]>(alarming.map((state) => [state, []]));
    let online = 0;
    const shareOf = (release: string) => entry(releases, release, () => ({ wanted: 0, active: 0, confirmed: 0 }));
    for (const device of summaries.values()) {
      if (device.isOnline) online++;
      states[device.state]++;
      const kind = entry(classes, device.hardwareClass, () => ({ devices: 0, states: noStates() }));
      kind.devices++;
      kind.states[device.state]++;
      const named = first.get(device.state);
      if (named !== undefined && named.length < namedWithState) named.push(device);
      for (const { wanted, active } of device.targets) {
        if (wanted !== null) shareOf(wanted).wanted++;
        if (active === null) continue;
        shareOf(active.release).active++;
        if (active.isConfirmed) shareOf(active.release).confirmed++;
      }
    }
    return {
      devices: summaries.size,
      online,
      states,
      classes: [...classes]
        .map(([hardwareClass, counts]) => ({ hardwareClass, ...counts }))
        .sort((a, b) => b.devices - a.devices),
      releases: [...releases]
        .map(([release, counts]) => ({ release, ...counts }))
        .sort((a, b) => b.wanted - a.wanted || b.active - a.active),
      attention: alarming
        .filter((state) => states[state] > 0)
        .map((state) => ({ state, devices: states[state], first: first.get(state)! })),
    };
  }

  /** A page of a list. Fails with `selector/invalid`. */
  async devices({
    selector = 'all',
    search = '',
    state,
    hardwareClass,
    release,
    after = '',
    limit,
  }: DeviceQuery): Promise<DevicePage> {
    const parsed = parseSelector(selector);
    const text = search.trim().toLowerCase();
    const found = [...(await this.#summaries.fresh()).values()].filter(
      (device) =>
        (state === undefined || device.state === state) &&
        (hardwareClass === undefined || device.hardwareClass === hardwareClass) &&
        (release === undefined || releasesOf(device).includes(release)) &&
        (text === '' || hasText(device, text)) &&
        matches(parsed, device),
    );
    const rest = found.filter(({ id }) => id > after);
    const devices = rest.slice(0, limit);
    return { devices, total: found.length, next: rest.length > limit ? devices.at(-1)!.id : null };
  }

  /** Targets that have run both releases, one after the other, and measured both. Fails with `selector/invalid`. */
  async compare(base: string, other: string, selector: string): Promise<ComparedTarget[]> {
    const parsed = parseSelector(selector);
    return [...(await this.#summaries.fresh()).values()]
      .filter((device) => matches(parsed, device))
      .flatMap(({ id, hardwareClass, targets }) =>
        targets.flatMap(({ target, active, previous }) => {
          const of = (release: string) =>
            [active, previous].find((artifact) => artifact?.release === release)?.measurements;
          const [first, second] = [of(base), of(other)];
          return first === undefined || second === undefined
            ? []
            : [{ device: id, target, hardwareClass, base: first, other: second }];
        }),
      );
  }
}

function summaryOf(record: DeviceRecord): DeviceSummary {
  const { id, birth, isOnline, lastSeen, reported, desired } = record;
  const names = new Set([...Object.keys(birth.targets), ...Object.keys(reported?.targets ?? {})]);
  return {
    id,
    labels: birth.labels,
    hardwareClass: birth.hardwareClass,
    ...standingOf(record),
    isOnline,
    lastSeen,
    targets: [...names].map((target) => {
      const wanted = desired?.targets[target];
      return {
        target,
        kind: birth.targets[target]?.kind ?? 'unknown',
        wanted: wanted?.release.id ?? null,
        budget: wanted?.budget ?? {},
        ...reportOf(reported, target),
      };
    }),
  };
}

function reportOf(reported: ReportedState | null, target: string) {
  const report = reported?.targets[target];
  return {
    active: artifactOf(report?.active ?? null),
    previous: artifactOf(report?.previous ?? null),
    step: report?.step ?? null,
  };
}

function artifactOf(artifact: ActiveArtifact | null): ArtifactSummary | null {
  if (artifact === null) return null;
  const { release, isConfirmed, measurements } = artifact;
  return { release, isConfirmed, measurements };
}

function releasesOf({ targets }: DeviceSummary): (string | null | undefined)[] {
  return targets.flatMap(({ wanted, active }) => [wanted, active?.release]);
}

function hasText(device: DeviceSummary, text: string): boolean {
  const places = [device.id, device.hardwareClass, ...Object.values(device.labels), ...releasesOf(device)];
  return places.some((place) => place?.toLowerCase().includes(text));
}

function noStates(): Record<DeviceState, number> {
  return Object.fromEntries(deviceStates.map((state) => [state, 0])) as Record<DeviceState, number>;
}

function entry<T>(map: Map<string, T>, key: string, make: () => T): T {
  let found = map.get(key);
  if (found === undefined) map.set(key, (found = make()));
  return found;
}
