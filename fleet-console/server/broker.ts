import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { Aedes, type AedesPublishPacket, type Client } from 'aedes';
import { packetBytes, parseTopic } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Take } from './intake.js';

/** Clients that have waited are let in so many at a time: the console answers others in between. */
const admittedAtOnce = 20;
/** Characters of a topic that are shown of it where it is refused. */
const shownTopic = 200;

/** Who may connect already. */
interface Admission {
  first: string | null;
  isOpen: boolean;
  readonly waiting: (() => void)[];
}

/** What a broker is told when it is opened. */
export interface BrokerOptions {
  readonly host: string;
  readonly port: number;
  /** Where devices speak: see `topicsOf`. */
  readonly namespace: string;
  readonly tenant: string;
  /** What the console itself shows; nobody else may have its name. */
  readonly ownPassword: string;
  /** Whether what any other client shows lets it in; null: nothing is asked. */
  readonly isPassword: ((shown: string) => boolean) | null;
  /** Takes what devices say before it is acknowledged to them. */
  readonly take: Take;
  readonly warn: (text: string) => void;
}

/** Something that a client may not do; it has been warned of. */
class Refusal extends Error {
  constructor() {
    super('not authorized');
  }
}

/** The part of the library's memory that is about retained documents. */
interface RetainedMemory {
  storeRetained(packet: AedesPublishPacket): Promise<void>;
  createRetainedStreamCombi(patterns: readonly string[]): Readable;
}

/**
 * The library compares every retained document with every subscription: a fleet that comes back at once would hold up everybody for
 * as many comparisons as it has devices, squared. Devices name their topics whole, and those are looked up.
 */
function lookRetainedUp(memory: RetainedMemory): void {
  const store = memory.storeRetained.bind(memory);
  const search = memory.createRetainedStreamCombi.bind(memory);
  const byTopic = new Map<string, AedesPublishPacket>();
  memory.storeRetained = (packet) => {
    if (packet.payload.length === 0) byTopic.delete(packet.topic);
    else byTopic.set(packet.topic, { ...packet });
    return store(packet);
  };
  memory.createRetainedStreamCombi = (patterns) =>
    patterns.some((pattern) => /[+#]/.test(pattern))
      ? search(patterns)
      : Readable.from(patterns.flatMap((topic) => byTopic.get(topic) ?? []));
}

/**
 * An MQTT 5 broker inside the console. It keeps nothing over a restart: retained documents are published again from the database, and
 * devices ask anew after each connect. Therefore it acknowledges nothing to a device that is not in the database; what cannot be stored ends
 * the connection, and is sent again with the next one.
 *
 * A client may speak for the device whose id is its name, and hear what that device should run; only the console itself may say what that
 * is. Anything else is refused with reason 0x87 (MQTT 5, section 2.4), which disturbs nothing else that the client does, and is warned of
 * once a connection. Older versions of MQTT know no such answer: there, the connection ends.
 */
export class EmbeddedBroker {
  readonly #aedes: Aedes;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #admission: Admission;

  private constructor(aedes: Aedes, server: Server, admission: Admission) {
    this.#aedes = aedes;
    this.#server = server;
    this.#admission = admission;
    server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
  }

  /** Listens. Others than the console itself wait until `admit`. Fails with `broker/unusable` when the address cannot be had. */
  static async open(options: BrokerOptions): Promise<EmbeddedBroker> {
    const { host, port, namespace, tenant, ownPassword, isPassword, take, warn } = options;
    const admission: Admission = { first: null, waiting: [], isOpen: false };
    /** Connections of the console itself. */
    const own = new WeakSet<Client>();
    const refused = new WeakSet<Client>();
    const isOwnTopic = (client: Client | null, topic: string, isToHear: boolean) => {
      const parsed = parseTopic(namespace, tenant, topic);
      return parsed !== null && parsed.device === client?.id && (parsed.kind === 'desired') === isToHear;
    };
    const refusal = (client: Client | null, what: string, topic: string) => {
      if (client !== null && !refused.has(client)) {
        refused.add(client);
        warn(
          `client ${client.id} may not ${what} ${JSON.stringify(topic.slice(0, shownTopic))}: its name has to be the device's, ` +
            'and namespace and tenant those of the console',
        );
      }
      return new Refusal();
    };
    const aedes = await Aedes.createBroker({
      maxClientsIdLength: 64,
      preConnect: (_client, packet, done) => {
        if (admission.isOpen || packet.clientId === admission.first) done(null, true);
        else admission.waiting.push(() => done(null, true));
      },
      authenticate: (client, _username, shown, done) => {
        const text = Buffer.from(shown ?? '').toString('utf8');
        if (client.id !== admission.first) done(null, isPassword === null || isPassword(text));
        else {
          if (text === ownPassword) own.add(client);
          done(null, text === ownPassword);
        }
      },
      authorizePublish: (client, { topic, payload }, done) => {
        // Nothing of ours is larger.
        if (Buffer.byteLength(payload) > packetBytes) done(new Error('the packet is too large'));
        else if (client !== null && own.has(client)) done(null);
        else if (!isOwnTopic(client, topic, false)) done(refusal(client, 'publish on', topic));
        else
          take(topic, Buffer.from(payload), (isStored) => {
            // An error would be taken for a refusal, after which the device throws away what it has sent.
            if (isStored) done(null);
            else client?.close();
          });
      },
      authorizeSubscribe: (client, subscription, done) => {
        if (own.has(client) || isOwnTopic(client, subscription.topic, true)) done(null, subscription);
        else {
          refusal(client, 'hear', subscription.topic);
          done(null, null);
        }
      },
    });
    lookRetainedUp((aedes as unknown as { persistence: RetainedMemory }).persistence);
    aedes.on('clientError', (client, error) => {
      if (!(error instanceof Refusal)) warn(`client ${client?.id ?? '?'}: ${error.message}`);
    });
    aedes.on('connectionError', (_client, error) => warn(`a connection: ${error.message}`));
    const server = createServer(aedes.handle);
    const broker = new EmbeddedBroker(aedes, server, admission);
    server.listen(port, host);
    try {
      await once(server, 'listening');
    } catch (cause) {
      aedes.close();
      throw new EdgeError('broker/unusable', `the broker cannot listen: ${(cause as Error).message}`, {
        subject: `${host}:${port}`,
        cause,
      });
    }
    return broker;
  }

  /** Where devices connect. */
  get url(): string {
    const { address, port, family } = this.#server.address() as AddressInfo;
    return `mqtt://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
  }

  /** Names the client that may connect before all others. */
  reserve(clientId: string): void {
    this.#admission.first = clientId;
  }

  /**
   * Lets everybody in. To be called when the console listens: what a device sends before, nobody would hear, and the device would
   * take it for delivered.
   */
  admit(): void {
    const { waiting } = this.#admission;
    for (const proceed of waiting.splice(0, admittedAtOnce)) proceed();
    if (waiting.length > 0) setImmediate(() => this.admit());
    else this.#admission.isOpen = true;
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => this.#aedes.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
