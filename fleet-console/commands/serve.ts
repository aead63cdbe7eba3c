import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { ConsoleSettings } from '../../configs/contracts/console-settings.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { environmentLayer, resolveSettings, tomlLayer } from '../../configs/settings.js';
import type { ConsoleSurroundings, OpenConsole } from '../server/serve.js';
import { printJson } from './common.js';

const defaultConfigPath = join('/', 'etc', 'fleet', 'console.toml');

/** What `serve` starts; constructed in main.ts. */
export type OpenConsoleWith = (
  settings: ConsoleSettings,
  surroundings: Omit<ConsoleSurroundings, 'version'>,
) => Promise<OpenConsole>;

/** Adds `serve`: the console, in the foreground, until SIGTERM or SIGINT. */
export function registerServe(program: Command, environment: NodeJS.ProcessEnv, openConsole: OpenConsoleWith): void {
  program
    .command('serve')
    .description('the console: HTTP API, page, artifacts, and a broker unless another is configured')
    .option('--config <file>', `settings (default: ${defaultConfigPath}, where there is one)`)
    .option('--json', 'say where it serves as one JSON document')
    .addHelpText(
      'after',
      `
Settings come from the file, then from variables FLEET__SECTION__KEY. With neither an account (fleet account add)
nor a token it serves this machine only.

Example:
  FLEET__HTTP__PORT=8080 fleet serve`,
    )
    .action(async ({ config, json }: { config?: string; json?: boolean }) => {
      const settings = await loadSettings(environment, config);
      const fallback = join(environment.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'fleet');
      const console = await openConsole(settings, {
        stateFolder: settings.state.folder || environment.STATE_DIRECTORY || fallback,
        warn: (text) => {
          if (settings.log.level !== 'silent' && settings.log.level !== 'error')
            process.stderr.write(`warning: ${text}\n`);
        },
      });
      const stopped = new Promise<void>((resolve) => {
        process.once('SIGTERM', () => resolve());
        process.once('SIGINT', () => resolve());
      });
      if (json) printJson({ url: console.url, broker: console.brokerUrl });
      else process.stdout.write(`console ${console.url}   broker ${console.brokerUrl}\n`);
      await stopped;
      await console.close();
    });
}

async function loadSettings(environment: NodeJS.ProcessEnv, config: string | undefined): Promise<ConsoleSettings> {
  const path = config ?? defaultConfigPath;
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT' && config === undefined) return null;
    throw new EdgeError('settings/invalid', `the settings file cannot be read: ${cause.message}`, {
      subject: path,
      cause,
    });
  });
  // These two are of the commands that talk to a console.
  const { FLEET__CONSOLE__URL: _url, FLEET__CONSOLE__TOKEN_FILE: _file, ...own } = environment;
  const layers = [...(text === null ? [] : [tomlLayer(text, path)]), environmentLayer(ConsoleSettings, 'FLEET', own)];
  return resolveSettings(ConsoleSettings, layers).values;
}
