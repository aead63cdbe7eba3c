import type { ArtifactStore, DaemonClock, Log } from '../device-ports.js';
import type { Serving } from './serving.js';
import type { DaemonTarget } from './state.js';
import { serveActive } from './steps.js';

/** What a start needs of the world. */
export interface StartPorts {
  readonly artifacts: ArtifactStore;
  readonly clock: DaemonClock;
  readonly log: Log;
}

/** How it goes on where the active model could not be loaded. */
export interface StartOptions {
  readonly pauseMs: (attempt: number) => number;
  /** Called when it is loaded after all. */
  readonly served: () => void;
}

/**
 * Loads what is active on a target of this machine. Where that fails, it is tried again until it succeeds or something else serves, since
 * nothing else would: answered is a promise of the end of that, or null.
 */
export async function startServing(
  target: DaemonTarget,
  serving: Serving,
  ports: StartPorts,
  options: StartOptions,
  signal: AbortSignal,
): Promise<{ readonly later: Promise<void> } | null> {
  const { artifacts, log } = ports;
  try {
    const key = await artifacts.linked(target.id, 'active');
    if (key !== null) await serveActive(key, serving, { artifacts, runners: target.runners }, signal);
    return null;
  } catch (error) {
    log.warn({ target: target.id, error: String(error) }, 'the active model could not be loaded');
    return { later: serveLater(target, serving, ports, options, signal) };
  }
}

async function serveLater(
  { id, runners }: DaemonTarget,
  serving: Serving,
  { artifacts, clock, log }: StartPorts,
  { pauseMs, served }: StartOptions,
  signal: AbortSignal,
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    await clock.sleep(pauseMs(attempt), signal);
    if (signal.aborted || serving.key !== null) return;
    try {
      const key = await artifacts.linked(id, 'active');
      const folder = key === null ? null : await artifacts.find(key);
      if (key === null || folder === null) return;
      const runner = await runners.open(folder, signal);
      // The loop may have gone on meanwhile.
      const isStillActive = (await artifacts.linked(id, 'active').catch(() => null)) === key;
      if (serving.key !== null || !isStillActive || signal.aborted) return await runner.close();
      serving.switchTo(key, folder, runner);
      served();
    } catch (error) {
      log.warn({ target: id, attempt, error: String(error) }, 'the active model could not be loaded');
    }
  }
}
