/** Sample sets as they lie on disk: arrays and pictures become inputs, labels find their samples, and what is wrong is named. */
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import t, { type Test } from 'tap';
import { parseNpy } from '../../../agent/adapters/npy.js';
import { decodeSample, openSampleSet } from '../../../agent/adapters/samples.js';
import type { SampleSource } from '../../../agent/ports.js';
import type { ModelCard, Preprocess } from '../../../configs/contracts/card.js';
import { announceSeed, Random } from '../../support/seed.js';

const random = new Random(announceSeed());

function card(dims: readonly number[], preprocess: Preprocess = {}, layout = 'NCHW'): ModelCard {
  const input = { name: 'x', layout: layout.slice(0, dims.length), shape: [...dims] };
  return { input, preprocess, task: 'classification' };
}

type Values = Uint8Array | Int8Array | Float32Array;

/** A .npy file as NumPy writes it, or nearly so. */
function npy(
  shape: string,
  values: Values,
  changes: { descr?: string; order?: string; version?: number; pad?: number } = {},
) {
  const { order = 'False', version = 1, pad = 0 } = changes;
  const descr = changes.descr ?? (values instanceof Float32Array ? '<f4' : values instanceof Int8Array ? '|i1' : '|u1');
  const header = `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': ${shape}, }${' '.repeat(pad)}\n`;
  const length = Buffer.alloc(version === 1 ? 2 : 4);
  if (version === 1) length.writeUInt16LE(header.length);
  else length.writeUInt32LE(header.length);
  const start = Buffer.from([0x93, ...Buffer.from('NUMPY'), version, 0]);
  return Buffer.concat([
    start,
    length,
    Buffer.from(header),
    Buffer.from(values.buffer, values.byteOffset, values.byteLength),
  ]);
}

async function all(source: SampleSource): Promise<number[][]> {
  const samples: number[][] = [];
  for (let index = 0; index < source.count; index++) samples.push([...(await source.read(index))]);
  return samples;
}

const bytes = (count: number) => Uint8Array.from({ length: count }, () => random.below(256));
const png = (pixels: Uint8Array, width: number, height: number, channels: 1 | 3 | 4) =>
  sharp(pixels, { raw: { width, height, channels } }).png().toBuffer();

/** Planes of an image whose channels lie beside each other. */
const planes = (pixels: ArrayLike<number>, channels: number) =>
  Array.from({ length: channels }, (_, channel) =>
    Array.from(pixels).filter((_, at) => at % channels === channel),
  ).flat();

for (const [kind, values] of Object.entries({
  u1: bytes(24),
  i1: new Int8Array(bytes(24).buffer),
  f4: random.floats(24),
})) {
  t.test(`${kind} arrays: sample by sample, put through the card's formula`, async (t) => {
    const preprocess = { scale: 0.5, zeroPoint: 3, mean: [1], std: [4] };
    const expected = Array.from({ length: 4 }, (_, sample) =>
      Array.from(values.subarray(sample * 6, sample * 6 + 6), (value) => Math.fround(((value - 3) * 0.5 - 1) / 4)),
    );
    for (const version of [1, 2, 3]) {
      // The values begin at every offset there is.
      for (let pad = 0; pad < 4; pad++) {
        const folder = t.testdir({ 'calibration.npy': npy('(4, 6)', values, { version, pad }) });
        const { calibration, test, calibrationFromTest } = await openSampleSet(
          folder,
          card([1, 6], preprocess),
          [1, 6],
        );
        t.strictSame([calibration!.count, test, calibrationFromTest, calibration!.labels], [4, null, false, null]);
        const found = await all(calibration!);
        t.ok(
          found.every((sample, at) => sample.every((value, i) => Math.abs(value - expected[at]![i]!) < 1e-5)),
          `version ${version}, offset ${pad}`,
        );
      }
    }
  });
}

t.test('pictures: decoded pixel by pixel, in the order of their names, whatever their form', async (t) => {
  const [first, second] = [bytes(4 * 5 * 3), bytes(4 * 5 * 3)];
  const withAlpha = Uint8Array.from({ length: 4 * 5 * 4 }, (_, at) =>
    at % 4 === 3 ? 9 : second[(at >> 2) * 3 + (at % 4)]!,
  );
  const folder = t.testdir({ calibration: { 'notes.txt': 'no sample' } });
  writeFileSync(join(folder, 'calibration', 'b.PNG'), await png(withAlpha, 5, 4, 4));
  writeFileSync(join(folder, 'calibration', 'a.png'), await png(first, 5, 4, 3));
  writeFileSync(join(folder, 'calibration', 'c.npy'), npy('(4, 5, 3)', first));
  const dims = [1, 3, 4, 5];
  const { calibration } = await openSampleSet(folder, card(dims), dims);
  t.strictSame(
    await all(calibration!),
    [first, second, first].map((pixels) => planes(pixels, 3)),
  );
  const reversed = await openSampleSet(folder, card(dims, { channels: 'BGR' }), dims);
  const [blue] = await all(reversed.calibration!);
  t.strictSame(blue!.slice(0, 20), planes(first, 3).slice(40));
});

