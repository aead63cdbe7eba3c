import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { AuditLog } from './audit.js';
import type { Auth } from './auth.js';
import type { Intake } from './intake.js';
import type { ConsoleLink } from './link.js';
import type { Rollouts } from './rollouts.js';
import type { ConsoleStore } from './store.js';
import type { Webhooks } from './webhooks.js';

/** What the numbers are taken from. */
export interface Measured {
  readonly store: ConsoleStore;
  readonly intake: Intake;
  readonly link: ConsoleLink;
  readonly rollouts: Rollouts;
  readonly auth: Auth;
  readonly audit: AuditLog;
  readonly webhooks: Webhooks;
}

/** The console's metrics in the Prometheus format. No label is a device, person or webhook: their number is not bounded. */
export class ConsoleMetrics {
  readonly #registry = new Registry();
  readonly #devices = this.#gauge('fleet_devices', 'Devices by state.', ['state']);
  readonly #documents = this.#gauge('fleet_documents_total', 'Documents of devices since the start.', ['outcome']);
  readonly #rolloutGauge = this.#gauge('fleet_rollouts', 'Rollouts by status.', ['status']);
  readonly #look = this.#gauge('fleet_rollout_look_seconds', 'How long the last look at all rollouts took.');
  readonly #connected = this.#gauge('fleet_broker_connected', 'Whether the console is connected to its broker.');
  readonly #logins = this.#gauge('fleet_logins_total', 'Log-ins since the start.', ['outcome']);
  readonly #auditEntries = this.#gauge('fleet_audit_entries', 'Entries of the audit.');
  readonly #webhookGauge = this.#gauge('fleet_webhook_deliveries', 'Deliveries of the webhooks there are.', ['state']);
  readonly #requests = new Counter({
    name: 'fleet_http_requests_total',
    help: 'Requests since the start, by route and class of status.',
    labelNames: ['route', 'status'],
    registers: [this.#registry],
  });
  readonly #measured: Measured;

  constructor(measured: Measured) {
    this.#measured = measured;
    collectDefaultMetrics({ register: this.#registry, prefix: 'fleet_' });
  }

  /** Counts a request. `route`: its pattern, not what was asked for; undefined where there is none such. */
  answered(method: string, route: string | undefined, status: number): void {
    const name = route === undefined ? 'none' : `${method} ${route}`;
    this.#requests.inc({ route: name, status: `${Math.floor(status / 100)}xx` });
  }

  async text(): Promise<string> {
    const { store, rollouts, intake, link, auth, audit, webhooks } = this.#measured;
    for (const [state, count] of Object.entries(await store.deviceCounts())) this.#devices.set({ state }, count);
    for (const [status, count] of Object.entries(rollouts.counts())) this.#rolloutGauge.set({ status }, count);
    this.#look.set(rollouts.lookMs / 1000);
    const { taken, refused } = intake.counts;
    this.#documents.set({ outcome: 'taken' }, taken);
    this.#documents.set({ outcome: 'refused' }, refused);
    this.#connected.set(link.isConnected ? 1 : 0);
    for (const [outcome, count] of Object.entries(auth.counts)) this.#logins.set({ outcome }, count);
    for (const [state, count] of Object.entries(webhooks.counts())) this.#webhookGauge.set({ state }, count);
    this.#auditEntries.set(audit.size);
    return this.#registry.metrics();
  }

  #gauge(name: string, help: string, labelNames: string[] = []): Gauge {
    return new Gauge({ name, help, labelNames, registers: [this.#registry] });
  }
}
