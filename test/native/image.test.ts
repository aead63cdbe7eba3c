import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { crc32 } from '../../agent/core/image/writer.js';
import { headerFields, tensorTypes } from '../../configs/contracts/image.js';
import { EngineModel, ImageFault, listKernels, machineFeatures, packForCortexM } from '../../native/index.js';
import { compile, runProgram, sanitized } from '../support/c-program.js';
import { imageOf, networkOfEverything, networkOfPatches, tensorTypesOf } from '../support/images.js';
import { randomNetwork } from '../support/networks.js';
import { announceSeed } from '../support/seed.js';

const seed = announceSeed();
/** Mutations of each image; many more in the soak. */
const mutations = Number(process.env.QUANTD_IMAGE_MUTATIONS ?? 1500);

/** Stages at several bits, with the input brought by patches and not, weights packed and not. */
async function patchedImages() {
  const forms = [
    { bits: 8, isInputStreamed: true, packer: packForCortexM },
    { bits: 2, isInputStreamed: false, packer: packForCortexM },
    { bits: 4, isInputStreamed: true, packer: null },
  ] as const;
  return Promise.all(
    forms.map(({ bits, isInputStreamed, packer }) => {
      const patches = { split: 8, grid: { rows: 3, columns: 2 }, isInputStreamed };
      return imageOf(networkOfPatches(seed), { weightBits: bits, activationBits: bits }, seed, { patches, packer });
    }),
  );
}

/** Codes two in a byte between convolutions, behind a stage and without one. */
async function nibbleImages() {
  const patches = { split: 7, grid: { rows: 2, columns: 2 }, isInputStreamed: true };
  const forms = [{ packer: packForCortexM }, { packer: null }, { packer: packForCortexM, patches }];
  const precision = { weightBits: 4, activationBits: 4 } as const;
  return Promise.all(
    forms.map((form) => imageOf(networkOfPatches(seed), precision, seed, { ...form, arenaCeilingBytes: 0 })),
  );
}

t.test('hostile images are refused or run within their own memory', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'quantd-images-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const images = [
    await imageOf(networkOfEverything(seed), { weightBits: 8, activationBits: 8 }, seed),
    await imageOf(networkOfEverything(seed), { weightBits: 4, activationBits: 4 }, seed),
    await imageOf(randomNetwork(seed, 5), { weightBits: 2, activationBits: 2 }, seed),
    await imageOf(networkOfEverything(seed), { weightBits: 4, activationBits: 4 }, seed, { packer: packForCortexM }),
    ...(await patchedImages()),
    ...(await nibbleImages()),
  ];
  const types = images.map(({ bytes }) => tensorTypesOf(bytes));
  t.equal(types.filter((of) => of.includes(tensorTypes.nibbles)).length, 3);
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
  const { bytes } = await imageOf(networkOfEverything(seed), { weightBits: 8, activationBits: 8 }, seed);
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
  const { bytes, samples } = await imageOf(networkOfEverything(seed), { weightBits: 8, activationBits: 8 }, seed);
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
  const { bytes } = await imageOf(networkOfEverything(seed), { weightBits: 4, activationBits: 4 }, seed);
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
