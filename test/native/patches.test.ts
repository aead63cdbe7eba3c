/** Patch by patch and with packed weights, a model computes what it computes layer by layer with weights as they are, bit for bit. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { buildImage, type ImagePatches } from '../../agent/core/image/build.js';
import { crc32 } from '../../agent/core/image/writer.js';
import { listStages } from '../../agent/core/plan/patch-geometry.js';
import { parsePrecision } from '../../agent/core/precision.js';
import { headerFields, operatorKinds, stageFields, tensorFields, tensorTypes } from '../../configs/contracts/image.js';
import type { Precision } from '../../configs/contracts/plan.js';
import { EngineModel, packForCortexM } from '../../native/index.js';
import { packedFields } from '../../native/packing.js';
import { drawNetwork } from '../agent/core/plan/patch-networks.js';
import { compile, runProgram, sanitized } from '../support/c-program.js';
import { referenceOutputs } from '../support/firmware.js';
import { imageOf, networkOfPatches, tensorTypesOf } from '../support/images.js';
import { calibratedNetwork, type Network, randomNetwork } from '../support/networks.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();
/** Many more in the soak. */
const cases = Number(process.env.QUANTD_PATCH_CASES ?? 60);
const folder = mkdtempSync(join(tmpdir(), 'quantd-patches-'));
t.teardown(() => rmSync(folder, { recursive: true }));

let compiled: Promise<string> | null = null;
/** A program that runs an image and checks every access, for all tests that want it. */
function checkedProgram(): Promise<string> {
  compiled ??= compile('run_image', sanitized);
  return compiled;
}

type Form = Pick<Parameters<typeof buildImage>[2], 'patches' | 'packer' | 'arenaCeilingBytes'>;

function imageBuilder({ prepared, ranges }: Network, random: Random) {
  const widths: Precision[] = ['W8A8', 'W4A8', 'W4A4', 'W2A8', 'W2A2'].map(parsePrecision);
  const uniform = random.next() < 0.5 ? random.pick(widths) : null;
  const precisions = new Map(prepared.operators.map(({ name }) => [name, uniform ?? random.pick(widths)]));
  return (form: Form) =>
    buildImage(prepared, precisions, {
      rangeOf: (tensor) => ranges.get(tensor),
      pairSafe: false,
      biasCorrection: () => null,
      ...form,
    });
}

/** A stage and a grid of the network; null where it has none. */
function drawPatches({ prepared }: Network, random: Random): ImagePatches | null {
  const stages = listStages(prepared).filter(({ split }) => split < prepared.operators.length);
  if (stages.length === 0) return null;
  const stage = random.pick(stages);
  const { rows, columns } = stage.tensors[stage.output]!;
  const upTo = (size: number) => 1 + random.below(Math.min(4, size));
  return {
    split: stage.split,
    grid: { rows: upTo(rows), columns: upTo(columns) },
    isInputStreamed: random.next() < 0.5,
  };
}

async function outputsOf(image: Uint8Array, inputs: readonly Float32Array[], options: { features?: [] } = {}) {
  const model = new EngineModel(image, { threads: 1 + (image.length % 2), ...options });
  try {
    return { outputs: await model.run(inputs), kernels: model.kernels };
  } finally {
    model.close();
  }
}

