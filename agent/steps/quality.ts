import { argmax, energies, klDivergence, normalizedSquaredDistance, sqnrDb } from '../core/divergence.js';
import type { PreparedModel } from '../core/prepare.js';
import type { Feed, Progress, SampleSource, Session } from '../ports.js';
import { readAhead } from './samples.js';
import { runSideBySide } from './side-by-side.js';

/** Quality of one model against the float model, over the same samples. */
export interface Quality {
  /** Share of labelled samples whose class is right; null without labels or for another task. */
  readonly top1: number | null;
  /**
   * Classification: share of samples with the float model's class. Otherwise: share of the float output's variance that is
   * reproduced (1 - normalised squared distance, at least 0).
   */
  readonly agreement: number;
  /** Mean KL(float || this) in nats, classification only. */
  readonly kl: number | null;
  /** Output signal to quantization noise, in dB over all samples; null where nothing differs. */
  readonly sqnrDb: number | null;
}

/** The output of the float model for every sample of a set, kept so that further models need no second float run. */
export interface FloatReference {
  readonly outputs: readonly Float32Array[];
  readonly top1: number | null;
}

/** Whether the first output is one vector of class scores: said by the card, or, without one, shown by a final Softmax. */
export function isClassifier({ card, endsInSoftmax, shapes, model }: PreparedModel): boolean {
  if (card.task === 'classification') return true;
  const dims = shapes.get(model.graph.outputs[0]!.name) ?? [];
  const isVector = dims.length > 0 && dims.reduce((a, b) => a * b, 1) === dims[dims.length - 1];
  return card.task === 'other' && endsInSoftmax && isVector;
}

/** What models are compared by: class scores, or all outputs one after the other. */
export function comparedOutput(results: ReadonlyMap<string, Feed>, prepared: PreparedModel): Float32Array {
  const outputs = isClassifier(prepared) ? prepared.model.graph.outputs.slice(0, 1) : prepared.model.graph.outputs;
  const parts = outputs.map(({ name }) =>
    Float32Array.from(results.get(name)!.data as ArrayLike<number | bigint>, Number),
  );
  if (parts.length === 1) return parts[0]!;
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    all.set(part, offset);
    offset += part.length;
  }
  return all;
}

/** Bytes of float outputs kept for a set; samples beyond that are not used (a detector's outputs are large). */
const referenceBytes = 256 * 2 ** 20;

/** How many samples of a set quality is computed on. */
export function qualitySamples(prepared: PreparedModel, source: SampleSource): number {
  const perSample = prepared.model.graph.outputs.reduce(
    (sum, output) => sum + 4 * (prepared.shapes.get(output.name) ?? [1]).reduce((a, b) => a * b, 1),
    0,
  );
  return Math.min(source.count, Math.max(1, Math.floor(referenceBytes / perSample)));
}

/** Runs the float session and others over a set, sample by sample, and scores each against float. */
export async function assessQuality(
  prepared: PreparedModel,
  source: SampleSource,
  float: Session,
  others: readonly Session[],
  signal: AbortSignal,
  progress: Progress,
): Promise<{ reference: FloatReference; qualities: Quality[] }> {
  const count = qualitySamples(prepared, source);
  const labels = isClassifier(prepared) ? source.labels : null;
  const outputs: Float32Array[] = [];
  let right = 0;
  const scores = others.map(() => new Score(prepared));
  let index = -1;
  for await (const sample of readAhead(source, count)) {
    index++;
    signal.throwIfAborted();
    const feeds = feedsOf(prepared, sample);
    const reference = comparedOutput(await float.run(feeds), prepared);
    outputs.push(reference);
    const label = labels?.[index] ?? null;
    if (label !== null && argmax(reference) === label) right++;
    for (const [other, session] of others.entries()) {
      scores[other]!.add(reference, comparedOutput(await session.run(feeds), prepared), label);
    }
    if (index % 8 === 7 || index + 1 === count)
      progress((index + 1) / count, `verifying, sample ${index + 1} of ${count}`);
  }
  const top1 = labels === null ? null : right / count;
  return { reference: { outputs, top1 }, qualities: scores.map((score) => score.result(labels !== null)) };
}

/** Scores one more model, opened any number of times, against outputs kept from the float model. */
export async function scoreAgainst(
  prepared: PreparedModel,
  source: SampleSource,
  reference: FloatReference,
  sessions: readonly Session[],
  signal: AbortSignal,
): Promise<Quality> {
  const labels = isClassifier(prepared) ? source.labels : null;
  const score = new Score(prepared);
  let index = 0;
  const feeds = (async function* () {
    for await (const sample of readAhead(source, reference.outputs.length)) yield feedsOf(prepared, sample);
  })();
  for await (const results of runSideBySide(sessions, feeds, signal)) {
    score.add(reference.outputs[index]!, comparedOutput(results, prepared), labels?.[index] ?? null);
    index++;
  }
  return score.result(labels !== null);
}

function feedsOf(prepared: PreparedModel, data: Float32Array): ReadonlyMap<string, Feed> {
  return new Map([[prepared.card.input.name, { dims: prepared.inputDims, data }]]);
}

class Score {
  readonly #prepared: PreparedModel;
  readonly #isClassifier: boolean;
  #samples = 0;
  #right = 0;
  #agreement = 0;
  #kl = 0;
  #signal = 0;
  #error = 0;

  constructor(prepared: PreparedModel) {
    this.#prepared = prepared;
    this.#isClassifier = isClassifier(prepared);
  }

  add(reference: Float32Array, output: Float32Array, label: number | null): void {
    this.#samples++;
    const sums = energies(reference, output);
    this.#signal += sums.signal;
    this.#error += sums.error;
    if (!this.#isClassifier) {
      this.#agreement += Math.max(0, 1 - normalizedSquaredDistance(reference, output));
      return;
    }
    const chosen = argmax(output);
    if (chosen === argmax(reference)) this.#agreement++;
    if (label !== null && chosen === label) this.#right++;
    this.#kl += klDivergence(asLogits(this.#prepared, reference), asLogits(this.#prepared, output));
  }

  result(hasLabels: boolean): Quality {
    const sqnr = sqnrDb(this.#signal, this.#error);
    return {
      top1: hasLabels ? this.#right / this.#samples : null,
      agreement: this.#agreement / Math.max(1, this.#samples),
      kl: this.#isClassifier ? this.#kl / Math.max(1, this.#samples) : null,
      sqnrDb: Number.isFinite(sqnr) ? sqnr : null,
    };
  }
}

/**
 * Class scores as logits: the logarithms of probabilities, where the model ends in a Softmax, else the scores. The model decides,
 * not the values: logits of a few classes lie in [0, 1] and sum to 1 now and then.
 */
export function asLogits({ endsInSoftmax }: PreparedModel, scores: Float32Array): Float32Array {
  return endsInSoftmax ? scores.map((score) => Math.log(Math.max(score, 1e-30))) : scores;
}
