/** Real MQTT 5 brokers for tests: the embedded one in this process, or Debian's Mosquitto in its own. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect as connectTcp, createServer, type Server, type Socket } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Aedes } from 'aedes';
import { connectAsync, type IClientOptions, type MqttClient } from 'mqtt';

/** A broker that can be stopped, and started again on the same port with nothing remembered. */
export interface TestBroker {
  readonly port: number;
  readonly url: string;
  stop(): Promise<void>;
  start(): Promise<void>;
}

/** Whether Debian's Mosquitto is installed. */
export const hasMosquitto = spawnSync('mosquitto', ['-h']).error === undefined;

/** A port that nobody uses at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

/** The embedded broker's library, bare. `allows` may refuse a client's name and password. */
export async function aedesBroker(
  allows: (username: string, password: string) => boolean = () => true,
): Promise<TestBroker> {
  const port = await freePort();
  let aedes: Aedes | null = null;
  let server: Server | null = null;
  const broker: TestBroker = {
    port,
    url: `mqtt://127.0.0.1:${port}`,
    async start() {
      aedes = await Aedes.createBroker({
        authenticate: (_client, username, password, done) => done(null, allows(username ?? '', String(password ?? ''))),
      });
      server = createServer(aedes.handle).listen(port, '127.0.0.1');
      await once(server, 'listening');
    },
    async stop() {
      const [broken, closing] = [aedes, server];
      aedes = null;
      server = null;
      if (broken !== null) await new Promise<void>((resolve) => broken.close(() => resolve()));
      if (closing !== null) await new Promise<void>((resolve) => closing.close(() => resolve()));
    },
  };
  await broker.start();
  return broker;
}

/**
 * Mosquitto with a configuration of its own. `isKeeping`: it writes what it has acknowledged and not yet delivered to disk when it is
 * stopped; else it forgets that. `settings`: further lines of its configuration.
 */
export async function mosquittoBroker({
  isKeeping = false,
  settings = [] as readonly string[],
} = {}): Promise<TestBroker> {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), 'quantd-mosquitto-'));
  const config = join(folder, 'mosquitto.conf');
  const lines = [`listener ${port} 127.0.0.1`, 'allow_anonymous true', `persistence ${isKeeping}`];
  // Started as root it would become a user who may not write there.
  if (isKeeping) lines.push(`persistence_location ${folder}/`, `user ${userInfo().username}`);
  writeFileSync(config, [...lines, ...settings, ''].join('\n'));
  let child: ReturnType<typeof spawn> | null = null;
  const broker: TestBroker = {
    port,
    url: `mqtt://127.0.0.1:${port}`,
    async start() {
      child = spawn('mosquitto', ['-c', config], { stdio: 'ignore' });
      for (let attempt = 0; attempt < 200 && !(await answers(port)); attempt++) await sleep(20);
    },
    async stop() {
      const stopping = child;
      child = null;
      if (stopping === null) return;
      stopping.kill('SIGTERM');
      await once(stopping, 'exit');
    },
  };
  await broker.start();
  return broker;
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTcp(port, '127.0.0.1');
    socket.once('connect', () => resolve(true));
    socket.once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}

/** A wire to a broker that can be cut, as a radio link is: neither end is told more than that it has ended. */
export class Wire {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server, port: number) {
    this.#server = server;
    server.on('connection', (near: Socket) => {
      const far = connectTcp(port, '127.0.0.1');
      for (const [socket, other] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#sockets.add(socket);
        socket.pipe(other);
        socket.on('error', () => {});
        socket.on('close', () => {
          this.#sockets.delete(socket);
          other.destroy();
        });
      }
    });
  }

  static async to(broker: TestBroker): Promise<Wire> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Wire(server, broker.port);
  }

  get url(): string {
    return `mqtt://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Cuts every connection; new ones are let through. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  close(): void {
    this.#server.close();
    this.cut();
  }
}

/** A plain client that collects what it hears. */
export class Listener {
  readonly messages: { topic: string; text: string; isRetained: boolean }[] = [];
  readonly client: MqttClient;

  private constructor(client: MqttClient) {
    this.client = client;
    client.on('message', (topic, payload, { retain }) => {
      this.messages.push({ topic, text: payload.toString('utf8'), isRetained: retain });
    });
    client.on('error', () => {});
  }

  static async open(broker: Pick<TestBroker, 'url'>, filter = '#', options: IClientOptions = {}): Promise<Listener> {
    const client = await connectAsync(broker.url, { protocolVersion: 5, reconnectPeriod: 50, ...options });
    const listener = new Listener(client);
    await client.subscribeAsync(filter, { qos: 1 });
    return listener;
  }

  /** What was heard on topics that end so, as JSON. */
  of<T>(ending: string): T[] {
    return this.messages.filter(({ topic }) => topic.endsWith(ending)).map(({ text }) => JSON.parse(text) as T);
  }

  async close(): Promise<void> {
    await this.client.endAsync(true);
  }
}

/** Waits until something holds; fails the test's promise after the time. */
export async function until(holds: () => boolean | Promise<boolean>, what: string, limitMs = 20_000): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`in ${limitMs} ms it was never so that ${what}`);
    await sleep(10);
  }
}
