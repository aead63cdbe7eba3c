import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { AgentSettings } from '../../configs/contracts/agent-settings.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { environmentLayer, resolveSettings, type Settings, tomlLayer } from '../../configs/settings.js';
import { parseMavlinkSource } from '../core/gates/source.js';
import { parseWindow } from '../core/gates/window.js';

/** Where the daemon's settings file is when nothing else is said; it need not be there. */
export const defaultConfigPath = join('/', 'etc', 'quantd', 'agent.toml');

/** The settings of the daemon: defaults, the file, the environment. Fails with `settings/invalid`. */
export async function loadAgentSettings(
  environment: NodeJS.ProcessEnv,
  configPath: string | undefined,
): Promise<Settings<typeof AgentSettings>> {
  const path = configPath ?? defaultConfigPath;
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT' && configPath === undefined) return null;
    throw new EdgeError('settings/invalid', `the settings file cannot be read: ${cause.message}`, {
      subject: path,
      cause,
    });
  });
  const layers = text === null ? [] : [tomlLayer(text, path)];
  const layer = environmentLayer(AgentSettings, 'QUANTD', environment);
  const settings = resolveSettings(AgentSettings, [...layers, layer]);
  checkAddress('console.url', settings.values.console.url, 'Use console.tokenFile for the token.');
  checkAddress('mqtt.url', settings.values.mqtt.url, 'Use mqtt.username and mqtt.passwordFile.');
  const { window, mavlink } = settings.values.gates;
  if (window) parseWindow(window);
  if (mavlink) parseMavlinkSource(mavlink);
  return settings;
}

/** Addresses are shown and logged: no secret may be in one. Fails with `settings/invalid`, without showing it either. */
function checkAddress(name: string, address: string, hint: string): void {
  if (!URL.canParse(address)) {
    throw new EdgeError('settings/invalid', `${name} is no address`, {
      subject: name,
      hint: 'For example: http://console.local:7400, mqtt://console.local:7401.',
    });
  }
  const { username, password } = new URL(address);
  if (username === '' && password === '') return;
  throw new EdgeError('settings/invalid', `${name} must not hold a name or a password`, { subject: name, hint });
}

/** Where state is kept: as set, else where the service manager says, else the XDG state folder. */
export function stateFolderOf(settings: AgentSettings, environment: NodeJS.ProcessEnv): string {
  const fallback = join(environment.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'quantd');
  return settings.state.folder || environment.STATE_DIRECTORY || fallback;
}

/** Path of the socket for applications: as set, else in the service manager's runtime folder, else beside the state. */
export function socketPathOf(settings: AgentSettings, environment: NodeJS.ProcessEnv): string {
  const folder = environment.RUNTIME_DIRECTORY || stateFolderOf(settings, environment);
  return settings.local.socket || join(folder, 'quantd.sock');
}
