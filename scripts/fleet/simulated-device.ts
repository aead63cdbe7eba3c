/** A device whose daemon is made up and whose connection is real: the product's own link, with an outbox in memory. */
import { createHash } from 'node:crypto';
import { MqttFleetLink } from '../../agent/adapters/fleet-link.js';
import type { Outbox, OutboxKind } from '../../agent/device-ports.js';
import type {
  Condition,
  DesiredState,
  DesiredTarget,
  DeviceEvent,
  DeviceResult,
} from '../../configs/contracts/device.js';

/** What devices have said that must arrive, for comparison with what the console has kept. */
export class Ledger {
  /** Ids of results that were put into an outbox. */
  readonly results = new Set<string>();
  /** Events that were put into an outbox, as `device/session/sequence`. */
  readonly events = new Set<string>();
  /** Messages that a broker has acknowledged. */
  acknowledged = 0;
}

/** How such a device behaves. */
export interface SimulatedDeviceOptions {
  readonly url: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly ledger: Ledger;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  /** Mean time from an order to its confirmation; each time is drawn from half of it to one and a half. */
  readonly workMs: number;
  /** Pauses between attempts to connect. */
  readonly backoff: { readonly firstMs: number; readonly mostMs: number };
}

const keepaliveSeconds = 60;
/** An operator of the result documents, of which there are so many: results of real models have 10 to 60 of them. */
const operators = Array.from({ length: 24 }, (_, index) => ({
  name: `/features/features.${index}/Conv`,
  precision: index % 3 === 0 ? 'W8A8' : 'W4A8',
  latency: 0.125 + index / 64,
}));
const session = 1;

/** Keeps messages until they are acknowledged, as the outbox on a device's disk does. */
class MemoryOutbox implements Outbox {
  readonly #waiting = new Map<number, { kind: OutboxKind; payload: string }>();
  readonly #ledger: Ledger;
  #last = 0;

  constructor(ledger: Ledger) {
    this.#ledger = ledger;
  }

  put(message: { kind: OutboxKind; payload: string }): void {
    this.#waiting.set(++this.#last, message);
  }

  next(count: number) {
    const first: { id: number; kind: OutboxKind; payload: string }[] = [];
    for (const [id, message] of this.#waiting) {
      if (first.length === count) break;
      first.push({ id, ...message });
    }
    return first;
  }

  remove(id: number): void {
    if (this.#waiting.delete(id)) this.#ledger.acknowledged++;
  }

  state() {
    return { messages: this.#waiting.size, bytes: 0, dropped: 0 };
  }

  close(): void {}
}

/**
 * Takes orders as a daemon does (accepted, at work, active, confirmed: a report each; an event at both ends; one result), in a time that is
 * drawn. A newer order takes the place of one that is being worked on. Its state outlives its connections.
 */
export class SimulatedDevice {
  readonly id: string;
  /** Highest generation that it has seen. */
  observed = 0;
  readonly #options: SimulatedDeviceOptions;
  readonly #link: MqttFleetLink;
  #wanted: DesiredTarget | null = null;
  #active: { readonly target: DesiredTarget; readonly result: string; isConfirmed: boolean } | null = null;
  #share = 0;
  #sequence = 0;
  #events = 0;
  #work: NodeJS.Timeout | undefined;

  constructor(id: string, options: SimulatedDeviceOptions) {
    this.id = id;
    this.#options = options;
    this.#link = new MqttFleetLink({
      url: options.url,
      username: '',
      password: null,
      namespace: 'quantd',
      tenant: 'default',
      keepaliveSeconds,
      willDelaySeconds: 0,
      birth: {
        schema: 'quantd/birth/1',
        device: id,
        session,
        agentVersion: '0',
        hardwareClass: 'simulated',
        targets: { host: { kind: 'ort', identity: { kind: 'ort', processor: 'simulated' } } },
        labels: options.labels,
        time: timeNow(),
      },
      observedGeneration: () => this.observed,
      outbox: new MemoryOutbox(options.ledger),
      // Connections that end are what is simulated.
      warn: () => {},
      backoff: options.backoff,
      random: options.random,
    });
  }

