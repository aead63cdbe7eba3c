import { createHash, randomBytes } from 'node:crypto';
import type { AccountDocument } from '../../configs/contracts/people.js';
import type { Accounts } from './accounts.js';
import type { ConsoleDatabase } from './database.js';

const hourMs = 3_600_000;
/** A session ends when nothing was asked with it for so long, and in any case so long after the log-in. */
const idleMs = 12 * hourMs;
/** The longest that a session lasts. */
export const sessionMs = 7 * 24 * hourMs;
/** That a session is used is written no more often than this. */
const noteEveryMs = 60_000;
/** Of one account; the oldest makes room. */
const mostOfOne = 20;

interface Row {
  account: string;
  created_ms: number;
  used_ms: number;
}

/** Log-ins of people in browsers. Only digests of their secrets are kept. */
export class Sessions {
  readonly #database: ConsoleDatabase;
  readonly #accounts: Accounts;
  readonly #now: () => number;

  constructor(database: ConsoleDatabase, accounts: Accounts, now: () => number = Date.now) {
    this.#database = database;
    this.#accounts = accounts;
    this.#now = now;
  }

  /** Begins a session; answers its secret, which is shown this once. To be called within the transaction that records it. */
  begin(account: string): string {
    const secret = randomBytes(32).toString('base64url');
    const now = this.#now();
    this.#database.write(() => {
      this.#database.run('DELETE FROM session WHERE used_ms <= ? OR created_ms <= ?', now - idleMs, now - sessionMs);
      this.#database.run('INSERT INTO session VALUES (?, ?, ?, ?)', digestOf(secret), account, now, now);
      this.#database.run(
        `DELETE FROM session WHERE digest IN
           (SELECT digest FROM session WHERE account = ? ORDER BY created_ms DESC LIMIT -1 OFFSET ?)`,
        account,
        mostOfOne,
      );
      this.#database.run('UPDATE account SET last_login_at = ? WHERE name = ?', new Date(now).toISOString(), account);
    });
    return secret;
  }

  /** Whose session it is; null where there is none, it has expired, or its account is disabled. Counts as use only where `isUse`. */
  find(secret: string, isUse: boolean): AccountDocument | null {
    const digest = digestOf(secret);
    const row = this.#database.get<Row>('SELECT * FROM session WHERE digest = ?', digest);
    const now = this.#now();
    if (row === undefined || now >= row.used_ms + idleMs || now >= row.created_ms + sessionMs) return null;
    if (isUse && now >= row.used_ms + noteEveryMs)
      this.#database.tryToNote('UPDATE session SET used_ms = ? WHERE digest = ?', now, digest);
    return this.#accounts.enabled(row.account);
  }

  end(secret: string): void {
    this.#database.write(() => this.#database.run('DELETE FROM session WHERE digest = ?', digestOf(secret)));
  }
}

/** Secrets are random: a digest without salt cannot be undone. */
function digestOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}
