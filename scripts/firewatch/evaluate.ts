/**
 * Measures the committed models in ONNX Runtime and the histogram rival on the same unseen tiles:
 * `node dist/scripts/firewatch/evaluate.js [model folder] [tiles]`. The numbers in the README are from here.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import sharp from 'sharp';
import { trainHistogramBaseline } from './baseline.js';
import { predictions, toBatch } from './network.js';
import { classNames, seedRanges, type Tile, tileSize } from './tiles.js';
import { accuracyOf, confusionOf, tilesFrom } from './train.js';

/** The labels that an ONNX model predicts, one picture at a time, on one thread. */
export async function classify(model: Uint8Array, tiles: readonly Tile[]): Promise<number[]> {
  const session = await InferenceSession.create(model, { intraOpNumThreads: 1 });
  const labels: number[] = [];
  for (const tile of tiles) {
    const { data } = toBatch([tile]);
    const { logits } = await session.run({ input: new Tensor('float32', data, [1, 3, tileSize, tileSize]) });
    const row = { data: logits!.data as Float32Array, channels: classNames.length, batch: 1, height: 1, width: 1 };
    labels.push(...predictions(row));
  }
  await session.release();
  return labels;
}

/** The labelled test tiles of a sample set, as an application decodes them. */
export async function readSamples(folder: string): Promise<Tile[]> {
  const lines = readFileSync(join(folder, 'labels.csv'), 'utf8').trim().split('\n').slice(1);
  return Promise.all(
    lines.map(async (line) => {
      const [name = '', label] = line.split(',');
      const pixels = await sharp(join(folder, 'test', name))
        .removeAlpha()
        .raw()
        .toBuffer();
      return { pixels, label: Number(label) };
    }),
  );
}

async function main(folder: string, count: number): Promise<void> {
  const report = (name: string, predicted: readonly number[], tiles: readonly Tile[]): void => {
    const counts = confusionOf(predicted, tiles);
    console.log(`${name}: ${(100 * accuracyOf(counts)).toFixed(2)} % of ${tiles.length} ${JSON.stringify(counts)}`);
  };
  const unseen = tilesFrom(seedRanges.tests + 100_000, count);
  const samples = await readSamples(join(folder, 'samples'));
  for (const version of ['v1', 'v2']) {
    const model = readFileSync(join(folder, `firewatch-${version}.onnx`));
    report(`${version}, unseen tiles`, await classify(model, unseen), unseen);
    report(`${version}, committed samples`, await classify(model, samples), samples);
  }
  const baseline = trainHistogramBaseline(tilesFrom(seedRanges.training, 6000));
  const guesses = unseen.map((tile) => baseline(tile.pixels));
  report('histogram baseline, unseen tiles', guesses, unseen);
}

if (process.argv[1]?.endsWith('firewatch/evaluate.js')) {
  await main(process.argv[2] ?? 'scripts/firewatch/model', Number(process.argv[3] ?? 3000));
}
