import type { TablePart } from '../../configs/contracts/tables.js';
import type { ConsoleDatabase } from './database.js';

/** A table as it is kept. */
export interface StoredTable {
  readonly device: string;
  readonly target: string;
  /** Digest of the target identity. */
  readonly identity: string;
  readonly modelSha256: string;
  readonly hardwareClass: string;
  /** Of the compressed document. */
  readonly sha256: string;
  /** ISO 8601, by the console's clock. */
  readonly receivedAt: string;
}

/** Tables that are kept of one target of a device: those of the models that it made last. */
const keptTables = 16;

const columns =
  'device, target, identity, model AS modelSha256, hardware_class AS hardwareClass, sha256, received_at AS receivedAt';

/** Tables of devices: the newest of each model on each target identity, compressed; and parts of those that are on their way. */
export class TableStore {
  readonly #database: ConsoleDatabase;

  constructor(database: ConsoleDatabase) {
    this.#database = database;
  }

  /**
   * Keeps a part. Answers the whole text once all parts are there, which then stay until `put` or `dropParts`; null before. Of one target
   * only one table can be on its way: parts of another one take the place of what was there.
   */
  putPart({ device, target, sha256, part, parts, text }: TablePart): string | null {
    return this.#database.write(() => {
      this.#database.run(
        'DELETE FROM table_part WHERE device = ? AND target = ? AND (sha256 <> ? OR parts <> ?)',
        device,
        target,
        sha256,
        parts,
      );
      this.#database.run(
        'INSERT INTO table_part VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET text = excluded.text',
        device,
        target,
        sha256,
        part,
        parts,
        text,
      );
      const found = this.#database.all<{ text: string }>(
        'SELECT text FROM table_part WHERE device = ? AND target = ? ORDER BY part',
        device,
        target,
      );
      return found.length === parts ? found.map((row) => row.text).join('') : null;
    });
  }

  /** Forgets what is on its way of a target. */
  dropParts(device: string, target: string): void {
    this.#database.write(() =>
      this.#database.run('DELETE FROM table_part WHERE device = ? AND target = ?', device, target),
    );
  }

  /** Takes a whole table over, in the place of an older one of the same model. Answers whether it says anything new. */
  put(table: Omit<StoredTable, 'receivedAt'>, document: Uint8Array): boolean {
    const { device, target, identity, modelSha256, hardwareClass, sha256 } = table;
    return this.#database.write(() => {
      this.dropParts(device, target);
      const known = this.#database.get<{ sha256: string }>(
        'SELECT sha256 FROM model_table WHERE device = ? AND target = ? AND identity = ? AND model = ?',
        device,
        target,
        identity,
        modelSha256,
      );
      if (known?.sha256 === sha256) return false;
      this.#database.run(
        'INSERT OR REPLACE INTO model_table VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
        device,
        target,
        identity,
        modelSha256,
        hardwareClass,
        sha256,
        Buffer.from(document),
        new Date().toISOString(),
      );
      this.#database.run(
        `DELETE FROM model_table WHERE device = ? AND target = ? AND rowid NOT IN
           (SELECT rowid FROM model_table WHERE device = ? AND target = ? ORDER BY rowid DESC LIMIT ?)`,
        device,
        target,
        device,
        target,
        keptTables,
      );
      return true;
    });
  }

  /** Tables of a device, of a target identity, or of a hardware class (any where absent), newest first. */
  list(which: { device?: string; identity?: string; hardwareClass?: string } = {}): StoredTable[] {
    const { device = null, identity = null, hardwareClass = null } = which;
    return this.#database.all<StoredTable>(
      `SELECT ${columns} FROM model_table
       WHERE device = coalesce(?, device) AND identity = coalesce(?, identity) AND hardware_class = coalesce(?, hardware_class)
       ORDER BY rowid DESC`,
      device,
      identity,
      hardwareClass,
    );
  }

  /** The compressed document of a table that is kept; null where another one has taken its place. */
  document({ device, target, identity, modelSha256, sha256 }: StoredTable): Uint8Array | null {
    const row = this.#database.get<{ document: Uint8Array }>(
      'SELECT document FROM model_table WHERE device = ? AND target = ? AND identity = ? AND model = ? AND sha256 = ?',
      device,
      target,
      identity,
      modelSha256,
      sha256,
    );
    return row?.document ?? null;
  }
}
