/** Energy of this machine as Linux reports it: RAPL counters of processor packages, or the INA3221 power monitors of Jetson boards. */
import { closeSync, openSync, readSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { EnergyMeasurement, EnergyMeter } from '../ports.js';

/** Rails through which a whole board is fed, as the device trees of Jetson boards label them. */
const boardInputs: ReadonlySet<string> = new Set(['VDD_IN', 'POM_5V_IN', '5V_IN']);

const sampleMs = 20;

/**
 * The energy meter of this machine, or null where there is none that this process may read (most systems let only root read
 * RAPL). The sensors are chosen here, once: what the meter reads does not change afterwards.
 *
 * @param root where sysfs is mounted
 */
export async function openEnergyMeter(root = '/sys'): Promise<EnergyMeter | null> {
  const packages = await raplPackages(join(root, 'class/powercap'));
  if (packages.length > 0) return raplMeter(packages);
  for (const rails of [
    await hwmonRails(join(root, 'class/hwmon')),
    await iioRails(join(root, 'bus/i2c/drivers/ina3221x')),
  ]) {
    const readable = rails.filter((rail) => rail.watts() !== null);
    if (readable.length > 0) return railMeter(readable);
  }
  return null;
}

/** A processor package that counts the energy it uses. */
interface RaplPackage {
  readonly name: string;
  /** The counter, in microjoules; null where the file is gone, forbidden or no number. */
  microjoules(): number | null;
  /** Where the counter starts again from 0; null likewise. */
  range(): number | null;
}

/** All packages of the machine; none where one of them cannot be read, because half the energy is a wrong answer. */
async function raplPackages(folder: string): Promise<RaplPackage[]> {
  // A zone with a second number is a part of a package; `psys`, with one number, contains the packages.
  const zones = (await namesIn(folder)).filter((name) => /^intel-rapl:\d+$/.test(name));
  const packages = zones
    .map((zone) => ({
      name: textOf(join(folder, zone, 'name')) ?? '',
      microjoules: () => numberOf(join(folder, zone, 'energy_uj')),
      range: () => numberOf(join(folder, zone, 'max_energy_range_uj')),
    }))
    .filter(({ name }) => name.startsWith('package'));
  return packages.every((zone) => zone.microjoules() !== null) ? packages : [];
}

function raplMeter(packages: readonly RaplPackage[]): EnergyMeter {
  return {
    name: `RAPL ${joined(packages.map(({ name }) => name))}`,
    start(): EnergyMeasurement {
      const before = packages.map((zone) => zone.microjoules());
      const since = (zone: RaplPackage, index: number) => difference(before[index]!, zone.microjoules(), zone.range());
      return { stop: () => plausible(scaled(total(packages.map(since)), 1e-6)) };
    },
  };
}

/** Growth of a counter that has wrapped around at most once. */
function difference(before: number | null, after: number | null, range: number | null): number | null {
  if (before === null || after === null) return null;
  if (after >= before) return after - before;
  return range === null || range < before ? null : range - before + after;
}

/** A supply line whose power is monitored. */
interface Rail {
  /** What the board calls it, or its number. */
  readonly name: string;
  /** Power now; null where the files are gone or hold no numbers. */
  watts(): number | null;
}

/**
 * The upstream driver: millivolts and milliamperes per channel. Numbers above 3 are shunt voltages and sums, not rails.
 * https://www.kernel.org/doc/html/latest/hwmon/ina3221.html
 */
async function hwmonRails(folder: string): Promise<Rail[]> {
  const chips = (await namesIn(folder)).map((name) => join(folder, name));
  return chips
    .filter((chip) => textOf(join(chip, 'name'))?.includes('ina3221'))
    .flatMap((chip) =>
      [1, 2, 3].map((channel) => ({
        name: textOf(join(chip, `in${channel}_label`)) || `rail ${channel}`,
        watts: () => {
          const millivolts = numberOf(join(chip, `in${channel}_input`));
          const milliamperes = numberOf(join(chip, `curr${channel}_input`));
          return millivolts === null || milliamperes === null ? null : millivolts * milliamperes * 1e-6;
        },
      })),
    );
}

/** NVIDIA's driver of JetPack 4 and older: milliwatts per channel, in a folder `iio:device*` of each chip. */
async function iioRails(folder: string): Promise<Rail[]> {
  const rails: Rail[] = [];
  for (const chip of await namesIn(folder)) {
    for (const device of (await namesIn(join(folder, chip))).filter((name) => name.startsWith('iio:device'))) {
      const file = (name: string) => join(folder, chip, device, name);
      for (const channel of [0, 1, 2]) {
        rails.push({
          name: textOf(file(`rail_name_${channel}`)) || `rail ${channel}`,
          watts: () => scaled(numberOf(file(`in_power${channel}_input`)), 1e-3),
        });
      }
    }
  }
  return rails;
}

/** Reads the rail that feeds the board, or all rails where none is known to. */
function railMeter(rails: readonly Rail[]): EnergyMeter {
  const input = rails.find((rail) => boardInputs.has(rail.name));
  const chosen = input === undefined ? rails : [input];
  return {
    name: `INA3221 ${joined(chosen.map(({ name }) => name))}`,
    start: () => integrate(() => total(chosen.map((rail) => rail.watts()))),
  };
}

/** Samples power and integrates it by trapezoids. One sample without a value leaves the whole without one. */
function integrate(power: () => number | null): EnergyMeasurement {
  const read = () => ({ watts: power(), seconds: performance.now() / 1000 });
  let joules: number | null = 0;
  let last = read();
  const sample = () => {
    const next = read();
    const watts = scaled(total([last.watts, next.watts]), 0.5);
    joules = total([joules, scaled(watts, next.seconds - last.seconds)]);
    last = next;
  };
  const timer = setInterval(sample, sampleMs).unref();
  return {
    stop: () => {
      clearInterval(timer);
      sample();
      return plausible(joules);
    },
  };
}

/** A machine that is on uses energy: counters that stand still, as some virtual machines show them, tell nothing. */
function plausible(joules: number | null): number | null {
  return joules !== null && joules > 0 ? joules : null;
}

function total(values: readonly (number | null)[]): number | null {
  return values.reduce((sum, value) => (sum === null || value === null ? null : sum + value), 0);
}

function scaled(value: number | null, factor: number): number | null {
  return value === null ? null : value * factor;
}

/** Names in an order that a restart does not change: chips and zones are numbered as they are found. */
function joined(names: readonly string[]): string {
  return [...names].sort().join(' + ');
}

async function namesIn(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).sort();
}

function numberOf(path: string): number | null {
  const text = textOf(path);
  return text !== null && /^-?\d{1,15}$/.test(text) ? Number(text) : null;
}

/**
 * The short text in a sysfs file, or null where it cannot be read. Synchronous, so that a sample is as old as its time stamp says
 * however busy the event loop is.
 */
function textOf(path: string): string | null {
  const buffer = Buffer.alloc(64);
  let file: number | undefined;
  try {
    file = openSync(path, 'r');
    return buffer.toString('utf8', 0, readSync(file, buffer)).trim();
  } catch {
    return null;
  } finally {
    if (file !== undefined) closeSync(file);
  }
}
