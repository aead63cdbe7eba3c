/** Many simulated devices in one process, and what the console's database has of them. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Database from 'better-sqlite3';
import { Random } from '../../test/support/random.js';
import { Ledger, SimulatedDevice } from './simulated-device.js';

/** What the fleet is like. */
export interface FleetOptions {
  readonly url: string;
  readonly devices: number;
  readonly seed: number;
  /** Mean time from an order to its confirmation. */
  readonly workMs: number;
  /** First connects are spread over so long. */
  readonly connectMs: number;
}

/** Devices that were started together. */
export class SimulatedFleet {
  readonly ledger = new Ledger();
  readonly devices: readonly SimulatedDevice[];
  readonly #options: FleetOptions;
  readonly #random: Random;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.devices = Array.from({ length: options.devices }, (_, index) => {
      const random = new Random(this.#random.below(2 ** 31));
      return new SimulatedDevice(`sim-${String(index).padStart(5, '0')}`, {
        url: options.url,
        labels: { group: `g${index % 10}` },
        ledger: this.ledger,
        random: () => random.next(),
        workMs: options.workMs,
        backoff: { firstMs: 1000, mostMs: 10_000 },
      });
    });
  }

  /** Connects all of them, in jittered order. */
  async start(): Promise<void> {
    const { connectMs, devices } = this.#options;
    await Promise.all(
      this.devices.map(async (device) => {
        await sleep(this.#random.next() * (devices > 1 ? connectMs : 0));
        device.start();
      }),
    );
  }

  /** Messages that no broker has acknowledged. */
  get waiting(): number {
    return this.devices.reduce((sum, device) => sum + device.waiting, 0);
  }

  async close(): Promise<void> {
    await Promise.all(this.devices.map((device) => device.close()));
  }
}

/** The console's database, read from outside. */
export class ConsoleView {
  readonly #database: Database.Database;

  constructor(stateFolder: string) {
    this.#database = new Database(join(stateFolder, 'fleet.db'), { readonly: true });
  }

  /** Devices that are online. */
  get online(): number {
    return this.#count('SELECT count(*) FROM device WHERE online = 1');
  }

  /** Devices that have seen the newest orders that the console has for them, of those that have any. */
  get current(): number {
    return this.#count(
      'SELECT count(*) FROM device JOIN desired ON desired.device = device.id WHERE device.observed = desired.generation',
    );
  }

  /** Devices whose last report says that they have confirmed the newest orders. */
  get confirmed(): number {
    return this.#count(
      `SELECT count(*) FROM device JOIN desired ON desired.device = device.id
       WHERE reported ->> '$.observedGeneration' = desired.generation AND reported ->> '$.targets.host.active.isConfirmed' = 1
         AND reported ->> '$.targets.host.step' IS NULL`,
    );
  }

  get results(): number {
    return this.#count('SELECT count(*) FROM result');
  }

  get events(): number {
    return this.#count('SELECT count(*) FROM event');
  }

  /** How what was said differs from what is there. */
  compare(ledger: Ledger): { lost: number; doubled: number; unknown: number } {
    const resultIds = this.#database.prepare('SELECT id FROM result').pluck().all() as string[];
    const eventIds = this.#database
      .prepare("SELECT device || '/' || session || '/' || sequence FROM event")
      .pluck()
      .all() as string[];
    let [lost, doubled, unknown] = [0, 0, 0];
    for (const [said, found] of [
      [ledger.results, resultIds],
      [ledger.events, eventIds],
    ] as const) {
      const there = new Set(found);
      doubled += found.length - there.size;
      for (const id of said) if (!there.has(id)) lost++;
      for (const id of there) if (!said.has(id)) unknown++;
    }
    return { lost, doubled, unknown };
  }

  close(): void {
    this.#database.close();
  }

  #count(statement: string): number {
    return this.#database.prepare(statement).pluck().get() as number;
  }
}
