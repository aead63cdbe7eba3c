/** ONNX Runtime's own profiler: running models under it, and reading what it wrote. */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { InferenceSession } from 'onnxruntime-node';
import { EdgeError } from '../../configs/contracts/errors.js';
import { branchOf } from '../core/bundle.js';
import { conversionKey, conversionOps } from '../core/latency.js';
import { encode } from '../core/onnx/codec.js';
import type { Model } from '../core/onnx/model.js';
import { trimmedMean } from '../core/statistics.js';
import type { Effort, EnergyMeter, Feeds } from '../ports.js';
import { createSession, sessionOptions, toTensors } from './ort-runtime.js';
import { SpeedReference } from './speed-reference.js';

/** One node of one run, as ONNX Runtime's profiler writes it. */
export interface ProfileEvent {
  cat: string;
  name: string;
  dur: number;
  args?: {
    op_name?: string;
    input_type_shape?: Record<string, number[]>[];
    output_type_shape?: Record<string, number[]>[];
  };
}

/** What a profile of several models has found; `events` and `watts` are by model. */
export interface Profile {
  readonly events: ProfileEvent[][];
  /** Mean power of the machine while the model runs; null without a meter, or where it could not be read. */
  readonly watts: (number | null)[];
  /** Median time of the speed reference while the models ran. */
  readonly referenceNs: number;
  readonly throttled: boolean;
}

/**
 * Runs the models in turn with the profiler on, and answers their node events of all rounds but the warm-up. With a meter, each
 * then runs alone for its power, the profiler off, so that neither reading sensors nor writing events counts as the model's.
 */
