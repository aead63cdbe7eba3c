import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { InferAnswer, InferRequest, ModelRunner, RunnerHost } from '../device-ports.js';
import type { RunnerReply, RunnerRequest } from '../runner.js';

/** A model that takes longer to load counts as one that cannot be. */
const loadMs = 120_000;
/** How long a process may take to end in order. */
const graceMs = 2000;

interface Waiting {
  readonly resolve: (reply: RunnerReply) => void;
  readonly reject: (error: EdgeError) => void;
  readonly limitMs: number;
}

/** Runs each artifact in a process of its own: what a runtime does to its process never happens to the daemon. */
export class RunnerProcesses implements RunnerHost {
  readonly #threads: number;
  readonly #answerMs: number;

  /**
   * @param threads of the deployed model
   * @param answerMs a request that takes longer, once its turn has come, is given up, and its process with it
   */
  constructor(threads: number, answerMs = 60_000) {
    this.#threads = threads;
    this.#answerMs = answerMs;
  }

  async open(folder: string, signal: AbortSignal): Promise<ModelRunner> {
    signal.throwIfAborted();
    const runner = new RunnerProcess(folder, this.#answerMs);
    const abort = () => runner.kill();
    signal.addEventListener('abort', abort, { once: true });
    try {
      await runner.load(this.#threads);
      return runner;
    } catch (error) {
      runner.kill();
      throw error;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }
}

class RunnerProcess implements ModelRunner {
  readonly ended: Promise<void>;
  readonly #folder: string;
  readonly #answerMs: number;
  readonly #child: ChildProcess;
  /** In the order in which they are answered. */
  readonly #waiting = new Map<number, Waiting>();
  /** Of the request whose turn it is: what waits behind others has not begun. */
  #timer: NodeJS.Timeout | undefined;
  #next = 0;

  constructor(folder: string, answerMs: number) {
    this.#folder = folder;
    this.#answerMs = answerMs;
    this.#child = fork(fileURLToPath(new URL('../runner.js', import.meta.url)), {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      // Typed arrays go through as they are.
      serialization: 'advanced',
    });
    this.#child.on('message', (reply: RunnerReply) => this.#answer(reply));
    this.ended = new Promise((resolve) => {
      const end = (why: string) => {
        clearTimeout(this.#timer);
        for (const { reject } of this.#waiting.values()) reject(this.#failure(why));
        this.#waiting.clear();
        resolve();
      };
      this.#child.on('error', (error) => end(error.message));
      this.#child.on('exit', (code, killedBy) => end(`its process ended (${killedBy ?? `status ${code}`})`));
    });
  }

  /** Of the process; for people who watch it. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  async load(threads: number): Promise<void> {
    await this.#ask({ kind: 'load', folder: this.#folder, threads }, loadMs);
  }

  async infer(request: InferRequest): Promise<InferAnswer> {
    const reply = await this.#ask({ kind: 'infer', request }, this.#answerMs);
    if (reply.kind !== 'answer') throw this.#failure('its process answered something else');
    return { outputs: new Map(reply.outputs), latencyMs: reply.latencyMs };
  }

  async probe(samplesFolder: string | null, index: number): Promise<{ latencyMs: number }> {
    const reply = await this.#ask({ kind: 'probe', samplesFolder, index }, this.#answerMs);
    if (reply.kind !== 'probed') throw this.#failure('its process answered something else');
    return { latencyMs: reply.latencyMs };
  }

  async close(): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.kill(), graceMs);
    await this.ended;
    clearTimeout(timer);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #ask(request: RunnerRequest['ask'], limitMs: number): Promise<RunnerReply> {
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#waiting.set(id, { resolve, reject, limitMs });
      if (this.#waiting.size === 1) this.#watchFirst();
      // A channel that has closed already is told by `exit`, too; the callback keeps the error from being thrown.
      this.#child.send({ id, ask: request } satisfies RunnerRequest, (error) => {
        if (error !== null && this.#take(id) !== undefined) reject(this.#failure(error.message));
      });
    });
  }

  #answer(reply: RunnerReply): void {
    const waiting = this.#take(reply.id);
    if (waiting === undefined) return;
    if (reply.kind === 'failed') waiting.reject(EdgeError.fromDocument(reply.error));
    else waiting.resolve(reply);
  }

  /** Removes what was waiting; the clock of the next begins. */
  #take(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    const [first] = this.#waiting.keys();
    this.#waiting.delete(id);
    if (first === id) this.#watchFirst();
    return waiting;
  }

  #watchFirst(): void {
    clearTimeout(this.#timer);
    const [first] = this.#waiting;
    if (first === undefined) return;
    const [id, { reject, limitMs }] = first;
    this.#timer = setTimeout(() => {
      this.#waiting.delete(id);
      reject(this.#failure(`no answer within ${limitMs / 1000} s`));
      this.kill();
    }, limitMs);
  }

  #failure(why: string): EdgeError {
    return new EdgeError('target/failed', `the model's process: ${why}`, { subject: this.#folder });
  }
}
