/** The real firmware, as a process and on emulated boards, each over a real serial port on a pseudo-terminal. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { headerFields } from '../../configs/contracts/image.js';
import { preloadedSlot, type StatusName } from '../../configs/contracts/mcu.js';
import { upload } from '../../firmware-bridge/flash.js';
import { McuRefusal } from '../../firmware-bridge/link/connection.js';
import { crc32 } from '../../firmware-bridge/link/framing.js';
import type { Mcu } from '../../firmware-bridge/mcu.js';
import { packForCortexM } from '../../native/index.js';
import { undefinedOnCortexM } from '../support/c-program.js';
import { openMcu, referenceOutputs, skipsHost, skipsQemu } from '../support/firmware.js';
import { imageOf, networkOfEverything } from '../support/images.js';
import { openRealModel, realImage, skipsModels } from '../support/real-images.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();
const folder = mkdtempSync(join(tmpdir(), 'quantd-firmware-'));
t.teardown(() => rmSync(folder, { recursive: true }));

interface Board {
  readonly where: string;
  readonly core: string;
  readonly counter: string;
  readonly skip: string | false;
}

const boards: readonly Board[] = [
  { where: 'host', core: 'host', counter: 'nanoseconds', skip: skipsHost },
  { where: 'qemu-netduinoplus2', core: 'cortex-m4', counter: 'instructions', skip: skipsQemu },
  { where: 'qemu-mps2-an386', core: 'cortex-m4', counter: 'instructions', skip: skipsQemu },
  { where: 'qemu-mps2-an500', core: 'cortex-m7', counter: 'instructions', skip: skipsQemu },
];

async function smallModel(bits: 4 | 8) {
  const { bytes, samples } = await imageOf(networkOfEverything(seed), { weightBits: bits, activationBits: bits }, seed);
  const [expected] = await referenceOutputs(bytes, [samples[0]!]);
  return { bytes, input: samples[0]!, expected: expected! };
}
const first = await smallModel(8);
const second = await smallModel(4);
type Model = typeof first;

async function serves(t: Test, mcu: Mcu, model: Model, message: string): Promise<void> {
  t.strictSame((await mcu.infer([model.input])).outputs[0], model.expected, message);
}

/** Expects the firmware to refuse with a status. */
async function refused(t: Test, work: Promise<unknown>, status: StatusName): Promise<void> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  t.ok(error instanceof McuRefusal && error.status === status, `${status}, not ${error}`);
}

