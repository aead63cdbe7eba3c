import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import Database from 'better-sqlite3';
import { EdgeError } from '../../configs/contracts/errors.js';

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
  // A pin holds over the assignments up to number "covers". Withdrawn assignments stay, so that no number is ever used twice.
  `ALTER TABLE assignment ADD COLUMN rollout INTEGER;
   ALTER TABLE assignment ADD COLUMN withdrawn INTEGER NOT NULL DEFAULT 0;
   CREATE TABLE pin (
     device TEXT NOT NULL, target TEXT NOT NULL, release TEXT NOT NULL REFERENCES release(id), covers INTEGER NOT NULL,
     PRIMARY KEY (device, target)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE rollout (
     id INTEGER PRIMARY KEY, head TEXT NOT NULL, status TEXT NOT NULL, created_at TEXT NOT NULL, changed_at TEXT NOT NULL
   ) STRICT;
   CREATE TABLE rollout_device (
     rollout INTEGER NOT NULL REFERENCES rollout(id), device TEXT NOT NULL, state TEXT NOT NULL, progress TEXT NOT NULL,
     PRIMARY KEY (rollout, device)
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX rollout_device_device ON rollout_device (device, rollout);
   CREATE TABLE rollout_reason (
     number INTEGER PRIMARY KEY AUTOINCREMENT, rollout INTEGER NOT NULL REFERENCES rollout(id), device TEXT, text TEXT NOT NULL,
     time TEXT NOT NULL
   ) STRICT;
   CREATE INDEX rollout_reason_rollout ON rollout_reason (rollout, number);`,
];

/** The console's SQLite file, with the schema of this version. Calls are synchronous, and fail with `store/corrupt`, `store/unwritable` or `disk/full`. */
export class ConsoleDatabase {
  readonly #database: Database.Database;
  readonly #statements = new Map<string, Database.Statement>();

  /** Opens, creates and migrates the file. */
  constructor(path: string) {
    this.#database = guard(path, () => open(path));
  }

  /** Changes rows; to be called within `write`. */
  run(statement: string, ...values: unknown[]): { readonly changes: number; readonly lastInsertRowid: number } {
    const { changes, lastInsertRowid } = guard(this.#database.name, () => this.#prepare(statement).run(...values));
    return { changes, lastInsertRowid: Number(lastInsertRowid) };
  }

  get<T>(statement: string, ...values: unknown[]): T | undefined {
    return guard(this.#database.name, () => this.#prepare(statement).get(...values) as T | undefined);
  }

  all<T>(statement: string, ...values: unknown[]): T[] {
    return guard(this.#database.name, () => this.#prepare(statement).all(...values) as T[]);
  }

  /** Everything that `work` writes is there afterwards, also after a power cut, or nothing of it. May be nested. */
  write<T>(work: () => T): T {
    return guard(this.#database.name, () => this.#database.transaction(work).immediate());
  }

  close(): void {
    this.#database.close();
  }

  #prepare(statement: string): Database.Statement {
    let prepared = this.#statements.get(statement);
    if (prepared === undefined) this.#statements.set(statement, (prepared = this.#database.prepare(statement)));
    return prepared;
  }
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
