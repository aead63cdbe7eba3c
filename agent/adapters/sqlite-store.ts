import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import Database from 'better-sqlite3';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { LatencyRow } from '../../configs/contracts/plan.js';
import type { Store, TargetIdentity } from '../ports.js';

/** One statement list per schema version; a database is brought forward from whatever version it has. */
const migrations: readonly string[] = [
  `CREATE TABLE target (
     identity TEXT PRIMARY KEY,
     description TEXT NOT NULL
   ) STRICT;
   CREATE TABLE latency (
     id INTEGER PRIMARY KEY,
     identity TEXT NOT NULL REFERENCES target(identity),
     operator_key TEXT NOT NULL,
     precision TEXT NOT NULL,
     minimum REAL NOT NULL,
     median REAL NOT NULL,
     spread REAL NOT NULL,
     repeats INTEGER NOT NULL,
     throttled INTEGER NOT NULL,
     energy_joules REAL,
     measured_at TEXT NOT NULL,
     UNIQUE (identity, operator_key, precision)
   ) STRICT;
   CREATE TABLE step (
     key TEXT PRIMARY KEY,
     kind TEXT NOT NULL,
     result TEXT NOT NULL,
     finished_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
   ) STRICT;`,
  'ALTER TABLE latency ADD COLUMN donor TEXT;',
];

interface LatencyRecord {
  operator_key: string;
  precision: string;
  minimum: number;
  median: number;
  spread: number;
  repeats: number;
  throttled: number;
  energy_joules: number | null;
  measured_at: string;
  donor: string | null;
}

/** Durable state in one SQLite file (WAL). Opening creates and migrates it; `:memory:` is allowed for tests. */
export class SqliteStore implements Store {
  readonly #database: Database.Database;

  constructor(path: string) {
    this.#database = open(path);
  }

  latencyRows(identityDigest: string, keys: readonly string[]): LatencyRow[] {
    return this.#guard((database) => {
      const select = database.prepare<[string, string]>(
        'SELECT latency.* FROM latency JOIN json_each(?) AS wanted ON operator_key = wanted.value WHERE identity = ?',
      );
      return (select.all(JSON.stringify(keys), identityDigest) as LatencyRecord[]).map(fromRecord);
    });
  }

  /** Every row of a target, for people and for tests. */
  allLatencyRows(identityDigest: string): (LatencyRow & { id: number })[] {
    return this.#guard((database) => {
      const select = database.prepare<[string]>('SELECT * FROM latency WHERE identity = ? ORDER BY id');
      const records = select.all(identityDigest) as (LatencyRecord & { id: number })[];
      return records.map((record) => ({ id: record.id, ...fromRecord(record) }));
    });
  }

  putLatencyRows(identityDigest: string, identity: TargetIdentity, rows: readonly LatencyRow[]): void {
    this.#guard((database) => {
      const target = database.prepare(
        'INSERT INTO target (identity, description) VALUES (?, ?) ON CONFLICT DO NOTHING',
      );
      const row = database.prepare(
        `INSERT INTO latency (identity, operator_key, precision, minimum, median, spread, repeats, throttled, energy_joules, measured_at, donor)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (identity, operator_key, precision) DO UPDATE SET minimum = excluded.minimum, median = excluded.median,
           spread = excluded.spread, repeats = excluded.repeats, throttled = excluded.throttled,
           energy_joules = excluded.energy_joules, measured_at = excluded.measured_at, donor = excluded.donor`,
      );
      const all = database.transaction(() => {
        target.run(identityDigest, JSON.stringify(identity));
        for (const r of rows) {
          const throttled = r.throttled ? 1 : 0;
          row.run(
            identityDigest,
            r.operatorKey,
            r.precision,
            r.minimum,
            r.median,
            r.spread,
            r.repeats,
            throttled,
            r.energyJoules,
            r.measuredAt,
            r.donor ?? null,
          );
        }
      });
      all();
    });
  }

  dropDonorRows(identityDigest: string, keys: readonly string[]): void {
    this.#guard((database) => {
      const drop = database.prepare<[string, string]>(
        'DELETE FROM latency WHERE identity = ? AND donor IS NOT NULL AND operator_key IN (SELECT value FROM json_each(?))',
      );
      drop.run(identityDigest, JSON.stringify(keys));
    });
  }

  result(stepKey: string): unknown | null {
    return this.#guard((database) => {
      const record = database.prepare<[string]>('SELECT result FROM step WHERE key = ?').get(stepKey);
      return record === undefined ? null : JSON.parse((record as { result: string }).result, unpacked);
    });
  }

  putResult(stepKey: string, kind: string, result: unknown): void {
    this.#guard((database) => {
      const insert = database.prepare(
        'INSERT INTO step (key, kind, result) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET result = excluded.result',
      );
      insert.run(stepKey, kind, JSON.stringify(result, packed));
    });
  }

  close(): void {
    this.#database.close();
  }

  /** A damaged file may show itself at any statement, when it is prepared already. */
  #guard<T>(work: (database: Database.Database) => T): T {
    try {
      return work(this.#database);
    } catch (cause) {
      throw storeError(cause, this.#database.name);
    }
  }
}

