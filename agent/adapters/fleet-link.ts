import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { connect, type IClientOptions, type IClientPublishOptions, type MqttClient, type Packet } from 'mqtt';
import {
  type Birth,
  type DeviceEvent,
  type DeviceResult,
  type DeviceTopics,
  documentBytes,
  packetBytes,
  type ReportedState,
  topicsOf,
} from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import {
  type DeviceTable,
  type TablePart,
  tableBytes,
  tablePartBytes,
  tableTextBytes,
} from '../../configs/contracts/tables.js';
import type { FleetLink, FleetListener, Outbox, OutboxKind } from '../device-ports.js';

/** How the device connects, and what it says of itself. */
export interface FleetLinkOptions {
  readonly url: string;
  /** Empty: none. */
  readonly username: string;
  readonly password: string | null;
  readonly namespace: string;
  readonly tenant: string;
  readonly keepaliveSeconds: number;
  readonly willDelaySeconds: number;
  readonly birth: Birth;
  readonly observedGeneration: () => number;
  readonly outbox: Outbox;
  readonly warn: (text: string) => void;
  /** Longest pause between attempts to connect, and the first. */
  readonly backoff?: { readonly firstMs: number; readonly mostMs: number };
  /** Uniform in [0, 1). */
  readonly random?: () => number;
}

const sessionExpirySeconds = 7 * 86_400;
const syncExpirySeconds = 120;
/** Messages under way at once, either way. */
const receiveMaximum = 20;
const connectMs = 15_000;
/** An acknowledgement that does not come for so long: the connection is given up. */
const acknowledgeMs = 30_000;
const goodbyeMs = 1000;
/** Reason codes (MQTT 5, section 2.4). */
const noSubscribers = 0x10;
const refusedForGood = 0x80;
const quotaExceeded = 0x97;
/** Room in a packet for topic and properties. */
const overheadBytes = 1024;

/**
 * The device's end of MQTT 5. Truth is elsewhere: in the device's own state and in the console's database; the broker's session and
 * its retained documents only save time. After every connect the device says who it is, asks for `desired`, repeats its last
 * report, and empties the outbox in order, deleting what is acknowledged.
 *
 * A message that the broker refuses for good (reason code 0x80 and above) is dropped with a warning: what cannot be delivered must
 * not hold up what can. One that it takes for nobody (no console has ever subscribed) stays in the outbox and is sent again.
 */
export class MqttFleetLink implements FleetLink {
  readonly #options: FleetLinkOptions;
  readonly #topics: DeviceTopics;
  #birth: Birth;
  #listener: FleetListener = { desired: () => {}, connected: () => {}, emptied: () => {} };
  #client: MqttClient | null = null;
  #isConnected = false;
  #isClosed = false;
  #attempts = 0;
  #timer: NodeJS.Timeout | undefined;
  #lastReport: string | null = null;
  /** Messages that wait, by the last report. */
  #reportedWaiting = 0;
  #isDraining = false;
  /** Something was sent while the outbox was being emptied: it is looked at again. */
  #isDrainWanted = false;
  /** Attempts to empty the outbox in a row that have failed on a living connection. */
  #drainFailures = 0;
  #drainTimer: NodeJS.Timeout | undefined;

  constructor(options: FleetLinkOptions) {
    this.#options = options;
    this.#birth = options.birth;
    this.#topics = topicsOf(options.namespace, options.tenant, options.birth.device);
  }

  introduce(birth: Birth): void {
    this.#birth = birth;
    const client = this.#client;
    if (client === null || !this.#isConnected) return;
    this.#publish(client, this.#topics.birth, JSON.stringify(birth), { retain: true }).catch((error: Error) => {
      if (this.#isConnected) this.#options.warn(`the birth was not delivered: ${error.message}`);
    });
  }

  start(listener: FleetListener): void {
    this.#listener = listener;
    this.#connect();
  }

