import type { PreparedModel } from '../core/prepare.js';

/** Samples as the steps use them: from disk, or made up where there are none. */
export interface SampleReader {
  readonly count: number;
  readonly source: 'samples' | 'batch-norm' | 'prior';
  /** Identifies content and preprocessing; part of step keys. */
  readonly digest: string;
  read(index: number): Promise<Float32Array>;
}

/**
 * The same samples, followed by their mirror images (left to right, the last one first) where they are pictures, of three channels and
 * real: what is in one is as likely the other way round.
 */
export function withMirrored(samples: SampleReader, { card, inputDims }: PreparedModel): SampleReader {
  const { count, source } = samples;
  const { layout } = card.input;
  const channels = inputDims[layout.indexOf('C')];
  if (source !== 'samples' || channels !== 3 || !(layout === 'NCHW' || layout === 'NHWC')) return samples;
  const width = inputDims[layout.indexOf('W')]!;
  const inner = layout === 'NHWC' ? channels : 1;
  const read = async (index: number) => {
    if (index < count) return samples.read(index);
    const data = await samples.read(2 * count - 1 - index);
    const mirrored = new Float32Array(data.length);
    for (let row = 0; row < data.length; row += width * inner) {
      for (let x = 0; x < width; x++) {
        const from = row + (width - 1 - x) * inner;
        mirrored.set(data.subarray(from, from + inner), row + x * inner);
      }
    }
    return mirrored;
  };
  return { ...samples, count: 2 * count, read };
}

/** Samples [0, count) in order; the next one is read and decoded while the caller works on the current one. */
export async function* readAhead(
  samples: { read(index: number): Promise<Float32Array> },
  count: number,
): AsyncGenerator<Float32Array> {
  let next = count > 0 ? samples.read(0) : null;
  for (let index = 0; index < count; index++) {
    const current = await next!;
    next = index + 1 < count ? samples.read(index + 1) : null;
    // Failures surface when the sample is awaited; without this, one that fails while nobody waits would end the process.
    next?.catch(() => {});
    yield current;
  }
}
