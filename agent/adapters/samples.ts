import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { ModelCard } from '../../configs/contracts/card.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { preprocess, type RawSample } from '../core/preprocess.js';
import type { SampleSource } from '../ports.js';
import { parseNpy } from './npy.js';

/** The two parts of a sample set, as the pipeline uses them. */
export interface SampleSet {
  /** null: there is none, calibration is data-free. */
  readonly calibration: SampleSource | null;
  readonly test: SampleSource | null;
  /** The calibration samples were taken out of the test samples, because there was no calibration part. */
  readonly calibrationFromTest: boolean;
}

/** Share of the test samples that calibration takes where a set has nothing else, at most `borrowedMost`. */
const borrowedShare = 0.25;
const borrowedMost = 64;

/** Opens `directory` as a sample set for a model with this card and input shape. Fails with `samples/unreadable`. */
export async function openSampleSet(directory: string, card: ModelCard, dims: readonly number[]): Promise<SampleSet> {
  const calibration = await openPart(directory, 'calibration', card, dims);
  const test = await openPart(directory, 'test', card, dims);
  if (calibration !== null) return { calibration, test, calibrationFromTest: false };
  if (test !== null && test.count < 2) {
    throw new EdgeError('samples/unreadable', 'one test sample cannot both calibrate and test', { subject: directory });
  }
  if (test === null) {
    throw new EdgeError('samples/unreadable', `${directory} has neither calibration nor test samples`, {
      subject: directory,
    });
  }
  const borrowed = Math.max(1, Math.min(borrowedMost, Math.floor(test.count * borrowedShare)));
  return { calibration: slice(test, 0, borrowed), test: slice(test, borrowed, test.count), calibrationFromTest: true };
}

function slice(source: SampleSource, from: number, to: number): SampleSource {
  return {
    count: to - from,
    digest: `${source.digest}[${from},${to})`,
    labels: source.labels?.slice(from, to) ?? null,
    read: (index) => source.read(from + index),
  };
}

async function openPart(
  directory: string,
  part: 'calibration' | 'test',
  card: ModelCard,
  dims: readonly number[],
): Promise<SampleSource | null> {
  const array = await readIfPresent(join(directory, `${part}.npy`));
  const source =
    array === null ? await openFolder(join(directory, part), card) : openArray(array, join(directory, `${part}.npy`));
  if (source === null) return null;
  if (source.names.length === 0)
    throw new EdgeError('samples/unreadable', `the ${part} part is empty`, { subject: directory });
  const labels = part === 'test' ? await readLabels(directory, source.names) : null;
  const digest = createHash('sha256')
    .update(source.digest)
    .update(JSON.stringify([card.preprocess, card.input, dims]))
    .digest('hex');
  return {
    count: source.names.length,
    digest,
    labels,
    read: async (index) => preprocess(card, dims, await source.read(index)),
  };
}

/** Samples before preprocessing. */
interface RawSource {
  readonly names: readonly string[];
  readonly digest: string;
  read(index: number): Promise<RawSample>;
}

function openArray(file: Uint8Array, path: string): RawSource {
  const { dims, values } = parseNpy(file, path);
  const [count, ...sampleDims] = dims;
  const size = sampleDims.reduce((a, b) => a * b, 1);
  return {
    names: Array.from({ length: count! }, (_, index) => String(index)),
    digest: createHash('sha256').update(file).digest('hex'),
    read: async (index) => ({ dims: sampleDims, values: values.subarray(index * size, (index + 1) * size) }),
  };
}

const imagePattern = /\.(jpe?g|png)$/i;

async function openFolder(folder: string, card: ModelCard): Promise<RawSource | null> {
  const entries = await readdir(folder).catch(() => null);
  if (entries === null) return null;
  const names = entries.filter((name) => imagePattern.test(name) || name.endsWith('.npy')).sort();
  if (names.length === 0) return null;
  // Names, sizes and times identify the files well enough to notice a change without reading them all.
  const hash = createHash('sha256');
  for (const name of names) {
    const path = join(folder, name);
    const { size, mtimeMs } = await stat(path).catch((cause) => {
      throw unreadable(path, cause);
    });
    hash.update(`${name} ${size} ${mtimeMs}\n`);
  }
  return {
    names,
    digest: hash.digest('hex'),
    read: async (index) => {
      const path = join(folder, names[index]!);
      if (imagePattern.test(path)) return readImage(path, card);
      const file = await readFile(path).catch((cause) => {
        throw unreadable(path, cause);
      });
      return parseNpy(file, path);
    },
  };
}

/**
 * Decodes and prepares one sample that lies in memory as it would in a file: a JPEG or PNG image, or a `.npy` array.
 * Fails with `samples/unreadable` or `samples/mismatch`.
 */
export async function decodeSample(
  type: 'jpg' | 'png' | 'npy',
  bytes: Uint8Array,
  card: ModelCard,
  dims: readonly number[],
): Promise<Float32Array> {
  const raw = type === 'npy' ? parseNpy(bytes, 'sample') : await readImage(bytes, card);
  return preprocess(card, dims, raw);
}

/** @param source path or content of the image file */
async function readImage(source: string | Uint8Array, card: ModelCard): Promise<RawSample> {
  const { resize, letterbox, pad = 0 } = card.preprocess;
  const channelAxis = card.input.layout.indexOf('C');
  // Loaded when the first image comes: what reads arrays only starts sooner.
  const { default: sharp } = await import('sharp');
  const isGrey = channelAxis >= 0 && card.input.shape[channelAxis] === 1;
  let image = sharp(source, { failOn: 'error' }).rotate().removeAlpha();
  image = isGrey ? image.greyscale() : image.toColourspace('srgb');
  if (letterbox !== undefined) {
    const background = { r: pad, g: pad, b: pad };
    image = image.resize(letterbox, letterbox, { fit: 'contain', position: 'left top', background, kernel: 'linear' });
  } else if (resize !== undefined) {
    image = image.resize(resize, resize, { fit: 'outside', kernel: 'linear' });
  }
  try {
    const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
    return { dims: [info.height, info.width, info.channels], values: data };
  } catch (cause) {
    const subject = typeof source === 'string' ? source : 'image';
    throw new EdgeError('samples/unreadable', 'the image cannot be decoded', { subject, cause });
  }
}

async function readLabels(directory: string, names: readonly string[]): Promise<number[] | null> {
  const path = join(directory, 'labels.csv');
  const file = await readIfPresent(path);
  if (file === null) return null;
  const byName = new Map<string, number>();
  for (const [index, line] of Buffer.from(file).toString('utf8').split(/\r?\n/).entries()) {
    if (index === 0 || line.trim() === '') continue;
    const [, name, label] = /^(.*),\s*(\d+)\s*$/.exec(line) ?? [];
    if (name === undefined) {
      throw new EdgeError('samples/unreadable', `line ${index + 1} is not "sample,label"`, { subject: path });
    }
    byName.set(name.trim(), Number(label));
  }
  const labels = names.map((name) => byName.get(name));
  const missing = names.filter((_, index) => labels[index] === undefined);
  if (missing.length > 0) {
    throw new EdgeError('samples/unreadable', `${missing.length} test samples have no label`, {
      subject: `${path}: ${missing[0]}`,
    });
  }
  return labels as number[];
}

async function readIfPresent(path: string): Promise<Uint8Array | null> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw unreadable(path, error);
  }
}

function unreadable(path: string, cause: unknown): EdgeError {
  return new EdgeError('samples/unreadable', `cannot read the file: ${(cause as Error).message}`, {
    subject: path,
    cause,
  });
}
