import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { ReportedState } from '../../configs/contracts/device.js';

/** The daemon's metrics in the Prometheus format. Labels are few and bounded: targets, steps, outcomes. */
export class DaemonMetrics {
  readonly #registry = new Registry();
  readonly #inferSeconds = new Histogram({
    name: 'quantd_infer_seconds',
    help: 'Time to answer a request of an application, queueing included.',
    labelNames: ['target', 'outcome'],
    buckets: [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5],
    registers: [this.#registry],
  });
  readonly #frames = new Counter({
    name: 'quantd_sample_frames_total',
    help: 'Frames that applications have handed over.',
    labelNames: ['target'],
    registers: [this.#registry],
  });
  readonly #generation = this.#gauge('quantd_observed_generation', 'Highest generation of the desired document.');
  readonly #active = this.#gauge('quantd_active', 'Whether a confirmed model is active.', ['target']);
  readonly #latency = this.#gauge('quantd_measured_latency_ms', 'Measured latency of the active model.', ['target']);
  readonly #degraded = this.#gauge('quantd_degraded', 'Whether a step keeps failing.', ['target']);
  readonly #gated = this.#gauge('quantd_gated', 'Whether something waits for maintenance gates.', ['target']);
  readonly #gates = this.#gauge(
    'quantd_gate_open',
    'Whether a maintenance gate is open; 0 also where it cannot be read.',
    ['gate'],
  );
  readonly #outboxBytes = this.#gauge('quantd_outbox_bytes', 'Bytes that wait to be sent.');
  readonly #outboxDropped = this.#gauge('quantd_outbox_dropped', 'Messages thrown away for the caps of the outbox.');

  constructor() {
    collectDefaultMetrics({ register: this.#registry, prefix: 'quantd_' });
  }

  /** Counts one request of an application. */
  inferred(target: string, outcome: 'ok' | 'failed', seconds: number): void {
    this.#inferSeconds.observe({ target, outcome }, seconds);
  }

  /** Counts a frame that was handed over. */
  frame(target: string): void {
    this.#frames.inc({ target });
  }

  /** All metrics as text, with what the reported document and the gates say. */
  async text(reported: ReportedState, gates: readonly { gate: string; isOpen: boolean | null }[]): Promise<string> {
    for (const { gate, isOpen } of gates) this.#gates.set({ gate }, isOpen === true ? 1 : 0);
    this.#generation.set(reported.observedGeneration);
    this.#outboxBytes.set(reported.outbox.bytes);
    this.#outboxDropped.set(reported.outbox.dropped);
    for (const [target, { active }] of Object.entries(reported.targets)) {
      this.#active.set({ target }, active?.isConfirmed ? 1 : 0);
      const measured = active?.measurements.latency.measured ?? null;
      if (measured !== null) this.#latency.set({ target }, measured);
      const isSaid = (type: string) =>
        reported.conditions.some((said) => said.target === target && said.type === type && said.status === 'true');
      this.#degraded.set({ target }, isSaid('Degraded') ? 1 : 0);
      this.#gated.set({ target }, isSaid('Gated') ? 1 : 0);
    }
    return this.#registry.metrics();
  }

  #gauge(name: string, help: string, labelNames: string[] = []): Gauge {
    return new Gauge({ name, help, labelNames, registers: [this.#registry] });
  }
}
