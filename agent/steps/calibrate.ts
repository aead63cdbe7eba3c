import type { Range } from '../../configs/contracts/plan.js';
import { encode } from '../core/onnx/codec.js';
import type { PreparedModel } from '../core/prepare.js';
import { Observer, type RangeRule } from '../core/quant/observer.js';
import { isEarly, syntheticRange, usefulRange } from '../core/quant/ranges.js';
import type { Progress, Runtime } from '../ports.js';
import { readAhead, type SampleReader } from './samples.js';

/** What the calibration samples showed of every activation tensor. */
export interface CalibrationDocument {
  readonly samples: number;
  readonly source: 'samples' | 'batch-norm' | 'prior';
  /** By rule, then bit-width, then tensor. */
  readonly ranges: Readonly<Record<string, Readonly<Record<string, Readonly<Record<string, Range>>>>>>;
  /** Mean of each channel (axis 1) of the tensors that weighted operators read. */
  readonly channelMeans: Readonly<Record<string, readonly number[]>>;
}

/** Bytes of activations fetched from one run: more tensors are fetched in several runs of the same sample. */
const fetchBytes = 96 * 2 ** 20;

/** Activation tensors whose ranges a plan may need: everything that operators read or write. */
export function activationTensors(prepared: PreparedModel): string[] {
  const names = new Set<string>();
  for (const operator of prepared.operators) {
    for (const name of [...operator.inputs, ...operator.outputs]) {
      if (prepared.shapes.has(name) && prepared.floatTensors.has(name)) names.add(name);
    }
  }
  return [...names];
}

/**
 * Runs the float model over the calibration samples, one at a time, and watches every activation tensor. Memory is bounded by
 * one run's fetch and one histogram per tensor, whatever the number of samples.
 */
export async function calibrate(
  prepared: PreparedModel,
  samples: SampleReader,
  options: {
    rules: readonly RangeRule[];
    bits: readonly number[];
    threads: number;
    most: number;
    /** Of made-up samples, cut off extremes of 8-bit tensors early in the model; see `isEarly`. */
    cutsEarly?: boolean;
  },
  runtime: Runtime,
  signal: AbortSignal,
  progress: Progress,
): Promise<CalibrationDocument> {
  const tensors = activationTensors(prepared);
  const observers = new Map(tensors.map((name) => [name, new Observer()]));
  const means = new ChannelMeans(prepared);
  const inputs = new Set(prepared.model.graph.inputs.map((input) => input.name));
  const fetched = tensors.filter((name) => !inputs.has(name));
  const session = await runtime.open(encode(withOutputs(prepared, fetched)), { threads: options.threads });
  try {
    const groups = groupByBytes(prepared, fetched);
    const count = Math.min(samples.count, options.most);
    let index = -1;
    for await (const data of readAhead(samples, count)) {
      index++;
      signal.throwIfAborted();
      const feeds = new Map([[prepared.card.input.name, { dims: prepared.inputDims, data }]]);
      observers.get(prepared.card.input.name)?.add(data);
      means.add(prepared.card.input.name, data);
      for (const group of groups) {
        for (const [name, value] of await session.run(feeds, group)) {
          observers.get(name)!.add(value.data as Float32Array);
          means.add(name, value.data as Float32Array);
        }
      }
      progress((index + 1) / count, `calibrating, sample ${index + 1} of ${count}`);
    }
    return {
      samples: count,
      source: samples.source,
      ranges: rangesOf(prepared, observers, samples.source, options),
      channelMeans: means.result(),
    };
  } finally {
    await session.close();
  }
}

/** The model, with tensors of it as its outputs. */
export function withOutputs(prepared: PreparedModel, names: readonly string[]) {
  const outputs = names.map((name) => ({ name, type: 'float32' as const, shape: null }));
  return { ...prepared.model, graph: { ...prepared.model.graph, outputs } };
}

/** Tensors in groups that are small enough to be fetched from one run. */
export function groupByBytes(prepared: PreparedModel, names: readonly string[]): string[][] {
  const groups: string[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const name of names) {
    const size = 4 * prepared.shapes.get(name)!.reduce((a, b) => a * b, 1);
    if (bytes + size > fetchBytes) {
      groups.push([]);
      bytes = 0;
    }
    groups[groups.length - 1]!.push(name);
    bytes += size;
  }
  return groups;
}

function rangesOf(
  prepared: PreparedModel,
  observers: ReadonlyMap<string, Observer>,
  source: SampleReader['source'],
  options: { rules: readonly RangeRule[]; bits: readonly number[]; cutsEarly?: boolean },
): CalibrationDocument['ranges'] {
  const ranges: Record<string, Record<string, Record<string, Range>>> = {};
  for (const rule of options.rules) {
    ranges[rule] = {};
    for (const bits of options.bits) {
      const entries = [...observers].map(([name, observer]) => {
        const isCut = options.cutsEarly === true && source === 'prior' && bits === 8 && isEarly(prepared, name);
        const seen = observer.range(isCut ? 'percentile' : rule, bits);
        const range = source === 'samples' ? seen : syntheticRange(prepared, name, seen, source === 'batch-norm');
        return [name, usefulRange(prepared, name, range)] as const;
      });
      ranges[rule][bits] = Object.fromEntries(entries);
    }
  }
  return ranges;
}

/** Per-channel means of the inputs of weighted operators, over the spatial positions and samples. */
class ChannelMeans {
  readonly #sums = new Map<string, Float64Array>();
  readonly #samples = new Map<string, number>();

  constructor(prepared: PreparedModel) {
    for (const operator of prepared.operators) {
      const input = operator.weight === null ? undefined : operator.inputs[0];
      const dims = input === undefined ? undefined : prepared.shapes.get(input);
      // Channels are axis 1 of what convolutions and matrix-vector products read; of other products they are not.
      const hasChannels = operator.op === 'Conv' ? (dims?.length ?? 0) >= 3 : dims?.length === 2;
      if (input !== undefined && dims !== undefined && hasChannels) this.#sums.set(input, new Float64Array(dims[1]!));
    }
  }

  add(name: string, values: Float32Array): void {
    const sums = this.#sums.get(name);
    if (sums === undefined) return;
    const size = values.length / sums.length;
    for (let channel = 0; channel < sums.length; channel++) {
      let sum = 0;
      for (let i = channel * size; i < (channel + 1) * size; i++) sum += values[i]!;
      sums[channel]! += sum / size;
    }
    this.#samples.set(name, (this.#samples.get(name) ?? 0) + 1);
  }

  result(): Record<string, number[]> {
    return Object.fromEntries(
      [...this.#sums].map(([name, sums]) => [
        name,
        [...sums].map((sum) => sum / Math.max(1, this.#samples.get(name) ?? 0)),
      ]),
    );
  }
}
