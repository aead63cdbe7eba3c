import { EdgeError } from '../../configs/contracts/errors.js';
import { spareSlot, upload } from '../../firmware-bridge/flash.js';
import { type FirmwareProcess, startFirmware } from '../../firmware-bridge/link/firmware-process.js';
import { Mcu, type McuInfo } from '../../firmware-bridge/mcu.js';
import type { SlotsView } from '../device-ports.js';
import { identityOfMcu } from './mcu-identity.js';

/** No wait is longer than these allow: a board that hangs is one that is not there. */
const patience = { attempts: 3, workTimeoutMs: 30_000, handshakeMs: 5000 } as const;
/** Slots that are written over the line. */
const slots = [0, 1] as const;

/** How an image is brought. */
export interface BringOptions {
  readonly signal: AbortSignal;
  readonly progress: (share: number) => void;
}

/**
 * A microcontroller that is there for long: its line is opened when it is needed, and again after it was lost. Images are told apart by
 * their sha256. Every method fails as requests of a `Connection` do, and with `mcu/no-firmware`.
 */
export class McuBoard {
  readonly #where: string;
  readonly #storage: string | null;
  readonly #lost: (why: string) => void;
  /** Of a board that is a process here: it has power for as long as this one runs. */
  #firmware: FirmwareProcess | null = null;
  #opening: Promise<{ mcu: Mcu; info: McuInfo }> | null = null;
  /** What is loaded, where that is known. */
  #loaded: string | null = null;
  /** Loads and runs follow each other. */
  #last: Promise<unknown> = Promise.resolve();
  #lastUpload: Promise<unknown> = Promise.resolve();

  /**
   * @param where as `openConnection` takes it
   * @param storage file for the slots of a firmware that is a process of this machine
   * @param lost called when the line is gone, or the board was reset
   */
  constructor(where: string, storage: string | null, lost: (why: string) => void) {
    this.#where = where;
    this.#storage = storage;
    this.#lost = lost;
  }

