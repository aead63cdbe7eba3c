/** The real daemon, the real console, and the real firmware: a release reaches the chip, and whatever is pulled or reset meanwhile is told and mended. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync, readFileSync, readSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parse } from 'smol-toml';
import t from 'tap';
import { encode } from '../../../agent/core/onnx/codec.js';
import type { Condition, DesiredState, ReportedState } from '../../../configs/contracts/device.js';
import { pieceBytes } from '../../../configs/contracts/mcu.js';
import { spareSlot } from '../../../firmware-bridge/flash.js';
import { firmwareFolder } from '../../../firmware-bridge/link/builds.js';
import { Mcu } from '../../../firmware-bridge/mcu.js';
import type { DeviceDocument } from '../../../fleet-console/commands/devices.js';
import { inputDims, inputSize, smallCard, smallModel } from '../../support/artifacts.js';
import { until } from '../../support/broker.js';
import { makeRelease, startConsole } from '../../support/console.js';
import { DaemonProcess, stateFolder } from '../../support/daemon-process.js';
import { skipsHost, skipsQemu } from '../../support/firmware.js';
import { NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const patience = 60_000;

const boardFile = fileURLToPath(new URL('../../../../configs/boards/host.toml', import.meta.url));
const { storage: hostStorage } = parse(readFileSync(boardFile, 'utf8')) as {
  storage: { sectorBytes: number; slotBytes: number };
};

type Console = Awaited<ReturnType<typeof startConsole>>;

const release = (console: Console, version: number) =>
  makeRelease(console, `small@${version}`, smallModel(version), smallCard());
const assign = (console: Console, version: number) =>
  console.client.send('POST', '/v1/assignments', { selector: 'all', target: 'chip', release: `small@${version}` });
/** A console under whose budget accuracy decides, not the noise of timings. */
async function startFleet(folder: string): Promise<Console> {
  const console = await startConsole(folder);
  await console.client.send('PUT', '/v1/budgets', { selector: 'all', budget: { sizeBytes: 4_000_000 } });
  return console;
}
const stateOf = (console: Console) => console.client.get<DeviceDocument>('/v1/devices/d1').catch(() => null);
const chipOf = async (console: Console) => (await stateOf(console))?.reported?.targets.chip ?? null;

async function condition(console: Console, type: Condition['type']): Promise<Condition | undefined> {
  const reported: ReportedState | null | undefined = (await stateOf(console))?.reported;
  return reported?.conditions.find((one) => one.target === 'chip' && one.type === type);
}

/** Whether what the console wants of the chip is active and confirmed there, as the device says. */
async function isDone(console: Console): Promise<boolean> {
  const state = await stateOf(console);
  const desired = state?.desired as DesiredState | undefined;
  const chip = state?.reported?.targets.chip;
  return (
    desired?.targets.chip !== undefined &&
    state?.reported?.observedGeneration === desired.generation &&
    chip?.active?.release === desired.targets.chip.release.id &&
    chip.active.isConfirmed
  );
}

/** sha256 of what is active on the chip, asked by another than the daemon; its line must be free. */
async function activeOnChip(where: string, storage?: string): Promise<string | null> {
  const mcu = await Mcu.open(where, { handshakeMs: 20_000, ...(storage === undefined ? {} : { storage }) });
  try {
    const { activeSlot, isOnTrial } = await mcu.activation();
    return activeSlot === null || isOnTrial ? null : (await mcu.slotState(activeSlot)).image!.sha256;
  } finally {
    await mcu.close();
  }
}

function inferOnChip(state: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/octet-stream' };
    const path = '/v1/infer?target=chip';
    const asked = request({ socketPath: join(state, 'quantd.sock'), method: 'POST', path, headers }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode!));
    });
    asked.on('error', reject);
    asked.end(new Uint8Array(inputSize * 4));
  });
}

const settingsOf = (where: string) => ({ QUANTD__TARGET__MICROCONTROLLERS: `chip=mcu:${where}` });

/** A chip with a name that stays, as `/dev/serial/by-id` has it, which can be unplugged and plugged in again. */
class PluggedChip {
  readonly path: string;
  readonly storage: string;
  #firmware: ChildProcess | null = null;

  constructor(folder: string) {
    this.path = join(folder, 'by-id-chip');
    this.storage = join(folder, 'chip.flash');
  }

