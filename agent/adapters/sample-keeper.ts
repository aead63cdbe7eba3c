import { createHash } from 'node:crypto';
import { link, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { ChosenSamples, SampleKeeper, SampleType } from '../device-ports.js';
import { sync, syncTree } from './durable-files.js';

/** Caps of the frames that are kept for one target. */
export interface SampleCaps {
  readonly frames: number;
  readonly bytes: number;
}

/** First bytes of the files that are taken. */
const signatures: Readonly<Record<SampleType, readonly number[]>> = {
  jpg: [0xff, 0xd8, 0xff],
  png: [0x89, 0x50, 0x4e, 0x47],
  npy: [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59],
};

/** The part of a sample set that frames go into. */
const part = 'calibration';

/**
 * Frames as files below `FOLDER/TARGET/frames/calibration`, numbered in the order they came; snapshots beside them are sample sets
 * of hard links, so that they cost no space and do not change when frames give way. A frame may be lost in a power cut; a snapshot
 * is on the disk when it is answered, since a goal that is remembered names it.
 */
export class SampleFolder implements SampleKeeper {
  readonly #folder: string;
  readonly #configured: string | null;
  readonly #caps: SampleCaps;
  /** Frames by target, oldest first; read from disk once. */
  readonly #frames = new Map<string, Promise<{ name: string; bytes: number }[]>>();
  /** Writes are done one after the other. */
  #queue: Promise<unknown> = Promise.resolve();

  /** @param configured sample set that an operator has put on the device; it is preferred to frames. null: none. */
  constructor(folder: string, configured: string | null, caps: SampleCaps) {
    this.#folder = folder;
    this.#configured = configured;
    this.#caps = caps;
  }

  add(target: string, type: SampleType, bytes: Uint8Array): Promise<void> {
    if (!signatures[type].every((byte, index) => bytes[index] === byte)) {
      throw new EdgeError('samples/unreadable', `these bytes are no ${type} file`, { subject: target });
    }
    if (bytes.length > this.#caps.bytes) {
      throw new EdgeError('samples/unreadable', `a frame of ${bytes.length} bytes is more than may be kept in all`, {
        subject: target,
        hint: 'Send smaller frames, or raise samples.mostBytes in the settings.',
      });
    }
    return this.#inTurn(() => this.#write(target, type, bytes));
  }

  async choose(target: string): Promise<ChosenSamples | null> {
    if (this.#configured !== null) {
      return { folder: this.#configured, digest: await digestOf(this.#configured) };
    }
    return this.#inTurn(() => this.#snapshot(target));
  }

  async retain(folders: ReadonlySet<string>): Promise<void> {
    for (const target of await readdir(this.#folder).catch(() => [])) {
      const parent = join(this.#folder, target, 'snapshots');
      for (const name of await readdir(parent).catch(() => [])) {
        if (!folders.has(join(parent, name))) await rm(join(parent, name), { recursive: true, force: true });
      }
    }
  }

  async #write(target: string, type: SampleType, bytes: Uint8Array): Promise<void> {
    const folder = this.#framesOf(target);
    const frames = await this.#known(target);
    const last = frames.at(-1);
    const number = last === undefined ? 0 : Number.parseInt(last.name, 10) + 1;
    const name = `${String(number).padStart(10, '0')}.${type}`;
    try {
      await mkdir(folder, { recursive: true });
      const draft = join(folder, '.draft');
      const file = await open(draft, 'w');
      try {
        await file.writeFile(bytes);
      } finally {
        await file.close();
      }
      await rename(draft, join(folder, name));
    } catch (cause) {
      throw writeError(cause, folder);
    }
    frames.push({ name, bytes: bytes.length });
    let total = frames.reduce((sum, frame) => sum + frame.bytes, 0);
    while (frames.length > this.#caps.frames || total > this.#caps.bytes) {
      const oldest = frames.shift()!;
      total -= oldest.bytes;
      await rm(join(folder, oldest.name), { force: true });
    }
  }

  async #snapshot(target: string): Promise<ChosenSamples | null> {
    // Looked at anew: somebody may have deleted some, or all.
    this.#frames.delete(target);
    const frames = await this.#known(target);
    if (frames.length === 0) return null;
    const source = this.#framesOf(target);
    const digest = await digestOf(dirname(source));
    const folder = join(this.#folder, target, 'snapshots', digest.slice(0, 32));
    const draft = `${folder}.draft`;
    try {
      await rm(draft, { recursive: true, force: true });
      await mkdir(join(draft, part), { recursive: true });
      for (const { name } of frames) await link(join(source, name), join(draft, part, name));
      await syncTree(draft);
      // One of the same frames is as good.
      await rename(draft, folder).catch(() => rm(draft, { recursive: true, force: true }));
      await sync(dirname(folder));
    } catch (cause) {
      throw writeError(cause, folder);
    }
    return { folder, digest };
  }

  #framesOf(target: string): string {
    return join(this.#folder, target, 'frames', part);
  }

  #known(target: string): Promise<{ name: string; bytes: number }[]> {
    let known = this.#frames.get(target);
    if (known === undefined) {
      known = this.#readFrames(this.#framesOf(target));
      this.#frames.set(target, known);
      known.catch(() => this.#frames.delete(target));
    }
    return known;
  }

  async #readFrames(folder: string): Promise<{ name: string; bytes: number }[]> {
    const names = (await readdir(folder).catch(() => [])).filter((name) => /^\d{10}\.(jpg|png|npy)$/.test(name)).sort();
    const frames = await Promise.all(names.map(async (name) => ({ name, bytes: await sizeOf(join(folder, name)) })));
    // A power cut may leave files without content.
    for (const { name, bytes } of frames) if (bytes === 0) await rm(join(folder, name), { force: true });
    return frames.filter(({ bytes }) => bytes > 0);
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => {});
    return result;
  }
}

/** 0 where there is no such file. */
async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    ({ size }) => size,
    () => 0,
  );
}

/** Of names, sizes and times of the files of a sample set: well enough to notice a change without reading them all. */
async function digestOf(folder: string): Promise<string> {
  const hash = createHash('sha256');
  for (const name of (await readdir(folder, { recursive: true }).catch(() => [])).sort()) {
    const found = await stat(join(folder, name)).catch(() => null);
    if (found?.isFile()) hash.update(`${name} ${found.size} ${found.mtimeMs}\n`);
  }
  return hash.digest('hex');
}

function writeError(cause: unknown, subject: string): EdgeError {
  const { code, message } = cause as NodeJS.ErrnoException;
  const isFull = code === 'ENOSPC' || code === 'EDQUOT';
  return new EdgeError(isFull ? 'disk/full' : 'store/unwritable', `samples cannot be kept: ${message}`, {
    subject,
    cause,
  });
}
