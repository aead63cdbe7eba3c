import { homedir } from 'node:os';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { EdgeError } from '../../configs/contracts/errors.js';
import { budgetForms, parseBudget } from '../core/budget.js';
import { rangeRules } from '../core/quant/observer.js';
import { defaultEstimator, estimators } from '../core/sensitivity/registry.js';
import type { JobName, OptionsOf, ReportOf } from '../jobs/index.js';
import type { JobOptions } from '../jobs/open-job.js';
import { runInWorker } from '../run-worker.js';
import { ProgressDisplay } from '../terminal.js';

/** Exit codes of every command; documented in agent/README.md. */
export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  infeasible: 3,
  unreachable: 4,
  tryAgain: 75,
  interrupted: 130,
} as const;

/** What the options of a job command parse to. */
export interface JobFlags {
  target: string;
  card?: string;
  data?: string;
  budget?: string;
  precisions?: string;
  estimator: string;
  threads: number;
  variant: 'ort' | 'tensorrt';
  range: JobOptions['range'];
  state: string;
  json?: boolean;
}

/** Where state lives when nothing else is said: the XDG state folder. */
function defaultState(environment: NodeJS.ProcessEnv): string {
  return (
    environment.QUANTD__STATE__FOLDER ??
    join(environment.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'quantd')
  );
}

function positiveInteger(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= 256) return value;
  throw new EdgeError('usage/invalid', `"${text}" is not a number of threads`, {
    subject: '--threads',
    hint: 'Give a whole number from 1 to 256.',
  });
}

/** Adds `--state`, whose default depends on the environment, and `--json`; answers the command. */
export function addStateAndJson(command: Command, environment: NodeJS.ProcessEnv): Command {
  return command
    .option('--state <dir>', 'folder of the state database', defaultState(environment))
    .option('--json', 'print one JSON document on stdout and nothing else there');
}

/** Adds what every command that runs on a target takes, `--state` and `--json` included; answers the command. */
export function addTargetOptions(command: Command, environment: NodeJS.ProcessEnv): Command {
  const withTarget = command
    .option(
      '--target <target>',
      'where the model will run: ort (ONNX Runtime on this CPU), native (our engine on it) or a microcontroller: mcu:PORT, mcu:host, mcu:qemu-BOARD',
      'ort',
    )
    .option('--threads <n>', 'threads of the deployed model; timings are taken with as many', positiveInteger, 1)
    .option('--precisions <list>', 'candidates, e.g. float,W8A8,W4A32 (default: all that the target can run)')
    .option('--card <file>', 'model card (default: MODEL.json beside the model)');
  return addStateAndJson(withTarget, environment);
}

/** Adds everything that planning takes, the options of `addTargetOptions` included; answers the command. */
export function addJobOptions(command: Command, environment: NodeJS.ProcessEnv): Command {
  const names = estimators.map(({ name, summary }) => `  ${name.padEnd(13)} ${summary}`).join('\n');
  return addTargetOptions(command, environment)
    .option(
      '--data <dir>',
      'sample set: calibration.npy or calibration/*, optional test.npy or test/* with labels.csv (default: data-free)',
    )
    .option('--budget <budget>', `comma list of ${budgetForms}; relative latency is a share of uniform int8's`)
    .option('--estimator <name>', 'sensitivity estimator, see below', defaultEstimator)
    .addOption(
      new Option('--range <rule>', 'rule for activation ranges; auto measures which suits the model')
        .choices(['auto', ...rangeRules])
        .default('auto'),
    )
    .addOption(new Option('--variant <variant>', 'form of the QDQ model').choices(['ort', 'tensorrt']).default('ort'))
    .addHelpText('after', `\nSensitivity estimators:\n${names}`);
}

/**
 * A command's flags as the options of its job. Commands without some of the flags get their defaults. Fails with
 * `budget/invalid`.
 */
export function jobOptions(model: string, flags: JobFlags): JobOptions {
  const {
    target,
    card,
    data,
    budget,
    precisions,
    estimator = defaultEstimator,
    threads,
    variant = 'ort',
    range = 'auto',
    state,
  } = flags;
  const ceilings = parseBudget(budget ?? '');
  return { model, target, card, data, budget: ceilings, precisions, estimator, threads, variant, range, state };
}

/** Runs a job in a worker with a progress display, abortable by SIGINT and SIGTERM. */
export async function runWithProgress<Name extends JobName>(
  job: Name,
  options: OptionsOf<Name>,
  settings: { threads: number; state: string },
): Promise<ReportOf<Name>> {
  const abort = new AbortController();
  const interrupt = () => abort.abort();
  process.once('SIGINT', interrupt);
  process.once('SIGTERM', interrupt);
  const display = new ProgressDisplay();
  try {
    return await runInWorker(job, options, settings, abort.signal, (step, share, text) =>
      display.update(step, share, text),
    );
  } finally {
    display.stop();
    process.off('SIGINT', interrupt);
    process.off('SIGTERM', interrupt);
  }
}

/** The `--json` answer. */
export function printJson(document: unknown): void {
  process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
}
