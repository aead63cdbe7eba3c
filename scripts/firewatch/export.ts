/**
 * Makes the committed files from the checkpoints of `train.js`: `node dist/scripts/firewatch/export.js CHECKPOINTS OUT-FOLDER`.
 * Writes the ONNX models, their model cards and the sample set.
 */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { encode } from '../../agent/core/onnx/codec.js';
import type { AttributeValue, Model, Node, Tensor } from '../../agent/core/onnx/model.js';
import { makeTensor } from '../../agent/core/onnx/tensor.js';
import {
  BatchNormalization,
  Convolution,
  Dense,
  Depthwise,
  GlobalAveragePool,
  type Layer,
  Pointwise,
  Relu,
  Residual,
} from './layers.js';
import { loadState, type Network, newNetwork, preprocess } from './network.js';
import { classNames, makeTile, seedRanges, tileSize } from './tiles.js';

const calibrationCount = 64;
const testCount = 240;

type Attributes = Readonly<Record<string, number | readonly number[]>>;

/** Collects nodes and initializers; names follow the order of the layers. */
class GraphBuilder {
  readonly nodes: Node[] = [];
  readonly initializers = new Map<string, Tensor>();

  /** Adds a node with one output and returns that output's name. */
  add(op: string, inputs: readonly string[], attributes: Attributes = {}, output?: string): string {
    const count = this.nodes.filter((node) => node.op === op).length;
    const name = `${op.toLowerCase()}_${count}`;
    const outputs = [output ?? `${name}_out`];
    const entries = Object.entries(attributes).map(([key, value]) => [key, toAttribute(value)] as const);
    this.nodes.push({ name, op, domain: '', inputs, outputs, attributes: new Map(entries) });
    return outputs[0]!;
  }

  constant(name: string, dims: readonly number[], values: Float32Array): string {
    this.initializers.set(name, makeTensor(name, 'float32', dims, Float32Array.from(values)));
    return name;
  }
}

function toAttribute(value: number | readonly number[]): AttributeValue {
  if (typeof value !== 'number') return { kind: 'ints', value };
  return Number.isInteger(value) ? { kind: 'int', value } : { kind: 'float', value };
}

/** Adds the nodes of one layer and returns the name of the tensor that it computes. */
function addLayer(graph: GraphBuilder, layer: Layer, input: string): string {
  const id = graph.nodes.length;
  if (layer instanceof Residual) {
    const output = layer.body.reduce((x, inner) => addLayer(graph, inner, x), input);
    return graph.add('Add', [output, input]);
  }
  if (layer instanceof Convolution) {
    const weight = graph.constant(`w${id}`, [layer.outputs, layer.inputs, 3, 3], layer.weight.value);
    return addConv(graph, input, weight, { size: 3, stride: layer.stride, group: 1 });
  }
  if (layer instanceof Depthwise) {
    const weight = graph.constant(`w${id}`, [layer.channels, 1, 3, 3], layer.weight.value);
    return addConv(graph, input, weight, { size: 3, stride: layer.stride, group: layer.channels });
  }
  if (layer instanceof Pointwise) {
    const weight = graph.constant(`w${id}`, [layer.outputs, layer.inputs, 1, 1], layer.weight.value);
    return addConv(graph, input, weight, { size: 1, stride: 1, group: 1 });
  }
  if (layer instanceof BatchNormalization) {
    const dims = [layer.channels];
    const gain = graph.constant(`gain${id}`, dims, layer.gain.value);
    const offset = graph.constant(`offset${id}`, dims, layer.offset.value);
    const mean = graph.constant(`mean${id}`, dims, layer.runningMean);
    const variance = graph.constant(`variance${id}`, dims, layer.runningVariance);
    const inputs = [input, gain, offset, mean, variance];
    return graph.add('BatchNormalization', inputs, { epsilon: BatchNormalization.epsilon });
  }
  if (layer instanceof Relu) return graph.add('Relu', [input]);
  if (layer instanceof GlobalAveragePool)
    return graph.add('Flatten', [graph.add('GlobalAveragePool', [input])], { axis: 1 });
  if (layer instanceof Dense) {
    const weight = graph.constant(`w${id}`, [layer.outputs, layer.inputs], layer.weight.value);
    const bias = graph.constant(`bias${id}`, [layer.outputs], layer.bias.value);
    return graph.add('Gemm', [input, weight, bias], { transB: 1 }, 'logits');
  }
  throw new TypeError('a layer without an ONNX form');
}

