import { createHash } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EdgeError } from '../../configs/contracts/errors.js';
import { BlobManifest, type BlobRef, blobManifestPath, blobPath } from '../../configs/contracts/release.js';
import { validate } from '../../configs/contracts/validate.js';
import type { ModelCache } from '../device-ports.js';
import { diskError, sync } from './durable-files.js';

/** Where and how to download. */
export interface DownloadOptions {
  /** Address of the console. */
  readonly url: string;
  /** Sent as a bearer token; null: none. */
  readonly token: string | null;
  /** Space that stays free. */
  readonly reserveBytes: number;
  /** A server that sends nothing for so long is given up. */
  readonly stallMs?: number;
  /** Before an attempt after one that brought nothing. */
  readonly pauseMs?: number;
}

const manifestBytes = 8 * 2 ** 20;
/** Attempts in a row that bring nothing, before the caller is left to try again later. */
const fruitlessAttempts = 3;
/** How often one chunk may come wrong. */
const mismatches = 3;
const longestRetryAfterMs = 30_000;
const shaPattern = /^[0-9a-f]{64}$/;

/** Something went wrong on the way: it may be tried again, at the earliest after `waitMs`. */
class Interrupted extends Error {
  readonly waitMs: number;

  constructor(message: string, waitMs = 0) {
    super(message);
    this.waitMs = waitMs;
  }
}

/**
 * Models as files `FOLDER/SHA256.onnx`. A download grows in `SHA256.part`, chunk by verified chunk; what of it is good is found
 * out by hashing it again, so that there is no second file to be wrong about it after a power cut. A chunk is on the disk before
 * the next one is asked for.
 */
export class HttpModelCache implements ModelCache {
  readonly #folder: string;
  readonly #options: DownloadOptions;

  constructor(folder: string, options: DownloadOptions) {
    this.#folder = folder;
    this.#options = options;
  }

  async find(sha256: string): Promise<string | null> {
    const path = this.#path(sha256);
    return stat(path).then(
      (found) => (found.isFile() ? path : null),
      () => null,
    );
  }

