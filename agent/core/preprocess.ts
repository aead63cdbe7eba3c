import type { ModelCard, Preprocess } from '../../configs/contracts/card.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Model, Shapes } from './onnx/model.js';

/** Stored values of one sample, in the order of a file: rows, columns, channels; or a plain vector. */
export interface RawSample {
  readonly dims: readonly number[];
  readonly values: ArrayLike<number>;
}

/** The card a model gets when none is given: its first input as declared, values used as they are. */
export function inferCard(model: Model): ModelCard {
  const input = model.graph.inputs.find((candidate) => !model.graph.initializers.has(candidate.name));
  if (input === undefined || input.shape === null) {
    throw new EdgeError('model/unsupported', 'the model declares no input with a shape', { subject: model.graph.name });
  }
  const shape = input.shape.map((dim) => (typeof dim === 'number' && dim > 0 ? dim : null));
  const isColour = (dim: number | null | undefined) => dim === 1 || dim === 3 || dim === 4;
  const isChannelsLast = shape.length === 4 && isColour(shape[3]) && !isColour(shape[1]);
  const plain = ['N', 'NC', 'NCW', 'NCHW', 'NCDHW'][shape.length - 1] ?? 'NC'.padEnd(shape.length, 'W');
  const layout = isChannelsLast ? 'NHWC' : plain;
  return { input: { name: input.name, layout, shape }, preprocess: {}, task: 'other' };
}

/** Input dimensions for one sample: the card's where it gives them, else the graph's; an open batch is 1. */
export function inputDims(card: ModelCard, shapes: Shapes): number[] {
  const inferred = shapes.get(card.input.name);
  return card.input.shape.map((dim, axis) => dim ?? inferred?.[axis] ?? 1);
}

/**
 * One sample as the model's input tensor (batch 1). Images lie as rows x columns x channels and are cropped from the middle where
 * they are larger than `crop`; other arrays must have as many values as the input, in its order.
 */
export function preprocess(card: ModelCard, dims: readonly number[], sample: RawSample): Float32Array {
  const { layout } = card.input;
  const axis = (letter: string) => layout.indexOf(letter);
  // A sample that lies exactly as the input does is taken as it lies.
  const isAsInput = sample.dims.join() === dims.slice(1).join() && layout !== 'NHWC';
  const isImage =
    axis('H') >= 0 && axis('W') >= 0 && sample.dims.length >= 2 && !(isAsInput && sample.dims.length === 3);
  const result = new Float32Array(dims.reduce((a, b) => a * b, 1));
  if (!isImage) return fillVector(card, dims, result, sample);
  const height = dims[axis('H')]!;
  const width = dims[axis('W')]!;
  const channels = axis('C') >= 0 ? dims[axis('C')]! : 1;
  const [rows, columns, depth] = [sample.dims[0]!, sample.dims[1]!, sample.dims[2] ?? 1];
  const top = card.preprocess.crop === undefined ? 0 : (rows - height) >> 1;
  const left = card.preprocess.crop === undefined ? 0 : (columns - width) >> 1;
  if (depth !== channels || top < 0 || left < 0 || rows < height || columns < width) throw mismatch(sample, dims);
  if (card.preprocess.crop === undefined && (rows !== height || columns !== width)) throw mismatch(sample, dims);
  const strides = stridesOf(dims);
  const [rowStride, columnStride, channelStride] = [
    strides[axis('H')]!,
    strides[axis('W')]!,
    axis('C') >= 0 ? strides[axis('C')]! : 0,
  ];
  const isReversed = card.preprocess.channels === 'BGR';
  for (let channel = 0; channel < channels; channel++) {
    const source = isReversed ? channels - 1 - channel : channel;
    const { factor, offset } = affineOf(card.preprocess, channel);
    for (let row = 0; row < height; row++) {
      let from = ((row + top) * columns + left) * depth + source;
      let to = row * rowStride + channel * channelStride;
      for (let column = 0; column < width; column++) {
        result[to] = sample.values[from]! * factor + offset;
        from += depth;
        to += columnStride;
      }
    }
  }
  return result;
}

/** A sample whose values lie in the order of the input. */
function fillVector(card: ModelCard, dims: readonly number[], result: Float32Array, sample: RawSample): Float32Array {
  if (sample.values.length !== result.length) throw mismatch(sample, [result.length]);
  const channelAxis = card.input.layout.indexOf('C');
  const channels = channelAxis < 0 ? 1 : dims[channelAxis]!;
  const stride = channelAxis < 0 ? result.length : stridesOf(dims)[channelAxis]!;
  for (let start = 0; start < result.length; start += stride) {
    const { factor, offset } = affineOf(card.preprocess, (start / stride) % channels);
    for (let i = start; i < start + stride; i++) result[i] = sample.values[i]! * factor + offset;
  }
  return result;
}

/** ((v - zeroPoint) * scale - mean) / std as v * factor + offset. */
function affineOf(
  { scale = 1, zeroPoint = 0, mean = [0], std = [1] }: Preprocess,
  channel: number,
): { factor: number; offset: number } {
  const deviation = std[channel] ?? std[0]!;
  const factor = scale / deviation;
  return { factor, offset: (-zeroPoint * scale - (mean[channel] ?? mean[0]!)) / deviation };
}

function stridesOf(dims: readonly number[]): number[] {
  const strides = new Array<number>(dims.length).fill(1);
  for (let axis = dims.length - 2; axis >= 0; axis--) strides[axis] = strides[axis + 1]! * dims[axis + 1]!;
  return strides;
}

function mismatch(sample: RawSample, dims: readonly number[]): EdgeError {
  return new EdgeError(
    'samples/mismatch',
    `a sample of ${sample.dims.join(' x ')} does not fit the model input ${dims.join(' x ')}`,
    {
      subject: sample.dims.join('x'),
    },
  );
}
