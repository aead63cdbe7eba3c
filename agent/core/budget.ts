import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget, Counter } from '../../configs/contracts/plan.js';
import type { Ceilings } from './plan/allocate.js';
import { median } from './statistics.js';

/** The forms of the command line, for `--help` and error hints. */
export const budgetForms =
  'latency=12ms | latency=0.7x | size=2MB | ram=256KB | flash=1MB | energy=30mJ | sensitivity=0.05 | drop=1% | agreement=99%';

type Field = keyof Budget;

const parsers: Readonly<Record<string, (value: string) => readonly [Field, number] | null>> = {
  latency: (value) => {
    const ratio = numberBefore(value, 'x');
    if (ratio !== null) return ['latencyRatio', ratio];
    const milliseconds = numberBefore(value, 'ms');
    if (milliseconds !== null) return ['latencyMs', milliseconds];
    const microseconds = numberBefore(value, 'us');
    return microseconds === null ? null : ['latencyMs', microseconds / 1000];
  },
  size: bytesAs('sizeBytes'),
  ram: bytesAs('ramBytes'),
  flash: bytesAs('flashBytes'),
  energy: (value) => {
    const millijoules = numberBefore(value, 'mJ') ?? numberBefore(value, 'mj');
    return millijoules === null ? null : ['energyMj', millijoules];
  },
  sensitivity: (value) => {
    const sum = /^[\d.]+(e[-+]?\d+)?$/i.test(value) ? Number(value) : Number.NaN;
    return Number.isFinite(sum) ? ['sensitivity', sum] : null;
  },
  drop: fractionAs('drop'),
  agreement: fractionAs('agreement'),
};

/** Parses `latency=12ms,size=2MB,drop=1%`; KB and MB are powers of 1024. Fails with `budget/invalid`, naming the part. */
export function parseBudget(text: string): Budget {
  const budget: Budget = {};
  for (const part of text
    .split(',')
    .map((piece) => piece.trim())
    .filter((piece) => piece !== '')) {
    const [name = '', value = '', ...rest] = part.split('=').map((piece) => piece.trim());
    const parsed = Object.hasOwn(parsers, name) && rest.length === 0 ? parsers[name]!(value) : null;
    if (parsed === null) {
      throw new EdgeError('budget/invalid', `"${part}" is not a budget`, {
        subject: part,
        hint: `Forms: ${budgetForms}.`,
      });
    }
    budget[parsed[0]] = parsed[1];
  }
  if (budget.latencyMs !== undefined && budget.latencyRatio !== undefined) {
    throw new EdgeError('budget/invalid', 'latency is given both absolute and relative', { subject: text });
  }
  return budget;
}

function numberBefore(value: string, unit: string): number | null {
  if (!value.endsWith(unit)) return null;
  const text = value.slice(0, -unit.length).trim();
  const number = Number(text);
  return text !== '' && Number.isFinite(number) && number > 0 ? number : null;
}

function bytesAs(field: Field) {
  return (value: string): readonly [Field, number] | null => {
    for (const [unit, factor] of [
      ['KB', 1024],
      ['MB', 1024 ** 2],
      ['GB', 1024 ** 3],
      ['B', 1],
    ] as const) {
      const count = numberBefore(value, unit);
      if (count !== null) return Math.floor(count * factor) >= 1 ? [field, Math.floor(count * factor)] : null;
    }
    return null;
  };
}

function fractionAs(field: Field) {
  return (value: string): readonly [Field, number] | null => {
    if (!value.endsWith('%')) return null;
    const percent = Number(value.slice(0, -1));
    return value.length > 1 && percent >= 0 && percent <= 100 ? [field, percent / 100] : null;
  };
}

/**
 * A plan that was measured: what the tables predicted and what the run said, in the target's counter. Corrections are inputs of
 * the plan step, so that a measured miss changes the plan's key and nothing special is needed to try again.
 */
export interface Correction {
  readonly predictedLatency: number;
  readonly measuredLatency: number;
  readonly predictedBytes: number;
  readonly measuredBytes: number;
}

/** Ceilings leave this share free, so that a plan at its limit is not thrown back by noise. */
const margin = 0.985;

/** How much longer plans take than predicted: the median over what was measured, or `prior` before anything was. */
export function latencyRatio(corrections: readonly Correction[], prior: number): number {
  const ratios = corrections
    .filter((row) => row.predictedLatency > 0)
    .map((row) => row.measuredLatency / row.predictedLatency);
  return ratios.length === 0 ? prior : median(ratios);
}

/**
 * The budget as ceilings of the planning problem, in predicted units: the latency ceiling is divided by how much longer plans
 * measure than predicted, and kept below the prediction of every plan that missed it; stored bytes likewise.
 *
 * @param int8Latency latency of uniform int8 on this target, for relative ceilings
 * @param priorRatio `latencyRatio` of earlier runs, 1 where there were none
 */
export function ceilingsOf(
  budget: Budget,
  int8Latency: number,
  corrections: readonly Correction[],
  priorRatio: number,
): Ceilings {
  const ceilings: Ceilings = {};
  const latency = latencyCeiling(budget, int8Latency);
  if (latency !== null) {
    let ceiling = (latency * margin) / latencyRatio(corrections, priorRatio);
    for (const { predictedLatency, measuredLatency } of corrections) {
      if (measuredLatency > latency)
        ceiling = Math.min(ceiling, (predictedLatency * latency * margin) / measuredLatency);
    }
    ceilings.latency = ceiling;
  }
  const stored = Math.min(budget.sizeBytes ?? Number.POSITIVE_INFINITY, budget.flashBytes ?? Number.POSITIVE_INFINITY);
  if (Number.isFinite(stored)) {
    const excess = corrections.reduce((most, row) => Math.max(most, row.measuredBytes - row.predictedBytes), 0);
    ceilings.bytes = stored - excess;
  }
  if (budget.ramBytes !== undefined) ceilings.ramBytes = budget.ramBytes;
  if (budget.energyMj !== undefined) ceilings.energy = budget.energyMj / 1000;
  if (budget.sensitivity !== undefined) ceilings.sensitivity = budget.sensitivity;
  return ceilings;
}

/**
 * Refuses a budget that a target cannot be held against: energy where nothing measures it, and milliseconds where no time is counted. Fails
 * with `budget/invalid`.
 */
export function requireJudgeable(budget: Budget, counter: Counter, hasEnergyMeter: boolean): void {
  if (budget.energyMj !== undefined && !hasEnergyMeter) {
    const message = 'the budget limits energy, but the target has no energy meter that can be read';
    const hint =
      'Leave energy out of the budget, or run as root if the machine has RAPL counters. `quantd doctor` shows the meter.';
    throw new EdgeError('budget/invalid', message, { subject: 'energy', hint });
  }
  if (budget.latencyMs !== undefined && counter !== 'nanoseconds') {
    const message = `the budget limits milliseconds, but the target counts ${counter}`;
    throw new EdgeError('budget/invalid', message, { subject: 'latency', hint: 'Give a relative one: latency=0.7x.' });
  }
}

/** The latency ceiling in nanoseconds, or null. A relative one is a share of `int8Latency`. */
export function latencyCeiling(budget: Budget, int8Latency: number): number | null {
  if (budget.latencyMs !== undefined) return budget.latencyMs * 1e6;
  return budget.latencyRatio === undefined ? null : budget.latencyRatio * int8Latency;
}
