/**
 * Devices without a daemon for looking at a console: they speak the whole protocol over a real broker, with steps, events, frontiers and
 * results, as a daemon would; what they "measure" is made up from their speed and a seed. Not for judging anything but the console.
 */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, type MqttClient } from 'mqtt';
import {
  type ActiveArtifact,
  type Condition,
  type DesiredState,
  type DesiredTarget,
  type DeviceTopics,
  type FrontierPoint,
  type ReportedState,
  type TargetReport,
  topicsOf,
} from '../../configs/contracts/device.js';
import type { Budget } from '../../configs/contracts/plan.js';
import { Random } from './random.js';

/** What a device is like. */
export interface PlainDeviceOptions {
  readonly labels?: Readonly<Record<string, string>>;
  readonly hardwareClass?: string;
  readonly kind?: string;
  /** Milliseconds of uniform int8 here. */
  readonly int8Ms?: number;
  readonly seed?: number;
  /** Milliseconds that each of its steps takes. */
  readonly stepMs?: number;
  /** Releases that are slower here, by factor. */
  readonly slower?: Readonly<Record<string, number>>;
  /** Releases that agree less with float, by fraction. */
  readonly agreement?: Readonly<Record<string, number>>;
  /** Releases that do not prove themselves here. */
  readonly reverts?: readonly string[];
  /** Highest generation that it claims to have seen before it was born. */
  readonly observed?: number;
}

const operatorTypes = ['Conv', 'Conv', 'Conv', 'Add', 'Conv', 'Conv', 'GlobalAveragePool', 'Gemm'];
const operatorCount = 28;
const digestOf = (value: unknown) => createHash('sha256').update(JSON.stringify(value)).digest('hex');

