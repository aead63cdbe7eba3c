import { inputPrior, inputSize } from '../core/input-prior.js';
import { drawPicture, drawRecipe, type PictureRecipe, varyRecipe } from '../core/made-pictures.js';
import { encode } from '../core/onnx/codec.js';
import type { BatchNormStatistics } from '../core/onnx/fold-affine.js';
import type { PreparedModel } from '../core/prepare.js';
import { xorshift32 } from '../core/random.js';
import type { Feed, Progress, Runtime, Session } from '../ports.js';
import { isClassifier } from './quality.js';
import type { SampleReader } from './samples.js';

/** How many synthetic samples stand in for a calibration or test set. */
export const syntheticCount = 64;

/** Raised whenever the same model gets other samples. */
export const syntheticVersion = 2;

/** Multiplications that looking for samples may take, in passes of the model; and the passes, whatever they take. */
const searchMacs = 100e9;
const searchPasses = { least: 3, most: 8 };

/** What synthetic samples are made from; a JSON value. */
export interface SyntheticDocument {
  readonly source: 'batch-norm' | 'prior';
  readonly recipes: readonly PictureRecipe[];
}

/**
 * Made-up inputs for a device that has no samples: pictures of several kinds (see core/made-pictures.ts) put through the card's
 * preprocessing, or standard normal values where the card says nothing. Which of them are kept is up to the model:
 *
 * Where the graph still had BatchNormalization, each layer's stored mean and deviation say what its input looked like in training,
 * over all samples and places together. Those candidates are kept that together come nearest to that (the distance of ZeroQ,
 * arXiv 2001.00281, without its gradient), and variations of them are tried. Single samples are not to come near: samples that are
 * all alike would leave out what is rare.
 *
 * Otherwise every second one, from the first, is as it comes, and the others are those that excite the model most. What a model was
 * trained to see drives its last layers further than pictures of nothing do, and ranges that cut off the strongest activations do more
 * harm than wide ones.
 */
export async function findSynthetic(
  prepared: PreparedModel,
  options: { count: number; threads: number },
  runtime: Runtime,
  signal: AbortSignal,
  progress: Progress,
): Promise<SyntheticDocument> {
  const hasStatistics = prepared.batchNorms.length > 0;
  const random = xorshift32(20230919);
  const find = hasStatistics ? fitToStatistics : mostExciting;
  const recipes = await find(prepared, options, random, runtime, signal, (share) =>
    progress(share, hasStatistics ? 'fitting synthetic inputs to batch statistics' : 'looking for synthetic inputs'),
  );
  return { source: hasStatistics ? 'batch-norm' : 'prior', recipes };
}

/** The samples of a document. */
export function syntheticSamples(prepared: PreparedModel, { source, recipes }: SyntheticDocument): SampleReader {
  return {
    count: recipes.length,
    source,
    digest: `synthetic:${source}:${recipes.length}:${syntheticVersion}`,
    read: async (index) => render(prepared, recipes[index]!),
  };
}

/** Passes of the model that a search takes, in multiples of the samples wanted. */
function passesOf(prepared: PreparedModel, count: number): number {
  const affordable = Math.floor(searchMacs / Math.max(1, prepared.macs) / count);
  return Math.max(searchPasses.least, Math.min(searchPasses.most, affordable));
}

function render(prepared: PreparedModel, recipe: PictureRecipe): Float32Array {
  const dims = prepared.inputDims;
  const result = new Float32Array(dims.reduce((a, b) => a * b, 1));
  const planes = drawPicture(recipe, inputSize(prepared));
  const isInterleaved = prepared.card.input.layout.indexOf('C') === dims.length - 1 && dims.length > 2;
  planes.forEach((plane, channel) => {
    const { mean, deviation, least, most } = inputPrior(prepared, channel);
    plane.forEach((value, i) => {
      const index = isInterleaved ? i * planes.length + channel : channel * plane.length + i;
      result[index] = Math.min(most, Math.max(least, mean + deviation * value));
    });
  });
  return result;
}

