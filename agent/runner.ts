/**
 * Entry point of a runner: a process that holds one artifact ready and answers requests over its IPC channel, one after the
 * other. It ends with its channel.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ModelCard } from '../configs/contracts/card.js';
import { EdgeError, type ErrorDocument } from '../configs/contracts/errors.js';
import { imageExtension } from '../configs/contracts/image.js';
import { HostRuntime } from './adapters/host-runtime.js';
import { decodeSample, openSampleSet } from './adapters/samples.js';
import { xorshift32 } from './core/random.js';
import type { InferRequest } from './device-ports.js';
import type { Feed, SampleSource, Session } from './ports.js';

/** What a runner is asked, with the number that its reply carries. */
export interface RunnerRequest {
  readonly id: number;
  readonly ask:
    | { readonly kind: 'load'; readonly folder: string; readonly threads: number }
    | { readonly kind: 'infer'; readonly request: InferRequest }
    | { readonly kind: 'probe'; readonly samplesFolder: string | null; readonly index: number };
}

/** What it answers. */
export type RunnerReply = { readonly id: number } & (
  | { readonly kind: 'loaded' }
  | { readonly kind: 'answer'; readonly outputs: readonly [string, Feed][]; readonly latencyMs: number }
  | { readonly kind: 'probed'; readonly latencyMs: number }
  | { readonly kind: 'failed'; readonly error: ErrorDocument }
);

class Runner {
  readonly #session: Session;
  readonly #card: ModelCard;
  readonly #dims: readonly number[];
  /** The sample set of the last probe. */
  #samples: { folder: string; source: SampleSource } | null = null;

  private constructor(session: Session, card: ModelCard) {
    this.#session = session;
    this.#card = card;
    this.#dims = card.input.shape.map((size) => size ?? 1);
  }

  /** Loads an artifact folder and runs it once, so that what cannot run is known at once. Fails with `artifact/invalid` or `target/failed`. */
  static async load(folder: string, threads: number): Promise<Runner> {
    const model = (await readdir(folder)).find((name) => name.endsWith('.onnx') || name.endsWith(imageExtension));
    if (model === undefined) throw new EdgeError('artifact/invalid', 'the folder holds no model', { subject: folder });
    // Written with the artifact, and checked before that.
    const card = JSON.parse(await readFile(join(folder, 'card.json'), 'utf8')) as ModelCard;
    const session = await new HostRuntime().open(await readFile(join(folder, model)), { threads });
    const runner = new Runner(session, card);
    await runner.#probeWith(runner.#noise(0));
    return runner;
  }

  async infer(request: InferRequest): Promise<{ outputs: [string, Feed][]; latencyMs: number }> {
    const input =
      request.kind === 'tensor'
        ? request.data
        : await decodeSample(request.type, request.bytes, this.#card, this.#dims).catch((cause) => {
            throw invalid(cause instanceof Error ? cause.message : String(cause));
          });
    const count = this.#dims.reduce((a, b) => a * b, 1);
    if (input.length !== count) throw invalid(`the input has ${input.length} values, the model takes ${count}`);
    return this.#run(input);
  }

  async probe(samplesFolder: string | null, index: number): Promise<number> {
    if (samplesFolder === null) return this.#probeWith(this.#noise(index));
    if (this.#samples?.folder !== samplesFolder) {
      const set = await openSampleSet(samplesFolder, this.#card, this.#dims);
      this.#samples = { folder: samplesFolder, source: (set.calibration ?? set.test)! };
    }
    const { source } = this.#samples;
    return this.#probeWith(await source.read(index % source.count));
  }

  async #probeWith(input: Float32Array): Promise<number> {
    const { outputs, latencyMs } = await this.#run(input);
    for (const [name, { data }] of outputs) {
      if (data instanceof Float32Array && !data.every((value) => Number.isFinite(value))) {
        throw new EdgeError('target/failed', `output ${name} is not finite`, { subject: name });
      }
    }
    return latencyMs;
  }

  async #run(data: Float32Array): Promise<{ outputs: [string, Feed][]; latencyMs: number }> {
    const started = performance.now();
    const outputs = await this.#session.run(new Map([[this.#card.input.name, { dims: this.#dims, data }]]));
    return { outputs: [...outputs], latencyMs: performance.now() - started };
  }

  #noise(seed: number): Float32Array {
    const random = xorshift32(seed + 1);
    return Float32Array.from({ length: this.#dims.reduce((a, b) => a * b, 1) }, () => random() * 2 - 1);
  }
}

function invalid(message: string): EdgeError {
  return new EdgeError('infer/invalid', message, { subject: 'input' });
}

let runner: Runner | null = null;

async function answer({ id, ask }: RunnerRequest): Promise<RunnerReply> {
  try {
    if (ask.kind === 'load') {
      runner = await Runner.load(ask.folder, ask.threads);
      return { id, kind: 'loaded' };
    }
    if (runner === null) throw new EdgeError('infer/unavailable', 'no model is loaded', { subject: 'runner' });
    if (ask.kind === 'infer') return { id, kind: 'answer', ...(await runner.infer(ask.request)) };
    return { id, kind: 'probed', latencyMs: await runner.probe(ask.samplesFolder, ask.index) };
  } catch (error) {
    const known =
      error instanceof EdgeError
        ? error
        : new EdgeError('target/failed', error instanceof Error ? error.message : String(error), { subject: 'runner' });
    return { id, kind: 'failed', error: known.toDocument() };
  }
}

let queue: Promise<unknown> = Promise.resolve();
process.on('message', (request: RunnerRequest) => {
  queue = queue.then(async () => {
    const reply = await answer(request);
    if (process.connected) process.send?.(reply, () => {});
  });
});
// Ctrl-C reaches the whole process group, and a service manager may tell all processes of a unit to stop: the daemon answers
// both. To end before it has noticed would look as if the model had crashed.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});
process.on('disconnect', () => process.exit(0));
