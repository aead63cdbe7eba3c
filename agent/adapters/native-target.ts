import type { LatencyRow, Precision } from '../../configs/contracts/plan.js';
import { type EngineModel, listKernels } from '../../native/index.js';
import { buildImage } from '../core/image/build.js';
import { readDescription } from '../core/image/description.js';
import { enginePrecisions, kernelLabel } from '../core/image/precisions.js';
import { runOverheadKey, scaleRows, speedReferenceKey } from '../core/latency.js';
import type { Operator } from '../core/onnx/model.js';
import { formatPrecision } from '../core/precision.js';
import type { PreparedModel } from '../core/prepare.js';
import { xorshift32 } from '../core/random.js';
import { median, minimum, spread } from '../core/statistics.js';
import type { Comparison, Feeds, Progress, Target, TargetIdentity } from '../ports.js';
import { compareArtifacts } from './compare-models.js';
import { openEngine } from './host-runtime.js';
import { identifyNative } from './machine.js';
import { withMeasuringLock } from './measuring-lock.js';
import { SpeedReference } from './speed-reference.js';

/** Runs of each candidate; a large model gets fewer. */
const rounds = { warmUp: 2, least: 7, most: 60, seconds: 1.2 };

/**
 * Our own engine on this machine's CPU. Operators are timed where they will run: whole images of the model, one for each precision,
 * are executed with each kernel in turn, and the engine says what every operator took. Layouts, packing and caches are those of
 * the deployed model.
 */
export class NativeTarget implements Target {
  readonly kind = 'native';
  readonly counter = 'nanoseconds';
  readonly #threads: number;
  #identity: Promise<TargetIdentity> | undefined;

  constructor(options: { threads: number }) {
    this.#threads = options.threads;
  }

  identity(): Promise<TargetIdentity> {
    this.#identity ??= identifyNative(this.#threads);
    return this.#identity;
  }

  /** The engine is exact for all weights; that some of them are faster is what 7 bits are for. */
  async saturates(): Promise<boolean> {
    return false;
  }

  precisionsOf(prepared: PreparedModel, operator: Operator): readonly Precision[] {
    return enginePrecisions(prepared, operator);
  }

