/**
 * A device in memory, whose power can fail at any call that its daemon makes: what was durable before stays, the daemon is gone.
 * Time is virtual. The fakes keep what the ports of the daemon promise, and no more.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Daemon } from '../../agent/daemon/daemon.js';
import { Memory } from '../../agent/daemon/memory.js';
import { SlotTarget } from '../../agent/daemon/slots.js';
import type {
  ArtifactStore,
  FleetLink,
  FleetListener,
  Gate,
  KeyValues,
  Maker,
  ModelCache,
  ModelRunner,
  OutboxKind,
  RunnerHost,
  SampleKeeper,
  SlotRole,
} from '../../agent/device-ports.js';
import type { TargetIdentity } from '../../agent/ports.js';
import type { QuantizeDocument } from '../../agent/report.js';
import type { DesiredState, DeviceEvent, DeviceResult, ReportedState } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget } from '../../configs/contracts/plan.js';
import type { Release } from '../../configs/contracts/release.js';
import type { DeviceTable } from '../../configs/contracts/tables.js';
import type { FakeChip } from './fake-chip.js';

export const device = 'bench-1';

export const identity: TargetIdentity = {
  kind: 'ort',
  processor: 'none',
  architecture: 'x64',
  cores: 1,
  threads: 1,
  governor: 'unknown',
  powerMode: 'unknown',
  runtime: 'none',
  features: [],
  energyMeter: null,
};

/** A release whose model's digest begins with a letter that says how it behaves; see `behaviours`. */
export function release(letter: Behaviour, version = '1'): Release {
  const sha256 = letter.charCodeAt(0).toString(16).padEnd(64, version.charCodeAt(0).toString(16));
  return { id: `${letter}@${version}`, model: { sha256, sizeBytes: 10, manifestSha256: sha256 }, card: null };
}

/** good: all goes well; unfit: fails its probes; broken: cannot be quantized, ever; crashing: its runner dies when it is loaded. */
export type Behaviour = 'good' | 'unfit' | 'broken' | 'crashing';

/** A budget under which nothing is feasible. */
export const impossible: Budget = { sizeBytes: 1 };

/** Latencies that the documents give. */
const unknown = null;

/** A `quantize` document with what the daemon reads of it. */
function documentOf(model: Release, budget: Budget): QuantizeDocument {
  const isFeasible = budget.sizeBytes !== 1;
  const { sha256 } = model.model;
  return {
    model: { path: '', sha256, macs: 1, parameters: 1, operators: 1 },
    budget,
    feasible: isFeasible,
    frontier: [{ latency: 1, sensitivity: 0, sizeBytes: 100, ramBytes: 1, averageWeightBits: 32 }],
    plan: isFeasible ? { digest: sha256, averageWeightBits: 8, averageActivationBits: 8, operators: [] } : null,
    profiledOperators: 0,
    size: { floatBytes: 100, artifactBytes: isFeasible ? 50 : null },
    ram: { peakBytes: 1 },
    quality: { samples: 0, floatTop1: unknown, int8Top1: unknown, top1: unknown, agreement: unknown, kl: unknown },
    latency: { unit: 'ms', float: 1, int8: 1, predicted: 1, measured: 1 },
    target: { kind: 'ort', identity, counter: 'nanoseconds' },
    artifact: { path: '', sha256: isFeasible ? sha256 : null, format: 'none' },
  } as unknown as QuantizeDocument;
}

/** Everything of the device that a power cut leaves. */
export class Disk {
  readonly values = new Map<string, unknown>();
  readonly models = new Set<string>();
  readonly artifacts = new Map<string, QuantizeDocument>();
  readonly links = new Map<string, string>();
  readonly results: DeviceResult[] = [];
  readonly events: DeviceEvent[] = [];
}

/** What happened over all lives of the daemon. */
export class History {
  /** Times that making an artifact was begun, by key. */
  readonly makes = new Map<string, number>();
  /** Times that an artifact was made although a finished one was there. */
  remade = 0;
  /** Broken promises that a fake has noticed. */
  readonly faults: string[] = [];
}

