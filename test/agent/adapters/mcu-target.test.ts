/** A microcontroller as a target: what rows there are, and that the board is left as it was found. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { McuTarget } from '../../../agent/adapters/mcu-target.js';
import { buildImage, type ImageOptions } from '../../../agent/core/image/build.js';
import { fitToRoom, uniformInt8 } from '../../../agent/core/image/room.js';
import { runOverheadKey } from '../../../agent/core/latency.js';
import { encode } from '../../../agent/core/onnx/codec.js';
import { formatPrecision } from '../../../agent/core/precision.js';
import { prepare } from '../../../agent/core/prepare.js';
import type { ProfileReport } from '../../../agent/jobs/profile.js';
import type { QuantizeDocument } from '../../../agent/report.js';
import { preloadedSlot } from '../../../configs/contracts/mcu.js';
import { upload } from '../../../firmware-bridge/flash.js';
import { startFirmware } from '../../../firmware-bridge/link/firmware-process.js';
import { Mcu } from '../../../firmware-bridge/mcu.js';
import { openMcu, skipsHost, skipsQemu } from '../../support/firmware.js';
import { imageOf, networkOfEverything } from '../../support/images.js';
import { calibratedNetwork, NetworkBuilder } from '../../support/networks.js';
import { feed } from '../../support/ort.js';
import { dataFolder as data, skipsModels } from '../../support/real-images.js';
import { announceSeed, Random } from '../../support/seed.js';
import { never, quiet } from '../../support/steps.js';

const seed = announceSeed();
const anyRange: ImageOptions = {
  rangeOf: () => ({ minimum: -4, maximum: 4 }),
  pairSafe: false,
  biasCorrection: () => null,
};
const int8 = { weightBits: 8, activationBits: 8 } as const;
const int4 = { weightBits: 4, activationBits: 4 } as const;
const source = networkOfEverything(seed);
const { prepared, samples } = await calibratedNetwork(source, seed, 1);
const eight = await imageOf(source, int8, seed);
const four = await imageOf(source, int4, seed);
const feeds = new Map([...feed(prepared.card.input.name, prepared.inputDims, samples[0]!)]);

async function profiles(t: Test, target: McuTarget): Promise<Map<string, number>> {
  const rows = await target.measure(prepared, prepared.operators, [int8, int4], never, quiet);
  const medians = new Map(rows.map((row) => [`${row.operatorKey}@${row.precision}`, row.median]));
  for (const operator of prepared.operators)
    for (const precision of target.precisionsOf(prepared, operator).map(formatPrecision))
      if (['W8A8', 'W4A4'].includes(precision)) t.ok(medians.has(`${operator.key}@${precision}`), operator.name);
  t.equal(medians.get(`${runOverheadKey}@float`), 0, 'a run is its operators');
  for (const { repeats, throttled } of rows) if (repeats < 1 || throttled) t.fail('an odd row');
  return medians;
}

t.test('a process: every operator has a row, and the active model serves again', { skip: skipsHost }, async (t) => {
  const firmware = await startFirmware('host');
  t.teardown(() => firmware.stop());
  const setUp = await Mcu.open(firmware.path);
  await upload(setUp, 0, eight.bytes);
  await setUp.activate(0);
  await setUp.confirm();
  await setUp.close();
  const target = await McuTarget.open(firmware.path);
  t.equal(target.counter, 'nanoseconds');
  t.match(await target.identity(), { kind: 'mcu', architecture: 'host', features: ['CLOCK_MONOTONIC'] });
  await profiles(t, target);
  const models = [
    { name: 'float', bytes: encode(prepared.model) },
    { name: 'W8A8', bytes: eight.bytes },
    { name: 'W4A4', bytes: four.bytes },
  ];
  const { timings, ratios } = await target.compare(models, feeds, never, quiet);
  t.strictSame(
    timings.map(({ name }) => name),
    ['float', 'W8A8', 'W4A4'],
  );
  t.ok(Number.isNaN(timings[0]!.median), 'there is no float on a microcontroller');
  t.ok(timings.slice(1).every(({ minimum, median }) => minimum > 0 && median >= minimum));
  t.equal(ratios[1], 1);
  const after = await Mcu.open(firmware.path);
  t.match(await after.activation(), { activeSlot: 0, loadedSlot: 0, isOnTrial: false });
  t.strictSame((await after.slotState(0)).image?.bytes, eight.bytes.length);
  await after.close();
});

t.test('an emulated board: counts are the same every time and add up', { skip: skipsQemu }, async (t) => {
  const target = await McuTarget.open('qemu-mps2-an386');
  t.equal(target.counter, 'instructions');
  const first = await profiles(t, target);
  const second = await profiles(t, target);
  t.strictSame([...second.keys()], [...first.keys()]);
  // The same input, the same order, the same counts.
  t.strictSame(second, first);
  const [whole] = (await target.compare([{ name: 'W8A8', bytes: eight.bytes }], feeds, never, quiet)).timings;
  const sum = prepared.operators.reduce((total, { key }) => total + (first.get(`${key}@W8A8`) ?? 0), 0);
  // Ranges differ between the image that is measured and this one, and with them the branches that are taken.
  t.ok(Math.abs(sum - whole!.median) < 0.05 * whole!.median, `${sum} by operator, ${whole!.median} together`);
});

t.test('an image that is larger than a slot comes with an emulated board', { skip: skipsQemu }, async (t) => {
  const target = await McuTarget.open('qemu-netduinoplus2');
  const builder = new NetworkBuilder(new Random(seed), [1, 4, 8, 8]);
  const network = builder.build([
    builder.gemm(builder.pooled(builder.conv(builder.conv('x', { out: 64 }), { out: 64 })), 4),
  ]);
  const large = await imageOf(network, int8, seed);
  t.ok(large.bytes.length > 24_000);
  const input = (await calibratedNetwork(network, seed, 1)).samples[0]!;
  const inputs = new Map([...feed('x', [1, 4, 8, 8], input)]);
  const { timings } = await target.compare([{ name: 'large', bytes: large.bytes }], inputs, never, quiet);
  t.ok(timings[0]!.median > 0);
});

t.test('where layers do not fit the RAM, operators are timed patch by patch', { skip: skipsQemu }, async (t) => {
  const target = await McuTarget.open('qemu-netduinoplus2');
  const builder = new NetworkBuilder(new Random(seed), [1, 3, 96, 96]);
  const image = builder.conv(builder.conv('x', { out: 12, stride: 2 }), { out: 24 });
  const wide = prepare(
    builder.build([builder.gemm(builder.pooled(builder.conv(image, { out: 8, stride: 2 })), 4)]),
    null,
  );
  const layered = buildImage(wide, uniformInt8(wide), anyRange);
  t.ok(layered.arenaBytes > target.room.ramBytes, `${layered.arenaBytes} bytes`);
  const rows = await target.measure(wide, wide.operators, [int8], never, quiet);
  const medians = new Map(rows.map((row) => [`${row.operatorKey}@${row.precision}`, row.median]));
  const convolutions = wide.operators.filter(({ op }) => op === 'Conv');
  const perMac = convolutions.map(({ key, macs }) => medians.get(`${key}@W8A8`)! / macs);
  // What is computed twice is not in the rows: an instruction or two for a multiply-accumulate, as layer by layer.
  t.ok(
    perMac.every((each) => each > 0.5 && each < 4),
    `${perMac}`,
  );
  const fit = fitToRoom(
    wide,
    target.room,
    {},
    (patches) => buildImage(wide, uniformInt8(wide), { ...anyRange, patches }),
    ({ macs }) => macs,
  );
  t.ok(fit.patches !== null && fit.arenaBytes + fit.besideBytes <= target.room.ramBytes);

  const flat = new NetworkBuilder(new Random(seed), [1, 90_000]);
  const huge = prepare(flat.build([flat.gemm('x', 2)]), null);
  const refused = target.measure(huge, huge.operators, [int8], never, quiet);
  await t.rejects(refused, { code: 'mcu/no-room', message: /bytes of RAM on the board, \d+ more than the 72576/ });
});

const main = fileURLToPath(new URL('../../../agent/main.js', import.meta.url));
const models = fileURLToPath(new URL('../../../../scripts/firewatch/model', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'quantd-mcu-'));
t.teardown(() => rmSync(folder, { recursive: true }));
function quantd(...args: string[]) {
  const more = ['--state', join(folder, 'state'), '--json'];
  return spawnSync(process.execPath, [main, ...args, ...more], { encoding: 'utf8' });
}

t.test('profile and quantize take mcu:host for a target', { skip: skipsHost }, async (t) => {
  const model = join(models, 'firewatch-v1.onnx');
  const profiled = quantd('profile', model, '--target', 'mcu:host', '--precisions', 'W8A8,W4A8');
  t.equal(profiled.status, 0, profiled.stderr);
  const profile = JSON.parse(profiled.stdout) as ProfileReport;
  t.match(profile, { unit: 'ms', target: { kind: 'mcu', counter: 'nanoseconds' } });
  t.ok(profile.rows.some(({ precision }) => precision === 'W4A8'));
  const args = ['--data', join(models, 'samples'), '--target', 'mcu:host', '--out', join(folder, 'out')];
  const quantized = quantd('quantize', model, ...args, '--precisions', 'W8A8,W4A8', '--budget', 'latency=1.5x');
  t.equal(quantized.status, 0, quantized.stderr);
  const document = JSON.parse(quantized.stdout) as QuantizeDocument;
  t.equal(document.feasible, true);
  t.equal(document.latency.float, null, 'unknown is null');
  t.ok(document.latency.int8! > 0 && document.latency.measured! > 0);
  t.equal(document.artifact.format, 'quantd-image');
});

t.test(
  'an arena of 32 KB is kept by patches, which the document tells',
  { skip: skipsHost || skipsModels },
  async (t) => {
    const model = join(data, 'models', 'mobilenetv1-025-vww96.onnx');
    const args = ['--data', join(data, 'sets', 'vww96'), '--target', 'mcu:host', '--precisions', 'W8A8'];
    const run = (budget: string, out: string) =>
      quantd('quantize', model, ...args, '--budget', budget, '--out', join(folder, out));
    const patched = run('ram=32KB', 'patched');
    t.equal(patched.status, 0, patched.stderr);
    const document = JSON.parse(patched.stdout) as QuantizeDocument;
    t.match(document, { feasible: true, ram: { ceilingBytes: 32 * 1024 }, patches: { ramBytesWithout: 55296 } });
    const { split, grid, ramBytes, redundancy } = document.patches!;
    t.ok(split > 1 && grid.rows * grid.columns > 1 && ramBytes <= 32 * 1024);
    t.ok(redundancy.clipped > 0 && redundancy.nominal > redundancy.clipped);
    t.equal(document.ram.peakBytes, ramBytes);
    t.ok(document.quality.agreement! > 0.95, 'patches compute what layers do');
    const image = readFileSync(document.artifact.path!);
    const preloaded = join(folder, 'patched.qimg');
    writeFileSync(preloaded, image);
    const mcu = await openMcu(t, 'host', { preloaded });
    await mcu.load(preloadedSlot);
    const { patches, arenaBytes, preparedBytes, scratchBytes, bufferBytes } = await mcu.model();
    t.equal(patches, grid.rows * grid.columns);
    t.equal(arenaBytes, ramBytes + 64, 'what was planned is what the board takes, and the slack behind it');
    t.ok(preparedBytes + scratchBytes + bufferBytes <= document.ram.besideBytes!);

    const layered = run('ram=54KB', 'layered');
    t.equal(layered.status, 0, layered.stderr);
    t.equal((JSON.parse(layered.stdout) as QuantizeDocument).patches, null, 'where layers fit, there are none');
    const none = run('ram=8KB', 'none');
    t.equal(none.status, 3, none.stderr);
    const [shortfall] = (JSON.parse(none.stdout) as QuantizeDocument).infeasible;
    t.match(shortfall, { metric: 'ramBytes', ceiling: 8 * 1024, unit: 'bytes' });
    t.ok(shortfall!.minimum! > 8 * 1024 && shortfall!.minimum! < 32 * 1024, `at least ${shortfall!.minimum}`);
  },
);

t.test('a microcontroller that is not there is unreachable, in words', async (t) => {
  const model = join(models, 'firewatch-v1.onnx');
  const absent = quantd('profile', model, '--target', 'mcu:/dev/ttyNoSuchPort');
  t.equal(absent.status, 4, absent.stderr);
  t.match(absent.stderr, /mcu\/unreachable[\s\S]*hint/);
  t.notMatch(absent.stderr, /\n {4}at /, 'no stack');
  const unknown = quantd('profile', model, '--target', 'mcu:teapot');
  t.equal(unknown.status, 2, unknown.stderr);
  const bench = quantd('bench', model, '--target', 'mcu:host');
  t.equal(bench.status, 2, bench.stderr);
});

t.test('milliseconds are no budget where instructions are counted', { skip: skipsQemu }, async (t) => {
  const args = ['--target', 'mcu:qemu-mps2-an386', '--budget', 'latency=5ms', '--out', join(folder, 'none')];
  const { status, stderr } = quantd('quantize', join(models, 'firewatch-v1.onnx'), ...args);
  t.equal(status, 2, stderr);
  t.match(stderr, /counts instructions[\s\S]*0\.7x/);
});
