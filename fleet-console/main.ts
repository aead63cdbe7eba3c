#!/usr/bin/env node
/** Composition root of `fleet`: the only place that reads argv and the environment. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { EdgeError, type ErrorCode } from '../configs/contracts/errors.js';
import { registerAccount } from './commands/account.js';
import { registerAhead } from './commands/ahead.js';
import { registerAudit } from './commands/audit.js';
import { registerBudget } from './commands/budget.js';
import { registerDevices } from './commands/devices.js';
import { registerOverview } from './commands/overview.js';
import { registerRelease } from './commands/release.js';
import { registerResults } from './commands/results.js';
import { registerRollout } from './commands/rollout.js';
import { registerServe } from './commands/serve.js';
import { registerTables } from './commands/tables.js';
import { registerToken } from './commands/token.js';
import { registerWebhook } from './commands/webhook.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

const program = new Command('fleet')
  .description('Releases models and budgets to devices, and shows what they measured.')
  .version(version)
  .enablePositionalOptions()
  .showHelpAfterError('(fleet --help, or fleet COMMAND --help, shows what there is)')
  .addHelpText(
    'after',
    '\nExit codes: 0 ok, 1 failed, 2 usage, 4 the console cannot be reached, 75 try again later, 130 interrupted.',
  )
  .exitOverride();
// Loaded only where it is wanted: the other commands need none of the server's libraries.
registerServe(program, process.env, async (settings, surroundings) => {
  const { openConsole } = await import('./server/serve.js');
  return openConsole(settings, { ...surroundings, version });
});
for (const register of [
  registerOverview,
  registerDevices,
  registerRelease,
  registerRollout,
  registerBudget,
  registerResults,
  registerTables,
  registerAhead,
  registerAccount,
  registerToken,
  registerAudit,
  registerWebhook,
])
  register(program, process.env);

const exitCodeOf: Partial<Record<ErrorCode, number>> = {
  'usage/invalid': 2,
  'budget/invalid': 2,
  'selector/invalid': 2,
  'rollout/invalid': 2,
  'settings/invalid': 2,
  'settings/insecure': 2,
  'account/invalid': 2,
  'token/invalid': 2,
  'webhook/invalid': 2,
  'console/unreachable': 4,
  'login/throttled': 75,
};

// Whoever reads our output may stop before the end.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

try {
  await program.parseAsync(process.argv);
} catch (error) {
  if (error instanceof EdgeError) {
    const { code, message, subject, hint } = error.toDocument();
    process.stderr.write(`error ${code}: ${message}\n  subject: ${subject}\n  hint: ${hint}\n`);
    process.exitCode = exitCodeOf[error.code] ?? 1;
  } else if (error instanceof CommanderError) {
    // Commander has printed already; help and version count as success.
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    const detail =
      error instanceof Error
        ? process.env.FLEET_DEBUG === undefined
          ? error.message.split('\n')[0]
          : error.stack
        : String(error);
    process.stderr.write(
      `error internal: ${detail}\n  hint: this is a fault of fleet; run again with FLEET_DEBUG=1 and report it\n`,
    );
    process.exitCode = 1;
  }
}
