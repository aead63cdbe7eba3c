/** The real daemon, the real console, and the real firmware: a release reaches the chip, and whatever is pulled or reset meanwhile is told and mended. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import type { Condition, DesiredState, ReportedState } from '../../../configs/contracts/device.js';
import { type FirmwareProcess, startFirmware } from '../../../firmware-bridge/link/firmware-process.js';
import { Mcu } from '../../../firmware-bridge/mcu.js';
import type { DeviceDocument } from '../../../fleet-console/commands/devices.js';
import { inputSize, smallCard, smallModel } from '../../support/artifacts.js';
import { until } from '../../support/broker.js';
import { makeRelease, startConsole } from '../../support/console.js';
import { DaemonProcess, stateFolder } from '../../support/daemon-process.js';
import { skipsHost, skipsQemu } from '../../support/firmware.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const patience = 60_000;

type Console = Awaited<ReturnType<typeof startConsole>>;

const release = (console: Console, version: number) =>
  makeRelease(console, `small@${version}`, smallModel(version), smallCard());
const assign = (console: Console, version: number) =>
  console.client.send('POST', '/v1/assignments', { selector: 'all', target: 'chip', release: `small@${version}` });
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

const settingsOf = (where: string) => ({ QUANTD__TARGET__MCUS: `chip=mcu:${where}` });

/** A chip with a name that stays, as `/dev/serial/by-id` has it, which can be unplugged and plugged in again. */
class PluggedChip {
  readonly path: string;
  readonly storage: string;
  #firmware: FirmwareProcess | null = null;

  constructor(folder: string) {
    this.path = join(folder, 'by-id-chip');
    this.storage = join(folder, 'chip.flash');
  }

  async plugIn(options: { readonly cutPowerAfterBytes?: number } = {}): Promise<void> {
    this.#firmware = await startFirmware('host', { storage: this.storage, ...options });
    rmSync(this.path, { force: true });
    symlinkSync(this.#firmware.path, this.path);
  }

  /** Its power goes with it. */
  async unplug(): Promise<void> {
    await this.#firmware?.stop();
    this.#firmware = null;
    rmSync(this.path, { force: true });
  }
}

t.test(
  'a release reaches a chip that the daemon starts, and stays there over a restart',
  { skip: skipsHost },
  async (t) => {
    const console = await startConsole(t.testdir());
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
