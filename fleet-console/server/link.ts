import { createHash } from 'node:crypto';
import { connect, type IClientPublishOptions, type MqttClient } from 'mqtt';
import {
  Birth,
  type DesiredState,
  DeviceEvent,
  DeviceResult,
  type DeviceTopics,
  documentBytes,
  Online,
  packetBytes,
  parseTopic,
  ReportedState,
  Sync,
  topicsOf,
} from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { TablePart } from '../../configs/contracts/tables.js';
import { validate } from '../../configs/contracts/validate.js';
import type { ConsoleStore, StoredEvent } from './store.js';

/** How the console connects, and who hears what devices say. */
export interface ConsoleLinkOptions {
  readonly url: string;
  readonly username: string;
  readonly password: string | null;
  readonly namespace: string;
  readonly tenant: string;
  readonly warn: (text: string) => void;
  /** Something about a device has changed; `isNew`: it was born, so that what it should run is to be computed. */
  readonly changed: (device: string, isNew: boolean) => void;
  readonly happened: (event: StoredEvent) => void;
  /** A device has said which orders it has seen. */
  readonly heard: (device: string) => void;
  /** A part of a device's table has come. To fail with `document/invalid` for what is refused. */
  readonly table: (part: TablePart) => void;
  /** Called when what devices say is heard, after every connect. */
  readonly listening?: () => void;
  readonly backoff?: { readonly firstMs: number; readonly mostMs: number };
}

/** Documents that were taken and refused since the start. */
export interface LinkCounts {
  readonly taken: number;
  readonly refused: number;
}

/** How long a broker keeps for the console what devices send while it is away. */
const sessionExpirySeconds = 7 * 86_400;
/** What could not be stored is asked for again after a longer pause: attempts of the backoff that count as made. */
const storeAttempts = 5;
/** After a connect, documents are published so many at a time: a broker that has just started has enough to do. */
const batch = 50;
const pauseMs = 20;
/** For what is on its way when the console ends. */
const goodbyeMs = 2000;
/** Warnings about documents, at most one in this time. */
const warnEveryMs = 1000;

/**
 * The console's end of MQTT 5. What devices say goes into the store, checked against the contracts; what they should run comes out
 * of it, retained, and is published anew after every connect.
 *
 * Events and results are acknowledged once they are stored, and the session outlives the connection: a broker that runs by itself
 * keeps for the console what is sent while it is away. That is why its name is fixed: one console for a tenant.
 */
export class ConsoleLink {
  readonly #store: ConsoleStore;
  readonly #options: ConsoleLinkOptions;
  #client: MqttClient | null = null;
  #isConnected = false;
  #isClosed = false;
  #attempts = 0;
  #timer: NodeJS.Timeout | undefined;
  #taken = 0;
  #refused = 0;
  #warnedAt = Number.NEGATIVE_INFINITY;
  /** An event, a result or a part of a table could not be stored: it must not be acknowledged. */
  #isStoreFailing = false;

  constructor(store: ConsoleStore, options: ConsoleLinkOptions) {
    this.#store = store;
    this.#options = options;
  }

  /** Begins to connect, and goes on for ever, with jittered backoff. */
  start(): void {
    this.#connect();
  }

  /** Name of the console towards the broker. */
  get clientId(): string {
    const { namespace, tenant } = this.#options;
    return `fleet-${createHash('sha256').update(`${namespace}/${tenant}`).digest('hex').slice(0, 24)}`;
  }

  get isConnected(): boolean {
    return this.#isConnected;
  }

