/** A microcontroller in memory, with slots and a journal as the firmware keeps them, for a daemon whose power may fail at any call. */
import type { SlotRunners } from '../../agent/daemon/slots.js';
import type { RunnerHost, SlotsView } from '../../agent/device-ports.js';
import type { TargetIdentity } from '../../agent/ports.js';
import { EdgeError } from '../../configs/contracts/errors.js';

/** What a chip holds is the digests of images. */
export class FakeChip {
  readonly identity: TargetIdentity;
  readonly slots: [string | null, string | null] = [null, null];
  active: number | null = null;
  previous: number | null = null;
  isOnTrial = false;
  lastStart: SlotsView['lastStart'] = 'power';
  /** Unplugged. */
  isAway = false;
  /** How long it takes to find that out. */
  silentMs = 0;
  /** Turns that writing an image takes. */
  uploadTurns = 0;
  isUploading = false;
  /** How often it was asked what it holds. */
  looks = 0;
  /** Images that were written. */
  uploads = 0;
  #listener: (why: string) => void = () => {};
  /** Settles the runners that are open. */
  #end: () => void = () => {};

  constructor(identity: TargetIdentity) {
    this.identity = identity;
  }

  /** Digest of what it starts with. */
  get activeImage(): string | null {
    return this.active === null ? null : this.slots[this.active]!;
  }

  /** It starts anew, for whatever reason, which ends a trial. */
  reset(why: SlotsView['lastStart'] = 'power'): void {
    this.lastStart = why;
    if (this.isOnTrial) this.#goBack();
    this.lose();
  }

  /** Everything that it has kept is gone, as if it were another one. */
  erase(): void {
    this.slots.fill(null);
    this.active = this.previous = null;
    this.isOnTrial = false;
    this.lose();
  }

  lose(): void {
    this.#end();
    this.#listener('the line was lost');
  }

  /**
   * The chip as a daemon reaches it. `turn` is awaited before and after whatever happens there: the daemon may die meanwhile, the chip does not.
   *
   * @param host opens and probes artifacts
   * @param digestOf digest of the image of an artifact folder
   * @param sleep lets virtual time pass
   */
  runners(
    host: RunnerHost,
    digestOf: (folder: string) => string,
    turn: () => Promise<void>,
    sleep: (ms: number) => Promise<void>,
  ): SlotRunners {
    const reach = async <T>(work: () => T): Promise<T> => {
      await turn();
      if (this.isAway && this.silentMs > 0) await sleep(this.silentMs);
      if (this.isAway) throw new EdgeError('mcu/unreachable', 'no firmware answered', { subject: 'chip' });
      const result = work();
      await turn();
      return result;
    };
    const holder = (folder: string) => {
      const slot = this.slots.indexOf(digestOf(folder));
      if (slot < 0) throw new EdgeError('mcu/unreachable', 'the board no longer holds the image', { subject: 'chip' });
      return slot;
    };
    return {
      open: async (folder, signal) => {
        await this.#upload(digestOf(folder), turn, signal);
        await reach(() => this.#bring(digestOf(folder)));
        const runner = await host.open(folder, signal);
        const lost = new Promise<void>((resolve) => {
          const before = this.#end;
          this.#end = () => {
            before();
            resolve();
          };
        });
        return {
          infer: (request) => runner.infer(request),
          probe: async (samples, index) => {
            await reach(() => holder(folder));
            return runner.probe(samples, index);
          },
          ended: Promise.race([runner.ended, lost]),
          close: () => runner.close(),
        };
      },
      slots: {
        look: () =>
          reach(() => {
            this.looks++;
            return {
              identity: this.identity,
              active: this.activeImage,
              isOnTrial: this.isOnTrial,
              lastStart: this.lastStart,
            };
          }),
        activate: (folder) => reach(() => this.#activate(holder(folder))),
        confirm: (folder) =>
          reach(() => {
            if (holder(folder) !== this.active)
              throw new EdgeError('mcu/trial-ended', 'another image is active', { subject: 'chip' });
            this.isOnTrial = false;
          }),
        revert: () =>
          reach(() => {
            if (this.isOnTrial) this.#goBack();
          }),
        onLost: (listener) => {
          this.#listener = listener;
        },
      },
    };
  }

  async #upload(digest: string, turn: () => Promise<void>, signal: AbortSignal): Promise<void> {
    if (this.slots.includes(digest)) return;
    this.isUploading = true;
    try {
      for (let left = this.uploadTurns; left > 0; left--) {
        signal.throwIfAborted();
        await turn();
      }
    } finally {
      this.isUploading = false;
    }
  }

  #bring(digest: string): void {
    if (this.slots.includes(digest)) return;
    const spare = [0, 1].find((slot) => slot !== this.active && !(this.isOnTrial && slot === this.previous));
    if (spare === undefined) throw new EdgeError('mcu/refused', 'no slot is free', { subject: 'chip' });
    if (this.previous === spare) this.previous = null;
    this.slots[spare] = digest;
    this.uploads++;
  }

  #activate(slot: number): void {
    if (slot === this.active) return;
    if (this.isOnTrial && slot === this.previous) {
      this.#goBack();
      return;
    }
    if (!this.isOnTrial) this.previous = this.active;
    this.active = slot;
    this.isOnTrial = true;
  }

  #goBack(): void {
    this.active = this.previous;
    this.previous = null;
    this.isOnTrial = false;
  }
}
