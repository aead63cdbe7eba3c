import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ModelCard } from '../../configs/contracts/card.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { imageExtension } from '../../configs/contracts/image.js';
import { xorshift32 } from '../core/random.js';
import type { InferRequest } from '../device-ports.js';
import type { Feed, SampleSource } from '../ports.js';
import { decodeSample, openSampleSet } from './samples.js';

/** Outputs by name, and the time of the model alone; NaN where its target counts no time. */
export interface TimedRun {
  readonly outputs: readonly [string, Feed][];
  readonly latencyMs: number;
}

/** Runs the model once on a whole, prepared input. */
export type RunOnce = (input: Float32Array) => Promise<TimedRun>;

/** The model of an artifact folder and its card, which was checked before it was written. Fails with `artifact/invalid`. */
export async function readArtifact(folder: string): Promise<{ model: Uint8Array; card: ModelCard }> {
  const name = (await readdir(folder)).find((file) => file.endsWith('.onnx') || file.endsWith(imageExtension));
  if (name === undefined) throw new EdgeError('artifact/invalid', 'the folder holds no model', { subject: folder });
  const card = JSON.parse(await readFile(join(folder, 'card.json'), 'utf8')) as ModelCard;
  return { model: await readFile(join(folder, name)), card };
}

/** Requests and probes for a loaded model, wherever that runs: decodes, prepares, checks sizes, and looks whether outputs are finite. */
export class ArtifactRunner {
  readonly #card: ModelCard;
  readonly #dims: readonly number[];
  readonly #run: RunOnce;
  /** The sample set of the last probe. */
  #samples: { folder: string; source: SampleSource } | null = null;

  constructor(card: ModelCard, run: RunOnce) {
    this.#card = card;
    this.#dims = card.input.shape.map((size) => size ?? 1);
    this.#run = run;
  }

  /** Fails with `infer/invalid` for what does not fit the model. */
  async infer(request: InferRequest): Promise<TimedRun> {
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

  /** Runs sample `index` of a set, or noise; answers the milliseconds. Fails with `target/failed` when an output is not finite. */
  async probe(samplesFolder: string | null, index: number): Promise<number> {
    const { outputs, latencyMs } = await this.#run(await this.probeInput(samplesFolder, index));
    for (const [name, { data }] of outputs) {
      if (data instanceof Float32Array && !data.every((value) => Number.isFinite(value))) {
        throw new EdgeError('target/failed', `output ${name} is not finite`, { subject: name });
      }
    }
    return latencyMs;
  }

  /** What a probe runs on: sample `index` (modulo their number) of a set, or noise where there is none. */
  async probeInput(samplesFolder: string | null, index: number): Promise<Float32Array> {
    if (samplesFolder === null) return this.#noise(index);
    if (this.#samples?.folder !== samplesFolder) {
      const set = await openSampleSet(samplesFolder, this.#card, this.#dims);
      this.#samples = { folder: samplesFolder, source: (set.calibration ?? set.test)! };
    }
    const { source } = this.#samples;
    return source.read(index % source.count);
  }

  #noise(seed: number): Float32Array {
    const random = xorshift32(seed + 1);
    return Float32Array.from({ length: this.#dims.reduce((a, b) => a * b, 1) }, () => random() * 2 - 1);
  }
}

function invalid(message: string): EdgeError {
  return new EdgeError('infer/invalid', message, { subject: 'input' });
}
