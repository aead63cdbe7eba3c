/** Power supplies and thermal zones as Linux reports them (https://docs.kernel.org/power/power_supply_class.html). */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { GatePolicy, GateReading } from '../core/gates/decide.js';
import {
  judgePower,
  judgeTemperature,
  type PowerLimits,
  type PowerState,
  type TemperatureLimits,
} from '../core/gates/sensors.js';
import type { Gate } from '../device-ports.js';

/** Open while there is power enough. */
export class PowerGate implements Gate {
  readonly policy: GatePolicy;
  readonly #limits: PowerLimits;
  readonly #root: string;

  /** @param root where sysfs is mounted */
  constructor(policy: GatePolicy, limits: PowerLimits, root = '/sys') {
    this.policy = policy;
    this.#limits = limits;
    this.#root = root;
  }

  async read(): Promise<GateReading> {
    return judgePower(await powerState(join(this.#root, 'class/power_supply')), this.#limits);
  }

  async close(): Promise<void> {}
}

/** Batteries of mice and the like (scope `Device`) do not feed this machine. */
async function powerState(folder: string): Promise<PowerState> {
  const online: number[] = [];
  const percents: number[] = [];
  for (const name of await namesIn(folder)) {
    const text = (file: string) => textOf(join(folder, name, file));
    if ((await text('scope')) === 'Device') continue;
    const type = await text('type');
    if (type === 'Battery') {
      if ((await text('present')) === '0') continue;
      const percent = numberOf(await text('capacity'));
      // One that does not say how full it is may be the empty one.
      if (percent === null || percent < 0 || percent > 100) return { isOnMains: isOn(online), percent: null };
      percents.push(percent);
    } else {
      const value = numberOf(await text('online'));
      if (value !== null) online.push(value);
    }
  }
  return { isOnMains: isOn(online), percent: percents.length === 0 ? null : Math.min(...percents) };
}

/** Some drivers say 2 where a supply is not only there but programmable. */
function isOn(online: readonly number[]): boolean | null {
  return online.length === 0 ? null : online.some((value) => value > 0);
}

/** Open while it is cool enough. */
export class TemperatureGate implements Gate {
  readonly policy: GatePolicy;
  readonly #limits: TemperatureLimits;
  readonly #zones: readonly string[];
  readonly #root: string;
  #wasTooHot = false;

  /**
   * @param zones types of the zones to look at; empty: all
   * @param root where sysfs is mounted
   */
  constructor(policy: GatePolicy, limits: TemperatureLimits, zones: readonly string[], root = '/sys') {
    this.policy = policy;
    this.#limits = limits;
    this.#zones = zones;
    this.#root = root;
  }

  async read(): Promise<GateReading> {
    const reading = judgeTemperature(await this.#hottest(), this.#wasTooHot, this.#limits);
    // Of a moment without a reading, nothing is learnt.
    if (reading.isOpen !== null) this.#wasTooHot = !reading.isOpen;
    return reading;
  }

  async close(): Promise<void> {}

  /** null where a zone that was named cannot be read, or where none can. Of all zones, those that are switched off do not count. */
  async #hottest(): Promise<number | null> {
    const folder = join(this.#root, 'class/thermal');
    const found: { type: string; celsius: number | null }[] = [];
    for (const name of (await namesIn(folder)).filter((zone) => /^thermal_zone\d+$/.test(zone))) {
      const millidegrees = numberOf(await textOf(join(folder, name, 'temp')));
      const type = (await textOf(join(folder, name, 'type'))) ?? '';
      found.push({ type, celsius: millidegrees === null ? null : millidegrees / 1000 });
    }
    const chosen = this.#zones.length === 0 ? found : found.filter(({ type }) => this.#zones.includes(type));
    const isMissing = this.#zones.some((type) => !chosen.some((zone) => zone.type === type && zone.celsius !== null));
    const values = chosen.flatMap(({ celsius }) => celsius ?? []);
    return isMissing || values.length === 0 ? null : Math.max(...values);
  }
}

async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).then(
    (names) => names.sort(),
    () => [],
  );
}

async function textOf(path: string): Promise<string | null> {
  return readFile(path, 'utf8').then(
    (text) => text.trim(),
    () => null,
  );
}

function numberOf(text: string | null): number | null {
  return text === null || !/^-?\d+$/.test(text) ? null : Number(text);
}
