#!/usr/bin/env node
/** Composition root of `quantd`: the only place that reads argv and the environment. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { EdgeError, type ErrorCode } from '../configs/contracts/errors.js';
import { registerBench } from './commands/bench.js';
import { exitCodes } from './commands/common.js';
import { registerConfig } from './commands/config.js';
import { registerDoctor } from './commands/doctor.js';
import { registerEvaluate } from './commands/evaluate.js';
import { registerFrontier } from './commands/frontier.js';
import { registerLock } from './commands/lock.js';
import { registerProfile } from './commands/profile.js';
import { registerQuantize } from './commands/quantize.js';
import { registerRun } from './commands/run.js';
import { allowColour, printError } from './terminal.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

// As no-color.org has it: set, and not to nothing.
allowColour(!process.env.NO_COLOR);

const program = new Command('quantd')
  .description(
    'Makes neural networks fit this device: measures every operator here, plans bit-widths under a budget, quantizes and verifies.',
  )
  .version(version)
  .showHelpAfterError('(quantd --help, or quantd COMMAND --help, shows what there is)')
  .addHelpText(
    'after',
    '\nExit codes: 0 ok, 1 failed, 2 usage, 3 budget infeasible, 4 unreachable, 75 try again later, 130 interrupted.',
  )
  .exitOverride();
for (const register of [
  registerProfile,
  registerQuantize,
  registerFrontier,
  registerEvaluate,
  registerBench,
  registerDoctor,
  registerConfig,
  registerLock,
]) {
  register(program, process.env);
}
// Loaded only where it is wanted: the other commands need none of the daemon's libraries.
registerRun(program, process.env, async (settings, surroundings) => {
  const { openDaemon } = await import('./wire-daemon.js');
  return openDaemon(settings, { ...surroundings, version });
});

const exitCodeOf: Partial<Record<ErrorCode, number>> = {
  'usage/invalid': exitCodes.usage,
  'budget/invalid': exitCodes.usage,
  'estimator/unknown': exitCodes.usage,
  'target/unknown': exitCodes.usage,
  'settings/invalid': exitCodes.usage,
  'budget/infeasible': exitCodes.infeasible,
  'mcu/unreachable': exitCodes.unreachable,
  'mcu/timeout': exitCodes.unreachable,
  'measure/busy': exitCodes.tryAgain,
  'lock/held': exitCodes.tryAgain,
  'job/aborted': exitCodes.interrupted,
};

// Whoever reads our output may stop before the end.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(exitCodes.ok);
  throw error;
});

try {
  await program.parseAsync(process.argv);
} catch (error) {
  if (error instanceof EdgeError) {
    printError(error.toDocument());
    process.exitCode = exitCodeOf[error.code] ?? exitCodes.failed;
  } else if (error instanceof CommanderError) {
    // Commander has printed already; help and version count as success.
    process.exitCode = error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  } else {
    const detail =
      process.env.QUANTD_DEBUG === undefined ? firstLine(error) : error instanceof Error ? error.stack : String(error);
    process.stderr.write(
      `error internal: ${detail}\n  hint: this is a fault of quantd; run again with QUANTD_DEBUG=1 and report it\n`,
    );
    process.exitCode = exitCodes.failed;
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}
