import type { WeightPacker } from '../../configs/contracts/packing.js';
import type { Precision } from '../../configs/contracts/plan.js';
import { type BuiltImage, buildImage, type ImagePatches } from '../core/image/build.js';
import { encode } from '../core/onnx/codec.js';
import type { Operator } from '../core/onnx/model.js';
import type { PreparedModel } from '../core/prepare.js';
import type { ArtifactVariant } from '../core/quant/affine.js';
import { biasCorrection } from '../core/quant/bias.js';
import { emitQdq } from '../core/quant/qdq.js';
import type { QuantizationRecipe } from './tune.js';

/** What an artifact is written as. */
export interface ArtifactForm {
  readonly variant: ArtifactVariant;
  /** See `Target.saturates`. */
  readonly saturates: boolean;
  /** For images: the kernel by which an operator is fastest at a precision; null or absent: whichever the engine prefers. */
  readonly kernelOf?: (operator: Operator, precision: Precision) => string | null;
  /** For images: see `Target.packer`. */
  readonly packer?: WeightPacker | null;
  /** For images: the operators that run patch by patch; null or absent: none. */
  readonly patches?: ImagePatches | null;
}

/** The artifact of a plan: the model at the given precisions (by operator name), as ONNX bytes or as an image. */
export function apply(
  prepared: PreparedModel,
  precisions: ReadonlyMap<string, Precision>,
  recipe: QuantizationRecipe,
  form: ArtifactForm,
): Uint8Array {
  const { variant, saturates } = form;
  if (variant === 'native') return applyImage(prepared, precisions, recipe, form).bytes;
  const { ranges, biasCorrections } = recipe;
  const settings = { variant, saturates, biasCorrections, shapes: prepared.shapes };
  return encode(emitQdq(prepared.model, prepared.operators, precisions, ranges, settings));
}

/** The same as an image, with what is known of it. */
export function applyImage(
  prepared: PreparedModel,
  precisions: ReadonlyMap<string, Precision>,
  recipe: QuantizationRecipe,
  { saturates, kernelOf, packer = null, patches = null }: ArtifactForm,
): BuiltImage {
  const byName = new Map(prepared.operators.map((operator) => [operator.name, operator]));
  return buildImage(prepared, precisions, {
    rangeOf: (tensor, bits) => recipe.rangesByBits[bits]?.[tensor] ?? recipe.ranges.get(tensor),
    pairSafe: saturates,
    biasCorrection: (operator, bits) =>
      recipe.channelMeans === null ? null : biasCorrection(prepared, operator, bits, recipe.channelMeans, saturates),
    roundedOf: (operator, { weightBits }) => recipe.rounded(operator.name, weightBits),
    kernelOf: (name) => {
      const precision = precisions.get(name);
      return precision === undefined ? null : (kernelOf?.(byName.get(name)!, precision) ?? null);
    },
    patches,
    packer,
  });
}

/** The float model as it will be run for reference: prepared, nothing quantized. */
export function floatModel(prepared: PreparedModel): Uint8Array {
  return apply(prepared, new Map(), noRecipe, { variant: 'ort', saturates: false });
}

/** For what is not quantized. */
const noRecipe: QuantizationRecipe = {
  ranges: new Map(),
  rangesByBits: {},
  biasCorrections: new Map(),
  channelMeans: null,
  rounded: () => null,
};
