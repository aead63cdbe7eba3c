import { readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EdgeError } from '../../configs/contracts/errors.js';

/** One file for the whole machine: measurements of two processes at once would both be wrong. */
const lockPath = () => join(tmpdir(), 'quantd-measuring.lock');

/**
 * Runs `measure` while holding the host-wide measuring lock. Waits up to `waitMs` for another holder, then fails with
 * `measure/busy`. A lock whose holder is no longer alive is taken over. Not re-entrant.
 */
export async function withMeasuringLock<T>(
  signal: AbortSignal,
  measure: () => Promise<T>,
  waitMs = 600_000,
): Promise<T> {
  const path = lockPath();
  const deadline = performance.now() + waitMs;
  while (!(await tryLock(path))) {
    if (performance.now() > deadline) {
      throw new EdgeError('measure/busy', 'another process has been measuring on this machine for too long', {
        subject: path,
      });
    }
    await sleep(200, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
  try {
    return await measure();
  } finally {
    await rm(path, { force: true });
  }
}

async function tryLock(path: string): Promise<boolean> {
  try {
    await writeFile(path, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    if (await isHeld(path)) return false;
    await rm(path, { force: true });
    return false;
  }
}

async function isHeld(path: string): Promise<boolean> {
  const text = await readFile(path, 'utf8').catch(() => '');
  const holder = Number(text);
  // An empty file belongs to a holder between creating and writing it.
  if (text === '') return true;
  if (!Number.isInteger(holder) || holder <= 0) return false;
  try {
    process.kill(holder, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