  /** Who it is, and what it starts with. */
  look(): Promise<SlotsView> {
    return this.#using(async (mcu, info) => {
      const { activeSlot, isOnTrial } = await mcu.activation();
      const active = activeSlot === null ? null : await mcu.slotState(activeSlot);
      const { capacityBytes } = await mcu.slotState(0);
      return {
        identity: identityOfMcu(info, capacityBytes),
        active: active?.image?.sha256 ?? null,
        isOnTrial,
        lastStart: (await mcu.statistics()).lastStart,
      };
    });
  }

  /** Has an image in a slot; one that is there already is not brought again, one that was cut off goes on. */
  bring(image: Uint8Array, sha256: string, options: BringOptions): Promise<void> {
    // One after the other: there is one slot to bring to.
    const turn = this.#lastUpload.then(() => this.#bring(image, sha256, options));
    this.#lastUpload = turn.catch(() => {});
    return turn;
  }

  async #bring(image: Uint8Array, sha256: string, { signal, progress }: BringOptions): Promise<void> {
    await this.#using(async (mcu) => {
      if ((await slotOf(mcu, sha256)) !== null) return;
      const slot = await spareSlot(mcu);
      // Opening a slot that is loaded makes the board load another.
      this.#loaded = null;
      await upload(mcu, slot, image, { signal, progress: (done, total) => progress(done / total) });
    });
  }

  /** Runs an image that was brought; it stays loaded. `latencyMs` is NaN where the board counts no time. */
  run(sha256: string, inputs: readonly Float32Array[]): Promise<{ outputs: Float32Array[]; latencyMs: number }> {
    return this.#exclusively((mcu, info) => this.#runLoaded(mcu, info, sha256, inputs));
  }

  async #runLoaded(mcu: Mcu, info: McuInfo, sha256: string, inputs: readonly Float32Array[]) {
    if (this.#loaded !== sha256) {
      await mcu.load(await this.#needSlot(mcu, sha256));
      this.#loaded = sha256;
    }
    const { outputs, ticks } = await mcu.infer(inputs);
    const { counter, clockHz } = info;
    const isTime = counter === 'nanoseconds' || (counter === 'cycles' && clockHz > 0);
    const perMs = counter === 'nanoseconds' ? 1e6 : clockHz / 1e3;
    return { outputs, latencyMs: isTime ? ticks / perMs : Number.NaN };
  }

  /** Loads what is active, where something else was run meanwhile. */
  async serveActive(): Promise<void> {
    await this.#exclusively(async (mcu) => {
      const { activeSlot } = await mcu.activation();
      if (activeSlot === null) return;
      const sha256 = (await mcu.slotState(activeSlot)).image!.sha256;
      if (this.#loaded !== sha256) await mcu.load(activeSlot);
      this.#loaded = sha256;
    });
  }

  /** Makes an image that was brought the one that it starts with: on trial, unless it is that already, or what a trial goes back to. */
  async activate(sha256: string): Promise<void> {
    await this.#exclusively(async (mcu) => {
      this.#loaded = null;
      await mcu.activate(await this.#needSlot(mcu, sha256));
      this.#loaded = sha256;
    });
  }

  /** Ends the trial of an image well; nothing is to be done where it has ended so. Fails with `mcu/trial-ended` where another is active. */
  async confirm(sha256: string): Promise<void> {
    await this.#using(async (mcu) => {
      const { activeSlot, isOnTrial } = await mcu.activation();
      if (activeSlot === null || activeSlot !== (await slotOf(mcu, sha256))) {
        const message = 'the board no longer has the image active that was on trial';
        throw new EdgeError('mcu/trial-ended', message, { subject: this.#where });
      }
      if (isOnTrial) await mcu.confirm();
    });
  }

  /** Ends a trial: what was active before is again. Nothing is to be done where there is none. */
  async revert(): Promise<void> {
    await this.#exclusively(async (mcu) => {
      this.#loaded = null;
      if ((await mcu.activation()).isOnTrial) await mcu.revert();
    });
  }

  /** Gives the line away until the next call of any method; answers what others open it by. */
  async lend(): Promise<string> {
    await Promise.all([this.#last, this.#lastUpload]);
    await this.close();
    return this.#path();
  }

  /** Gives the line back. A board that is a process goes on. */
  async close(): Promise<void> {
    const opening = this.#opening;
    this.#opening = null;
    this.#loaded = null;
    const opened = await opening?.catch(() => null);
    await opened?.mcu.close();
  }

  async #needSlot(mcu: Mcu, sha256: string): Promise<number> {
    const slot = await slotOf(mcu, sha256);
    if (slot !== null) return slot;
    // Somebody else has been at it: it is looked at again.
    throw new EdgeError('mcu/unreachable', 'the board no longer holds the image', { subject: this.#where });
  }

  #exclusively<T>(work: (mcu: Mcu, info: McuInfo) => Promise<T>): Promise<T> {
    const turn = this.#last.then(() => this.#using(work));
    this.#last = turn.catch(() => {});
    return turn;
  }

  async #using<T>(work: (mcu: Mcu, info: McuInfo) => Promise<T>): Promise<T> {
    this.#opening ??= this.#connect();
    const opening = this.#opening;
    const forget = () => {
      if (this.#opening === opening) this.#opening = null;
    };
    const { mcu, info } = await opening.catch((error: unknown) => {
      forget();
      throw error;
    });
    try {
      return await work(mcu, info);
    } catch (error) {
      // Whatever the board did not answer, nothing is known of it any more.
      if (error instanceof EdgeError && error.code === 'mcu/timeout') await mcu.close();
      throw error;
    }
  }

  async #connect(): Promise<{ mcu: Mcu; info: McuInfo }> {
    const mcu = await Mcu.open(await this.#path(), patience);
    try {
      const opened = { mcu, info: await mcu.info() };
      void mcu.connection.ended.then(async ({ message }) => {
        // Closed by ourselves, it is another's already.
        if ((await this.#opening?.catch(() => null))?.mcu !== mcu) return;
        this.#opening = null;
        this.#loaded = null;
        this.#lost(message);
      });
      return opened;
    } catch (error) {
      await mcu.close();
      throw error;
    }
  }

  /** Of the line; a board that is a process is started, also after it has ended. */
  async #path(): Promise<string> {
    if (this.#where.startsWith('/')) return this.#where;
    if (this.#firmware === null) {
      const board = this.#where.replace(/^qemu-/, '');
      const firmware = await startFirmware(board, this.#storage === null ? {} : { storage: this.#storage });
      this.#firmware = firmware;
      void firmware.ended.then(() => {
        if (this.#firmware === firmware) this.#firmware = null;
      });
    }
    return this.#firmware.path;
  }
}

/** The slot that holds an image, among those that can be active. */
async function slotOf(mcu: Mcu, sha256: string): Promise<number | null> {
  for (const slot of slots) if ((await mcu.slotState(slot)).image?.sha256 === sha256) return slot;
  return null;
}
