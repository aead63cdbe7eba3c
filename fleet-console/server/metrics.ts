import { collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { ConsoleLink } from './link.js';
import type { Rollouts } from './rollouts.js';
import type { ConsoleStore } from './store.js';

/** The console's metrics in the Prometheus format. No label is a device: their number is not bounded. */
export class ConsoleMetrics {
  readonly #registry = new Registry();
  readonly #devices = this.#gauge('fleet_devices', 'Devices by state.', ['state']);
  readonly #documents = this.#gauge('fleet_documents_total', 'Documents of devices since the start.', ['outcome']);
  readonly #rolloutGauge = this.#gauge('fleet_rollouts', 'Rollouts by status.', ['status']);
  readonly #connected = this.#gauge('fleet_broker_connected', 'Whether the console is connected to its broker.');
  readonly #store: ConsoleStore;
  readonly #link: ConsoleLink;
  readonly #rollouts: Rollouts;

  constructor(store: ConsoleStore, link: ConsoleLink, rollouts: Rollouts) {
    this.#store = store;
    this.#rollouts = rollouts;
    this.#link = link;
    collectDefaultMetrics({ register: this.#registry, prefix: 'fleet_' });
  }

  async text(): Promise<string> {
    const devices = this.#store.devices();
    const count = (holds: (device: (typeof devices)[0]) => boolean) => devices.filter(holds).length;
    const has = (device: (typeof devices)[0], type: string) =>
      device.reported?.conditions.some((condition) => condition.type === type && condition.status === 'true') ?? false;
    this.#devices.set({ state: 'known' }, devices.length);
    this.#devices.set(
      { state: 'online' },
      count(({ isOnline }) => isOnline),
    );
    this.#devices.set(
      { state: 'ahead' },
      count(({ isAhead }) => isAhead),
    );
    this.#devices.set(
      { state: 'degraded' },
      count((device) => has(device, 'Degraded')),
    );
    this.#devices.set(
      { state: 'infeasible' },
      count((device) => has(device, 'BudgetInfeasible')),
    );
    for (const [status, count] of Object.entries(this.#rollouts.counts())) this.#rolloutGauge.set({ status }, count);
    const { taken, refused } = this.#link.counts;
    this.#documents.set({ outcome: 'taken' }, taken);
    this.#documents.set({ outcome: 'refused' }, refused);
    this.#connected.set(this.#link.isConnected ? 1 : 0);
    return this.#registry.metrics();
  }

  #gauge(name: string, help: string, labelNames: string[] = []): Gauge {
    return new Gauge({ name, help, labelNames, registers: [this.#registry] });
  }
}