  get counts(): LinkCounts {
    return { taken: this.#taken, refused: this.#refused };
  }

  /** Publishes what a device should run. Offline, and for a device that is ahead, this does nothing: the store has it. */
  publishDesired(device: string): void {
    const record = this.#store.device(device);
    if (record?.desired !== null && record?.desired !== undefined && !record.isAhead)
      this.#publish(device, record.desired);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#isConnected = false;
    const client = this.#client;
    // A broker that does not answer must not hold up the end.
    const patience = new Promise<void>((resolve) => setTimeout(resolve, goodbyeMs).unref());
    await Promise.race([client?.endAsync(false).catch(() => {}), patience]);
    client?.end(true);
  }

  #connect(): void {
    if (this.#isClosed) return;
    const { url, username, password, warn } = this.#options;
    const client = connect(url, {
      protocolVersion: 5,
      clientId: this.clientId,
      clean: false,
      reconnectPeriod: 0,
      queueQoSZero: false,
      resubscribe: false,
      properties: { maximumPacketSize: packetBytes, sessionExpiryInterval: sessionExpirySeconds },
      ...(username === '' ? {} : { username }),
      ...(password === null ? {} : { password }),
    });
    this.#client = client;
    client.on('connect', () => {
      this.#greet(client).catch((error: Error) => {
        if (client === this.#client) warn(`the broker: ${error.message}`);
        client.end(true);
      });
    });
    client.on('message', (topic, payload) => {
      this.#isStoreFailing = false;
      this.#receive(topic, payload);
    });
    // Called after that, for the acknowledgement. Without it, the message comes again with the next connection.
    client.handleMessage = (_packet, acknowledge) => {
      if (!this.#isStoreFailing) return acknowledge();
      this.#attempts = Math.max(this.#attempts, storeAttempts);
      client.end(true);
    };
    client.on('error', (error) => this.#options.warn(`the broker: ${error.message}`));
    client.on('close', () => this.#lost(client));
  }

  async #greet(client: MqttClient): Promise<void> {
    const { namespace, tenant, listening } = this.#options;
    const { desired: _, birth, ...heard } = topicsOf(namespace, tenant, '+');
    // Births first: what is retained of a device that is not known yet would count for nothing.
    await client.subscribeAsync(birth, { qos: 1 });
    await client.subscribeAsync(Object.values(heard), { qos: 1 });
    if (client !== this.#client) return;
    this.#isConnected = true;
    listening?.();
    await this.#publishAll(client);
    if (!this.#isStoreFailing) this.#attempts = 0;
  }

  #lost(client: MqttClient): void {
    if (client !== this.#client) return;
    this.#client = null;
    client.end(true);
    this.#isConnected = false;
    if (this.#isClosed) return;
    const { firstMs, mostMs } = this.#options.backoff ?? { firstMs: 500, mostMs: 30_000 };
    const most = Math.min(mostMs, firstMs * 2 ** Math.min(20, this.#attempts++));
    this.#timer = setTimeout(() => this.#connect(), Math.random() * most);
  }

  async #publishAll(client: MqttClient): Promise<void> {
    const devices = this.#store.devices();
    for (let from = 0; from < devices.length; from += batch) {
      if (client !== this.#client) return;
      for (const { id, desired, isAhead } of devices.slice(from, from + batch)) {
        if (desired !== null && !isAhead) this.#publish(id, desired);
      }
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }

  #publish(device: string, desired: DesiredState): void {
    if (!this.#isConnected || this.#client === null) return;
    const { namespace, tenant, warn } = this.#options;
    const text = JSON.stringify(desired);
    if (Buffer.byteLength(text) > documentBytes) {
      warn(`what ${device} should run takes ${Buffer.byteLength(text)} bytes, more than a document may have`);
      return;
    }
    const options: IClientPublishOptions = { qos: 1, retain: true };
    this.#client.publish(topicsOf(namespace, tenant, device).desired, text, options, (error) => {
      // It is published again after the next connect.
      if (error && this.#isConnected) warn(`${device} could not be told: ${error.message}`);
    });
  }

  #receive(topic: string, payload: Buffer): void {
    const { namespace, tenant } = this.#options;
    const parsed = parseTopic(namespace, tenant, topic);
    if (parsed === null || parsed.kind === 'desired' || payload.length === 0) return;
    try {
      this.#take(parsed.device, parsed.kind, payload);
      this.#taken++;
    } catch (error) {
      this.#isStoreFailing = mustArrive(parsed.kind) && error instanceof EdgeError && error.retryable;
      if (!this.#isStoreFailing) this.#refused++;
      const now = performance.now();
      if (now - this.#warnedAt < warnEveryMs) return;
      this.#warnedAt = now;
      const { message } = error as Error;
      this.#options.warn(
        this.#isStoreFailing
          ? `a document on ${topic} could not be stored, and is asked for again: ${message}`
          : `a document on ${topic} was refused: ${message} (${this.#refused} since the start)`,
      );
    }
  }

  #take(device: string, kind: Exclude<keyof DeviceTopics, 'desired'>, payload: Buffer): void {
    const most = mustArrive(kind) ? packetBytes : documentBytes;
    if (payload.length > most)
      throw new EdgeError('document/invalid', `it has ${payload.length} bytes`, { subject: kind });
    let value: unknown;
    try {
      value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(payload));
    } catch {
      throw new EdgeError('document/invalid', 'it is not JSON', { subject: kind });
    }
    const { changed, happened, heard } = this.#options;
    switch (kind) {
      case 'birth':
        if (this.#store.putBirth(own(validate(Birth, value, 'document/invalid', kind), device))) changed(device, true);
        return;
      case 'online': {
        const { online, session } = validate(Online, value, 'document/invalid', kind);
        if (this.#store.putOnline(device, online, session)) changed(device, false);
        return;
      }
      case 'reported': {
        const isNews = this.#store.putReported(own(validate(ReportedState, value, 'document/invalid', kind), device));
        heard(device);
        if (isNews) changed(device, false);
        return;
      }
      case 'sync': {
        const { observedGeneration } = validate(Sync, value, 'document/invalid', kind);
        this.#store.putObserved(device, observedGeneration);
        heard(device);
        this.publishDesired(device);
        changed(device, false);
        return;
      }
      case 'event': {
        const stored = this.#store.putEvent(own(validate(DeviceEvent, value, 'document/invalid', kind), device));
        if (stored !== null) happened(stored);
        return;
      }
      case 'result':
        if (this.#store.putResult(own(validate(DeviceResult, value, 'document/invalid', kind), device)))
          changed(device, false);
        return;
      case 'table':
        this.#options.table(own(validate(TablePart, value, 'document/invalid', kind), device));
    }
  }
}

/** What is acknowledged only once it is stored. */
function mustArrive(kind: keyof DeviceTopics): boolean {
  return kind === 'event' || kind === 'result' || kind === 'table';
}

/** A document speaks for the device of its topic only. */
function own<T extends { readonly device: string }>(document: T, device: string): T {
  if (document.device === device) return document;
  throw new EdgeError('document/invalid', `it speaks for device ${document.device}`, { subject: device });
}