  report(document: ReportedState): void {
    const text = JSON.stringify(document);
    if (Buffer.byteLength(text) > documentBytes) {
      this.#options.warn('the report is larger than a document may be, and is not sent');
      return;
    }
    this.#lastReport = text;
    this.#reportedWaiting = document.outbox.messages;
    if (this.#isConnected) this.#publishReport();
    // What waited when the report was put together may be gone by now.
    if (this.#reportedWaiting > 0) this.#drainSoon();
  }

  send(kind: OutboxKind, document: DeviceEvent | DeviceResult | DeviceTable): void {
    if (kind === 'table') {
      this.#putTable(document as DeviceTable);
    } else {
      this.#put(kind, JSON.stringify(document));
    }
    this.#drainSoon();
  }

  /** Nothing depends on a table: one that cannot be sent is left out. */
  #putTable(document: DeviceTable): void {
    const parts = partsOf(document);
    if (parts === null) this.#options.warn('a table is longer than tables may be, and is not sent');
    try {
      for (const part of parts ?? []) this.#put('table', JSON.stringify(part));
    } catch (error) {
      if (!(error instanceof EdgeError) || error.code !== 'outbox/too-large') throw error;
      this.#options.warn(`a table is not sent: ${error.message}`);
    }
  }

  #put(kind: OutboxKind, payload: string): void {
    const bytes = Buffer.byteLength(payload);
    if (bytes > packetBytes - overheadBytes) {
      throw new EdgeError('outbox/too-large', `a ${kind} of ${bytes} bytes does not fit a packet of ${packetBytes}`, {
        subject: kind,
        hint: 'This is a fault of quantd, please report it.',
      });
    }
    this.#options.outbox.put({ kind, payload });
  }

  outbox(): { messages: number; bytes: number; dropped: number } {
    return this.#options.outbox.state();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#drainTimer);
    const client = this.#client;
    if (client === null) return;
    if (this.#isConnected) {
      const goodbye = this.#publish(client, this.#topics.online, this.#online(false), { retain: true });
      await Promise.race([goodbye.catch(() => {}), after(goodbyeMs)]);
    }
    this.#isConnected = false;
    await Promise.race([client.endAsync(false), after(goodbyeMs)]);
    client.end(true);
  }

