/** Numbers as people read them, always with their unit. */
import type { Budget } from '../../configs/contracts/plan.js';

/** What stands where nothing is known. */
export const unknown = '–';
/** Keeps a number and its unit on one line. */
const tie = '\u00a0';

/** `1.23 ms`, three digits; counts of instructions and cycles in thousands or millions. */
export function latencyText(value: number | null | undefined, unit = 'ms'): string {
  if (value === null || value === undefined) return unknown;
  if (unit === 'ms' && value !== 0 && Math.abs(value) < 0.1) return `${digits(value * 1000)}${tie}µs`;
  if (unit !== 'ms' && value >= 1e6) return `${digits(value / 1e6)}${tie}M ${unit}`;
  if (unit !== 'ms' && value >= 1e3) return `${digits(value / 1e3)}${tie}k ${unit}`;
  return `${digits(value)}${tie}${unit}`;
}

/** `98.1 %` of a fraction. */
export function percentText(share: number | null | undefined): string {
  return share === null || share === undefined ? unknown : `${(share * 100).toFixed(1)}${tie}%`;
}

/** `12.3 KB`, `1.25 MB`: powers of 1024. */
export function bytesText(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return unknown;
  if (bytes < 1024) return `${bytes}${tie}B`;
  return bytes < 1024 ** 2 ? `${(bytes / 1024).toFixed(1)}${tie}KB` : `${(bytes / 1024 ** 2).toFixed(2)}${tie}MB`;
}

/** Three significant digits, without an exponent where that is short. */
export function digits(value: number): string {
  return String(Number(value.toPrecision(3)));
}

/** A plain value; `–` where nothing is known. */
export function numberText(value: number | null | undefined): string {
  return value === null || value === undefined ? unknown : digits(value);
}

/** `3 devices`, `1 device`. */
export function countText(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString('en')}${tie}${count === 1 ? one : many}`;
}

/** `45 s`, `12 min`, `3 h`, `2 d`. */
export function secondsText(seconds: number): string {
  if (seconds < 90) return `${digits(seconds)}${tie}s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)}${tie}min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)}${tie}h`;
  return `${Math.round(seconds / 86_400)}${tie}d`;
}

/** A budget in words: `latency ≤ 12 ms, size ≤ 2.00 MB`. */
export function budgetText(budget: Budget | null | undefined): string {
  const texts: Record<keyof Budget, (value: number) => string> = {
    latencyMs: (value) => `latency ≤ ${digits(value)} ms`,
    latencyRatio: (value) => `latency ≤ ${digits(value)} × int8`,
    sizeBytes: (value) => `size ≤ ${bytesText(value)}`,
    ramBytes: (value) => `RAM ≤ ${bytesText(value)}`,
    flashBytes: (value) => `flash ≤ ${bytesText(value)}`,
    energyMj: (value) => `energy ≤ ${digits(value)} mJ`,
    sensitivity: (value) => `sensitivity ≤ ${digits(value)}`,
    drop: (value) => `drop ≤ ${percentText(value)}`,
    agreement: (value) => `agreement ≥ ${percentText(value)}`,
    rounds: (value) => `rounds ≤ ${value}`,
  };
  const parts = Object.entries(budget ?? {}).map(([name, value]) =>
    (texts[name as keyof Budget]?.(value) ?? `${name} ${value}`).replaceAll(' ', tie),
  );
  return parts.length === 0 ? 'no limits' : parts.join(', ');
}

/** A digest as far as people compare it. */
export function digestText(digest: string | null | undefined): string {
  return digest === null || digest === undefined || digest === '' ? unknown : digest.slice(0, 12);
}

/** `+12 %` of a change from one value to another; nothing where it cannot be said. */
export function changeText(base: number | null | undefined, other: number | null | undefined): string {
  if (base == null || other == null || base === 0) return '';
  const change = (other / base - 1) * 100;
  return `${change >= 0 ? '+' : '−'}${Math.abs(change).toFixed(1)}${tie}%`;
}
