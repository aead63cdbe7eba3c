import { EventEmitter } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { documentBytes } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Actor } from '../../configs/contracts/people.js';
import type { Budget } from '../../configs/contracts/plan.js';
import { Release } from '../../configs/contracts/release.js';
import { validate } from '../../configs/contracts/validate.js';
import { matches, parseSelector } from '../selector.js';
import type { ArtifactFolder } from './artifacts.js';
import type { AuditLog } from './audit.js';
import { type BudgetRule, desiredTargets, effectiveBudget, type Wishes } from './desired.js';
import type { ConsoleLink } from './link.js';
import { refuseTwoLatencies } from './predictions.js';
import type { RolloutNews } from './rollouts.js';
import { type ConsoleStore, type DeviceRecord, type StoredEvent, viewOf } from './store.js';

/** Devices whose orders are computed in one go: the console answers others in between. */
const spreadAtOnce = 50;
/** What could not be computed, as on a full disk, is tried again after this. */
const spreadAgainMs = 5000;
/** Room in a desired document for what is beside a release. */
const besidesBytes = 4096;

/** What is told to whoever watches: a device has changed, something has happened, a rollout has gone on. */
export interface FleetEvents {
  device: [id: string];
  event: [event: StoredEvent];
  rollout: [news: RolloutNews];
}

/** What holds for a device that is ahead of the database: what the console wants, or what the device runs. */
export type AheadChoice = 'console' | 'device';

/** A budget selector with what was set for it. */
export interface BudgetAnswer {
  readonly selector: string;
  /** What holds for the selector itself; null where nothing was set. */
  readonly budget: Budget | null;
  /** Oldest first. */
  readonly history: readonly { readonly budget: Budget; readonly createdAt: string }[];
  /** What holds on each device that the selector names, and by which rule; `release` where it is the release's own. */
  readonly devices: readonly { readonly id: string; readonly budget: Budget; readonly rule: string }[];
}

/** What the console does: every wish goes into the store first, with who has it, and from there to the devices. */
export class Fleet extends EventEmitter<FleetEvents> {
  readonly #store: ConsoleStore;
  readonly #artifacts: ArtifactFolder;
  readonly #audit: AuditLog;
  readonly #heard = new Set<string>();
  #link: ConsoleLink | null = null;
  #isClosed = false;
  #again: NodeJS.Timeout | undefined;

  constructor(store: ConsoleStore, artifacts: ArtifactFolder, audit: AuditLog) {
    super();
    this.#store = store;
    this.#artifacts = artifacts;
    this.#audit = audit;
    this.setMaxListeners(0);
  }

  /** Gives it the way to the devices; before that, wishes only go into the store. What was left to compute is computed. */
  attach(link: ConsoleLink): void {
    this.#link = link;
    this.spreadSoon();
  }

