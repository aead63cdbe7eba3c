import { isIP } from 'node:net';

/** What guessing is slowed down to, for a name or an address. */
interface Pace {
  /** Failures that cost nothing. */
  readonly free: number;
  /** The longest pause; pauses double from one second to that. */
  readonly mostMs: number;
}

interface Failures {
  count: number;
  untilMs: number;
  lastMs: number;
}

/** A name is held up for a minute at most: whoever wants to keep its owner out must not be able to do so for long. */
const ofName: Pace = { free: 5, mostMs: 60_000 };
/** More, since many people may share one address. */
const ofAddress: Pace = { free: 20, mostMs: 900_000 };
/** Without a failure for so long, everything is forgotten. */
const forgetMs = 3_600_000;
const firstPauseMs = 1000;
/** Names and addresses that are remembered; the one that failed longest ago is forgotten first. */
const mostRemembered = 10_000;

/** Slows down the guessing of passwords, by name and by address. In memory, and bounded; a restart forgets everything. */
export class Guesses {
  readonly #failures = new Map<string, Failures>();
  readonly #now: () => number;

  /** @param now milliseconds of a clock that does not go back */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /**
   * Lets an attempt through, and counts it as failed until `succeeded` says otherwise: attempts side by side gain nothing.
   *
   * @returns how long to wait before the next attempt, where this one is not let through; else null
   */
  begin(name: string, address: string): number | null {
    const keys = keysOf(name, address);
    const now = this.#now();
    const waits = keys.map(([key]) => (this.#failures.get(key)?.untilMs ?? 0) - now);
    const waitMs = Math.max(...waits);
    if (waitMs > 0) return waitMs;
    for (const [key, pace] of keys) this.#fail(key, pace, now);
    return null;
  }

  /** An attempt that was let through was right: its name is as new; of its address, only this attempt is taken back. */
  succeeded(name: string, address: string): void {
    const [[nameKey], [addressKey]] = keysOf(name, address);
    this.#failures.delete(nameKey);
    const failures = this.#failures.get(addressKey);
    if (failures === undefined) return;
    failures.count--;
    failures.untilMs = 0;
    if (failures.count <= 0) this.#failures.delete(addressKey);
  }

  /** Names and addresses that are remembered. */
  get size(): number {
    return this.#failures.size;
  }

  #fail(key: string, { free, mostMs }: Pace, now: number): void {
    const known = this.#failures.get(key);
    const count = (known === undefined || now - known.lastMs > forgetMs ? 0 : known.count) + 1;
    const pauseMs = count < free ? 0 : Math.min(mostMs, firstPauseMs * 2 ** (count - free));
    // Behind all others: the map is in the order of the last failure.
    this.#failures.delete(key);
    this.#failures.set(key, { count, untilMs: now + pauseMs, lastMs: now });
    if (this.#failures.size <= mostRemembered) return;
    const [oldest] = this.#failures.keys();
    this.#failures.delete(oldest!);
  }
}

function keysOf(name: string, address: string): [[string, Pace], [string, Pace]] {
  return [
    [`name ${name}`, ofName],
    [`address ${networkOf(address)}`, ofAddress],
  ];
}

/** Whoever has one IPv6 address has the 2^64 beside it. */
function networkOf(address: string): string {
  if (isIP(address) !== 6 || /^::ffff:\d+\./i.test(address)) return address;
  const [left = '', right = ''] = address.split('%')[0]!.split('::');
  const [first, last] = [left, right].map((part) => part.split(':').filter((group) => group !== ''));
  const groups = [...first!, ...Array<string>(8 - first!.length - last!.length).fill('0'), ...last!];
  return groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':');
}
