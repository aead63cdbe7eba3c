import type { Precision, Range } from '../../configs/contracts/plan.js';
import { energies } from '../core/divergence.js';
import { activationBits, floatTail } from '../core/image/build.js';
import { type ProductShape, productShape } from '../core/image/product-shape.js';
import { leastScales, type RoundedProduct } from '../core/image/products.js';
import { encode } from '../core/onnx/codec.js';
import type { Model, Node, Operator, Tensor } from '../core/onnx/model.js';
import { slice } from '../core/onnx/slice.js';
import { makeTensor, readFloats } from '../core/onnx/tensor.js';
import type { PreparedModel } from '../core/prepare.js';
import { type Affine, roundHalfEven, unsignedAffine } from '../core/quant/affine.js';
import { type ChannelsOf, guardedCorrections, type OutputPair } from '../core/quant/guarded-bias.js';
import { type ChannelWeights, Observer, type RangeRule } from '../core/quant/observer.js';
import { type Grids, onCodes, productAlone } from '../core/quant/on-codes.js';
import { keepsRange } from '../core/quant/qdq.js';
import { usefulRange, withHeadroom } from '../core/quant/ranges.js';
import { deployedOptions, dequantizeWeights, type QuantizedWeights, quantizeWeights } from '../core/quant/weights.js';
import type { Feed, Progress, Rounder, Runtime, Session } from '../ports.js';
import { readAhead, type SampleReader, withMirrored } from './samples.js';
import type { QuantizationRecipe } from './tune.js';

/** Weights and bias of every operator that has weights, and the range of every tensor of codes, of a model at given precisions. */
export interface Refinement {
  readonly samples: number;
  readonly operators: Readonly<Record<string, RoundedProduct>>;
  readonly ranges: Readonly<Record<string, Range>>;
}

/** A recipe with a plan's own weights, biases and ranges. */
export function refinedRecipe(recipe: QuantizationRecipe, { operators, ranges }: Refinement): QuantizationRecipe {
  const own = { ...Object.fromEntries(recipe.ranges), ...ranges };
  return {
    ...recipe,
    ranges: new Map(Object.entries(own)),
    // A plan has every tensor at one width.
    rangesByBits: Object.fromEntries(Object.keys(recipe.rangesByBits).map((bits) => [bits, own])),
    rounded: (operator) => operators[operator] ?? null,
  };
}

/** The passes; each can be left out, to see what it is worth. */
export interface RefineOptions {
  /** Rule for ranges of 8-bit activations; of fewer bits they are of least squared error. */
  readonly rule: RangeRule;
  /** Layer-wise rounding; otherwise each weight to nearest. */
  readonly rounds: boolean;
  /** Aim at the float model's output from what the quantized model really gives the operator. */
  readonly aims: boolean;
  readonly correctsBiases: boolean;
  readonly saturates: boolean;
  readonly threads: number;
  /** Samples at most; fewer where they do not fit. */
  readonly samplesMost: number;
}

/** Bytes of activations that are held: both models', of all samples, at the widest place. */
const heldBytes = 640 * 2 ** 20;
/** Bytes of outputs, in float, from which a bias and a range are found. */
const observedBytes = 32 * 2 ** 20;
/** Multiples of the scale of least squared error that are tried. */
const scaleFactors = Float32Array.of(0.8, 0.87, 0.94, 1, 1.07, 1.15);
/**
 * Shares of the mean moment that stand for what the samples do not show. On nine models these were as good as any: less costs a large model
 * with a hundred samples half again of its divergence (0.178 instead of 0.108 on MobileNetV2), and gains nothing on small ones.
 */
const damping = 0.05;
const targetDamping = 0.5;
/**
 * From so many bits on, rounding to nearest does little harm, and aiming may do more than it mends: which is better shows on samples that
 * it was not aimed with.
 */
export const judgedFromBits = 7;
/** So few pictures are mirrored: twice as many take a tenth off the divergence (MobileNetV1, 32); a hundred are enough as they are. */
const mirroredBelow = 64;
const judgingSamplesMost = 16;
/** What one layer gains a little, the model may lose: MobileNetV2 does, whose 8-bit weights are exact. */
const mustImproveTo = 0.8;
/** Largest operand of layer-wise rounding; its matrices of moments take 28 bytes times its square. */
const innerMost = 4096;

const nothing = new Float32Array(0);
const noCodes = new Uint8Array(0);

