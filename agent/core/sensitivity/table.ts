import type { Precision } from '../../../configs/contracts/plan.js';

/** Plain form, as stored: expected output error by tensor and bit-width. */
export interface SensitivityDocument {
  readonly estimator: string;
  readonly samples: number;
  /** Forward passes of the whole model, suffixes counted by their share of the multiply-accumulates. */
  readonly forwards: number;
  readonly seconds: number;
  readonly weights: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly activations: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

/** Sensitivities by tensor; what was not assessed counts as harmless. */
export class SensitivityTable {
  readonly document: SensitivityDocument;

  constructor(document: SensitivityDocument) {
    this.document = document;
  }

  /** Output error of quantizing a weight as the precision says; block-wise 4 bits have the column '4b'. */
  weight(name: string, precision: Precision): number {
    if (precision.weightBits === 32) return 0;
    const column = precision.activationBits === 32 ? `${precision.weightBits}b` : String(precision.weightBits);
    return this.document.weights[name]?.[column] ?? this.document.weights[name]?.[String(precision.weightBits)] ?? 0;
  }

  activation(name: string, bits: number): number {
    return bits === 32 ? 0 : (this.document.activations[name]?.[String(bits)] ?? 0);
  }
}
