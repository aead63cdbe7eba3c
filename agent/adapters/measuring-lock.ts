import { link, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EdgeError } from '../../configs/contracts/errors.js';

/** One file for the whole machine, whatever TMPDIR says: measurements of two processes at once would both be wrong. */
const lockPath = join('/tmp', 'quantd-measuring.lock');

/** A lock file that names no process and is older than this was left by something else. */
const namelessMs = 5000;

/**
 * Runs `measure` while holding the host-wide measuring lock. Waits up to `waitMs` for another holder, then fails with
 * `measure/busy`. A lock whose holder is no longer alive is taken over. Not re-entrant.
 *
 * @param waiting told once, with the holder, when there is one to wait for
 */
export async function withMeasuringLock<T>(
  signal: AbortSignal,
  measure: () => Promise<T>,
  waiting: (holder: string) => void = () => {},
  waitMs = 600_000,
): Promise<T> {
  const own = await identityOf(process.pid);
  const deadline = performance.now() + waitMs;
  let hasTold = false;
  while (!(await tryLock(own))) {
    const holder = await readFile(lockPath, 'utf8').catch(() => '');
    if (!hasTold && holder !== '') waiting(`waiting for process ${holder.split(' ')[0]}, which is measuring`);
    hasTold = true;
    if (performance.now() > deadline) {
      throw new EdgeError('measure/busy', 'another process has been measuring on this machine for too long', {
        subject: `${lockPath}: ${holder}`,
      });
    }
    await sleep(200, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
  try {
    return await measure();
  } finally {
    if ((await readFile(lockPath, 'utf8').catch(() => '')) === own) await rm(lockPath, { force: true });
  }
}

/** Creates the lock whole or not at all: a file of its own is written first and then linked into place. */
async function tryLock(own: string): Promise<boolean> {
  const draft = `${lockPath}.${process.pid}`;
  try {
    await writeFile(draft, own);
    await link(draft, lockPath);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw busy(error);
    if (await isHeld()) return false;
    await rm(lockPath, { force: true }).catch((cause) => {
      throw busy(cause);
    });
    return false;
  } finally {
    await rm(draft, { force: true });
  }
}

/** Whether the process that the lock names is alive, and is that process and not a later one of the same number. */
async function isHeld(): Promise<boolean> {
  const holder = await readFile(lockPath, 'utf8').catch(() => '');
  const pid = Number(holder.split(' ')[0]);
  if (!Number.isInteger(pid) || pid <= 0) {
    const age = await stat(lockPath).then(
      ({ mtimeMs }) => Date.now() - mtimeMs,
      () => 0,
    );
    return age < namelessMs;
  }
  return (await identityOf(pid)) === holder;
}

/** A process by number and start time (field 22 of /proc/PID/stat); the number alone where there is no such process. */
async function identityOf(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const started = status.slice(status.lastIndexOf(')') + 2).split(' ')[19] ?? 'gone';
  return `${pid} ${status === '' ? 'gone' : started}`;
}

function busy(cause: unknown): EdgeError {
  return new EdgeError('measure/busy', `the measuring lock cannot be taken: ${(cause as Error).message}`, {
    subject: lockPath,
    hint: 'Remove the file if no other quantd is running, and check free space in its folder.',
    cause,
  });
}
