import type { Precision, Range } from '../../configs/contracts/plan.js';
import { klDivergence, logitVariance, logSoftmax, normalizedSquaredDistance } from '../core/divergence.js';
import type { RoundedProduct } from '../core/image/products.js';
import { encode } from '../core/onnx/codec.js';
import type { Model, Operator } from '../core/onnx/model.js';
import { slice } from '../core/onnx/slice.js';
import { makeTensor, readFloats } from '../core/onnx/tensor.js';
import type { PreparedModel } from '../core/prepare.js';
import { type Affine, type ArtifactVariant, activationAffine, fakeQuantize } from '../core/quant/affine.js';
import { biasCorrection, type ChannelMeans } from '../core/quant/bias.js';
import { quantizeBlockwise } from '../core/quant/matmul-nbits.js';
import { keepsRange } from '../core/quant/qdq.js';
import { deployedOptions, dequantizeWeights, quantizeWeights } from '../core/quant/weights.js';
import { seedOf } from '../core/random.js';
import { type Estimator, type EstimatorContext, errorEnergy, type Site } from '../core/sensitivity/estimator.js';
import type { SensitivityDocument } from '../core/sensitivity/table.js';
import type { Clock, Feed, Progress, Runtime, Session } from '../ports.js';
import { isClassifier } from './quality.js';
import type { SampleReader } from './samples.js';

/** Activation ranges by bit-width, then tensor. */
export type RangesByBits = Readonly<Record<string, Readonly<Record<string, Range>>>>;

/** Which tensors are assessed at which bit-widths. */
export interface AssessRequest {
  /** Precisions each operator may get. */
  readonly precisionsOf: (operatorIndex: number) => readonly Precision[];
  readonly samples: number;
  /** Activations need fewer: there are more of them, and their errors are larger and alike from sample to sample. */
  readonly activationSamples: number;
  readonly threads: number;
  /** Activations too, or weights alone (benchmarks of weight rankings). */
  readonly kinds: readonly Site['kind'][];
  readonly variant: ArtifactVariant;
  /** See `deployedOptions`. */
  readonly saturates: boolean;
  /** Weights and biases that were rounded before, as they will be deployed; absent or null: each weight is rounded to nearest. */
  readonly rounded?: (operator: string, bits: number) => RoundedProduct | null;
  /** By which biases are corrected, in artifacts that correct them for weights of every width; null: they stay. */
  readonly channelMeans: ChannelMeans | null;
}

/**
 * Samples worth running. Weights: 32 for small models, 16 and 4 where a pass is long. Activations: at most 16; with 8, plans of a
 * small keyword model were ranked clearly worse. Estimators may do with fewer.
 */
export function defaultSampleCounts(macs: number): { weights: number; activations: number } {
  if (macs <= 60e6) return { weights: 32, activations: 16 };
  return macs <= 450e6 ? { weights: 16, activations: 8 } : { weights: 4, activations: 4 };
}

/**
 * Estimates the sensitivity of every tensor that a plan may quantize. The model is walked operator by operator: the activations
 * live at an operator are kept for each sample, and a probe runs only the rest of the model from there, in a session whose weight
 * under test is an input, and its bias where that is corrected. Everything in front of it is never computed twice.
 */