for (const { where, core, counter, skip } of boards) {
  t.test(
    `${where}: a model is uploaded, activated, confirmed; the next is on trial until confirmed`,
    { skip },
    async (t) => {
      const storage = join(folder, `${where}.flash`);
      const options = where === 'host' ? { storage } : {};
      let mcu = await openMcu(t, where, options);
      /** What a reset does; the process of `host` is started again, as a board after a power cut. */
      const reset = async () => {
        if (where !== 'host') return mcu.reset();
        await mcu.close();
        mcu = await openMcu(t, where, options);
      };
      const info = await mcu.info();
      t.match(info, { board: where.replace('qemu-', ''), core, counter, slotCount: 3 });
      t.match(info.firmware, /^[0-9a-f]{16}$/);
      t.match(await mcu.activation(), { activeSlot: null, loadedSlot: null, isOnTrial: false });
      await refused(t, mcu.infer([first.input]), 'noModel');

      await upload(mcu, 0, first.bytes);
      t.strictSame((await mcu.slotState(0)).image, {
        bytes: first.bytes.length,
        sha256: createHash('sha256').update(first.bytes).digest('hex'),
      });
      await mcu.activate(0);
      await serves(t, mcu, first, 'the first computes what the reference computes');
      await mcu.confirm();
      t.match(await mcu.activation(), { activeSlot: 0, isOnTrial: false, loadedSlot: 0 });

      const during: Promise<void>[] = [];
      await upload(mcu, 1, second.bytes, {
        progress: (done) => {
          if (done > 0 && during.length === 0) during.push(serves(t, mcu, first, 'the first serves during an upload'));
        },
      });
      t.equal((await Promise.all(during)).length, 1);
      await serves(t, mcu, first, 'and after it');
      await mcu.activate(1);
      t.match(await mcu.activation(), { activeSlot: 1, previousSlot: 0, isOnTrial: true, loadedSlot: 1 });
      await serves(t, mcu, second, 'the second, on trial');
      await refused(t, mcu.connection.request('slotOpen', { slot: 0 }), 'slotInUse');

      await reset();
      t.match(await mcu.activation(), { activeSlot: 0, isOnTrial: false, hasReverted: true, loadedSlot: 0 });
      await serves(t, mcu, first, 'a reset ends the trial');
      await mcu.activate(1);
      await mcu.revert();
      t.match(await mcu.activation(), { activeSlot: 0, isOnTrial: false, loadedSlot: 0 });
      await serves(t, mcu, first, 'and so does revert');
      await refused(t, mcu.revert(), 'notOnTrial');
      await refused(t, mcu.confirm(), 'notOnTrial');
      await mcu.activate(1);
      await mcu.confirm();
      await reset();
      t.match(await mcu.activation(), { activeSlot: 1, isOnTrial: false, hasReverted: false, loadedSlot: 1 });
      await serves(t, mcu, second, 'what is confirmed stays');
    },
  );

  t.test(`${where}: operators are measured one by one and together`, { skip }, async (t) => {
    const mcu = await openMcu(t, where);
    await upload(mcu, 0, first.bytes);
    await mcu.load(0);
    await mcu.infer([first.input]);
    const model = await mcu.model();
    const { operators, operatorsAtInput } = model;
    t.equal(operatorsAtInput, 1, 'the input is quantized as it arrives');
    const kernels: string[] = [];
    let sum = 0;
    for (let index = operatorsAtInput; index < operators; index++) {
      kernels.push(await mcu.kernelOf(index));
      const { minimum, median } = await mcu.measure({ first: index, count: 1, warmUps: 1, runs: 4 });
      if (!(minimum > 0 && median >= minimum)) t.fail(`operator ${index}: ${minimum}, ${median}`);
      sum += minimum;
    }
    const named = kernels.filter((name) => name !== '');
    t.ok(named.length > 0 && named.length < kernels.length, 'kernels of convolutions are named');
    t.notOk(named.includes('reference'), `${named}: Cortex-M has kernels of its own`);
    const count = operators - operatorsAtInput;
    const whole = await mcu.measure({ first: operatorsAtInput, count, warmUps: 1, runs: 4 });
    if (counter === 'instructions') {
      // A convolution reads what nothing changes; over a whole run, what is left in the arena decides a few branches.
      const convolution = { first: operatorsAtInput + kernels.indexOf(named[0]!), count: 1, warmUps: 0, runs: 9 };
      const once = await mcu.measure(convolution);
      t.equal(once.minimum, once.median, 'counts are exact');
      t.strictSame(await mcu.measure(convolution), once, 'and the same again');
      t.ok(whole.median - whole.minimum < 1e-4 * whole.median, `${whole.minimum}, ${whole.median}`);
      t.ok(Math.abs(whole.minimum - sum) < 0.01 * sum, `${sum} one by one, ${whole.minimum} together`);
    }
    await t.rejects(mcu.infer([]), RangeError);
    await refused(t, mcu.measure({ first: 0, count: 1, warmUps: 0, runs: 1 }), 'range');
    await refused(t, mcu.measure({ first: operators, count: 1, warmUps: 0, runs: 1 }), 'range');
    await refused(t, mcu.measure({ first: 1, count: 2 ** 32 - 1, warmUps: 0, runs: 1 }), 'range');
    await refused(t, mcu.measure({ first: 1, count: 1, warmUps: 0, runs: 65 }), 'range');
    await refused(t, mcu.connection.request('run', {}), 'noInput');
    const statistics = await mcu.statistics();
    t.ok(statistics.arenaBytesUsed > 0 && statistics.arenaBytesUsed <= model.arenaBytes);
    t.ok(statistics.workspaceBytesUsed >= model.preparedBytes + model.arenaBytes + model.bufferBytes);
    if (where !== 'host')
      t.ok(statistics.stackBytesUsed > 100 && statistics.stackBytesUsed < statistics.stackBytes / 2);
    t.match(statistics, { framesDamaged: 0, bytesLost: 0 });
  });

  t.test(`${where}: what is wrong is refused, and the firmware goes on`, { skip }, async (t) => {
    const mcu = await openMcu(t, where);
    const { connection } = mcu;
    const { capacityBytes } = await mcu.slotState(0);
    await refused(t, mcu.load(0), 'slotEmpty');
    await refused(t, mcu.load(7), 'range');
    await t.rejects(upload(mcu, 0, new Uint8Array(capacityBytes + 1)), { code: 'mcu/refused' });
    await refused(t, connection.request('slotOpen', { slot: 2 }), 'readOnly');
    const data = new Uint8Array(64).fill(5);
    for (const offset of [capacityBytes, capacityBytes - 32, 2 ** 32 - 32, 31])
      await refused(t, connection.request('slotWrite', { slot: 0, offset, data }), 'range');
    await refused(t, connection.request('slotChecksum', { slot: 0, bytes: capacityBytes + 1 }), 'range');
    const sha256 = new Uint8Array(32);
    await refused(t, connection.request('slotSeal', { slot: 0, bytes: 64, sha256 }), 'digest');

    const broken = first.bytes.slice();
    broken[broken.length - 9]! ^= 1;
    await refused(t, upload(mcu, 0, broken), 'image');
    const huge = first.bytes.slice();
    const word = (field: (typeof headerFields)[number], value: number) =>
      new DataView(huge.buffer).setUint32(4 * headerFields.indexOf(field), value, true);
    word('arenaBytes', 0xffffffff);
    word('checksum', crc32(huge.subarray(4 * headerFields.length)));
    await upload(mcu, 0, huge);
    await refused(t, mcu.load(0), 'memory');

    await upload(mcu, 0, first.bytes);
    await refused(t, connection.request('slotWrite', { slot: 0, offset: 0, data }), 'slotSealed');
    await mcu.load(0);
    await refused(t, connection.request('inputWrite', { input: 0, patch: 0, offset: 1, data }), 'range');
    await refused(t, connection.request('inputWrite', { input: 0, patch: 1, offset: 0, data }), 'range');
    await refused(t, connection.request('inputWrite', { input: 1, patch: 0, offset: 0, data }), 'range');
    await refused(t, connection.request('outputRead', { output: 0, offset: 0, count: 1 }), 'noOutput');
    await serves(t, mcu, first, 'and it serves');
  });
}

