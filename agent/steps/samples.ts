/** Samples as the steps use them: from disk, or made up where there are none. */
export interface SampleReader {
  readonly count: number;
  readonly source: 'samples' | 'batch-norm' | 'prior';
  /** Identifies content and preprocessing; part of step keys. */
  readonly digest: string;
  read(index: number): Promise<Float32Array>;
}
