import { timingSafeEqual } from 'node:crypto';
import { parse, serialize } from 'cookie';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { AccountDocument, Actor, Role, Via } from '../../configs/contracts/people.js';
import type { Accounts } from './accounts.js';
import type { AuditLog } from './audit.js';
import type { ConsoleDatabase } from './database.js';
import { Guesses } from './guesses.js';
import { type Sessions, sessionMs } from './sessions.js';
import type { Tokens } from './tokens.js';

/** What knows people apart. */
export interface AuthOptions {
  readonly database: ConsoleDatabase;
  readonly accounts: Accounts;
  readonly tokens: Tokens;
  readonly sessions: Sessions;
  readonly audit: AuditLog;
  /** Whoever shows it is admin; null: there is none. */
  readonly sharedToken: string | null;
}

/** Somebody who has shown who they are. */
export interface Person extends Actor {
  readonly role: Role;
  readonly via: Via;
}

/** The part of a request that tells who asks. */
export interface Asking {
  readonly headers: { readonly cookie?: string | undefined; readonly authorization?: string | undefined };
  /** Name that the console was called by, with or without a port. */
  readonly host: string;
  /** Address that the request came from. */
  readonly ip: string;
}

/** What came of a log-in: a session with its secret, or how long to wait before the next attempt. */
export type Login =
  | { readonly account: AccountDocument; readonly secret: string }
  | { readonly account: null; readonly waitMs: number };

/** Log-ins by what became of them, since the start. */
export type LoginCounts = Readonly<Record<'accepted' | 'refused' | 'throttled', number>>;

const cookieName = 'fleet_session';
/** Refused log-ins that the audit takes within a minute; the rest are counted in one entry. */
const mostRefusals = 20;
const minuteMs = 60_000;
/** Readers of streams are looked at again this often: sessions and tokens expire. */
const recheckMs = 30_000;

/** Who somebody is: by the cookie of a log-in, by a token, or by being on the console's own machine as long as there is neither. */
export class Auth {
  readonly #options: AuthOptions;
  readonly #guesses = new Guesses();
  readonly #readers = new Set<{ readonly asking: Asking; readonly end: () => void }>();
  readonly #counts = { accepted: 0, refused: 0, throttled: 0 };
  readonly #refusals = { sinceMs: 0, recorded: 0, others: 0 };
  #rechecks: NodeJS.Timeout | undefined;

  constructor(options: AuthOptions) {
    this.#options = options;
  }

  /** Whether people log in here; until then, nobody is asked to. */
  get hasAccounts(): boolean {
    return this.#options.accounts.areThere;
  }

  /** Whether nobody is asked who they are: anybody on this machine is admin. */
  get isOpen(): boolean {
    return this.#options.sharedToken === null && !this.hasAccounts;
  }

  get counts(): LoginCounts {
    return this.#counts;
  }

  /** Null: nobody that is known. Counts as use of a session or a token, unless told otherwise. */
  identify({ headers, host, ip }: Asking, isUse = true): Person | null {
    const { sessions, tokens, sharedToken } = this.#options;
    const cookie = sessionSecret(headers.cookie);
    const account = cookie === null ? null : sessions.find(cookie, isUse);
    if (account !== null) return { name: account.name, role: account.role, via: 'session' };
    const shown = shownSecret(headers.authorization ?? '');
    if (shown !== '') {
      if (sharedToken !== null && isSame(shown, sharedToken))
        return { name: 'token file', role: 'admin', via: 'token-file' };
      const token = tokens.find(shown, isUse);
      if (token !== null) return { name: `token ${token.name}`, role: token.role, via: 'token' };
    }
    return this.isOpen && isLoopbackName(host) && isLoopbackAddress(ip)
      ? { name: 'local', role: 'admin', via: 'local' }
      : null;
  }

  /** Whether a device may connect to the broker with this as its password: the shared token, or one of role `device`. */
  admitsDevice(secret: string): boolean {
    const { sharedToken, tokens } = this.#options;
    return (sharedToken !== null && isSame(secret, sharedToken)) || tokens.find(secret, true)?.role === 'device';
  }

  /**
   * Begins a session. Fails with `login/refused`: the same, and as slowly, whether there is no such account, it is disabled or the password
   * is wrong.
   */
  async login(name: string, password: string, address: string): Promise<Login> {
    const { accounts, sessions, audit, database } = this.#options;
    const account = await this.#check(name, password, address);
    if (typeof account === 'number') return { account: null, waitMs: account };
    const secret = database.write(() => {
      audit.record(account, 'session.login', account.name, { address });
      return sessions.begin(account.name);
    });
    return { account: accounts.enabled(name) ?? account, secret };
  }

