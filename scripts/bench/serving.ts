/**
 * What an application notices of the daemon's work: the time of its requests while nothing goes on and while a large model is being
 * quantized beside the one that answers, and whether any request fails while models change. The load comes from this process, the
 * daemon and the console are others. The delay of the daemon's event loop is its own metric, over its whole life.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { median, quantile } from '../../agent/core/statistics.js';
import { table } from '../../agent/terminal.js';
import { ConsoleSettings } from '../../configs/contracts/console-settings.js';
import { resolveSettings } from '../../configs/settings.js';
import { ConsoleClient } from '../../fleet-console/client.js';
import type { DeviceDocument } from '../../fleet-console/commands/devices.js';
import { openConsole } from '../../fleet-console/server/serve.js';
import { type BenchModel, packageRoot } from './models.js';

const firewatch = (version: number) => join(packageRoot, 'scripts', 'firewatch', 'model', `firewatch-v${version}.onnx`);
const inputBytes = 3 * 64 * 64 * 4;
/** Between requests: an application with a camera, not a load test. */
const pauseMs = 5;

/** Times of requests, and how many failed. */
class Load {
  readonly times: number[] = [];
  failures = 0;
  #isOver = false;
  readonly #ended: Promise<void>;

  constructor(socketPath: string) {
    this.#ended = this.#run(socketPath);
  }

  async end(): Promise<this> {
    this.#isOver = true;
    await this.#ended;
    return this;
  }

  async #run(socketPath: string): Promise<void> {
    while (!this.#isOver) {
      const started = performance.now();
      const { status } = await ask(socketPath, 'POST', '/v1/infer', new Uint8Array(inputBytes));
      if (status === 200) this.times.push(performance.now() - started);
      else this.failures++;
      await sleep(pauseMs);
    }
  }
}

/** The benchmark; of the models given, the last that is not the bundled one is what is quantized beside. */
export async function servingBench(models: readonly BenchModel[]): Promise<unknown> {
  const beside = models.find(({ name }) => name.startsWith('mobilenetv2')) ?? models.at(-1)!;
  const folder = mkdtempSync(join(tmpdir(), 'qs-'));
  const settings = resolveSettings(ConsoleSettings, [
    { origin: 'bench', values: { http: { port: 0 }, broker: { port: 0 } } },
  ]);
  const console = await openConsole(settings.values, {
    version: '0',
    stateFolder: join(folder, 'fleet'),
    warn: () => {},
  });
  const client = await ConsoleClient.open({ url: console.url });
  const socketPath = join(folder, 'device', 'quantd.sock');
  const daemon = spawn(process.execPath, [join(packageRoot, 'dist', 'agent', 'main.js'), 'run'], {
    env: {
      ...process.env,
      QUANTD__DEVICE__ID: 'bench',
      QUANTD__STATE__FOLDER: join(folder, 'device'),
      QUANTD__CONSOLE__URL: console.url,
      QUANTD__MQTT__URL: console.brokerUrl,
      QUANTD__CONFIRM__BAKE_SECONDS: '1',
    },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  try {
    await release(client, 'small@1', firewatch(1));
    await release(client, 'small@2', firewatch(2));
    await release(client, 'large@1', beside.path);
    await assign(client, 'small@1');
    await until(client, ({ reported }) => reported?.targets.host?.active?.isConfirmed === true);
    const idle = new Load(socketPath);
    await sleep(10_000);
    await idle.end();
    const working = new Load(socketPath);
    await assign(client, 'large@1');
    await until(client, ({ reported }) => reported?.targets.host?.step?.name === 'profile');
    await until(client, ({ reported }) => reported?.targets.host?.step?.name === 'verify');
    await working.end();
    // The large model is not waited for: another wish, and what was under way is given up.
    const changing = new Load(socketPath);
    await assign(client, 'small@2');
    await until(client, ({ reported }) => isActive(reported, 'small@2'));
    await assign(client, 'small@1');
    await until(client, ({ reported }) => isActive(reported, 'small@1'));
    await changing.end();
    const { text } = await ask(socketPath, 'GET', '/metrics');
    const lagMs = Number(/^quantd_nodejs_eventloop_lag_p99_seconds (\S+)$/m.exec(text)?.[1]) * 1000;
    const rows = Object.entries({ idle, [`${beside.name} is quantized`]: working, 'models change': changing }).map(
      ([name, load]) => ({
        phase: name,
        requests: load.times.length,
        failures: load.failures,
        medianMs: median(load.times),
        p99Ms: quantile(load.times, 0.99),
      }),
    );
    const cells = rows.map((row) => [
      row.phase,
      row.requests,
      row.failures,
      row.medianMs.toFixed(2),
      row.p99Ms.toFixed(2),
    ]);
    process.stdout.write(`${table(['while', 'requests', 'failed', 'median ms', 'p99 ms'], cells)}\n`);
    process.stdout.write(
      `\np99 against idle: ${(rows[1]!.p99Ms / rows[0]!.p99Ms).toFixed(1)} times; event loop of the daemon, p99 ${lagMs.toFixed(1)} ms\n`,
    );
    return { rows, eventLoopP99Ms: lagMs };
  } finally {
    daemon.kill('SIGTERM');
    await new Promise((resolve) => daemon.once('exit', resolve));
    await console.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

function isActive(reported: DeviceDocument['reported'], id: string): boolean {
  const active = reported?.targets.host?.active;
  return active?.release === id && active.isConfirmed;
}

async function release(client: ConsoleClient, id: string, path: string): Promise<void> {
  const sha256 = await client.upload(path, () => {});
  const card = JSON.parse(readFileSync(path.replace(/\.onnx$/, '.json'), 'utf8')) as unknown;
  await client.send('POST', '/v1/releases', { id, model: { sha256 }, card });
}

const assign = (client: ConsoleClient, id: string) =>
  client.send('POST', '/v1/assignments', { selector: 'all', target: 'host', release: id });

async function until(client: ConsoleClient, holds: (device: DeviceDocument) => boolean): Promise<void> {
  const deadline = performance.now() + 300_000;
  for (;;) {
    const device = await client.get<DeviceDocument>('/v1/devices/bench').catch(() => null);
    if (device !== null && holds(device)) return;
    if (performance.now() > deadline) throw new Error(`never: ${JSON.stringify(device?.reported?.conditions)}`);
    await sleep(50);
  }
}

function ask(
  socketPath: string,
  method: string,
  path: string,
  body?: Uint8Array,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve) => {
    const headers = { 'content-type': 'application/octet-stream' };
    const asked = request({ socketPath, method, path, headers }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    asked.on('error', () => resolve({ status: 0, text: '' }));
    asked.end(body);
  });
}
