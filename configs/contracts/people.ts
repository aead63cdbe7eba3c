import { Type } from '@sinclair/typebox';

/** Every role, the weakest first; each may do what those before it may. `device`: fetch artifacts, and nothing else. */
export const roles = ['device', 'viewer', 'operator', 'admin'] as const;

/** What somebody may do: a token may have any role. */
export const Role = Type.Union(roles.map((name) => Type.Literal(name)));
export type Role = (typeof roles)[number];

/** Roles that a person's account may have. */
export const accountRoles = ['viewer', 'operator', 'admin'] as const;
/** One of `accountRoles`. */
export const AccountRole = Type.Union(accountRoles.map((name) => Type.Literal(name)));
export type AccountRole = (typeof accountRoles)[number];

/** Whether somebody with a role may do what needs another one. */
export function allows(role: Role, needed: Role): boolean {
  return roles.indexOf(role) >= roles.indexOf(needed);
}

/** Name of an account or of a token. No space is in it, so that nobody can be named as what the console itself records. */
export const PersonName = Type.String({ pattern: '^[a-z0-9][a-z0-9._@-]{0,63}$' });

/** Fewer characters are too easily guessed; more are no password but an attack. */
export const passwordLengths = { least: 10, most: 1024 } as const;

/** Who has done something, as the audit records it: an account, `token NAME`, `token file`, `local` or `console`. */
export interface Actor {
  readonly name: string;
  /** `console`: the console itself. `none`: somebody whom it did not let in. */
  readonly role: Role | 'console' | 'none';
}

/** The console itself, as of decisions that nobody asked for. */
export const consoleActor: Actor = { name: 'console', role: 'console' };

/** How somebody has said who they are. */
export type Via = 'session' | 'token' | 'token-file' | 'local';

/** Answer of `GET /v1/session`. */
export interface SessionDocument {
  readonly name: string;
  readonly role: Role;
  readonly via: Via;
}

/** An account without its secrets. */
export interface AccountDocument {
  readonly name: string;
  readonly role: AccountRole;
  readonly isDisabled: boolean;
  /** ISO 8601, as all times here. */
  readonly createdAt: string;
  readonly lastLoginAt: string | null;
}

/** An API token without its secret. */
export interface TokenDocument {
  readonly id: number;
  readonly name: string;
  readonly role: Role;
  readonly createdAt: string;
  /** Null: never. */
  readonly expiresAt: string | null;
  /** To the minute. */
  readonly lastUsedAt: string | null;
}

/** A row of the audit. `hash` is the sha256 of the canonical JSON of the others together with the hash of the row before. */
export interface AuditEntry {
  /** From 1, without gaps. */
  readonly number: number;
  readonly time: string;
  readonly actor: string;
  readonly role: string;
  /** Such as `budget.set`. */
  readonly action: string;
  /** What it was done to: a selector, device, release, `rollout 3`, account, token, address. */
  readonly subject: string;
  readonly details: Readonly<Record<string, unknown>>;
  readonly hash: string;
}

/** A page of the audit, newest first. */
export interface AuditPage {
  readonly entries: readonly AuditEntry[];
  /** What to ask for the next page with, as `before`; null at the end. */
  readonly next: number | null;
}

/** What became of checking the whole audit. */
export interface AuditVerdict {
  /** The chain holds from the first entry to the last, and has the head that was asked for, if one was. */
  readonly isIntact: boolean;
  readonly entries: number;
  /** The newest entry: written down elsewhere, it shows later that nothing was cut off. Null: there is none. */
  readonly head: { readonly number: number; readonly hash: string } | null;
  /** Number of the first entry that is changed, missing or out of place. */
  readonly firstBroken: number | null;
  /** Whether the head that was asked for is in the chain; null where none was. */
  readonly isHeadFound: boolean | null;
}

/** Kinds of what webhooks are told: events of devices, results, decisions of rollouts, entries of the audit. */
export const webhookEvents = ['device', 'result', 'rollout', 'audit'] as const;
/** One of `webhookEvents`. */
export const WebhookEvent = Type.Union(webhookEvents.map((name) => Type.Literal(name)));
export type WebhookEvent = (typeof webhookEvents)[number];

/** A webhook with what has become of its deliveries. */
export interface WebhookDocument {
  readonly id: number;
  readonly url: string;
  readonly events: readonly WebhookEvent[];
  readonly createdAt: string;
  /** Deliveries that wait, that were taken, that made room for newer ones, that were given up. */
  readonly pending: number;
  readonly delivered: number;
  readonly dropped: number;
  readonly givenUp: number;
  readonly lastAttempt: WebhookAttempt | null;
  /** When it is tried again; null where nothing waits. */
  readonly nextAttemptAt: string | null;
}

/** One attempt to deliver. */
export interface WebhookAttempt {
  readonly time: string;
  readonly isDelivered: boolean;
  /** Of the answer; null where none came. */
  readonly status: number | null;
  /** Null where it was delivered. */
  readonly error: string | null;
}