  async plugIn(): Promise<void> {
    const firmware = spawn(`${firmwareFolder}host`, ['--storage', this.storage], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#firmware = firmware;
    const [announcement] = (await once(firmware.stdout!.setEncoding('utf8'), 'data')) as [string];
    rmSync(this.path, { force: true });
    symlinkSync(/^pty (\S+)$/m.exec(announcement)![1]!, this.path);
  }

  /** Its power goes with it. */
  async unplug(): Promise<void> {
    const firmware = this.#firmware;
    this.#firmware = null;
    rmSync(this.path, { force: true });
    if (firmware === null) return;
    firmware.kill('SIGKILL');
    await once(firmware, 'exit');
  }

  /** Nothing happens on it until `goOn`. */
  freeze(): void {
    this.#firmware!.kill('SIGSTOP');
  }

  goOn(): void {
    this.#firmware!.kill('SIGCONT');
  }
}

/** Some hundred pieces of an upload, and little to compute. */
function largeModel(modelSeed: number): Uint8Array {
  const builder = new NetworkBuilder(new Random(modelSeed), inputDims);
  const hidden = builder.gemm(builder.pooled(builder.conv('x', { out: 32 })), 6144);
  return encode(builder.build([builder.gemm(hidden, 4)]));
}

/** The one image among the artifacts of a device. */
function imageIn(state: string): { image: Buffer; sha256: string } {
  const [key] = readdirSync(join(state, 'artifacts'));
  const folder = join(state, 'artifacts', key!);
  const image = readFileSync(join(folder, readdirSync(folder).find((file) => file.endsWith('.qimg'))!));
  return { image, sha256: createHash('sha256').update(image).digest('hex') };
}

/** The flash memory of a chip that is a process, read behind the back of everybody. */
class FlashReader {
  readonly #file: number;
  readonly #image: Buffer;

  constructor(storage: string, image: Buffer) {
    this.#file = openSync(storage, 'r');
    this.#image = image;
  }