t.test('JPEG pictures come near, turned as the camera was held, and grey for a model of one channel', async (t) => {
  const width = 16;
  const pixels = Uint8Array.from({ length: width * 8 * 3 }, (_, at) =>
    at % 3 === 0 ? 200 : Math.floor(at / 3) % width < 8 ? 40 : 120,
  );
  const jpeg = await sharp(pixels, { raw: { width, height: 8, channels: 3 } })
    .withMetadata({ orientation: 6 })
    .jpeg({ quality: 95, chromaSubsampling: '4:4:4' })
    .toBuffer();
  const folder = t.testdir({ calibration: {} });
  writeFileSync(join(folder, 'calibration', 'a.jpg'), jpeg);
  // A quarter turned: 16 rows of 8, the dark half on top.
  const dims = [1, 3, 16, 8];
  const [colour] = await all((await openSampleSet(folder, card(dims), dims)).calibration!);
  const near = (value: number | undefined, expected: number) => Math.abs(value! - expected) <= 8;
  t.ok(near(colour![3], 200) && near(colour![128 + 3], 40) && near(colour![256 + 127], 120), String(colour![131]));
  const greyDims = [1, 1, 16, 8];
  const [grey] = await all((await openSampleSet(folder, card(greyDims), greyDims)).calibration!);
  t.equal(grey!.length, 128);
  t.ok(grey![3]! > 40 && grey![3]! < 200 && grey![127]! > grey![3]!);
});

t.test('pictures are resized by their shorter side and cropped, or put into a square and padded', async (t) => {
  const folder = t.testdir({ calibration: {} });
  const halves = Uint8Array.from({ length: 40 * 20 * 3 }, (_, at) => (Math.floor(at / 3) % 40 < 20 ? 10 : 210));
  writeFileSync(join(folder, 'calibration', 'a.png'), await png(halves, 40, 20, 3));
  const dims = [1, 3, 8, 8];
  const [cropped] = await all((await openSampleSet(folder, card(dims, { resize: 10, crop: 8 }), dims)).calibration!);
  const row = cropped!.slice(0, 8);
  t.ok(row[0] === 10 && row[7] === 210 && row.filter((value) => value === 10).length >= 3, row.join());
  const [boxed] = await all((await openSampleSet(folder, card(dims, { letterbox: 8, pad: 114 }), dims)).calibration!);
  t.ok(boxed!.slice(0, 3).every((value) => value === 10) && boxed!.slice(5, 8).every((value) => value === 210));
  t.ok(
    boxed!.slice(4 * 8, 64).every((value) => value === 114),
    'below the picture',
  );
});

t.test('labels find their samples by file name or index', async (t) => {
  const folder = t.testdir({
    calibration: {},
    test: {},
    'labels.csv': 'sample,label\r\nb.png,2\r\n\r\n with, comma.png , 7 \r\na.png,0\r\nother.png,5\r\n',
  });
  const picture = await png(bytes(12), 2, 2, 3);
  for (const name of ['a.png', 'b.png', 'with, comma.png']) writeFileSync(join(folder, 'test', name), picture);
  writeFileSync(join(folder, 'calibration', 'a.png'), picture);
  const dims = [1, 3, 2, 2];
  const { test, calibration } = await openSampleSet(folder, card(dims), dims);
  t.strictSame(test!.labels, [0, 2, 7]);
  t.equal(calibration!.labels, null, 'calibration has none, whatever its names');

  const array = t.testdir({
    'calibration.npy': npy('(1, 2)', bytes(2)),
    'test.npy': npy('(3, 2)', bytes(6)),
    'labels.csv': 'sample,label\n2,9\n0,4\n1,4\n',
  });
  t.strictSame((await openSampleSet(array, card([1, 2]), [1, 2])).test!.labels, [4, 4, 9]);
  rmSync(join(array, 'labels.csv'));
  t.equal((await openSampleSet(array, card([1, 2]), [1, 2])).test!.labels, null);
});

