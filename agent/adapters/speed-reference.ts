import { minimum, quantile } from '../core/statistics.js';

/** Slowdown of the reference loop, early to late, from which a measurement counts as throttled. */
const throttledRatio = 1.15;

/**
 * Notices a processor that slows down while something is measured: a fixed amount of integer work is timed now and then, and
 * its best late time is compared with its best early time. Best times, because a busy neighbour makes some samples slow, a
 * lowered clock makes all of them slow.
 */
export class SpeedReference {
  readonly #times: number[] = [];

  sample(): void {
    const start = process.hrtime.bigint();
    work();
    this.#times.push(Number(process.hrtime.bigint() - start));
  }

  hasSlowedDown(): boolean {
    if (this.#times.length < 8) return false;
    const half = Math.floor(this.#times.length / 2);
    const early = quantile(this.#times.slice(0, half), 0.1);
    const late = minimum(this.#times.slice(half));
    return late > early * throttledRatio;
  }
}

let sink = 0;

/** About 20 microseconds of dependent integer operations on a current core. */
function work(): void {
  let state = sink | 1;
  for (let i = 0; i < 12_000; i++) state = Math.imul(state, 1664525) + 1013904223;
  sink = state;
}
