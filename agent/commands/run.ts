import type { Command } from 'commander';
import type { AgentSettings } from '../../configs/contracts/agent-settings.js';
import type { DaemonSurroundings, OpenedDaemon } from '../wire-daemon.js';
import { defaultConfigPath, loadAgentSettings, socketPathOf, stateFolderOf } from './settings.js';

/** What `run` starts; constructed in main.ts. */
export type OpenDaemon = (
  settings: AgentSettings,
  surroundings: Omit<DaemonSurroundings, 'version'>,
) => Promise<OpenedDaemon>;

/** Adds `run`: the daemon, in the foreground, until SIGTERM or SIGINT. */
export function registerRun(program: Command, environment: NodeJS.ProcessEnv, openDaemon: OpenDaemon): void {
  program
    .command('run')
    .description('the daemon: makes true on this device what the console wants, and reports what was measured')
    .option('--config <file>', `settings (default: ${defaultConfigPath}, where there is one)`)
    .addHelpText(
      'after',
      `
Settings come from the file, then from variables QUANTD__SECTION__KEY; see "quantd config show --origin". Logs are JSON lines on
stdout. Applications find the active model at STATE/active/host, and the socket for requests at STATE/quantd.sock.

Example:
  QUANTD__MQTT__URL=mqtt://console.local:7401 QUANTD__CONSOLE__URL=http://console.local:7400 quantd run`,
    )
    .action(async ({ config }: { config?: string }) => {
      const { values } = await loadAgentSettings(environment, config);
      const watchdogUs = Number(environment.WATCHDOG_USEC ?? Number.NaN);
      const daemon = await openDaemon(values, {
        stateFolder: stateFolderOf(values, environment),
        socketPath: socketPathOf(values, environment),
        isForJournal: environment.JOURNAL_STREAM !== undefined,
        notifySocket: environment.NOTIFY_SOCKET ?? null,
        watchdogMs: Number.isFinite(watchdogUs) && watchdogUs > 0 ? watchdogUs / 1000 : null,
      });
      const stop = () => daemon.stop();
      process.once('SIGTERM', stop);
      process.once('SIGINT', stop);
      await daemon.run();
    });
}
