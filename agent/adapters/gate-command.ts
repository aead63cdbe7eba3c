import { spawn } from 'node:child_process';
import type { GatePolicy, GateReading } from '../core/gates/decide.js';
import { oneLine } from '../core/one-line.js';
import type { Gate } from '../device-ports.js';

/** More than this of what a command prints is not read. */
const mostBytes = 4096;
/** What a command has printed is there when it has ended, or soon after. */
const drainMs = 200;

/** See `gates.exec` of the settings. */
export interface GateCommandSettings {
  readonly command: readonly string[];
  readonly limitSeconds: number;
  readonly everySeconds: number;
}

interface Answer {
  readonly reading: GateReading;
  /** Monotonic. */
  readonly atMs: number;
}

/**
 * Asks a program. Its answer holds for a while; it never runs twice at once, and what takes longer than its limit is killed with all that it
 * has started.
 */
export class CommandGate implements Gate {
  readonly policy: GatePolicy;
  readonly #settings: GateCommandSettings;
  #last: Answer | null = null;
  #running: Promise<Answer> | null = null;
  #kill: () => void = () => {};

  constructor(policy: GatePolicy, settings: GateCommandSettings) {
    this.policy = policy;
    this.#settings = settings;
  }

  async read(isFresh: boolean): Promise<GateReading> {
    const { everySeconds, limitSeconds } = this.#settings;
    const ageMs = this.#last === null ? Number.POSITIVE_INFINITY : performance.now() - this.#last.atMs;
    if (isFresh) {
      // One that runs already may have looked before we were asked.
      await this.#running;
      return (await this.#run()).reading;
    }
    if (ageMs <= everySeconds * 1000) return this.#last!.reading;
    const next = this.#run();
    // While it is asked again, the last answer stands, so that a slow program holds nobody up.
    return ageMs <= (everySeconds + limitSeconds + 1) * 1000 ? this.#last!.reading : (await next).reading;
  }

  async close(): Promise<void> {
    this.#kill();
    await this.#running;
  }

  #run(): Promise<Answer> {
    this.#running ??= this.#ask()
      .then((reading) => {
        this.#last = { reading, atMs: performance.now() };
        return this.#last;
      })
      .finally(() => {
        this.#running = null;
      });
    return this.#running;
  }

  #ask(): Promise<GateReading> {
    const { command, limitSeconds } = this.#settings;
    const [program = '', ...parameters] = command;
    return new Promise((resolve) => {
      // A group of its own, so that nothing that it starts outlives it.
      const child = spawn(program, parameters, { stdio: ['ignore', 'pipe', 'ignore'], detached: true });
      const unreadable = (reason: string) =>
        resolve({ isOpen: null, reason: `${oneLine(program)} ${reason}`, until: null });
      let isLate = false;
      const kill = () => {
        if (child.pid === undefined) return;
        try {
          process.kill(-child.pid, 'SIGKILL');
        } catch {
          // It has ended by itself.
        }
      };
      this.#kill = kill;
      const timer = setTimeout(() => {
        isLate = true;
        kill();
      }, limitSeconds * 1000);
      let output = Buffer.alloc(0);
      child.stdout.on('data', (chunk: Buffer) => {
        if (output.length < mostBytes) output = Buffer.concat([output, chunk.subarray(0, mostBytes - output.length)]);
      });
      child.stdout.on('error', () => {});
      child.once('error', (error) => {
        clearTimeout(timer);
        unreadable(`cannot be run: ${error.message}`);
      });
      child.once('exit', (status, signal) => {
        clearTimeout(timer);
        // What it leaves behind would also keep its output open; what has left its group is not waited for.
        kill();
        const drained = setTimeout(() => child.stdout.destroy(), drainMs);
        child.once('close', () => {
          clearTimeout(drained);
          if (isLate) return unreadable(`did not answer within ${limitSeconds} s`);
          if (status === null) return unreadable(`was ended by ${signal}`);
          const said = oneLine(output.toString('utf8'));
          const fallback = status === 0 ? 'the command says so' : `the command ended with status ${status}`;
          resolve({ isOpen: status === 0, reason: said || fallback, until: null });
        });
      });
    });
  }
}