  async fetch(ref: BlobRef, signal: AbortSignal, progress: (share: number) => void): Promise<string> {
    const known = await this.find(ref.sha256);
    if (known !== null) return known;
    const manifest = await this.#persist(signal, () => this.#manifest(ref, signal));
    const part = join(this.#folder, `${ref.sha256}.part`);
    try {
      await mkdir(this.#folder, { recursive: true });
      // Neither truncated nor appended to: chunks are written where they belong.
      const file = await open(part, 'r+').catch(() => open(part, 'w+'));
      try {
        await this.#complete(file, manifest, signal, progress);
        await this.#checkWhole(file, ref);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(part, this.#path(ref.sha256));
      await sync(this.#folder);
    } catch (cause) {
      if ((cause as Error).name === 'AbortError') throw cause;
      throw diskError(cause, 'the model cannot be stored', part);
    }
    return this.#path(ref.sha256);
  }

  async retain(sha256: ReadonlySet<string>): Promise<void> {
    for (const name of await readdir(this.#folder).catch(() => [])) {
      const [digest = ''] = name.split('.');
      if (!sha256.has(digest)) await rm(join(this.#folder, name), { force: true });
    }
  }

  /** Fetches every chunk that is not there yet. */
  async #complete(
    file: FileHandle,
    manifest: BlobManifest,
    signal: AbortSignal,
    progress: (share: number) => void,
  ): Promise<void> {
    const { sizeBytes, chunkBytes, chunks } = manifest;
    await file.truncate(Math.min((await file.stat()).size, sizeBytes));
    const missing = await missingChunks(file, manifest, signal);
    if (missing.size > 0) await this.#requireSpace(Math.min(sizeBytes, missing.size * chunkBytes));
    const failures = new Map<number, number>();
    const tell = () => progress(1 - missing.size / chunks.length);
    tell();
    const accept = async (index: number, bytes: Uint8Array): Promise<boolean> => {
      if (hexOf(bytes) !== chunks[index]) {
        const count = (failures.get(index) ?? 0) + 1;
        failures.set(index, count);
        if (count < mismatches) return false;
        throw new EdgeError('download/mismatch', `chunk ${index} came with a wrong digest ${count} times`, {
          subject: manifest.sha256,
        });
      }
      await writeAll(file, bytes, index * chunkBytes);
      await file.datasync();
      missing.delete(index);
      tell();
      return true;
    };
    await this.#persist(
      signal,
      async () => {
        while (missing.size > 0) await this.#fetchRun(manifest, firstRun(missing), accept, signal);
      },
      () => missing.size,
    );
  }

  /** One request for neighbouring chunks. Ends early at the first that is wrong. */
  async #fetchRun(
    manifest: BlobManifest,
    [first, last]: readonly [number, number],
    accept: (index: number, bytes: Uint8Array) => Promise<boolean>,
    signal: AbortSignal,
  ): Promise<void> {
    const { sha256, sizeBytes, chunkBytes } = manifest;
    const from = first * chunkBytes;
    const to = Math.min(sizeBytes, (last + 1) * chunkBytes);
    const headers = { range: `bytes=${from}-${to - 1}`, 'if-range': `"${sha256}"` };
    const isWhole = from === 0 && to === sizeBytes;
    await this.#request(blobPath(sha256), headers, signal, async (response, read) => {
      const hasRange =
        response.status === 206 && response.headers.get('content-range') === `bytes ${from}-${to - 1}/${sizeBytes}`;
      if (!hasRange && !(response.status === 200 && isWhole)) {
        throw new Interrupted(`the console answered ${response.status} where a range was asked for`);
      }
      let index = first;
      let filled = 0;
      let chunk = new Uint8Array(Math.min(chunkBytes, sizeBytes - index * chunkBytes));
      for (;;) {
        let bytes = await read();
        if (bytes === null) throw new Interrupted('the connection ended early');
        while (bytes.length > 0) {
          const taken = bytes.subarray(0, chunk.length - filled);
          chunk.set(taken, filled);
          filled += taken.length;
          bytes = bytes.subarray(taken.length);
          if (filled < chunk.length) continue;
          if (!(await accept(index, chunk))) throw new Interrupted(`chunk ${index} came with a wrong digest`);
          index++;
          filled = 0;
          // Whatever a server sends beyond what was asked for is not read.
          if (index > last) return;
          chunk = new Uint8Array(Math.min(chunkBytes, sizeBytes - index * chunkBytes));
        }
      }
    });
  }

  async #manifest(ref: BlobRef, signal: AbortSignal): Promise<BlobManifest> {
    const parts: Uint8Array[] = [];
    await this.#request(blobManifestPath(ref.sha256), {}, signal, async (response, read) => {
      if (response.status === 404) {
        throw new EdgeError('download/failed', 'the console does not have this model', { subject: ref.sha256 });
      }
      if (response.status !== 200) throw new Interrupted(`the console answered ${response.status}`);
      let size = 0;
      for (let bytes = await read(); bytes !== null; bytes = await read()) {
        size += bytes.length;
        if (size > manifestBytes) throw mismatch(ref, 'the manifest is too large');
        parts.push(bytes);
      }
    });
    const text = Buffer.concat(parts);
    if (hexOf(text) !== ref.manifestSha256) throw mismatch(ref, 'the manifest is not the one that the release names');
    let value: unknown;
    try {
      value = JSON.parse(text.toString('utf8'));
    } catch {
      throw mismatch(ref, 'the manifest is not JSON');
    }
    const manifest = validate(BlobManifest, value, 'download/mismatch', ref.sha256);
    const isConsistent =
      manifest.sha256 === ref.sha256 &&
      manifest.sizeBytes === ref.sizeBytes &&
      manifest.chunks.length === Math.ceil(manifest.sizeBytes / manifest.chunkBytes);
    if (!isConsistent) throw mismatch(ref, 'the manifest contradicts the release');
    return manifest;
  }

  /**
   * One GET. `use` reads the body piece by piece; whatever it leaves is not fetched. Redirects are not followed: what is not at the
   * console is not taken. Failures of the network are `Interrupted`.
   */
  async #request(
    path: string,
    headers: Record<string, string>,
    signal: AbortSignal,
    use: (response: Response, read: () => Promise<Uint8Array | null>) => Promise<void>,
  ): Promise<void> {
    const { url, token, stallMs = 30_000 } = this.#options;
    const stall = new AbortController();
    let timer = setTimeout(() => stall.abort(), stallMs);
    const restart = () => {
      clearTimeout(timer);
      timer = setTimeout(() => stall.abort(), stallMs);
    };
    let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
    try {
      const authorization: Record<string, string> = token === null ? {} : { authorization: `Bearer ${token}` };
      const response = await fetch(new URL(path, url), {
        headers: { 'accept-encoding': 'identity', ...authorization, ...headers },
        redirect: 'error',
        signal: AbortSignal.any([signal, stall.signal]),
      });
      reader = response.body?.getReader();
      if (response.status === 503 || response.status === 429) {
        const seconds = Number(response.headers.get('retry-after') ?? 1);
        throw new Interrupted(
          'the console is busy',
          Math.min(longestRetryAfterMs, (Number.isFinite(seconds) ? seconds : 1) * 1000),
        );
      }
      if (response.status === 401 || response.status === 403) {
        throw new EdgeError('download/failed', 'the console refuses the download', {
          subject: path,
          hint: 'Check console.tokenFile in the settings.',
        });
      }
      await use(response, async () => {
        restart();
        const piece = await reader?.read();
        return piece === undefined || piece.done ? null : piece.value;
      });
    } catch (cause) {
      signal.throwIfAborted();
      if (cause instanceof EdgeError || cause instanceof Interrupted || isOfDisk(cause)) throw cause;
      throw new Interrupted(stall.signal.aborted ? `nothing came for ${stallMs / 1000} s` : reasonOf(cause));
    } finally {
      clearTimeout(timer);
      await reader?.cancel().catch(() => {});
    }
  }

  /** Tries again after an interruption, as long as attempts bring something. Then fails with `download/failed`. */
  async #persist<T>(signal: AbortSignal, work: () => Promise<T>, remaining: () => number = () => 0): Promise<T> {
    let fruitless = 0;
    for (;;) {
      const before = remaining();
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof Interrupted)) throw error;
        fruitless = remaining() < before ? 0 : fruitless + 1;
        if (fruitless >= fruitlessAttempts) {
          throw new EdgeError('download/failed', error.message, { subject: this.#options.url, cause: error });
        }
        const pauseMs = fruitless === 0 ? 0 : (this.#options.pauseMs ?? 500);
        await sleep(Math.max(pauseMs, error.waitMs), undefined, { signal });
      }
    }
  }

  async #checkWhole(file: FileHandle, ref: BlobRef): Promise<void> {
    const hash = createHash('sha256');
    const buffer = new Uint8Array(2 ** 20);
    let size = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length, size);
      if (bytesRead === 0) break;
      hash.update(buffer.subarray(0, bytesRead));
      size += bytesRead;
    }
    if (size === ref.sizeBytes && hash.digest('hex') === ref.sha256) return;
    await file.truncate(0);
    throw mismatch(ref, 'the chunks fit their manifest, but the whole is not what the release names');
  }

  async #requireSpace(bytes: number): Promise<void> {
    const { bavail, bsize } = await statfs(this.#folder);
    const free = bavail * bsize;
    const wanted = bytes + this.#options.reserveBytes;
    if (free >= wanted) return;
    throw new EdgeError('disk/full', `the download needs ${wanted} bytes with its reserve, ${free} are free`, {
      subject: this.#folder,
    });
  }

  #path(sha256: string): string {
    if (!shaPattern.test(sha256)) throw new TypeError(`"${sha256}" is no sha256`);
    return join(this.#folder, `${sha256}.onnx`);
  }
}

