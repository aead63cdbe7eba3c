/** A fleet under a real console: orders for all, a kill of the console and a restart of the broker meanwhile, a rollout; counted at the end. */
import { readFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ConsoleClient } from '../../fleet-console/client.js';
import { mosquittoBroker, type TestBroker } from '../../test/support/broker.js';
import { makeRelease } from '../../test/support/console.js';
import { ConsoleProcess } from '../../test/support/console-process.js';
import { ConsoleView, SimulatedFleet } from './fleet.js';
import { Probe, type RouteTimes } from './probe.js';

/** What is to be tried. */
export interface ExperimentOptions {
  readonly broker: BrokerKind;
  readonly devices: number;
  readonly seed: number;
  /** For the console's state; to be removed by the caller. */
  readonly folder: string;
  /** Mean time that a device works on an order. */
  readonly workMs: number;
  readonly connectMs: number;
  /** Whether a release is rolled out over the fleet in five stages, too. */
  readonly hasRollout: boolean;
  /** Nothing takes longer than this; else the experiment fails. */
  readonly patienceMs: number;
  readonly say: (text: string) => void;
}

/** The console's own broker; Mosquitto that writes its queues to disk when it is stopped; Mosquitto that forgets them. */
export type BrokerKind = 'embedded' | 'mosquitto' | 'forgetful-mosquitto';

/** Something that was asked of all devices. */
export interface Phase {
  readonly name: string;
  /** Until every device has said that it has seen its newest orders. */
  readonly secondsToReported: number | null;
  /** Until every device has confirmed and every message has arrived. */
  readonly secondsToConfirmed: number;
  /** Documents that the console took, a second of this phase; null where it was started anew meanwhile. */
  readonly messagesPerSecond: number | null;
  /** Results and events that were stored, a second of this phase. */
  readonly rowsPerSecond: number;
  readonly routes: readonly RouteTimes[];
  readonly loopMostMs: number;
  readonly lookMostMs: number;
  readonly residentMostMiB: number;
  /** Of the machine, over one minute, at the end. */
  readonly load: number;
}

/** What came of it. */
export interface ExperimentResult {
  readonly broker: BrokerKind;
  readonly devices: number;
  readonly seed: number;
  readonly phases: readonly Phase[];
  /** Messages that devices were told to have been taken. */
  readonly acknowledged: number;
  readonly results: number;
  readonly events: number;
  readonly lost: number;
  readonly doubled: number;
  readonly unknown: number;
  /** Devices that have seen their newest orders. */
  readonly current: number;
}

const pollMs = 500;
const arrivalMs = 10_000;
/** Share of the results of a push after which the console is killed, and the broker is started anew. */
const killShare = 0.2;
const restartShare = 0.5;

/** Runs one experiment. Fails where anything takes longer than the patience; what was lost or doubled is in the result. */
export async function runExperiment(options: ExperimentOptions): Promise<ExperimentResult> {
  const { broker: kind, folder, seed, devices, workMs, connectMs } = options;
  const stateFolder = join(folder, 'fleet');
  const broker = kind === 'embedded' ? null : await startMosquitto(kind);
  const console = await ConsoleProcess.open(stateFolder, broker?.url ?? null);
  const fleet = new SimulatedFleet({ url: console.brokerUrl, devices, seed, workMs, connectMs });
  const run = new Run(options, console, broker, fleet, new ConsoleView(stateFolder), new Probe(console.url));
  try {
    return await run.all();
  } finally {
    await run.close();
  }
}

/** Mosquitto for a fleet: more under way to the console at once, and room for what waits while it is away. */
function startMosquitto(kind: BrokerKind): Promise<TestBroker> {
  const settings = ['max_inflight_messages 200', 'max_queued_messages 0', 'autosave_interval 0'];
  return mosquittoBroker({ isKeeping: kind === 'mosquitto', settings });
}