/** One tensor in both models, for every sample. */
interface Streams {
  readonly dims: readonly number[];
  readonly affine: Affine;
  readonly float: Float32Array[];
  readonly codes: Uint8Array[];
}

/**
 * Quantizes a model layer by layer, each with what the layers in front of it really give it. Two models run side by side over the
 * samples, operator by operator: the float one, and the one that is becoming quantized, whose activations are codes. Weights are
 * rounded to bring the second's output nearest to the first's, the bias takes what is left of the means, and the range of the output is
 * found on the quantized model's own values.
 *
 * Memory: the activations at the widest place of the model, for as many samples as fit 640 MiB, and seven matrices of the largest
 * operand's moments.
 */
export async function refine(
  prepared: PreparedModel,
  precisions: ReadonlyMap<string, Precision>,
  samples: SampleReader,
  inputRange: Range,
  options: RefineOptions,
  ports: { readonly runtime: Runtime; readonly rounder: Rounder },
  signal: AbortSignal,
  progress: Progress,
): Promise<Refinement> {
  const walk = new Walk(prepared, precisions, options, ports, signal);
  const all = samples.count < mirroredBelow ? withMirrored(samples, prepared) : samples;
  await walk.start(all, inputRange, all.count > samples.count);
  for (const [index, operator] of prepared.operators.entries()) {
    signal.throwIfAborted();
    progress(index / prepared.operators.length, `rounding ${operator.name}`);
    await walk.step(operator, index);
  }
  return walk.result();
}

/** The walk over the operators, with what is live at the current one in both models. */
class Walk {
  readonly #prepared: PreparedModel;
  readonly #precisions: ReadonlyMap<string, Precision>;
  readonly #options: RefineOptions;
  readonly #ports: { readonly runtime: Runtime; readonly rounder: Rounder };
  readonly #bits: ReadonlyMap<string, number>;
  readonly #tail: ReadonlySet<Operator>;
  readonly #lastUse = new Map<string, number>();
  readonly #streams = new Map<string, Streams>();
  readonly #operators = new Map<string, RoundedProduct>();
  readonly #ranges = new Map<string, Range>();
  readonly #signal: AbortSignal;
  #source: SampleReader['source'] = 'samples';
  #samples = 0;
  #isMirrored = false;
  #index = 0;

