import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { InferenceSession } from 'onnxruntime-node';
import type { LatencyRow, Precision } from '../../configs/contracts/plan.js';
import { type BundleItem, branchOf, buildBundle, bundleAt, itemBytes } from '../core/bundle.js';
import { conversionKey, conversionOps, dispatchKey, runOverheadKey } from '../core/latency.js';
import { encode } from '../core/onnx/codec.js';
import type { Model, Node, Operator, Tensor } from '../core/onnx/model.js';
import { float, formatPrecision } from '../core/precision.js';
import { canRunBlockwise } from '../core/quant/matmul-nbits.js';
import { canRunInt8 } from '../core/quant/qdq.js';
import { xorshift32 } from '../core/random.js';
import { median, minimum, spread, trimmedMean } from '../core/statistics.js';
import type { Comparison, Feeds, Progress, Target, TargetIdentity } from '../ports.js';
import { identifyMachine } from './machine.js';
import { withMeasuringLock } from './measuring-lock.js';
import { createSession, sessionOptions, toTensors } from './ort-runtime.js';
import { SpeedReference } from './speed-reference.js';

/** Version of the measuring code: part of the identity, so that a change of method never mixes with old rows. */
const methodVersion = 1;

const int8: Precision = { weightBits: 8, activationBits: 8 };
const blockwise: Precision = { weightBits: 4, activationBits: 32 };

/** Profiled rounds per group of operators: at least and at most so many, within a time that keeps a profile short. */
const rounds = { warmUp: 4, least: 12, most: 48, seconds: 2.5 };
/** End-to-end comparisons, likewise. */
const comparisonRounds = { warmUp: 4, least: 15, most: 300, seconds: 2.5 };
/** Bytes of activations and weights in one bundle. */
const bundleBytes = 160 * 2 ** 20;

/** ONNX Runtime on this machine's CPU: QDQ models, profiled with its own profiler on micro-models. */
export class OrtTarget implements Target {
  readonly kind = 'ort';
  readonly counter = 'nanoseconds';
  readonly #threads: number;
  #identity: Promise<TargetIdentity> | undefined;

  constructor(options: { threads: number }) {
    this.#threads = options.threads;
  }

  identity(): Promise<TargetIdentity> {
    this.#identity ??= identifyMachine('ort', this.#threads, methodVersion);
    return this.#identity;
  }

  async saturates(): Promise<boolean> {
    const { architecture, features } = await this.identity();
    return architecture === 'x64' && !features.some((feature) => feature.endsWith('_vnni'));
  }

  precisionsOf(operator: Operator, weight: Tensor | null): readonly Precision[] {
    const precisions = [float];
    if (canRunInt8(operator)) precisions.push(int8);
    if (canRunBlockwise(operator, weight)) precisions.push(blockwise);
    return precisions;
  }