export async function assess(
  prepared: PreparedModel,
  samples: SampleReader,
  ranges: RangesByBits,
  estimator: Estimator,
  request: AssessRequest,
  ports: { runtime: Runtime; clock: Clock },
  signal: AbortSignal,
  progress: Progress,
): Promise<SensitivityDocument> {
  const started = ports.clock.nanoseconds();
  const count = Math.min(samples.count, request.samples, estimator.samplesMost ?? Number.POSITIVE_INFINITY);
  const walk = new Walk(prepared, count, request, ports.runtime);
  await walk.start(samples, signal);
  const weights: Record<string, Record<string, number>> = {};
  const activations: Record<string, Record<string, number>> = {};
  try {
    for (const [index, operator] of prepared.operators.entries()) {
      signal.throwIfAborted();
      progress(index / prepared.operators.length, `assessing ${operator.name}`);
      await walk.moveTo(index);
      const precisions = request.precisionsOf(index);
      const weight = request.kinds.includes('weight') ? walk.weightSite() : null;
      const weightBits = [...new Set(precisions.filter((p) => p.weightBits < 32).map((p) => p.weightBits))];
      if (weight !== null && weightBits.length > 0) {
        const estimate = await estimator.estimate(weight, walk.context(weightBits, walk.samples));
        weights[operator.name] = {
          ...Object.fromEntries(estimate),
          ...blockwiseColumn(prepared, index, precisions, weight, estimate),
        };
      }
      if (!request.kinds.includes('activation')) continue;
      for (const tensor of walk.newTensors()) {
        const bits = activationBits(prepared, request, tensor);
        if (bits.length === 0) continue;
        const site = walk.activationSite(tensor, ranges);
        activations[tensor] = Object.fromEntries(
          await estimator.estimate(site, walk.context(bits, Math.min(walk.samples, request.activationSamples))),
        );
      }
    }
  } finally {
    await walk.close();
  }
  return {
    estimator: estimator.name,
    samples: walk.samples,
    forwards: walk.forwards,
    seconds: Number(ports.clock.nanoseconds() - started) / 1e9,
    weights,
    activations,
  };
}

/** Bit-widths below float that any reader or the writer of a tensor may want of it. */
function activationBits(prepared: PreparedModel, request: AssessRequest, tensor: string): number[] {
  const bits = new Set<number>();
  prepared.operators.forEach((operator, index) => {
    const reads = operator.inputs.includes(tensor);
    const writes = operator.outputs.includes(tensor) && !keepsRange(operator);
    if (!reads && !writes) return;
    for (const precision of request.precisionsOf(index))
      if (precision.activationBits < 32) bits.add(precision.activationBits);
  });
  return [...bits];
}

/** Block-wise weights have another error than per-channel ones of the same width: scaled by energy. */
function blockwiseColumn(
  prepared: PreparedModel,
  index: number,
  precisions: readonly Precision[],
  site: Site,
  estimate: ReadonlyMap<number, number>,
): Record<string, number> {
  const operator = prepared.operators[index]!;
  if (!precisions.some((p) => p.weightBits === 4 && p.activationBits === 32)) return {};
  const perChannel = errorEnergy(site.values(0), site.quantized(4, 0));
  const blockwise = quantizeBlockwise(operator, prepared.model.graph.initializers.get(site.name)!).errorEnergy;
  const measured = estimate.get(4) ?? 0;
  return { '4b': perChannel > 0 ? (measured * blockwise) / perChannel : 0 };
}

/** The walk over the operators, with what is live at the current one for every sample. */
class Walk {
  readonly samples: number;
  /** In units of whole-model passes over all samples. */
  forwards = 0;
  readonly #prepared: PreparedModel;
  readonly #threads: number;
  readonly #variant: ArtifactVariant;
  readonly #saturates: boolean;
  readonly #rounded: AssessRequest['rounded'];
  readonly #channelMeans: ChannelMeans | null;
  readonly #runtime: Runtime;
  readonly #outputs: readonly string[];
  readonly #offsets: readonly number[];
  readonly #lastUse = new Map<string, number>();
  #live: Map<string, Feed>[] = [];
  #references: Float32Array[] = [];
  #position = 0;
  #new: string[] = [];
  #suffix: Session | null = null;
  #suffixShare = 0;
  #local: Session | null = null;
  /** See `#keptWeight`: of the current operator, once asked for. */
  #kept: readonly [string, Feed][] | null = null;