class Run {
  readonly #options: ExperimentOptions;
  readonly #console: ConsoleProcess;
  readonly #broker: TestBroker | null;
  readonly #fleet: SimulatedFleet;
  readonly #view: ConsoleView;
  readonly #probe: Probe;
  readonly #phases: Phase[] = [];
  #residentMostMiB = 0;

  constructor(
    options: ExperimentOptions,
    console: ConsoleProcess,
    broker: TestBroker | null,
    fleet: SimulatedFleet,
    view: ConsoleView,
    probe: Probe,
  ) {
    this.#options = options;
    this.#console = console;
    this.#broker = broker;
    this.#fleet = fleet;
    this.#view = view;
    this.#probe = probe;
  }

  async all(): Promise<ExperimentResult> {
    const { broker, devices, seed, hasRollout } = this.#options;
    const client = await this.#console.client();
    await this.#phase('connect', null, async () => {
      await this.#fleet.start();
      await this.#until(() => this.#view.online === devices, 'every device is online');
    });
    await makeRelease({ url: this.#console.url, client }, 'simulated@1');
    await this.#push('assign', () =>
      client.send('POST', '/v1/assignments', { selector: 'all', target: 'host', release: 'simulated@1' }),
    );
    await this.#push('budget', () => setBudget(client, 12));
    await this.#push('budget, with faults', () => setBudget(client, 11), true);
    if (hasRollout) await this.#rollout(client);
    const { results, events, current } = this.#view;
    const { acknowledged } = this.#fleet.ledger;
    const counts = { acknowledged, results, events, current, ...this.#view.compare(this.#fleet.ledger) };
    return { broker, devices, seed, phases: this.#phases, ...counts };
  }

  async close(): Promise<void> {
    await this.#probe.close();
    await this.#fleet.close();
    this.#view.close();
    await this.#console.stop();
    await this.#broker?.stop();
  }

  /** Orders for all, until all have carried them out. */
  async #push(name: string, order: () => Promise<unknown>, hasFaults = false): Promise<void> {
    const { devices } = this.#options;
    const before = this.#view.results;
    const share = () => (this.#fleet.ledger.results.size - before) / devices;
    await this.#phase(
      name,
      () => this.#view.current === devices,
      async () => {
        await order();
        if (hasFaults) {
          await this.#until(() => share() >= killShare, 'enough devices are at work');
          await this.#console.kill();
          await this.#console.start();
          await this.#until(() => share() >= restartShare, 'devices go on');
          await this.#restartBroker();
        }
        await this.#until(() => share() >= 1 && this.#isQuiet(), 'every device has confirmed');
        await this.#arrival();
      },
    );
  }

  async #rollout(client: ConsoleClient): Promise<void> {
    await makeRelease({ url: this.#console.url, client }, 'simulated@2');
    const stages = [1, 10, 30, 60, 100].map((percent) => ({ percent, bakeSeconds: 0 }));
    await this.#phase('rollout', null, async () => {
      const wanted = { release: 'simulated@2', selector: 'all', target: 'host', policy: { stages } };
      const { id } = await client.send<{ id: number }>('POST', '/v1/rollouts', wanted);
      const isOver = async () => (await client.get<{ status: string }>(`/v1/rollouts/${id}`)).status === 'completed';
      await this.#until(isOver, 'the rollout has completed', 1000);
      await this.#until(() => this.#isQuiet(), 'every device has confirmed');
      await this.#arrival();
    });
  }

  /** A broker of the console's own goes and comes with it. */
  async #restartBroker(): Promise<void> {
    if (this.#broker === null) {
      await this.#console.stop();
      await this.#console.start();
    } else {
      await this.#broker.stop();
      await this.#broker.start();
    }
  }

  /** Nobody has anything left to do or to send. */
  #isQuiet(): boolean {
    return this.#fleet.waiting === 0 && this.#view.confirmed === this.#options.devices;
  }

  /** Waits for what brokers have taken and not yet delivered; what does not come is lost. */
  async #arrival(): Promise<void> {
    const { results, events } = this.#fleet.ledger;
    const deadline = performance.now() + arrivalMs;
    while (this.#view.results + this.#view.events < results.size + events.size && performance.now() < deadline)
      await sleep(pollMs);
  }

  async #phase(name: string, isReported: (() => boolean) | null, work: () => Promise<void>): Promise<void> {
    await this.#probe.take();
    this.#residentMostMiB = 0;
    const rows = this.#view.results + this.#view.events;
    const taken = await this.#taken();
    const started = performance.now();
    let secondsToReported: number | null = null;
    const seconds = () => (performance.now() - started) / 1000;
    const watch = setInterval(() => {
      if (secondsToReported === null && isReported?.()) secondsToReported = seconds();
      this.#watchMemory();
    }, pollMs);
    try {
      await work();
    } finally {
      clearInterval(watch);
    }
    if (secondsToReported === null && isReported?.()) secondsToReported = seconds();
    const secondsToConfirmed = seconds();
    const more = (await this.#taken()) - taken;
    const phase: Phase = {
      name,
      secondsToReported,
      secondsToConfirmed,
      messagesPerSecond: more > 0 && !name.includes('faults') ? more / secondsToConfirmed : null,
      rowsPerSecond: (this.#view.results + this.#view.events - rows) / secondsToConfirmed,
      ...(await this.#probe.take()),
      residentMostMiB: this.#residentMostMiB,
      load: loadavg()[0]!,
    };
    this.#phases.push(phase);
    this.#options.say(describe(phase));
  }

  /** Documents that the console has taken since it was started. */
  async #taken(): Promise<number> {
    const text = await (await fetch(`${this.#console.url}/metrics`)).text();
    return Number(/^fleet_documents_total\{outcome="taken"\} (\d+)$/m.exec(text)?.[1] ?? 0);
  }

  #watchMemory(): void {
    try {
      const status = readFileSync(`/proc/${this.#console.pid}/status`, 'utf8');
      const residentMiB = Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) / 1024;
      this.#residentMostMiB = Math.max(this.#residentMostMiB, residentMiB);
    } catch {
      // It was killed a moment ago.
    }
  }

  async #until(holds: () => boolean | Promise<boolean>, what: string, everyMs = pollMs): Promise<void> {
    const deadline = performance.now() + this.#options.patienceMs;
    while (!(await holds())) {
      if (performance.now() > deadline) {
        const { online, current, confirmed, results, events } = this.#view;
        const seen = `${online} online, ${current} current, ${confirmed} confirmed, ${results} results, ${events} events`;
        throw new Error(
          `it was never so that ${what}: ${seen}; ${this.#fleet.waiting} wait. ${this.#console.stderr.slice(-2000)}`,
        );
      }
      await sleep(everyMs);
    }
  }
}