  async measure(
    items: readonly BundleItem[],
    precisions: readonly Precision[],
    signal: AbortSignal,
    progress: Progress,
  ): Promise<LatencyRow[]> {
    return withMeasuringLock(signal, async () => {
      progress(0, 'measuring overheads');
      const overheads = await this.#measureOverheads(signal);
      const rows = [...overheads.rows];
      const groups = groupBySize(items);
      for (const [index, group] of groups.entries()) {
        signal.throwIfAborted();
        progress((index + 0.1) / groups.length, `timing ${group.length} operators`);
        rows.push(...(await this.#measureGroup(group, precisions, overheads.profilerNs, signal)));
        progress((index + 1) / groups.length, `timing ${group.length} operators`);
      }
      return rows;
    });
  }

  async compare(
    models: readonly { name: string; bytes: Uint8Array }[],
    feeds: Feeds,
    signal: AbortSignal,
    progress: Progress,
  ): Promise<Comparison> {
    return withMeasuringLock(signal, async () => {
      const sessions: InferenceSession[] = [];
      try {
        for (const model of models) sessions.push(await createSession(model.bytes, sessionOptions(this.#threads)));
        return await compareSessions(
          models.map((model) => model.name),
          sessions,
          feeds,
          signal,
          progress,
        );
      } finally {
        for (const session of sessions) await session.release();
      }
    });
  }

  async #measureGroup(
    group: readonly BundleItem[],
    precisions: readonly Precision[],
    profilerNs: number,
    signal: AbortSignal,
  ): Promise<LatencyRow[]> {
    const candidates = precisions
      .map((precision) => ({ precision, items: group.filter((item) => this.#canRun(item, precision)) }))
      .filter(({ items }) => items.length > 0)
      .map(({ precision, items }) => ({ precision, items, bundle: buildBundle(items) }));
    const profiled = await profileInterleaved(
      candidates.map(({ bundle, precision }) => ({
        model: bundleAt(bundle, precision),
        feeds: randomFeeds(bundle.inputs),
      })),
      this.#threads,
      signal,
    );
    const measuredAt = new Date().toISOString();
    const row = (
      operatorKey: string,
      precision: string,
      times: readonly number[],
      energyJoules: number | null = null,
    ): LatencyRow => ({
      operatorKey,
      precision,
      minimum: minimum(times),
      median: median(times),
      spread: spread(times),
      repeats: times.length,
      throttled: profiled.throttled,
      energyJoules,
      measuredAt,
    });
    const rows: LatencyRow[] = [];
    const conversions = new Map<string, number[]>();
    candidates.forEach(({ precision, items }, index) => {
      const { branches, layout } = attribute(profiled.events[index]!, items.length, profilerNs);
      items.forEach((item, branch) => {
        rows.push(row(item.operator.key, formatPrecision(precision), branches[branch]!));
      });
      for (const [key, times] of layout) conversions.set(key, [...(conversions.get(key) ?? []), ...times]);
    });
    for (const [key, times] of conversions) rows.push(row(key, 'float', times));
    return rows;
  }

  #canRun({ operator, model }: BundleItem, precision: Precision): boolean {
    const weight = operator.weight === null ? null : (model.graph.initializers.get(operator.weight.name) ?? null);
    const name = formatPrecision(precision);
    return this.precisionsOf(operator, weight).some((candidate) => formatPrecision(candidate) === name);
  }

  /**
   * Per-run and per-node costs from chains of 1 and 65 nodes that do next to nothing. The profiler adds about a microsecond to
   * what it times and cuts off fractions: the long chain, profiled, says how much more a node seems to take than it does.
   */
  async #measureOverheads(signal: AbortSignal): Promise<{ rows: LatencyRow[]; profilerNs: number }> {
    const lengths = [1, 65];
    const sessions: InferenceSession[] = [];
    const feeds: Feeds = new Map([['x', { dims: [1], data: Float32Array.of(1) }]]);
    try {
      for (const length of lengths)
        sessions.push(await createSession(encode(chain(length)), sessionOptions(this.#threads)));
      const { timings, throttled } = await compareSessions(lengths.map(String), sessions, feeds, signal, () => {}, 400);
      const [one, many] = [timings[0]!, timings[1]!];
      const perNode = (many.median - one.median) / (lengths[1]! - lengths[0]!);
      const profiled = await profileInterleaved([{ model: chain(lengths[1]!), feeds }], this.#threads, signal);
      const profilerNs = trimmedMean(profiled.events[0]!.map((event) => event.dur * 1000)) - perNode;
      const measuredAt = new Date().toISOString();
      const common = { precision: 'float', spread: 0, repeats: one.samples, throttled, energyJoules: null, measuredAt };
      const atLeastZero = (nanoseconds: number) => Math.max(0, nanoseconds);
      const rows = [
        {
          operatorKey: runOverheadKey,
          minimum: atLeastZero(one.minimum - perNode),
          median: atLeastZero(one.median - perNode),
          ...common,
        },
        { operatorKey: dispatchKey, minimum: atLeastZero(perNode), median: atLeastZero(perNode), ...common },
      ];
      return { rows, profilerNs };
    } finally {
      for (const session of sessions) await session.release();
    }
  }
}

function groupBySize(items: readonly BundleItem[]): BundleItem[][] {
  const groups: BundleItem[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const item of items) {
    const size = itemBytes(item);
    if (bytes + size > bundleBytes) {
      groups.push([]);
      bytes = 0;
    }
    groups[groups.length - 1]!.push(item);
    bytes += size;
  }
  return groups;
}

function randomFeeds(inputs: readonly { name: string; dims: readonly number[] }[]): Feeds {
  const random = xorshift32(1);
  return new Map(
    inputs.map(({ name, dims }) => {
      const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => random() * 2 - 1);
      return [name, { dims, data }];
    }),
  );
}

/** A chain of square roots of one number: nothing a runtime fuses, nothing that takes time. */
function chain(length: number): Model {
  const nodes: Node[] = Array.from({ length }, (_, index) => ({
    name: `n${index}`,
    op: 'Sqrt',
    domain: '',
    inputs: [index === 0 ? 'x' : `t${index - 1}`],
    outputs: [index === length - 1 ? 'y' : `t${index}`],
    attributes: new Map(),
  }));
  const value = (name: string) => ({ name, type: 'float32' as const, shape: [1] });
  const graph = {
    name: 'chain',
    nodes,
    initializers: new Map(),
    inputs: [value('x')],
    outputs: [value('y')],
    valueInfo: new Map(),
  };
  return { irVersion: 8, opsets: new Map([['', 13]]), producer: 'quantd', metadata: new Map(), graph };
}

/** One node of one run, as ONNX Runtime's profiler writes it. */
interface ProfileEvent {
  cat: string;
  name: string;
  dur: number;
  args?: {
    op_name?: string;
    input_type_shape?: Record<string, number[]>[];
    output_type_shape?: Record<string, number[]>[];
  };
}

/** Runs the models in turn with the profiler on, and answers their node events of all rounds but the warm-up. */
async function profileInterleaved(
  models: readonly { model: Model; feeds: Feeds }[],
  threads: number,
  signal: AbortSignal,
): Promise<{ events: ProfileEvent[][]; throttled: boolean }> {
  const folder = await mkdtemp(join(tmpdir(), 'quantd-profile-'));
  const sessions: InferenceSession[] = [];
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
    const reference = new SpeedReference();
    let started = performance.now();
    for (let round = 0; round < rounds.warmUp + rounds.most; round++) {
      if (round === rounds.warmUp) started = performance.now();
      if (round >= rounds.warmUp + rounds.least && performance.now() - started > rounds.seconds * 1000) break;
      for (const [index, session] of sessions.entries()) {
        signal.throwIfAborted();
        await session.run(feeds[index]!);
      }
      reference.sample();
    }
    for (const session of sessions) session.endProfiling();
    const events: ProfileEvent[][] = [];
    for (const index of sessions.keys()) events.push(await readProfile(folder, `m${index}_`));
    return { events, throttled: reference.hasSlowedDown() };
  } finally {
    for (const session of sessions) await session.release();
    await rm(folder, { recursive: true, force: true });
  }
}

async function readProfile(folder: string, prefix: string): Promise<ProfileEvent[]> {
  const name = (await readdir(folder)).find((file) => file.startsWith(prefix));
  if (name === undefined) return [];
  const all = JSON.parse(await readFile(join(folder, name), 'utf8')) as ProfileEvent[];
  return all.filter((event) => event.cat === 'Node' && event.name.endsWith('_kernel_time'));
}

const layoutOps: ReadonlySet<string> = new Set(conversionOps);

/**
 * Sums node times by branch and round, and collects the layout and quantize nodes by shape. Times are nanoseconds, without
 * what the profiler adds.
 */
function attribute(
  events: readonly ProfileEvent[],
  branchCount: number,
  profilerNs: number,
): { branches: number[][]; layout: Map<string, number[]> } {
  const occurrences = new Map<string, number>();
  const branches: number[][] = Array.from({ length: branchCount }, () => []);
  const layout = new Map<string, number[]>();
  for (const event of events) {
    const round = occurrences.get(event.name) ?? 0;
    occurrences.set(event.name, round + 1);
    if (round < rounds.warmUp) continue;
    const nanoseconds = Math.max(0, event.dur * 1000 - profilerNs);
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

/** Times sessions round by round in rotating order. `most` bounds the rounds. */
async function compareSessions(
  names: readonly string[],
  sessions: readonly InferenceSession[],
  feeds: Feeds,
  signal: AbortSignal,
  progress: Progress,
  most = comparisonRounds.most,
): Promise<Comparison> {
  const tensors = toTensors(feeds);
  const times: number[][] = sessions.map(() => []);
  const reference = new SpeedReference();
  let started = performance.now();
  for (let round = 0; round < comparisonRounds.warmUp + most; round++) {
    if (round === comparisonRounds.warmUp) started = performance.now();
    const elapsed = (performance.now() - started) / 1000;
    if (round >= comparisonRounds.warmUp + comparisonRounds.least && elapsed > comparisonRounds.seconds) break;
    for (let turn = 0; turn < sessions.length; turn++) {
      signal.throwIfAborted();
      const index = (turn + round) % sessions.length;
      const start = process.hrtime.bigint();
      await sessions[index]!.run(tensors);
      const nanoseconds = Number(process.hrtime.bigint() - start);
      if (round >= comparisonRounds.warmUp) times[index]!.push(nanoseconds);
    }
    reference.sample();
    progress(Math.min(1, elapsed / comparisonRounds.seconds), 'timing whole models');
  }
  return {
    timings: names.map((name, index) => ({
      name,
      minimum: minimum(times[index]!),
      median: median(times[index]!),
      samples: times[index]!.length,
    })),
    ratios: times.map((own) => median(own.map((time, round) => time / times[0]![round]!))),
    throttled: reference.hasSlowedDown(),
  };
}
