import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import sharp from 'sharp';
import t from 'tap';
import { decode, encode } from '../../agent/core/onnx/codec.js';
import { trainHistogramBaseline } from '../../scripts/firewatch/baseline.js';
import { classify, readSamples } from '../../scripts/firewatch/evaluate.js';
import { toModel } from '../../scripts/firewatch/export.js';
import { compileKernels, type Kernels, plainKernels } from '../../scripts/firewatch/kernels.js';
import {
  type Activation,
  BatchNormalization,
  Convolution,
  Dense,
  Depthwise,
  GlobalAveragePool,
  type Layer,
  Pointwise,
  Relu,
  Residual,
} from '../../scripts/firewatch/layers.js';
import { backward, crossEntropy, forward, newNetwork, toBatch } from '../../scripts/firewatch/network.js';
import { Random } from '../../scripts/firewatch/random.js';
import { classNames, makeTile, seedRanges, tileSize } from '../../scripts/firewatch/tiles.js';
import { AdamW, accuracyOf, confusionOf, tilesFrom } from '../../scripts/firewatch/train.js';

const modelFolder = 'scripts/firewatch/model';
const versions = ['v1', 'v2'] as const;

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex').slice(0, 16);

t.test('tiles are a function of their seed, the same on every machine', async (t) => {
  const hash = createHash('sha256');
  for (let seed = 0; seed < 60; seed++) hash.update(makeTile(seedRanges.tests + seed).pixels);
  t.equal(hash.digest('hex').slice(0, 16), 'fc59ed73ae582a18');
  t.equal(digest(makeTile(12345).pixels), digest(makeTile(12345).pixels));
});

t.test('any run of seeds has the classes in equal numbers, and tiles of one class differ', async (t) => {
  const tiles = tilesFrom(seedRanges.tests + 1000, 60);
  for (let label = 0; label < classNames.length; label++) {
    t.equal(tiles.filter((tile) => tile.label === label).length, 20);
  }
  t.equal(new Set(tiles.map((tile) => digest(tile.pixels))).size, 60);
});

function randomActivation(random: Random, channels: number, batch: number, height: number, width: number): Activation {
  const data = Float32Array.from({ length: channels * batch * height * width }, () => random.normal());
  return { data, channels, batch, height, width };
}

/** The one assertion that `checkGradients` needs of a test. */
interface Assert {
  ok(value: unknown, message: string): unknown;
}

/**
 * Compares `backward` with central differences of the scalar `sum(probe * forward(x))`, for every input and parameter value.
 * Differences of float32 sums over a step of 1e-2 carry an error of a few 1e-4.
 */
function checkGradients(t: Assert, layer: Layer, input: Activation, random: Random, checksInput = true): void {
  const first = layer.forward(input, true);
  const probe = { ...first, data: first.data.map(() => random.normal()) };
  const scalar = (): number =>
    layer.forward(input, true).data.reduce((sum, value, i) => sum + value * probe.data[i]!, 0);
  for (const parameter of layer.parameters) parameter.gradient.fill(0);
  layer.forward(input, true);
  const inputGradient = layer.backward(probe);
  const pairs = layer.parameters.map((parameter) => [parameter.value, parameter.gradient] as const);
  if (checksInput) pairs.push([input.data, inputGradient.data]);
  let worst = 0;
  for (const [values, gradient] of pairs) {
    for (let i = 0; i < values.length; i++) {
      const before = values[i]!;
      values[i] = before + 1e-2;
      const above = scalar();
      values[i] = before - 1e-2;
      const below = scalar();
      values[i] = before;
      const numeric = (above - below) / 2e-2;
      worst = Math.max(worst, Math.abs(numeric - gradient[i]!) / (1 + Math.abs(numeric)));
    }
  }
  t.ok(worst < 5e-3, `largest deviation ${worst}`);
}