/** A recipe with how far it drives the model's output, and which class it is taken for. */
interface Excitement {
  readonly recipe: PictureRecipe;
  readonly winner: number;
  readonly strength: number;
}

/** Half at random, and half those of the most different and strongest outputs that a search by variation finds. */
async function mostExciting(
  prepared: PreparedModel,
  { count, threads }: { count: number; threads: number },
  random: () => number,
  runtime: Runtime,
  signal: AbortSignal,
  progress: (share: number) => void,
): Promise<PictureRecipe[]> {
  const { logits, model } = prepared;
  const outputs = [{ name: logits, type: 'float32' as const, shape: null }];
  const session = await runtime.open(encode({ ...model, graph: { ...model.graph, outputs } }), { threads });
  try {
    const common = Array.from({ length: Math.ceil(count / 2) }, () => drawRecipe(inputSize(prepared), random));
    let kept: Excitement[] = [];
    const rounds = passesOf(prepared, count);
    for (let round = 0; round < rounds; round++) {
      const next =
        round < rounds / 2
          ? Array.from({ length: count }, () => drawRecipe(inputSize(prepared), random))
          : [...kept, ...kept].map(({ recipe }) => varyRecipe(recipe, random));
      const pool = [...kept];
      for (const [index, recipe] of next.entries()) {
        signal.throwIfAborted();
        const feeds = new Map([
          [prepared.card.input.name, { dims: prepared.inputDims, data: render(prepared, recipe) }],
        ]);
        pool.push({ recipe, ...excitement((await session.run(feeds)).get(logits)!.data) });
        progress((round + (index + 1) / next.length) / rounds);
      }
      kept = strongest(pool, Math.floor(count / 2), isClassifier(prepared));
    }
    // In turn, because some steps look at the first few samples only.
    return common.flatMap((recipe, index) => [recipe, ...kept.slice(index, index + 1).map((found) => found.recipe)]);
  } finally {
    await session.close();
  }
}

/** The largest output, and how far it is from their mean. */
function excitement(outputs: Feed['data']): { winner: number; strength: number } {
  let winner = 0;
  let sum = 0;
  for (let i = 0; i < outputs.length; i++) {
    sum += Number(outputs[i]!);
    if (outputs[i]! > outputs[winner]!) winner = i;
  }
  return { winner, strength: Number(outputs[winner]!) - sum / outputs.length };
}

/** The strongest of every class first, then the second of every class, and so on; among equals the stronger. */
function strongest(pool: readonly Excitement[], count: number, hasClasses: boolean): Excitement[] {
  const seen = new Map<number, number>();
  const ranked = pool
    .filter(({ strength }) => Number.isFinite(strength))
    .sort((a, b) => b.strength - a.strength)
    .map((candidate) => {
      const key = hasClasses ? candidate.winner : 0;
      const place = seen.get(key) ?? 0;
      seen.set(key, place + 1);
      return { candidate, place: hasClasses ? place : 0 };
    });
  // Sorting is stable: strength decides within a place.
  return ranked
    .sort((a, b) => a.place - b.place)
    .slice(0, count)
    .map(({ candidate }) => candidate);
}

/** A recipe with the mean and mean square of every channel of every normalized tensor, one after the other. */
interface Candidate {
  readonly recipe: PictureRecipe;
  readonly means: Float32Array;
  readonly squares: Float32Array;
}

