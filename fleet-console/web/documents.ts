/** What of a result's document (`quantize --json`) is shown. Fields that are not there are unknown. */

/** One operator of a plan, in the order in which they run. */
export interface PlannedOperator {
  readonly name: string;
  readonly op: string;
  readonly precision?: string;
  /** null: an operator without weights. */
  readonly weightBits: number | null;
  readonly inputBits: number;
  readonly outputBits?: number;
  readonly kernel?: string;
  readonly latency: number;
  readonly sensitivity: number;
}

/** The document. */
export interface QuantizeDocument {
  readonly feasible?: boolean;
  readonly model?: {
    readonly sha256?: string;
    readonly macs?: number;
    readonly parameters?: number;
    readonly operators?: number;
  };
  readonly target?: { readonly kind?: string; readonly identity?: Readonly<Record<string, unknown>> };
  readonly plan?: {
    readonly digest?: string;
    readonly operators?: readonly PlannedOperator[];
    readonly averageWeightBits?: number;
    readonly averageActivationBits?: number;
    readonly solver?: { readonly status?: string; readonly gap?: number | null; readonly seconds?: number };
  } | null;
  readonly latency?: {
    readonly unit?: string;
    readonly float?: number | null;
    readonly int8?: number | null;
    readonly predicted?: number | null;
    readonly measured?: number | null;
  };
  readonly rounds?: readonly { readonly predicted: number; readonly measured: number; readonly unit: string }[];
  readonly quality?: {
    readonly top1?: number | null;
    readonly agreement?: number | null;
    readonly kl?: number | null;
    readonly source?: string | null;
  };
  readonly estimator?: { readonly name?: string };
  readonly calibration?: {
    readonly description?: string;
    readonly rule?: string;
    readonly hasBiasCorrection?: boolean;
  };
  readonly rounding?: string;
  readonly profiledOperators?: number;
  readonly seconds?: Readonly<Record<string, number>>;
  readonly artifact?: { readonly sha256?: string | null; readonly format?: string };
}
