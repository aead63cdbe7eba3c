/** What the console knows of a device's tables of latencies and sensitivities. Everything about their form is in this file. */
import { type Loaded, useDocument } from './api.js';

/** One timing of an operator, in the unit of its table. */
export interface TableChoice {
  readonly precision: string;
  readonly median: number;
  readonly minimum: number;
  /** Interquartile range divided by the median. */
  readonly spread: number;
  /** Taken over from devices of the same identity, not measured here. */
  readonly isDonor?: boolean;
}

/** Timings of an operator at the precisions that were measured. */
export interface TableOperator {
  readonly key: string;
  readonly name: string;
  readonly type: string;
  readonly choices: readonly TableChoice[];
}

/** Tables of one target. */
export interface TargetTables {
  readonly unit: string;
  readonly operators: readonly TableOperator[];
  readonly sensitivities: readonly { readonly operator: string; readonly precision: string; readonly value: number }[];
  readonly receivedAt?: string;
  /** Digests of the rows that the plan rests on; `donorDigest` null: all were measured here. */
  readonly provenance?: { readonly tableDigest?: string; readonly donorDigest?: string | null };
}

/** Tables of a device, by target; answers 404 where the console keeps none. */
export function useTables(device: string): Loaded<{ readonly targets: Readonly<Record<string, TargetTables>> }> {
  return useDocument(`/v1/devices/${encodeURIComponent(device)}/tables`);
}
