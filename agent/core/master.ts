/**
 * The master of a model: all of it but its float weights, which are there at 8 bits. With the weights of every width and the results of
 * what was calibrated and estimated in the store, a plan for another budget needs nothing else; the float model may be gone.
 */
import type { ModelCard } from '../../configs/contracts/card.js';
import { decode, encode } from './onnx/codec.js';
import type { Model, Tensor } from './onnx/model.js';
import { makeTensor, readFloats } from './onnx/tensor.js';
import { type PreparedModel, prepare } from './prepare.js';
import { dequantizeWeights, quantizeWeights } from './quant/weights.js';

/** A master as it is stored. */
export interface Master {
  readonly card: ModelCard;
  readonly hasCard: boolean;
  /** The folded model as ONNX; weights of products are codes of 8 bits, which nothing in the graph says. */
  readonly model: Uint8Array;
  /** Of those weights, by initializer: the axis of the output channels, and a scale for each. */
  readonly scales: Readonly<Record<string, { readonly axis: number; readonly scales: Float32Array }>>;
}

/** Thrown where a job that has only the master of a model turns out to need the model itself. It never leaves the job. */
export class FloatModelNeeded extends Error {
  constructor(step: string) {
    super(`${step} needs the float model`);
  }
}

/** The master of a float model. */
export function masterOf({ card, hasCard, model, operators }: PreparedModel): Master {
  const initializers = new Map(model.graph.initializers);
  const scales: Record<string, Master['scales'][string]> = {};
  for (const { weight } of operators) {
    const tensor = weight === null ? undefined : initializers.get(weight.name);
    if (weight === null || tensor === undefined || tensor.type !== 'float32') continue;
    const axis = weight.channelAxis;
    const quantized = quantizeWeights(readFloats(tensor), tensor.dims, axis, 8, { clip: 'absmax' });
    initializers.set(weight.name, makeTensor(weight.name, 'int8', tensor.dims, quantized.codes));
    scales[weight.name] = { axis, scales: quantized.scales };
  }
  return { card, hasCard, model: encode(withInitializers(model, initializers)), scales };
}

/**
 * The model of a master, in the shape of the one that it was made of: the same operators, tensors and keys. Its weights are the float ones
 * rounded to 8 bits: to be run for their time, not for what they answer.
 */
export function preparedFrom({ card, hasCard, model, scales }: Master): PreparedModel {
  const coded = decode(model);
  const initializers = new Map(coded.graph.initializers);
  for (const [name, of] of Object.entries(scales)) {
    const tensor = initializers.get(name)!;
    const weights = { bits: 8, codes: codesOf(tensor), scales: of.scales };
    const floats = dequantizeWeights(weights, tensor.dims, of.axis);
    initializers.set(name, makeTensor(name, 'float32', tensor.dims, floats));
  }
  return { ...prepare(withInitializers(coded, initializers), card), hasCard };
}

function codesOf({ bytes }: Tensor): Int8Array {
  return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
}

function withInitializers(model: Model, initializers: ReadonlyMap<string, Tensor>): Model {
  return { ...model, graph: { ...model.graph, initializers } };
}
