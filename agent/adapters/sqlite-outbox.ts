import { mkdirSync, renameSync } from 'node:fs';
import { dirname } from 'node:path';
import Database from 'better-sqlite3';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Outbox, OutboxKind } from '../device-ports.js';

/** Caps of what waits. */
export interface OutboxCaps {
  readonly mostBytes: number;
  readonly mostDays: number;
}

const dayMs = 86_400_000;
/** Bytes that a message takes beside its payload, roughly. */
const rowBytes = 64;

interface Row {
  readonly id: number;
  readonly kind: OutboxKind;
  readonly payload: string;
}

/**
 * The outbox in an SQLite file of its own. Over the cap on bytes, parts of tables go first, the oldest of them, then events, then
 * results, never the message that has just come.
 *
 * Age is measured against the latest time that was ever seen, which only rises: a clock that falls back makes nothing older, and
 * one that was ahead for a while makes messages older than they are, but never throws away the newest result or event.
 */
export class SqliteOutbox implements Outbox {
  readonly #database: Database.Database;
  readonly #caps: OutboxCaps;
  readonly #nowMs: () => number;

  /**
   * Opens or creates the file; a damaged one is moved aside, which is told, and an empty outbox begins.
   *
   * @param nowMs wall time in milliseconds
   */
  constructor(path: string, caps: OutboxCaps, warn: (text: string) => void, nowMs: () => number = Date.now) {
    this.#caps = caps;
    this.#nowMs = nowMs;
    try {
      this.#database = open(path);
    } catch (cause) {
      if (!isDamage(cause)) throw outboxError(cause, path);
      renameSync(path, `${path}.damaged`);
      for (const suffix of ['-wal', '-shm']) moveAside(path, suffix);
      warn(`the outbox was damaged and begins empty; what it held is in ${path}.damaged`);
      this.#database = open(path);
    }
  }

  put(message: { kind: OutboxKind; payload: string }): void {
    const { kind, payload } = message;
    const bytes = Buffer.byteLength(payload) + rowBytes;
    if (bytes > this.#caps.mostBytes) {
      throw new EdgeError('outbox/too-large', `a message of ${bytes} bytes is more than the outbox may hold`, {
        subject: kind,
      });
    }
    this.#guard(() => {
      const now = this.#latest();
      const insert = this.#database.prepare('INSERT INTO message (kind, payload, bytes, time) VALUES (?, ?, ?, ?)');
      const { lastInsertRowid } = insert.run(kind, payload, bytes, now);
      this.#trim(now, Number(lastInsertRowid));
    });
  }

  next(count: number): readonly Row[] {
    const select = this.#database.prepare<[number]>('SELECT id, kind, payload FROM message ORDER BY id LIMIT ?');
    return this.#guard(() => select.all(count) as Row[]);
  }

  remove(id: number): void {
    this.#guard(() => {
      this.#database.prepare('DELETE FROM message WHERE id = ?').run(id);
    });
    try {
      this.#database.pragma('incremental_vacuum(16)');
    } catch {
      // On a full disk: the file shrinks another time.
    }
  }

  state(): { messages: number; bytes: number; dropped: number } {
    return this.#guard(() => {
      const sum = this.#database
        .prepare('SELECT count(*) AS messages, coalesce(sum(bytes), 0) AS bytes FROM message')
        .get();
      const { messages, bytes } = sum as { messages: number; bytes: number };
      return { messages, bytes, dropped: this.#counter('dropped') };
    });
  }

  close(): void {
    this.#database.close();
  }

  /** The latest time that was seen; remembered. */
  #latest(): number {
    const latest = Math.max(this.#counter('latest'), this.#nowMs());
    this.#setCounter('latest', latest);
    return latest;
  }

  #trim(now: number, newest: number): void {
    const drop = this.#database.prepare('DELETE FROM message WHERE id = ?');
    const victims = this.#database.prepare<[number]>(
      `SELECT id, bytes, time FROM message WHERE id <> ? ORDER BY kind = 'result', kind = 'event', id`,
    );
    let { bytes } = this.state();
    let dropped = 0;
    // Of each kind the newest stays, however old it seems.
    const newestOf = this.#database.prepare('SELECT max(id) AS id FROM message GROUP BY kind').all() as {
      id: number;
    }[];
    const kept = new Set(newestOf.map(({ id }) => id));
    for (const victim of victims.all(newest) as { id: number; bytes: number; time: number }[]) {
      const isOld = victim.time < now - this.#caps.mostDays * dayMs && !kept.has(victim.id);
      if (!isOld && bytes <= this.#caps.mostBytes) continue;
      drop.run(victim.id);
      bytes -= victim.bytes;
      dropped++;
    }
    if (dropped > 0) this.#setCounter('dropped', this.#counter('dropped') + dropped);
  }

  #counter(name: string): number {
    const record = this.#database.prepare('SELECT value FROM counter WHERE name = ?').get(name);
    return (record as { value: number } | undefined)?.value ?? 0;
  }

  #setCounter(name: string, value: number): void {
    const put = this.#database.prepare(
      'INSERT INTO counter (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value',
    );
    put.run(name, value);
  }

  #guard<T>(work: () => T): T {
    try {
      return this.#database.inTransaction ? work() : this.#database.transaction(work).immediate();
    } catch (cause) {
      throw outboxError(cause, this.#database.name);
    }
  }
}

function open(path: string): Database.Database {
  if (path !== ':memory:') mkdirSync(dirname(path), { recursive: true });
  const database = new Database(path);
  try {
    // Before the first table: lets the file shrink when it has been full.
    database.pragma('auto_vacuum = INCREMENTAL');
    database.pragma('journal_mode = WAL');
    database.pragma('synchronous = FULL');
    database.exec(
      `CREATE TABLE IF NOT EXISTS message (
         id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, payload TEXT NOT NULL, bytes INTEGER NOT NULL, time REAL NOT NULL
       ) STRICT;
       CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value REAL NOT NULL) STRICT;`,
    );
    database.prepare('SELECT count(*) FROM message').get();
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

function moveAside(path: string, suffix: string): void {
  try {
    renameSync(`${path}${suffix}`, `${path}.damaged${suffix}`);
  } catch {
    // There is none.
  }
}

function isDamage(cause: unknown): boolean {
  const code = (cause as { code?: string }).code ?? '';
  return code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB';
}

function outboxError(cause: unknown, path: string): EdgeError {
  if (cause instanceof EdgeError) return cause;
  const code = (cause as { code?: string }).code ?? '';
  const kind = code.startsWith('SQLITE_FULL') ? 'disk/full' : isDamage(cause) ? 'store/corrupt' : 'store/unwritable';
  return new EdgeError(kind, `the outbox: ${cause instanceof Error ? cause.message : String(cause)}`, {
    subject: path,
    cause,
  });
}
