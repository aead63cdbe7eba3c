/** The real console in a process of its own, which can be killed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { ConsoleClient } from '../../fleet-console/client.js';
import { freePort } from './broker.js';

const main = fileURLToPath(new URL('../../fleet-console/main.js', import.meta.url));

/** A console that keeps its state and its ports over kills. `brokerUrl`: an external broker; absent: its own. */
export class ConsoleProcess {
  readonly url: string;
  readonly brokerUrl: string;
  readonly #environment: NodeJS.ProcessEnv;
  #child: ChildProcess | null = null;
  stderr = '';

  private constructor(stateFolder: string, ports: { http: number; broker: number }, brokerUrl: string | null) {
    this.url = `http://127.0.0.1:${ports.http}`;
    this.brokerUrl = brokerUrl ?? `mqtt://127.0.0.1:${ports.broker}`;
    this.#environment = {
      ...process.env,
      FLEET__STATE__FOLDER: stateFolder,
      FLEET__HTTP__PORT: String(ports.http),
      FLEET__BROKER__PORT: String(ports.broker),
      ...(brokerUrl === null ? {} : { FLEET__BROKER__EMBEDDED: 'false', FLEET__MQTT__URL: brokerUrl }),
    };
  }

  static async open(stateFolder: string, brokerUrl: string | null = null): Promise<ConsoleProcess> {
    const ports = { http: await freePort(), broker: await freePort() };
    const console = new ConsoleProcess(stateFolder, ports, brokerUrl);
    await console.start();
    return console;
  }

  /** Starts it; resolves when it serves. */
  async start(): Promise<void> {
    const child = spawn(process.execPath, ['--enable-source-maps', main, 'serve'], {
      env: this.#environment,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    const ended = once(child, 'exit').then(() => {
      throw new Error(`the console ended before it served: ${this.stderr}`);
    });
    await Promise.race([once(child.stdout, 'data'), ended]);
    ended.catch(() => {});
  }

  get pid(): number {
    return this.#child!.pid!;
  }

  /** Kills it as a power cut would: at once. */
  async kill(): Promise<void> {
    const child = this.#child!;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  async stop(): Promise<void> {
    const ended = once(this.#child!, 'exit');
    this.#child!.kill('SIGTERM');
    await ended;
  }

  client(): Promise<ConsoleClient> {
    return ConsoleClient.open({ url: this.url });
  }
}
