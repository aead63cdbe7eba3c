import type { InferAnswer, InferRequest, Log, ModelRunner, RunnerHost } from '../device-ports.js';

/** A runner with the artifact it holds. */
interface Held {
  readonly key: string;
  readonly folder: string;
  readonly runner: ModelRunner;
  /** Requests under way. */
  users: number;
  isRetired: boolean;
}

/** An answer with the artifact that gave it. */
export interface ServedAnswer extends InferAnswer {
  readonly key: string;
}

/**
 * The model that answers requests for one target. Changing it never fails a request: new ones go to the new runner, the old one
 * is closed when its last request is answered. A runner that dies is started again when it is next needed.
 */
export class Serving {
  readonly #host: RunnerHost;
  readonly #log: Log;
  #held: Held | null = null;
  #reopening: Promise<void> | null = null;

  constructor(host: RunnerHost, log: Log) {
    this.#host = host;
    this.#log = log;
  }

  /** Key of the artifact that answers; null where nothing does. */
  get key(): string | null {
    return this.#held?.key ?? null;
  }

  /** The runner that answers now; null where nothing does. */
  get runner(): ModelRunner | null {
    return this.#held?.runner ?? null;
  }

  /** Makes a loaded runner the one that answers. */
  switchTo(key: string, folder: string, runner: ModelRunner): void {
    const old = this.#held;
    this.#held = { key, folder, runner, users: 0, isRetired: false };
    if (old !== null) this.#retire(old);
  }

  /** Answers a request; null when there is nothing to answer it. Fails as `ModelRunner.infer` does. */
  async infer(request: InferRequest, signal: AbortSignal): Promise<ServedAnswer | null> {
    const held = this.#held;
    if (held === null) return null;
    held.users++;
    try {
      return { ...(await held.runner.infer(request)), key: held.key };
    } catch (error) {
      if (!(await hasEnded(held.runner))) throw error;
    } finally {
      held.users--;
      if (held.isRetired && held.users === 0) this.#close(held);
    }
    // The process died under the request, which it may or may not have caused: once more on a new one, then it is the request's fault.
    await this.revive(signal);
    const revived = this.#held;
    if (revived === null) return null;
    revived.users++;
    try {
      return { ...(await revived.runner.infer(request)), key: revived.key };
    } finally {
      revived.users--;
      if (revived.isRetired && revived.users === 0) this.#close(revived);
    }
  }

  /** Starts the runner again if it has died; concurrent callers share one start. Fails with `target/failed`. */
  async revive(signal: AbortSignal): Promise<void> {
    const held = this.#held;
    if (held === null || !(await hasEnded(held.runner))) return;
    this.#reopening ??= this.#reopen(held, signal).finally(() => {
      this.#reopening = null;
    });
    await this.#reopening;
  }

  /** Answers nothing from now on. */
  async stop(): Promise<void> {
    const held = this.#held;
    this.#held = null;
    await held?.runner.close();
  }

  async #reopen(dead: Held, signal: AbortSignal): Promise<void> {
    this.#log.warn({ artifact: dead.key }, 'the process of the active model has ended; starting it again');
    const runner = await this.#host.open(dead.folder, signal);
    if (this.#held === dead) this.#held = { ...dead, runner, users: 0 };
    else await runner.close();
  }

  #retire(held: Held): void {
    held.isRetired = true;
    if (held.users === 0) this.#close(held);
  }

  #close(held: Held): void {
    held.runner.close().catch((error: unknown) => {
      this.#log.warn({ artifact: held.key, error: String(error) }, 'an old runner did not close in order');
    });
  }
}

/** Whether the process of a runner has ended. */
export async function hasEnded(runner: ModelRunner): Promise<boolean> {
  return Promise.race([runner.ended.then(() => true), Promise.resolve().then(() => false)]);
}
