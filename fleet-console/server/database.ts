import { closeSync, mkdirSync, openSync } from 'node:fs';
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
  // Secrets that somebody shows are kept as digests. Times in milliseconds are those that are reckoned with. Only what comes next may be
  // inserted into the audit: REPLACE would delete rows without a trigger's knowing.
  `CREATE TABLE account (
     name TEXT PRIMARY KEY, role TEXT NOT NULL, password TEXT NOT NULL, disabled INTEGER NOT NULL DEFAULT 0,
     created_at TEXT NOT NULL, last_login_at TEXT
   ) STRICT;
   CREATE TABLE token (
     id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, digest TEXT NOT NULL UNIQUE,
     created_at TEXT NOT NULL, expires_ms INTEGER, used_ms INTEGER
   ) STRICT;
   CREATE TABLE session (
     digest TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES account(name), created_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX session_account ON session (account, created_ms);
   CREATE TABLE audit (
     number INTEGER PRIMARY KEY, time TEXT NOT NULL, actor TEXT NOT NULL, role TEXT NOT NULL, action TEXT NOT NULL,
     subject TEXT NOT NULL, details TEXT NOT NULL, hash TEXT NOT NULL
   ) STRICT;
   CREATE INDEX audit_hash ON audit (hash);
   CREATE INDEX audit_actor ON audit (actor);
   CREATE INDEX audit_action ON audit (action);
   CREATE INDEX audit_subject ON audit (subject);
   CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
   CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
   CREATE TRIGGER audit_only_next BEFORE INSERT ON audit WHEN NEW.number IS NOT (SELECT coalesce(max(number), 0) + 1 FROM audit)
     BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
   CREATE TABLE webhook (
     id INTEGER PRIMARY KEY AUTOINCREMENT, url TEXT NOT NULL, secret TEXT NOT NULL, events TEXT NOT NULL, created_at TEXT NOT NULL,
     delivered INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0, given_up INTEGER NOT NULL DEFAULT 0, last_attempt TEXT
   ) STRICT;
   CREATE TABLE webhook_delivery (
     number INTEGER PRIMARY KEY AUTOINCREMENT, webhook INTEGER NOT NULL REFERENCES webhook(id) ON DELETE CASCADE,
     id TEXT NOT NULL, body TEXT NOT NULL, created_ms INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0
   ) STRICT;
   CREATE INDEX webhook_delivery_next ON webhook_delivery (webhook, attempts, number);
   CREATE INDEX webhook_delivery_age ON webhook_delivery (webhook, number);
   CREATE TABLE health (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), time TEXT NOT NULL) STRICT;`,
  // Documents are compressed; rowid rises with every one that is taken over.
  `CREATE TABLE table_part (
     device TEXT NOT NULL, target TEXT NOT NULL, sha256 TEXT NOT NULL, part INTEGER NOT NULL, parts INTEGER NOT NULL, text TEXT NOT NULL,
     PRIMARY KEY (device, target, part)
   ) STRICT;
   CREATE TABLE model_table (
     device TEXT NOT NULL, target TEXT NOT NULL, identity TEXT NOT NULL, model TEXT NOT NULL, hardware_class TEXT NOT NULL,
     sha256 TEXT NOT NULL, document BLOB NOT NULL, received_at TEXT NOT NULL,
     PRIMARY KEY (device, target, identity, model)
   ) STRICT;
   CREATE INDEX model_table_identity ON model_table (identity);
   CREATE INDEX model_table_class ON model_table (hardware_class);`,
  `CREATE INDEX rollout_device_trouble ON rollout_device (rollout, device) WHERE state IN ('failed', 'stranded');`,
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

  /** Rows one after the other; nothing else may be asked meanwhile. */
  iterate<T>(statement: string, ...values: unknown[]): IterableIterator<T> {
    return guard(this.#database.name, () => this.#prepare(statement).iterate(...values) as IterableIterator<T>);
  }

  /** Everything that `work` writes is there afterwards, also after a power cut, or nothing of it. May be nested. */
  write<T>(work: () => T): T {
    return guard(this.#database.name, () => this.#database.transaction(work).immediate());
  }

  /** Writes what is good to have and no more: where nothing can be written, whoever only wants to read is not kept from it. */
  tryToNote(statement: string, ...values: unknown[]): void {
    try {
      this.write(() => this.run(statement, ...values));
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
    }
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
  if (path !== ':memory:') {
    mkdirSync(dirname(path), { recursive: true });
    // Secrets of webhooks are in it; the files that SQLite makes beside it get the same mode.
    try {
      closeSync(openSync(path, 'a', 0o600));
    } catch {
      // SQLite fails as well, and its error is one that `guard` knows.
    }
  }
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
