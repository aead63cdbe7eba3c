import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Fleet } from './fleet.js';
import type { ConsoleStore, DeviceRecord } from './store.js';

/** Views are made for so long in one go: others are served in between. */
const sliceMs = 20;

/** Something that is made of every device, and made again of those that have changed. */
export class DeviceViews<View> {
  readonly #store: ConsoleStore;
  readonly #fleet: Fleet;
  readonly #make: (record: DeviceRecord) => View;
  /** By id, in order. */
  #views = new Map<string, View>();
  readonly #stale = new Set<string>();
  #isBegun = false;
  readonly #onDevice = (id: string) => {
    this.#stale.add(id);
  };

  constructor(store: ConsoleStore, fleet: Fleet, make: (record: DeviceRecord) => View) {
    this.#store = store;
    this.#fleet = fleet;
    this.#make = make;
    fleet.on('device', this.#onDevice);
  }

  /** Hears of no change any more. */
  close(): void {
    this.#fleet.off('device', this.#onDevice);
  }

  /** Of all devices, by id, in order, as new as the store. Where much has changed, that holds up everybody: see `fresh`. */
  now(): ReadonlyMap<string, View> {
    this.#begin();
    this.#remake([...this.#stale], Number.POSITIVE_INFINITY);
    return this.#views;
  }

  /** The same, as new as the store was when it was asked for; to be looked at in the same turn. Others are served meanwhile. */
  async fresh(): Promise<ReadonlyMap<string, View>> {
    this.#begin();
    let rest = [...this.#stale];
    for (;;) {
      rest = this.#remake(rest, performance.now() + sliceMs);
      if (rest.length === 0) return this.#views;
      await nextTurn();
    }
  }

  /** At first, all are to be made. */
  #begin(): void {
    if (this.#isBegun) return;
    for (const id of this.#store.deviceIds()) this.#stale.add(id);
    this.#isBegun = true;
  }

  /** Makes views again, until a time; answers what is left. What fails is still to be made, and what was made before it is kept. */
  #remake(ids: readonly string[], until: number): string[] {
    let isInOrder = true;
    let count = 0;
    try {
      for (; count < ids.length && performance.now() < until; count++) {
        const id = ids[count]!;
        if (!this.#stale.has(id)) continue;
        const record = this.#store.device(id);
        if (record !== null) {
          const view = this.#make(record);
          if (!this.#views.has(id)) isInOrder = false;
          this.#views.set(id, view);
        }
        this.#stale.delete(id);
      }
    } finally {
      if (!isInOrder) this.#views = new Map([...this.#views].sort(([a], [b]) => (a < b ? -1 : 1)));
    }
    return ids.slice(count);
  }
}
