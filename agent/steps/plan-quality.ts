import type { Job, Ports } from '../pipeline.js';
import type { Progress, SampleSource, Session } from '../ports.js';
import { floatModel } from './apply.js';
import { assessQuality, type FloatReference, type Quality, scoreAgainst } from './quality.js';
import type { SampleReader } from './samples.js';

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

/** Qualities of artifacts on the best samples there are, each found once; the float model runs once for all of them. */
export class PlanQualities {
  readonly #job: Job;
  readonly #runtime: Ports['runtime'];
  readonly #calibrationSamples: SampleReader;
  readonly #signal: AbortSignal;
  readonly #progress: Progress;
  readonly #qualities = new Map<string, Quality>();
  #reference: { samples: SampleSource; source: QualityBasis['source']; float: FloatReference } | null = null;

  constructor(
    context: { job: Job; calibrationSamples: SampleReader; ports: Pick<Ports, 'runtime'>; signal: AbortSignal },
    progress: Progress,
  ) {
    this.#job = context.job;
    this.#runtime = context.ports.runtime;
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

  /** The quality of an artifact. `along` is judged in the same pass, where that is the first. */
  async of(artifact: Judged, along: Judged): Promise<Quality> {
    const known = this.known(artifact.key);
    if (known !== null) return known;
    if (this.#reference === null) await this.#first(artifact.key === along.key ? [artifact] : [artifact, along]);
    else {
      const session = await this.#open(artifact.bytes());
      try {
        const { samples, float } = this.#reference;
        const quality = await scoreAgainst(this.#job.prepared, samples, float, session, this.#signal);
        this.#qualities.set(artifact.key, quality);
      } finally {
        await session.close();
      }
    }
    return this.known(artifact.key)!;
  }

  /** The first evaluation runs the float model along. */
  async #first(artifacts: readonly Judged[]): Promise<void> {
    const { prepared } = this.#job;
    const { samples, source } = this.#source();
    const sessions: Session[] = [];
    try {
      sessions.push(await this.#open(floatModel(prepared)));
      for (const { bytes } of artifacts) sessions.push(await this.#open(bytes()));
      const [float, ...others] = sessions;
      const found = await assessQuality(prepared, samples, float!, others, this.#signal, this.#progress);
      this.#reference = { samples, source, float: found.reference };
      artifacts.forEach(({ key }, index) => {
        this.#qualities.set(key, found.qualities[index]!);
      });
    } finally {
      for (const session of sessions) await session.close();
    }
  }

  #source(): { samples: SampleSource; source: QualityBasis['source'] } {
    const { test, calibration } = this.#job;
    if (test !== null) return { samples: test, source: 'test' };
    if (calibration !== null) return { samples: calibration, source: 'calibration' };
    const made = this.#calibrationSamples;
    return { samples: { ...made, labels: null, read: (index) => made.read(index) }, source: 'synthetic' };
  }

  #open(bytes: Uint8Array): Promise<Session> {
    return this.#runtime.open(bytes, { threads: this.#job.workThreads });
  }
}