function open(path: string): Database.Database {
  let database: Database.Database | undefined;
  try {
    if (path !== ':memory:') mkdirSync(dirname(path), { recursive: true });
    database = new Database(path);
    database.pragma('journal_mode = WAL');
    database.pragma('synchronous = NORMAL');
    database.pragma('busy_timeout = 10000');
    database.pragma('foreign_keys = ON');
    migrate(database);
    return database;
  } catch (cause) {
    database?.close();
    throw cause instanceof EdgeError ? cause : storeError(cause, path);
  }
}

function migrate(database: Database.Database): void {
  const upgrade = database.transaction(() => {
    const version = database.pragma('user_version', { simple: true }) as number;
    if (version > migrations.length) {
      throw new EdgeError('store/corrupt', `the state database has version ${version}, newer than this program knows`, {
        subject: database.name,
        hint: 'Use the newer program, or move the database away.',
      });
    }
    for (const statements of migrations.slice(version)) database.exec(statements);
    database.pragma(`user_version = ${migrations.length}`);
  });
  upgrade.immediate();
}

function fromRecord(record: LatencyRecord): LatencyRow {
  return {
    operatorKey: record.operator_key,
    precision: record.precision,
    minimum: record.minimum,
    median: record.median,
    spread: record.spread,
    repeats: record.repeats,
    throttled: record.throttled !== 0,
    energyJoules: record.energy_joules,
    measuredAt: record.measured_at,
    ...(record.donor === null ? {} : { donor: record.donor }),
  };
}

function storeError(cause: unknown, path: string): EdgeError {
  const code = (cause as { code?: string }).code ?? '';
  const isDamage = code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB' || cause instanceof SyntaxError;
  const message = cause instanceof Error ? cause.message : String(cause);
  return new EdgeError(isDamage ? 'store/corrupt' : 'store/unwritable', `state database: ${message}`, {
    subject: path,
    cause,
  });
}

const arrays = { Int8Array, Uint8Array, Int32Array, Float32Array, Float64Array } as const;

/** Typed arrays as base64 within JSON. */
function packed(_key: string, value: unknown): unknown {
  if (!ArrayBuffer.isView(value)) return value;
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  return { typedArray: value.constructor.name, base64: bytes.toString('base64') };
}

function unpacked(_key: string, value: unknown): unknown {
  const { typedArray, base64 } = (value ?? {}) as { typedArray?: keyof typeof arrays; base64?: string };
  if (typedArray === undefined || base64 === undefined) return value;
  return new arrays[typedArray](Uint8Array.from(Buffer.from(base64, 'base64')).buffer);
}
