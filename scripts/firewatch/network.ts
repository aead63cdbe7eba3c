/** The network of the bundled model: its layers in order, its loss, and its state as one array of numbers. */

import {
  type Activation,
  BatchNormalization,
  Convolution,
  Dense,
  Depthwise,
  GlobalAveragePool,
  type Layer,
  type Parameter,
  Pointwise,
  Relu,
  Residual,
} from './layers.js';
import { Random } from './random.js';
import { classNames, tileSize } from './tiles.js';

/** How a pixel value v becomes a network input: `(v * scale - mean) / std`, the same for all channels. */
export const preprocess = { scale: 1 / 255, mean: 0.5, std: 0.25 } as const;

const stemChannels = 16;
/** Depthwise-separable blocks: output channels and stride. Those that keep their shape are residual. */
const blocks: readonly (readonly [outputs: number, stride: number])[] = [
  [32, 2],
  [32, 1],
  [32, 1],
  [64, 2],
  [64, 1],
  [64, 1],
  [128, 2],
  [128, 1],
  [128, 1],
];

export interface Network {
  readonly layers: readonly Layer[];
  readonly parameters: readonly Parameter[];
}

/** A network with random weights (He et al. 2015: variance 2 / fan-in). */
export function newNetwork(seed: number): Network {
  const random = new Random(seed);
  const initial = (fanIn: number): number => random.normal() * Math.sqrt(2 / fanIn);
  const layers: Layer[] = [
    new Convolution(3, stemChannels, 2, initial, true),
    new BatchNormalization(stemChannels),
    new Relu(),
  ];
  let channels = stemChannels;
  for (const [outputs, stride] of blocks) {
    const body = [
      new Depthwise(channels, stride, initial),
      new BatchNormalization(channels),
      new Relu(),
      new Pointwise(channels, outputs, initial),
      new BatchNormalization(outputs),
    ];
    const isResidual = stride === 1 && outputs === channels;
    layers.push(...(isResidual ? [new Residual(body)] : body), new Relu());
    channels = outputs;
  }
  layers.push(new GlobalAveragePool(), new Dense(channels, classNames.length, (fanIn) => initial(fanIn) * 0.5));
  return { layers, parameters: layers.flatMap((layer) => layer.parameters) };
}

/** Logits of a batch, one row per class. In training mode the layers keep what `backward` needs. */
export function forward(network: Network, input: Activation, training: boolean): Activation {
  return network.layers.reduce((x, layer) => layer.forward(x, training), input);
}

/** Adds the gradients of the loss to every parameter's gradient; follows a `forward` in training mode. */
export function backward(network: Network, gradient: Activation): void {
  network.layers.reduceRight((g, layer) => layer.backward(g), gradient);
}

/** A batch of tiles as the network takes them. */
export function toBatch(tiles: readonly { readonly pixels: Uint8Array }[]): Activation {
  const pixels = tileSize * tileSize;
  const data = new Float32Array(3 * tiles.length * pixels);
  tiles.forEach((tile, image) => {
    for (let channel = 0; channel < 3; channel++) {
      const start = (channel * tiles.length + image) * pixels;
      for (let i = 0; i < pixels; i++) {
        data[start + i] = (tile.pixels[i * 3 + channel]! * preprocess.scale - preprocess.mean) / preprocess.std;
      }
    }
  });
  return { data, channels: 3, batch: tiles.length, height: tileSize, width: tileSize };
}

/** Mean softmax cross-entropy of a batch, and its gradient with respect to the logits. */
export function crossEntropy(logits: Activation, labels: readonly number[]): { loss: number; gradient: Activation } {
  const { batch, channels } = logits;
  const gradient = new Float32Array(logits.data.length);
  let loss = 0;
  for (let image = 0; image < batch; image++) {
    const z = Array.from({ length: channels }, (_, label) => logits.data[label * batch + image]!);
    const top = Math.max(...z);
    const total = z.reduce((sum, value) => sum + Math.exp(value - top), 0);
    loss += (Math.log(total) + top - z[labels[image]!]!) / batch;
    z.forEach((value, label) => {
      const share = Math.exp(value - top) / total;
      gradient[label * batch + image] = (share - (label === labels[image] ? 1 : 0)) / batch;
    });
  }
  return { loss, gradient: { ...logits, data: gradient } };
}

/** The label with the highest logit, for each image of a batch. */
export function predictions(logits: Activation): number[] {
  return Array.from({ length: logits.batch }, (_, image) => {
    let best = 0;
    for (let label = 1; label < logits.channels; label++) {
      if (logits.data[label * logits.batch + image]! > logits.data[best * logits.batch + image]!) best = label;
    }
    return best;
  });
}

/** Every array that makes up the trained network, in a fixed order: parameters, then running statistics. */
function stateArrays(network: Network): Float32Array[] {
  const all = (layers: readonly Layer[]): Layer[] =>
    layers.flatMap((layer) => (layer instanceof Residual ? all(layer.body) : [layer]));
  const norms = all(network.layers).filter((layer) => layer instanceof BatchNormalization);
  return [
    ...network.parameters.map((parameter) => parameter.value),
    ...norms.flatMap((norm) => [norm.runningMean, norm.runningVariance]),
  ];
}

/** A copy of the network's state, for a checkpoint. */
export function saveState(network: Network): Float32Array {
  const arrays = stateArrays(network);
  const state = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let offset = 0;
  for (const array of arrays) {
    state.set(array, offset);
    offset += array.length;
  }
  return state;
}

/** Puts a saved state back. Throws RangeError when it belongs to another architecture. */
export function loadState(network: Network, state: Float32Array): void {
  const arrays = stateArrays(network);
  const size = arrays.reduce((sum, array) => sum + array.length, 0);
  if (size !== state.length) throw new RangeError(`a checkpoint of ${state.length} numbers for a network of ${size}`);
  let offset = 0;
  for (const array of arrays) {
    array.set(state.subarray(offset, offset + array.length));
    offset += array.length;
  }
}