export async function profileInterleaved(
  models: readonly { model: Model; feeds: Feeds }[],
  threads: number,
  meter: EnergyMeter | null,
  signal: AbortSignal,
  effort: Effort = 'full',
): Promise<Profile> {
  const most = effort === 'full' ? rounds.most : rounds.least;
  const folder = await mkdtemp(join(tmpdir(), 'quantd-profile-'));
  const sessions: InferenceSession[] = [];
  const reference = await SpeedReference.open(threads);
  try {
    for (const [index, { model }] of models.entries()) {
      const options = {
        ...sessionOptions(threads),
        enableProfiling: true,
        profileFilePrefix: join(folder, `m${index}`),
      };
      sessions.push(await createSession(encode(model), options));
    }
    const feeds = models.map((entry) => toTensors(entry.feeds));
    let started = performance.now();
    for (let round = 0; round < rounds.warmUp + most; round++) {
      if (round === rounds.warmUp) started = performance.now();
      if (round >= rounds.warmUp + rounds.least && performance.now() - started > rounds.seconds * 1000) break;
      for (const [index, session] of sessions.entries()) {
        signal.throwIfAborted();
        // The first of two runs fills the caches, as the run before does for a model that is run over and over.
        for (let run = 0; run < runsARound; run++) await session.run(feeds[index]!);
      }
      await reference.sample();
    }
    for (const session of sessions) session.endProfiling();
    const watts: (number | null)[] = [];
    for (const [index, session] of sessions.entries()) {
      watts.push(meter && (await meanWatts(() => session.run(feeds[index]!), meter, signal)));
    }
    const events: ProfileEvent[][] = [];
    for (const index of sessions.keys()) events.push(await readProfile(folder, `m${index}_`));
    return { events, watts, referenceNs: reference.medianNs, throttled: reference.hasSlowedDown() };
  } finally {
    await reference.close();
    for (const session of sessions) await session.release();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Mean power while something runs over and over: long enough for a dozen samples of a slow sensor. */
async function meanWatts(run: () => Promise<unknown>, meter: EnergyMeter, signal: AbortSignal): Promise<number | null> {
  // The sensor's own averaging window, and the clock of the processor, get used to the load first.
  await runFor(meteredSeconds / 4, run, signal);
  const measurement = meter.start();
  let joules: number | null = null;
  let seconds = 0;
  try {
    seconds = await runFor(meteredSeconds, run, signal);
  } finally {
    joules = measurement.stop();
  }
  return joules === null ? null : joules / seconds;
}

/** Runs at least once and at least for so long; answers how long it took. */
async function runFor(seconds: number, run: () => Promise<unknown>, signal: AbortSignal): Promise<number> {
  const started = performance.now();
  let elapsed = 0;
  while (elapsed < seconds) {
    signal.throwIfAborted();
    await run();
    elapsed = (performance.now() - started) / 1000;
  }
  return elapsed;
}

async function readProfile(folder: string, prefix: string): Promise<ProfileEvent[]> {
  const fail = (cause?: unknown) =>
    new EdgeError('target/failed', 'ONNX Runtime wrote no usable profile', {
      subject: folder,
      hint: 'Check free space in the temporary folder.',
      cause,
    });
  const name = (await readdir(folder)).find((file) => file.startsWith(prefix));
  if (name === undefined) throw fail();
  let all: ProfileEvent[];
  try {
    all = JSON.parse(await readFile(join(folder, name), 'utf8')) as ProfileEvent[];
  } catch (cause) {
    throw fail(cause);
  }
  const nodes = all.filter((event) => event.cat === 'Node' && event.name.endsWith('_kernel_time'));
  if (nodes.length === 0) throw fail();
  const runs = new Map<string, number>();
  return nodes.filter(({ name }) => {
    const run = runs.get(name) ?? 0;
    runs.set(name, run + 1);
    return run % runsARound === runsARound - 1;
  });
}

/**
 * What profiling adds to a node's time. ONNX Runtime counts the writing of the event into it, which takes longer the more shapes
 * there are to spell out, and cuts off fractions of a microsecond: a constant and a rate per character, fitted on nodes whose
 * true time is known.
 */
export class ProfilerCost {
  readonly #constantNs: number;
  readonly #perCharacterNs: number;

  private constructor(constantNs: number, perCharacterNs: number) {
    this.#constantNs = constantNs;
    this.#perCharacterNs = perCharacterNs;
  }

  /** @param trueNs time of a node of each of the two kinds of events, measured without the profiler */
  static fit(events: readonly (readonly ProfileEvent[])[], trueNs: readonly number[]): ProfilerCost {
    const points = events.map((list, index) => ({
      characters: trimmedMean(list.map(describedCharacters)),
      addedNs: trimmedMean(list.map((event) => event.dur * 1000)) - trueNs[index]!,
    }));
    const [first, second] = [points[0]!, points[1]!];
    const rate = (second.addedNs - first.addedNs) / Math.max(1, second.characters - first.characters);
    const perCharacterNs = Math.max(0, rate);
    return new ProfilerCost(first.addedNs - perCharacterNs * first.characters, perCharacterNs);
  }

  /**
   * Nanoseconds that an event's node takes when nobody looks.
   *
   * @param speed time of the speed reference when this was fitted, over its time when the event was recorded
   */
  timeOf(event: ProfileEvent, speed: number): number {
    return Math.max(0, event.dur * 1000 * speed - this.#constantNs - this.#perCharacterNs * describedCharacters(event));
  }
}

function describedCharacters(event: ProfileEvent): number {
  return (
    JSON.stringify(event.args?.input_type_shape ?? '').length +
    JSON.stringify(event.args?.output_type_shape ?? '').length
  );
}

/** How often bundles are run: at least and at most so many rounds, within a time that keeps a profile short. */
const rounds = { warmUp: 4, least: 12, most: 48, seconds: 2.5 };

/** Of each model in each round; only the last of them counts. */
const runsARound = 2;

const meteredSeconds = 0.3;

const layoutOps: ReadonlySet<string> = new Set(conversionOps);

/**
 * Sums node times by branch and round, and collects the layout and quantize nodes by shape. Times are nanoseconds, without
 * what the profiler adds.
 */
export function attribute(
  events: readonly ProfileEvent[],
  branchCount: number,
  profiler: ProfilerCost,
  speed: number,
): { branches: number[][]; layout: Map<string, number[]> } {
  const occurrences = new Map<string, number>();
  const branches: number[][] = Array.from({ length: branchCount }, () => []);
  const layout = new Map<string, number[]>();
  for (const event of events) {
    const round = occurrences.get(event.name) ?? 0;
    occurrences.set(event.name, round + 1);
    if (round < rounds.warmUp) continue;
    const nanoseconds = profiler.timeOf(event, speed);
    const op = event.args?.op_name ?? '';
    if (layoutOps.has(op)) {
      const key = layoutKey(op, event);
      if (key !== null) layout.set(key, [...(layout.get(key) ?? []), nanoseconds]);
      continue;
    }
    const branch = branchOf(event.name);
    if (branch === null || branch >= branchCount) continue;
    const times = branches[branch]!;
    times[round - rounds.warmUp] = (times[round - rounds.warmUp] ?? 0) + nanoseconds;
  }
  // A branch without nodes of its own was absorbed by a neighbour or optimised away: it costs nothing.
  return { branches: branches.map((times) => (times.length === 0 ? [0] : times)), layout };
}

function layoutKey(op: string, event: ProfileEvent): string | null {
  const input = Object.entries(event.args?.input_type_shape?.[0] ?? {})[0];
  const output = Object.values(event.args?.output_type_shape?.[0] ?? {})[0];
  if (input === undefined || output === undefined) return null;
  const [type, dims] = input;
  const name = op as (typeof conversionOps)[number];
  if (name !== 'Transpose') return conversionKey(name, dims);
  if (type === 'float' || dims.length !== 4) return null;
  const [n, c, h, w] = dims as [number, number, number, number];
  const toChannelsLast = [n, h, w, c].every((size, axis) => size === output[axis]);
  return conversionKey(name, toChannelsLast ? dims : output);
}
