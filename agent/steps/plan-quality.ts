import { FloatModelNeeded } from '../core/master.js';
import { contentKey, sha256 } from '../digest.js';
import type { Job, Ports } from '../pipeline.js';
import type { Progress, SampleSource, Session } from '../ports.js';
import { floatModel } from './apply.js';
import { assessQuality, type FloatReference, type Quality, scoreAgainst } from './quality.js';
import type { SampleReader } from './samples.js';
import { closeAll, openSideBySide } from './side-by-side.js';

/** What quality was judged on; `floatTop1` is null where the samples have no labels. */
export interface QualityBasis {
  readonly samples: number;
  readonly source: 'test' | 'calibration' | 'synthetic';
  readonly floatTop1: number | null;
}

/** Quality of a plan and of uniform int8 on the same samples. */
export interface QualityReport extends QualityBasis {
  readonly int8: Quality;
  readonly plan: Quality;
}

/** An artifact to be judged, under a key of its own. */
export interface Judged {
  readonly key: string;
  readonly bytes: () => Uint8Array;
}

/** Version of how quality is found: raising it makes stored qualities unused. */
const version = 1;
/** Float outputs are kept for the next plan up to this size; a detector's are computed again. */
export const keptBytes = 16 * 2 ** 20;

/**
 * Qualities of artifacts on the best samples there are. The float model runs once for all of them, and its outputs are stored with
 * the qualities: another plan for the same model finds both there.
 */
export class PlanQualities {
  readonly #job: Job;
  readonly #ports: Pick<Ports, 'runtime' | 'store'>;
  readonly #calibrationSamples: SampleReader;
  readonly #signal: AbortSignal;
  readonly #progress: Progress;
  readonly #qualities = new Map<string, Quality>();
  #reference: { samples: SampleSource; source: QualityBasis['source']; float: FloatReference } | null = null;

  constructor(
    context: {
      job: Job;
      calibrationSamples: SampleReader;
      ports: Pick<Ports, 'runtime' | 'store'>;
      signal: AbortSignal;
    },
    progress: Progress,
  ) {
    this.#job = context.job;
    this.#ports = context.ports;
    this.#calibrationSamples = context.calibrationSamples;
    this.#signal = context.signal;
    this.#progress = progress;
  }

  /** What the qualities are of; null before the first was found. */
  get basis(): QualityBasis | null {
    if (this.#reference === null) return null;
    const { source, float } = this.#reference;
    return { samples: float.outputs.length, source, floatTop1: float.top1 };
  }

  /** The quality that was found under a key, or null. */
  known(key: string): Quality | null {
    return this.#qualities.get(key) ?? null;
  }

  /** The quality of an artifact. `along` is judged in the same pass, where the float model has to be run. */
  async of(artifact: Judged, along: Judged): Promise<Quality> {
    const known = this.known(artifact.key);
    if (known !== null) return known;
    this.#reference ??= this.#storedReference();
    if (this.#reference === null) await this.#first(artifact.key === along.key ? [artifact] : [artifact, along]);
    else await this.#score(artifact);
    return this.known(artifact.key)!;
  }

  async #score({ key, bytes }: Judged): Promise<void> {
    const { store } = this.#ports;
    const { samples, float } = this.#reference!;
    const artifact = bytes();
    const resultKey = this.#keyOf('quality', samples, sha256(artifact));
    let quality = store.result(resultKey) as Quality | null;
    if (quality === null) {
      const { prepared, workThreads } = this.#job;
      const sessions = await openSideBySide(this.#ports.runtime, artifact, workThreads, float.outputs.length);
      try {
        quality = await scoreAgainst(prepared, samples, float, sessions, this.#signal);
      } finally {
        await closeAll(sessions);
      }
      store.putResult(resultKey, 'quality', quality);
    }
    this.#qualities.set(key, quality);
  }

  /** The first evaluation runs the float model along. */
  async #first(artifacts: readonly Judged[]): Promise<void> {
    const { prepared, isMaster } = this.#job;
    if (isMaster) throw new FloatModelNeeded('judging quality');
    const { store } = this.#ports;
    const { samples, source } = this.#source();
    const models = artifacts.map(({ bytes }) => bytes());
    const sessions: Session[] = [];
    try {
      for (const model of [floatModel(prepared), ...models]) sessions.push(await this.#open(model));
      const [float, ...others] = sessions;
      const found = await assessQuality(prepared, samples, float!, others, this.#signal, this.#progress);
      this.#reference = { samples, source, float: found.reference };
      artifacts.forEach(({ key }, index) => {
        const quality = found.qualities[index]!;
        this.#qualities.set(key, quality);
        store.putResult(this.#keyOf('quality', samples, sha256(models[index]!)), 'quality', quality);
      });
      const bytes = found.reference.outputs.reduce((sum, output) => sum + output.byteLength, 0);
      if (bytes <= keptBytes) store.putResult(this.#keyOf('float-outputs', samples), 'float-outputs', found.reference);
    } finally {
      for (const session of sessions) await session.close();
    }
  }

  #storedReference() {
    const { samples, source } = this.#source();
    const float = this.#ports.store.result(this.#keyOf('float-outputs', samples)) as FloatReference | null;
    return float === null ? null : { samples, source, float };
  }

  #keyOf(kind: string, samples: SampleSource, ...more: readonly string[]): string {
    const { modelSha256, prepared } = this.#job;
    return contentKey([kind, version, modelSha256, prepared.card, samples.digest, samples.labels, ...more]);
  }

  #source(): { samples: SampleSource; source: QualityBasis['source'] } {
    const { test, calibration } = this.#job;
    if (test !== null) return { samples: test, source: 'test' };
    if (calibration !== null) return { samples: calibration, source: 'calibration' };
    const made = this.#calibrationSamples;
    return { samples: { ...made, labels: null, read: (index) => made.read(index) }, source: 'synthetic' };
  }

  #open(bytes: Uint8Array): Promise<Session> {
    return this.#ports.runtime.open(bytes, { threads: this.#job.workThreads });
  }
}
