import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import Database from 'better-sqlite3';
import type { Birth, DesiredState, DeviceEvent, DeviceResult, ReportedState } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget } from '../../configs/contracts/plan.js';
import type { Release } from '../../configs/contracts/release.js';
import type { Assignment, BudgetRule, DeviceView } from './desired.js';

/** A device as the console knows it. */
export interface DeviceRecord {
  readonly id: string;
  readonly birth: Birth;
  readonly isOnline: boolean;
  readonly reported: ReportedState | null;
  /** ISO 8601, by the console's clock. */
  readonly lastSeen: string;
  readonly desired: DesiredState | null;
  /**
   * The device has seen a higher generation than this console ever wrote: the database is older than the device. Nothing is sent to
   * it until somebody decides; see `adopt`.
   */
  readonly isAhead: boolean;
}

/** An event with the number it has in the stream of all events. */
export interface StoredEvent {
  readonly number: number;
  readonly event: DeviceEvent;
}

/** What is kept of events and results. */
export interface Retention {
  readonly events: number;
  readonly results: number;
}

/** One statement list per schema version. */
const migrations: readonly string[] = [
  `CREATE TABLE device (
     id TEXT PRIMARY KEY, birth TEXT NOT NULL, session INTEGER NOT NULL, online INTEGER NOT NULL,
     reported TEXT, observed INTEGER NOT NULL DEFAULT 0, last_seen TEXT NOT NULL
   ) STRICT;
   CREATE TABLE release (id TEXT PRIMARY KEY, document TEXT NOT NULL, created_at TEXT NOT NULL) STRICT;
   CREATE TABLE assignment (
     id INTEGER PRIMARY KEY, selector TEXT NOT NULL, target TEXT NOT NULL,
     release TEXT NOT NULL REFERENCES release(id), created_at TEXT NOT NULL
   ) STRICT;
   CREATE TABLE budget (id INTEGER PRIMARY KEY, selector TEXT NOT NULL, budget TEXT NOT NULL, created_at TEXT NOT NULL) STRICT;
   CREATE TABLE desired (device TEXT PRIMARY KEY, generation INTEGER NOT NULL, document TEXT NOT NULL) STRICT;
   CREATE TABLE event (
     number INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT NOT NULL, session INTEGER NOT NULL, sequence INTEGER NOT NULL,
     document TEXT NOT NULL, UNIQUE (device, session, sequence)
   ) STRICT;
   CREATE TABLE result (
     number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, device TEXT NOT NULL, document TEXT NOT NULL
   ) STRICT;
   CREATE INDEX result_device ON result (device, number);`,
];

interface DeviceRow {
  id: string;
  birth: string;
  session: number;
  online: number;
  reported: string | null;
  observed: number;
  last_seen: string;
  desired: string | null;
  generation: number | null;
}

/** The console's truth, in one SQLite file. Methods are synchronous; what belongs together is written together. */
export class ConsoleStore {
  readonly #database: Database.Database;
  readonly #retention: Retention;
  readonly #now: () => string;

  /** Opens, creates and migrates the file. Fails with `store/corrupt`, `store/unwritable` or `disk/full`. */
  constructor(path: string, retention: Retention, now: () => string = () => new Date().toISOString()) {
    this.#retention = retention;
    this.#now = now;
    this.#database = guard(path, () => open(path));
  }

