/** An image before it is bytes: what the writer collects, and what a stage of patches and packed weights change of it. */
import type { OperatorKindName, tensorPlaces, tensorTypes } from '../../../configs/contracts/image.js';
import type { Span } from '../plan/patch-geometry.js';

/** A tensor of the image, by its position. */
export type TensorId = number;

/** What a tensor holds; `bits`, `scale` and `zero` are of codes. */
export interface TensorSpec {
  readonly type: keyof typeof tensorTypes;
  readonly elements: number;
  readonly bits?: number;
  readonly scale?: number;
  readonly zero?: number;
}

/** What each patch holds of a tensor: rows by the row of patches, columns by the column. */
export interface Regions {
  readonly rows: number;
  readonly columns: number;
  readonly channels: number;
  readonly rowSpans: readonly Span[];
  readonly columnSpans: readonly Span[];
}

/** A tensor with its place. */
export interface TensorEntry extends TensorSpec {
  place: keyof typeof tensorPlaces;
  /** Among the inputs or outputs. */
  position: number;
  /** null: it is there as a whole. */
  readonly regions: Regions | null;
}

/** A field's value: a 32-bit integer, signed or not; a single-precision number; or constants, whose offset in the data the field holds. */
export type FieldValue = number | { readonly float: number } | { readonly bytes: Uint8Array };

/** An operator record. */
export interface OperatorEntry {
  readonly kind: OperatorKindName;
  /** The operator of the model that it belongs to. */
  readonly source: string;
  readonly inputs: readonly TensorId[];
  readonly output: TensorId;
  readonly values: Readonly<Record<string, FieldValue>>;
}

/** The stage that runs patch by patch; counts are of operators. */
export interface StageEntry {
  readonly gridRows: number;
  readonly gridColumns: number;
  readonly firstOperator: number;
  readonly plainOperators: number;
  /** Of a second branch behind the first, for patches whose window has codes outside of `low` to `high`; 0: there is none. */
  readonly outlierOperators: number;
  readonly low: number;
  readonly high: number;
}

/** All of an image but its constants. */
export interface Draft {
  readonly tensors: readonly TensorEntry[];
  readonly operators: readonly OperatorEntry[];
  readonly stage: StageEntry | null;
}

/** A number among an operator's fields. Throws a TypeError for what is none. */
export function numberOf({ kind, values }: OperatorEntry, field: string): number {
  const value = values[field];
  if (typeof value !== 'number') throw new TypeError(`${field} of ${kind} is no number`);
  return value;
}