/** Generations rise with every budget. */
function setBudget(client: ConsoleClient, latencyMs: number): Promise<unknown> {
  return client.send('PUT', '/v1/budgets', { selector: 'all', budget: { latencyMs } });
}

/** A phase in a few lines. */
export function describe(phase: Phase): string {
  const number = (value: number | null, digits = 0) => (value === null ? '-' : value.toFixed(digits));
  const { name, secondsToReported, secondsToConfirmed, messagesPerSecond, rowsPerSecond } = phase;
  const lines = [
    `${name}: reported ${number(secondsToReported, 1)} s, confirmed ${number(secondsToConfirmed, 1)} s, ` +
      `${number(messagesPerSecond)} messages/s, ${number(rowsPerSecond)} rows/s, resident ${number(phase.residentMostMiB)} MiB, ` +
      `loop held ${number(phase.loopMostMs)} ms, look ${number(phase.lookMostMs)} ms, load ${number(phase.load, 1)}`,
    ...phase.routes.map(
      ({ route, requests, failed, p50Ms, p99Ms, mostMs }) =>
        `  ${route.padEnd(24)} ${number(p50Ms, 1).padStart(8)} p50 ${number(p99Ms, 1).padStart(8)} p99 ${number(mostMs, 1).padStart(8)} most ms, ` +
        `${requests} requests, ${failed} failed`,
    ),
  ];
  return lines.join('\n');
}