/** One life of the daemon: from a start until the power fails or it is stopped. */
export class Life {
  readonly disk: Disk;
  readonly history: History;
  readonly daemon: Daemon;
  readonly running: Promise<void>;
  reported: ReportedState | null = null;
  /** Writes fail as on a full disk while this is set. */
  isFull = false;
  /** Of the writes from now on, the one of this number fails as on a full disk; 0: none. */
  fullAtWrite = 0;
  /** Turns that a look at a link takes. */
  linkTurns = 0;
  /** Called when a model is fetched, when a runner is opened, and when it is probed; may throw. */
  onFetch: () => void = () => {};
  onOpen: (folder: string) => void = () => {};
  onProbe: (runner: FakeRunner, samplesFolder: string | null) => void = () => {};
  /** Runners that were opened and not closed. */
  readonly runners = new Set<FakeRunner>();
  /** Snapshots of samples that are there; where there are any to choose from. */
  readonly snapshots = new Set<string>();
  hasSamples = false;
  /** Turns that a quarter of making an artifact takes. */
  makeTurns = 1;
  /** Bytes that a document's list of operators takes. */
  operatorBytes = 0;
  /** Added to what the wall clock says; the monotonic one knows nothing of it. */
  wallOffsetMs = 0;
  #isDead = false;
  #listener: FleetListener | null = null;
  /** What the broker keeps for the device until it connects. */
  #retained: Uint8Array | null = null;
  #nowMs = 0;
  readonly #sleepers = new Set<{ dueMs: number }>();
  readonly #failsAt: () => boolean;
  /** What is made and not yet finished; lost with the power. */
  readonly #drafts = new Map<string, QuantizeDocument>();

