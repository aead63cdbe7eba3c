/** Devices without a daemon that do what they are told in a moment: real MQTT documents over a real broker, models made up. */
import { connect, type MqttClient } from 'mqtt';
import { type Condition, type DesiredState, type ReportedState, topicsOf } from '../../configs/contracts/device.js';

/** What such a device does with the new release. */
export interface Behaviour {
  /** Milliseconds from order to confirmation. */
  readonly workMs: number;
  /** Releases that do not prove themselves here, and are taken back. */
  readonly reverts?: readonly string[];
  /** Measured agreement with float, by release; 0.98 where nothing is said. */
  readonly agreement?: Readonly<Record<string, number>>;
}

const time = new Date(0).toISOString();

/** A device that outlives its connection, as a daemon's state does. */
export class SwiftDevice {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Releases that it was told to run, in order, without repetitions. */
  readonly goals: string[] = [];
  /** Highest generation that it has seen. */
  observed = 0;
  active: string | null = null;
  /** In the middle of a change. */
  isChanging = false;
  /** Called when it has taken orders, and when it has carried them out. */
  onStep: (device: SwiftDevice) => void = () => {};
  readonly #behaviour: Behaviour;
  #client: MqttClient;
  #sequence = 0;
  #hasReverted = false;
  #work: NodeJS.Timeout | undefined;

  constructor(brokerUrl: string, id: string, labels: Readonly<Record<string, string>>, behaviour: Behaviour) {
    this.id = id;
    this.labels = labels;
    this.#behaviour = behaviour;
    this.#client = this.#connect(brokerUrl);
  }

  /** Goes over to another broker, or back to one that was away. */
  async move(brokerUrl: string): Promise<void> {
    await this.#client.endAsync(true);
    this.#client = this.#connect(brokerUrl);
  }

  async close(): Promise<void> {
    clearTimeout(this.#work);
    await this.#client.endAsync(true);
  }

  /** Goes back to a release by itself, as after a model that did not prove itself any more. */
  fallBack(release: string): void {
    this.active = release;
    this.#hasReverted = true;
    this.#report();
  }

  /** Runs what it was told after all. */
  recover(): void {
    this.active = this.goals.at(-1) ?? null;
    this.#hasReverted = false;
    this.#report();
  }

  #connect(brokerUrl: string): MqttClient {
    const topics = topicsOf('quantd', 'default', this.id);
    const will = { topic: topics.online, payload: this.#online(false), qos: 1 as const, retain: true };
    const client = connect(brokerUrl, { protocolVersion: 5, clientId: this.id, reconnectPeriod: 40, will });
    client.on('error', () => {});
    client.on('message', (_topic, payload) => this.#take(JSON.parse(payload.toString('utf8')) as DesiredState));
    client.on('connect', () => {
      client.subscribe(topics.desired, { qos: 1 });
      this.#say('birth', {
        schema: 'quantd/birth/1',
        device: this.id,
        session: 1,
        agentVersion: '0',
        hardwareClass: 'x',
        targets: { host: { kind: 'ort', identity: {} } },
        labels: this.labels,
        time,
      });
      this.#say('online', JSON.parse(this.#online(true)) as object);
      this.#say('sync', { schema: 'quantd/sync/1', session: 1, observedGeneration: this.observed });
      this.#report();
    });
    return client;
  }

  #online(online: boolean): string {
    return JSON.stringify({ schema: 'quantd/online/1', online, session: 1 });
  }

  #take({ generation, targets }: DesiredState): void {
    if (generation <= this.observed) return;
    this.observed = generation;
    const goal = targets.host?.release.id;
    if (goal !== undefined && goal !== this.goals.at(-1)) {
      this.goals.push(goal);
      this.#hasReverted = false;
      this.isChanging = true;
      clearTimeout(this.#work);
      this.#work = setTimeout(() => this.#finish(goal), this.#behaviour.workMs);
    }
    this.#report();
    this.onStep(this);
  }

  #finish(goal: string): void {
    this.isChanging = false;
    if (this.#behaviour.reverts?.includes(goal)) this.#hasReverted = true;
    else this.active = goal;
    this.#report();
    this.onStep(this);
  }

  #report(): void {
    const goal = this.goals.at(-1) ?? null;
    const isDone = goal !== null && this.active === goal && !this.isChanging;
    const conditions: Condition[] = [condition(null, 'Accepted', true, `generation ${this.observed}`)];
    if (goal !== null) conditions.push(condition('host', 'Confirmed', isDone, goal));
    if (this.#hasReverted) conditions.push(condition('host', 'RolledBack', true, 'it did not prove itself'));
    const document: ReportedState = {
      schema: 'quantd/reported/1',
      device: this.id,
      session: 1,
      sequence: ++this.#sequence,
      observedGeneration: this.observed,
      targets: {
        host: {
          active: this.active === null ? null : this.#artifact(this.active),
          previous: null,
          step: this.isChanging ? { name: 'quantize', share: 0.5, text: '' } : null,
          frontier: [],
          secondsToActive: null,
          hasReprofiled: null,
        },
      },
      conditions,
      outbox: { messages: 0, bytes: 0, dropped: 0 },
      time,
    };
    this.#say('reported', document);
  }

  #artifact(release: string) {
    const digest = '0'.repeat(64);
    const agreement = this.#behaviour.agreement?.[release] ?? 0.98;
    return {
      release,
      modelSha256: digest,
      artifactSha256: digest,
      planDigest: '',
      budget: {},
      isConfirmed: true,
      result: digest,
      since: time,
      measurements: {
        latency: { unit: 'ms', float: 20, int8: 12, predicted: 9, measured: 10, p95: 12 },
        quality: { samples: 100, floatTop1: null, int8Top1: null, top1: null, agreement, kl: 0.01 },
        sizeBytes: 1000,
        ramBytes: 2000,
        averageWeightBits: 8,
        averageActivationBits: 8,
      },
    };
  }

  #say(kind: 'birth' | 'online' | 'sync' | 'reported', document: object): void {
    const topic = topicsOf('quantd', 'default', this.id)[kind];
    this.#client?.publish(topic, JSON.stringify(document), { qos: 1, retain: kind !== 'sync' }, () => {});
  }
}

function condition(target: string | null, type: Condition['type'], isTrue: boolean, message: string): Condition {
  return { target, type, status: isTrue ? 'true' : 'false', reason: 'x', message, time };
}
