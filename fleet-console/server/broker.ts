import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { Aedes } from 'aedes';
import { packetBytes } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';

/**
 * An MQTT 5 broker inside the console. It keeps nothing over a restart: retained documents are published again from the database, and
 * devices ask anew after each connect.
 */
export class EmbeddedBroker {
  readonly #aedes: Aedes;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(aedes: Aedes, server: Server) {
    this.#aedes = aedes;
    this.#server = server;
    server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
  }

  /** Listens. Fails with `broker/unusable` when the address cannot be had. */
  static async open(host: string, port: number, warn: (text: string) => void): Promise<EmbeddedBroker> {
    const aedes = await Aedes.createBroker({
      maxClientsIdLength: 64,
      // Larger ones end the connection: nothing of ours is larger.
      authorizePublish: (_client, packet, done) => {
        done(Buffer.byteLength(packet.payload) > packetBytes ? new Error('the packet is too large') : null);
      },
    });
    aedes.on('clientError', (client, error) => warn(`client ${client?.id ?? '?'}: ${error.message}`));
    aedes.on('connectionError', (_client, error) => warn(`a connection: ${error.message}`));
    const server = createServer(aedes.handle);
    const broker = new EmbeddedBroker(aedes, server);
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

  async close(): Promise<void> {
    await new Promise<void>((resolve) => this.#aedes.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