  /** Connects, and goes on for ever. */
  start(): void {
    this.#report();
    this.#link.start({
      desired: (payload) => this.#take(JSON.parse(Buffer.from(payload).toString('utf8')) as DesiredState),
      connected: () => {},
      emptied: () => this.#report(),
    });
  }

  /** Messages that were not acknowledged. */
  get waiting(): number {
    return this.#link.outbox().messages;
  }

  async close(): Promise<void> {
    clearTimeout(this.#work);
    await this.#link.close();
  }

  #take({ generation, targets }: DesiredState): void {
    if (generation <= this.observed) return;
    this.observed = generation;
    const wanted = targets.host;
    if (wanted !== undefined && JSON.stringify(wanted) !== JSON.stringify(this.#wanted)) {
      this.#wanted = wanted;
      this.#share = 0;
      this.#event('accepted', `generation ${generation}`);
      clearTimeout(this.#work);
      const stepMs = (this.#options.workMs * (0.5 + this.#options.random())) / 3;
      this.#work = setTimeout(() => this.#quantize(wanted, generation, stepMs), stepMs);
    }
    this.#report();
  }

  #quantize(target: DesiredTarget, generation: number, stepMs: number): void {
    this.#share = 0.5;
    this.#report();
    this.#work = setTimeout(() => {
      this.#active = { target, result: this.#publish(target, generation), isConfirmed: false };
      this.#share = 1;
      this.#report();
      this.#work = setTimeout(() => this.#confirm(generation), stepMs);
    }, stepMs);
  }

  #confirm(generation: number): void {
    this.#active!.isConfirmed = true;
    this.#event('confirmed', `generation ${generation}`);
    this.#report();
  }

  #publish({ release, budget }: DesiredTarget, generation: number): string {
    const document = { model: { sha256: release.model.sha256 }, budget, plan: { operators } };
    const content = { device: this.id, target: 'host', generation, release: release.id, budget, document };
    const id = createHash('sha256').update(JSON.stringify(content)).digest('hex');
    const result: DeviceResult = { schema: 'quantd/result/1', id, ...content, time: timeNow() };
    this.#options.ledger.results.add(id);
    this.#link.send('result', result);
    return id;
  }

  #event(type: string, message: string): void {
    const sequence = ++this.#events;
    const event: DeviceEvent = {
      schema: 'quantd/event/1',
      device: this.id,
      session,
      sequence,
      target: 'host',
      type,
      message,
      generation: this.observed,
      time: timeNow(),
    };
    this.#options.ledger.events.add(`${this.id}/${session}/${sequence}`);
    this.#link.send('event', event);
  }

  #report(): void {
    const isDone = this.#active !== null && this.#active.target === this.#wanted;
    const isConfirmed = isDone && this.#active!.isConfirmed;
    const conditions: Condition[] = [condition(null, 'Accepted', true, `generation ${this.observed}`)];
    if (this.#wanted !== null) {
      const { id } = this.#wanted.release;
      conditions.push(condition('host', 'Active', isDone, id), condition('host', 'Confirmed', isConfirmed, id));
    }
    const isAtWork = this.#wanted !== null && !isDone;
    this.#link.report({
      schema: 'quantd/reported/1',
      device: this.id,
      session,
      sequence: ++this.#sequence,
      observedGeneration: this.observed,
      targets: {
        host: {
          active: this.#artifact(),
          previous: null,
          step: isAtWork ? { name: 'quantize', share: this.#share, text: '' } : null,
          frontier: [],
          secondsToActive: null,
          hasReprofiled: null,
        },
      },
      conditions,
      outbox: this.#link.outbox(),
      time: timeNow(),
    });
  }

  #artifact() {
    if (this.#active === null) return null;
    const { target, result, isConfirmed } = this.#active;
    return {
      release: target.release.id,
      modelSha256: target.release.model.sha256,
      artifactSha256: result,
      planDigest: result,
      budget: target.budget,
      isConfirmed,
      result,
      since: timeNow(),
      measurements: {
        latency: { unit: 'ms', float: 20, int8: 12, predicted: 9, measured: 10, p95: 12 },
        quality: { samples: 100, floatTop1: null, int8Top1: null, top1: null, agreement: 0.98, kl: 0.01 },
        sizeBytes: 1000,
        ramBytes: 2000,
        averageWeightBits: 8,
        averageActivationBits: 8,
      },
    };
  }
}

const timeNow = () => new Date().toISOString();

function condition(target: string | null, type: Condition['type'], isTrue: boolean, message: string): Condition {
  return { target, type, status: isTrue ? 'true' : 'false', reason: type, message, time: timeNow() };
}
