import { EdgeError } from '../../configs/contracts/errors.js';
import type { Bits, Precision } from '../../configs/contracts/plan.js';

/** Both sides float. */
export const float: Precision = { weightBits: 32, activationBits: 32 };

const widths: readonly number[] = [2, 3, 4, 5, 6, 7, 8, 16, 32];

/** 'float' or 'W8A8': the one spelling used in tables, options and reports. */
export function formatPrecision(precision: Precision): string {
  if (precision.weightBits === 32 && precision.activationBits === 32) return 'float';
  return `W${precision.weightBits}A${precision.activationBits}`;
}

/** The inverse of `formatPrecision`, case-insensitive. Fails with `usage/invalid`. */
export function parsePrecision(text: string): Precision {
  if (text.toLowerCase() === 'float') return float;
  const match = /^w(\d+)a(\d+)$/i.exec(text);
  const weightBits = Number(match?.[1]);
  const activationBits = Number(match?.[2]);
  if (!widths.includes(weightBits) || !widths.includes(activationBits)) {
    throw new EdgeError('usage/invalid', `"${text}" is not a precision`, {
      subject: '--precisions',
      hint: 'Write a comma list of float or W8A8-like pairs; widths are 2 to 8, 16 and 32 bits.',
    });
  }
  return { weightBits: weightBits as Bits, activationBits: activationBits as Bits };
}

/** A comma list of precisions, without repeats. */
export function parsePrecisions(text: string): Precision[] {
  const names = text.split(',').map((part) => formatPrecision(parsePrecision(part.trim())));
  return [...new Set(names)].map(parsePrecision);
}