  /** Takes a birth over. One of an older session than is known changes nothing; answers whether it was taken. */
  putBirth(birth: Birth): boolean {
    return this.#write(() => {
      const known = this.#row(birth.device);
      if (known !== undefined && known.session > birth.session) return false;
      this.#run(
        `INSERT INTO device (id, birth, session, online, last_seen) VALUES (?, ?, ?, 1, ?)
         ON CONFLICT (id) DO UPDATE SET birth = excluded.birth, session = excluded.session, last_seen = excluded.last_seen`,
        birth.device,
        JSON.stringify(birth),
        birth.session,
        this.#now(),
      );
      return true;
    });
  }

  /** Takes over whether a device is online. The word of another session than the current one is a late will, and is ignored. */
  putOnline(device: string, isOnline: boolean, session: number): boolean {
    return this.#write(() => {
      const known = this.#row(device);
      if (known === undefined || known.session !== session) return false;
      this.#run('UPDATE device SET online = ?, last_seen = ? WHERE id = ?', isOnline ? 1 : 0, this.#now(), device);
      return known.online !== (isOnline ? 1 : 0);
    });
  }

  /** Takes a report over. An older one than is known (by session and sequence), or one of an unknown device, changes nothing. */
  putReported(reported: ReportedState): boolean {
    return this.#write(() => {
      const known = this.#row(reported.device);
      if (known === undefined) return false;
      const last = known.reported === null ? null : (JSON.parse(known.reported) as ReportedState);
      const isOlder =
        last !== null &&
        (reported.session < last.session || (reported.session === last.session && reported.sequence < last.sequence));
      if (isOlder) return false;
      this.#run(
        'UPDATE device SET reported = ?, observed = max(observed, ?), last_seen = ? WHERE id = ?',
        JSON.stringify(reported),
        reported.observedGeneration,
        this.#now(),
        reported.device,
      );
      return true;
    });
  }

  /** What a device says in a sync: the generation that it has seen. */
  putObserved(device: string, generation: number): void {
    this.#write(() => this.#run('UPDATE device SET observed = max(observed, ?) WHERE id = ?', generation, device));
  }

  device(id: string): DeviceRecord | null {
    const row = guard(this.#database.name, () => this.#row(id));
    return row === undefined ? null : deviceOf(row);
  }

  /** All devices, by id. */
  devices(): DeviceRecord[] {
    const select = this.#database.prepare(`${selectDevice} ORDER BY device.id`);
    return guard(this.#database.name, () => (select.all() as DeviceRow[]).map(deviceOf));
  }

  /** Stores a release; answers false where one of the same id and content is there. Fails with `release/exists` for another content. */
  putRelease(release: Release): boolean {
    return this.#write(() => {
      const known = this.release(release.id);
      if (known !== null) {
        if (canonical(known) === canonical(release)) return false;
        throw new EdgeError('release/exists', `release ${release.id} is there already, with another content`, {
          subject: release.id,
        });
      }
      this.#run('INSERT INTO release VALUES (?, ?, ?)', release.id, JSON.stringify(release), this.#now());
      return true;
    });
  }

  release(id: string): Release | null {
    const row = this.#get<{ document: string }>('SELECT document FROM release WHERE id = ?', id);
    return row === undefined ? null : (JSON.parse(row.document) as Release);
  }

  /** Newest first. */
  releases(): (Release & { createdAt: string })[] {
    const rows = this.#all<{ document: string; created_at: string }>('SELECT * FROM release ORDER BY rowid DESC');
    return rows.map((row) => ({ ...(JSON.parse(row.document) as Release), createdAt: row.created_at }));
  }

  putAssignment({ selector, target, release }: Assignment): void {
    this.#write(() =>
      this.#run(
        'INSERT INTO assignment (selector, target, release, created_at) VALUES (?, ?, ?, ?)',
        selector,
        target,
        release,
        this.#now(),
      ),
    );
  }

  /** Oldest first. */
  assignments(): (Assignment & { createdAt: string })[] {
    return this.#all('SELECT selector, target, release, created_at AS createdAt FROM assignment ORDER BY id');
  }

  putBudget(selector: string, budget: Budget): void {
    this.#write(() =>
      this.#run(
        'INSERT INTO budget (selector, budget, created_at) VALUES (?, ?, ?)',
        selector,
        JSON.stringify(budget),
        this.#now(),
      ),
    );
  }

  /** Every budget that was ever set, oldest first; the last of a selector holds. */
  budgets(): (BudgetRule & { createdAt: string })[] {
    const rows = this.#all<{ selector: string; budget: string; created_at: string }>(
      'SELECT * FROM budget ORDER BY id',
    );
    return rows.map((row) => ({
      selector: row.selector,
      budget: JSON.parse(row.budget) as Budget,
      createdAt: row.created_at,
    }));
  }

  /** Writes what a device should run, under a new generation, if that changes anything. Answers the document if so, else null. */
  putDesired(device: string, targets: DesiredState['targets']): DesiredState | null {
    return this.#write(() => {
      const row = this.#get<{ document: string }>('SELECT document FROM desired WHERE device = ?', device);
      const known = row === undefined ? null : (JSON.parse(row.document) as DesiredState);
      if (canonical(known?.targets ?? {}) === canonical(targets)) return null;
      return this.#putGeneration(device, (known?.generation ?? 0) + 1, targets);
    });
  }

  /** Writes what a known device should run under a generation above what it has seen, so that it takes this console's word again. */
  adopt(device: string, targets: DesiredState['targets']): DesiredState {
    return this.#write(() => {
      const { observed, generation } = this.#row(device)!;
      return this.#putGeneration(device, Math.max(observed, generation ?? 0) + 1, targets);
    });
  }

  /** Keeps an event; false where it is there already. */
  putEvent(event: DeviceEvent): StoredEvent | null {
    return this.#write(() => {
      const { changes, lastInsertRowid } = this.#run(
        'INSERT INTO event (device, session, sequence, document) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
        event.device,
        event.session,
        event.sequence,
        JSON.stringify(event),
      );
      if (changes === 0) return null;
      const number = Number(lastInsertRowid);
      this.#run('DELETE FROM event WHERE number <= ?', number - this.#retention.events);
      return { number, event };
    });
  }

  /** Events after a number, oldest first. */
  eventsAfter(number: number, limit: number): StoredEvent[] {
    const rows = this.#all<{ number: number; document: string }>(
      'SELECT number, document FROM event WHERE number > ? ORDER BY number LIMIT ?',
      number,
      limit,
    );
    return rows.map((row) => ({ number: row.number, event: JSON.parse(row.document) as DeviceEvent }));
  }

  /** Number of the newest event; 0 before any. */
  get lastEvent(): number {
    return this.#get<{ number: number | null }>('SELECT max(number) AS number FROM event')?.number ?? 0;
  }

  /** Keeps a result; false where it is there already. */
  putResult(result: DeviceResult): boolean {
    return this.#write(() => {
      const { changes, lastInsertRowid } = this.#run(
        'INSERT INTO result (id, device, document) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
        result.id,
        result.device,
        JSON.stringify(result),
      );
      if (changes > 0)
        this.#run('DELETE FROM result WHERE number <= ?', Number(lastInsertRowid) - this.#retention.results);
      return changes > 0;
    });
  }

  /** Newest first; of one device, or of all. */
  results(device: string | null, limit: number): DeviceResult[] {
    const where = device === null ? '' : 'WHERE device = ?';
    const rows = this.#all<{ document: string }>(
      `SELECT document FROM result ${where} ORDER BY number DESC LIMIT ?`,
      ...(device === null ? [] : [device]),
      limit,
    );
    return rows.map((row) => JSON.parse(row.document) as DeviceResult);
  }

  close(): void {
    this.#database.close();
  }

  #putGeneration(device: string, generation: number, targets: DesiredState['targets']): DesiredState {
    const document: DesiredState = { schema: 'quantd/desired/1', device, generation, targets, time: this.#now() };
    this.#run(
      `INSERT INTO desired VALUES (?, ?, ?)
       ON CONFLICT (device) DO UPDATE SET generation = excluded.generation, document = excluded.document`,
      device,
      generation,
      JSON.stringify(document),
    );
    return document;
  }

  #row(id: string): DeviceRow | undefined {
    return this.#database.prepare<[string]>(`${selectDevice} WHERE device.id = ?`).get(id) as DeviceRow | undefined;
  }

  #run(statement: string, ...values: unknown[]): Database.RunResult {
    return this.#database.prepare(statement).run(...values);
  }

  #get<T>(statement: string, ...values: unknown[]): T | undefined {
    return guard(this.#database.name, () => this.#database.prepare(statement).get(...values) as T | undefined);
  }

  #all<T>(statement: string, ...values: unknown[]): T[] {
    return guard(this.#database.name, () => this.#database.prepare(statement).all(...values) as T[]);
  }

  #write<T>(work: () => T): T {
    return guard(this.#database.name, () => this.#database.transaction(work).immediate());
  }
}

