/** A console in this process, and devices that are plain MQTT clients. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { connectAsync, type MqttClient } from 'mqtt';
import type { ConsoleSettings as Settings } from '../../configs/contracts/console-settings.js';
import { ConsoleSettings } from '../../configs/contracts/console-settings.js';
import { type DesiredState, type DeviceTopics, topicsOf } from '../../configs/contracts/device.js';
import type { Release } from '../../configs/contracts/release.js';
import { resolveSettings } from '../../configs/settings.js';
import { ConsoleClient } from '../../fleet-console/client.js';
import { type OpenConsole, openConsole } from '../../fleet-console/server/serve.js';

type Values = { readonly [Section in keyof Settings]?: Partial<Settings[Section]> };

/** Settings of a console on free ports. */
export function consoleSettings(values: Values = {}): Settings {
  const free = { http: { port: 0 }, broker: { port: 0 } };
  return resolveSettings(ConsoleSettings, [
    { origin: 'test', values: free },
    { origin: 'test', values: values as Record<string, Record<string, unknown>> },
  ]).values;
}

/** A console with its state in a folder. `warnings` collects what it warns of. */
export async function startConsole(
  folder: string,
  values: Values = {},
  warnings: string[] = [],
): Promise<OpenConsole & { client: ConsoleClient }> {
  const console = await openConsole(consoleSettings(values), {
    version: '0',
    stateFolder: join(folder, 'fleet'),
    warn: (text) => warnings.push(text),
  });
  return { ...console, client: await ConsoleClient.open({ url: console.url }) };
}

/** Port of an address. */
export const portOf = (url: string) => Number(new URL(url).port);

/** A device without a daemon: connects, is born, and collects what it should run. */
export class FakeDevice {
  readonly id: string;
  readonly topics: DeviceTopics;
  readonly desired: DesiredState[] = [];
  readonly client: MqttClient;

  private constructor(id: string, client: MqttClient) {
    this.id = id;
    this.client = client;
    this.topics = topicsOf('quantd', 'default', id);
    client.on('message', (_topic, payload) => this.desired.push(JSON.parse(payload.toString('utf8')) as DesiredState));
    client.on('error', () => {});
  }

  static async open(
    brokerUrl: string,
    id: string,
    options: {
      labels?: Record<string, string>;
      session?: number;
      observed?: number;
      targets?: Record<string, { kind: string; identity?: Record<string, unknown> }>;
      hardwareClass?: string;
    } = {},
  ): Promise<FakeDevice> {
    const {
      labels = {},
      session = 1,
      observed = 0,
      targets = { host: { kind: 'ort' } },
      hardwareClass = 'x',
    } = options;
    const client = await connectAsync(brokerUrl, { protocolVersion: 5, clientId: id, reconnectPeriod: 30 });
    const device = new FakeDevice(id, client);
    await client.subscribeAsync(device.topics.desired, { qos: 1 });
    const time = new Date(0).toISOString();
    const full = Object.fromEntries(
      Object.entries(targets).map(([name, { kind, identity = {} }]) => [name, { kind, identity }]),
    );
    const birth = {
      schema: 'quantd/birth/1',
      device: id,
      session,
      agentVersion: '0',
      hardwareClass,
      targets: full,
      labels,
      time,
    };
    await device.say('birth', birth, true);
    await device.say('online', { schema: 'quantd/online/1', online: true, session }, true);
    await device.say('sync', { schema: 'quantd/sync/1', session, observedGeneration: observed });
    return device;
  }

  /** Publishes a document of this device. */
  async say(kind: keyof DeviceTopics, document: unknown, retain = false): Promise<void> {
    await this.client.publishAsync(this.topics[kind], JSON.stringify(document), { qos: 1, retain });
  }

  /** A report with nothing in it but numbers. */
  async report(observedGeneration: number, sequence: number, session = 1): Promise<void> {
    const outbox = { messages: 0, bytes: 0, dropped: 0 };
    const numbers = { device: this.id, session, sequence, observedGeneration };
    const time = new Date(0).toISOString();
    await this.say(
      'reported',
      { schema: 'quantd/reported/1', ...numbers, targets: {}, conditions: [], outbox, time },
      true,
    );
  }

  get last(): DesiredState | undefined {
    return this.desired.at(-1);
  }

  async close(): Promise<void> {
    await this.client.endAsync(true);
  }
}

/** Uploads bytes as a model and releases them. */
export async function makeRelease(
  console: { url: string; client: ConsoleClient },
  id: string,
  content: string | Uint8Array = id,
  card: object | null = null,
): Promise<Release> {
  const sha256 = createHash('sha256').update(content).digest('hex');
  const response = await fetch(`${console.url}/v1/artifacts/${sha256}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/octet-stream' },
    body: content,
  });
  if (!response.ok) throw new Error(await response.text());
  return console.client.send('POST', '/v1/releases', { id, model: { sha256 }, card });
}