  /** Computes nothing any more. */
  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#again);
  }

  /** To be called when a device has said, since the console started, which orders it has seen. */
  heard(id: string): void {
    if (this.#heard.has(id)) return;
    this.#heard.add(id);
    this.emit('device', id);
  }

  /** Whether it is known which orders a device has: until then, a database that was restored cannot be told from a current one. */
  hasHeard(id: string): boolean {
    return this.#heard.has(id);
  }

  /** To be called when a device has said something. */
  deviceChanged(id: string): void {
    this.emit('device', id);
  }

  /** Tells a device once more what it should run. */
  tellAgain(id: string): void {
    this.#link?.publishDesired(id);
  }

  /** To be called when a device has reported an event. */
  happened(event: StoredEvent): void {
    this.emit('event', event);
  }

  /** Fails with `release/exists`, and with `upload/invalid` where its model is not here. */
  async createRelease(
    wanted: Omit<Release, 'model'> & { readonly model: { readonly sha256: string } },
    by: Actor,
  ): Promise<Release> {
    const model = await this.#artifacts.ref(wanted.model.sha256);
    if (model === null) {
      throw new EdgeError('upload/invalid', 'the model of the release was not uploaded', {
        subject: wanted.model.sha256,
      });
    }
    const release = validate(Release, { ...wanted, model }, 'usage/invalid', 'release');
    const bytes = Buffer.byteLength(JSON.stringify(release));
    if (bytes > documentBytes - besidesBytes) {
      throw new EdgeError('card/invalid', `the release takes ${bytes} bytes with its card, too many to tell devices`, {
        subject: release.id,
        hint: `Leave out of the card what devices do not need, such as names of classes: ${documentBytes - besidesBytes} bytes fit.`,
      });
    }
    this.#store.atomically(() => {
      if (this.#store.putRelease(release))
        this.#audit.record(by, 'release.create', release.id, { sha256: model.sha256 });
    });
    return release;
  }

  /** Assigns a release to a target of the devices that a selector names, now and later. Answers the devices that it changes. */
  async assign(selectorText: string, target: string, release: string, by: Actor): Promise<readonly string[]> {
    const selector = parseSelector(selectorText);
    if (this.#store.release(release) === null) {
      throw new EdgeError('release/unknown', `there is no release ${release}`, { subject: release });
    }
    this.#store.atomically(() => {
      this.#store.putAssignment({ selector: selector.text, target, release });
      this.#audit.record(by, 'release.assign', release, { selector: selector.text, target });
    });
    return this.#spread();
  }

  /** Sets the budget of a selector. Answers the devices whose desired document it changes. */
  async setBudget(selectorText: string, budget: Budget, by: Actor): Promise<readonly string[]> {
    refuseTwoLatencies(selectorText, budget);
    const { text } = parseSelector(selectorText);
    this.#store.atomically(() => {
      this.#store.putBudget(text, budget);
      this.#audit.record(by, 'budget.set', text, { budget });
    });
    return this.#spread();
  }

  /** What was set for a selector, and what holds on the devices that it names. */
  budget(selectorText: string): BudgetAnswer {
    const selector = parseSelector(selectorText);
    const rules = this.#store.budgets();
    const history = rules.filter((rule) => rule.selector === selector.text);
    const named = this.#store.devices().filter((device) => matches(selector, viewOf(device)));
    return {
      selector: selector.text,
      budget: history.at(-1)?.budget ?? null,
      history: history.map(({ budget, createdAt }) => ({ budget, createdAt })),
      devices: named.map((device) => ({ id: device.id, ...effectiveOn(device, rules) })),
    };
  }

  /**
   * Lets a device that is ahead of this console's database take its word again: either what the database wants of it, or what the device
   * runs, which is then wanted. Fails with `device/unknown`, and with `release/unknown` where the database lacks what it runs.
   */
  adopt(id: string, choice: AheadChoice, by: Actor): void {
    const device = this.#store.device(id);
    if (device === null) throw new EdgeError('device/unknown', `there is no device ${id}`, { subject: id });
    this.#store.atomically(() => {
      if (choice === 'device') this.#pinWhatRuns(device);
      // With what was asked for while nothing was decided over its head.
      this.#store.adopt(id, desiredTargets(viewOf(this.#store.device(id)!), this.#wishes()));
      this.#audit.record(by, 'device.adopt', id, { take: choice });
    });
    this.#link?.publishDesired(id);
    this.emit('device', id);
  }

  /**
   * Writes something, and what the devices that it is about should run from now on, together or not at all; then tells them.
   *
   * @param work writes; answers the devices that it is about
   * @returns the devices whose desired document has changed
   */
  change(work: () => readonly string[]): readonly string[] {
    const changed = this.#store.atomically(() => this.#recompute(work()));
    for (const id of changed) {
      this.#link?.publishDesired(id);
      this.emit('device', id);
    }
    return changed;
  }

  /** To be called when something was written that may be about any device: what each should run is computed, and told. */
  spreadSoon(): void {
    // It is tried again; whoever watches sees the console's health.
    this.#spread().catch(() => {});
  }

  /**
   * Computes what every device should run, a few at a time. Whatever was wished is in the store before that, so that what is cut short is
   * done later: after a pause where the store fails, at the start where the console was killed.
   */
  async #spread(): Promise<readonly string[]> {
    const changed: string[] = [];
    try {
      let ids = this.#store.deviceIds('', spreadAtOnce);
      while (ids.length > 0 && !this.#isClosed) {
        changed.push(...this.change(() => ids));
        await nextTurn();
        if (!this.#isClosed) ids = this.#store.deviceIds(ids.at(-1), spreadAtOnce);
      }
      return changed;
    } catch (error) {
      clearTimeout(this.#again);
      if (!this.#isClosed) this.#again = setTimeout(() => this.spreadSoon(), spreadAgainMs).unref();
      throw error;
    }
  }

  #pinWhatRuns({ id, reported }: DeviceRecord): void {
    for (const [target, { active }] of Object.entries(reported?.targets ?? {})) {
      if (active === null) continue;
      if (this.#store.release(active.release) === null) {
        throw new EdgeError('release/unknown', `${id} runs ${active.release}, which this database does not have`, {
          subject: active.release,
          hint: 'Make that release again, of the same model; then repeat this.',
        });
      }
      this.#store.putPin(id, target, active.release);
    }
  }

  #wishes(): Wishes {
    return {
      releases: new Map(this.#store.releases().map(({ createdAt: _, ...release }) => [release.id, release])),
      assignments: this.#store.assignments(),
      budgets: this.#store.budgets(),
    };
  }

  #recompute(ids: readonly string[]): string[] {
    if (ids.length === 0) return [];
    const devices = ids.map((id) => this.#store.device(id));
    const wishes = this.#wishes();
    return devices
      .filter((device) => device !== null)
      .filter((device) => {
        // A device that is ahead knows of wishes that this database does not: nothing is decided over its head.
        return !device.isAhead && this.#store.putDesired(device.id, desiredTargets(viewOf(device), wishes)) !== null;
      })
      .map(({ id }) => id);
  }
}

function effectiveOn(device: DeviceRecord, rules: readonly BudgetRule[]): { budget: Budget; rule: string } {
  const rule = effectiveBudget(viewOf(device), rules);
  if (rule !== null) return { budget: rule.budget, rule: rule.selector };
  const [first] = Object.values(device.desired?.targets ?? {});
  return { budget: first?.release.budget ?? {}, rule: 'release' };
}
