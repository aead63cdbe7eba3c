import type { Precision } from '../../configs/contracts/plan.js';
import { nearestProduct, type RoundedProduct } from '../core/image/products.js';
import type { PreparedModel } from '../core/prepare.js';
import { unsignedAffine } from '../core/quant/affine.js';
import { biasCorrection } from '../core/quant/bias.js';
import type { QuantizationRecipe } from './tune.js';

/** Weights and biases at one width, by operator. */
export type WidthWeights = Readonly<Record<string, RoundedProduct>>;

/** All weights at one width, each rounded to nearest, with the recipe's corrections of biases. */
export function nearestWeights(
  prepared: PreparedModel,
  weightBits: Precision['weightBits'],
  { ranges, channelMeans }: QuantizationRecipe,
  saturates: boolean,
): WidthWeights {
  const found: Record<string, RoundedProduct> = {};
  for (const operator of prepared.operators) {
    const range = ranges.get(operator.inputs[0] ?? '');
    if (operator.weight === null || range === undefined) continue;
    const correction =
      channelMeans === null ? null : biasCorrection(prepared, operator, weightBits, channelMeans, saturates);
    found[operator.name] = nearestProduct(prepared, operator, unsignedAffine(range, 8).scale, {
      weightBits,
      pairSafe: saturates,
      biasCorrection: correction,
    });
  }
  return found;
}