t.test('gradients of every layer agree with finite differences', async (t) => {
  const seed = Number(process.env.QUANTD_SEED ?? 11);
  t.comment(`seed ${seed}`);
  const random = new Random(seed);
  const initial = (fanIn: number): number => random.normal() / Math.sqrt(fanIn);
  const awayFromZero = (a: Activation): Activation => ({ ...a, data: a.data.map((v) => v + (v < 0 ? -0.1 : 0.1)) });
  const cases: readonly (readonly [name: string, layer: Layer, input: Activation])[] = [
    ['convolution, stride 1', new Convolution(2, 3, 1, initial), randomActivation(random, 2, 2, 4, 5)],
    ['convolution, stride 2', new Convolution(3, 5, 2, initial), randomActivation(random, 3, 2, 6, 6)],
    ['pointwise', new Pointwise(5, 7, initial), randomActivation(random, 5, 2, 3, 3)],
    ['depthwise, stride 1', new Depthwise(3, 1, initial), randomActivation(random, 3, 2, 4, 4)],
    ['depthwise, stride 2', new Depthwise(3, 2, initial), randomActivation(random, 3, 2, 6, 4)],
    ['batch normalization', new BatchNormalization(3), randomActivation(random, 3, 4, 2, 3)],
    ['relu', new Relu(), awayFromZero(randomActivation(random, 3, 2, 3, 3))],
    ['global average pool', new GlobalAveragePool(), randomActivation(random, 4, 3, 2, 2)],
    ['dense', new Dense(6, 3, initial), randomActivation(random, 6, 4, 1, 1)],
    [
      'residual',
      new Residual([new Depthwise(4, 1, initial), new Pointwise(4, 4, initial)]),
      randomActivation(random, 4, 2, 4, 4),
    ],
  ];
  for (const [name, layer, input] of cases) {
    await t.test(name, async (t) => checkGradients(t, layer, input, random));
  }
});

t.test('the gradient of the loss agrees with finite differences', async (t) => {
  const logits = randomActivation(new Random(5), 3, 4, 1, 1);
  const labels = [0, 2, 1, 1];
  const { gradient } = crossEntropy(logits, labels);
  gradient.data.forEach((value, i) => {
    const shifted = (by: number): number =>
      crossEntropy({ ...logits, data: logits.data.map((v, j) => v + (i === j ? by : 0)) }, labels).loss;
    t.ok(Math.abs(value - (shifted(1e-2) - shifted(-1e-2)) / 2e-2) < 1e-3);
  });
});

t.test('compiled kernels agree with the plain ones, whatever the sizes', async (t) => {
  const compiled = compileKernels();
  if (compiled === undefined) return t.pass('no C compiler or no Node headers here: nothing to compare');
  const random = new Random(3);
  const numbers = (size: number): Float32Array => Float32Array.from({ length: size }, () => random.normal());
  /** Calls both with the same arguments and compares all arrays afterwards. */
  const compare = <Name extends keyof Kernels>(name: Name, ...args: Parameters<Kernels[Name]>): void => {
    const twin = args.map((arg) => (typeof arg === 'number' ? arg : Float32Array.from(arg)));
    (plainKernels[name] as (...args: unknown[]) => void)(...args);
    (compiled[name] as (...args: unknown[]) => void)(...twin);
    let worst = 0;
    args.forEach((arg, i) => {
      if (typeof arg === 'number') return;
      const other = twin[i] as Float32Array;
      arg.forEach((value, j) => {
        worst = Math.max(worst, Math.abs(value - other[j]!) / (1 + Math.abs(value)));
      });
    });
    t.ok(worst < 1e-3, `${name} ${args.filter((arg) => typeof arg === 'number').join(' x ')}: ${worst}`);
  };
  for (const [m, k, n] of [
    [1, 1, 1],
    [4, 3, 70],
    [7, 5, 1030],
    [6, 8, 20],
    [3, 2, 2049],
  ] as const) {
    compare('multiply', numbers(m * n), numbers(m * k), numbers(k * n), m, k, n);
    compare('multiplyTransposed', numbers(m * k), numbers(m * n), numbers(k * n), m, k, n);
  }
  for (const [height, width, stride] of [
    [8, 8, 1],
    [8, 8, 2],
    [4, 6, 2],
    [5, 7, 1],
    [5, 7, 2],
    [1, 1, 1],
  ] as const) {
    const size = 3 * 2 * height * width;
    const outputSize = 3 * 2 * Math.ceil(height / stride) * Math.ceil(width / stride);
    const shape = [3, 2, height, width, stride] as const;
    compare('depthwise', new Float32Array(outputSize), numbers(size), numbers(27), ...shape);
    const zeros = new Float32Array(size);
    compare('depthwiseGradient', zeros, numbers(27), numbers(outputSize), numbers(size), numbers(27), ...shape);
  }
  const [a, b, c, d] = [numbers(60), numbers(60), numbers(60), numbers(60)] as const;
  compare('normalize', a, b, numbers(4), numbers(4), c, numbers(4), numbers(4), 4, 15, 1e-5);
  compare('normalizeGradient', a, numbers(4), numbers(4), c, d, Float32Array.of(1, 2, 3, 4), numbers(4), 4, 15, 1e-5);
  compare('rectify', a, c, 60);
  compare('rectifyGradient', a, c, d, 60);
});

