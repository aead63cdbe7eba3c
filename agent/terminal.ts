/** What a person sees: tables that align, one progress bar a step, errors with a hint. Progress and errors go to stderr. */
import { SingleBar } from 'cli-progress';
import type { ErrorDocument } from '../configs/contracts/errors.js';
import { textTable } from './core/text-table.js';

let mayColour = true;

/** Says whether terminals may be coloured at all; they are, unless this says otherwise. What is no terminal never is. */
export function allowColour(isAllowed: boolean): void {
  mayColour = isAllowed;
}

function paint(stream: NodeJS.WriteStream, code: number, text: string): string {
  return mayColour && stream.isTTY === true ? `\x1b[${code}m${text}\x1b[0m` : text;
}

/** Text in bold, where stdout is a terminal that may be coloured; else as it is. */
export function bold(text: string): string {
  return paint(process.stdout, 1, text);
}

/** A table with its header in bold; see `textTable`. */
export function table(header: readonly string[], rows: readonly (readonly (string | number | null)[])[]): string {
  return textTable(header, rows, bold);
}

/** Bytes for people, in powers of 1024: `12.3 KB`. */
export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 ** 2 ? `${(bytes / 1024).toFixed(1)} KB` : `${(bytes / 1024 ** 2).toFixed(2)} MB`;
}

/** A fraction as `98.1 %`; null, which is unknown, as `-`. */
export function formatPercent(fraction: number | null): string {
  return fraction === null ? '-' : `${(fraction * 100).toFixed(1)} %`;
}

/** Milliseconds as `1.25 ms`, below one to the microsecond; null, which is unknown, as `-`. */
export function formatMs(milliseconds: number | null): string {
  return milliseconds === null ? '-' : `${milliseconds < 1 ? milliseconds.toFixed(3) : milliseconds.toFixed(2)} ms`;
}

/** A latency in the unit of its document: milliseconds as `formatMs` has them, counts as they are. */
export function formatLatency(value: number | null, unit: string): string {
  return unit === 'ms' || value === null ? formatMs(value) : `${value} ${unit}`;
}

/** One bar on a terminal, one line a step elsewhere. */
export class ProgressDisplay {
  readonly #bar: SingleBar | null;
  #step = '';

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.#bar = stream.isTTY
      ? new SingleBar({
          format: ' {step} [{bar}] {percentage}% {text}',
          barCompleteChar: '#',
          barIncompleteChar: '.',
          barsize: 24,
          hideCursor: true,
          clearOnComplete: true,
          linewrap: false,
          stream,
        })
      : null;
    this.#bar?.start(1000, 0, { step: 'starting '.padEnd(10), text: '' });
  }

  update(step: string, share: number, text: string): void {
    if (this.#bar !== null) this.#bar.update(Math.round(share * 1000), { step: step.padEnd(10), text });
    else if (step !== this.#step) process.stderr.write(`${step}\n`);
    this.#step = step;
  }

  stop(): void {
    this.#bar?.stop();
  }
}

/** Prints code, message, subject and hint on stderr. */
export function printError(error: ErrorDocument): void {
  process.stderr.write(
    `${paint(process.stderr, 31, 'error')} ${error.code}: ${error.message}\n  subject: ${error.subject}\n  hint: ${error.hint}\n`,
  );
}
