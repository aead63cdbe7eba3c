import { createHash } from 'node:crypto';
import { connect, type IClientPublishOptions, type MqttClient } from 'mqtt';
import { documentBytes, packetBytes, topicsOf } from '../../configs/contracts/device.js';
import type { Take } from './intake.js';
import type { ConsoleStore } from './store.js';

/** How the console connects, and who hears what devices say. */
export interface ConsoleLinkOptions {
  readonly url: string;
  readonly username: string;
  readonly password: string | null;
  readonly namespace: string;
  readonly tenant: string;
  readonly warn: (text: string) => void;
  /** Takes what devices say; null where that comes another way. */
  readonly take: Take | null;
  /** Called when what devices say is heard, after every connect. */
  readonly listening?: () => void;
  readonly backoff?: { readonly firstMs: number; readonly mostMs: number };
}

/** How long a broker keeps for the console what devices send while it is away. */
const sessionExpirySeconds = 7 * 86_400;
/** What could not be stored is asked for again after a longer pause: attempts of the backoff that count as made. */
const storeAttempts = 5;
/** Documents of devices that a broker may have under way to the console: what is stored together. */
const receiveMaximum = 250;
/** Documents that are under way to the broker, and those that are published in one go. */
const mostUnderWay = 200;
const mostAtOnce = 50;
/** For what is on its way when the console ends. */
const goodbyeMs = 2000;

/**
 * The console's end of MQTT 5. What devices say is handed to the intake; what they should run comes out of the store, retained, and is
 * published anew after every connect, a few documents at a time.
 *
 * What devices say is acknowledged once it is stored, and the session outlives the connection: a broker that runs by itself keeps for
 * the console what is sent while it is away. That is why its name is fixed: one console for a tenant.
 */
export class ConsoleLink {
  readonly #store: ConsoleStore;
  readonly #options: ConsoleLinkOptions;
  #client: MqttClient | null = null;
  #isConnected = false;
  #isClosed = false;
  #attempts = 0;
  #timer: NodeJS.Timeout | undefined;
  /** What could not be stored must not be acknowledged: the connection is ended for it. */
  #isStoreFailing = false;
  /** Devices that are to be told what they should run, each once. */
  readonly #untold = new Set<string>();
  #underWay = 0;
  #isTelling = false;

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

  /** Publishes what a device should run, soon. Offline, and for a device that is ahead, this does nothing: the store has it. */
  publishDesired(device: string): void {
    if (!this.#isConnected) return;
    this.#untold.add(device);
    this.#tellSoon();
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
    const { url, username, password, take, warn } = this.#options;
    const client = connect(url, {
      protocolVersion: 5,
      clientId: this.clientId,
      clean: false,
      reconnectPeriod: 0,
      queueQoSZero: false,
      resubscribe: false,
      properties: { maximumPacketSize: packetBytes, sessionExpiryInterval: sessionExpirySeconds, receiveMaximum },
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
    if (take !== null) this.#hear(client, take);
    client.on('error', (error) => this.#options.warn(`the broker: ${error.message}`));
    client.on('close', () => this.#lost(client));
  }

  /**
   * mqtt.js acknowledges each message before it looks at the next one, so that nothing could be stored together. Therefore its
   * acknowledgements stay in the socket's buffer until everything that they are for is stored, and go down with it where that fails.
   */
  #hear(client: MqttClient, take: Take): void {
    let unsettled = 0;
    client.on('message', (topic, payload) => {
      const { stream } = client;
      if (unsettled++ === 0) stream.cork();
      take(topic, payload, (isStored) => {
        if (!isStored) {
          this.#isStoreFailing = true;
          this.#attempts = Math.max(this.#attempts, storeAttempts);
          client.end(true);
        } else if (--unsettled === 0) {
          this.#isStoreFailing = false;
          stream.uncork();
        }
      });
    });
  }

  async #greet(client: MqttClient): Promise<void> {
    const { namespace, tenant, take, listening } = this.#options;
    if (take !== null) {
      const { desired: _, birth, ...heard } = topicsOf(namespace, tenant, '+');
      // Births first: what is retained of a device that is not known yet would count for nothing.
      await client.subscribeAsync(birth, { qos: 1 });
      await client.subscribeAsync(Object.values(heard), { qos: 1 });
    }
    if (client !== this.#client) return;
    this.#isConnected = true;
    listening?.();
    for (const id of this.#store.deviceIds()) this.#untold.add(id);
    this.#tellSoon();
    if (!this.#isStoreFailing) this.#attempts = 0;
  }

  #lost(client: MqttClient): void {
    if (client !== this.#client) return;
    this.#client = null;
    client.end(true);
    this.#isConnected = false;
    this.#untold.clear();
    this.#underWay = 0;
    if (this.#isClosed) return;
    const { firstMs, mostMs } = this.#options.backoff ?? { firstMs: 500, mostMs: 30_000 };
    const most = Math.min(mostMs, firstMs * 2 ** Math.min(20, this.#attempts++));
    this.#timer = setTimeout(() => this.#connect(), Math.random() * most);
  }

  #tellSoon(): void {
    if (this.#isTelling || this.#untold.size === 0) return;
    this.#isTelling = true;
    setImmediate(() => {
      this.#isTelling = false;
      this.#tell();
    });
  }

  /** Publishes some documents; goes on when they are acknowledged. */
  #tell(): void {
    const client = this.#client;
    if (!this.#isConnected || client === null) return;
    let room = Math.min(mostAtOnce, mostUnderWay - this.#underWay);
    for (const device of this.#untold) {
      if (room-- <= 0) break;
      this.#untold.delete(device);
      const text = this.#store.desiredText(device);
      if (text !== null) this.#publish(client, device, text);
    }
    if (this.#underWay < mostUnderWay) this.#tellSoon();
  }

  #publish(client: MqttClient, device: string, text: string): void {
    const { namespace, tenant, warn } = this.#options;
    if (Buffer.byteLength(text) > documentBytes) {
      warn(`what ${device} should run takes ${Buffer.byteLength(text)} bytes, more than a document may have`);
      return;
    }
    this.#underWay++;
    const options: IClientPublishOptions = { qos: 1, retain: true };
    client.publish(topicsOf(namespace, tenant, device).desired, text, options, (error) => {
      if (client !== this.#client) return;
      this.#underWay--;
      this.#tellSoon();
      // It is published again after the next connect.
      if (error && this.#isConnected) warn(`${device} could not be told: ${error.message}`);
    });
  }
}
