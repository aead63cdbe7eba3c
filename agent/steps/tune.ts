import type { Precision, Range } from '../../configs/contracts/plan.js';
import { klDivergence, normalizedSquaredDistance } from '../core/divergence.js';
import type { RoundedProduct } from '../core/image/products.js';
import type { PreparedModel } from '../core/prepare.js';
import type { ArtifactVariant } from '../core/quant/affine.js';
import { biasCorrections, type ChannelMeans } from '../core/quant/bias.js';
import type { RangeRule } from '../core/quant/observer.js';
import type { Progress, Runtime, Session } from '../ports.js';
import { type ArtifactForm, apply, floatModel } from './apply.js';
import type { CalibrationDocument } from './calibrate.js';
import { asLogits, comparedOutput, isClassifier } from './quality.js';
import type { SampleReader } from './samples.js';

/** The recipe that suited this model best, and what each one measured. */
export interface TuningDocument {
  readonly rule: RangeRule;
  readonly hasBiasCorrection: boolean;
  /** Mean divergence of uniform int8 from float, by recipe. */
  readonly divergences: Readonly<Record<string, number>>;
}

/** Everything that the artifact writer needs beside the plan. */
export interface QuantizationRecipe {
  /** At 8 bits, by tensor. */
  readonly ranges: ReadonlyMap<string, Range>;
  /** By bit-width, then tensor. */
  readonly rangesByBits: Readonly<Record<string, Readonly<Record<string, Range>>>>;
  /** For 8-bit weights, by operator. */
  readonly biasCorrections: ReadonlyMap<string, Float32Array>;
  /** For corrections at other widths; null: biases are not corrected. */
  readonly channelMeans: ChannelMeans | null;
  /** Weights and bias of an operator that were rounded with regard to what it reads; null: each weight is rounded to nearest. */
  readonly rounded: (operator: string, weightBits: number) => RoundedProduct | null;
}

/** Samples that decide between recipes: the differences are large, the runs are whole models. */
const samplesMost = 24;

/**
 * Which range rule, and whether correcting biases, suits this model: each candidate is written as uniform int8 and run on
 * calibration samples on the machine's own kernels; the one nearest to float is taken. No rule is best for all models, and bias
 * correction, which mostly helps, can hurt; so neither is believed without being measured.
 */
export async function tune(
  prepared: PreparedModel,
  samples: SampleReader,
  calibration: CalibrationDocument,
  options: {
    readonly rules: readonly RangeRule[];
    readonly int8: ReadonlyMap<string, Precision>;
    readonly variant: ArtifactVariant;
    readonly saturates: boolean;
    readonly threads: number;
  },
  runtime: Runtime,
  signal: AbortSignal,
  progress: Progress,
): Promise<TuningDocument> {
  const recipes = options.rules.flatMap((rule) =>
    [false, true].map((hasBiasCorrection) => ({ rule, hasBiasCorrection })),
  );
  const open = (bytes: Uint8Array) => runtime.open(bytes, { threads: options.threads });
  const sessions: Session[] = [];
  try {
    const { int8 } = options;
    const float = await open(floatModel(prepared));
    sessions.push(float);
    for (const recipe of recipes)
      sessions.push(await open(apply(prepared, int8, recipeOf(prepared, calibration, recipe, options), options)));
    const divergences = await divergencesOf(prepared, samples, float, sessions.slice(1), signal, (share) =>
      progress(share, 'choosing ranges'),
    );
    const best = divergences.indexOf(Math.min(...divergences));
    const nameOf = (recipe: (typeof recipes)[number]) =>
      `${recipe.rule}${recipe.hasBiasCorrection ? ', bias corrected' : ''}`;
    return {
      ...recipes[best]!,
      divergences: Object.fromEntries(recipes.map((recipe, index) => [nameOf(recipe), divergences[index]!])),
    };
  } finally {
    for (const session of sessions) await session.close();
  }
}

/** Mean divergence of models from the float one, over the first samples of a set. */
export async function divergencesOf(
  prepared: PreparedModel,
  samples: SampleReader,
  float: Session,
  others: readonly Session[],
  signal: AbortSignal,
  progress: (share: number) => void,
): Promise<number[]> {
  const divergences = new Array<number>(others.length).fill(0);
  const count = Math.min(samples.count, samplesMost);
  for (let index = 0; index < count; index++) {
    signal.throwIfAborted();
    const feeds = new Map([[prepared.card.input.name, { dims: prepared.inputDims, data: await samples.read(index) }]]);
    const reference = comparedOutput(await float.run(feeds), prepared);
    for (const [candidate, session] of others.entries()) {
      const output = comparedOutput(await session.run(feeds), prepared);
      divergences[candidate]! += divergenceOf(prepared, reference, output) / count;
    }
    progress((index + 1) / count);
  }
  return divergences;
}

/**
 * Ranges by bit-width. The rule that suits 8 bits does not suit fewer, where what is cut off matters less than the steps between: for
 * the engine, which runs them, these are of least squared error if that was looked at.
 */
export function rangesOf(
  calibration: CalibrationDocument,
  rule: RangeRule,
  variant: ArtifactVariant,
): QuantizationRecipe['rangesByBits'] {
  const own = calibration.ranges[rule] ?? {};
  const fine = calibration.ranges.mse;
  if (variant !== 'native' || fine === undefined) return own;
  return { ...fine, '8': own['8'] ?? {} };
}

/** The ranges and corrections of a recipe. */
export function recipeOf(
  prepared: PreparedModel,
  calibration: CalibrationDocument,
  recipe: Pick<TuningDocument, 'rule' | 'hasBiasCorrection'>,
  { variant, saturates }: Pick<ArtifactForm, 'variant' | 'saturates'>,
): QuantizationRecipe {
  const rangesByBits = rangesOf(calibration, recipe.rule, variant);
  return {
    ranges: new Map(Object.entries(rangesByBits['8'] ?? {})),
    rangesByBits,
    channelMeans: recipe.hasBiasCorrection ? calibration.channelMeans : null,
    rounded: () => null,
    biasCorrections: recipe.hasBiasCorrection
      ? biasCorrections(prepared, calibration.channelMeans, saturates)
      : new Map(),
  };
}

function divergenceOf(prepared: PreparedModel, reference: Float32Array, output: Float32Array): number {
  if (!isClassifier(prepared)) return normalizedSquaredDistance(reference, output);
  return klDivergence(asLogits(prepared, reference), asLogits(prepared, output));
}
