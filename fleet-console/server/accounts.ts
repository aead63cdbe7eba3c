import { EdgeError } from '../../configs/contracts/errors.js';
import { type AccountDocument, type AccountRole, type Actor, passwordLengths } from '../../configs/contracts/people.js';
import type { AuditLog } from './audit.js';
import type { ConsoleDatabase } from './database.js';
import { hashPassword, isPassword } from './passwords.js';

interface Row {
  name: string;
  role: AccountRole;
  password: string;
  disabled: number;
  created_at: string;
  last_login_at: string | null;
}

/** What is to be changed about an account; what is absent stays. */
export interface AccountChange {
  readonly role?: AccountRole | undefined;
  readonly isDisabled?: boolean | undefined;
  readonly password?: string | undefined;
}

/** Names that the audit has for what is no account. */
const reserved = new Set(['local', 'console', 'nobody', 'system']);

/**
 * People. Either there is no account at all, or at least one admin that is not disabled: nobody can lock everybody out. Accounts are
 * disabled, never deleted, so that a name in the audit is always the same person's.
 */
export class Accounts {
  readonly #database: ConsoleDatabase;
  readonly #audit: AuditLog;

  constructor(database: ConsoleDatabase, audit: AuditLog) {
    this.#database = database;
    this.#audit = audit;
  }

  /** Whether there is any account, so that nobody is let in without one or a token. */
  get areThere(): boolean {
    return this.#database.get('SELECT 1 FROM account LIMIT 1') !== undefined;
  }

  /** By name. */
  list(): AccountDocument[] {
    return this.#database.all<Row>('SELECT * FROM account ORDER BY name').map(documentOf);
  }

  /** Null where there is none, or it is disabled. */
  enabled(name: string): AccountDocument | null {
    const row = this.#row(name);
    return row === undefined || row.disabled !== 0 ? null : documentOf(row);
  }

  /** Fails with `account/exists`, `account/invalid`, and with `account/last-admin` where the first of all is no admin. */
  async add(name: string, role: AccountRole, password: string, by: Actor): Promise<AccountDocument> {
    if (reserved.has(name))
      throw new EdgeError('account/invalid', `${name} is a name of the console's own`, { subject: name });
    refuseBadPassword(name, password);
    const stored = await hashPassword(password);
    return this.#database.write(() => {
      if (this.#row(name) !== undefined)
        throw new EdgeError('account/exists', `there is an account ${name}`, { subject: name });
      if (role !== 'admin' && !this.areThere)
        throw new EdgeError('account/last-admin', 'the first account has to be an admin', {
          subject: name,
          hint: 'Without an admin nobody could add another. First: fleet account add NAME --role admin.',
        });
      this.#database.run(
        'INSERT INTO account (name, role, password, created_at) VALUES (?, ?, ?, ?)',
        name,
        role,
        stored,
        new Date().toISOString(),
      );
      this.#audit.record(by, 'account.add', name, { role });
      return documentOf(this.#existing(name));
    });
  }

  /**
   * Changes an account; all of it or nothing. Another password, and being disabled, end its sessions. Fails with `account/unknown`,
   * `account/invalid`, and with `account/last-admin` where no enabled admin would be left.
   */
  async change(name: string, { role, isDisabled, password }: AccountChange, by: Actor): Promise<AccountDocument> {
    this.#existing(name);
    if (password !== undefined) refuseBadPassword(name, password);
    const stored = password === undefined ? undefined : await hashPassword(password);
    return this.#database.write(() => {
      const before = this.#existing(name);
      if (role !== undefined && role !== before.role) {
        this.#database.run('UPDATE account SET role = ? WHERE name = ?', role, name);
        this.#audit.record(by, 'account.role', name, { role, before: before.role });
      }
      if (isDisabled !== undefined && isDisabled !== (before.disabled !== 0)) {
        this.#database.run('UPDATE account SET disabled = ? WHERE name = ?', isDisabled ? 1 : 0, name);
        this.#audit.record(by, isDisabled ? 'account.disable' : 'account.enable', name);
      }
      if (stored !== undefined) {
        this.#database.run('UPDATE account SET password = ? WHERE name = ?', stored, name);
        this.#audit.record(by, 'account.password', name);
      }
      if (stored !== undefined || isDisabled === true)
        this.#database.run('DELETE FROM session WHERE account = ?', name);
      const admin = this.#database.get("SELECT 1 FROM account WHERE role = 'admin' AND disabled = 0 LIMIT 1");
      if (admin === undefined)
        throw new EdgeError('account/last-admin', `${name} is the last admin that is not disabled`, { subject: name });
      return documentOf(this.#existing(name));
    });
  }

  /**
   * The account with this name and password; null where there is none such, or it is disabled: all after the same time.
   *
   * `login/throttled` where too many are asked for at once.
   */
  async check(name: string, password: string): Promise<AccountDocument | null> {
    const row = this.#row(name);
    const isRight = await isPassword(password, row?.password ?? null);
    // Of now: much may have happened meanwhile.
    return isRight && this.#row(name)?.password === row?.password ? this.enabled(name) : null;
  }

  /** Whether there is an account of this name, disabled or not. */
  isKnown(name: string): boolean {
    return this.#row(name) !== undefined;
  }

  #row(name: string): Row | undefined {
    return this.#database.get<Row>('SELECT * FROM account WHERE name = ?', name);
  }

  #existing(name: string): Row {
    const row = this.#row(name);
    if (row !== undefined) return row;
    throw new EdgeError('account/unknown', `there is no account ${name}`, { subject: name });
  }
}

function documentOf({ name, role, disabled, created_at, last_login_at }: Row): AccountDocument {
  return { name, role, isDisabled: disabled !== 0, createdAt: created_at, lastLoginAt: last_login_at };
}

function refuseBadPassword(name: string, password: string): void {
  const { least, most } = passwordLengths;
  if (password.length < least || password.length > most)
    throw new EdgeError('account/invalid', `a password has ${least} to ${most} characters`, { subject: name });
  if (password.toLowerCase().includes(name) && password.length < name.length + least)
    throw new EdgeError('account/invalid', 'the password is little more than the name', { subject: name });
}
