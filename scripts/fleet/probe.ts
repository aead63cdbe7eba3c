/** Asks a console's API at a steady pace, in a thread of its own: what the simulated devices take of their thread must not count. */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';

/** Times of a route, in milliseconds. */
export interface RouteTimes {
  readonly route: string;
  readonly requests: number;
  /** Not answered, or not with 2xx: while the console was away. */
  readonly failed: number;
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
  readonly mostMs: number | null;
}

/** What was seen since the last look. */
export interface Probed {
  readonly routes: readonly RouteTimes[];
  /** Longest that the console's event loop was held, over all scrapes of its metrics. */
  readonly loopMostMs: number;
  /** Longest look of the rollouts' controller. */
  readonly lookMostMs: number;
}

const routes = ['/v1/devices?limit=100', '/v1/overview', '/v1/results', '/v1/rollouts', '/metrics'];
const everyMs = 200;
const patienceMs = 30_000;

/** The probe, from outside. */
export class Probe {
  readonly #worker: Worker;

  constructor(url: string) {
    this.#worker = new Worker(fileURLToPath(import.meta.url), { workerData: { url } });
  }

  /** What was seen since the last call; begins anew. */
  async take(): Promise<Probed> {
    const answer = once(this.#worker, 'message') as Promise<[Probed]>;
    this.#worker.postMessage('take');
    return (await answer)[0];
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }
}

/** The value below which a share of the sorted values lies; null of none. */
function quantile(sorted: readonly number[], share: number): number | null {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? null;
}

async function probe(url: string): Promise<never> {
  let times = new Map<string, number[]>();
  let failed = new Map<string, number>();
  let loopMostMs = 0;
  let lookMostMs = 0;
  parentPort!.on('message', () => {
    const seen = routes.map((route): RouteTimes => {
      const sorted = (times.get(route) ?? []).sort((a, b) => a - b);
      const failures = failed.get(route) ?? 0;
      return {
        route,
        requests: sorted.length + failures,
        failed: failures,
        p50Ms: quantile(sorted, 0.5),
        p99Ms: quantile(sorted, 0.99),
        mostMs: sorted.at(-1) ?? null,
      };
    });
    parentPort!.postMessage({ routes: seen, loopMostMs, lookMostMs } satisfies Probed);
    [times, failed, loopMostMs, lookMostMs] = [new Map(), new Map(), 0, 0];
  });
  for (let round = 0; ; round++) {
    const route = routes[round % routes.length]!;
    const started = performance.now();
    try {
      const response = await fetch(`${url}${route}`, { signal: AbortSignal.timeout(patienceMs) });
      const text = await response.text();
      if (!response.ok) throw new Error(text);
      times.set(route, [...(times.get(route) ?? []), performance.now() - started]);
      if (route === '/metrics') {
        loopMostMs = Math.max(loopMostMs, 1000 * metric(text, 'fleet_nodejs_eventloop_lag_max_seconds'));
        lookMostMs = Math.max(lookMostMs, 1000 * metric(text, 'fleet_rollout_look_seconds'));
      }
    } catch {
      failed.set(route, (failed.get(route) ?? 0) + 1);
    }
    await sleep(Math.max(0, everyMs - (performance.now() - started)));
  }
}

/** A metric in the Prometheus format; 0 where it is not there. */
function metric(text: string, name: string): number {
  return Number(
    text
      .split('\n')
      .find((line) => line.startsWith(`${name} `))
      ?.slice(name.length + 1) ?? 0,
  );
}

if (!isMainThread && parentPort !== null) await probe((workerData as { url: string }).url);
