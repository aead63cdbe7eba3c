import type { FrontierPoint } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget } from '../../configs/contracts/plan.js';
import { matches, parseSelector } from '../selector.js';
import { effectiveBudget } from './desired.js';
import type { Replay } from './replay.js';
import { type ConsoleStore, type DeviceRecord, viewOf } from './store.js';
import type { PlannableTable, Tables } from './tables.js';
import { type Prediction, predict, type Verdict } from './what-if.js';

/**
 * What a verdict rests on: what runs there and was measured, the device's own table, that of its class (with the sensitivities of another
 * device), or the frontier that it has reported.
 */
export type Basis = 'measured' | 'table' | 'class' | 'frontier';

/** A verdict on one target of a device. */
export type DevicePrediction = Prediction & {
  readonly id: string;
  readonly target: string;
  readonly hardwareClass: string;
  readonly release: string;
  readonly basis: Basis;
};

/** What a hardware class could choose from for a release, under the budget's ceilings other than latency. */
export interface ClassFrontier {
  readonly target: string;
  readonly release: string;
  readonly unit: string;
  readonly points: readonly FrontierPoint[];
}

/** What would become of a budget, device by device and by hardware class. */
export interface WhatIfAnswer {
  readonly selector: string;
  readonly budget: Budget;
  readonly devices: readonly DevicePrediction[];
  readonly classes: readonly {
    readonly hardwareClass: string;
    readonly verdicts: Readonly<Record<Verdict, number>>;
    /** By release; of the first device of the class whose table was planned with. */
    readonly frontiers: readonly ClassFrontier[];
  }[];
}

/** No new plan is solved for one question after so long: the devices that are left are judged by their frontiers. */
const mostMs = 20_000;

/** Predicts what would become of wishes; changes nothing. */
export class Predictions {
  readonly #store: ConsoleStore;
  readonly #tables: Tables;

  constructor(store: ConsoleStore, tables: Tables) {
    this.#store = store;
    this.#tables = tables;
  }

  /** What would become of a budget that is set for a selector. Fails with `budget/invalid` and `selector/invalid`. */
  async whatIf(selectorText: string, budget: Budget): Promise<WhatIfAnswer> {
    refuseTwoLatencies(selectorText, budget);
    const selector = parseSelector(selectorText);
    const rule = { selector: selector.text, budget };
    const rules = [...this.#store.budgets(), rule];
    const deadline = performance.now() + mostMs;
    const devices: DevicePrediction[] = [];
    const frontiers = new Map<string, ClassFrontier[]>();
    for (const device of this.#store.devices().filter((known) => matches(selector, viewOf(known)))) {
      const { hardwareClass } = device.birth;
      const holding = effectiveBudget(viewOf(device), rules);
      for (const [target, { release }] of Object.entries(device.desired?.targets ?? {})) {
        const known = frontiers.get(hardwareClass) ?? [];
        const isNew = !known.some((other) => other.release === release.id && other.target === target);
        const { replayed, ...prediction }: Judged =
          holding === rule
            ? await this.#judge(device, target, budget, isNew, deadline)
            : { ...unaffected(holding!.selector), basis: 'measured', replayed: null };
        devices.push({ id: device.id, target, hardwareClass, release: release.id, ...prediction });
        if (replayed === null || replayed.frontier.length === 0 || !isNew) continue;
        const { unit, frontier } = replayed;
        frontiers.set(hardwareClass, [...known, { target, release: release.id, unit, points: frontier }]);
      }
    }
    const classes = new Map<string, Record<Verdict, number>>();
    for (const { hardwareClass, verdict } of devices) {
      const verdicts = classes.get(hardwareClass) ?? { meets: 0, infeasible: 0, unknown: 0, unaffected: 0 };
      verdicts[verdict]++;
      classes.set(hardwareClass, verdicts);
    }
    return {
      selector: selector.text,
      budget,
      devices,
      classes: [...classes].map(([hardwareClass, verdicts]) => ({
        hardwareClass,
        verdicts,
        frontiers: frontiers.get(hardwareClass) ?? [],
      })),
    };
  }

  /** What runs and holds is known best; then what planning finds; then what the device has planned itself. */
  async #judge(
    device: DeviceRecord,
    target: string,
    budget: Budget,
    needsFrontier: boolean,
    deadline: number,
  ): Promise<Judged> {
    const { release, budget: was } = device.desired!.targets[target]!;
    const known = predict(budget, experienceOf(device, target, release.id, was));
    const isMeasured = known.verdict === 'meets' && known.point === null;
    if (isMeasured && !needsFrontier) return { ...known, basis: 'measured', replayed: null };
    const table = this.#tables.plannable(device.id, target, release.model.sha256);
    const replayed = table === null || performance.now() > deadline ? null : await this.#replay(table, budget);
    if (isMeasured) return { ...known, basis: 'measured', replayed };
    if (table === null || replayed === null) return { ...known, basis: 'frontier', replayed };
    const { verdict, why, point } = replayed;
    return { verdict, why, point, basis: table.isOwn ? 'table' : 'class', replayed };
  }

  /** A table that cannot be planned with leaves the other answers. */
  async #replay(table: PlannableTable, budget: Budget): Promise<Replay | null> {
    try {
      return await this.#tables.replay(table, budget);
    } catch (error) {
      if (error instanceof EdgeError && error.code === 'solver/failed') return null;
      throw error;
    }
  }
}

type Judged = Prediction & { readonly basis: Basis; readonly replayed: Replay | null };

function unaffected(selector: string): Prediction {
  return { verdict: 'unaffected', why: `the budget of ${selector} holds there`, point: null };
}

/** What a device has measured and planned of the release that is wanted on a target; of another one, it says nothing. */
function experienceOf({ reported, desired }: DeviceRecord, target: string, release: string, budget: Budget) {
  const report = reported?.targets[target];
  const isCurrent = (reported?.observedGeneration ?? 0) >= desired!.generation;
  return {
    measurements: report?.active?.release === release ? report.active.measurements : null,
    frontier: isCurrent ? (report?.frontier ?? []) : [],
    budget,
  };
}

/** Fails with `budget/invalid` for a latency that is given twice. */
export function refuseTwoLatencies(subject: string, { latencyMs, latencyRatio }: Budget): void {
  if (latencyMs === undefined || latencyRatio === undefined) return;
  throw new EdgeError('budget/invalid', 'latency is given both absolute and relative', { subject });
}
