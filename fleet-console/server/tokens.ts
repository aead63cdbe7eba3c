import { createHash, randomBytes } from 'node:crypto';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Actor, Role, TokenDocument } from '../../configs/contracts/people.js';
import type { AuditLog } from './audit.js';
import type { ConsoleDatabase } from './database.js';

/** That a token is used is written no more often than this. */
const noteEveryMs = 60_000;
const mostTokens = 10_000;

interface Row {
  id: number;
  name: string;
  role: Role;
  created_at: string;
  expires_ms: number | null;
  used_ms: number | null;
}

/** Secrets that programs and devices show. Only their digests are kept. */
export class Tokens {
  readonly #database: ConsoleDatabase;
  readonly #audit: AuditLog;
  readonly #now: () => number;

  constructor(database: ConsoleDatabase, audit: AuditLog, now: () => number = Date.now) {
    this.#database = database;
    this.#audit = audit;
    this.#now = now;
  }

  /** By number; those that have expired, too. */
  list(): TokenDocument[] {
    return this.#database.all<Row>('SELECT * FROM token ORDER BY id').map(documentOf);
  }

  /**
   * Makes a token; answers it with its secret, which is shown this once. Fails with `token/exists` and `token/invalid`.
   *
   * @param expiresAt ISO 8601; null: never
   */
  create(name: string, role: Role, expiresAt: string | null, by: Actor): TokenDocument & { readonly secret: string } {
    const expiresMs = expiresAt === null ? null : Date.parse(expiresAt);
    const now = this.#now();
    if (expiresMs !== null && !(expiresMs > now))
      throw new EdgeError('token/invalid', `${expiresAt} is no time to come`, { subject: 'expiresAt' });
    // `token file` is what the audit has for another one.
    if (name === 'file') throw new EdgeError('token/invalid', "file is a name of the console's own", { subject: name });
    const secret = `fleet_${randomBytes(32).toString('base64url')}`;
    return this.#database.write(() => {
      const tokens = this.list();
      if (tokens.some((token) => token.name === name))
        throw new EdgeError('token/exists', `there is a token ${name}`, { subject: name });
      if (tokens.length >= mostTokens)
        throw new EdgeError('token/invalid', `there are ${mostTokens} tokens, which is as many as there can be`, {
          subject: name,
          hint: 'Revoke some first: fleet token list.',
        });
      const { lastInsertRowid } = this.#database.run(
        'INSERT INTO token (name, role, digest, created_at, expires_ms) VALUES (?, ?, ?, ?, ?)',
        name,
        role,
        digestOf(secret),
        new Date(now).toISOString(),
        expiresMs,
      );
      this.#audit.record(by, 'token.create', `token ${name}`, { role, expiresAt });
      return { ...documentOf(this.#row(lastInsertRowid)!), secret };
    });
  }

  /** Ends a token. Fails with `token/unknown`. */
  revoke(id: number, by: Actor): void {
    this.#database.write(() => {
      const row = this.#row(id);
      if (row === undefined) throw new EdgeError('token/unknown', `there is no token ${id}`, { subject: String(id) });
      this.#database.run('DELETE FROM token WHERE id = ?', id);
      this.#audit.record(by, 'token.revoke', `token ${row.name}`, { role: row.role });
    });
  }

  /** The token with this secret; null where there is none, or it has expired. Counts as use only where `isUse`. */
  find(secret: string, isUse: boolean): TokenDocument | null {
    const row = this.#database.get<Row>('SELECT * FROM token WHERE digest = ?', digestOf(secret));
    const now = this.#now();
    if (row === undefined || (row.expires_ms !== null && now >= row.expires_ms)) return null;
    if (isUse && now >= (row.used_ms ?? Number.NEGATIVE_INFINITY) + noteEveryMs)
      this.#database.tryToNote('UPDATE token SET used_ms = ? WHERE id = ?', now, row.id);
    return documentOf(row);
  }

  #row(id: number): Row | undefined {
    return this.#database.get<Row>('SELECT * FROM token WHERE id = ?', id);
  }
}

function documentOf({ id, name, role, created_at, expires_ms, used_ms }: Row): TokenDocument {
  const time = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
  return { id, name, role, createdAt: created_at, expiresAt: time(expires_ms), lastUsedAt: time(used_ms) };
}

/** Secrets are random: a digest without salt cannot be undone. */
function digestOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}
