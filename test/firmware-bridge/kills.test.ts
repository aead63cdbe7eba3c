/** Uploads that are cut off at any moment, on either side: they go on where they stopped, and meanwhile the old model serves. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { EdgeError } from '../../configs/contracts/errors.js';
import { pieceBytes } from '../../configs/contracts/mcu.js';
import { upload } from '../../firmware-bridge/flash.js';
import { startFirmware } from '../../firmware-bridge/link/firmware-process.js';
import { Mcu } from '../../firmware-bridge/mcu.js';
import { openMcu, referenceOutputs, skipsHost, skipsQemu } from '../support/firmware.js';
import { imageOf } from '../support/images.js';
import { NetworkBuilder } from '../support/networks.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();
const random = new Random(seed);
/** Of each kind; 500 altogether in the soak. */
const points = Number(process.env.QUANTD_UPLOAD_KILLS ?? 20) / 2;
const folder = mkdtempSync(join(tmpdir(), 'quantd-kills-'));
t.teardown(() => rmSync(folder, { recursive: true }));
const sectorBytes = 4096;

async function someModel(modelSeed: number) {
  const builder = new NetworkBuilder(new Random(modelSeed), [1, 4, 8, 8]);
  const body = builder.conv(builder.conv('x', { out: 40 }), { out: 64 });
  const network = builder.build([builder.gemm(builder.pooled(body), 5)]);
  const { bytes, samples } = await imageOf(network, { weightBits: 8, activationBits: 8 }, modelSeed);
  const path = join(folder, `${modelSeed}.qimg`);
  writeFileSync(path, bytes);
  const [expected] = await referenceOutputs(bytes, [samples[0]!]);
  return {
    bytes,
    path,
    input: samples[0]!,
    expected: expected!,
    sha256: createHash('sha256').update(bytes).digest('hex'),
  };
}
const [old, other, next] = [await someModel(seed), await someModel(seed + 1), await someModel(seed + 2)];

async function serves(t: Test, mcu: Mcu, model: typeof old, message: string): Promise<void> {
  t.strictSame((await mcu.infer([model.input])).outputs[0], model.expected, message);
}

/** The old model is active, another one lies in the slot that is going to be written. */
async function furnish(mcu: Mcu): Promise<void> {
  await upload(mcu, 0, old.bytes);
  await mcu.activate(0);
  await mcu.confirm();
  await upload(mcu, 1, other.bytes);
}

/** After a cut: nothing has changed for whoever asks, and the upload goes on near where it stopped. */
async function finish(t: Test, mcu: Mcu, reachedBytes: number): Promise<void> {
  t.match(await mcu.activation(), { activeSlot: 0, isOnTrial: false, loadedSlot: 0 });
  await serves(t, mcu, old, 'the old model serves after the cut');
  const progress: number[] = [];
  await upload(mcu, 1, next.bytes, { progress: (done) => progress.push(done) });
  const least = Math.floor(reachedBytes / sectorBytes) * sectorBytes;
  t.ok(progress[0]! >= least, `went on at ${progress[0]}, was at ${reachedBytes}`);
  t.equal((await mcu.slotState(1)).image?.sha256, next.sha256);
  await serves(t, mcu, old, 'the old model serves until another is activated');
  await mcu.activate(1);
  await mcu.confirm();
  await serves(t, mcu, next, 'the next one serves');
}

t.test(`power cuts of the board at ${points} moments`, { skip: skipsHost }, async (t) => {
  const base = join(folder, 'base.flash');
  const first = await Mcu.open('host', { storage: base });
  await furnish(first);
  await first.close();
  let cuts = 0;
  for (let point = 0; point < points; point++) {
    const storage = join(folder, `${point}.flash`);
    copyFileSync(base, storage);
    // All that is erased and written by the upload, the seal, the activation and the confirmation is somewhat more than this.
    const cutPowerAfterBytes = 1 + random.below(2 * next.bytes.length + 3 * sectorBytes);
    t.comment(`cut after ${cutPowerAfterBytes} bytes`);
    const mcu = await Mcu.open('host', { storage, cutPowerAfterBytes });
    let reached = 0;
    try {
      await upload(mcu, 1, next.bytes, { progress: (done) => (reached = done) });
      await mcu.activate(1);
      await mcu.confirm();
    } catch (error) {
      if (!(error instanceof EdgeError) || error.code !== 'mcu/unreachable') throw error;
      cuts++;
    }
    await mcu.close();
    const again = await openMcu(t, 'host', { storage });
    const { activeSlot, isOnTrial } = await again.activation();
    if (activeSlot === 1) {
      t.equal(isOnTrial, false, 'only a confirmed model outlives a cut');
      await serves(t, again, next, 'and serves');
    } else await finish(t, again, reached);
    await again.close();
  }
  t.ok(cuts > 0.7 * points, `${cuts} cuts`);
});

t.test(`gateways killed at ${points} moments`, { skip: skipsHost }, async (t) => {
  const script = fileURLToPath(new URL('../support/upload-child.js', import.meta.url));
  for (let point = 0; point < points; point++) {
    const firmware = await startFirmware('host');
    t.teardown(() => firmware.stop());
    const setUp = await Mcu.open(firmware.path);
    await furnish(setUp);
    await setUp.close();
    const killAt = random.below(next.bytes.length);
    const gateway = spawn(process.execPath, [script, firmware.path, '1', next.path], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let reached = 0;
    createInterface(gateway.stdout).on('line', (line) => {
      reached = Number(line);
      if (reached >= killAt) gateway.kill('SIGKILL');
    });
    await new Promise((resolve) => gateway.once('close', resolve));
    const mcu = await openMcu(t, firmware.path);
    await finish(t, mcu, Math.min(reached, next.bytes.length - 1));
    await mcu.close();
    await firmware.stop();
  }
});

t.test('resets of an emulated board in the middle of an upload', { skip: skipsQemu }, async (t) => {
  for (let point = 0; point < Math.ceil(points / 5); point++) {
    const mcu = await openMcu(t, 'qemu-mps2-an386');
    await furnish(mcu);
    // It is noticed before the next piece, so there has to be one.
    const resetAt = random.below(next.bytes.length - 2 * pieceBytes);
    const stop = new AbortController();
    let reached = 0;
    const progress = (done: number) => {
      reached = done;
      if (done >= resetAt) stop.abort();
    };
    await t.rejects(upload(mcu, 1, next.bytes, { progress, signal: stop.signal }));
    await mcu.reset();
    await finish(t, mcu, reached);
    await mcu.close();
  }
});