const selectDevice =
  'SELECT device.*, desired.document AS desired, desired.generation FROM device LEFT JOIN desired ON desired.device = device.id';

function deviceOf(row: DeviceRow): DeviceRecord {
  return {
    id: row.id,
    birth: JSON.parse(row.birth) as Birth,
    isOnline: row.online !== 0,
    reported: row.reported === null ? null : (JSON.parse(row.reported) as ReportedState),
    lastSeen: row.last_seen,
    desired: row.desired === null ? null : (JSON.parse(row.desired) as DesiredState),
    isAhead: row.observed > (row.generation ?? 0),
  };
}

/** A device as `desired.ts` looks at it. */
export function viewOf({ id, birth }: DeviceRecord): DeviceView {
  return { id, labels: birth.labels, targets: birth.targets };
}

/** JSON with sorted keys: equal contents give equal texts. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    inner !== null && typeof inner === 'object' && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

function open(path: string): Database.Database {
  if (path !== ':memory:') mkdirSync(dirname(path), { recursive: true });
  const database = new Database(path);
  database.pragma('journal_mode = WAL');
  // What the console has told a device must not be forgotten by a power cut.
  database.pragma('synchronous = FULL');
  database.pragma('busy_timeout = 5000');
  database.pragma('foreign_keys = ON');
  const upgrade = database.transaction(() => {
    const version = database.pragma('user_version', { simple: true }) as number;
    if (version > migrations.length) {
      throw new EdgeError(
        'store/corrupt',
        `the console's database has version ${version}, newer than this program knows`,
        {
          subject: path,
          hint: 'Use the newer program, or restore an older database.',
        },
      );
    }
    for (const statements of migrations.slice(version)) database.exec(statements);
    database.pragma(`user_version = ${migrations.length}`);
  });
  upgrade.immediate();
  return database;
}

function guard<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    const code = (cause as { code?: unknown }).code;
    if (cause instanceof EdgeError || typeof code !== 'string' || !code.startsWith('SQLITE')) throw cause;
    const isDamage = code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB';
    const kind = code.startsWith('SQLITE_FULL') ? 'disk/full' : isDamage ? 'store/corrupt' : 'store/unwritable';
    throw new EdgeError(kind, `the console's database: ${(cause as Error).message}`, { subject: path, cause });
  }
}
