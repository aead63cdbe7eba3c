/** Whole models against each other, round by round, on this machine; the same for every target of the host. */
import { median, minimum } from '../core/statistics.js';
import type { Comparison, Feeds, Progress } from '../ports.js';
import { openTimed, type TimedModel } from './host-runtime.js';
import { SpeedReference } from './speed-reference.js';

const rounds = { warmUp: 4, least: 15, most: 300 };
/** Nothing is timed for longer; and for no less, however steady it is, for a machine's speed changes within a second. */
const seconds = { least: 0.8, most: 2 };
/** The median of a model's shares of its rounds is settled when its 95 % confidence interval is no wider than this part of it. */
const settledWidth = 0.03;

/** Opens models (ONNX or images) and times them against each other on the same inputs. */
export async function compareArtifacts(
  models: readonly { name: string; bytes: Uint8Array }[],
  feeds: Feeds,
  threads: number,
  signal: AbortSignal,
  progress: Progress,
): Promise<Comparison> {
  const opened: TimedModel[] = [];
  try {
    for (const { bytes } of models) opened.push(await openTimed(bytes, feeds, threads));
    return await compareModels(
      models.map(({ name }) => name),
      opened,
      threads,
      signal,
      progress,
    );
  } finally {
    for (const model of opened) await model.close();
  }
}

/** Times models round by round in rotating order. `most` bounds the rounds. */
export async function compareModels(
  names: readonly string[],
  models: readonly TimedModel[],
  threads: number,
  signal: AbortSignal,
  progress: Progress,
  most = rounds.most,
): Promise<Comparison> {
  const reference = await SpeedReference.open(threads);
  try {
    const times = await timeInTurn(models, reference, signal, progress, most);
    return {
      timings: names.map((name, index) => ({
        name,
        minimum: minimum(times[index]!),
        median: median(times[index]!),
        samples: times[index]!.length,
      })),
      ratios: times.map((own) => median(own.map((time, round) => time / times[0]![round]!))),
      referenceLatency: reference.medianNs,
      throttled: reference.hasSlowedDown(),
    };
  } finally {
    await reference.close();
  }
}

/** Times of each model by round, after a warm-up, in nanoseconds. */
async function timeInTurn(
  models: readonly TimedModel[],
  reference: SpeedReference,
  signal: AbortSignal,
  progress: Progress,
  most: number,
): Promise<number[][]> {
  const times: number[][] = models.map(() => []);
  let started = performance.now();
  for (let round = 0; round < rounds.warmUp + most; round++) {
    if (round === rounds.warmUp) started = performance.now();
    const elapsed = (performance.now() - started) / 1000;
    const isEnough = elapsed > seconds.most || (elapsed > seconds.least && sharesOf(times).every(isSettled));
    if (round >= rounds.warmUp + rounds.least && isEnough) break;
    for (let turn = 0; turn < models.length; turn++) {
      signal.throwIfAborted();
      const index = (turn + round) % models.length;
      const start = process.hrtime.bigint();
      await models[index]!.run();
      const nanoseconds = Number(process.hrtime.bigint() - start);
      if (round >= rounds.warmUp) times[index]!.push(nanoseconds);
    }
    await reference.sample();
    progress(Math.min(1, elapsed / seconds.most), 'timing whole models');
  }
  return times;
}

/** Times as shares of their rounds: what slows down everything for a while is in none of them. */
function sharesOf(times: readonly (readonly number[])[]): number[][] {
  const totals = times[0]!.map((_, round) => times.reduce((sum, own) => sum + own[round]!, 0));
  return times.map((own) => own.map((time, round) => time / totals[round]!));
}

/** Whether more rounds would hardly move the median: by the order statistics around it (binomial, normal approximation). */
function isSettled(shares: readonly number[]): boolean {
  const sorted = [...shares].sort((a, b) => a - b);
  const reach = 0.98 * Math.sqrt(sorted.length);
  const at = (rank: number) => sorted[Math.max(0, Math.min(sorted.length - 1, Math.round(rank)))]!;
  const middle = (sorted.length - 1) / 2;
  return at(middle + reach) - at(middle - reach) <= settledWidth * at(middle);
}
