/**
 * `npm run demo`: a console and two devices on this machine, each a process of its own, with nothing downloaded. Version 1 of the
 * bundled model is released; each device profiles, quantizes, verifies and activates it. Then the budget is tightened: each plans
 * again from its stored measurements. Then version 2 is released under the same budget. Everything goes through the console, as it
 * would with real devices. It ends with a table.
 *
 *   npm run demo [-- --once] [--json]        --json: one JSON document on stdout; progress goes to stderr either way
 *
 * Without `--once` the console and the devices are left running, with their addresses, until Ctrl-C.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { textTable } from '../agent/core/text-table.js';
import type { QuantizeDocument } from '../agent/report.js';
import type { DeviceEvent, DeviceResult, Measurements, TargetReport } from '../configs/contracts/device.js';
import type { Budget } from '../configs/contracts/plan.js';
import { ConsoleClient } from '../fleet-console/client.js';
import { budgetText, inBytes, inPercent, inUnit } from '../fleet-console/commands/common.js';
import type { DeviceDocument } from '../fleet-console/commands/devices.js';

/** One device at the end of one act. */
interface Act {
  readonly device: string;
  readonly release: string;
  readonly budget: Budget;
  readonly measurements: Measurements;
  readonly seconds: number;
  readonly reprofiled: boolean;
}

const fromRoot = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const models = fromRoot('scripts/firewatch/model');
const devices = ['drone-1', 'gateway-1'];
const groups: Readonly<Record<string, string>> = { 'drone-1': 'drones', 'gateway-1': 'gateways' };
/** Of the float model's size, in the tightened budget: uniform int8 needs 43 %, so there is something to choose. */
const sizeShare = 0.6;
/** An act that takes longer has failed. */
const actMs = 300_000;
const children: ChildProcess[] = [];

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

