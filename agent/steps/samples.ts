/** Samples as the steps use them: from disk, or made up where there are none. */
export interface SampleReader {
  readonly count: number;
  readonly source: 'samples' | 'batch-norm' | 'prior';
  /** Identifies content and preprocessing; part of step keys. */
  readonly digest: string;
  read(index: number): Promise<Float32Array>;
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
