/** Composition root of the daemon: constructs its adapters from settings. The environment is read in `main.ts` and handed over. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentSettings } from '../configs/contracts/agent-settings.js';
import type { Birth } from '../configs/contracts/device.js';
import { EdgeError } from '../configs/contracts/errors.js';
import { FolderArtifactStore } from './adapters/artifact-store.js';
import type { DonorOptions } from './adapters/donor-tables.js';
import { diskError } from './adapters/durable-files.js';
import { MqttFleetLink } from './adapters/fleet-link.js';
import { openLog } from './adapters/journal-log.js';
import { LocalSocket } from './adapters/local-socket.js';
import { identifyNative, identifyOrt } from './adapters/machine.js';
import { DaemonMetrics } from './adapters/metrics.js';
import { HttpModelCache } from './adapters/model-cache.js';
import { openEnergyMeter } from './adapters/power.js';
import { RunnerProcesses } from './adapters/runner-process.js';
import { SampleFolder } from './adapters/sample-keeper.js';
import { ServiceManager } from './adapters/service-manager.js';
import { SqliteKeyValues } from './adapters/sqlite-key-values.js';
import { SqliteOutbox } from './adapters/sqlite-outbox.js';
import { Daemon } from './daemon/daemon.js';
import type { GateView } from './daemon/gates.js';
import { Memory } from './daemon/memory.js';
import type { DaemonTarget } from './daemon/state.js';
import type { DaemonClock, MakeRequest, Maker } from './device-ports.js';
import { contentKey } from './digest.js';
import { pipelineVersion } from './pipeline.js';
import { runInWorker } from './run-worker.js';
import { openGates } from './wire-gates.js';
import { type WiredMcus, wireMcus } from './wire-mcus.js';

/** What the daemon needs beside its settings. */
export interface DaemonSurroundings {
  readonly version: string;
  /** Folder of everything that is kept. */
  readonly stateFolder: string;
  /** Path of the socket for applications. */
  readonly socketPath: string;
  /** Log lines carry the journal's levels. */
  readonly isForJournal: boolean;
  /** Value of NOTIFY_SOCKET; null without a service manager. */
  readonly notifySocket: string | null;
  /** How often the service manager wants a sign of life; null: never. */
  readonly watchdogMs: number | null;
}

/** A daemon that is ready to run. */
export interface OpenedDaemon {
  readonly device: string;
  readonly socketPath: string;
  /** The maintenance gates as they are now; also in `GET /v1/status`. */
  gates(): Promise<readonly GateView[]>;
  /** Runs until `stop`; then everything is closed in order. */
  run(): Promise<void>;
  stop(): void;
}