/** Draws candidates, keeps the set that is nearest to the stored statistics, varies it, and repeats. */
async function fitToStatistics(
  prepared: PreparedModel,
  { count, threads }: { count: number; threads: number },
  random: () => number,
  runtime: Runtime,
  signal: AbortSignal,
  progress: (share: number) => void,
): Promise<PictureRecipe[]> {
  const norms = prepared.batchNorms.filter((norm) => prepared.shapes.has(norm.tensor));
  const outputs = norms.map((norm) => ({ name: norm.tensor, type: 'float32' as const, shape: null }));
  const model = encode({ ...prepared.model, graph: { ...prepared.model.graph, outputs } });
  const session = await runtime.open(model, { threads });
  try {
    let kept: Candidate[] = [];
    const passes = passesOf(prepared, count);
    // As many drawn as there are wanted, and as many variations, after a first round of three times as many.
    const rounds = 1 + Math.floor((passes - 3) / 2);
    for (let round = 0; round < rounds; round++) {
      const drawn = Array.from({ length: round === 0 ? 3 * count : count }, () =>
        drawRecipe(inputSize(prepared), random),
      );
      const next = [...drawn, ...kept.map(({ recipe }) => varyRecipe(recipe, random))];
      const pool = [...kept];
      for (const [index, recipe] of next.entries()) {
        signal.throwIfAborted();
        pool.push(await observe(prepared, session, norms, recipe));
        progress((round + (index + 1) / next.length) / rounds);
      }
      kept = nearestSet(norms, pool, count);
    }
    return kept.map(({ recipe }) => recipe);
  } finally {
    await session.close();
  }
}

async function observe(
  prepared: PreparedModel,
  session: Session,
  norms: readonly BatchNormStatistics[],
  recipe: PictureRecipe,
): Promise<Candidate> {
  const feeds = new Map([[prepared.card.input.name, { dims: prepared.inputDims, data: render(prepared, recipe) }]]);
  const values = await session.run(feeds);
  const channels = norms.reduce((sum, { beta }) => sum + beta.length, 0);
  const means = new Float32Array(channels);
  const squares = new Float32Array(channels);
  let at = 0;
  for (const { tensor, beta } of norms) {
    const data = values.get(tensor)!.data as Float32Array;
    const size = data.length / beta.length;
    for (let channel = 0; channel < beta.length; channel++, at++) {
      let sum = 0;
      let square = 0;
      for (let i = channel * size; i < (channel + 1) * size; i++) {
        sum += data[i]!;
        square += data[i]! * data[i]!;
      }
      means[at] = sum / size;
      squares[at] = square / size;
    }
  }
  return { recipe, means, squares };
}

/**
 * The candidates that together have means and deviations nearest to the stored ones, each channel in units of its deviation and each
 * tensor counting alike. One after the other, the candidate is taken that brings those before it nearest.
 */
function nearestSet(norms: readonly BatchNormStatistics[], pool: readonly Candidate[], count: number): Candidate[] {
  const targets = norms.flatMap(({ beta, gamma }) =>
    Array.from(beta, (mean, channel) => ({
      mean,
      unit: Math.max(Math.abs(gamma[channel]!), 1e-3),
      share: 1 / beta.length,
    })),
  );
  const sums = new Float64Array(targets.length);
  const squares = new Float64Array(targets.length);
  const left = new Set(pool);
  const kept: Candidate[] = [];
  while (kept.length < count && left.size > 0) {
    const size = kept.length + 1;
    let best: Candidate | null = null;
    let bestDistance = Number.POSITIVE_INFINITY;
    for (const candidate of left) {
      let distance = 0;
      for (let at = 0; at < targets.length && distance < bestDistance; at++) {
        const { mean: wanted, unit, share } = targets[at]!;
        const mean = (sums[at]! + candidate.means[at]!) / size;
        const square = (squares[at]! + candidate.squares[at]!) / size;
        const deviation = Math.sqrt(Math.max(square - mean * mean, 0));
        distance += share * (((mean - wanted) / unit) ** 2 + ((deviation - unit) / unit) ** 2);
      }
      if (distance < bestDistance || best === null) [best, bestDistance] = [candidate, distance];
    }
    left.delete(best!);
    kept.push(best!);
    best!.means.forEach((value, at) => {
      sums[at]! += value;
      squares[at]! += best!.squares[at]!;
    });
  }
  return kept;
}
