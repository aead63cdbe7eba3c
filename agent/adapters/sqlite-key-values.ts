import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import Database from 'better-sqlite3';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { KeyValues } from '../device-ports.js';

const version = 1;

/**
 * The daemon's small durable state in one SQLite file. A write is on the disk when it returns (synchronous FULL): a power cut
 * afterwards cannot take it back, which is what the order of the daemon's steps rests on.
 */
export class SqliteKeyValues implements KeyValues {
  readonly #database: Database.Database;

  /** Opens or creates the file. Fails with `store/corrupt`, `store/unwritable` or `disk/full`. */
  constructor(path: string) {
    this.#database = guard(path, () => open(path));
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

function open(path: string): Database.Database {
  if (path !== ':memory:') mkdirSync(dirname(path), { recursive: true });
  const database = new Database(path);
  database.pragma('journal_mode = WAL');
  database.pragma('synchronous = FULL');
  const found = database.pragma('user_version', { simple: true }) as number;
  if (found > version) {
    database.close();
    throw new EdgeError('store/corrupt', `the daemon's state has version ${found}, newer than this program knows`, {
      subject: path,
      hint: 'Use the newer program, or move the file away: the device then starts anew and asks the console.',
    });
  }
  database.exec('CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT');
  database.pragma(`user_version = ${version}`);
  return database;
}

function guard<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (cause instanceof EdgeError) throw cause;
    const code = (cause as { code?: string }).code ?? '';
    const message = cause instanceof Error ? cause.message : String(cause);
    const kind = code.startsWith('SQLITE_FULL')
      ? 'disk/full'
      : code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB'
        ? 'store/corrupt'
        : 'store/unwritable';
    throw new EdgeError(kind, `the daemon's state: ${message}`, { subject: path, cause });
  }
}