  async measure(
    prepared: PreparedModel,
    operators: readonly Operator[],
    precisions: readonly Precision[],
    signal: AbortSignal,
    progress: Progress,
  ): Promise<LatencyRow[]> {
    const wanted = new Set(operators.map(({ key }) => key));
    const measureAll = async () => {
      const rows: LatencyRow[] = [];
      let firstNs: number | null = null;
      for (const [index, precision] of precisions.entries()) {
        const name = formatPrecision(precision);
        const tell = (share: number) => progress((index + share) / precisions.length, `timing at ${name}`);
        const measured = await this.#measureAt(prepared, precision, signal, tell);
        // Clocks change and neighbours come and go between one precision and the next.
        firstNs ??= measured.referenceNs;
        rows.push(...scaleRows(measured.rows, firstNs / measured.referenceNs));
      }
      const kept = rows.filter(({ operatorKey }) => wanted.has(operatorKey) || operatorKey === runOverheadKey);
      return firstNs === null ? [] : [...kept, this.#row(speedReferenceKey, 'float', [firstNs], false)];
    };
    return withMeasuringLock(signal, measureAll, { waiting: (text) => progress(0, text) });
  }

  async compare(
    models: readonly { name: string; bytes: Uint8Array }[],
    feeds: Feeds,
    signal: AbortSignal,
    progress: Progress,
  ): Promise<Comparison> {
    const compareAll = () => compareArtifacts(models, feeds, this.#threads, signal, progress);
    return withMeasuringLock(signal, compareAll, { waiting: (text) => progress(0, text) });
  }

  async #measureAt(
    prepared: PreparedModel,
    precision: Precision,
    signal: AbortSignal,
    progress: (share: number) => void,
  ): Promise<{ rows: LatencyRow[]; referenceNs: number }> {
    const label = formatPrecision(precision);
    const able = prepared.operators.filter((operator) =>
      enginePrecisions(prepared, operator).some((candidate) => formatPrecision(candidate) === label),
    );
    const { bytes } = buildImage(prepared, new Map(able.map(({ name }) => [name, precision])), {
      // Times do not depend on ranges.
      rangeOf: () => ({ minimum: -4, maximum: 4 }),
      pairSafe: await this.saturates(),
      biasCorrection: () => null,
    });
    const { operators: sources } = readDescription(bytes);
    const candidates = openCandidates(bytes, this.#threads);
    const reference = await SpeedReference.open(this.#threads);
    try {
      const input = randomInput(prepared);
      const times = candidates.map(() => sources.map((): number[] => []));
      const overheads: number[] = [];
      let started = performance.now();
      for (let round = 0; round < rounds.warmUp + rounds.most; round++) {
        if (round === rounds.warmUp) started = performance.now();
        const elapsed = (performance.now() - started) / 1000;
        if (round >= rounds.warmUp + rounds.least && elapsed > rounds.seconds) break;
        for (let turn = 0; turn < candidates.length; turn++) {
          signal.throwIfAborted();
          const index = (turn + round) % candidates.length;
          const start = process.hrtime.bigint();
          const [observed] = await candidates[index]!.model.observe([input], 1);
          const whole = Number(process.hrtime.bigint() - start);
          if (round < rounds.warmUp) continue;
          observed!.forEach((nanoseconds, at) => {
            times[index]![at]!.push(nanoseconds);
          });
          overheads.push(Math.max(0, whole - observed!.reduce((a, b) => a + b, 0)));
        }
        await reference.sample();
        progress(Math.min(1, elapsed / rounds.seconds));
      }
      const throttled = reference.hasSlowedDown();
      const rows = this.#rowsOf(able, precision, sources, candidates, times, throttled);
      const overhead = this.#row(runOverheadKey, 'float', overheads, throttled);
      return { rows: [...rows, overhead], referenceNs: reference.medianNs };
    } finally {
      await reference.close();
      for (const { model } of candidates) model.close();
    }
  }

  /** For every operator: its rows by kernel, and the fastest of them as the row of the precision. */
  #rowsOf(
    operators: readonly Operator[],
    precision: Precision,
    sources: readonly string[],
    candidates: readonly Candidate[],
    times: readonly (readonly (readonly number[])[])[],
    throttled: boolean,
  ): LatencyRow[] {
    const byKey = new Map<string, Map<string, number[]>>();
    for (const operator of operators) {
      const positions = [...sources.keys()].filter((at) => sources[at] === operator.name);
      const product = positions.find((at) => candidates[0]!.model.kernels[at] !== '');
      const byKernel = byKey.get(operator.key) ?? new Map<string, number[]>();
      byKey.set(operator.key, byKernel);
      candidates.forEach((candidate, index) => {
        const kernel = product === undefined ? '' : arithmeticOf(candidate.model.kernels[product]!);
        // A candidate counts for the operators that ran with its own kernel; the one without, for what has only one.
        if (candidate.kernel !== null && kernel !== candidate.kernel) return;
        const sums = (times[index]![0] ?? []).map((_, round) =>
          positions.reduce((sum, at) => sum + times[index]![at]![round]!, 0),
        );
        byKernel.set(kernel, [...(byKernel.get(kernel) ?? []), ...sums]);
      });
    }
    return [...byKey].flatMap(([key, byKernel]) => {
      const rows = [...byKernel].map(([kernel, samples]) => ({ kernel, row: this.#row(key, '', samples, throttled) }));
      rows.sort((a, b) => a.row.median - b.row.median);
      const [best] = rows;
      if (best === undefined) return [];
      const named = rows.filter(({ kernel }) => kernel !== '');
      return [
        { ...best.row, precision: formatPrecision(precision) },
        ...named.map(({ kernel, row }) => ({ ...row, precision: kernelLabel(precision, kernel) })),
      ];
    });
  }

  #row(operatorKey: string, precision: string, samples: readonly number[], throttled: boolean): LatencyRow {
    return {
      operatorKey,
      precision,
      minimum: minimum(samples),
      median: median(samples),
      spread: samples.length > 1 ? spread(samples) : 0,
      repeats: samples.length,
      throttled,
      energyJoules: null,
      measuredAt: new Date().toISOString(),
    };
  }
}

interface Candidate {
  /** Without variant; null: whichever the engine prefers. */
  readonly kernel: string | null;
  readonly model: EngineModel;
}

/** The image prepared once for every kernel that any of its operators can run with, and once by the engine's own choice. */
function openCandidates(bytes: Uint8Array, threads: number): Candidate[] {
  const names = listKernels().filter(({ name, isAvailable }) => isAvailable && name !== 'reference');
  const kernels = [...new Set(names.map(({ name }) => arithmeticOf(name)))];
  const candidates: Candidate[] = [{ kernel: null, model: openEngine(bytes, { threads }) }];
  for (const kernel of kernels) {
    const model = openEngine(bytes, { threads, onlyKernel: kernel });
    if (model.kernels.some((name) => arithmeticOf(name) === kernel)) candidates.push({ kernel, model });
    else model.close();
  }
  return candidates;
}

function arithmeticOf(kernel: string): string {
  return kernel.split('.')[0]!;
}

function randomInput({ inputDims }: PreparedModel): Float32Array {
  const random = xorshift32(1);
  return Float32Array.from({ length: inputDims.reduce((a, b) => a * b, 1) }, () => random() * 2 - 1);
}