function start(main: string, args: readonly string[], environment: Record<string, string>): ChildProcess {
  const child = spawn(process.execPath, [fromRoot(main), ...args], {
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  return child;
}

/** Starts the console on free ports; answers its addresses. */
async function startConsole(folder: string): Promise<{ url: string; broker: string }> {
  const child = start('dist/fleet-console/main.js', ['serve', '--json'], {
    FLEET__HTTP__PORT: '0',
    FLEET__BROKER__PORT: '0',
    FLEET__STATE__FOLDER: join(folder, 'fleet'),
  });
  let text = '';
  for await (const chunk of child.stdout!) {
    text += String(chunk);
    if (text.trimEnd().endsWith('}')) break;
  }
  if (text === '') throw new Error('the console did not start');
  return JSON.parse(text) as { url: string; broker: string };
}

function startDevice(id: string, folder: string, { url, broker }: { url: string; broker: string }): void {
  const child = start('dist/agent/main.js', ['run'], {
    QUANTD__DEVICE__ID: id,
    QUANTD__DEVICE__GROUP: groups[id]!,
    QUANTD__STATE__FOLDER: join(folder, id),
    QUANTD__CONSOLE__URL: url,
    QUANTD__MQTT__URL: broker,
    QUANTD__SAMPLES__FOLDER: join(models, 'samples'),
    QUANTD__CONFIRM__BAKE_SECONDS: '1',
    QUANTD__LOG__LEVEL: 'warn',
  });
  // Its journal: a warning is worth a line.
  child.stdout!.on('data', (text: Buffer) => process.stderr.write(`${id}: ${text}`));
  child.on('exit', (code, signal) => {
    if (!isEnding) say(`${id} ended unexpectedly (${signal ?? `status ${code}`})`);
  });
}

/** Waits until every device has a release active and confirmed under a budget. */
async function act(client: ConsoleClient, release: string, budget: Budget): Promise<Act[]> {
  const deadline = performance.now() + actMs;
  const wanted = JSON.stringify(budget);
  for (;;) {
    const { devices: all } = await client.get<{ devices: DeviceDocument[] }>('/v1/devices');
    const hosts = all.map((device) => ({ device, host: device.reported?.targets.host as TargetReport | undefined }));
    const failure = hosts
      .flatMap(({ device }) => (device.reported?.conditions ?? []).map((condition) => ({ device, condition })))
      .find(({ condition }) => condition.failure !== undefined && condition.type !== 'Degraded');
    if (failure !== undefined) throw new Error(`${failure.device.id}: ${failure.condition.message}`);
    const done = hosts.filter(
      ({ host }) =>
        host?.active?.release === release && host.active.isConfirmed && JSON.stringify(host.active.budget) === wanted,
    );
    if (done.length === devices.length) {
      return done.map(({ device, host }) => ({
        device: device.id,
        release,
        budget,
        measurements: host!.active!.measurements,
        seconds: host!.secondsToActive ?? Number.NaN,
        reprofiled: host!.hasReprofiled ?? true,
      }));
    }
    if (performance.now() > deadline)
      throw new Error(`no end of ${release} under ${budgetText(budget)} in ${actMs / 1000} s`);
    await sleep(100);
  }
}

/** The newest result; it is published right after the artifact is confirmed. */
async function newestResult(client: ConsoleClient): Promise<DeviceResult> {
  for (;;) {
    const { results } = await client.get<{ results: DeviceResult[] }>('/v1/results', { limit: 1 });
    if (results[0] !== undefined) return results[0];
    await sleep(50);
  }
}

/** Tells on stderr what devices do. */
async function narrate(client: ConsoleClient, signal: AbortSignal): Promise<void> {
  for await (const { event, data } of client.events(signal)) {
    if (event !== 'event') continue;
    const { device, type, message } = data as DeviceEvent;
    say(`     ${device.padEnd(10)} ${type}: ${message}`);
  }
}

async function release(client: ConsoleClient, version: string): Promise<string> {
  const model = join(models, `firewatch-v${version}.onnx`);
  const sha256 = await client.upload(model, () => {});
  const card = JSON.parse(readFileSync(model.replace(/\.onnx$/, '.json'), 'utf8')) as unknown;
  const id = `firewatch@${version}.0.0`;
  await client.send('POST', '/v1/releases', { id, model: { sha256 }, card });
  await client.send('POST', '/v1/assignments', { selector: 'all', target: 'host', release: id });
  return id;
}

async function demonstrate(client: ConsoleClient): Promise<{ first: Act[]; tightened: Act[]; second: Act[] }> {
  say('1/3  firewatch 1.0.0 to all devices: each profiles every operator here, then takes the fastest plan');
  const first = await act(client, await release(client, '1'), {});
  const { floatBytes } = ((await newestResult(client)).document as unknown as QuantizeDocument).size;
  const budget = { sizeBytes: Math.round((floatBytes * sizeShare) / 1024) * 1024 };
  say(`2/3  the budget of all devices becomes ${budgetText(budget)}: each plans again from its stored tables`);
  await client.send('PUT', '/v1/budgets', { selector: 'all', budget });
  const tightened = await act(client, 'firewatch@1.0.0', budget);
  say('3/3  firewatch 2.0.0 to all devices: new weights, the same operators, the same budget');
  const second = await act(client, await release(client, '2'), budget);
  const again = [...tightened, ...second].find(({ reprofiled }) => reprofiled);
  if (again !== undefined) throw new Error(`${again.device} timed operators again for ${again.release}`);
  return { first, tightened, second };
}

function documentOf({ first, tightened, second }: Awaited<ReturnType<typeof demonstrate>>) {
  return {
    devices: second.map(({ device, release: active, budget, measurements }, index) => ({
      id: device,
      target: 'host',
      release: active,
      budget,
      active: true,
      latency: measurements.latency,
      quality: measurements.quality,
      secondsToActive: first[index]!.seconds,
      secondsToReplan: tightened[index]!.seconds,
      reprofiled: [tightened[index]!, second[index]!].some(({ reprofiled }) => reprofiled),
    })),
  };
}

function printTable(acts: readonly Act[]): void {
  const rows = acts.map(({ device, release: active, budget, measurements, seconds, reprofiled }) => {
    const { latency, quality, sizeBytes, averageWeightBits, averageActivationBits } = measurements;
    return [
      device,
      active,
      budgetText(budget),
      `W${averageWeightBits?.toFixed(1)} A${averageActivationBits?.toFixed(1)}`,
      inBytes(sizeBytes),
      inUnit(latency.float),
      inUnit(latency.int8),
      inUnit(latency.measured),
      inPercent(quality.floatTop1),
      inPercent(quality.top1),
      inPercent(quality.agreement),
      reprofiled ? 'yes' : 'no',
      `${seconds.toFixed(1)} s`,
    ];
  });
  const header = [
    'device',
    'active',
    'budget',
    'bits',
    'size',
    'float',
    'int8',
    'plan',
    'top-1 float',
    'plan',
    'agreement',
    'profiled',
    'to active',
  ];
  process.stdout.write(`\n${textTable(header, rows)}\n`);
  process.stdout.write(
    `
Bits: 32 is float; an operator stays float where int8 is not faster on this machine and the budget allows it.
Latency: medians of ONNX Runtime on this machine, one thread, timed in turn. To active: from the device's taking the order to its
serving the new model; both devices share this machine and time one after the other.
`,
  );
}

let isEnding = false;
async function end(): Promise<void> {
  isEnding = true;
  const running = children.filter((child) => child.exitCode === null && child.signalCode === null);
  const ended = running.map((child) => new Promise((resolve) => child.once('exit', resolve)));
  // Devices first, so that the console hears their goodbye.
  for (const child of [...running].reverse()) child.kill('SIGTERM');
  const timer = setTimeout(() => running.map((child) => child.kill('SIGKILL')), 8000);
  await Promise.all(ended);
  clearTimeout(timer);
}

async function main(interrupted: AbortSignal): Promise<void> {
  const { values } = parseArgs({ options: { once: { type: 'boolean' }, json: { type: 'boolean' } } });
  const folder = mkdtempSync(join(tmpdir(), 'quantd-demo-'));
  const narration = new AbortController();
  try {
    const addresses = await startConsole(folder);
    say(`console ${addresses.url}`);
    const client = await ConsoleClient.open({ url: addresses.url });
    narrate(client, narration.signal).catch(() => {});
    for (const id of devices) startDevice(id, folder, addresses);
    const acts = await Promise.race([demonstrate(client), aborted(interrupted)]);
    if (values.json) process.stdout.write(`${JSON.stringify(documentOf(acts), null, 2)}\n`);
    else printTable([...acts.first, ...acts.tightened, ...acts.second]);
    if (!values.once) {
      say(
        `\nThe console is left open: ${addresses.url}\nTry: npx fleet devices --console ${addresses.url}\nCtrl-C ends it.`,
      );
      await aborted(interrupted).catch(() => {});
    }
  } finally {
    narration.abort();
    await end();
    rmSync(folder, { recursive: true, force: true });
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(new Error('interrupted')), { once: true });
  });
}

const interruption = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interruption.abort());
try {
  await main(interruption.signal);
} catch (error) {
  const isInterrupted = interruption.signal.aborted;
  say(isInterrupted ? 'demo: interrupted' : `demo: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = isInterrupted ? 130 : 1;
}