  /**
   * @param failsAt asked at every call; true cuts the power there
   * @param bakeSeconds how long a new model has to prove itself
   * @param chip what target `host` is; null: this device
   * @param others targets `chip-0`, ..., which are looked at before and after `host`
   */
  constructor(
    disk: Disk,
    history: History,
    failsAt: () => boolean,
    bakeSeconds = 1,
    gates: readonly Gate[] = [],
    chip: FakeChip | null = null,
    others: { readonly before?: readonly FakeChip[]; readonly after?: readonly FakeChip[] } = {},
  ) {
    this.disk = disk;
    this.history = history;
    this.#failsAt = failsAt;
    const memory = new Memory(this.#values());
    let session = 0;
    try {
      session = memory.beginSession(0);
    } catch {
      // The power failed at the very start.
    }
    const runners = this.#runners();
    const digestOf = (folder: string) => disk.artifacts.get(folder)!.artifact.sha256!;
    const turn = () => this.#turn();
    const waiting = new AbortController();
    const sleep = (ms: number) => this.#sleep(ms, waiting.signal);
    const asTarget = (id: string, own: FakeChip) =>
      new SlotTarget(id, own.runners(runners, digestOf, turn, sleep), memory, () => {});
    const target =
      chip === null ? { id: 'host', kind: 'ort', identity, runners, isSettled: true } : asTarget('host', chip);
    const { before = [], after = [] } = others;
    const chips = [...before, ...after].map((own, index) => asTarget(`chip-${index}`, own));
    const targets = [...chips.slice(0, before.length), target, ...chips.slice(before.length)];
    this.daemon = new Daemon(
      {
        device,
        session,
        targets,
        algorithm: '1',
        confirm: { bakeSeconds, probeEveryMs: 250, latencySlack: 2, mostInterruptions: 1_000_000 },
        backoff: { firstMs: 1000, mostMs: 60_000 },
        gateOpenSeconds: 10,
      },
      {
        memory,
        link: this.#link(),
        models: this.#models(),
        artifacts: this.#artifacts(),
        maker: this.#maker(),
        samples: this.#samples(),
        gates,
        clock: {
          now: () => new Date(this.#nowMs + this.wallOffsetMs).toISOString(),
          monotonicMs: () => this.#nowMs,
          sleep: (ms, signal) => this.#sleep(ms, signal),
        },
        log: { info: () => {}, warn: () => {} },
        random: () => 0.5,
      },
    );
    this.running = this.daemon.run();
    this.running.catch((error: unknown) => history.faults.push(`the daemon ended with ${String(error)}`));
  }

  /** Hands over a desired document, as the link would after a connect or a change. */
  deliver(document: DesiredState | Uint8Array): void {
    const bytes = document instanceof Uint8Array ? document : new TextEncoder().encode(JSON.stringify(document));
    this.#retained = bytes;
    this.#listener?.desired(bytes);
  }

  /** Virtual milliseconds since the start. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** Whether the power has failed. */
  get isDead(): boolean {
    return this.#isDead;
  }

  /** Cuts the power now. */
  kill(): void {
    this.#isDead = true;
  }

  /** A place where the power may fail; a dead daemon gets no further. */
  async #turn(): Promise<void> {
    await nextTurn();
    if (!this.#isDead && this.#failsAt()) this.kill();
    if (this.#isDead) await new Promise(() => {});
  }

  /** Time goes on to when the first of those that sleep is to wake. */
  async #sleep(ms: number, signal: AbortSignal): Promise<void> {
    const sleeper = { dueMs: this.#nowMs + ms };
    this.#sleepers.add(sleeper);
    await this.#turn();
    while (!signal.aborted && [...this.#sleepers].some(({ dueMs }) => dueMs < sleeper.dueMs)) {
      await nextTurn();
      if (this.#isDead) await new Promise(() => {});
    }
    if (!signal.aborted) this.#nowMs = Math.max(this.#nowMs, sleeper.dueMs);
    this.#sleepers.delete(sleeper);
  }

  /** The same for calls that answer at once. */
  #point(): void {
    if (!this.#isDead && this.#failsAt()) this.kill();
    if (this.#isDead) throw new Error('the power is off');
  }

  #write(): void {
    this.#point();
    const isTheOne = this.fullAtWrite > 0 && --this.fullAtWrite === 0;
    if (this.isFull || isTheOne) throw new EdgeError('disk/full', 'no space', { subject: 'disk' });
  }

  #values(): KeyValues {
    const { values } = this.disk;
    return {
      read: (key) => values.get(key) ?? null,
      write: (changes) => {
        this.#write();
        for (const [key, value] of changes) {
          // As through JSON: nothing is shared with the writer.
          if (value === null) values.delete(key);
          else values.set(key, structuredClone(value));
        }
        this.#point();
      },
      keys: (prefix) => [...values.keys()].filter((key) => key.startsWith(prefix)).sort(),
      close: () => {},
    };
  }

  #link(): FleetLink {
    return {
      start: (listener) => {
        this.#listener = listener;
        listener.connected(true);
        if (this.#retained !== null) listener.desired(this.#retained);
      },
      introduce: () => {},
      report: (document) => {
        if (!this.#isDead) this.reported = document;
      },
      send: (kind: OutboxKind, document: DeviceEvent | DeviceResult | DeviceTable) => {
        this.#write();
        if (kind === 'event') this.disk.events.push(document as DeviceEvent);
        else if (kind === 'result') this.disk.results.push(document as DeviceResult);
        this.#point();
      },
      outbox: () => ({ messages: 0, bytes: 0, dropped: 0 }),
      close: async () => {},
    };
  }

  #models(): ModelCache {
    const { models } = this.disk;
    return {
      find: async (sha256) => (models.has(sha256) ? sha256 : null),
      fetch: async (ref, signal) => {
        await this.#turn();
        signal.throwIfAborted();
        this.onFetch();
        this.#write();
        models.add(ref.sha256);
        await this.#turn();
        return ref.sha256;
      },
      retain: async (kept) => {
        for (const model of models) {
          await this.#turn();
          if (!kept.has(model)) models.delete(model);
        }
      },
    };
  }

  #artifacts(): ArtifactStore {
    const { artifacts, links } = this.disk;
    return {
      begin: async (key) => key,
      finish: async (key) => {
        await this.#turn();
        this.#write();
        artifacts.set(key, this.#drafts.get(key)!);
        await this.#turn();
      },
      find: async (key) => (artifacts.has(key) ? key : null),
      report: async (key) => artifacts.get(key) ?? null,
      table: async () => null,
      linked: async (target, role) => {
        for (let turn = 0, turns = this.linkTurns; turn < turns; turn++) await nextTurn();
        return links.get(`${role}/${target}`) ?? null;
      },
      link: async (target: string, role: SlotRole, key) => {
        await this.#turn();
        this.#write();
        if (key === null) links.delete(`${role}/${target}`);
        else {
          if (artifacts.get(key)?.feasible !== true) this.history.faults.push(`${role} points at no finished artifact`);
          links.set(`${role}/${target}`, key);
        }
        await this.#turn();
      },
      retain: async (keys) => {
        for (const key of artifacts.keys()) {
          await this.#turn();
          if (!keys.has(key) && ![...links.values()].includes(key)) artifacts.delete(key);
        }
      },
    };
  }

  #maker(): Maker {
    return {
      make: async ({ release: wanted, budget, out, model }, signal, progress) => {
        const { history, disk } = this;
        history.makes.set(out, (history.makes.get(out) ?? 0) + 1);
        if (disk.artifacts.has(out)) history.remade++;
        if (!disk.models.has(model)) history.faults.push('made from a model that is not there');
        for (let share = 0; share < 1; share += 0.25) {
          progress('profile', share, 'operators');
          for (let turn = 0; turn < this.makeTurns; turn++) await this.#turn();
          signal.throwIfAborted();
        }
        if (wanted.id.startsWith('broken')) {
          throw new EdgeError('model/malformed', 'not a model', { subject: wanted.id });
        }
        const document = documentOf(wanted, budget);
        const operators = [{ name: 'x'.repeat(this.operatorBytes) }];
        if (document.plan !== null && this.operatorBytes > 0) Object.assign(document.plan, { operators });
        this.#drafts.set(out, document);
        return document;
      },
    };
  }

  #runners(): RunnerHost {
    return {
      open: async (folder): Promise<ModelRunner> => {
        await this.#turn();
        this.onOpen(folder);
        const { model } = this.disk.artifacts.get(folder)!;
        const isOf = (behaviour: Behaviour) => model.sha256.startsWith(behaviour.charCodeAt(0).toString(16));
        if (isOf('crashing')) throw new EdgeError('target/failed', 'its process ended', { subject: folder });
        const runner = new FakeRunner(folder, async (samplesFolder) => {
          await this.#turn();
          this.onProbe(runner, samplesFolder);
          if (isOf('unfit')) throw new EdgeError('target/failed', 'output y is not finite', { subject: 'y' });
        });
        this.runners.add(runner);
        runner.ended.then(() => this.runners.delete(runner));
        return runner;
      },
    };
  }

  #samples(): SampleKeeper {
    let made = 0;
    return {
      add: async () => {},
      choose: async () => {
        if (!this.hasSamples) return null;
        const folder = `snapshot-${made++}`;
        this.snapshots.add(folder);
        for (let turn = 0; turn < 3; turn++) await this.#turn();
        return { folder, digest: folder };
      },
      retain: async (kept) => {
        await this.#turn();
        for (const folder of this.snapshots) if (!kept.has(folder)) this.snapshots.delete(folder);
      },
    };
  }
}

/** A runner that answers at once, until it dies. */
export class FakeRunner implements ModelRunner {
  readonly folder: string;
  readonly ended: Promise<void>;
  readonly #probe: (samplesFolder: string | null) => Promise<void>;
  #end: () => void = () => {};
  #isDead = false;

