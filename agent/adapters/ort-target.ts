import type { LatencyRow, Precision } from '../../configs/contracts/plan.js';
import { type BundleItem, buildBundle, bundleAt, itemBytes } from '../core/bundle.js';
import { dispatchKey, runOverheadKey, scaleRows, speedReferenceKey } from '../core/latency.js';
import { encode } from '../core/onnx/codec.js';
import type { AttributeValue, Model, Node, Operator, Tensor } from '../core/onnx/model.js';
import { makeTensor } from '../core/onnx/tensor.js';
import { float, formatPrecision } from '../core/precision.js';
import type { PreparedModel } from '../core/prepare.js';
import { canRunBlockwise } from '../core/quant/matmul-nbits.js';
import { canRunInt8 } from '../core/quant/qdq.js';
import { xorshift32 } from '../core/random.js';
import { median, minimum, spread } from '../core/statistics.js';
import type { Comparison, Effort, EnergyMeter, Feeds, Progress, Target, TargetIdentity } from '../ports.js';
import { compareArtifacts, compareModels } from './compare-models.js';
import { openTimed, type TimedModel } from './host-runtime.js';
import { identifyOrt, saturatesInt8 } from './machine.js';
import { withMeasuringLock } from './measuring-lock.js';
import { attribute, ProfilerCost, profileInterleaved } from './ort-profile.js';

const int8: Precision = { weightBits: 8, activationBits: 8 };
const blockwise: Precision = { weightBits: 4, activationBits: 32 };

/** Bytes of activations and weights in one bundle. */
const bundleBytes = 160 * 2 ** 20;

/** Rounds of the chains that overheads are taken from. */
const overheadRounds: Readonly<Record<Effort, number>> = { full: 300, sample: 15 };

/**
 * ONNX Runtime on this machine's CPU: QDQ models, profiled with its own profiler on micro-models.
 *
 * The energy of a row is no reading of its operator: no sensor is that fast. It is the machine's mean power while the whole
 * micro-model runs, times the operator's own time; operators of one micro-model differ in energy only as they do in time.
 */
export class OrtTarget implements Target {
  readonly kind = 'ort';
  readonly counter = 'nanoseconds';
  readonly #threads: number;
  readonly #meter: EnergyMeter | null;
  #identity: Promise<TargetIdentity> | undefined;

  /** Without a meter, rows have no energy. */
  constructor(options: { threads: number; meter?: EnergyMeter | null }) {
    this.#threads = options.threads;
    this.#meter = options.meter ?? null;
  }

  identity(): Promise<TargetIdentity> {
    this.#identity ??= identifyOrt(this.#threads, this.#meter?.name ?? null);
    return this.#identity;
  }

  async saturates(): Promise<boolean> {
    return saturatesInt8(await this.identity());
  }

  precisionsOf({ model }: Pick<PreparedModel, 'model'>, operator: Operator): readonly Precision[] {
    const weight = operator.weight === null ? null : (model.graph.initializers.get(operator.weight.name) ?? null);
    const precisions = [float];
    if (canRunInt8(operator)) precisions.push(int8);
    if (canRunBlockwise(operator, weight)) precisions.push(blockwise);
    return precisions;
  }

