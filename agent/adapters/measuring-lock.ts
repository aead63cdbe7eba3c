import { link, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EdgeError } from '../../configs/contracts/errors.js';

/** One file for the whole machine, whatever TMPDIR says: measurements of two processes at once would both be wrong. */
const machineLock = join('/tmp', 'quantd-measuring.lock');

/** A file that names no process, or that is only there for a moment, was left by something else when it is older than this. */
const strayMs = 5000;

/** How a lock is waited for; all of it may be left out. */
export interface LockOptions {
  /** Told once, with the holder, when there is one to wait for. */
  readonly waiting?: (holder: string) => void;
  /** 10 minutes when absent. */
  readonly waitMs?: number;
  /** Another lock file than the machine's; for tests. */
  readonly path?: string;
}

/**
 * Runs `measure` while holding the host-wide measuring lock. Waits for another holder, but not for ever: then it fails with
 * `measure/busy`. A lock whose holder is no longer alive is taken over. Not re-entrant.
 */
export async function withMeasuringLock<T>(
  signal: AbortSignal,
  measure: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  const { waiting = () => {}, waitMs = 600_000, path = machineLock } = options;
  const own = await identityOf(process.pid);
  const deadline = performance.now() + waitMs;
  let hasTold = false;
  while (!(await tryLock(path, own))) {
    const holder = await contentOf(path);
    if (!hasTold && holder !== '') waiting(`waiting for process ${holder.split(' ')[0]}, which is measuring`);
    hasTold = true;
    if (performance.now() > deadline) {
      throw new EdgeError('measure/busy', 'another process has been measuring on this machine for too long', {
        subject: `${path}: ${holder}`,
      });
    }
    await sleep(200, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
  try {
    return await measure();
  } finally {
    if ((await contentOf(path)) === own) await rm(path, { force: true });
  }
}

async function tryLock(path: string, own: string): Promise<boolean> {
  try {
    if (await create(path, own)) return true;
    if (!(await isHeld(path))) await removeStray(path, own);
    return false;
  } catch (cause) {
    throw new EdgeError('measure/busy', `the measuring lock cannot be taken: ${(cause as Error).message}`, {
      subject: path,
      hint: 'Remove the file if no other quantd is running, and check free space in its folder.',
      cause,
    });
  }
}

let drafts = 0;

/** Creates a file whole or not at all, by linking a draft into place; false where there is one already. */
async function create(path: string, content: string): Promise<boolean> {
  const draft = `${path}.${process.pid}.${drafts++}`;
  try {
    await writeFile(draft, content);
    await link(draft, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    await rm(draft, { force: true });
  }
}

/**
 * Removes a lock that nobody holds. One process at a time, which looks again: of two that found the same dead holder, the later
 * would otherwise remove what the earlier has locked meanwhile.
 */
async function removeStray(path: string, own: string): Promise<void> {
  const guard = `${path}.removal`;
  if (!(await create(guard, own))) {
    if ((await ageOf(guard)) > strayMs) await rm(guard, { force: true });
    return;
  }
  try {
    if (!(await isHeld(path))) await rm(path, { force: true });
  } finally {
    await rm(guard, { force: true });
  }
}

/** Whether the process that the lock names is alive, and is that process and not a later one of the same number. */
async function isHeld(path: string): Promise<boolean> {
  const holder = await contentOf(path);
  const pid = Number(holder.split(' ')[0]);
  if (!Number.isInteger(pid) || pid <= 0) return (await ageOf(path)) < strayMs;
  return (await identityOf(pid)) === holder;
}

function contentOf(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}

/** Milliseconds since a file was written; 0 where there is none. */
async function ageOf(path: string): Promise<number> {
  return stat(path).then(
    ({ mtimeMs }) => Date.now() - mtimeMs,
    () => 0,
  );
}

/** A process by number and start time (field 22 of /proc/PID/stat); the number alone where there is no such process. */
async function identityOf(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const started = status.slice(status.lastIndexOf(')') + 2).split(' ')[19] ?? 'gone';
  return `${pid} ${status === '' ? 'gone' : started}`;
}