t.test('engine and kernels need nothing of the C library but its memory functions', { skip: skipsQemu }, async (t) => {
  const needed = await undefinedOnCortexM();
  // Division of 64 bits is the compiler's own.
  t.strictSame(
    needed.filter((name) => !/^(memcpy|memset|memmove|memcmp|__aeabi_u?ldivmod)$/.test(name)),
    [],
  );
  t.ok(needed.includes('memset'), `${needed}`);
});

const models = ['cnn-mnist', 'dscnn-kws12', 'resnet8-cifar10', 'mobilenetv1-025-vww96'];
const precisions = ['W8A8', 'W4A8', 'W4A4', 'mixed'];
/**
 * A byte takes an emulated line 40 us, on a busy machine twice that: the 27,648 floats that MobileNet reads take longer to arrive than anything
 * that is tested with them.
 */
const isSlowToSend = (input: Float32Array) => input.length > 10_000;

for (const { where, skip } of boards.slice(0, 3)) {
  t.test(
    `${where}: trained models give the reference's outputs bit for bit`,
    { skip: skip || skipsModels },
    async (t) => {
      const random = new Random(seed);
      const kernels = new Set<string>();
      for (const name of models) {
        const model = await openRealModel(name);
        const isShort = where === 'qemu-mps2-an386' && isSlowToSend(model.samples[0]!);
        // An image on a real wire takes its time: one of them for each board, the others lie in the board's memory.
        for (const precision of isShort ? ['W8A8', 'mixed'] : precisions) {
          const drawn = random.below(2 ** 31);
          const build = (form: Parameters<typeof realImage>[2]) =>
            realImage(model, precision === 'mixed' ? new Random(drawn) : precision, form);
          // What is drawn has codes of few bits between convolutions, which may as well lie two in a byte.
          const form = precision === 'mixed' ? { arenaCeilingBytes: 0 } : {};
          const { bytes: image, arenaBytes: planned } = build({ packer: packForCortexM, ...form });
          const path = join(folder, `${where}-${name}-${precision}.qimg`);
          writeFileSync(path, image);
          const mcu = await openMcu(t, where, { preloaded: path });
          await mcu.load(preloadedSlot);
          const expected = await referenceOutputs(build({}).bytes, [model.samples[0]!]);
          const { outputs, ticks } = await mcu.infer([model.samples[0]!]);
          t.strictSame(outputs, expected, `${name} ${precision}`);
          t.equal((await mcu.slotState(preloadedSlot)).image?.sha256, createHash('sha256').update(image).digest('hex'));
          const { arenaBytes, preparedBytes, scratchBytes, operators } = await mcu.model();
          const { arenaBytesUsed, workspaceBytesUsed } = await mcu.statistics();
          t.ok(preparedBytes < 192 * (operators + 1), `${preparedBytes} bytes for ${operators} records: no weights`);
          for (let index = 0; index < operators; index++) kernels.add(await mcu.kernelOf(index));
          // Tensors take multiples of 64 bytes; and what was written last may happen to be what the arena was filled with.
          t.ok(
            arenaBytesUsed <= planned && arenaBytesUsed > planned - 64 - 8,
            `planned ${planned}, used ${arenaBytesUsed}`,
          );
          t.comment(
            `${name} ${precision}: ${image.length} bytes, ${preparedBytes} prepared, arena ${arenaBytesUsed} of ${arenaBytes}, scratch ${scratchBytes}, workspace ${workspaceBytesUsed}, ${ticks} ticks`,
          );
          await mcu.close();
        }
      }
      t.notOk(kernels.has('reference'), `${[...kernels]}`);
    },
  );
}

