import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { Aedes } from 'aedes';
import { packetBytes } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Take } from './intake.js';

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
  /** Whether what a client shows lets it in, under any name; null: nothing is asked. */
  readonly isPassword: ((shown: string) => boolean) | null;
  /** Takes what devices say before it is acknowledged to them. */
  readonly take: Take;
  readonly warn: (text: string) => void;
}

/**
 * An MQTT 5 broker inside the console. It keeps nothing over a restart: retained documents are published again from the database, and
 * devices ask anew after each connect. Therefore it acknowledges nothing to a device that is not in the database; what cannot be stored ends
 * the connection, and is sent again with the next one.
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
  static async open({ host, port, isPassword, take, warn }: BrokerOptions): Promise<EmbeddedBroker> {
    const admission: Admission = { first: null, waiting: [], isOpen: false };
    const aedes = await Aedes.createBroker({
      maxClientsIdLength: 64,
      preConnect: (_client, packet, done) => {
        if (admission.isOpen || packet.clientId === admission.first) done(null, true);
        else admission.waiting.push(() => done(null, true));
      },
      authenticate: (_client, _username, shown, done) => {
        done(null, isPassword === null || isPassword(Buffer.from(shown ?? '').toString('utf8')));
      },
      authorizePublish: (client, { topic, payload }, done) => {
        // Nothing of ours is larger.
        if (Buffer.byteLength(payload) > packetBytes) done(new Error('the packet is too large'));
        else if (client?.id === admission.first) done(null);
        else
          take(topic, Buffer.from(payload), (isStored) => {
            // An error would be taken for a refusal, after which the device throws away what it has sent.
            if (isStored) done(null);
            else client?.close();
          });
      },
    });
    aedes.on('clientError', (client, error) => warn(`client ${client?.id ?? '?'}: ${error.message}`));
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
    this.#admission.isOpen = true;
    for (const proceed of this.#admission.waiting.splice(0)) proceed();
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => this.#aedes.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
