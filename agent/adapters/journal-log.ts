import { pino } from 'pino';
import type { Log } from '../device-ports.js';

/** Levels of the journal (RFC 5424) by pino's numbers. */
const journalLevels: readonly (readonly [number, number])[] = [
  [50, 3],
  [40, 4],
  [30, 6],
  [0, 7],
];

/** Where lines go, and how. */
export interface LogOptions {
  readonly level: string;
  /** Lines begin with the journal's level, as systemd wants it on a standard stream. */
  readonly isForJournal: boolean;
  readonly write: (line: string) => void;
}

/** One JSON document a line. Values of fields that could be secrets are not to be given to it; known names are blanked all the same. */
export function openLog({ level, isForJournal, write }: LogOptions): Log {
  const stream = {
    write: (line: string) => {
      if (!isForJournal) return write(line);
      const number = Number(/"level":(\d+)/.exec(line)?.[1] ?? 30);
      write(`<${journalLevels.find(([least]) => number >= least)![1]}>${line}`);
    },
  };
  const redact = { paths: ['password', 'token', '*.password', '*.token'], censor: '(blank)' };
  const log = pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime, redact }, stream);
  return {
    info: (fields, message) => log.info(fields, message),
    warn: (fields, message) => log.warn(fields, message),
  };
}
