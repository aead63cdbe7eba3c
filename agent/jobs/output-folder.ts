import { mkdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';

/**
 * Finds out by trying whether files can be written to a folder, which need not exist yet; leaves nothing behind. Fails with
 * `usage/invalid` where a file is in the way and `store/unwritable` where the system says no.
 */
export async function requireWritableFolder(folder: string): Promise<void> {
  const probe = join(folder, `.quantd.${process.pid}.part`);
  let created: string | undefined;
  try {
    created = await mkdir(folder, { recursive: true });
    await writeFile(probe, '');
  } catch (cause) {
    throw refusal(folder, cause as NodeJS.ErrnoException);
  } finally {
    await rm(probe, { force: true }).catch(() => {});
    if (created !== undefined) await removeEmpty(resolve(folder), resolve(created));
  }
}

/** Writes files so that a reader, or a restart after a power cut, sees each either whole or not at all. Fails as above. */
export async function writeFolder(
  folder: string,
  files: readonly (readonly [name: string, content: Uint8Array | string])[],
): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
    for (const [name, content] of files) {
      const temporary = join(folder, `.${name}.${process.pid}.part`);
      await writeFile(temporary, content, { flush: true });
      await rename(temporary, join(folder, name));
    }
  } catch (cause) {
    throw refusal(folder, cause as NodeJS.ErrnoException);
  }
}

function refusal(folder: string, cause: NodeJS.ErrnoException): EdgeError {
  if (cause.code === 'EEXIST' || cause.code === 'ENOTDIR') {
    return new EdgeError('usage/invalid', 'the output folder is a file, or would lie in one', {
      subject: folder,
      hint: 'Name a folder with --out; it is made where there is none.',
      cause,
    });
  }
  return new EdgeError('store/unwritable', `the artifact cannot be written: ${cause.message}`, {
    subject: folder,
    hint: 'Check free space and permissions of the output folder, or name another with --out.',
    cause,
  });
}

/** Removes folders from the innermost to the outermost, as long as they are empty. */
async function removeEmpty(innermost: string, outermost: string): Promise<void> {
  try {
    await rmdir(innermost);
    if (innermost !== outermost) await removeEmpty(dirname(innermost), outermost);
  } catch {
    // Somebody has put something there meanwhile.
  }
}
