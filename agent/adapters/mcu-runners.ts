import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { InferRequest, ModelRunner, RunnerHost, SlotsView, TargetSlots } from '../device-ports.js';
import type { McuMethod, McuRunnerMessage, McuRunnerRequest, McuService } from '../mcu-runner.js';

/** How long a process may take to end in order. */
const graceMs = 2000;

interface Waiting {
  readonly resolve: (value: never) => void;
  readonly reject: (error: EdgeError) => void;
  readonly progress: (share: number) => void;
}

/**
 * Runs artifacts on one microcontroller, whose line a process of its own keeps: what a serial driver does to its process never happens to the
 * daemon. The process is started when it is needed, and again after it has ended.
 */
export class McuRunners implements RunnerHost, TargetSlots {
  readonly #where: string;
  readonly #storage: string | null;
  readonly #answerMs: number;
  #child: ChildProcess | null = null;
  #isLent = false;
  #next = 0;
  readonly #waiting = new Map<number, Waiting>();
  /** One for each that waits. */
  readonly #underWay = new Set<Promise<unknown>>();
  #listener: (why: string) => void = () => {};
  /** Resolves when nothing is known of the board any more. */
  #lost = deferred();

  /**
   * @param where and `storage`: see `McuBoard`
   * @param answerMs a request that gets no further for longer is given up, and the process with it; more than the patience with a board
   */
  constructor(where: string, storage: string | null, answerMs = 300_000) {
    this.#where = where;
    this.#storage = storage;
    this.#answerMs = answerMs;
  }

  get slots(): TargetSlots {
    return this;
  }

  async open(folder: string, signal: AbortSignal, progress: (share: number) => void = () => {}): Promise<ModelRunner> {
    signal.throwIfAborted();
    const lost = this.#lost;
    await this.#call('bring', [folder], signal, progress);
    return {
      infer: async (request: InferRequest) => {
        const { outputs, latencyMs } = await this.#call('infer', [folder, request]);
        return { outputs: new Map(outputs), latencyMs };
      },
      probe: async (samplesFolder, index) => ({ latencyMs: await this.#call('probe', [folder, samplesFolder, index]) }),
      ended: lost.promise,
      close: async () => {},
    };
  }

  look(): Promise<SlotsView> {
    return this.#call('look', []);
  }

  activate(folder: string): Promise<void> {
    return this.#call('activate', [folder]);
  }

  confirm(folder: string): Promise<void> {
    return this.#call('confirm', [folder]);
  }

  revert(): Promise<void> {
    return this.#call('revert', []);
  }

  onLost(listener: (why: string) => void): void {
    this.#listener = listener;
  }

  /**
   * Hands the line to somebody else for as long as `work` takes; nothing is known of the board then. What was asked before is answered
   * first; what is asked meanwhile fails with `infer/unavailable`.
   */
  async lend<T>(work: (path: string) => Promise<T>): Promise<T> {
    // First of all: one request behind this would open the line again, and keep it.
    this.#isLent = true;
    try {
      await Promise.allSettled(this.#underWay);
      const path = await this.#send(this.#process(), 'lend', []);
      return await work(path as string);
    } finally {
      this.#isLent = false;
      this.#lose('others have used the line');
    }
  }

  /** Ends the process, and with it a board that is one. */
  async close(): Promise<void> {
    const child = this.#child;
    if (child === null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    if (child.connected) child.disconnect();
    const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
    await ended;
    clearTimeout(timer);
  }

  /** Of the process, where there is one; for people who watch it. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  #lose(why: string): void {
    this.#lost.resolve();
    this.#lost = deferred();
    this.#listener(why);
  }

  #call<Method extends McuMethod>(
    method: Method,
    args: Parameters<McuService[Method]>,
    signal?: AbortSignal,
    progress: (share: number) => void = () => {},
  ): ReturnType<McuService[Method]> {
    if (this.#isLent) {
      const message = 'a model is being measured on the microcontroller';
      const hint = 'Ask again in a moment.';
      return Promise.reject(new EdgeError('infer/unavailable', message, { subject: this.#where, hint })) as ReturnType<
        McuService[Method]
      >;
    }
    return this.#send(this.#process(), method, args, signal, progress) as ReturnType<McuService[Method]>;
  }

  #send(
    child: ChildProcess,
    method: McuMethod,
    args: readonly unknown[],
    signal?: AbortSignal,
    progress: (share: number) => void = () => {},
  ): Promise<unknown> {
    const id = this.#next++;
    const abort = () => child.send({ abort: id } satisfies McuRunnerRequest, () => {});
    const timer = setTimeout(() => {
      this.#take(id)?.reject(this.#failure(`no answer within ${this.#answerMs / 1000} s`));
      child.kill('SIGKILL');
    }, this.#answerMs);
    const advanced = (share: number) => {
      timer.refresh();
      progress(share);
    };
    const answered = new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, progress: advanced });
      signal?.addEventListener('abort', abort, { once: true });
      // A channel that has closed already is told by `exit`, too; the callback keeps the error from being thrown.
      child.send({ id, method, args } satisfies McuRunnerRequest, (error) => {
        if (error !== null) this.#take(id)?.reject(this.#failure(error.message));
      });
    }).finally(() => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
      this.#underWay.delete(answered);
    });
    this.#underWay.add(answered);
    return answered;
  }

  #process(): ChildProcess {
    if (this.#child !== null) return this.#child;
    const child = fork(fileURLToPath(new URL('../mcu-runner.js', import.meta.url)), {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      // Typed arrays go through as they are.
      serialization: 'advanced',
    });
    this.#child = child;
    child.on('message', (message: McuRunnerMessage) => this.#receive(message));
    const end = (why: string) => {
      if (this.#child !== child) return;
      this.#child = null;
      for (const { reject } of this.#waiting.values()) reject(this.#failure(why));
      this.#waiting.clear();
      this.#lose(why);
    };
    child.on('error', (error) => end(error.message));
    child.on('exit', (code, killedBy) => end(`its process ended (${killedBy ?? `status ${code}`})`));
    this.#send(child, 'open', [this.#where, this.#storage]).catch(() => {});
    return child;
  }

  #receive(message: McuRunnerMessage): void {
    if ('lost' in message) this.#lose(message.lost);
    else if ('share' in message) this.#waiting.get(message.id)?.progress(message.share);
    else if ('error' in message) this.#take(message.id)?.reject(EdgeError.fromDocument(message.error));
    else this.#take(message.id)?.resolve(message.value as never);
  }

  #take(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiting;
  }

  #failure(why: string): EdgeError {
    return new EdgeError('mcu/unreachable', `the line to the microcontroller: ${why}`, { subject: this.#where });
  }
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
