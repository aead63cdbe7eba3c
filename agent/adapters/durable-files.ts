/** Files and folders that survive a power cut: what is renamed into place is whole, and a rename that was told is not lost. */
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';

/** Makes a file's or folder's content, or a folder's list of names, durable. */
export async function sync(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes every file below a folder, and the folders themselves, durable. */
export async function syncTree(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    if ((await stat(path)).isDirectory()) await syncTree(path);
    else await sync(path);
  }
  await sync(folder);
}

/** An error of the file system as an EdgeError: `disk/full` where there is no space, else `store/unwritable`. */
export function diskError(cause: unknown, what: string, subject: string): EdgeError {
  if (cause instanceof EdgeError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  const isFull = code === 'ENOSPC' || code === 'EDQUOT';
  return new EdgeError(isFull ? 'disk/full' : 'store/unwritable', `${what}: ${message}`, { subject, cause });
}
