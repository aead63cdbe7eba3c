import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { buildImage } from '../../agent/core/image/build.js';
import { crc32 } from '../../agent/core/image/writer.js';
import { headerFields } from '../../configs/contracts/image.js';
import type { Precision } from '../../configs/contracts/plan.js';
import { EngineModel, ImageFault, listKernels, machineFeatures } from '../../native/index.js';
import { compile, runProgram, sanitized } from '../support/c-program.js';
import { calibratedNetwork, NetworkBuilder, randomNetwork } from '../support/networks.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();
/** Mutations of each image; many more in the soak. */
const mutations = Number(process.env.QUANTD_IMAGE_MUTATIONS ?? 1500);

async function imageOf(source: ReturnType<typeof randomNetwork>, precision: Precision) {
  const { prepared, samples, ranges } = await calibratedNetwork(source, seed, 2);
  const precisions = new Map(prepared.operators.map(({ name }) => [name, precision]));
  const options = { rangeOf: (tensor: string) => ranges.get(tensor), pairSafe: true, biasCorrection: () => null };
  return { ...buildImage(prepared, precisions, options), samples };
}

/** A network with every kind of operator that an image can have. */
function everything() {
  const builder = new NetworkBuilder(new Random(seed), [1, 4, 8, 8]);
  const first = builder.silu(builder.conv('x', { out: 8 }));
  const depthwise = builder.conv(first, { out: 8, groups: 8 });
  const sum = builder.emit('Add', [depthwise, first], [1, 8, 8, 8]);
  const gate = builder.same('HardSigmoid', builder.emit('GlobalAveragePool', [sum], [1, 8, 1, 1]));
  const gated = builder.emit('Mul', [sum, gate], [1, 8, 8, 8]);
  const scales = builder.constant([4], Float32Array.of(1, 1, 2, 2));
  const large = builder.emit('Resize', [gated, '', scales], [1, 8, 16, 16], { mode: 'linear' });
  const pooled = builder.emit('MaxPool', [large], [1, 8, 8, 8], { kernel_shape: [2, 2], strides: [2, 2] });
  const joined = builder.emit('Concat', [pooled, first], [1, 16, 8, 8], { axis: 1 });
  const mean = builder.emit('AveragePool', [joined], [1, 16, 4, 4], { kernel_shape: [2, 2], strides: [2, 2] });
  const end = builder.gemm(builder.pooled(builder.conv(mean, { out: 12, groups: 2 })), 6);
  return builder.build([builder.same('Softmax', builder.same('Sigmoid', end), { axis: 1 })]);
}

t.test('hostile images are refused or run within their own memory', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'quantd-images-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const images = [
    await imageOf(everything(), { weightBits: 8, activationBits: 8 }),
    await imageOf(everything(), { weightBits: 4, activationBits: 4 }),
    await imageOf(randomNetwork(seed, 5), { weightBits: 2, activationBits: 2 }),
  ];
  const paths = images.map(({ bytes }, index) => {
    const path = join(folder, `${index}.qimg`);
    writeFileSync(path, bytes);
    return path;
  });
  const program = await compile('fuzz_image', sanitized);
  const { code, output } = await runProgram(program, [String(seed), String(mutations), ...paths]);
  t.comment(output.trim());
  t.equal(code, 0, output);
  t.ok(Number(/(\d+) of/.exec(output)?.[1]) > mutations / 20, 'enough of them ran');
});

t.test('what is wrong with an image is said', async (t) => {
  const { bytes } = await imageOf(everything(), { weightBits: 8, activationBits: 8 });
  const word = (copy: Uint8Array, field: (typeof headerFields)[number], value: number) => {
    new DataView(copy.buffer).setUint32(4 * headerFields.indexOf(field), value, true);
    return copy;
  };
  const sealed = (copy: Uint8Array) => word(copy, 'checksum', crc32(copy.subarray(4 * headerFields.length)));
  const cases: [string, Uint8Array, RegExp][] = [
    ['nothing', new Uint8Array(0), /cut off/],
    ['half of it', bytes.slice(0, bytes.length / 2), /cut off/],
    ['another file', new TextEncoder().encode('x'.repeat(400)), /not an image/],
    ['a later version', word(bytes.slice(), 'version', 99), /another version/],
    ['a flipped bit', bytes.map((byte, index) => (index === bytes.length - 5 ? byte ^ 4 : byte)), /checksum/],
    ['a section beyond the end', word(bytes.slice(), 'dataBytes', bytes.length), /sections/],
    ['an arena that is too small', sealed(word(bytes.slice(), 'arenaBytes', 64)), /tensor of the image.*arena/],
  ];
  for (const [name, image, message] of cases) {
    try {
      new EngineModel(image, { threads: 1 }).close();
      t.fail(`${name} was taken`);
    } catch (error) {
      t.ok(error instanceof ImageFault, name);
      t.match((error as Error).message, message, name);
    }
  }
});

t.test('a model runs what it is given, several times at once, and not after it was closed', async (t) => {
  const { bytes, samples } = await imageOf(everything(), { weightBits: 8, activationBits: 8 });
  const model = new EngineModel(bytes, { threads: 2 });
  const alone = await Promise.all(samples.map(async (input) => (await model.run([input]))[0]!));
  t.ok(
    alone.every((output) => Math.abs(output.reduce((a, b) => a + b, 0) - 1) < 1e-5),
    'a softmax',
  );
  const together = await Promise.all(Array.from({ length: 40 }, (_, n) => model.run([samples[n % samples.length]!])));
  for (const [n, [output]] of together.entries()) t.strictSame(output, alone[n % samples.length]);
  const times = await model.observe([samples[0]!], 3);
  t.equal(times.length, 3);
  t.ok(times.every((row) => row.length === model.kernels.length && row.every((nanoseconds) => nanoseconds >= 0)));
  await t.rejects(model.run([new Float32Array(3)]), RangeError);
  await t.rejects(model.run([]), RangeError);
  await t.rejects(model.observe([samples[0]!], 0), RangeError);
  const last = model.run([samples[0]!]);
  model.close();
  model.close();
  t.strictSame((await last)[0], alone[0], 'a run under way ends');
  await t.rejects(model.run([samples[0]!]), /closed/);
});

t.test('impossible options are refused; kernels are those of the machine, or fewer', async (t) => {
  const { bytes } = await imageOf(everything(), { weightBits: 4, activationBits: 4 });
  for (const threads of [0, 257, 1.5, Number.NaN]) t.throws(() => new EngineModel(bytes, { threads }), RangeError);
  const kernelsOf = (options: Partial<ConstructorParameters<typeof EngineModel>[1]>) => {
    const model = new EngineModel(bytes, { threads: 1, ...options });
    const kernels = model.kernels.filter((name) => name !== '');
    model.close();
    return kernels;
  };
  t.strictSame(new Set(kernelsOf({ features: [] })), new Set(['reference']));
  t.strictSame(new Set(kernelsOf({ onlyKernel: 'reference' })), new Set(['reference']));
  const available = listKernels().filter(({ isAvailable }) => isAvailable);
  t.equal(available.at(-1)?.name, 'reference');
  if (machineFeatures().length > 0) t.not(kernelsOf({})[0], 'reference');
});