t.test('a label that is missing or no class is an error that names it', async (t) => {
  const parts = { 'calibration.npy': npy('(1, 2)', bytes(2)), 'test.npy': npy('(2, 2)', bytes(4)) };
  for (const line of ['1', '1,', ',', '1,-1', '1,1.5', '1,cat', '1,1e3', '1;2']) {
    const folder = t.testdir({ ...parts, 'labels.csv': `sample,label\n0,1\n${line}\n` });
    await t.rejects(
      openSampleSet(folder, card([1, 2]), [1, 2]),
      { code: 'samples/unreadable', message: /line 3/, subject: join(folder, 'labels.csv') },
      line,
    );
  }
  const folder = t.testdir({ ...parts, 'labels.csv': 'sample,label\n0,1\n' });
  const missing = { code: 'samples/unreadable', message: /1 test samples have no label/, subject: /labels\.csv: 1$/ };
  await t.rejects(openSampleSet(folder, card([1, 2]), [1, 2]), missing);
});

t.test('of test samples alone a quarter is for calibration, 64 at most, and none is used twice', async (t) => {
  for (const [count, borrowed] of [
    [2, 1],
    [9, 2],
    [40, 10],
    [300, 64],
  ] as const) {
    const labels = Array.from({ length: count }, (_, index) => index % 5);
    const folder = t.testdir({
      'test.npy': npy(
        `(${count}, 1)`,
        Float32Array.from({ length: count }, (_, index) => index),
      ),
      'labels.csv': `sample,label\n${labels.map((label, index) => `${index},${label}`).join('\n')}`,
    });
    const { calibration, test, calibrationFromTest } = await openSampleSet(folder, card([1, 1]), [1, 1]);
    t.equal(calibrationFromTest, true);
    t.strictSame([calibration!.count, test!.count], [borrowed, count - borrowed]);
    t.strictSame([...(await all(calibration!)), ...(await all(test!))].flat(), [...labels.keys()]);
    t.strictSame(test!.labels, labels.slice(borrowed));
    t.not(calibration!.digest, test!.digest);
  }
  const one = t.testdir({ 'test.npy': npy('(1, 1)', bytes(1)) });
  await t.rejects(openSampleSet(one, card([1, 1]), [1, 1]), { code: 'samples/unreadable', subject: one });
});

t.test('a folder without samples, and a part without any, are errors that name it', async (t) => {
  const empty = t.testdir({ calibration: { 'readme.md': 'x' }, test: {} });
  for (const path of [empty, join(empty, 'absent'), join(empty, 'calibration', 'readme.md')])
    await t.rejects(openSampleSet(path, card([1, 1]), [1, 1]), {
      code: 'samples/unreadable',
      subject: new RegExp(path),
    });
  const none = t.testdir({ 'calibration.npy': npy('(0, 4)', new Uint8Array(0)) });
  await t.rejects(openSampleSet(none, card([1, 4]), [1, 4]), { code: 'samples/unreadable', message: /empty/ });
});

t.test('malformed arrays are refused, and the reason is said', async (t) => {
  const good = npy('(2, 3)', bytes(6));
  const changed = (at: number, value: number) => Buffer.from(good.map((byte, index) => (index === at ? value : byte)));
  const cases: readonly [string, Uint8Array, RegExp][] = [
    ['nothing', new Uint8Array(0), /signature/],
    ['a few bytes', good.subarray(0, 11), /signature/],
    ['another signature', changed(1, 0x6e), /signature/],
    ['a header that ends behind the file', changed(9, 0x7f), /header/],
    ['a header cut off', good.subarray(0, 40), /header/],
    ['columns first', npy('(2, 3)', bytes(6), { order: 'True' }), /header/],
    ['float64', npy('(2, 3)', bytes(48), { descr: '<f8' }), /<f8/],
    ['big-endian', npy('(2, 3)', bytes(24), { descr: '>f4' }), />f4/],
    ['objects', npy('(2, 3)', bytes(6), { descr: '|O' }), /\|O/],
    ['too few values', npy('(2, 4)', bytes(6)), /does not fit/],
    ['too many values', npy('(2, 2)', bytes(6)), /does not fit/],
    ['a negative size', npy('(-2, -3)', bytes(6)), /does not fit/],
    ['half a size', npy('(1.5, 4)', bytes(6)), /does not fit/],
    ['a size that is a word', npy('(six,)', bytes(6)), /does not fit/],
    ['no size', npy('()', bytes(1)), /does not fit/],
    ['a size beyond all memory', npy('(99999999999999, 99999999999999)', bytes(6)), /does not fit/],
  ];
  for (const [name, file, message] of cases) {
    t.throws(() => parseNpy(file, 'the file'), { code: 'samples/unreadable', subject: 'the file', message }, name);
    const folder = t.testdir({ 'calibration.npy': Buffer.from(file) });
    await t.rejects(openSampleSet(folder, card([1, 3]), [1, 3]), { code: 'samples/unreadable' }, name);
  }
  t.strictSame(parseNpy(npy('(6,)', Uint8Array.of(1, 2, 3, 4, 5, 6)), 'x'), {
    dims: [6],
    values: Buffer.from([1, 2, 3, 4, 5, 6]),
  });
});

