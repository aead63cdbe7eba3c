import { createHash, type Hash, randomUUID } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { BlobManifest, BlobRef } from '../../configs/contracts/release.js';

/** Length of the chunks that devices verify one by one. */
const chunkBytes = 2 ** 20;
/** Space that uploads leave free. */
const reserveBytes = 64 * 2 ** 20;
const shaPattern = /^[0-9a-f]{64}$/;

/** A stored blob. */
export interface StoredBlob {
  readonly path: string;
  readonly sizeBytes: number;
}

/**
 * Files by the sha256 of their content: `FOLDER/SHA256`, with the digests of its chunks in `FOLDER/SHA256.json`. What has a name is
 * whole and on the disk.
 */
export class ArtifactFolder {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * Stores a stream. Fails with `upload/invalid` where the content is not `expected`, is empty or is longer than `mostBytes`, and with
   * `disk/full`; then nothing is left of it.
   */
  async add(stream: AsyncIterable<Uint8Array>, expected: string | null, mostBytes: number): Promise<BlobRef> {
    const draft = join(this.#folder, `.${randomUUID()}.part`);
    try {
      await mkdir(this.#folder, { recursive: true });
      const manifest = await this.#receive(stream, draft, mostBytes);
      if (expected !== null && manifest.sha256 !== expected) {
        throw new EdgeError('upload/invalid', 'the content does not have the digest that was announced', {
          subject: expected,
        });
      }
      const text = JSON.stringify(manifest);
      const { sha256, sizeBytes } = manifest;
      // The manifest first: a blob that has its name always has one.
      await writeFile(`${draft}.json`, text, { flush: true });
      await rename(`${draft}.json`, join(this.#folder, `${sha256}.json`));
      await rename(draft, join(this.#folder, sha256));
      await syncFolder(this.#folder);
      return { sha256, sizeBytes, manifestSha256: createHash('sha256').update(text).digest('hex') };
    } catch (cause) {
      await rm(draft, { force: true });
      await rm(`${draft}.json`, { force: true });
      if (cause instanceof EdgeError) throw cause;
      const { code, message } = cause as NodeJS.ErrnoException;
      const isOfDisk = code === 'ENOSPC' || code === 'EDQUOT';
      throw new EdgeError(isOfDisk ? 'disk/full' : 'upload/invalid', `the upload failed: ${message}`, {
        subject: this.#folder,
        cause,
      });
    }
  }

  /** Null where there is no such blob. */
  async find(sha256: string): Promise<StoredBlob | null> {
    if (!shaPattern.test(sha256)) return null;
    const path = join(this.#folder, sha256);
    return stat(path).then(
      ({ size }) => ({ path, sizeBytes: size }),
      () => null,
    );
  }

  /** The manifest's bytes, exactly as their digest was taken; null where there is no such blob. */
  async manifest(sha256: string): Promise<Buffer | null> {
    if ((await this.find(sha256)) === null) return null;
    return readFile(join(this.#folder, `${sha256}.json`)).catch(() => null);
  }

  /** How to name a stored blob in a release. Null where there is none. */
  async ref(sha256: string): Promise<BlobRef | null> {
    const [blob, manifest] = [await this.find(sha256), await this.manifest(sha256)];
    if (blob === null || manifest === null) return null;
    return { sha256, sizeBytes: blob.sizeBytes, manifestSha256: createHash('sha256').update(manifest).digest('hex') };
  }

  /** Deletes what interrupted uploads have left. */
  async clean(): Promise<void> {
    for (const name of await readdir(this.#folder).catch(() => [])) {
      if (name.startsWith('.')) await rm(join(this.#folder, name), { force: true });
    }
  }

  async #receive(stream: AsyncIterable<Uint8Array>, draft: string, mostBytes: number): Promise<BlobManifest> {
    const file = await open(draft, 'wx');
    try {
      const whole = createHash('sha256');
      const chunks: string[] = [];
      let chunk: Hash = createHash('sha256');
      let sizeBytes = 0;
      for await (let bytes of stream) {
        await this.#requireRoom(sizeBytes, bytes.length, mostBytes);
        await writeAll(file, bytes);
        whole.update(bytes);
        while (bytes.length > 0) {
          const room = chunkBytes - (sizeBytes % chunkBytes);
          const taken = bytes.subarray(0, room);
          chunk.update(taken);
          sizeBytes += taken.length;
          bytes = bytes.subarray(taken.length);
          if (sizeBytes % chunkBytes > 0) continue;
          chunks.push(chunk.digest('hex'));
          chunk = createHash('sha256');
        }
      }
      if (sizeBytes === 0) throw new EdgeError('upload/invalid', 'the upload is empty', { subject: 'content' });
      if (sizeBytes % chunkBytes > 0) chunks.push(chunk.digest('hex'));
      await file.sync();
      return { sha256: whole.digest('hex'), sizeBytes, chunkBytes, chunks };
    } finally {
      await file.close();
    }
  }

  async #requireRoom(sizeBytes: number, more: number, mostBytes: number): Promise<void> {
    if (sizeBytes + more > mostBytes) {
      throw new EdgeError('upload/invalid', `the upload is longer than ${mostBytes} bytes`, {
        subject: 'content',
        hint: 'Raise http.mostUploadBytes in the settings of the console.',
      });
    }
    // Looked at once a chunk is enough.
    if (Math.floor((sizeBytes + more) / chunkBytes) === Math.floor(sizeBytes / chunkBytes) && sizeBytes > 0) return;
    const { bavail, bsize } = await statfs(this.#folder);
    if (bavail * bsize > reserveBytes) return;
    throw new EdgeError('disk/full', `less than ${reserveBytes} bytes are free on the console`, {
      subject: this.#folder,
    });
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let written = 0; written < bytes.length; ) {
    written += (await file.write(bytes, written, bytes.length - written)).bytesWritten;
  }
}

async function syncFolder(folder: string): Promise<void> {
  const file = await open(folder, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