t.test('a few steps on one small batch learn it by heart', async (t) => {
  const network = newNetwork(2);
  const tiles = tilesFrom(seedRanges.tests + 2000, 6);
  const labels = tiles.map((tile) => tile.label);
  const optimizer = new AdamW(network.parameters);
  const losses = Array.from({ length: 8 }, () => {
    const { loss, gradient } = crossEntropy(forward(network, toBatch(tiles), true), labels);
    backward(network, gradient);
    optimizer.step(2e-3);
    return loss;
  });
  t.ok(losses.at(-1)! < 0.3 * losses[0]!, losses.map((loss) => loss.toFixed(2)).join(' '));
});

t.test('the exported model computes in ONNX Runtime what the trainer computes, for any batch', async (t) => {
  const network = newNetwork(4);
  const batch = toBatch(tilesFrom(seedRanges.tests + 3000, 3));
  for (let i = 0; i < 5; i++) forward(network, batch, true); // moves the running statistics off their start
  const expected = forward(network, batch, false);
  const session = await InferenceSession.create(encode(toModel(network)), { intraOpNumThreads: 1 });
  const imagesFirst = new Float32Array(batch.data.length);
  const plane = tileSize * tileSize;
  for (let image = 0; image < 3; image++) {
    for (let channel = 0; channel < 3; channel++) {
      const from = (channel * 3 + image) * plane;
      imagesFirst.set(batch.data.subarray(from, from + plane), (image * 3 + channel) * plane);
    }
  }
  const { logits } = await session.run({ input: new Tensor('float32', imagesFirst, [3, 3, tileSize, tileSize]) });
  const actual = logits!.data as Float32Array;
  for (let image = 0; image < 3; image++) {
    for (let label = 0; label < 3; label++) {
      const want = expected.data[label * 3 + image]!;
      t.ok(Math.abs(actual[image * 3 + label]! - want) < 1e-3 * (1 + Math.abs(want)));
    }
  }
});

for (const version of versions) {
  t.test(`the committed model ${version}`, async (t) => {
    const file = join(modelFolder, `firewatch-${version}.onnx`);
    const bytes = readFileSync(file);
    const { graph, opsets } = decode(bytes);

    t.ok(statSync(file).size < 1.5e6, 'is smaller than 1.5 MB');
    t.equal(opsets.get(''), 13);
    const ops = graph.nodes.map((node) => node.op);
    t.ok(ops.filter((op) => op === 'BatchNormalization').length >= 10, 'has explicit batch normalization');
    t.ok(ops.includes('Add') && ops.at(-1) === 'Gemm');
    const parameters = [...graph.initializers.values()].reduce((sum, tensor) => sum + tensor.bytes.length / 4, 0);
    t.ok(parameters >= 50_000 && parameters <= 300_000, `${parameters} parameters`);

    const card = JSON.parse(readFileSync(join(modelFolder, `firewatch-${version}.json`), 'utf8'));
    t.same(card.input, { name: 'input', layout: 'NCHW', shape: [null, 3, 64, 64] });
    t.equal(card.task, 'classification');

    const unseen = tilesFrom(seedRanges.tests + 10_000, 450);
    const accuracy = accuracyOf(confusionOf(await classify(bytes, unseen), unseen));
    t.ok(accuracy > 0.95, `${(100 * accuracy).toFixed(1)} % of 450 unseen tiles`);

    const samples = await readSamples(join(modelFolder, 'samples'));
    const sampleAccuracy = accuracyOf(confusionOf(await classify(bytes, samples), samples));
    t.ok(sampleAccuracy > 0.95, `${(100 * sampleAccuracy).toFixed(1)} % of the ${samples.length} committed samples`);
  });
}

t.test('the committed sample set is whole and small', async (t) => {
  const folder = join(modelFolder, 'samples');
  const calibration = readdirSync(join(folder, 'calibration')).map((name) => join(folder, 'calibration', name));
  const test = readdirSync(join(folder, 'test')).map((name) => join(folder, 'test', name));
  t.equal(calibration.length, 64);
  t.equal(test.length, 240);
  t.ok([...calibration, ...test].reduce((sum, file) => sum + statSync(file).size, 0) < 2e6);
  const { width, height, channels } = await sharp(calibration[0]!).metadata();
  t.same([width, height, channels], [tileSize, tileSize, 3]);
});

t.test('colours alone do not tell the classes apart: a histogram classifier stays below 80 %', async (t) => {
  const baseline = trainHistogramBaseline(tilesFrom(seedRanges.training, 1500));
  const unseen = tilesFrom(seedRanges.tests + 20_000, 450);
  const guesses = unseen.map((tile) => baseline(tile.pixels));
  const accuracy = accuracyOf(confusionOf(guesses, unseen));
  t.ok(accuracy < 0.8, `${(100 * accuracy).toFixed(1)} %`);
  t.ok(accuracy > 0.4, 'but it does learn something, so it is a fair rival');
});