  /** Ends a session; without one, nothing happens. */
  logout(asking: Asking): void {
    const { sessions, audit, database } = this.#options;
    const secret = sessionSecret(asking.headers.cookie);
    const account = secret === null ? null : sessions.find(secret, false);
    if (secret === null || account === null) return;
    database.write(() => {
      sessions.end(secret);
      audit.record(account, 'session.logout', account.name, { address: asking.ip });
    });
  }

  /**
   * Lets somebody who is logged in choose another password, and answers a new session; all others of the account end. Fails with
   * `usage/invalid` where it is no session that asks, with `login/refused` and with `account/invalid`.
   */
  async changeOwnPassword(person: Person, current: string, password: string, address: string): Promise<Login> {
    if (person.via !== 'session')
      throw new EdgeError('usage/invalid', 'only who is logged in has a password to change', { subject: person.name });
    const { accounts, sessions, database } = this.#options;
    const account = await this.#check(person.name, current, address);
    if (typeof account === 'number') return { account: null, waitMs: account };
    await accounts.change(account.name, { password }, account);
    return { account, secret: database.write(() => sessions.begin(account.name)) };
  }

  /** Calls `end` once the one who asks may no longer do so; until the function that is answered is called. */
  watch(asking: Asking, end: () => void): () => void {
    const reader = { asking, end };
    this.#readers.add(reader);
    this.#rechecks ??= setInterval(() => this.recheck(), recheckMs).unref();
    return () => this.#readers.delete(reader);
  }

  /** To be called when somebody may have lost what they may do. */
  recheck(): void {
    for (const reader of [...this.#readers]) {
      if (this.identify(reader.asking, false) !== null) continue;
      this.#readers.delete(reader);
      reader.end();
    }
  }

  close(): void {
    clearInterval(this.#rechecks);
  }

  /** The account, or for how many milliseconds not to try again. */
  async #check(name: string, password: string, address: string): Promise<AccountDocument | number> {
    const waitMs = this.#guesses.begin(name, address);
    if (waitMs !== null) {
      this.#counts.throttled++;
      this.#refusals.others++;
      return waitMs;
    }
    const account = await this.#options.accounts.check(name, password);
    if (account === null) {
      this.#counts.refused++;
      this.#recordRefusal(name, address);
      throw new EdgeError('login/refused', 'the name or the password is wrong', { subject: 'log-in' });
    }
    this.#guesses.succeeded(name, address);
    this.#counts.accepted++;
    return account;
  }

  /** Whoever guesses must not be able to fill the disk. */
  #recordRefusal(name: string, address: string): void {
    const { audit, accounts } = this.#options;
    const refusals = this.#refusals;
    const nobody: Actor = { name: 'nobody', role: 'none' };
    if (Date.now() - refusals.sinceMs >= minuteMs) {
      if (refusals.others > 0) audit.record(nobody, 'session.refused', 'others', { attempts: refusals.others });
      Object.assign(refusals, { sinceMs: Date.now(), recorded: 0, others: 0 });
    }
    if (refusals.recorded >= mostRefusals) {
      refusals.others++;
      return;
    }
    refusals.recorded++;
    // A name that nobody has may be a password that was typed into the wrong field.
    audit.record(nobody, 'session.refused', accounts.isKnown(name) ? name : 'an unknown name', { address });
  }
}

/** The header `set-cookie` that gives a browser its session. */
export function sessionCookie(secret: string, isSecure: boolean): string {
  return serialize(cookieName, secret, { ...cookieOptions(isSecure), maxAge: sessionMs / 1000 });
}

/** The header `set-cookie` that takes it away again. */
export function endedCookie(isSecure: boolean): string {
  return serialize(cookieName, '', { ...cookieOptions(isSecure), maxAge: 0 });
}

function cookieOptions(secure: boolean) {
  return { httpOnly: true, sameSite: 'strict', path: '/', secure } as const;
}

function sessionSecret(header: string | undefined): string | null {
  return (header === undefined ? undefined : parse(header)[cookieName]) || null;
}

/** Of a browser, the password of any name. */
function shownSecret(authorization: string): string {
  const [, scheme = '', credentials = ''] = /^(Bearer|Basic) (.+)$/i.exec(authorization) ?? [];
  if (scheme.toLowerCase() !== 'basic') return credentials;
  const text = Buffer.from(credentials, 'base64').toString('utf8');
  return text.slice(text.indexOf(':') + 1);
}

/** In constant time for texts of one length. */
function isSame(shown: string, token: string): boolean {
  const [a, b] = [Buffer.from(shown), Buffer.from(token)];
  return a.length === b.length && timingSafeEqual(a, b);
}

/** Another site whose name leads here could read the answers otherwise. */
function isLoopbackName(host: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/i.test(host.replace(/:\d+$/, ''));
}

function isLoopbackAddress(ip: string): boolean {
  return /^((::ffff:)?127(\.\d{1,3}){3}|::1)$/i.test(ip);
}
