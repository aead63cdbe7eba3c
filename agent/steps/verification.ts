import { klDivergence, normalizedSquaredDistance } from '../core/divergence.js';
import type { PreparedModel } from '../core/prepare.js';
import type { Feeds, Runtime, Session } from '../ports.js';
import { floatModel } from './apply.js';
import { asLogits, comparedOutput, isClassifier } from './quality.js';
import { readAhead, type SampleReader } from './samples.js';

/** Softmaxes are softened, or a few samples near a decision border would decide. */
const temperature = 4;

/**
 * What to expect of a plan that has been run on calibration samples: its estimated sensitivity and the measured divergence as a
 * geometric mean, in which the measurement counts twice. A sum over tensors knows nothing of how their errors meet; a measurement
 * knows it, for these samples, which may be few. Plans were ranked best by both. Only ratios between plans mean anything.
 */
export function verifiedSensitivity(estimated: number, measured: number): number {
  return Math.cbrt(estimated * measured ** 2);
}

/** Runs whole plans on calibration samples, against float outputs that are computed once. */
export class PlanVerifier {
  readonly #prepared: PreparedModel;
  readonly #runtime: Runtime;
  readonly #threads: number;
  readonly #feeds: readonly Feeds[];
  readonly #references: readonly Float32Array[];

  private constructor(
    prepared: PreparedModel,
    runtime: Runtime,
    threads: number,
    feeds: readonly Feeds[],
    references: readonly Float32Array[],
  ) {
    this.#prepared = prepared;
    this.#runtime = runtime;
    this.#threads = threads;
    this.#feeds = feeds;
    this.#references = references;
  }

  /** Runs the float model over the first `most` samples, and keeps inputs and outputs. */
  static async open(
    prepared: PreparedModel,
    samples: SampleReader,
    options: { readonly most: number; readonly threads: number },
    runtime: Runtime,
    signal: AbortSignal,
  ): Promise<PlanVerifier> {
    const feeds: Feeds[] = [];
    for await (const data of readAhead(samples, Math.min(samples.count, options.most)))
      feeds.push(new Map([[prepared.card.input.name, { dims: prepared.inputDims, data }]]));
    const session = await runtime.open(floatModel(prepared), options);
    try {
      const references: Float32Array[] = [];
      for (const feed of feeds) {
        signal.throwIfAborted();
        references.push(await outputOf(prepared, session, feed));
      }
      return new PlanVerifier(prepared, runtime, options.threads, feeds, references);
    } finally {
      await session.close();
    }
  }

  /** Number of samples that plans are run on. */
  get samples(): number {
    return this.#feeds.length;
  }

  /**
   * Mean divergence of an artifact from float over the samples: softened KL, or the normalised squared distance where the output is no
   * softmax.
   */
  async divergence(artifact: Uint8Array, signal: AbortSignal): Promise<number> {
    const isSoftmax = isClassifier(this.#prepared);
    const divergenceOf = (reference: Float32Array, output: Float32Array) =>
      isSoftmax ? klDivergence(reference, output, temperature) : normalizedSquaredDistance(reference, output);
    const session = await this.#runtime.open(artifact, { threads: this.#threads });
    try {
      let sum = 0;
      for (const [index, feed] of this.#feeds.entries()) {
        signal.throwIfAborted();
        sum += divergenceOf(this.#references[index]!, await outputOf(this.#prepared, session, feed));
      }
      return sum / Math.max(1, this.#feeds.length);
    } finally {
      await session.close();
    }
  }
}

async function outputOf(prepared: PreparedModel, session: Session, feeds: Feeds): Promise<Float32Array> {
  const output = comparedOutput(await session.run(feeds), prepared);
  return isClassifier(prepared) ? asLogits(prepared, output) : output;
}