  #connect(): void {
    if (this.#isClosed) return;
    const { url, username, password, keepaliveSeconds, willDelaySeconds } = this.#options;
    const options: IClientOptions = {
      protocolVersion: 5,
      clientId: this.#birth.device,
      clean: false,
      keepalive: keepaliveSeconds,
      connectTimeout: connectMs,
      // Reconnecting is ours: with jitter, and after refusals too.
      reconnectPeriod: 0,
      queueQoSZero: false,
      resubscribe: false,
      properties: { sessionExpiryInterval: sessionExpirySeconds, receiveMaximum, maximumPacketSize: packetBytes },
      will: {
        topic: this.#topics.online,
        payload: Buffer.from(this.#online(false)),
        qos: 1,
        retain: true,
        properties: { willDelayInterval: willDelaySeconds },
      },
      ...(username === '' ? {} : { username }),
      ...(password === null ? {} : { password }),
    };
    const client = connect(url, options);
    this.#client = client;
    // One listener a message under way.
    client.setMaxListeners(0);
    client.on('connect', () => {
      this.#greet(client).catch((error: unknown) => this.#giveUp(client, error));
    });
    client.on('message', (topic, payload) => this.#receive(topic, payload));
    // An error without a listener would end the process; what comes of it is a close.
    client.on('error', (error) => this.#options.warn(`the broker: ${error.message}`));
    client.on('close', () => this.#lost(client));
  }

  /** What is said after every connect, in this order. */
  async #greet(client: MqttClient): Promise<void> {
    const { observedGeneration } = this.#options;
    const birth = this.#birth;
    await client.subscribeAsync(this.#topics.desired, { qos: 1 });
    await this.#publish(client, this.#topics.birth, JSON.stringify(birth), { retain: true });
    await this.#publish(client, this.#topics.online, this.#online(true), { retain: true });
    const sync = { schema: 'quantd/sync/1', session: birth.session, observedGeneration: observedGeneration() };
    const properties = { messageExpiryInterval: syncExpirySeconds };
    await this.#publish(client, this.#topics.sync, JSON.stringify(sync), { properties });
    if (client !== this.#client || this.#isClosed) return;
    this.#attempts = 0;
    this.#isConnected = true;
    this.#listener.connected(true);
    this.#publishReport();
    this.#drainSoon();
  }

  #giveUp(client: MqttClient, error: unknown): void {
    this.#options.warn(`the broker: ${error instanceof Error ? error.message : String(error)}`);
    client.end(true);
  }

  #lost(client: MqttClient): void {
    if (client !== this.#client) return;
    this.#client = null;
    // mqtt.js keeps what was not acknowledged, to send it again itself; that is the outbox's business.
    client.end(true);
    if (this.#isConnected) this.#listener.connected(false);
    this.#isConnected = false;
    clearTimeout(this.#drainTimer);
    if (this.#isClosed) return;
    this.#timer = setTimeout(() => this.#connect(), this.#pauseMs(this.#attempts++));
  }

  /** Full jitter. */
  #pauseMs(attempts: number): number {
    const { firstMs, mostMs } = this.#options.backoff ?? { firstMs: 1000, mostMs: 60_000 };
    const most = Math.min(mostMs, firstMs * 2 ** Math.min(20, attempts));
    return (this.#options.random ?? Math.random)() * most;
  }

  #receive(topic: string, payload: Buffer): void {
    if (topic !== this.#topics.desired) return;
    try {
      this.#listener.desired(payload);
    } catch (error) {
      this.#options.warn(`a document could not be taken: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  #publishReport(): void {
    const client = this.#client;
    if (client === null || this.#lastReport === null) return;
    this.#publish(client, this.#topics.reported, this.#lastReport, { retain: true }).catch((error: Error) => {
      if (this.#isConnected) this.#options.warn(`the report was not delivered: ${error.message}`);
    });
  }

  #drainSoon(): void {
    if (!this.#isConnected || this.#client === null) return;
    if (this.#isDraining) {
      this.#isDrainWanted = true;
      return;
    }
    this.#isDraining = true;
    this.#isDrainWanted = false;
    clearTimeout(this.#drainTimer);
    this.#drain(this.#client)
      .then(
        () => {
          this.#drainFailures = 0;
          if (this.#reportedWaiting === 0 || this.outbox().messages > 0) return;
          this.#reportedWaiting = 0;
          this.#listener.emptied();
        },
        (error: unknown) => {
          if (!this.#isConnected) return;
          if (this.#drainFailures === 0)
            this.#options.warn(`the outbox: ${error instanceof Error ? error.message : String(error)}`);
          this.#isDrainWanted = false;
          this.#drainTimer = setTimeout(() => this.#drainSoon(), this.#pauseMs(this.#drainFailures++));
        },
      )
      .finally(() => {
        this.#isDraining = false;
        if (this.#isDrainWanted) this.#drainSoon();
      });
  }

  /** One after the other: the order is kept, and nothing is deleted that was not acknowledged. */
  async #drain(client: MqttClient): Promise<void> {
    const { outbox, warn } = this.#options;
    while (this.#isConnected && client === this.#client) {
      const [message] = outbox.next(1);
      if (message === undefined) return;
      try {
        const isHeard = await this.#publish(client, this.#topics[message.kind], message.payload, {});
        if (!isHeard) throw new Error('nobody listens to this device yet; what waits is sent again');
      } catch (error) {
        const code = (error as { code?: unknown }).code;
        if (typeof code !== 'number' || code < refusedForGood || code === quotaExceeded) throw error;
        warn(`the broker refuses a ${message.kind} for good (reason ${code}); it is dropped`);
      }
      outbox.remove(message.id);
    }
  }

  /**
   * Resolves when the broker has acknowledged, with whether anybody has subscribed, as far as it says; rejects when it refuses, and
   * when the connection ends or has to be ended first.
   */
  #publish(client: MqttClient, topic: string, payload: string, options: IClientPublishOptions): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        settle(new Error(`no acknowledgement for ${acknowledgeMs / 1000} s`));
        client.end(true);
      }, acknowledgeMs);
      timer.unref();
      const closed = () => settle(new Error('the connection ended'));
      // mqtt.js does not promise to call back when a connection is lost: what waits is rejected here.
      client.once('close', closed);
      let isHeard = true;
      let messageId: number | undefined;
      // mqtt.js takes this reason for a success, and does not hand it on.
      const acknowledged = ({ cmd, messageId: id, reasonCode }: Packet & { reasonCode?: number }) => {
        if (cmd === 'puback' && id === messageId && reasonCode === noSubscribers) isHeard = false;
      };
      client.on('packetreceive', acknowledged);
      const settle = (error?: Error) => {
        clearTimeout(timer);
        client.off('close', closed);
        client.off('packetreceive', acknowledged);
        if (error) reject(error);
        else resolve(isHeard);
      };
      client.publish(topic, payload, { qos: 1, ...options }, (error) => settle(error ?? undefined));
      messageId = client.getLastMessageId();
    });
  }

  #online(online: boolean): string {
    return JSON.stringify({ schema: 'quantd/online/1', online, session: this.#birth.session });
  }
}

/** A table as it travels; null where it is too long. */
function partsOf(document: DeviceTable): TablePart[] | null {
  const json = JSON.stringify(document);
  const text = gzipSync(json).toString('base64');
  if (Buffer.byteLength(json) > tableBytes || text.length > tableTextBytes) return null;
  const sha256 = createHash('sha256').update(text).digest('hex');
  const { device, target } = document;
  const parts = Math.ceil(text.length / tablePartBytes);
  return Array.from({ length: parts }, (_, part) => ({
    schema: 'quantd/table-part/1',
    device,
    target,
    sha256,
    part,
    parts,
    text: text.slice(part * tablePartBytes, (part + 1) * tablePartBytes),
  }));
}

/** Resolves after the time, without keeping the process alive. */
function after(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}
