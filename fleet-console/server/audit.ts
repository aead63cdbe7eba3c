import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Actor, AuditEntry, AuditPage, AuditVerdict } from '../../configs/contracts/people.js';
import type { Announce } from './announce.js';
import { canonical } from './canonical.js';
import type { ConsoleDatabase } from './database.js';

/** Which entries are wanted; null: any. */
export interface AuditFilter {
  /** Only older ones than this number. */
  readonly before: number | null;
  readonly limit: number;
  readonly actor: string | null;
  readonly action: string | null;
  readonly subject: string | null;
}

interface Row {
  number: number;
  time: string;
  actor: string;
  role: string;
  action: string;
  subject: string;
  details: string;
  hash: string;
}

/** Rows that are checked at a time; others have their turn between. */
const batch = 500;
/** What the first entry has in place of the hash of the one before. */
const origin = '0'.repeat(64);

/**
 * Who has done what, for ever: rows are only added, each bound to the one before by its hash. Whoever changes the file past the console
 * breaks the chain, or has to write all of it anew, which the newest hash shows if it was written down elsewhere.
 */
export class AuditLog {
  readonly #database: ConsoleDatabase;
  readonly #announce: Announce;
  #checking: Promise<Omit<AuditVerdict, 'isHeadFound'>> | null = null;

  constructor(database: ConsoleDatabase, announce: Announce) {
    this.#database = database;
    this.#announce = announce;
  }

  /**
   * Adds an entry: within the transaction that writes what it records, where there is one.
   *
   * @param details plain data without secrets; as small as says it
   */
  record(by: Actor, action: string, subject: string, details: Readonly<Record<string, unknown>> = {}): AuditEntry {
    return this.#database.write(() => {
      const last = this.#head();
      const head = {
        number: (last?.number ?? 0) + 1,
        time: new Date().toISOString(),
        actor: by.name,
        role: by.role,
        action,
        subject,
        // As it is read again: without what JSON has no word for.
        details: JSON.parse(canonical(details)) as Record<string, unknown>,
      };
      const entry = { ...head, hash: hashOf(head, last?.hash ?? origin) };
      this.#database.run(
        'INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
        entry.number,
        entry.time,
        entry.actor,
        entry.role,
        entry.action,
        entry.subject,
        canonical(entry.details),
        entry.hash,
      );
      this.#announce('audit', entry);
      return entry;
    });
  }

  /** Entries that fit, newest first. */
  page({ before, limit, actor, action, subject }: AuditFilter): AuditPage {
    const conditions = Object.entries({
      'number < ?': before,
      'actor = ?': actor,
      'action = ?': action,
      'subject = ?': subject,
    }).filter(([, value]) => value !== null);
    const where = conditions.length === 0 ? '' : `WHERE ${conditions.map(([condition]) => condition).join(' AND ')}`;
    const rows = this.#database.all<Row>(
      `SELECT * FROM audit ${where} ORDER BY number DESC LIMIT ?`,
      ...conditions.map(([, value]) => value),
      limit + 1,
    );
    const entries = rows.slice(0, limit).map((row) => ({ ...row, details: readDetails(row.details) ?? {} }));
    return { entries, next: rows.length > limit ? entries.at(-1)!.number : null };
  }

  /** How many entries there are. */
  get size(): number {
    return this.#head()?.number ?? 0;
  }

  /**
   * Checks every entry there is now. Takes its time in small pieces; asked again meanwhile, it checks once.
   *
   * @param head a hash that was written down earlier: the chain must have it. Null: none
   */
  async verify(head: string | null): Promise<AuditVerdict> {
    this.#checking ??= this.#check().finally(() => {
      this.#checking = null;
    });
    const verdict = await this.#checking;
    const found = head === null ? null : this.#has(head);
    return { ...verdict, isIntact: verdict.isIntact && found !== false, isHeadFound: found };
  }

  async #check(): Promise<Omit<AuditVerdict, 'isHeadFound'>> {
    const last = this.#head() ?? null;
    let expected = 1;
    let previous = origin;
    for (;;) {
      const rows = this.#database.all<Row>(
        'SELECT * FROM audit WHERE number >= ? AND number <= ? ORDER BY number LIMIT ?',
        // From below the first number that there should be.
        expected === 1 ? Number.MIN_SAFE_INTEGER : expected,
        last?.number ?? 0,
        batch,
      );
      for (const row of rows) {
        if (row.number !== expected || !fits(row, previous)) {
          return { isIntact: false, entries: this.#count(), head: last, firstBroken: Math.min(row.number, expected) };
        }
        previous = row.hash;
        expected++;
      }
      if (rows.length < batch) return { isIntact: true, entries: expected - 1, head: last, firstBroken: null };
      await nextTurn();
    }
  }

  #head(): { number: number; hash: string } | undefined {
    return this.#database.get('SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1');
  }

  #count(): number {
    return this.#database.get<{ count: number }>('SELECT count(*) AS count FROM audit')!.count;
  }

  #has(hash: string): boolean {
    return this.#database.get('SELECT 1 FROM audit WHERE hash = ?', hash) !== undefined;
  }
}

function hashOf(entry: Omit<AuditEntry, 'hash'>, previous: string): string {
  return createHash('sha256')
    .update(canonical({ ...entry, previous }))
    .digest('hex');
}

/** Whether a row is what its hash says, after the one before. */
function fits({ hash, ...row }: Row, previous: string): boolean {
  const details = readDetails(row.details);
  return details !== null && canonical(details) === row.details && hashOf({ ...row, details }, previous) === hash;
}

/** Null where the text is none that was written here. */
function readDetails(text: string): Record<string, unknown> | null {
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return null;
  }
}