  constructor(
    prepared: PreparedModel,
    precisions: ReadonlyMap<string, Precision>,
    options: RefineOptions,
    ports: { readonly runtime: Runtime; readonly rounder: Rounder },
    signal: AbortSignal,
  ) {
    this.#signal = signal;
    this.#prepared = prepared;
    this.#precisions = precisions;
    this.#options = options;
    this.#ports = ports;
    this.#bits = activationBits(prepared, precisions);
    this.#tail = floatTail(prepared);
    prepared.operators.forEach((operator, index) => {
      if (!this.#tail.has(operator)) for (const name of operator.inputs) this.#lastUse.set(name, index);
    });
  }

  /** @param isMirrored the samples end with the mirror images of the first ones */
  async start(samples: SampleReader, range: Range, isMirrored: boolean): Promise<void> {
    this.#isMirrored = isMirrored;
    const { card, inputDims } = this.#prepared;
    const name = card.input.name;
    this.#source = samples.source;
    const affine = unsignedAffine(range, 8);
    this.#samples = Math.max(
      1,
      Math.min(samples.count, this.#options.samplesMost, Math.floor(heldBytes / this.#widestBytes())),
    );
    this.#ranges.set(name, range);
    const streams: Streams = { dims: inputDims, affine, float: [], codes: [] };
    for await (const data of readAhead(samples, this.#samples)) {
      streams.float.push(data);
      streams.codes.push(codesOf(data, affine));
    }
    this.#streams.set(name, streams);
  }

  result(): Refinement {
    const [operators, ranges] = [Object.fromEntries(this.#operators), Object.fromEntries(this.#ranges)];
    return { samples: this.#samples, operators, ranges };
  }

  async step(operator: Operator, index: number): Promise<void> {
    if (this.#tail.has(operator)) return;
    this.#index = index;
    if (operator.weight !== null) await this.#product(operator);
    else await this.#other(operator);
    for (const name of operator.inputs) if (this.#lastUse.get(name) === index) this.#streams.delete(name);
  }

  /** Bytes of both models' activations for one sample where they are the most. */
  #widestBytes(): number {
    const { operators, shapes, card } = this.#prepared;
    const bytes = (name: string) => 5 * (shapes.get(name) ?? []).reduce((a, b) => a * b, 1);
    let live = bytes(card.input.name);
    let widest = live;
    operators.forEach((operator, index) => {
      const kept = operator.outputs.filter((name) => this.#lastUse.has(name));
      live += kept.reduce((sum, name) => sum + bytes(name), 0);
      // Inputs go sample by sample, as outputs come.
      for (const name of operator.inputs) if (this.#lastUse.get(name) === index) live -= bytes(name);
      widest = Math.max(widest, live);
    });
    return widest;
  }

  /** An operator with a weight: rounded, its bias corrected, its output's range found. */
  async #product(operator: Operator): Promise<void> {
    const { model, shapes } = this.#prepared;
    const bits = this.#precisions.get(operator.name)?.weightBits ?? 8;
    const weight = model.graph.initializers.get(operator.weight!.name)!;
    const { channelAxis } = operator.weight!;
    const bias = biasOf(this.#prepared, operator, weight.dims[channelAxis]!);
    const output = operator.outputs[0]!;
    const dims = shapes.get(output)!;
    const inner = operator.op === 'Conv' ? count(dims.slice(2)) : 1;
    const layout = { channels: bias.length, inner };
    const weights = await this.#chooseWeights(operator, weight, bits, bias, layout);
    const rounded = asFloats(weights, weight, channelAxis);

    const observed = Math.min(this.#samples, Math.max(1, Math.floor(observedBytes / (8 * count(dims)))));
    const pairs = await this.#pairs(operator, weight, rounded, observed);
    for (const pair of pairs) for (const side of [pair.float, pair.rounded]) addBias(side, bias, layout);
    const corrections = this.#options.correctsBiases
      ? guardedCorrections(pairs, layout, operator.clamp)
      : new Float64Array(bias.length);
    const corrected = bias.map((value, channel) => value + corrections[channel]!);
    this.#operators.set(operator.name, { weights, bias: corrected });
    if (!this.#isRead(output)) return;
    const observer = new Observer();
    const errorWeights = channelWeights(this.#prepared, output);
    for (const pair of pairs) {
      addBias(pair.rounded, corrections, layout);
      clampTo(pair.rounded, operator.clamp);
      observer.add(pair.rounded, errorWeights);
    }
    const affine = this.#chooseRange(output, observer, operator.clamp);
    const part = withConstants(this.#part(operator, [output]), operator, rounded, corrected);
    await this.#run(operator, [output], new Map([[output, affine]]), part);
  }

  /** Outputs of both models' products of an operator, without bias and activation function, for the first samples. */
  async #pairs(operator: Operator, float: Tensor, rounded: Tensor, samples: number): Promise<OutputPair[]> {
    const { model, shapes } = this.#prepared;
    const node = operator.nodes[0]!;
    const name = operator.inputs[0]!;
    const input = this.#streams.get(name)!;
    const alone = (weight: Tensor) => productAlone(model, node, weight, shapes.get(name)!);
    const grids: Grids = { inputs: new Map([[name, input.affine]]), outputs: new Map() };
    const sessions = [await this.#open(alone(float)), await this.#open(onCodes(alone(rounded), grids))] as const;
    const run = async (session: Session, data: Feed['data']) =>
      (await session.run(new Map([[name, { dims: input.dims, data }]]))).get(node.outputs[0]!)!.data as Float32Array;
    try {
      const pairs: OutputPair[] = [];
      for (let sample = 0; sample < samples; sample++) {
        const float = await run(sessions[0], input.float[sample]!);
        pairs.push({ float, rounded: await run(sessions[1], input.codes[sample]!) });
      }
      return pairs;
    } finally {
      for (const session of sessions) await session.close();
    }
  }

  /** An operator without a weight: the same in both models. */
  async #other(operator: Operator): Promise<void> {
    const outputs = operator.outputs.filter((name) => this.#isRead(name));
    if (outputs.length === 0) return;
    const part = this.#part(operator, outputs);
    if (keepsRange(operator)) {
      const input = operator.inputs[0]!;
      for (const name of outputs) this.#ranges.set(name, this.#ranges.get(input)!);
      const { affine } = this.#streams.get(input)!;
      return this.#run(operator, outputs, new Map(outputs.map((name) => [name, affine])), part);
    }
    const observers = new Map(outputs.map((name) => [name, new Observer()]));
    const session = await this.#open(onCodes(part, { inputs: this.#gridsOf(operator), outputs: new Map() }));
    try {
      const size = outputs.reduce((sum, name) => sum + count(this.#prepared.shapes.get(name)!), 0);
      const observed = Math.min(this.#samples, Math.max(1, Math.floor(observedBytes / (4 * size))));
      for (let sample = 0; sample < observed; sample++) {
        const values = await session.run(this.#feeds(operator, ({ codes }) => codes[sample]!));
        for (const name of outputs)
          observers.get(name)!.add(values.get(name)!.data as Float32Array, channelWeights(this.#prepared, name));
      }
    } finally {
      await session.close();
    }
    const affines = outputs.map(
      (name) => [name, this.#chooseRange(name, observers.get(name)!, operator.clamp)] as const,
    );
    await this.#run(operator, outputs, new Map(affines), part);
  }

  /** Takes both models over an operator: the float one as it is, the other as `part` computes it, on codes. */
  async #run(
    operator: Operator,
    outputs: readonly string[],
    affines: ReadonlyMap<string, Affine>,
    part: Model,
  ): Promise<void> {
    const float = await this.#open(this.#part(operator, outputs));
    const rounded = await this.#open(onCodes(part, { inputs: this.#gridsOf(operator), outputs: affines }));
    try {
      for (const name of outputs) {
        const dims = this.#prepared.shapes.get(name)!;
        this.#streams.set(name, { dims, affine: affines.get(name)!, float: [], codes: [] });
      }
      for (let sample = 0; sample < this.#samples; sample++) {
        this.#signal.throwIfAborted();
        const values = await float.run(this.#feeds(operator, (streams) => streams.float[sample]!));
        const codes = await rounded.run(this.#feeds(operator, (streams) => streams.codes[sample]!));
        for (const name of outputs) {
          const streams = this.#streams.get(name)!;
          streams.float.push(values.get(name)!.data as Float32Array);
          streams.codes.push(codes.get(name)!.data as Uint8Array);
        }
        this.#release(operator, sample);
      }
    } finally {
      await float.close();
      await rounded.close();
    }
  }

  /** Lets go of a sample's inputs that nothing reads any more. */
  #release(operator: Operator, sample: number): void {
    for (const name of operator.inputs) {
      if (this.#lastUse.get(name) !== this.#index) continue;
      const streams = this.#streams.get(name)!;
      streams.float[sample] = nothing;
      streams.codes[sample] = noCodes;
    }
  }

  /** The operator as a model of its own. */
  #part(operator: Operator, outputs: readonly string[]): Model {
    const { model, shapes } = this.#prepared;
    const from = model.graph.nodes.indexOf(operator.nodes[0]!);
    return slice(model, { from, to: from + operator.nodes.length }, { outputs, shapes });
  }

  #open(model: Model): Promise<Session> {
    return this.#ports.runtime.open(encode(model), { threads: this.#options.threads });
  }

  #gridsOf(operator: Operator): Map<string, Affine> {
    return new Map(operator.inputs.map((name) => [name, this.#streams.get(name)!.affine]));
  }

  #feeds(operator: Operator, form: (streams: Streams) => Feed['data']): Map<string, Feed> {
    return new Map(
      operator.inputs.map((name) => {
        const streams = this.#streams.get(name)!;
        return [name, { dims: streams.dims, data: form(streams) }];
      }),
    );
  }

  #isRead(tensor: string): boolean {
    return this.#lastUse.has(tensor);
  }

  #chooseRange(name: string, observer: Observer, clamp: Operator['clamp']): Affine {
    const bits = this.#bits.get(name) ?? 8;
    const seen = observer.range(bits === 8 ? this.#options.rule : 'mse', bits);
    const range = usefulRange(
      this.#prepared,
      name,
      this.#source === 'prior' ? withHeadroom(this.#prepared, name, seen) : seen,
    );
    this.#ranges.set(name, range);
    const [low, high] = clamp ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
    return unsignedAffine({ minimum: Math.max(range.minimum, low), maximum: Math.min(range.maximum, high) }, bits);
  }

  /** The operator's weights in so many bits: rounded layer-wise, or to nearest where that cannot be or is better. */
  async #chooseWeights(
    operator: Operator,
    weight: Tensor,
    bits: number,
    bias: Float64Array,
    layout: ChannelsOf,
  ): Promise<QuantizedWeights> {
    const { rounds, saturates } = this.#options;
    const { channelAxis } = operator.weight!;
    const { affine } = this.#streams.get(operator.inputs[0]!)!;
    const least = leastScales(bias, affine.scale);
    const plain = { ...deployedOptions(operator, weight.dims, bits, saturates), leastScales: least };
    const nearest = () => quantizeWeights(readFloats(weight), weight.dims, channelAxis, bits, plain);
    const shape = productShape(this.#prepared, operator);
    const inner = (shape.inChannels / shape.groups) * shape.kernelHeight * shape.kernelWidth;
    const isPossible = shape.batch === 1 && inner <= innerMost && !(plain.pairSafe && bits === 8);
    if (!rounds || !isPossible) return nearest();
    if (bits < judgedFromBits) return this.#layerWise(operator, weight, bits, least, shape, 0);
    const judging = Math.min(judgingSamplesMost, Math.floor(this.#samples / 4));
    if (judging === 0) return nearest();
    const candidates = [nearest(), await this.#layerWise(operator, weight, bits, least, shape, judging)] as const;
    const errors: number[] = [];
    for (const candidate of candidates) {
      const pairs = await this.#pairs(operator, weight, asFloats(candidate, weight, channelAxis), judging);
      for (const pair of pairs) for (const side of [pair.float, pair.rounded]) addBias(side, bias, layout);
      const corrections = guardedCorrections(pairs, layout, operator.clamp);
      let error = 0;
      for (const { float, rounded } of pairs) {
        addBias(rounded, corrections, layout);
        clampTo(float, operator.clamp);
        clampTo(rounded, operator.clamp);
        error += energies(float, rounded).error;
      }
      errors.push(error);
    }
    return errors[1]! < mustImproveTo * errors[0]! ? candidates[1] : candidates[0];
  }

  /** Layer-wise rounding, from the samples from `first` on, and without the mirror images of those before. */
  async #layerWise(
    operator: Operator,
    weight: Tensor,
    bits: number,
    least: Float32Array,
    shape: ProductShape,
    first: number,
  ): Promise<QuantizedWeights> {
    const { channelAxis } = operator.weight!;
    const values = readFloats(weight);
    const input = this.#streams.get(operator.inputs[0]!)!;
    const isConvolution = operator.op === 'Conv';
    const isTransposed = !isConvolution && channelAxis === 1;
    const { inHeight, inWidth, inChannels, outChannels, groups } = shape;
    const end = input.codes.length - (this.#isMirrored ? first : 0);
    const samples = end - first;
    const positions = Math.min(groups > 1 ? 6000 : 24000, samples * shape.outHeight * shape.outWidth);
    const result = await this.#ports.rounder.round(
      {
        window: {
          channelsPerGroup: inChannels / groups,
          inHeight,
          inWidth,
          channelStride: isConvolution ? inHeight * inWidth : 1,
          rowStride: isConvolution ? inWidth : inWidth * inChannels,
          columnStride: isConvolution ? 1 : inChannels,
          outHeight: shape.outHeight,
          outWidth: shape.outWidth,
          kernelHeight: shape.kernelHeight,
          kernelWidth: shape.kernelWidth,
          strideY: shape.strideY,
          strideX: shape.strideX,
          dilationY: shape.dilationY,
          dilationX: shape.dilationX,
          padTop: shape.padTop,
          padLeft: shape.padLeft,
        },
        groups,
        rows: outChannels / groups,
        weights: isTransposed ? transposed(values, inChannels, outChannels) : values,
        codes: input.codes.slice(first, end),
        scale: input.affine.scale,
        zero: input.affine.zeroPoint,
        references: this.#options.aims ? input.float.slice(first, end) : [],
        limit: 2 ** (bits - 1) - 1,
        leastScales: least,
        damping,
        targetDamping,
        factors: scaleFactors,
        sweeps: 2,
        positions,
      },
      this.#options.threads,
    );
    const codes = isTransposed ? transposed(result.codes, outChannels, inChannels) : result.codes;
    return { bits, codes, scales: result.scales };
  }
}

/**
 * How much an error of each channel of a tensor does to the convolutions that read it: the energy of their weights on that channel, relative
 * to all. Null where not only convolutions read it.
 */
function channelWeights({ operators, model, shapes }: PreparedModel, tensor: string): ChannelWeights | null {
  const dims = shapes.get(tensor)!;
  const readers = operators.filter(({ inputs }) => inputs.includes(tensor));
  if (dims.length < 3 || readers.length === 0 || readers.some(({ op, weight }) => op !== 'Conv' || weight === null))
    return null;
  const channels = dims[1]!;
  const values = new Float64Array(channels);
  for (const reader of readers) {
    const weight = model.graph.initializers.get(reader.weight!.name)!;
    const floats = readFloats(weight);
    const [outputs, perGroup] = [weight.dims[0]!, weight.dims[1]!];
    const kernel = count(weight.dims.slice(2));
    const groups = channels / perGroup;
    const own = new Float64Array(channels);
    let total = 0;
    for (let i = 0; i < floats.length; i++) {
      const output = Math.floor(i / (perGroup * kernel));
      const channel = Math.floor(output / (outputs / groups)) * perGroup + (Math.floor(i / kernel) % perGroup);
      own[channel]! += floats[i]! ** 2;
      total += floats[i]! ** 2;
    }
    for (let channel = 0; channel < channels; channel++) values[channel]! += own[channel]! / Math.max(total, 1e-30);
  }
  return { values: values.map((value) => value + 1e-6), inner: count(dims.slice(2)) };
}

/** The tensor that integer weights stand for. */
function asFloats(weights: QuantizedWeights, { name, dims }: Tensor, channelAxis: number): Tensor {
  return makeTensor(name, 'float32', dims, dequantizeWeights(weights, dims, channelAxis));
}

function biasOf({ model }: PreparedModel, operator: Operator, channels: number): Float64Array {
  const floats = operator.bias === null ? null : readFloats(model.graph.initializers.get(operator.bias)!);
  return Float64Array.from({ length: channels }, (_, channel) => floats?.[floats.length === 1 ? 0 : channel] ?? 0);
}

function addBias(values: Float32Array, bias: Float64Array, { channels, inner }: ChannelsOf): void {
  for (let start = 0; start < values.length; start += channels * inner) {
    for (let channel = 0; channel < channels; channel++) {
      const value = bias[channel]!;
      const from = start + channel * inner;
      for (let k = from; k < from + inner; k++) values[k]! += value;
    }
  }
}

function clampTo(values: Float32Array, clamp: readonly [number, number] | null): void {
  if (clamp === null) return;
  const [low, high] = clamp;
  for (let k = 0; k < values.length; k++) {
    const value = values[k]!;
    if (value < low) values[k] = low;
    else if (value > high) values[k] = high;
  }
}

function codesOf(values: Float32Array, { scale, zeroPoint, codeMaximum }: Affine): Uint8Array {
  const codes = new Uint8Array(values.length);
  for (let k = 0; k < values.length; k++) {
    const code = roundHalfEven(values[k]! / scale) + zeroPoint;
    codes[k] = code < 0 ? 0 : code > codeMaximum ? codeMaximum : code;
  }
  return codes;
}

function count(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 1);
}

/** The operator with another weight and bias in place of its own. */
function withConstants(part: Model, operator: Operator, weight: Tensor, bias: Float64Array): Model {
  const { graph } = part;
  const name = `${operator.name} bias`;
  const initializers = new Map(graph.initializers);
  initializers.set(weight.name, weight);
  initializers.set(name, makeTensor(name, 'float32', [bias.length], Float32Array.from(bias)));
  const [first, ...rest] = graph.nodes;
  if (operator.op !== 'MatMul') {
    const product = { ...first!, inputs: [first!.inputs[0]!, first!.inputs[1]!, name] };
    return { ...part, graph: { ...graph, initializers, nodes: [product, ...rest] } };
  }
  const own = operator.bias;
  if (own !== null) {
    const added = rest.map((node) => ({ ...node, inputs: node.inputs.map((input) => (input === own ? name : input)) }));
    return { ...part, graph: { ...graph, initializers, nodes: [first!, ...added] } };
  }
  const output = first!.outputs[0]!;
  const bare = `${output} without bias`;
  const add: Node = { name, op: 'Add', domain: '', inputs: [bare, name], outputs: [output], attributes: new Map() };
  return { ...part, graph: { ...graph, initializers, nodes: [{ ...first!, outputs: [bare] }, add, ...rest] } };
}

/** A matrix of `rows` x `columns` with its axes exchanged. */
function transposed<T extends Float32Array | Int8Array>(values: T, rows: number, columns: number): T {
  const result = values.slice() as T;
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) result[column * rows + row] = values[row * columns + column]!;
  return result;
}
