/** Artifact folders of small float models, as runners load them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encode } from '../../agent/core/onnx/codec.js';
import { imageCard, NetworkBuilder } from './networks.js';
import { Random } from './random.js';

/** Shape of the input of every model here. */
export const inputDims = [1, 3, 8, 8];
/** Values of the input. */
export const inputSize = 192;

/** A small classifier for images of 3 x 8 x 8, another one for every seed. */
export function smallModel(seed: number, classes = 4): Uint8Array {
  const builder = new NetworkBuilder(new Random(seed), inputDims);
  const hidden = builder.same('Relu', builder.conv('x', { out: 8 }));
  return encode(builder.build([builder.gemm(builder.pooled(hidden), classes)]));
}

/** Its card: pixels scaled to [0, 1]. */
export function smallCard() {
  return { ...imageCard('classification', inputDims), preprocess: { scale: 1 / 255 } };
}

/** Writes an artifact folder; answers its path. */
export function writeArtifact(parent: string, name: string, model: Uint8Array): string {
  const folder = join(parent, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'model-quantized.onnx'), model);
  writeFileSync(join(folder, 'card.json'), JSON.stringify(smallCard()));
  return folder;
}