function addConv(
  graph: GraphBuilder,
  input: string,
  weight: string,
  shape: { size: number; stride: number; group: number },
): string {
  const { size, stride, group } = shape;
  const pad = (size - 1) / 2;
  const attributes = { kernel_shape: [size, size], strides: [stride, stride], pads: [pad, pad, pad, pad], group };
  return graph.add('Conv', [input, weight], attributes);
}

/** The network as an ONNX model: float32, opset 13, input `input` [batch, 3, 64, 64], output `logits` [batch, 3]. */
export function toModel(network: Network): Model {
  const graph = new GraphBuilder();
  network.layers.reduce((x, layer) => addLayer(graph, layer, x), 'input');
  return {
    irVersion: 7,
    opsets: new Map([['', 13]]),
    producer: 'quantd-firewatch',
    metadata: new Map(),
    graph: {
      name: 'firewatch',
      nodes: graph.nodes,
      initializers: graph.initializers,
      inputs: [{ name: 'input', type: 'float32', shape: [null, 3, tileSize, tileSize] }],
      outputs: [{ name: 'logits', type: 'float32', shape: [null, classNames.length] }],
      valueInfo: new Map(),
    },
  };
}

function modelCard(version: string): object {
  const { scale, mean, std } = preprocess;
  return {
    input: { name: 'input', layout: 'NCHW', shape: [null, 3, tileSize, tileSize] },
    preprocess: { channels: 'RGB', scale, mean: [mean, mean, mean], std: [std, std, std] },
    task: 'classification',
    classes: classNames,
    notes: `firewatch ${version}: 64x64 aerial-looking tiles, procedurally generated; explicit BatchNormalization`,
  };
}

async function writeTile(file: string, seed: number): Promise<number> {
  const { pixels, label } = makeTile(seed);
  await sharp(pixels, { raw: { width: tileSize, height: tileSize, channels: 3 } })
    .jpeg({ quality: 92, chromaSubsampling: '4:4:4' })
    .toFile(file);
  return label;
}

/** Writes the sample set: unlabelled calibration tiles, labelled test tiles, of seeds that training never uses. */
async function writeSamples(folder: string): Promise<void> {
  mkdirSync(join(folder, 'calibration'), { recursive: true });
  mkdirSync(join(folder, 'test'), { recursive: true });
  for (let i = 0; i < calibrationCount; i++) {
    const name = `${String(i).padStart(3, '0')}.jpg`;
    await writeTile(join(folder, 'calibration', name), seedRanges.calibrationSamples + i);
  }
  const lines = ['sample,label'];
  for (let i = 0; i < testCount; i++) {
    const name = `${String(i).padStart(3, '0')}.jpg`;
    const label = await writeTile(join(folder, 'test', name), seedRanges.testSamples + i);
    lines.push(`${name},${label}`);
  }
  writeFileSync(join(folder, 'labels.csv'), `${lines.join('\n')}\n`);
}

async function main(checkpoints: string, folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  for (const version of ['v1', 'v2']) {
    const bytes = readFileSync(join(checkpoints, `firewatch-${version}.state`));
    const network = newNetwork(0);
    loadState(network, new Float32Array(Uint8Array.from(bytes).buffer));
    writeFileSync(join(folder, `firewatch-${version}.onnx`), encode(toModel(network)));
    writeFileSync(join(folder, `firewatch-${version}.json`), `${JSON.stringify(modelCard(version), null, 2)}\n`);
  }
  await writeSamples(join(folder, 'samples'));
}

if (process.argv[1]?.endsWith('firewatch/export.js')) {
  await main(process.argv[2] ?? 'firewatch-training', process.argv[3] ?? 'scripts/firewatch/model');
}
