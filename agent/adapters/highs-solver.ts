import { Worker } from 'node:worker_threads';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { LinearProgram, LinearSolution, SolveOptions } from '../core/plan/linear-program.js';
import type { Solver } from '../ports.js';
import type { HighsRequest } from './highs-worker.js';

const workerFile = new URL('./highs-worker.js', import.meta.url);

/** Patience beyond a solve's time limit before its thread is taken for hung. */
const graceSeconds = 10;

/**
 * Solves with HiGHS (WebAssembly) in a worker thread, one programme after another. The thread starts with the first solve, is kept
 * for the next ones and does not keep the process alive while idle. It is replaced after a fault, an abort or a hang, so a failed
 * solve never spoils the next.
 */
export class HighsSolver implements Solver {
  #worker: Worker | undefined;
  #last: Promise<unknown> = Promise.resolve();

  /** Solves in the order of the calls. Fails with `solver/failed` or `job/aborted`. */
  solve(program: LinearProgram, options: SolveOptions, signal: AbortSignal): Promise<LinearSolution> {
    const solution = this.#last.then(() => this.#run({ program, options }, signal));
    this.#last = solution.catch(() => undefined);
    return solution;
  }

  /** Ends the thread. A solve in progress fails with `solver/failed`. */
  async close(): Promise<void> {
    await this.#discard();
  }

  #run(request: HighsRequest, signal: AbortSignal): Promise<LinearSolution> {
    if (signal.aborted) return Promise.reject(aborted(signal));
    const worker = (this.#worker ??= this.#start());
    return new Promise((resolve, reject) => {
      const fail = (error: EdgeError) => {
        finish();
        void this.#discard();
        reject(error);
      };
      const onMessage = (solution: LinearSolution) => {
        finish();
        resolve(solution);
      };
      const onError = (cause: unknown) => fail(failed('The solver failed', cause));
      const onExit = () => fail(failed('The solver thread ended'));
      const onAbort = () => fail(aborted(signal));
      const { timeLimitSeconds } = request.options;
      const onHang = () => fail(failed(`The solver did not stop at its limit of ${timeLimitSeconds} s`));
      const watchdog = setTimeout(onHang, Math.min(2 ** 31 - 1, (2 * timeLimitSeconds + graceSeconds) * 1000));
      const finish = () => {
        clearTimeout(watchdog);
        signal.removeEventListener('abort', onAbort);
        worker.off('message', onMessage).off('error', onError).off('exit', onExit).unref();
      };
      signal.addEventListener('abort', onAbort);
      worker.on('message', onMessage).on('error', onError).on('exit', onExit).ref();
      try {
        worker.postMessage(request);
      } catch (cause) {
        onError(cause);
      }
    });
  }

  #start(): Worker {
    // No flags of the main thread: some (--input-type) are refused in a worker.
    const worker = new Worker(workerFile, { execArgv: [] });
    // A thread that dies while idle has nobody to tell; the next solve starts another.
    worker.on('error', () => undefined);
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = undefined;
    });
    return worker;
  }

  async #discard(): Promise<void> {
    const worker = this.#worker;
    this.#worker = undefined;
    await worker?.terminate();
  }
}

function aborted(signal: AbortSignal): EdgeError {
  return new EdgeError('job/aborted', 'Planning was interrupted', { subject: 'solver', cause: signal.reason });
}

function failed(message: string, cause?: unknown): EdgeError {
  const detail = cause instanceof Error ? `: ${cause.message}` : '';
  return new EdgeError('solver/failed', `${message}${detail}`, { subject: 'solver', cause });
}
