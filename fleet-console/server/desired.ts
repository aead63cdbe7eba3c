/** What a device should run, computed from what was asked for. Pure. */
import type { DesiredState } from '../../configs/contracts/device.js';
import type { Budget } from '../../configs/contracts/plan.js';
import type { Release } from '../../configs/contracts/release.js';
import { matches, parseSelector, rankOf, type Selectable } from '../selector.js';

/** A device as far as this needs it: targets with their kinds. */
export interface DeviceView extends Selectable {
  readonly targets: Readonly<Record<string, { readonly kind: string }>>;
  /** What it has of its own, by target; absent: nothing. */
  readonly pins?: Readonly<Record<string, Pin>>;
}

/** A release that a target of one device has of its own, as a rollout gives it. */
export interface Pin {
  readonly release: string;
  /** It holds over assignments with this number and below; later ones replace it. */
  readonly over: number;
}

/** A release for a target of the devices that a selector names; later ones count more. */
export interface Assignment {
  /** Rises with every assignment. */
  readonly number: number;
  readonly selector: string;
  readonly target: string;
  readonly release: string;
}

/** A budget for the devices that a selector names; later ones count more among equal ranks. */
export interface BudgetRule {
  readonly selector: string;
  readonly budget: Budget;
}

/** Everything that was asked for, oldest first. */
export interface Wishes {
  readonly releases: ReadonlyMap<string, Release>;
  readonly assignments: readonly Assignment[];
  readonly budgets: readonly BudgetRule[];
}

/** The desired targets of a device. A target that no assignment names is absent. */
export function desiredTargets(device: DeviceView, wishes: Wishes): DesiredState['targets'] {
  const targets: DesiredState['targets'] = {};
  for (const [target, { kind }] of Object.entries(device.targets)) {
    const release = newestRelease(device, target, kind, wishes);
    if (release !== null)
      targets[target] = { release, budget: effectiveBudget(device, wishes.budgets)?.budget ?? release.budget ?? {} };
  }
  return targets;
}

/** The budget rule that holds for a device: highest rank, then the newest; null where only a release's default is left. */
export function effectiveBudget(device: Selectable, budgets: readonly BudgetRule[]): BudgetRule | null {
  let best: { rule: BudgetRule; rank: number } | null = null;
  for (const rule of budgets) {
    const selector = parseSelector(rule.selector);
    if (!matches(selector, device)) continue;
    const rank = rankOf(selector);
    if (best === null || rank >= best.rank) best = { rule, rank };
  }
  return best?.rule ?? null;
}

function newestRelease(device: DeviceView, target: string, kind: string, wishes: Wishes): Release | null {
  const fits = (id: string) => {
    const release = wishes.releases.get(id);
    return release?.targetKinds === undefined || release.targetKinds.includes(kind) ? release : undefined;
  };
  const pin = device.pins?.[target];
  for (const assignment of [...wishes.assignments].reverse()) {
    if (pin !== undefined && assignment.number <= pin.over) break;
    if (assignment.target !== target || !matches(parseSelector(assignment.selector), device)) continue;
    const release = fits(assignment.release);
    if (release !== undefined) return release;
  }
  return pin === undefined ? null : (fits(pin.release) ?? null);
}