  constructor(folder: string, probe: (samplesFolder: string | null) => Promise<void>) {
    this.folder = folder;
    this.#probe = probe;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  async infer() {
    if (this.#isDead) throw new EdgeError('target/failed', 'its process ended', { subject: this.folder });
    return { outputs: new Map(), latencyMs: 1 };
  }

  async probe(samplesFolder: string | null) {
    await this.#probe(samplesFolder);
    if (this.#isDead) throw new EdgeError('target/failed', 'its process ended', { subject: this.folder });
    return { latencyMs: 1 };
  }

  /** As the system does when memory runs out. */
  die(): void {
    this.#isDead = true;
    this.#end();
  }

  async close(): Promise<void> {
    this.die();
  }
}

/** A desired document for several targets. */
export function desiredOf(generation: number, wanted: Readonly<Record<string, Release>>): DesiredState {
  const targets = Object.fromEntries(Object.entries(wanted).map(([id, one]) => [id, { release: one, budget: {} }]));
  return { ...desired(generation, null), targets };
}

/** A desired document. */
export function desired(generation: number, wanted: Release | null, budget: Budget = {}): DesiredState {
  const targets: DesiredState['targets'] = wanted === null ? {} : { host: { release: wanted, budget } };
  return { schema: 'quantd/desired/1', device, generation, targets, time: '2026-01-01T00:00:00Z' };
}