  constructor(
    prepared: PreparedModel,
    samples: number,
    options: Pick<AssessRequest, 'threads' | 'variant' | 'saturates' | 'channelMeans' | 'rounded'>,
    runtime: Runtime,
  ) {
    this.#prepared = prepared;
    this.samples = samples;
    this.#threads = options.threads;
    this.#variant = options.variant;
    this.#saturates = options.saturates;
    this.#rounded = options.rounded;
    this.#channelMeans = options.channelMeans;
    this.#runtime = runtime;
    const outputs = prepared.model.graph.outputs
      .map((output) => output.name)
      .filter((name) => prepared.floatTensors.has(name));
    this.#outputs = isClassifier(prepared) || outputs.length === 0 ? [prepared.logits] : outputs;
    const offsets = [0];
    for (const operator of prepared.operators) offsets.push(offsets[offsets.length - 1]! + operator.nodes.length);
    this.#offsets = offsets;
    prepared.operators.forEach((operator, index) => {
      for (const name of operator.inputs) this.#lastUse.set(name, index);
    });
    for (const name of this.#outputs) this.#lastUse.set(name, Number.POSITIVE_INFINITY);
  }

  async start(samples: SampleReader, signal: AbortSignal): Promise<void> {
    const input = this.#prepared.card.input.name;
    const whole = await this.#open(0, this.#prepared.operators.length, this.#outputs);
    try {
      for (let sample = 0; sample < this.samples; sample++) {
        signal.throwIfAborted();
        const feed = { dims: this.#prepared.inputDims, data: await samples.read(sample) };
        this.#live.push(new Map([[input, feed]]));
        this.#references.push(concatenate(await whole.run(new Map([[input, feed]]), this.#outputs), this.#outputs));
      }
    } finally {
      await whole.close();
    }
    this.forwards += 1;
    this.#new = [input];
  }

  /** Makes `index` the current operator. Only forwards, one or more operators at a time. */
  async moveTo(index: number): Promise<void> {
    if (index === this.#position) return;
    await this.#closeSessions();
    const produced = this.#prepared.operators.slice(this.#position, index).flatMap((operator) => operator.outputs);
    const kept = produced.filter((name) => (this.#lastUse.get(name) ?? -1) >= index);
    if (kept.length > 0) {
      // An operator or two: starting and ending threads costs more than they save.
      const session = await this.#open(this.#position, index, kept, { threads: 1 });
      try {
        for (const live of this.#live) {
          for (const [name, feed] of await session.run(select(live, session.inputNames), kept)) live.set(name, feed);
        }
      } finally {
        await session.close();
      }
    }
    for (const live of this.#live) {
      for (const name of live.keys()) if ((this.#lastUse.get(name) ?? -1) < index) live.delete(name);
    }
    this.#new = kept;
    this.#position = index;
  }

  /** Activation tensors that became live with the last move. */
  newTensors(): readonly string[] {
    return this.#new;
  }

  /** The current operator's weight as a site, or null. */
  weightSite(): Site | null {
    const operator = this.#prepared.operators[this.#position]!;
    if (operator.weight === null) return null;
    const { name, channelAxis } = operator.weight;
    const tensor = this.#prepared.model.graph.initializers.get(name)!;
    const values = readFloats(tensor);
    const cache = new Map<number, Float32Array>();
    const quantized = (bits: number) => {
      let result = cache.get(bits);
      if (result === undefined) {
        const codes =
          this.#rounded?.(operator.name, bits)?.weights ??
          quantizeWeights(
            values,
            tensor.dims,
            channelAxis,
            bits,
            deployedOptions(operator, tensor.dims, bits, this.#saturates),
          );
        result = dequantizeWeights(codes, tensor.dims, channelAxis);
        cache.set(bits, result);
      }
      return result;
    };
    const biases = new Map<number | null, readonly [string, Feed][]>();
    const override = (data: Float32Array): [string, Feed][] => {
      // What was handed out as quantized is deployed with a bias that makes up for it.
      const bits = [...cache].find(([, rounded]) => rounded === data)?.[0] ?? null;
      if (!biases.has(bits)) biases.set(bits, this.#biasFeed(operator, bits));
      return [[ownWeight(operator), { dims: tensor.dims, data }], ...biases.get(bits)!];
    };
    return {
      kind: 'weight',
      name,
      seed: seedOf(name),
      values: () => values,
      quantized,
      forward: (sample, data) => this.#forward(sample, override(data), true),
      local: (sample, data) => this.#runLocal(sample, override(data)),
    };
  }

  /** A live activation tensor as a site. */
  activationSite(name: string, ranges: RangesByBits): Site {
    const dims = this.#prepared.shapes.get(name)!;
    const values = (sample: number) => this.#live[sample]!.get(name)!.data as Float32Array;
    return {
      kind: 'activation',
      name,
      seed: seedOf(name),
      values,
      quantized: (bits, sample) => fakeQuantize(values(sample), this.#affineAt(ranges, bits, name)),
      forward: (sample, data) => this.#forward(sample, [[name, { dims, data }]], false),
      local: async (_sample, data) => data,
    };
  }

  #affineAt(ranges: RangesByBits, bits: number, tensor: string): Affine {
    return activationAffine(this.#variant, rangeAt(ranges, bits, tensor), bits);
  }

  context(bits: readonly number[], samples: number): EstimatorContext {
    const isSoftmax = isClassifier(this.#prepared);
    return {
      samples,
      bits,
      divergence: (sample, output, temperature) =>
        isSoftmax
          ? klDivergence(this.#references[sample]!, output, temperature)
          : normalizedSquaredDistance(this.#references[sample]!, output),
      squaredError: (sample, output) =>
        (isSoftmax ? logitVariance : normalizedSquaredDistance)(this.#references[sample]!, output),
      topProbability: (temperature) => (isSoftmax ? meanTopProbability(this.#references, temperature) : 0),
    };
  }

  async close(): Promise<void> {
    await this.#closeSessions();
  }

  async #forward(sample: number, replaced: readonly [string, Feed][], hasWeight: boolean): Promise<Float32Array> {
    const live = new Map([...this.#live[sample]!, ...replaced]);
    const inside = this.#outputs.filter((name) => !live.has(name));
    if (inside.length === 0) return concatenate(live, this.#outputs);
    if (this.#suffix === null) {
      const operator = this.#prepared.operators[this.#position]!;
      this.#suffix = await this.#open(this.#position, this.#prepared.operators.length, inside, { tested: operator });
      const rest = this.#prepared.operators.slice(this.#position).reduce((sum, item) => sum + item.macs, 0);
      this.#suffixShare = this.#prepared.macs > 0 ? rest / this.#prepared.macs : 1;
    }
    this.forwards += this.#suffixShare / this.samples;
    this.#kept ??= this.#keptWeight();
    if (!hasWeight) for (const [name, feed] of this.#kept) live.set(name, feed);
    const results = await this.#suffix.run(select(live, this.#suffix.inputNames), inside);
    return concatenate(new Map([...live, ...results]), this.#outputs);
  }

  async #runLocal(sample: number, replaced: readonly [string, Feed][]): Promise<Float32Array> {
    const operator = this.#prepared.operators[this.#position]!;
    this.#local ??= await this.#open(this.#position, this.#position + 1, operator.outputs, { tested: operator });
    this.forwards += operator.macs / Math.max(1, this.#prepared.macs) / this.samples;
    const live = new Map([...this.#live[sample]!, ...replaced]);
    return concatenate(await this.#local.run(select(live, this.#local.inputNames)), operator.outputs);
  }

  /** The bias that is deployed with weights of so many bits (null: with float weights), where it is an input of the session. */
  #biasFeed(operator: Operator, bits: number | null): [string, Feed][] {
    const means = this.#channelMeans;
    if ((means === null && this.#rounded === undefined) || !hasOwnBias(operator)) return [];
    const feed = (data: Float32Array): [string, Feed][] => [[ownBias(operator), { dims: [data.length], data }]];
    const rounded = bits === null ? null : (this.#rounded?.(operator.name, bits) ?? null);
    if (rounded !== null) return feed(Float32Array.from(rounded.bias));
    const data = floatBias(this.#prepared.model, operator);
    const correction =
      bits === null || means === null ? null : biasCorrection(this.#prepared, operator, bits, means, this.#saturates);
    correction?.forEach((value, channel) => {
      data[channel]! += value;
    });
    return feed(data);
  }

  /** A weight that is not under test is still an input of the session. */
  #keptWeight(): readonly [string, Feed][] {
    const operator = this.#prepared.operators[this.#position]!;
    if (operator.weight === null) return [];
    const tensor = this.#prepared.model.graph.initializers.get(operator.weight.name)!;
    return [[ownWeight(operator), { dims: tensor.dims, data: readFloats(tensor) }], ...this.#biasFeed(operator, null)];
  }

  /** Operators `from` to `to`, the latter not included; the weight of the operator under test is an input, its bias may be. */
  async #open(
    from: number,
    to: number,
    outputs: readonly string[],
    { tested = null, threads = this.#threads }: { tested?: Operator | null; threads?: number } = {},
  ): Promise<Session> {
    const { model, shapes } = this.#prepared;
    const isFed = tested !== null && tested.weight !== null;
    const biases = isFed ? this.#biasFeed(tested, null).map(([name]) => name) : [];
    const part = slice(
      isFed ? withOwnConstants(model, tested, biases.length > 0) : model,
      { from: this.#offsets[from]!, to: this.#offsets[to]! },
      { outputs: [...outputs], fed: isFed ? [ownWeight(tested), ...biases] : [], shapes },
    );
    return this.#runtime.open(encode(part), { threads });
  }

  async #closeSessions(): Promise<void> {
    await this.#suffix?.close();
    await this.#local?.close();
    this.#suffix = null;
    this.#local = null;
    this.#kept = null;
  }
}

/** Name under which the weight of the operator under test is fed. */
function ownWeight(operator: Operator): string {
  return `${operator.weight!.name} of ${operator.name}`;
}

/** Likewise its bias. */
function ownBias(operator: Operator): string {
  return `bias of ${operator.name}`;
}

/** Whether a bias can be fed to an operator: also to one that has none. That of a MatMul is another node's. */
function hasOwnBias({ op }: Operator): boolean {
  return op === 'Conv' || op === 'Gemm';
}

/** A copy of the operator's float bias, one value for each output channel; zeros where it has none. */
function floatBias({ graph }: Model, { weight, bias }: Operator): Float32Array {
  return bias === null
    ? new Float32Array(graph.initializers.get(weight!.name)!.dims[weight!.channelAxis]!)
    : readFloats(graph.initializers.get(bias)!).slice();
}

/**
 * The model with the operator's weight, and its bias where asked for, under names of their own: what else reads the initializers is
 * not under test.
 */
function withOwnConstants(model: Model, operator: Operator, hasBias: boolean): Model {
  const { name } = operator.weight!;
  const [weight, bias] = [ownWeight(operator), ownBias(operator)];
  const [first] = operator.nodes;
  const inputsOf = ([input, , ...rest]: readonly string[]) => [input!, weight, ...(hasBias ? [bias] : rest)];
  const nodes = model.graph.nodes.map((node) => (node === first ? { ...node, inputs: inputsOf(node.inputs) } : node));
  const initializers = new Map(model.graph.initializers);
  initializers.set(weight, { ...initializers.get(name)!, name: weight });
  if (hasBias) {
    const values = floatBias(model, operator);
    initializers.set(bias, makeTensor(bias, 'float32', [values.length], values));
  }
  return { ...model, graph: { ...model.graph, nodes, initializers } };
}

function select(live: ReadonlyMap<string, Feed>, names: readonly string[]): Map<string, Feed> {
  const feeds = new Map<string, Feed>();
  for (const name of names) {
    const feed = live.get(name);
    if (feed !== undefined) feeds.set(name, feed);
  }
  return feeds;
}

function concatenate(values: ReadonlyMap<string, Feed>, names: readonly string[]): Float32Array {
  if (names.length === 1) return values.get(names[0]!)!.data as Float32Array;
  const parts = names.map((name) => values.get(name)!.data as Float32Array);
  const result = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    result.set(part, offset);
    offset += part.length;
  }
  return result;
}

function rangeAt(ranges: RangesByBits, bits: number, tensor: string): Range {
  return ranges[bits]?.[tensor] ?? ranges['8']?.[tensor] ?? { minimum: 0, maximum: 0 };
}

function meanTopProbability(outputs: readonly Float32Array[], temperature: number): number {
  let sum = 0;
  for (const output of outputs) {
    const logProbabilities = logSoftmax(output, temperature);
    sum += Math.exp(logProbabilities.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY));
  }
  return sum / Math.max(1, outputs.length);
}
