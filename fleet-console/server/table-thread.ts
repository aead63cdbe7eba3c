import { Worker } from 'node:worker_threads';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Replay } from './replay.js';
import type { Shared, TableAnswer, TableRequest } from './table-worker.js';

const workerFile = new URL('./table-worker.js', import.meta.url);

/** A request that takes longer ends with its thread. */
const mostMs = 60_000;

/**
 * A thread that reads, shares and plans with tables, one request after another. It starts with the first, does not keep the process
 * alive while idle, and is replaced after a fault or a hang.
 */
export class TableThread {
  #worker: Worker | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  /** See `share` in `table-worker.ts`; newest documents first. Fails with `solver/failed`, as the other does. */
  share(documents: readonly Uint8Array[]): Promise<Shared> {
    return this.#queued({ kind: 'share', documents }) as Promise<Shared>;
  }

  /** Plans with a table; null where nothing can be said. */
  replay(request: Omit<Extract<TableRequest, { kind: 'replay' }>, 'kind'>): Promise<Replay | null> {
    return this.#queued({ kind: 'replay', ...request }) as Promise<Replay | null>;
  }

  /** Ends the thread; requests that wait fail. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#worker?.terminate();
  }

  #queued(request: TableRequest): Promise<TableAnswer> {
    const answer = this.#last.then(() => this.#run(request));
    this.#last = answer.catch(() => undefined);
    return answer;
  }

  #run(request: TableRequest): Promise<TableAnswer> {
    if (this.#isClosed) return Promise.reject(failed('the console is closing'));
    const worker = (this.#worker ??= this.#start());
    return new Promise((resolve, reject) => {
      const finish = () => {
        clearTimeout(timer);
        worker.off('message', onMessage).off('error', onError).off('exit', onExit).unref();
      };
      const onMessage = (answer: TableAnswer) => {
        finish();
        resolve(answer);
      };
      const fail = (why: string, cause?: unknown) => {
        finish();
        if (this.#worker === worker) this.#worker = undefined;
        void worker.terminate();
        reject(failed(why, cause));
      };
      const onError = (cause: Error) => fail(cause.message, cause);
      const onExit = () => fail('the thread has ended');
      const timer = setTimeout(() => fail(`it took more than ${mostMs / 1000} s`), mostMs);
      timer.unref();
      worker.on('message', onMessage).on('error', onError).on('exit', onExit).ref();
      worker.postMessage(request);
    });
  }

  #start(): Worker {
    const worker = new Worker(workerFile, { execArgv: [] });
    // One that dies while idle has nobody to tell.
    worker.on('error', () => undefined);
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = undefined;
    });
    return worker;
  }
}

function failed(why: string, cause?: unknown): EdgeError {
  return new EdgeError('solver/failed', `tables could not be planned with: ${why}`, { subject: 'tables', cause });
}