t.test(
  'samples that do not fit, pictures that are cut off and files that go away fail when they are read',
  async (t) => {
    const wrong = t.testdir({ 'calibration.npy': npy('(2, 3)', bytes(6)) });
    const { calibration } = await openSampleSet(wrong, card([1, 4]), [1, 4]);
    await t.rejects(calibration!.read(0), { code: 'samples/mismatch' });

    const folder = t.testdir({ calibration: {} });
    const path = (name: string) => join(folder, 'calibration', name);
    const picture = await png(bytes(32 * 32 * 3), 32, 32, 3);
    writeFileSync(path('a.png'), picture.subarray(0, picture.length / 2));
    writeFileSync(path('b.jpg'), 'no picture');
    writeFileSync(path('c.npy'), npy('(32, 32, 3)', bytes(32 * 32 * 3)));
    writeFileSync(path('d.png'), picture);
    mkdirSync(path('e.npy'));
    const dims = [1, 3, 32, 32];
    const opened = (await openSampleSet(folder, card(dims), dims)).calibration!;
    for (const name of ['c.npy', 'd.png']) rmSync(path(name));
    for (const [index, name] of ['a.png', 'b.jpg', 'c.npy', 'd.png', 'e.npy'].entries())
      await t.rejects(opened.read(index), { code: 'samples/unreadable', subject: path(name) }, name);

    symlinkSync('nowhere', path('f.png'));
    await t.rejects(openSampleSet(folder, card(dims), dims), { code: 'samples/unreadable', subject: path('f.png') });
  },
);

t.test('a digest is that of the files and of what is done to them', async (t) => {
  const digest = async (folder: string, preprocess: Preprocess = {}) =>
    (await openSampleSet(folder, card([1, 3], preprocess), [1, 3])).calibration!.digest;
  const [values, other] = [Uint8Array.of(1, 2, 3), Uint8Array.of(1, 2, 4)];
  const folder = t.testdir({
    one: { 'calibration.npy': npy('(1, 3)', values) },
    two: { 'calibration.npy': npy('(1, 3)', values) },
  });
  const first = await digest(join(folder, 'one'));
  t.equal(await digest(join(folder, 'one')), first);
  t.equal(await digest(join(folder, 'two')), first, 'wherever it lies');
  t.not(await digest(join(folder, 'one'), { scale: 0.5 }), first);
  writeFileSync(join(folder, 'two', 'calibration.npy'), npy('(1, 3)', other));
  t.not(await digest(join(folder, 'two')), first);

  const pictures = t.testdir({ calibration: { 'a.npy': npy('(3,)', values) } });
  const before = await digest(pictures);
  writeFileSync(join(pictures, 'calibration', 'b.npy'), npy('(3,)', other));
  t.not(await digest(pictures), before);
});

t.test('a sample in memory is decoded as one in a file', async (t) => {
  const dims = [1, 3, 6, 6];
  const folder = t.testdir({ calibration: {} });
  const files = {
    'a.jpg': await sharp(bytes(108), { raw: { width: 6, height: 6, channels: 3 } })
      .jpeg()
      .toBuffer(),
    'b.npy': npy('(6, 6, 3)', bytes(108)),
    'c.png': await png(bytes(108), 6, 6, 3),
  };
  for (const [name, file] of Object.entries(files)) writeFileSync(join(folder, 'calibration', name), file);
  const preprocess = { scale: 1 / 255, mean: [0.1, 0.2, 0.3] };
  const expected = await all((await openSampleSet(folder, card(dims, preprocess), dims)).calibration!);
  for (const [index, name] of Object.keys(files).entries()) {
    const file = readFileSync(join(folder, 'calibration', name));
    const decoded = await decodeSample(name.slice(2) as 'jpg', file, card(dims, preprocess), dims);
    t.strictSame([...decoded], expected[index], name);
  }
  await expectUnreadable(t, 'jpg');
  await expectUnreadable(t, 'npy');
});

async function expectUnreadable(t: Test, type: 'jpg' | 'npy'): Promise<void> {
  await t.rejects(decodeSample(type, Buffer.from('nothing of the kind'), card([1, 3, 6, 6]), [1, 3, 6, 6]), {
    code: 'samples/unreadable',
  });
}