/** Indices of chunks that are not in the file, or not as they should be. */
async function missingChunks(
  file: FileHandle,
  { chunkBytes, sizeBytes, chunks }: BlobManifest,
  signal: AbortSignal,
): Promise<Set<number>> {
  const { size } = await file.stat();
  const missing = new Set<number>();
  const buffer = new Uint8Array(chunkBytes);
  for (const [index, digest] of chunks.entries()) {
    signal.throwIfAborted();
    const length = Math.min(chunkBytes, sizeBytes - index * chunkBytes);
    const isThere = size >= index * chunkBytes + length;
    const read = isThere ? (await file.read(buffer, 0, length, index * chunkBytes)).bytesRead : 0;
    if (read !== length || hexOf(buffer.subarray(0, length)) !== digest) missing.add(index);
  }
  return missing;
}

/** A nearly full disk may take a part of what it is given, and tell only the next time that it is full. */
async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let written = 0; written < bytes.length; ) {
    written += (await file.write(bytes, written, bytes.length - written, position + written)).bytesWritten;
  }
}

/** The first run of neighbours, from and to included; the set is in rising order. */
function firstRun(missing: ReadonlySet<number>): readonly [number, number] {
  const [first = 0] = missing;
  let last = first;
  while (missing.has(last + 1)) last++;
  return [first, last];
}

function hexOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function mismatch(ref: BlobRef, message: string): EdgeError {
  return new EdgeError('download/mismatch', message, { subject: ref.sha256 });
}

function isOfDisk(cause: unknown): boolean {
  return ['ENOSPC', 'EDQUOT', 'EIO', 'EROFS'].includes((cause as NodeJS.ErrnoException).code ?? '');
}

/** The network's own word: fetch hides it one level down. */
function reasonOf(cause: unknown): string {
  const inner = (cause as { cause?: unknown }).cause;
  const error = inner instanceof Error ? inner : cause;
  return error instanceof Error ? error.message : String(error);
}
