import { logitVariance, normalizedSquaredDistance } from '../core/divergence.js';
import type { PreparedModel } from '../core/prepare.js';
import type { Feeds, Runtime, Session } from '../ports.js';
import { floatModel } from './apply.js';
import { asLogits, comparedOutput, isClassifier } from './quality.js';
import { readAhead, type SampleReader } from './samples.js';

/**
 * What to expect of a plan that has been run on calibration samples: the geometric mean of its estimated sensitivity and of what was
 * measured. A sum of single tensors knows nothing of how their errors meet; a measurement knows it, for these samples. Plans are
 * ranked better by both than by either. Only ratios between plans mean anything.
 */
export function verifiedSensitivity(estimated: number, measured: number): number {
  return Math.sqrt(estimated * measured);
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
   * Mean squared output error of an artifact over the samples, as the default estimator counts it: `logitVariance`, or the normalised
   * squared distance where the output is no softmax.
   */
  async squaredError(artifact: Uint8Array, signal: AbortSignal): Promise<number> {
    const errorOf = isClassifier(this.#prepared) ? logitVariance : normalizedSquaredDistance;
    const session = await this.#runtime.open(artifact, { threads: this.#threads });
    try {
      let sum = 0;
      for (const [index, feed] of this.#feeds.entries()) {
        signal.throwIfAborted();
        sum += errorOf(this.#references[index]!, await outputOf(this.#prepared, session, feed));
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