/** Runs an image by a program that checks every access; its outputs. */
async function sanitizedOutput(
  t: Test,
  program: string,
  image: Uint8Array,
  input: Float32Array,
): Promise<Float32Array> {
  const paths = ['image.qimg', 'input.f32', 'output.f32'].map((name) => join(folder, name));
  writeFileSync(paths[0]!, image);
  writeFileSync(paths[1]!, new Uint8Array(input.buffer, input.byteOffset, input.byteLength));
  // What the program takes it keeps to its end.
  const { code, output } = await runProgram(program, paths, { ASAN_OPTIONS: 'detect_leaks=0' });
  if (code !== 0) t.fail(output);
  const bytes = readFileSync(paths[2]!);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

t.test(`patches of ${cases} random networks compute what their layers compute`, async (t) => {
  const program = await checkedProgram();
  const seen = { cut: 0, refused: 0, packed: 0, streamed: 0 };
  for (let n = 0; seen.cut < cases && n < 20 * cases; n++) {
    const random = new Random(seed + n);
    const { model } = drawNetwork(seed + n, 3 + random.below(6), random.next() < 0.4);
    const network = await calibratedNetwork(model, seed + n, 1).catch((error: Error) => {
      // The reference of floats has no negative padding.
      if (/negative/.test(error.message)) return null;
      throw error;
    });
    if (network === null) continue;
    const patches = drawPatches(network, random);
    if (patches === null) continue;
    const build = imageBuilder(network, random);
    const [input] = network.samples as [Float32Array];
    const packer = random.next() < 0.6 ? packForCortexM : null;
    let [layered, patched]: (Uint8Array | null)[] = [null, null];
    try {
      layered = build({}).bytes;
      patched = build({ patches, packer }).bytes;
    } catch (error) {
      if ((error as { code?: string }).code !== 'model/unsupported') throw error;
      seen.refused++;
      continue;
    }
    seen.cut++;
    if (packer !== null) seen.packed++;
    if (patches.isInputStreamed) seen.streamed++;
    const expected = (await referenceOutputs(layered, [input]))[0]!;
    const what = `seed ${seed + n}: ${JSON.stringify(patches)}, ${packer === null ? 'plain' : 'packed'}`;
    if (!isEqual((await outputsOf(patched, [input])).outputs[0]!, expected)) t.fail(`the addon differs, ${what}`);
    if (!isEqual(await sanitizedOutput(t, program, patched, input), expected)) t.fail(`the program differs, ${what}`);
  }
  t.comment(JSON.stringify(seen));
  t.equal(seen.cut, cases);
  t.ok(seen.packed > cases / 4 && seen.streamed > cases / 4);
});

/** An image whose branch is there twice, the second time for patches with input codes beyond `low` .. `high`. */
function withOutliers(
  image: Uint8Array,
  low: number,
  high: number,
): { bytes: Uint8Array; plain: number; count: number } {
  const from = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const header = (view: DataView, field: (typeof headerFields)[number]) =>
    view.getUint32(4 * headerFields.indexOf(field), true);
  const stageAt = header(from, 'stageOffset');
  const stage = (field: (typeof stageFields)[number]) => from.getUint32(stageAt + 4 * stageFields.indexOf(field), true);
  const [plain, count] = [stage('firstOperator') + 1, stage('plainOperators')];
  const offsets = [header(from, 'operatorOffset')];
  for (let at = 0; at < plain + count; at++) offsets.push(offsets[at]! + 4 * from.getUint32(offsets[at]! + 4, true));
  const [begin, end] = [offsets[plain]!, offsets[plain + count]!];
  const added = end - begin;
  const [oldData, stageEnd] = [header(from, 'dataOffset'), stageAt + 4 * stageFields.length];
  const newData = Math.ceil((stageEnd + added) / 16) * 16;
  const bytes = new Uint8Array(image.length - oldData + newData);
  bytes.set(image.subarray(0, end));
  bytes.set(image.subarray(begin, stageEnd), end);
  bytes.set(image.subarray(oldData), newData);
  const view = new DataView(bytes.buffer);
  const set = (field: (typeof headerFields)[number], value: number) =>
    view.setUint32(4 * headerFields.indexOf(field), value, true);
  set('totalBytes', bytes.length);
  set('operatorCount', header(from, 'operatorCount') + count);
  set('operatorBytes', header(from, 'operatorBytes') + added);
  set('stageOffset', stageAt + added);
  set('dataOffset', newData);
  const words = { outlierOperators: count, low, high } as const;
  for (const [field, value] of Object.entries(words) as [keyof typeof words, number][])
    view.setUint32(stageAt + added + 4 * stageFields.indexOf(field), value, true);
  set('checksum', crc32(bytes.subarray(4 * headerFields.length)));
  return { bytes, plain, count };
}

t.test(
  'a patch runs the branch of outliers where its window has codes beyond the limits, and only there',
  async (t) => {
    for (const isInputStreamed of [true, false]) {
      const patches = { split: 8, grid: { rows: 3, columns: 2 }, isInputStreamed };
      const precision = parsePrecision('W4A4');
      const form = { patches, packer: packForCortexM };
      const { bytes: image, samples } = await imageOf(networkOfPatches(seed), precision, seed, form);
      const quiet = new Float32Array(samples[0]!.length);
      const corner = quiet.slice();
      corner[0] = Math.max(...samples[0]!);
      // The first tensor of codes has the zero point of the input.
      const view = new DataView(image.buffer);
      const zero = view.getUint32(
        4 * headerFields.length + 4 * tensorFields.length + 4 * tensorFields.indexOf('zero'),
        true,
      );
      const limits = [
        { limit: zero, input: quiet, runs: [true, false] },
        { limit: zero, input: corner, runs: [true, true] },
        { limit: zero === 255 ? 0 : 255, input: quiet, runs: [false, true] },
      ];
      for (const { limit, input, runs } of limits) {
        const { bytes, plain, count } = withOutliers(image, limit, limit);
        const model = new EngineModel(bytes, { threads: 1 });
        const [times] = await model.observe([input], 1);
        const hasRun = (first: number) => times!.subarray(first, first + count).some((nanoseconds) => nanoseconds > 0);
        t.strictSame([hasRun(plain), hasRun(plain + count)], runs, `limit ${limit}`);
        t.strictSame(await model.run([input]), (await outputsOf(image, [input])).outputs);
        model.close();
      }
    }
  },
);

t.test('packed weights compute what weights as they are compute, whatever the machine has', async (t) => {
  const kernels = new Set<string>();
  for (let n = 0; n < Math.max(cases, 60); n++) {
    const random = new Random(seed + n);
    const network = await calibratedNetwork(randomNetwork(seed + n, 5), seed + n, 1);
    const build = imageBuilder(network, random);
    const inputs = network.samples.slice(0, 1);
    const [expected] = await referenceOutputs(build({}).bytes, inputs);
    const packed = build({ packer: packForCortexM }).bytes;
    for (const options of [{}, { features: [] as [] }]) {
      const result = await outputsOf(packed, inputs, options);
      if (!isEqual(result.outputs[0]!, expected!)) t.fail(`seed ${seed + n} differs`);
      for (const name of result.kernels) kernels.add(name);
    }
  }
  for (const name of ['depthwise', 'vector16', 'polynomial2', 'polynomial4', 'outer2', 'outer4', 'direct16'])
    t.ok(kernels.has(`${name}.dsp`), name);
});

const nibblesOf = (image: Uint8Array) => tensorTypesOf(image).filter((type) => type === tensorTypes.nibbles).length;

t.test('codes two in a byte compute what they do with a byte each, in less memory', async (t) => {
  const program = await checkedProgram();
  const seen = { images: 0, nibbles: 0, patched: 0, packed: 0, smaller: 0, ceilings: 0 };
  for (let n = 0; seen.images < cases && n < 20 * cases; n++) {
    const random = new Random(seed + n);
    const network = await calibratedNetwork(randomNetwork(seed + n, 6), seed + n, 1);
    const build = imageBuilder(network, random);
    const patches = random.next() < 0.6 ? drawPatches(network, random) : null;
    const packer = random.next() < 0.6 ? packForCortexM : null;
    const [input] = network.samples as [Float32Array];
    let [plain, dense]: (ReturnType<typeof build> | null)[] = [null, null];
    try {
      plain = build({ patches, packer });
      dense = build({ patches, packer, arenaCeilingBytes: 0 });
    } catch (error) {
      if ((error as { code?: string }).code !== 'model/unsupported') throw error;
      continue;
    }
    const nibbles = nibblesOf(dense.bytes);
    if (nibbles === 0) continue;
    seen.images++;
    seen.nibbles += nibbles;
    if (patches !== null) seen.patched++;
    if (packer !== null) seen.packed++;
    const expected = (await referenceOutputs(build({}).bytes, [input]))[0]!;
    const what = `seed ${seed + n}: ${JSON.stringify(patches)}, ${packer === null ? 'plain' : 'packed'}`;
    for (const options of [{}, { features: [] as [] }])
      if (!isEqual((await outputsOf(dense.bytes, [input], options)).outputs[0]!, expected))
        t.fail(`the addon differs, ${what}`);
    if (!isEqual(await sanitizedOutput(t, program, dense.bytes, input), expected))
      t.fail(`the program differs, ${what}`);
    t.ok(dense.arenaBytes <= plain.arenaBytes, what);
    if (dense.arenaBytes < plain.arenaBytes) seen.smaller++;
    // As few as fit: none where bytes do, and no more than all of them in between.
    t.equal(nibblesOf(build({ patches, packer, arenaCeilingBytes: plain.arenaBytes }).bytes), 0);
    const ceiling = dense.arenaBytes + random.below(plain.arenaBytes - dense.arenaBytes + 1);
    const some = build({ patches, packer, arenaCeilingBytes: ceiling });
    t.ok(some.arenaBytes <= ceiling && nibblesOf(some.bytes) <= nibbles, what);
    if (nibblesOf(some.bytes) < nibbles) seen.ceilings++;
    if (!isEqual((await outputsOf(some.bytes, [input])).outputs[0]!, expected)) t.fail(`some nibbles differ, ${what}`);
  }
  t.comment(JSON.stringify(seen));
  t.equal(seen.images, cases);
  t.ok(seen.patched > 0 && seen.packed > cases / 4 && seen.smaller > cases / 8 && seen.ceilings > cases / 12);
});

t.test('what cannot be packed is refused before it crosses', (t) => {
  for (const [name, position] of Object.entries(packedFields)) {
    const fields: readonly string[] = operatorKinds.convolution.fields;
    if (name === 'count') t.equal(fields.length, position);
    else t.equal(fields[position], name);
  }
  const fields = new Uint32Array(packedFields.count);
  const set = (name: keyof typeof packedFields, value: number) => {
    fields[packedFields[name]] = value;
  };
  for (const name of ['inChannels', 'outChannels', 'kernelHeight', 'kernelWidth', 'groups'] as const) set(name, 1);
  set('weightBits', 8);
  set('storageBits', 8);
  const size = { inHeight: 1, inWidth: 1, outHeight: 1, outWidth: 1, padTop: 0, padLeft: 0 };
  const good = { fields, inputBits: 8, weights: new Uint8Array(1), bias: new Int32Array(1), variants: [size] };
  // Strides and dilations are at 9 to 12.
  fields.fill(1, 9, 13);
  t.ok(packForCortexM(good));
  const bad = [
    { weights: new Uint8Array(2) },
    { bias: new Int32Array(2) },
    { variants: [] },
    { variants: [{ ...size, inHeight: 0 }] },
    { variants: [{ ...size, padTop: -1 }] },
    { inputBits: 9 },
    { fields: fields.subarray(1) },
    { fields: fields.map((value, index) => (index === packedFields.groups ? 2 : value)) },
    { fields: fields.map((value, index) => (index === packedFields.storageBits ? 3 : value)) },
  ];
  for (const change of bad) t.throws(() => packForCortexM({ ...good, ...change }), RangeError);
  t.end();
});

function isEqual(a: Float32Array, b: Float32Array): boolean {
  return a.length === b.length && a.every((value, index) => Object.is(value, b[index]));
}
