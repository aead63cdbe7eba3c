import { freemem, release, totalmem } from 'node:os';
import type { Command } from 'commander';
import { AgentSettings } from '../../configs/contracts/agent-settings.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { resolveSettings } from '../../configs/settings.js';
import { identifyMachine, saturatesInt8 } from '../adapters/machine.js';
import { openEnergyMeter } from '../adapters/power.js';
import { targetNames } from '../core/target-name.js';
import { formatBytes, table } from '../terminal.js';
import { type Check, daemonChecks, serialPorts } from './checks.js';
import { addStateAndJson, exitCodes, type JobFlags, printJson } from './common.js';
import { defaultConfigPath, loadAgentSettings, socketPathOf, stateFolderOf } from './settings.js';

/** Adds `quantd doctor`, whose action looks at the machine in this process, and loads runtimes in others. */
export function registerDoctor(program: Command, environment: NodeJS.ProcessEnv): void {
  const command = program
    .command('doctor')
    .description('what this machine can do, and whether the daemon finds what it needs')
    .option('--config <file>', `settings of the daemon (default: ${defaultConfigPath}, where there is one)`);
  addStateAndJson(command, environment)
    .addHelpText(
      'after',
      '\nChecks are ok, warning (work goes on, or can go on later) or failed; with a failed one, the exit code is 1.',
    )
    .action(async (flags: Pick<JobFlags, 'json' | 'state'> & { config?: string }) => {
      const isGiven = command.getOptionValueSource('state') === 'cli';
      // One after the other: Node's report, which knows the version of glibc, asks for the names of all hosts in its sockets.
      const machine = await diagnose(flags.state);
      const checks = await checkAll(environment, flags.config, isGiven ? flags.state : null);
      if (checks.some(({ status }) => status === 'failed')) process.exitCode = exitCodes.failed;
      if (flags.json) return printJson({ ...machine, checks });
      const rows = Object.entries(machine).map(([name, value]) => [
        name,
        Array.isArray(value) ? value.join(', ') || 'none' : String(value),
      ]);
      process.stdout.write(`${table(['', ''], rows).split('\n').slice(1).join('\n')}\n\n`);
      const findings = checks.flatMap(({ name, status, message, hint }) => [
        [name, status, message],
        ...(hint === undefined ? [] : [['', '', hint]]),
      ]);
      process.stdout.write(`${table(['check', '', ''], findings)}\n`);
    });
}

/** The settings first: where they are wrong, the rest is looked at with the defaults. */
async function checkAll(
  environment: NodeJS.ProcessEnv,
  config: string | undefined,
  state: string | null,
): Promise<readonly Check[]> {
  let settings = resolveSettings(AgentSettings, []).values;
  let check: Check;
  try {
    const { values, origins } = await loadAgentSettings(environment, config);
    settings = values;
    const set = Object.values(origins).filter((origin) => origin !== 'default').length;
    check = { name: 'settings', status: 'ok', message: `they are valid; ${set} are not the defaults` };
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    check = { name: 'settings', status: 'failed', message: error.message, hint: error.hint };
  }
  if (state !== null) settings = { ...settings, state: { folder: state } };
  const stateFolder = stateFolderOf(settings, environment);
  const socketPath = socketPathOf(settings, environment);
  return [check, ...(await daemonChecks({ settings, stateFolder, socketPath }))];
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
    int8: saturatesInt8(identity)
      ? 'ONNX Runtime saturates sums of two products here: target ort keeps weights small, target native is exact'
      : 'exact, in ONNX Runtime as in the engine',
    targets: [...targetNames],
    serialPorts: await serialPorts(),
    state,
  };
}
