import type { Precision } from '../../configs/contracts/plan.js';
import { encode } from '../core/onnx/codec.js';
import type { PreparedModel } from '../core/prepare.js';
import { emitQdq, type QdqOptions } from '../core/quant/qdq.js';
import type { QuantizationRecipe } from './tune.js';

/** The artifact of a plan: the model at the given precisions (by operator name; float without an entry), as ONNX bytes. */
export function apply(
  prepared: PreparedModel,
  precisions: ReadonlyMap<string, Precision>,
  { ranges, biasCorrections }: QuantizationRecipe,
  { variant, saturates }: Pick<QdqOptions, 'variant' | 'saturates'>,
): Uint8Array {
  const settings = { variant, saturates, biasCorrections, shapes: prepared.shapes };
  return encode(emitQdq(prepared.model, prepared.operators, precisions, ranges, settings));
}
