import type { Command } from 'commander';
import { table } from '../terminal.js';
import { printJson } from './common.js';
import { defaultConfigPath, loadAgentSettings } from './settings.js';

/** Adds `config check` and `config show`. */
export function registerConfig(program: Command, environment: NodeJS.ProcessEnv): void {
  const command = program.command('config').description('settings of the daemon: what holds, and where it comes from');
  const file = ['--config <file>', `settings (default: ${defaultConfigPath}, where there is one)`] as const;
  command
    .command('check')
    .description('says whether the settings are valid')
    .option(...file)
    .option('--json', 'print one JSON document on stdout and nothing else there')
    .action(async ({ config, json }: { config?: string; json?: boolean }) => {
      await loadAgentSettings(environment, config);
      if (json) printJson({ valid: true });
      else process.stdout.write('the settings are valid\n');
    });
  command
    .command('show')
    .description('shows every setting')
    .option(...file)
    .option('--origin', 'also where each value comes from')
    .option('--json', 'print one JSON document on stdout and nothing else there')
    .action(async ({ config, origin, json }: { config?: string; origin?: boolean; json?: boolean }) => {
      const { values, origins } = await loadAgentSettings(environment, config);
      if (json) return printJson(origin ? { values, origins } : values);
      const rows = Object.entries(origins).map(([name, from]) => {
        const value = name.split('.').reduce((table: unknown, key) => (table as Record<string, unknown>)[key], values);
        return [name, JSON.stringify(value), ...(origin ? [from] : [])];
      });
      process.stdout.write(`${table(origin ? ['setting', 'value', 'from'] : ['setting', 'value'], rows)}\n`);
    });
}
