import { readdir } from 'node:fs/promises';
import { freemem, release, totalmem } from 'node:os';
import type { Command } from 'commander';
import { identifyMachine } from '../adapters/machine.js';
import { openEnergyMeter } from '../adapters/power.js';
import { targetNames } from '../core/target-name.js';
import { formatBytes, table } from '../terminal.js';
import { addStateAndJson, type JobFlags, printJson } from './common.js';

/** Adds `quantd doctor`, whose action looks at the machine in this process, without starting a worker or loading a runtime. */
export function registerDoctor(program: Command, environment: NodeJS.ProcessEnv): void {
  const command = program
    .command('doctor')
    .description('what this machine can do: processor, runtimes, power mode, sensors, serial ports');
  addStateAndJson(command, environment).action(async (flags: Pick<JobFlags, 'json' | 'state'>) => {
    const report = await diagnose(flags.state);
    if (flags.json) return printJson(report);
    const rows = Object.entries(report).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join(', ') || 'none' : String(value),
    ]);
    process.stdout.write(`${table(['', ''], rows).split('\n').slice(1).join('\n')}\n`);
  });
}

async function diagnose(state: string) {
  const meter = await openEnergyMeter();
  const identity = await identifyMachine('ort', 1, 0, meter?.name ?? null);
  const header = (process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined)?.header;
  return {
    processor: identity.processor,
    architecture: identity.architecture,
    features: identity.features,
    cores: identity.cores,
    governor: identity.governor,
    powerMode: identity.powerMode,
    energy: identity.energyMeter ?? 'none',
    memory: `${formatBytes(totalmem())}, ${formatBytes(freemem())} free`,
    kernel: release(),
    glibc: header?.glibcVersionRuntime ?? 'unknown',
    node: process.version,
    runtime: identity.runtime.split(',')[0]!,
    targets: [...targetNames],
    serialPorts: await serialPorts(),
    state,
  };
}

/** Stable names of serial adapters, as udev makes them. */
async function serialPorts(): Promise<string[]> {
  const folder = '/dev/serial/by-id';
  return (await readdir(folder).catch(() => [])).map((name) => `${folder}/${name}`);
}
