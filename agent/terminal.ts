/** What a person sees: tables that align, one progress bar a step, errors with a hint. Progress and errors go to stderr. */
import { SingleBar } from 'cli-progress';
import type { ErrorDocument } from '../configs/contracts/errors.js';

const useColour = (stream: NodeJS.WriteStream) => stream.isTTY === true && process.env.NO_COLOR === undefined;

function paint(stream: NodeJS.WriteStream, code: number, text: string): string {
  return useColour(stream) ? `\x1b[${code}m${text}\x1b[0m` : text;
}

export function bold(text: string): string {
  return paint(process.stdout, 1, text);
}

/** Columns padded to their widest cell; numbers right-aligned. Cells are plain text. */
export function table(header: readonly string[], rows: readonly (readonly (string | number | null)[])[]): string {
  const text = rows.map((row) => row.map((cell) => (cell === null ? '-' : String(cell))));
  const widths = header.map((name, column) => Math.max(name.length, ...text.map((row) => row[column]?.length ?? 0)));
  const isNumeric = header.map((_, column) =>
    rows.every(
      (row) =>
        row[column] === null || typeof row[column] === 'number' || /^-?[\d.]+( ?\S{1,3})?$/.test(String(row[column])),
    ),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => (isNumeric[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
      .join('  ')
      .trimEnd();
  return [bold(line(header)), ...text.map(line)].join('\n');
}

export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 ** 2 ? `${(bytes / 1024).toFixed(1)} KB` : `${(bytes / 1024 ** 2).toFixed(2)} MB`;
}

export function formatPercent(fraction: number | null): string {
  return fraction === null ? '-' : `${(fraction * 100).toFixed(1)} %`;
}

export function formatMs(milliseconds: number | null): string {
  return milliseconds === null ? '-' : `${milliseconds < 1 ? milliseconds.toFixed(3) : milliseconds.toFixed(2)} ms`;
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

export function printError(error: ErrorDocument): void {
  process.stderr.write(
    `${paint(process.stderr, 31, 'error')} ${error.code}: ${error.message}\n  subject: ${error.subject}\n  hint: ${error.hint}\n`,
  );
}
