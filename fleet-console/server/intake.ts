import {
  Birth,
  DeviceEvent,
  DeviceResult,
  type DeviceTopics,
  documentBytes,
  Online,
  packetBytes,
  parseTopic,
  ReportedState,
  Sync,
} from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { TablePart } from '../../configs/contracts/tables.js';
import { validate } from '../../configs/contracts/validate.js';
import type { Fleet } from './fleet.js';
import type { ConsoleStore, StoredEvent } from './store.js';

/** What documents are taken into, and who hears of it. */
export interface IntakeOptions {
  readonly namespace: string;
  readonly tenant: string;
  readonly store: ConsoleStore;
  readonly fleet: Fleet;
  /** A part of a device's table has come. To fail with `document/invalid` for what is refused. */
  readonly table: (part: TablePart) => void;
  readonly warn: (text: string) => void;
}

/** Documents that were taken and refused since the start. */
export interface IntakeCounts {
  readonly taken: number;
  readonly refused: number;
}

/** Takes a document of a device. `settled` is called once, later: whether it may be acknowledged. */
export type Take = (topic: string, payload: Uint8Array, settled: (isStored: boolean) => void) => void;

interface Waiting {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly settled: (isStored: boolean) => void;
}

/** What a batch has brought, to be told once it is stored. */
interface News {
  readonly changed: Set<string>;
  readonly born: Set<string>;
  readonly heard: Set<string>;
  readonly synced: Set<string>;
  readonly events: StoredEvent[];
}

/** A batch takes no longer than this, so that nothing else waits for long; nor does it have more documents. */
const batchMs = 20;
const batchDocuments = 200;
/** Warnings about documents, at most one in this time. */
const warnEveryMs = 1000;
const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Where everything arrives that devices say, whichever way it comes: checked against the contracts, stored in the order of arrival, those that
 * arrive together in one transaction, and settled after that: a commit costs the same for one document as for hundreds.
 *
 * What breaks the contract is refused: it counts as settled, for it would be refused again. Where the store fails, the whole batch is as if it
 * had never come; it must not be acknowledged, and is expected again.
 */
export class Intake {
  readonly #options: IntakeOptions;
  #waiting: Waiting[] = [];
  #isDue = false;
  #isClosed = false;
  #taken = 0;
  #refused = 0;
  #warnedAt = Number.NEGATIVE_INFINITY;

  constructor(options: IntakeOptions) {
    this.#options = options;
  }

  get counts(): IntakeCounts {
    return { taken: this.#taken, refused: this.#refused };
  }

  readonly take: Take = (topic, payload, settled) => {
    this.#waiting.push({ topic, payload, settled });
    this.#workSoon();
  };

  /** Takes nothing any more: what waits is not stored, and not acknowledged. */
  close(): void {
    this.#isClosed = true;
    for (const { settled } of this.#waiting.splice(0)) settled(false);
  }

  #workSoon(): void {
    if (this.#isDue) return;
    this.#isDue = true;
    setImmediate(() => {
      this.#isDue = false;
      if (this.#isClosed) this.close();
      else this.#work();
      if (this.#waiting.length > 0) this.#workSoon();
    });
  }

  /** Stores one batch, tells of it, and settles it. */
  #work(): void {
    const { fleet } = this.#options;
    const news: News = { changed: new Set(), born: new Set(), heard: new Set(), synced: new Set(), events: [] };
    let count = 0;
    let refused = 0;
    let isStored = true;
    try {
      fleet.change(() => {
        const until = performance.now() + batchMs;
        while (count < this.#waiting.length && count < batchDocuments && performance.now() < until) {
          if (!this.#store(this.#waiting[count++]!, news)) refused++;
        }
        return [...news.born];
      });
    } catch (error) {
      isStored = false;
      this.#warn(`what devices say could not be stored, and is asked for again: ${(error as Error).message}`);
    }
    // Each attempt on a store that fails may take seconds: nobody else waits for one of his own.
    const settled = this.#waiting.splice(0, isStored ? count : Number.POSITIVE_INFINITY);
    if (isStored) {
      this.#refused += refused;
      this.#taken += count - refused;
      this.#tell(news);
    }
    for (const waiting of settled) waiting.settled(isStored);
  }

  #tell({ changed, heard, synced, events }: News): void {
    const { fleet } = this.#options;
    for (const id of heard) fleet.heard(id);
    for (const id of synced) fleet.tellAgain(id);
    for (const event of events) fleet.happened(event);
    for (const id of changed) fleet.deviceChanged(id);
  }

  /** Stores a document; false where it is refused. Fails where the store does. */
  #store({ topic, payload }: Waiting, news: News): boolean {
    const { namespace, tenant } = this.#options;
    const parsed = parseTopic(namespace, tenant, topic);
    if (parsed === null || parsed.kind === 'desired' || payload.length === 0) return true;
    try {
      this.#put(parsed.device, parsed.kind, payload, news);
      return true;
    } catch (error) {
      if (error instanceof EdgeError && error.retryable) throw error;
      this.#warn(
        `a document on ${topic} was refused: ${(error as Error).message} (${this.#refused + 1} since the start)`,
      );
      return false;
    }
  }

  #put(device: string, kind: Exclude<keyof DeviceTopics, 'desired'>, payload: Uint8Array, news: News): void {
    const { store, table } = this.#options;
    const value = read(payload, kind);
    switch (kind) {
      case 'birth':
        if (!store.putBirth(own(validate(Birth, value, 'document/invalid', kind), device))) return;
        news.born.add(device);
        news.changed.add(device);
        return;
      case 'online': {
        const { online, session } = validate(Online, value, 'document/invalid', kind);
        if (store.putOnline(device, online, session)) news.changed.add(device);
        return;
      }
      case 'reported':
        if (store.putReported(own(validate(ReportedState, value, 'document/invalid', kind), device)))
          news.changed.add(device);
        news.heard.add(device);
        return;
      case 'sync': {
        const { observedGeneration } = validate(Sync, value, 'document/invalid', kind);
        store.putObserved(device, observedGeneration);
        news.heard.add(device);
        news.synced.add(device);
        news.changed.add(device);
        return;
      }
      case 'event': {
        const stored = store.putEvent(own(validate(DeviceEvent, value, 'document/invalid', kind), device));
        if (stored !== null) news.events.push(stored);
        return;
      }
      case 'result':
        if (store.putResult(own(validate(DeviceResult, value, 'document/invalid', kind), device)))
          news.changed.add(device);
        return;
      case 'table':
        table(own(validate(TablePart, value, 'document/invalid', kind), device));
    }
  }

  #warn(text: string): void {
    const now = performance.now();
    if (now - this.#warnedAt < warnEveryMs) return;
    this.#warnedAt = now;
    this.#options.warn(text);
  }
}

function read(payload: Uint8Array, kind: Exclude<keyof DeviceTopics, 'desired'>): unknown {
  const most = kind === 'event' || kind === 'result' || kind === 'table' ? packetBytes : documentBytes;
  if (payload.length > most)
    throw new EdgeError('document/invalid', `it has ${payload.length} bytes`, { subject: kind });
  try {
    return JSON.parse(utf8.decode(payload));
  } catch {
    throw new EdgeError('document/invalid', 'it is not JSON', { subject: kind });
  }
}

/** A document speaks for the device of its topic only. */
function own<T extends { readonly device: string }>(document: T, device: string): T {
  if (document.device === device) return document;
  throw new EdgeError('document/invalid', `it speaks for device ${document.device}`, { subject: device });
}
