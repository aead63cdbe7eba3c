/** What artifacts are truly worth: their divergence from float on held-out samples, as the engine computes them. */
import { availableParallelism } from 'node:os';
import type { PreparedModel } from '../../agent/core/prepare.js';
import type { Ports } from '../../agent/pipeline.js';
import type { SampleSource, Session } from '../../agent/ports.js';
import { floatModel } from '../../agent/steps/apply.js';
import { assessQuality, type FloatReference, type Quality, scoreAgainst } from '../../agent/steps/quality.js';
import type { SampleReader } from '../../agent/steps/samples.js';

const threads = availableParallelism();
const quiet = () => {};

/** The first samples of a source, read and decoded once. */
export async function inMemory(source: SampleSource, most: number): Promise<SampleSource & SampleReader> {
  const count = Math.min(source.count, most);
  const data: Float32Array[] = [];
  for (let index = 0; index < count; index++) data.push(await source.read(index));
  return {
    count,
    source: 'samples',
    digest: source.digest,
    labels: source.labels?.slice(0, count) ?? null,
    read: async (index) => data[index]!,
  };
}

/** Judges one artifact after another by the same samples; the float model runs over them once. */
export class Judge {
  readonly #prepared: PreparedModel;
  readonly #samples: SampleSource;
  readonly #runtime: Ports['runtime'];
  readonly #signal: AbortSignal;
  /** Of the float model. */
  readonly reference: FloatReference;

  private constructor(
    prepared: PreparedModel,
    samples: SampleSource,
    runtime: Ports['runtime'],
    signal: AbortSignal,
    reference: FloatReference,
  ) {
    this.#prepared = prepared;
    this.#samples = samples;
    this.#runtime = runtime;
    this.#signal = signal;
    this.reference = reference;
  }

  static async open(
    prepared: PreparedModel,
    samples: SampleSource,
    runtime: Ports['runtime'],
    signal: AbortSignal,
  ): Promise<Judge> {
    return using(await runtime.open(floatModel(prepared), { threads }), async (float) => {
      const { reference } = await assessQuality(prepared, samples, float, [], signal, quiet);
      return new Judge(prepared, samples, runtime, signal, reference);
    });
  }

  async qualityOf(artifact: Uint8Array): Promise<Quality> {
    return using(await this.#runtime.open(artifact, { threads }), (session) =>
      scoreAgainst(this.#prepared, this.#samples, this.reference, [session], this.#signal),
    );
  }
}

/** KL at temperature 1 in nats; of what is no classifier the energy of the error over that of the output. */
export function divergenceOf({ kl, sqnrDb }: Quality): number {
  return kl ?? (sqnrDb === null ? 0 : 10 ** (-sqnrDb / 10));
}

async function using<T>(session: Session, work: (session: Session) => Promise<T>): Promise<T> {
  try {
    return await work(session);
  } finally {
    await session.close();
  }
}