/** Opens databases and the local socket. Fails when another daemon runs on the same state. */
export async function openDaemon(settings: AgentSettings, surroundings: DaemonSurroundings): Promise<OpenedDaemon> {
  const { version, stateFolder, socketPath, isForJournal, notifySocket, watchdogMs } = surroundings;
  const write = (line: string) => process.stdout.write(line);
  const log = openLog({ level: settings.log.level, isForJournal, write });
  const device = settings.device.id === '' ? deviceNameOf(hostname()) : settings.device.id;
  await mkdir(stateFolder, { recursive: true }).catch((cause: Error) => {
    throw new EdgeError('store/unwritable', `the state folder cannot be made: ${cause.message}`, {
      subject: stateFolder,
      cause,
    });
  });
  const host = await hostTarget(settings);
  const warn = (text: string) => log.warn({}, text);
  const values = SqliteKeyValues.openOrBegin(join(stateFolder, 'device.db'), warn);
  const memory = new Memory(values);
  const session = memory.beginSession(Date.now() / 1000);
  const clock = systemClock();
  const birth = () => birthOf(settings, device, session, version, targets, clock.now());
  const mcus = await wireMcus(settings.target.microcontrollers, stateFolder, memory, () => link.introduce(birth()));
  const targets: readonly DaemonTarget[] = [host, ...mcus.targets];
  const caps = { mostBytes: settings.limits.outboxBytes, mostDays: settings.limits.outboxDays };
  const outbox = new SqliteOutbox(join(stateFolder, 'outbox.db'), caps, warn);
  const link = new MqttFleetLink({
    url: settings.mqtt.url,
    username: settings.mqtt.username,
    password: await secretFrom(settings.mqtt.passwordFile),
    namespace: settings.mqtt.namespace,
    tenant: settings.mqtt.tenant,
    keepaliveSeconds: settings.mqtt.keepaliveSeconds,
    willDelaySeconds: settings.mqtt.willDelaySeconds,
    birth: birth(),
    observedGeneration: () => memory.observedGeneration,
    outbox,
    warn,
  });
  const consoleToken = await secretFrom(settings.console.tokenFile);
  // Another sample on every device, so that together they check every row.
  const seed = Number.parseInt(contentKey(device).slice(0, 8), 16);
  const models = new HttpModelCache(join(stateFolder, 'models'), {
    url: settings.console.url,
    token: consoleToken,
    reserveBytes: settings.limits.reserveBytes,
  });
  const { mostFrames, mostBytes, folder } = settings.samples;
  const gates = openGates(settings.gates);
  const daemon = new Daemon(
    {
      device,
      session,
      targets,
      algorithm: pipelineVersion,
      confirm: settings.confirm,
      backoff: settings.retry,
      gateOpenSeconds: settings.gates.openSeconds,
    },
    {
      memory,
      link,
      models,
      artifacts: new FolderArtifactStore(stateFolder),
      maker: workerMaker(
        settings,
        stateFolder,
        { url: settings.console.url, token: consoleToken, seed },
        mcus.runners,
        warn,
      ),
      samples: new SampleFolder(join(stateFolder, 'samples'), folder === '' ? null : folder, {
        frames: mostFrames,
        bytes: mostBytes,
      }),
      gates,
      clock,
      log,
      random: Math.random,
    },
  );
  const socket = new LocalSocket(socketPath, localService(daemon, new DaemonMetrics(), warn));
  try {
    await socket.listen();
  } catch (error) {
    await Promise.all(gates.map((gate) => gate.close()));
    outbox.close();
    values.close();
    throw error;
  }
  const manager = new ServiceManager(notifySocket, warn);
  return {
    device,
    socketPath,
    gates: () => daemon.gates(),
    async run() {
      log.info({ device, version, session, socketPath, state: stateFolder }, 'the daemon runs');
      manager.ready();
      // Twice as often as is asked for, and only while work can go on.
      const beat = () => daemon.isHealthy() && manager.alive();
      const watchdog = watchdogMs === null ? undefined : setInterval(beat, watchdogMs / 2);
      try {
        await daemon.run();
      } finally {
        clearInterval(watchdog);
        await socket.close();
        await Promise.all([...mcus.runners.values()].map((runners) => runners.close()));
        outbox.close();
        values.close();
        log.info({}, 'the daemon has stopped');
      }
    },
    stop() {
      manager.stopping();
      daemon.stop();
    },
  };
}

/** What may stand in topics and URLs, of a host name. */
function deviceNameOf(host: string): string {
  return (
    host
      .replace(/[^A-Za-z0-9_-]/g, '-')
      .replace(/^[^A-Za-z0-9]+/, '')
      .slice(0, 64) || 'device'
  );
}

async function hostTarget(settings: AgentSettings): Promise<DaemonTarget> {
  const meter = await openEnergyMeter();
  const { kind, threads } = settings.target;
  const identity = kind === 'native' ? await identifyNative(threads) : await identifyOrt(threads, meter?.name ?? null);
  return { id: 'host', kind, identity, runners: new RunnerProcesses(threads), isSettled: true };
}

function birthOf(
  settings: AgentSettings,
  device: string,
  session: number,
  version: string,
  targets: readonly DaemonTarget[],
  time: string,
): Birth {
  const labels = Object.fromEntries(
    settings.device.labels.map((label) => [label.slice(0, label.indexOf('=')), label.slice(label.indexOf('=') + 1)]),
  );
  return {
    schema: 'quantd/birth/1',
    device,
    session,
    agentVersion: version,
    hardwareClass: contentKey(targets[0]!.identity!).slice(0, 16),
    // Of a microcontroller that was never reached nothing is known; it is told when it was.
    targets: Object.fromEntries(targets.map(({ id, kind, identity }) => [id, { kind, identity: { ...identity } }])),
    labels: settings.device.group === '' ? labels : { ...labels, group: settings.device.group },
    time,
  };
}