  async measure(
    { model, shapes }: PreparedModel,
    operators: readonly Operator[],
    precisions: readonly Precision[],
    signal: AbortSignal,
    progress: Progress,
    effort: Effort = 'full',
  ): Promise<LatencyRow[]> {
    const items = operators.map((operator) => ({ operator, model, shapes }));
    const measureAll = async () => {
      progress(0, 'measuring overheads');
      const overheads = await this.#measureOverheads(signal, effort);
      const rows = [...overheads.rows];
      const groups = groupBySize(items);
      for (const [index, group] of groups.entries()) {
        signal.throwIfAborted();
        progress((index + 0.1) / groups.length, `timing ${group.length} operators`);
        rows.push(...(await this.#measureGroup(group, precisions, overheads, signal, effort)));
        progress((index + 1) / groups.length, `timing ${group.length} operators`);
      }
      return rows;
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

  async #measureGroup(
    group: readonly BundleItem[],
    precisions: readonly Precision[],
    overheads: Overheads,
    signal: AbortSignal,
    effort: Effort,
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
      this.#meter,
      signal,
      effort,
    );
    const measuredAt = new Date().toISOString();
    const row = (
      operatorKey: string,
      precision: string,
      times: readonly number[],
      watts: number | null,
    ): LatencyRow => ({
      operatorKey,
      precision,
      minimum: minimum(times),
      median: median(times),
      spread: spread(times),
      repeats: times.length,
      throttled: profiled.throttled,
      energyJoules: joulesOf(watts, median(times)),
      measuredAt,
    });
    const rows: LatencyRow[] = [];
    const conversions = new Map<string, { times: number[]; watts: number | null }>();
    candidates.forEach(({ precision, items }, index) => {
      const { branches, layout } = attribute(
        profiled.events[index]!,
        items.length,
        overheads.profiler,
        overheads.referenceNs / profiled.referenceNs,
      );
      const watts = profiled.watts[index]!;
      items.forEach((item, branch) => {
        rows.push(row(item.operator.key, formatPrecision(precision), branches[branch]!, watts));
      });
      // The same conversion in two micro-models is one row; its power is that of the first.
      for (const [key, times] of layout) {
        const known = conversions.get(key);
        conversions.set(key, {
          times: [...(known?.times ?? []), ...times],
          watts: known === undefined ? watts : known.watts,
        });
      }
    });
    for (const [key, { times, watts }] of conversions) rows.push(row(key, 'float', times, watts));
    return rows;
  }

  #canRun(item: BundleItem, precision: Precision): boolean {
    const name = formatPrecision(precision);
    return this.precisionsOf(item, item.operator).some((candidate) => formatPrecision(candidate) === name);
  }

  /**
   * Per-run and per-node costs from chains of 1 and 65 small nodes, and what the profiler adds to a node: the long chains,
   * profiled, against what their nodes take without it.
   */
  async #measureOverheads(signal: AbortSignal, effort: Effort): Promise<Overheads> {
    const lengths = [1, 65] as const;
    const kinds = [scalarChain, imageChain];
    const models = kinds.flatMap((kind) => lengths.map((length) => kind(length)));
    const opened: TimedModel[] = [];
    try {
      for (const { model, feeds } of models) opened.push(await openTimed(encode(model), feeds, this.#threads));
      const comparison = await compareModels(
        models.map((_, index) => String(index)),
        opened,
        this.#threads,
        signal,
        () => {},
        overheadRounds[effort],
      );
      const perNode = kinds.map((_, index) => {
        const [short, long] = [comparison.timings[2 * index]!, comparison.timings[2 * index + 1]!];
        return Math.max(0, (long.median - short.median) / (lengths[1] - lengths[0]));
      });
      const profiled = await profileInterleaved(
        kinds.map((_, index) => models[2 * index + 1]!),
        this.#threads,
        this.#meter,
        signal,
        effort,
      );
      const { referenceNs } = profiled;
      const speed = referenceNs / comparison.referenceLatency;
      const profiler = ProfilerCost.fit(
        profiled.events,
        perNode.map((nanoseconds) => nanoseconds * speed),
      );
      const measuredAt = new Date().toISOString();
      const [run] = comparison.timings;
      const row = (operatorKey: string, minimum: number, median: number): LatencyRow => ({
        operatorKey,
        precision: 'float',
        minimum,
        median,
        spread: 0,
        repeats: run!.samples,
        throttled: comparison.throttled,
        energyJoules: joulesOf(profiled.watts[0]!, median),
        measuredAt,
      });
      const [nodeNs, runNs] = [perNode[0]!, (nanoseconds: number) => Math.max(0, nanoseconds - perNode[0]!)];
      const rows = [row(runOverheadKey, runNs(run!.minimum), runNs(run!.median)), row(dispatchKey, nodeNs, nodeNs)];
      return {
        rows: [...scaleRows(rows, speed), row(speedReferenceKey, referenceNs, referenceNs)],
        profiler,
        referenceNs,
      };
    } finally {
      for (const model of opened) await model.close();
    }
  }
}

/** What belongs to no operator, and the speed of the machine that all rows of one `measure` are scaled to. */
interface Overheads {
  readonly rows: LatencyRow[];
  readonly profiler: ProfilerCost;
  readonly referenceNs: number;
}

function joulesOf(watts: number | null, nanoseconds: number): number | null {
  return watts === null ? null : watts * nanoseconds * 1e-9;
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

/** A model and what to feed it. */
interface FedModel {
  readonly model: Model;
  readonly feeds: Feeds;
}

/** A chain of square roots of one number: nothing a runtime fuses, nothing that takes time. */
function scalarChain(length: number): FedModel {
  return chainOf(length, [1], 'Sqrt', []);
}

/**
 * A chain of small depthwise convolutions: nodes as real models have them. What the profiler adds to a node is more where nodes
 * work on images than where they do next to nothing, since its own code and data are then out of the caches.
 */
function imageChain(length: number): FedModel {
  const weight = makeTensor('w', 'float32', [16, 1, 3, 3], new Float32Array(16 * 9).fill(0.11));
  const bias = makeTensor('b', 'float32', [16], new Float32Array(16));
  const attributes: ReadonlyMap<string, AttributeValue> = new Map([
    ['group', { kind: 'int', value: 16 }],
    ['pads', { kind: 'ints', value: [1, 1, 1, 1] }],
  ]);
  return chainOf(length, [1, 16, 16, 16], 'Conv', [weight, bias], attributes);
}

function chainOf(
  length: number,
  dims: readonly number[],
  op: string,
  constants: readonly Tensor[],
  attributes: ReadonlyMap<string, AttributeValue> = new Map(),
): FedModel {
  const nodes: Node[] = Array.from({ length }, (_, index) => ({
    name: `n${index}`,
    op,
    domain: '',
    inputs: [index === 0 ? 'x' : `t${index - 1}`, ...constants.map((tensor) => tensor.name)],
    outputs: [index === length - 1 ? 'y' : `t${index}`],
    attributes,
  }));
  const value = (name: string) => ({ name, type: 'float32' as const, shape: dims });
  const initializers = new Map(constants.map((tensor) => [tensor.name, tensor]));
  const graph = {
    name: 'chain',
    nodes,
    initializers,
    inputs: [value('x')],
    outputs: [value('y')],
    valueInfo: new Map(),
  };
  const model = { irVersion: 8, opsets: new Map([['', 13]]), producer: 'quantd', metadata: new Map(), graph };
  const data = new Float32Array(dims.reduce((a, b) => a * b, 1)).fill(1);
  return { model, feeds: new Map([['x', { dims, data }]]) };
}