  get pieces(): number {
    return Math.ceil(this.#image.length / pieceBytes);
  }

  /** Whether a slot holds a piece of the image. */
  #holds(piece: number): boolean {
    const wanted = this.#image.subarray(piece * pieceBytes, (piece + 1) * pieceBytes);
    const found = Buffer.alloc(wanted.length);
    const { sectorBytes, slotBytes } = hostStorage;
    return [0, 1].some((slot) => {
      readSync(this.#file, found, 0, found.length, 2 * sectorBytes + slot * slotBytes + piece * pieceBytes);
      return found.equals(wanted);
    });
  }

  /** How many pieces there are from the beginning on. */
  stored(): number {
    let stored = 0;
    while (stored < this.pieces && this.#holds(stored)) stored++;
    return stored;
  }

  close(): void {
    closeSync(this.#file);
  }
}

/** Asks the chip something while no daemon holds its line. */
async function onChip<T>({ path }: PluggedChip, work: (mcu: Mcu) => Promise<T>): Promise<T> {
  const mcu = await Mcu.open(path, { handshakeMs: 20_000 });
  try {
    return await work(mcu);
  } finally {
    await mcu.close();
  }
}

const framesReceived = (chip: PluggedChip) => onChip(chip, async (mcu) => (await mcu.statistics()).framesReceived);

t.test(
  'a release reaches a chip that the daemon starts, and stays there over a restart',
  { skip: skipsHost },
  async (t) => {
    const console = await startFleet(t.testdir());
    const state = stateFolder();
    let daemon = new DaemonProcess(state, console, settingsOf('host'));
    await release(console, 1);
    await release(console, 2);
    await until(async () => (await stateOf(console)) !== null, 'it is known', patience);
    const identified = async () => (await stateOf(console))!.birth.targets.chip?.identity.board !== undefined;
    await until(identified, 'the chip is in the birth document with its identity', patience);
    t.match((await stateOf(console))!.birth.targets.chip, {
      kind: 'mcu',
      identity: {
        board: { name: 'host', core: 'host', ramBytes: 16777216, flashBytes: 8396800, firmware: /^[0-9a-f]{16}$/ },
      },
    });
    await assign(console, 1);
    await until(() => isDone(console), 'the release is active on the chip', patience);
    const first = (await chipOf(console))!.active!;
    t.ok(first.measurements.latency.measured! > 0, 'it was timed on the chip');
    t.equal(await inferOnChip(state), 200);
    t.equal((await chipOf(console))!.hasReprofiled, true);
    t.equal((await stateOf(console))!.reported!.targets.host!.active, null, 'the host was not asked for anything');

    await assign(console, 2);
    await until(() => isDone(console), 'the second one is, too', patience);
    const second = (await chipOf(console))!;
    t.equal(second.previous!.artifactSha256, first.artifactSha256);
    await daemon.stop();
    t.equal(daemon.stderr, '');
    t.equal(await activeOnChip('host', join(state, 'mcu', 'chip.flash')), second.active!.artifactSha256);

    daemon = new DaemonProcess(state, console, settingsOf('host'));
    await until(
      () =>
        inferOnChip(state).then(
          (status) => status === 200,
          () => false,
        ),
      'it answers again',
      patience,
    );
    await until(async () => (await stateOf(console))!.isOnline, 'it is online', patience);
    t.equal((await chipOf(console))!.active!.artifactSha256, second.active!.artifactSha256);
    const steps = daemon.journal.filter(({ msg }) => msg === 'step begins').map(({ step }) => step);
    t.same([...new Set(steps)], ['settle'], 'nothing was made or brought again');
    await daemon.stop();
    t.equal(daemon.stderr, '');
    await console.close();
  },
);

t.test(
  'a chip that is away is a condition; it goes on when it is back, and says so of trials that a reset has ended',
  { skip: skipsHost },
  async (t) => {
    const console = await startFleet(t.testdir());
    const state = stateFolder();
    const chip = new PluggedChip(state);
    t.teardown(() => chip.unplug());
    const settings = { ...settingsOf(chip.path), QUANTD__CONFIRM__BAKE_SECONDS: '2' };
    const daemon = new DaemonProcess(state, console, settings);
    for (const version of [1, 2]) await release(console, version);
    await until(async () => (await stateOf(console)) !== null, 'it is known', patience);
    await assign(console, 1);
    const isAway = async () => (await condition(console, 'Degraded'))?.reason === 'mcu/unreachable';
    await until(isAway, 'that it is away is a condition', patience);
    const away = (await condition(console, 'Degraded'))!;
    t.match(away.failure, { step: 'settle', isFinal: false, hint: /cable/ });
    t.equal(await inferOnChip(state), 503);

    await chip.plugIn();
    await until(() => isDone(console), 'plugged in, it goes on', patience);
    t.equal(await condition(console, 'Degraded'), undefined, 'and the condition is gone');
    const first = (await chipOf(console))!.active!;

    const begun = (step: string) =>
      daemon.journal.filter((line) => line.msg === 'step begins' && line.step === step).length;
    const isConfirming = begun('confirm');
    await assign(console, 2);
    await until(async () => begun('confirm') > isConfirming, 'the second is on trial', patience);
    await chip.unplug();
    t.equal(
      await activeOnChip('host', chip.storage),
      first.artifactSha256,
      'a power cut in a trial ends it, on the chip itself',
    );
    await until(isAway, 'it is away again', patience);
    await chip.plugIn();
    const isTold = async () => (await condition(console, 'Degraded'))?.reason === 'mcu/trial-ended';
    await until(isTold, 'the end of the trial is told', patience);
    t.match(
      (await condition(console, 'Degraded'))!.message,
      /reset \(power\) while small@2 was on trial; small@1 is active again/,
    );
    const { active: told } = (await chipOf(console))!;
    t.ok(
      told!.artifactSha256 === first.artifactSha256 || !told!.isConfirmed,
      'the first is active, or the next trial has begun',
    );
    await until(() => isDone(console), 'it is tried again, and proves itself', patience);
    const second = (await chipOf(console))!.active!;
    t.equal(second.release, 'small@2');

    // Somebody erases it, or puts another chip of the same kind there.
    await chip.unplug();
    rmSync(chip.storage);
    const settlings = () => daemon.journal.filter(({ msg, step }) => msg === 'step done' && step === 'settle').length;
    const before = settlings();
    await chip.plugIn();
    await until(async () => settlings() > before, 'what had proved itself is brought again', patience);
    t.equal(await inferOnChip(state), 200);
    await daemon.stop();
    await chip.unplug();
    t.equal(await activeOnChip('host', chip.storage), second.artifactSha256);
    t.equal(daemon.stderr, '');
    await console.close();
  },
);

t.test(
  'kill -9 of the daemon in the middle of an upload, over and over: it goes on, and nothing is made twice',
  { skip: skipsHost },
  async (t) => {
    const random = new Random(seed);
    const kills = Number(process.env.QUANTD_KILLS ?? 4);
    const console = await startFleet(t.testdir());
    const state = stateFolder();
    const chip = new PluggedChip(state);
    t.teardown(() => chip.unplug());
    await chip.plugIn();
    const lock = join(state, 'lock');
    const gate = { QUANTD__GATES__LOCK__FILE: lock, QUANTD__GATES__OPEN_SECONDS: '0' };
    const settings = { ...settingsOf(chip.path), ...gate };
    let daemon = new DaemonProcess(state, console, settings);
    const made = () => daemon.journal.filter(({ msg, step }) => msg === 'step done' && step === 'quantize').length;
    await makeRelease(console, 'large@1', largeModel(1), smallCard());
    await until(async () => (await stateOf(console)) !== null, 'it is known', patience);
    writeFileSync(lock, 'not yet');
    await console.client.send('POST', '/v1/assignments', { selector: 'all', target: 'chip', release: 'large@1' });
    await until(async () => made() > 0, 'it is made', patience);
    await daemon.kill();
    const { image, sha256 } = imageIn(state);
    // What was measured last lies there already: it goes, so that all of it has to be brought.
    await onChip(chip, async (mcu) => {
      const slot = await spareSlot(mcu);
      await mcu.connection.request('slotOpen', { slot });
      for (let offset = 0; offset < image.length; offset += hostStorage.sectorBytes)
        await mcu.connection.request('slotErase', { slot, offset });
    });
    daemon = new DaemonProcess(state, console, settings);
    const flash = new FlashReader(chip.storage, image);
    const { pieces } = flash;
    let framesAtFirst = 0;
    let stored = 0;
    let cutOff = 0;
    for (let kill = 0; kill < kills && stored < pieces; kill++) {
      const share = (kill + 0.5 + random.below(1000) / 2000) / (kills + 1);
      const piece = Math.max(stored, Math.floor(share * pieces));
      const deadline = performance.now() + patience;
      const has = (message: string, name: string) =>
        daemon.journal.some(({ msg, step }) => msg === message && step === name);
      await until(async () => has('step done', 'settle'), 'the chip is reached', patience);
      // Looked at while it stands still, an upload cannot run away from a test, whatever the machine does.
      chip.freeze();
      rmSync(lock);
      await until(async () => has('step begins', 'activate'), 'the upload begins', patience);
      while (flash.stored() <= Math.min(piece, pieces - 1) && performance.now() < deadline) {
        chip.goOn();
        await sleep(2);
        chip.freeze();
      }
      await daemon.kill();
      chip.goOn();
      // Nobody holds the line now.
      const frames = await framesReceived(chip);
      stored = flash.stored();
      if (kill === 0) framesAtFirst = frames + stored;
      if (stored < pieces) cutOff++;
      writeFileSync(lock, 'not yet');
      daemon = new DaemonProcess(state, console, settings);
    }
    rmSync(lock);
    t.ok(cutOff > 0, `of ${pieces} pieces an upload was cut off ${cutOff} times`);
    await until(() => isDone(console), 'it is active', patience);
    t.equal(made(), 0, 'an artifact that is finished is not made again');
    t.equal((await chipOf(console))!.active!.artifactSha256, sha256);
    await daemon.kill();
    const frames = (await framesReceived(chip)) - framesAtFirst;
    t.ok(
      frames < pieces + kills * 100,
      `${frames} frames for ${pieces} pieces: an upload goes on where it was cut off`,
    );
    flash.close();
    await chip.unplug();
    t.equal(await activeOnChip('host', chip.storage), sha256);
    await console.close();
  },
);

t.test('an emulated board counts instructions, and is the same target', { skip: skipsQemu }, async (t) => {
  const console = await startFleet(t.testdir());
  const state = stateFolder();
  const daemon = new DaemonProcess(state, console, settingsOf('qemu-mps2-an386'));
  await release(console, 1);
  await until(async () => (await stateOf(console)) !== null, 'it is known', patience);
  await assign(console, 1);
  await until(() => isDone(console), 'the release is active on the board', patience);
  const active = (await chipOf(console))!.active!;
  t.equal(active.measurements.latency.unit, 'instructions');
  t.ok(active.measurements.latency.measured! > 1000);
  t.equal(await inferOnChip(state), 200);
  await daemon.stop();
  t.equal(daemon.stderr, '');
  await console.close();
});
