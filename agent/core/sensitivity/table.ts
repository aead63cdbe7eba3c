import type { Precision } from '../../../configs/contracts/plan.js';

/** Plain form, as stored: expected output error by weight or activation tensor, and bit-width. */
export interface SensitivityDocument {
  readonly estimator: string;
  readonly samples: number;
  /** Forward passes of the whole model, suffixes counted by their share of the multiply-accumulates. */
  readonly forwards: number;
  readonly seconds: number;
  /** By the operator that multiplies by the weight: several may read one initializer, and differ in what its error does. */
  readonly weights: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly activations: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

/** Sensitivities of weights and activations; what was not assessed counts as harmless. */
export class SensitivityTable {
  readonly document: SensitivityDocument;

  constructor(document: SensitivityDocument) {
    this.document = document;
  }

  /** Output error of quantizing an operator's weight as the precision says; block-wise 4 bits have the column '4b'. */
  weight(operator: string, precision: Precision): number {
    if (precision.weightBits === 32) return 0;
    const row = this.document.weights[operator];
    const column = precision.activationBits === 32 ? `${precision.weightBits}b` : String(precision.weightBits);
    return row?.[column] ?? row?.[String(precision.weightBits)] ?? 0;
  }

  /** Output error of quantizing an activation tensor to a bit-width. */
  activation(name: string, bits: number): number {
    return bits === 32 ? 0 : (this.document.activations[name]?.[String(bits)] ?? 0);
  }
}
