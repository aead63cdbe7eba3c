import { mkdirSync, renameSync } from 'node:fs';
import { dirname } from 'node:path';
import Database from 'better-sqlite3';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { KeyValues } from '../device-ports.js';

const version = 1;

/**
 * The daemon's small durable state in one SQLite file. A write is on the disk when it returns (synchronous FULL): a power cut
 * afterwards cannot take it back, which is what the order of the daemon's steps rests on. The file belongs to one process at a
 * time, which is what keeps two daemons from working on one state; the system frees it when the process ends, however it does.
 */
export class SqliteKeyValues implements KeyValues {
  readonly #database: Database.Database;

  /**
   * Opens or creates the file. Fails with `store/corrupt`, `store/unwritable` or `disk/full`, and with `socket/busy` where another
   * process has it.
   *
   * @param waitMs how long another process may take to end
   */
  constructor(path: string, waitMs = 5000) {
    this.#database = guard(path, () => open(path, waitMs));
  }

  /** The same, but a damaged file is moved aside, which is told, and an empty one begins: the console says again what it wants. */
  static openOrBegin(path: string, warn: (text: string) => void): SqliteKeyValues {
    try {
      return new SqliteKeyValues(path);
    } catch (error) {
      if (!(error instanceof EdgeError) || !isDamage(error.cause)) throw error;
      renameSync(path, `${path}.damaged`);
      for (const suffix of ['-wal', '-shm']) moveAside(path, suffix);
      warn(`the daemon's state was damaged and begins empty; what it held is in ${path}.damaged`);
      return new SqliteKeyValues(path);
    }
  }

  read(key: string): unknown {
    const select = this.#database.prepare<[string]>('SELECT value FROM entry WHERE key = ?');
    const record = guard(this.#database.name, () => select.get(key)) as { value: string } | undefined;
    return record === undefined ? null : JSON.parse(record.value);
  }

  write(changes: ReadonlyMap<string, unknown>): void {
    const put = this.#database.prepare(
      'INSERT INTO entry (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
    );
    const remove = this.#database.prepare('DELETE FROM entry WHERE key = ?');
    const all = this.#database.transaction(() => {
      for (const [key, value] of changes) {
        if (value === null) remove.run(key);
        else put.run(key, JSON.stringify(value));
      }
    });
    guard(this.#database.name, () => all.immediate());
  }

  keys(prefix: string): string[] {
    const select = this.#database.prepare<[string, string]>(
      'SELECT key FROM entry WHERE key >= ? AND key < ? ORDER BY key',
    );
    // Keys are ASCII: everything that begins with the prefix sorts before the prefix with the highest character behind it.
    const records = guard(this.#database.name, () => select.all(prefix, `${prefix}\uffff`));
    return (records as { key: string }[]).map(({ key }) => key);
  }

  close(): void {
    this.#database.close();
  }
}

function open(path: string, waitMs: number): Database.Database {
  if (path !== ':memory:') mkdirSync(dirname(path), { recursive: true });
  const database = new Database(path, { timeout: waitMs });
  try {
    prepare(database, path);
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

function prepare(database: Database.Database, path: string): void {
  // Before the first access: the lock is kept from then on.
  database.pragma('locking_mode = EXCLUSIVE');
  database.pragma('journal_mode = WAL');
  database.pragma('synchronous = FULL');
  if (database.pragma('quick_check(1)', { simple: true }) !== 'ok') {
    throw Object.assign(new Error('database disk image is malformed'), { code: 'SQLITE_CORRUPT' });
  }
  const found = database.pragma('user_version', { simple: true }) as number;
  if (found > version) {
    throw new EdgeError('store/corrupt', `the daemon's state has version ${found}, newer than this program knows`, {
      subject: path,
      hint: 'Use the newer program, or move the file away: the device then starts anew and asks the console.',
    });
  }
  database.exec('CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT');
  database.pragma(`user_version = ${version}`);
}

function moveAside(path: string, suffix: string): void {
  try {
    renameSync(`${path}${suffix}`, `${path}.damaged${suffix}`);
  } catch {
    // There is none.
  }
}

function isDamage(cause: unknown): boolean {
  const code = (cause as { code?: string } | undefined)?.code ?? '';
  return code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB';
}

function guard<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (cause instanceof EdgeError) throw cause;
    const code = (cause as { code?: string }).code ?? '';
    const message = cause instanceof Error ? cause.message : String(cause);
    if (code.startsWith('SQLITE_BUSY')) {
      throw new EdgeError('socket/busy', 'another daemon works on this state folder', { subject: path, cause });
    }
    const kind = code.startsWith('SQLITE_FULL') ? 'disk/full' : isDamage(cause) ? 'store/corrupt' : 'store/unwritable';
    throw new EdgeError(kind, `the daemon's state: ${message}`, { subject: path, cause });
  }
}
