/** Lock files: who may not be disturbed, why, and until when. Read by the daemon, written by `quantd lock` and by whoever else wants to. */
import { link, mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';
import { LockDocument } from '../../configs/contracts/lock.js';
import { validate } from '../../configs/contracts/validate.js';
import type { GatePolicy, GateReading } from '../core/gates/decide.js';
import { oneLine } from '../core/one-line.js';
import type { Gate } from '../device-ports.js';

/** Larger files are no locks of anybody's. */
const mostBytes = 16_384;

/** What a lock file says. */
export interface Lock {
  /** `damaged`: it holds, since somebody wanted something. */
  readonly state: 'held' | 'expired' | 'damaged';
  readonly owner: string;
  readonly reason: string;
  /** ISO 8601; null of a damaged one, which holds until somebody removes it. */
  readonly until: string | null;
}

/**
 * The lock that a file is, or null where there is none. Never fails: what cannot be read counts as damaged.
 *
 * @param lifetimeMs how long one holds, from when it was written, that does not say until when
 */
export async function readLock(path: string, lifetimeMs: number, nowMs = Date.now()): Promise<Lock | null> {
  try {
    const { text, modifiedMs } = await contentOf(path);
    return lockOf(text, modifiedMs, lifetimeMs, nowMs);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' ? null : damaged(`it cannot be read: ${message}`);
  }
}

async function contentOf(path: string): Promise<{ text: string; modifiedMs: number }> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(mostBytes + 1), 0, mostBytes + 1, 0);
    if (bytesRead > mostBytes) throw new Error('it is too large');
    return { text: buffer.toString('utf8', 0, bytesRead), modifiedMs: (await file.stat()).mtimeMs };
  } finally {
    await file.close();
  }
}

function lockOf(text: string, modifiedMs: number, lifetimeMs: number, nowMs: number): Lock {
  let document: LockDocument;
  if (text.trimStart().startsWith('{')) {
    try {
      document = validate(LockDocument, JSON.parse(text), 'document/invalid', 'lock');
    } catch (error) {
      return damaged(error instanceof EdgeError ? error.message : 'it is not JSON');
    }
  } else document = { owner: 'a file', reason: text };
  const untilMs = document.until === undefined ? modifiedMs + lifetimeMs : Date.parse(document.until);
  if (Number.isNaN(untilMs)) return damaged(`${document.until} is no time`);
  return {
    state: nowMs < untilMs ? 'held' : 'expired',
    owner: oneLine(document.owner) || 'somebody',
    reason: oneLine(document.reason) || 'no reason given',
    until: new Date(untilMs).toISOString(),
  };
}

function damaged(why: string): Lock {
  return { state: 'damaged', owner: 'unknown', reason: `the lock file is damaged: ${oneLine(why)}`, until: null };
}

/**
 * Writes a lock, whole or not at all. Of two that do so at the same moment, one fails.
 *
 * @param mayReplace a lock that is there gives way: it has expired, is the same owner's, or is taken over
 */
export async function writeLock(path: string, document: LockDocument, mayReplace: boolean): Promise<void> {
  const draft = join(dirname(path), `.${process.pid}.lock-draft`);
  try {
    await mkdir(dirname(path), { recursive: true });
    const file = await open(draft, 'w', 0o644);
    try {
      await file.writeFile(`${JSON.stringify(document)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    if (mayReplace) await rename(draft, path);
    else await link(draft, path);
    const folder = await open(dirname(path), 'r');
    await folder.sync().finally(() => folder.close());
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') {
      throw new EdgeError('lock/held', 'another lock was written at the same moment', { subject: path, cause });
    }
    throw unwritable('written', path, cause);
  } finally {
    await rm(draft, { force: true });
  }
}

/** Removes a lock file; it need not be there. */
export async function removeLock(path: string): Promise<void> {
  await rm(path, { force: true }).catch((cause: unknown) => {
    throw unwritable('removed', path, cause);
  });
}

function unwritable(verb: string, path: string, cause: unknown): EdgeError {
  return new EdgeError('store/unwritable', `the lock file cannot be ${verb}: ${(cause as Error).message}`, {
    subject: path,
    hint: 'Do it as the user of the daemon or as root, or set gates.lock.file to where others may write.',
    cause,
  });
}

/** Closed while there is a lock that holds. */
export class LockGate implements Gate {
  readonly policy: GatePolicy;
  readonly #path: string;
  readonly #lifetimeMs: number;

  constructor(policy: GatePolicy, { file, lifetimeHours }: { file: string; lifetimeHours: number }) {
    this.policy = policy;
    this.#path = file;
    this.#lifetimeMs = lifetimeHours * 3_600_000;
  }

  async read(): Promise<GateReading> {
    const lock = await readLock(this.#path, this.#lifetimeMs);
    if (lock === null) return { isOpen: true, reason: 'not locked', until: null };
    const { state, owner, reason, until } = lock;
    if (state === 'damaged') return { isOpen: false, reason, until };
    const text = `${owner}: ${reason}`;
    if (state === 'held') return { isOpen: false, reason: text, until };
    return { isOpen: true, reason: `the lock of ${text} ran out at ${until}`, until: null };
  }

  async close(): Promise<void> {}
}
