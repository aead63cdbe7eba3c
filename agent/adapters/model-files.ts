import { createHash, type Hash, randomBytes } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readSync, realpathSync, statSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, sep } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';
import { decode, encode } from '../core/onnx/codec.js';
import type { Model } from '../core/onnx/model.js';

/** Largest model file that is read, external data included, unless the caller says otherwise. */
export const defaultModelBytes = 512 * 2 ** 20;

/** A model as read from the disk. */
export interface ModelFile {
  readonly model: Model;
  /** The file as it is on the disk; the model's tensors are views of it. */
  readonly bytes: Uint8Array;
  /** Hexadecimal digest of the file, followed by its external data where it has any, in the order of the tensors. */
  readonly sha256: string;
}

/**
 * Reads an ONNX file and the external data that lies in plain files in or below its folder. Throws EdgeError: `model/unreadable`,
 * `model/too-large` (file and external data together past `maxBytes`), `model/external-data`, and those of decode.
 */
export async function readModel(path: string, options: { maxBytes?: number } = {}): Promise<ModelFile> {
  const { maxBytes = defaultModelBytes } = options;
  const bytes = await readWhole(path, maxBytes);
  const hash = createHash('sha256').update(bytes);
  const external = new ExternalData(path, maxBytes - bytes.length, hash);
  const readExternal = external.read.bind(external);
  try {
    const model = decode(bytes, { fileName: path, readExternal });
    return { model, bytes, sha256: hash.digest('hex') };
  } finally {
    external.close();
  }
}

/** Hexadecimal digest of a file: that of a model without external data. Throws EdgeError `model/unreadable`. */
export async function fileDigest(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readWhole(path, defaultModelBytes))
    .digest('hex');
}

/**
 * Writes a model as one ONNX file: a reader sees the old file or the whole new one, also after a power cut. Throws
 * `store/unwritable`.
 */
export async function writeModel(path: string, model: Model): Promise<void> {
  const bytes = encode(model);
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`);
  try {
    await writeDurably(temporary, bytes);
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw new EdgeError('store/unwritable', `cannot write ${path}: ${reasonOf(cause)}`, { subject: path, cause });
  }
}

async function writeDurably(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'wx', 0o644);
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function readWhole(path: string, maxBytes: number): Promise<Uint8Array> {
  let file: Awaited<ReturnType<typeof open>> | null = null;
  try {
    // Not blocking, because opening a pipe would otherwise wait for a writer.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const status = await file.stat();
    const { size } = status;
    if (!status.isFile()) throw new Error('it is not a plain file');
    if (size > maxBytes) throw tooLarge(path, path, maxBytes);
    const bytes = new Uint8Array(size);
    let filled = 0;
    while (filled < size) {
      const { bytesRead } = await file.read(bytes, filled, size - filled, filled);
      if (bytesRead === 0) throw new Error('it became shorter while it was read');
      filled += bytesRead;
    }
    return bytes;
  } catch (cause) {
    if (cause instanceof EdgeError) throw cause;
    throw new EdgeError('model/unreadable', `cannot read ${path}: ${reasonOf(cause)}`, { subject: path, cause });
  } finally {
    await file?.close();
  }
}

/** The external data files of one model. A hostile model names any path and any range; nothing is allocated before both are checked. */
class ExternalData {
  readonly #folder: string;
  readonly #modelPath: string;
  readonly #hash: Hash;
  readonly #files = new Map<string, number>();
  #bytesLeft: number;

  constructor(modelPath: string, bytesLeft: number, hash: Hash) {
    this.#modelPath = modelPath;
    this.#folder = dirname(modelPath);
    this.#bytesLeft = bytesLeft;
    this.#hash = hash;
  }

  read(location: string, offset: number, length: number): Uint8Array {
    const file = this.#files.get(location) ?? this.#open(location);
    this.#files.set(location, file);
    const { size } = fstatSync(file);
    if (offset + length > size) {
      throw refused(location, `a tensor needs bytes ${offset} to ${offset + length}, but the file has ${size}`);
    }
    if (length > this.#bytesLeft) throw tooLarge(this.#modelPath, location);
    this.#bytesLeft -= length;
    const bytes = new Uint8Array(length);
    let filled = 0;
    while (filled < length) {
      const count = readSync(file, bytes, filled, length - filled, offset + filled);
      if (count === 0) throw refused(location, 'it became shorter while it was read');
      filled += count;
    }
    this.#hash.update(bytes);
    return bytes;
  }

  close(): void {
    for (const file of this.#files.values()) closeSync(file);
    this.#files.clear();
  }

  #open(location: string): number {
    if (isAbsolute(location) || location.includes('\0') || location.split(/[\\/]/).includes('..')) {
      throw refused(location, 'it is not a path below the folder of the model');
    }
    try {
      const folder = realpathSync(this.#folder);
      const path = realpathSync(join(folder, location));
      if (!path.startsWith(folder === sep ? sep : folder + sep))
        throw new Error('it leads out of the folder of the model');
      if (!statSync(path).isFile()) throw new Error('it is not a plain file');
      // Should the file be swapped meanwhile: no links are followed, no pipe is waited for, and the kind is checked again.
      const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      if (fstatSync(file).isFile()) return file;
      closeSync(file);
      throw new Error('it is not a plain file');
    } catch (cause) {
      throw refused(location, reasonOf(cause), cause);
    }
  }
}

function refused(location: string, reason: string, cause?: unknown): EdgeError {
  return new EdgeError('model/external-data', `cannot read the external data ${location}: ${reason}`, {
    subject: location,
    cause,
  });
}

function tooLarge(path: string, subject: string, maxBytes?: number): EdgeError {
  const limit = maxBytes === undefined ? 'the limit' : `the limit of ${maxBytes} bytes`;
  return new EdgeError('model/too-large', `${path} with its data is larger than ${limit}`, { subject });
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
