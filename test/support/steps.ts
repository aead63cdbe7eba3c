/** What the steps take from the world, for tests: samples in memory, a clock, a runtime that counts its sessions. */
import { HostRuntime } from '../../agent/adapters/host-runtime.js';
import type { Clock, Runtime, SampleSource, Session } from '../../agent/ports.js';

export const never = new AbortController().signal;
export const quiet = () => {};

export const clock: Clock = { nanoseconds: () => process.hrtime.bigint(), now: () => new Date().toISOString() };

/** Samples in memory, as a calibration set and as a test set. */
export function samplesOf(data: readonly Float32Array[], labels: readonly number[] | null = null) {
  const source = 'samples' as const;
  return {
    count: data.length,
    source,
    digest: 'memory',
    labels,
    read: async (index: number) => data[index]!,
  } satisfies SampleSource & {
    source: string;
  };
}

/** Both runtimes of the host, with a count of the sessions opened and closed. */
export class CountingRuntime implements Runtime {
  readonly #runtime = new HostRuntime();
  opened = 0;
  closed = 0;

  async open(model: Uint8Array, options: { threads: number }): Promise<Session> {
    const session = await this.#runtime.open(model, options);
    this.opened++;
    return {
      inputNames: session.inputNames,
      outputNames: session.outputNames,
      run: (feeds, outputs) => session.run(feeds, outputs),
      close: async () => {
        this.closed++;
        await session.close();
      },
    };
  }
}