/** A device that lives as long as its connection is wanted. */
export class PlainDevice {
  readonly id: string;
  readonly #options: PlainDeviceOptions;
  readonly #topics: DeviceTopics;
  readonly #random: Random;
  #client: MqttClient | null = null;
  #session = 0;
  #sequence = 0;
  #events = 0;
  #observed: number;
  #desired: DesiredState | null = null;
  #report: TargetReport = {
    active: null,
    previous: null,
    step: null,
    frontier: [],
    secondsToActive: null,
    hasReprofiled: null,
  };
  #conditions: Condition[] = [];
  /** Content of what was last worked on: equal orders are no work. */
  #goal = '';
  #round = 0;

  constructor(id: string, options: PlainDeviceOptions = {}) {
    this.id = id;
    this.#options = options;
    this.#observed = options.observed ?? 0;
    this.#random = new Random(options.seed ?? 1);
    this.#topics = topicsOf('quantd', 'default', id);
  }

  /** The release that it runs; null before any. */
  get active(): string | null {
    return this.#report.active?.release ?? null;
  }

  /** Connects, for a new session; resolves when the console can know of it. */
  async open(brokerUrl: string): Promise<this> {
    const session = ++this.#session;
    const online = (isOnline: boolean) => JSON.stringify({ schema: 'quantd/online/1', online: isOnline, session });
    const will = { topic: this.#topics.online, payload: online(false), qos: 1 as const, retain: true };
    const client = connect(brokerUrl, { protocolVersion: 5, clientId: this.id, reconnectPeriod: 100, will });
    this.#client = client;
    client.on('error', () => {});
    client.on('message', (_topic, payload) => this.#take(JSON.parse(payload.toString('utf8')) as DesiredState));
    await new Promise<void>((resolve) => client.once('connect', () => resolve()));
    await client.subscribeAsync(this.#topics.desired, { qos: 1 });
    const { labels = {}, hardwareClass = 'x86-64 avx2 8 GB', kind = 'native' } = this.#options;
    await this.#say('birth', {
      schema: 'quantd/birth/1',
      device: this.id,
      session,
      agentVersion: '0.1.0',
      hardwareClass,
      targets: { host: { kind, identity: { kind, hardwareClass, governor: 'performance' } } },
      labels,
      time: now(),
    });
    await client.publishAsync(this.#topics.online, online(true), { qos: 1, retain: true });
    this.#tell();
    await this.#say('sync', { schema: 'quantd/sync/1', session, observedGeneration: this.#observed });
    return this;
  }

  /** Goes away; the broker says so. */
  async vanish(): Promise<void> {
    const client = this.#client;
    this.#client = null;
    this.#round++;
    this.#goal = '';
    client?.stream.destroy();
    await client?.endAsync(true);
  }

  /** Ends it, and has the console told. */
  async close(): Promise<void> {
    this.#round++;
    const client = this.#client;
    this.#client = null;
    await client?.endAsync(true);
  }

  #take(desired: DesiredState): void {
    if (desired.generation < this.#observed) return;
    this.#observed = desired.generation;
    this.#desired = desired;
    this.#condition(null, 'Accepted', true, 'accepted', `generation ${desired.generation}`);
    const wanted = desired.targets.host;
    const goal = JSON.stringify(wanted ?? null);
    if (wanted === undefined || goal === this.#goal) this.#tell();
    else {
      this.#goal = goal;
      void this.#work(wanted, ++this.#round);
    }
  }

  async #work(wanted: DesiredTarget, round: number): Promise<void> {
    const started = performance.now();
    const id = wanted.release.id;
    for (const type of ['Quantized', 'Active', 'Confirmed', 'BudgetInfeasible', 'RolledBack'] as const)
      this.#condition('host', type, false, 'new-orders', '');
    this.#event('accepted', `generation ${this.#observed}: ${id}`);
    const isKnown = this.#report.active?.release === id;
    const steps: readonly [string, string][] = isKnown
      ? [['quantize', 'solving the plan']]
      : [
          ['fetch', `${id}, float model`],
          ['quantize', 'timing operators'],
          ['quantize', 'assessing sensitivities'],
          ['activate', 'switching over'],
          ['confirm', 'answering probes'],
        ];
    const isGone = () => round !== this.#round;
    for (const [index, [name, text]] of steps.entries()) {
      this.#report = { ...this.#report, step: { name, share: (index + 0.5) / steps.length, text } };
      if (name === 'quantize') this.#condition('host', 'Staged', true, 'fetched', 'the float model is here');
      this.#tell();
      await sleep(this.#options.stepMs ?? 10);
      if (isGone()) return;
    }
    this.#finish(wanted, isKnown, (performance.now() - started) / 1000);
    this.#tell();
  }

  #finish({ release, budget }: DesiredTarget, isKnown: boolean, seconds: number): void {
    const { id } = release;
    const int8 = (this.#options.int8Ms ?? 12) * (this.#options.slower?.[id] ?? 1);
    const frontier = frontierFor(int8);
    const point = choose(frontier, budget, int8);
    const before = this.#report.active;
    this.#report = { ...this.#report, frontier, step: null, hasReprofiled: !isKnown };
    if (point === null) {
      const fastest = frontier[0]!.latency.toPrecision(3);
      const text = `no plan holds the budget; the fastest is expected to take ${fastest} ms`;
      this.#condition('host', 'BudgetInfeasible', true, 'budget/infeasible', text);
      this.#event('infeasible', text);
      this.#result(id, budget, frontier, null, int8, 0);
      return;
    }
    if (this.#options.reverts?.includes(id)) {
      const text = 'it did not answer its probes within the budget; the one before it serves again';
      this.#condition('host', 'RolledBack', true, 'confirm/failed', text);
      this.#event('rolled-back', text);
      return;
    }
    const measured = point.latency * (1 + this.#random.normal() * 0.02);
    const result = this.#result(id, budget, frontier, point, int8, measured);
    const artifact: ActiveArtifact = {
      release: id,
      modelSha256: release.model.sha256,
      artifactSha256: digestOf([this.id, id, point]),
      planDigest: digestOf(point).slice(0, 40),
      budget,
      isConfirmed: true,
      result,
      since: now(),
      measurements: {
        latency: { unit: 'ms', float: int8 * 2.6, int8, predicted: point.latency, measured, p95: measured * 1.11 },
        quality: {
          samples: 200,
          floatTop1: 0.912,
          int8Top1: 0.908,
          top1: 0.912 - point.sensitivity * 0.05,
          agreement: this.#options.agreement?.[id] ?? 0.99 - point.sensitivity * 0.05,
          kl: point.sensitivity * 0.1,
        },
        sizeBytes: point.sizeBytes,
        ramBytes: point.ramBytes ?? null,
        averageWeightBits: point.averageWeightBits,
        averageActivationBits: 8,
      },
    };
    const isSame = before?.release === id;
    this.#report = {
      ...this.#report,
      active: artifact,
      previous: isSame ? this.#report.previous : before,
      secondsToActive: seconds,
    };
    for (const [type, text] of [
      ['Quantized', `plan ${artifact.planDigest.slice(0, 8)}`],
      ['Active', `${id} serves`],
      ['Confirmed', `${id} has answered its probes`],
    ] as const)
      this.#condition('host', type, true, type.toLowerCase(), text);
    this.#event('confirmed', `${id}, ${measured.toPrecision(3)} ms`);
  }

  /** Publishes a result document; answers its id. */
  #result(
    release: string,
    budget: Budget,
    frontier: FrontierPoint[],
    point: FrontierPoint | null,
    int8: number,
    measured: number,
  ): string {
    const operators = Array.from({ length: operatorCount }, (_, index) => {
      const op = index === operatorCount - 1 ? 'Gemm' : operatorTypes[index % operatorTypes.length]!;
      const hasWeights = op === 'Conv' || op === 'Gemm';
      const bits = hasWeights ? (point === null ? 8 : bitsNear(point.averageWeightBits, this.#random)) : null;
      return {
        name: `/stage${1 + Math.floor(index / 7)}/${op.toLowerCase()}_${index}`,
        op,
        precision: `W${bits ?? 8}A8`,
        weightBits: bits,
        inputBits: index % 9 === 4 ? 4 : 8,
        outputBits: 8,
        kernel: `native ${op.toLowerCase()}`,
        latency: ((point?.latency ?? int8) / operatorCount) * (0.3 + 1.4 * this.#random.next()),
        sensitivity: ((point?.sensitivity ?? 0) / operatorCount) * 2 * this.#random.next(),
      };
    });
    const { hardwareClass = '', kind = 'native' } = this.#options;
    const document = {
      model: { path: 'model.onnx', sha256: digestOf(release), macs: 41e6, parameters: 2.1e6, operators: operatorCount },
      target: { kind, identity: { kind, hardwareClass, governor: 'performance' }, counter: 'nanoseconds' },
      budget,
      feasible: point !== null,
      frontier,
      plan:
        point === null
          ? null
          : {
              digest: digestOf(point).slice(0, 40),
              operators,
              averageWeightBits: point.averageWeightBits,
              averageActivationBits: 7.6,
              bitOps: 41e6 * 64,
              solver: { status: 'optimal', gap: 0, seconds: 0.4 },
            },
      size: { floatBytes: 8_400_000, artifactBytes: point?.sizeBytes ?? null },
      ram: { peakBytes: point?.ramBytes ?? null },
      rounding: 'plan',
      quality: { samples: 200, top1: 0.9, agreement: 0.98, kl: 0.01, source: 'samples' },
      latency: {
        unit: 'ms',
        float: int8 * 2.6,
        int8,
        predicted: point?.latency ?? null,
        measured: point === null ? null : measured,
      },
      estimator: { name: 'logits', seconds: 12, forwards: 240 },
      calibration: { description: '200 samples of the application', rule: 'mse', hasBiasCorrection: true },
      seconds: { profile: 22, calibrate: 4, assess: 12, plan: 0.4, apply: 1, verify: 5, total: 44.4 },
      artifact: { path: null, sha256: digestOf([this.id, release, point]), format: 'image' },
    };
    const content = {
      device: this.id,
      target: 'host',
      generation: this.#observed,
      release,
      budget,
      document,
      at: this.#events,
    };
    const id = digestOf(content);
    const { at: _, ...rest } = content;
    void this.#say('result', { schema: 'quantd/result/1', id, ...rest, time: now() });
    return id;
  }

  #condition(target: string | null, type: Condition['type'], isTrue: boolean, reason: string, message: string): void {
    const others = this.#conditions.filter((condition) => condition.type !== type || condition.target !== target);
    this.#conditions = [...others, { target, type, status: isTrue ? 'true' : 'false', reason, message, time: now() }];
  }

  #event(type: string, message: string): void {
    const sequence = ++this.#events;
    const numbers = { device: this.id, session: this.#session, sequence, generation: this.#observed };
    void this.#say('event', { schema: 'quantd/event/1', ...numbers, target: 'host', type, message, time: now() });
  }

  #tell(): void {
    const document: ReportedState = {
      schema: 'quantd/reported/1',
      device: this.id,
      session: this.#session,
      sequence: ++this.#sequence,
      observedGeneration: this.#observed,
      targets: { host: this.#report },
      // As a daemon does: what is not so is left out, but for what people ask after.
      conditions: this.#conditions.filter(({ status, type }) => status === 'true' || type === 'Confirmed'),
      outbox: { messages: 0, bytes: 0, dropped: 0 },
      time: now(),
    };
    void this.#say('reported', document);
  }

  async #say(kind: 'birth' | 'sync' | 'reported' | 'event' | 'result', document: object): Promise<void> {
    const retain = kind === 'birth' || kind === 'reported';
    await this.#client?.publishAsync(this.#topics[kind], JSON.stringify(document), { qos: 1, retain }).catch(() => {});
  }
}

const now = () => new Date().toISOString();

/** Plans between 4-bit weights and 8-bit ones: faster ones hurt more. */
function frontierFor(int8: number): FrontierPoint[] {
  return Array.from({ length: 14 }, (_, index) => {
    const share = index / 13;
    return {
      latency: int8 * (0.58 + 0.42 * share),
      sensitivity: 0.9 * (1 - share) ** 2.2 + 0.02,
      sizeBytes: Math.round(1_050_000 + 1_050_000 * share),
      ramBytes: 180_000,
      averageWeightBits: 4 + 4 * share,
    };
  });
}

function choose(frontier: readonly FrontierPoint[], budget: Budget, int8: number): FrontierPoint | null {
  const most =
    budget.latencyMs ?? (budget.latencyRatio === undefined ? Number.POSITIVE_INFINITY : budget.latencyRatio * int8);
  const fitting = frontier.filter(
    ({ latency, sizeBytes }) => latency <= most && sizeBytes <= (budget.sizeBytes ?? sizeBytes),
  );
  return fitting.at(-1) ?? null;
}

function bitsNear(average: number, random: Random): number {
  return Math.min(8, Math.max(2, Math.round(average + random.normal() * 1.2)));
}