/** Stages of trained models whose input arrives patch by patch; the arena is to be below so many bytes. */
const stages = [
  { name: 'mobilenetv1-025-vww96', split: 8, grid: { rows: 2, columns: 2 }, below: 32 * 1024 },
  { name: 'mobilenetv1-025-vww96', split: 8, grid: { rows: 4, columns: 4 }, below: 20 * 1024 },
  { name: 'resnet8-cifar10', split: 4, grid: { rows: 3, columns: 2 }, below: 48 * 1024 },
];

for (const { where, skip } of boards.slice(0, 3)) {
  t.test(
    `${where}: what arrives patch by patch gives the outputs of layers`,
    { skip: skip || skipsModels },
    async (t) => {
      for (const { name, below, ...cut } of stages) {
        const model = await openRealModel(name);
        const [input] = model.samples as [Float32Array];
        const layered = realImage(model, 'W8A8');
        const expected = await referenceOutputs(layered.bytes, [input]);
        const patches = { ...cut, isInputStreamed: true };
        const { bytes: image, arenaBytes: planned } = realImage(model, 'W8A8', { packer: packForCortexM, patches });
        const path = join(folder, `${where}-${name}-patches.qimg`);
        writeFileSync(path, image);
        const mcu = await openMcu(t, where, { preloaded: path });
        await mcu.load(preloadedSlot);
        const { outputs, ticks } = await mcu.infer([input]);
        t.strictSame(outputs, expected, name);
        // What an inference leaves behind is the same for all models: one that is sent quickly says it for them.
        const isRepeated = !isSlowToSend(input);
        if (isRepeated) t.strictSame((await mcu.infer([input])).outputs, expected, 'and again');
        const count = cut.grid.rows * cut.grid.columns;
        const { patches: patchCount, scratchBytes } = await mcu.model();
        const { arenaBytesUsed, workspaceBytesUsed } = await mcu.statistics();
        t.equal(patchCount, count);
        t.ok(
          arenaBytesUsed <= planned && arenaBytesUsed > planned - 64 - 8,
          `planned ${planned}, used ${arenaBytesUsed}`,
        );
        t.ok(planned < below && planned < layered.arenaBytes, `${planned} bytes, layer by layer ${layered.arenaBytes}`);
        t.comment(
          `${name} ${cut.grid.rows}x${cut.grid.columns}: arena ${planned}, layer by layer ${layered.arenaBytes}, scratch ${scratchBytes}, workspace ${workspaceBytesUsed}, ${ticks} ticks`,
        );
        const { connection } = mcu;
        const data = new Uint8Array(64);
        await refused(t, connection.request('run', {}), 'noInput');
        await refused(t, connection.request('patchRun', { patch: 0 }), 'noInput');
        await refused(t, connection.request('patchRun', { patch: count }), 'range');
        await refused(t, connection.request('patch', { patch: count }), 'range');
        await refused(t, connection.request('inputWrite', { input: 0, patch: 1, offset: 0, data }), 'range');
        await connection.request('inputWrite', { input: 0, patch: 0, offset: 0, data });
        await refused(t, connection.request('patchRun', { patch: 0 }), 'noInput');
        if (isRepeated) t.strictSame((await mcu.infer([input])).outputs, expected, 'an inference begins anew');
        await mcu.close();
      }
    },
  );
}

t.test('a trained model goes over the wire to an emulated board', { skip: skipsQemu || skipsModels }, async (t) => {
  const model = await openRealModel('dscnn-kws12');
  const { bytes: image } = realImage(model, 'W4A4');
  for (const where of ['qemu-netduinoplus2', 'qemu-mps2-an386']) {
    const mcu = await openMcu(t, where);
    const started = performance.now();
    await upload(mcu, 1, image);
    const seconds = (performance.now() - started) / 1000;
    t.comment(`${where}: ${image.length} bytes in ${seconds.toFixed(2)} s`);
    await mcu.activate(1);
    t.strictSame((await mcu.infer([model.samples[1]!])).outputs, await referenceOutputs(image, [model.samples[1]!]));
    await mcu.close();
  }
});