function systemClock(): DaemonClock {
  return {
    now: () => new Date().toISOString(),
    monotonicMs: () => performance.now(),
    sleep: (ms, signal) => sleep(ms, undefined, { signal }).catch(() => {}),
  };
}

/** Content of a file that holds one secret; null where none is named. */
async function secretFrom(path: string): Promise<string | null> {
  if (path === '') return null;
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (cause) {
    throw new EdgeError('settings/invalid', `a secret cannot be read: ${(cause as Error).message}`, {
      subject: path,
      hint: 'Check that the file is there and that the user of the daemon may read it.',
      cause,
    });
  }
}

/** Makes artifacts in worker processes, with the models, cards and samples of the daemon. */
function workerMaker(
  settings: AgentSettings,
  stateFolder: string,
  donors: DonorOptions,
  mcus: WiredMcus['runners'],
  warn: (text: string) => void,
): Maker {
  const { kind, threads } = settings.target;
  const { workerMemoryMb, workerNice } = settings.limits;
  const where = { threads, state: stateFolder, donors };
  return {
    async make({ target, model, release, budget, samples, out }: MakeRequest, signal, progress) {
      const card = join(out, 'card.json');
      const write = (path: string, value: unknown) =>
        writeFile(path, JSON.stringify(value)).catch((cause: unknown) => {
          throw diskError(cause, 'the artifact cannot be written', path);
        });
      if (release.card !== null) await write(card, release.card);
      const options = {
        model,
        modelSha256: release.model.sha256,
        out,
        budget,
        estimator: 'logits',
        threads,
        variant: 'ort' as const,
        range: 'auto' as const,
        state: stateFolder,
        hasTable: true,
        ...(release.card === null ? {} : { card }),
        ...(samples === null ? {} : { data: samples.folder }),
      };
      const limits = { nice: workerNice, memoryMb: workerMemoryMb };
      const board = mcus.get(target);
      const runOn = (name: string) =>
        runInWorker('quantize', { ...options, target: name }, where, signal, progress, limits);
      // Operators are timed on the board: its line is the worker's for so long.
      const run = () => (board === undefined ? runOn(kind) : board.lend((path) => runOn(`mcu:${path}`)));
      const document = await run().catch(async (error: unknown) => {
        if (!(error instanceof EdgeError) || error.code !== 'store/corrupt') throw error;
        // Nobody may be there to move it away, and it only saves time.
        const path = join(stateFolder, 'quantd.db');
        for (const suffix of ['', '-wal', '-shm']) {
          await rename(`${path}${suffix}`, `${path}.damaged${suffix}`).catch(() => {});
        }
        warn(`the measurements were damaged and are taken again; what there was is in ${path}.damaged`);
        return run();
      });
      // An artifact folder always says what came of it, and names its file as it is found there: the folder gets another name yet.
      const { artifact } = document;
      const path = artifact.path === null ? null : basename(artifact.path);
      const placed = { ...document, artifact: { ...artifact, path } };
      await write(join(out, 'report.json'), placed);
      return placed;
    },
  };
}

/** The daemon as the local socket offers it. */
function localService(daemon: Daemon, metrics: DaemonMetrics, warn: (text: string) => void) {
  return {
    warn,
    async infer(target: string, request: Parameters<Daemon['infer']>[1]) {
      const started = performance.now();
      const seconds = () => (performance.now() - started) / 1000;
      try {
        const answer = await daemon.infer(target, request);
        metrics.inferred(target, 'ok', seconds());
        return answer;
      } catch (error) {
        if (!(error instanceof EdgeError) || error.code !== 'target/unknown')
          metrics.inferred(target, 'failed', seconds());
        throw error;
      }
    },
    async addSample(...args: Parameters<Daemon['addSample']>) {
      await daemon.addSample(...args);
      metrics.frame(args[0]);
    },
    status: async () => ({ ...(await daemon.status()), gates: await daemon.gates() }),
    onActive: (listener: Parameters<Daemon['onActive']>[0]) => daemon.onActive(listener),
    metrics: async () => metrics.text(await daemon.status(), await daemon.gates()),
    async unready() {
      const { targets } = await daemon.status();
      const idle = Object.keys(targets).filter(
        (target) => targets[target]!.active === null || !daemon.isServing(target),
      );
      return idle.length === 0 ? null : `no model is active and loaded on ${idle.join(', ')}`;
    },
  };
}
