/** Maintenance windows: times of day on days of the week, in a named time zone. Pure. */
import { EdgeError } from '../../../configs/contracts/errors.js';

/** Days as settings name them, from Sunday. */
const dayNames = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] as const;
const minuteMs = 60_000;
const dayMinutes = 24 * 60;
/** Offsets of time zones change at whole quarters of an hour of UTC, in every zone since 1972. */
const quarterMs = 15 * minuteMs;
/** A window of one day a week may be skipped once, by a clock that is set forward over it. */
const searchMs = 15 * dayMinutes * minuteMs;

/** A window, ready to be asked. */
export interface Window {
  /** By day of the week, from Sunday. */
  readonly days: ReadonlySet<number>;
  /** Minutes since midnight. */
  readonly from: number;
  readonly to: number;
  readonly clock: Intl.DateTimeFormat;
}

/** What a window is made of, as settings have it: days `mon`, times `HH:MM`, a zone of the IANA database or UTC. */
export interface WindowSettings {
  readonly days: readonly string[];
  readonly from: string;
  readonly to: string;
  readonly zone: string;
}

/** Fails with `settings/invalid` where this machine knows no such zone. */
export function parseWindow({ days, from, to, zone }: WindowSettings): Window {
  let clock: Intl.DateTimeFormat;
  try {
    clock = new Intl.DateTimeFormat('en-GB', {
      timeZone: zone,
      weekday: 'short',
      hour: '2-digit',
      minute: '2-digit',
      hourCycle: 'h23',
    });
  } catch (cause) {
    throw new EdgeError('settings/invalid', `there is no time zone ${zone}`, {
      subject: 'gates.window.zone',
      hint: 'Use UTC, or a name such as Europe/Berlin or America/New_York.',
      cause,
    });
  }
  const indices = days.map((day) => dayNames.indexOf(day as (typeof dayNames)[number]));
  return { days: new Set(indices), from: minutesOf(from), to: minutesOf(to), clock };
}

function minutesOf(time: string): number {
  return Number(time.slice(0, 2)) * 60 + Number(time.slice(3));
}

/** Whether a window is open, by what a clock on the wall of its zone shows then. Over midnight, it belongs to the day on which it began. */
export function isOpenAt(window: Window, unixMs: number): boolean {
  return isOpenAtLocal(window, localMinute(window, unixMs));
}

/**
 * When a closed window opens next, in milliseconds since 1970, to the minute; null where it does not within the next two weeks. Of times that
 * a clock skips when it is set forward there is none: a window that begins then opens at the first minute after them.
 */
export function opensAfter(window: Window, unixMs: number): number | null {
  const start = Math.floor(unixMs / minuteMs) * minuteMs;
  for (let quarter = Math.floor(start / quarterMs) * quarterMs; quarter < start + searchMs; quarter += quarterMs) {
    const local = localMinute(window, quarter);
    for (let minute = 0; minute < 15; minute++) {
      const at = quarter + minute * minuteMs;
      if (at > start && isOpenAtLocal(window, (local + minute) % (7 * dayMinutes))) return at;
    }
  }
  return null;
}

/** @param local minute of the week, from Sunday */
function isOpenAtLocal({ days, from, to }: Window, local: number): boolean {
  const day = Math.floor(local / dayMinutes);
  const minute = local % dayMinutes;
  if (from < to) return days.has(day) && minute >= from && minute < to;
  return minute >= from ? days.has(day) : minute < to && days.has((day + 6) % 7);
}

function localMinute({ clock }: Window, unixMs: number): number {
  let [day, hour, minute] = [0, 0, 0];
  for (const { type, value } of clock.formatToParts(unixMs)) {
    if (type === 'weekday') day = dayNames.indexOf(value.toLowerCase() as (typeof dayNames)[number]);
    else if (type === 'hour') hour = Number(value);
    else if (type === 'minute') minute = Number(value);
  }
  return day * dayMinutes + hour * 60 + minute;
}
