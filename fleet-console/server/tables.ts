import { createHash } from 'node:crypto';
import { gunzipSync } from 'node:zlib';
import { speedReferenceKey } from '../../agent/core/latency.js';
import { validateProblem } from '../../agent/core/plan/problem.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget, Counter, LatencyRow } from '../../configs/contracts/plan.js';
import {
  DeviceTable,
  type DonorTable,
  type OfferRequest,
  type Provenance,
  type TablePart,
  tableBytes,
} from '../../configs/contracts/tables.js';
import { validate } from '../../configs/contracts/validate.js';
import { canonical } from './canonical.js';
import { inUnitOf, type Replay, unitOf } from './replay.js';
import type { ConsoleStore } from './store.js';
import type { StoredTable, TableStore } from './table-store.js';
import { TableThread } from './table-thread.js';
import type { Shared } from './table-worker.js';

/** Tables of one identity that are read for what they share: the newest, of so many devices. A median over more is no better. */
const mostDonations = 64;
/** Answers that are kept: what devices share, and plans that were solved. */
const mostShared = 64;
const mostReplays = 2000;

/** A row of an operator, as the API shows it. */
export interface ChoiceDocument {
  readonly precision: string;
  readonly median: number;
  readonly minimum: number;
  /** Interquartile range over median. */
  readonly spread: number;
}

/** What a device has reported of one target: the model that it made last. */
export interface TargetTableDocument {
  readonly unit: string;
  readonly model: string;
  readonly identity: string;
  readonly receivedAt: string;
  readonly operators: readonly {
    readonly key: string;
    readonly name: string;
    readonly type: string;
    /** `isDonor`: taken from other devices, not measured there. */
    readonly choices: readonly (ChoiceDocument & { readonly isDonor: boolean })[];
  }[];
  /** What each precision of each operator costs in accuracy, its part of the changes of format left out. */
  readonly sensitivities: readonly { readonly operator: string; readonly precision: string; readonly value: number }[];
  readonly provenance: Provenance;
}

/** What devices of one target identity have measured together. */
export interface SharedTableDocument {
  readonly hardwareClass: string;
  readonly identity: string;
  readonly unit: string;
  readonly devices: readonly string[];
  readonly quarantined: Shared['quarantined'];
  readonly models: readonly string[];
  readonly operators: readonly {
    readonly key: string;
    readonly type: string | null;
    readonly choices: readonly (ChoiceDocument & { readonly donors: number })[];
  }[];
}

/** A table to plan with: a device's own, or that of its class with the sensitivities of another device. */
export interface PlannableTable {
  readonly table: StoredTable;
  readonly isOwn: boolean;
}

/** Tables of the fleet: taken from devices, shared with others of the same target identity, planned with. */
export class Tables {
  readonly #store: TableStore;
  readonly #devices: ConsoleStore;
  readonly #thread = new TableThread();
  readonly #shared = new Map<string, Promise<Shared>>();
  readonly #replays = new Map<string, Promise<Replay | null>>();

  constructor(store: TableStore, devices: ConsoleStore) {
    this.#store = store;
    this.#devices = devices;
  }

  /**
   * Takes a part of a table over, and the table with its last part. Fails with `document/invalid` for what does not fit the contract, is
   * damaged, or is of a target identity that the device was not born with; then nothing is left of the table.
   */
  take(part: TablePart): void {
    const text = this.#store.putPart(part);
    if (text === null) return;
    const { device, target } = part;
    try {
      const document = unpacked(text, part);
      const table = checked(document, part);
      const birth = this.#devices.device(device)?.birth;
      const identity = birth?.targets[target]?.identity;
      if (birth === undefined || identity === undefined || digestOf(identity) !== table.identity)
        throw invalid('it is of a target that the device does not have');
      const { modelSha256 } = table;
      const sha256 = createHash('sha256').update(document).digest('hex');
      const { hardwareClass } = birth;
      this.#store.put({ device, target, identity: table.identity, modelSha256, hardwareClass, sha256 }, document);
    } catch (error) {
      if (error instanceof EdgeError && error.code === 'document/invalid') this.#store.dropParts(device, target);
      throw error;
    }
  }

  /** Rows of other devices for one that is about to measure; null where nobody has measured any of them. */
  async offer({ identity, operatorKeys }: OfferRequest): Promise<DonorTable | null> {
    const tables = this.#store.list({ identity });
    if (tables.length === 0) return null;
    const { rows, devices } = await this.#share(tables);
    const wanted = new Set(operatorKeys);
    const offered = rows
      .filter(({ operatorKey }) => wanted.has(operatorKey))
      .map(({ donors: _, ...row }): LatencyRow => row);
    // Without an operator, what is left says nothing.
    if (devices.length === 0 || !offered.some(({ operatorKey }) => operatorKey !== speedReferenceKey)) return null;
    return { digest: digestOf(offered), identity, devices: devices.length, rows: offered };
  }

  /** Everything that a device has reported, by target. Fails with `device/unknown`. */
  ofDevice(id: string): { targets: Record<string, TargetTableDocument> } {
    if (this.#devices.device(id) === null)
      throw new EdgeError('device/unknown', `there is no device ${id}`, { subject: id });
    const targets: Record<string, TargetTableDocument> = {};
    for (const table of this.#store.list({ device: id })) {
      if (targets[table.target] === undefined) targets[table.target] = this.#targetDocument(table);
    }
    return { targets };
  }

  /** What devices of a hardware class (null: of each) have measured together, by target identity. */
  async shared(hardwareClass: string | null): Promise<SharedTableDocument[]> {
    const byIdentity = new Map<string, StoredTable[]>();
    for (const table of this.#store.list(hardwareClass === null ? {} : { hardwareClass })) {
      byIdentity.set(table.identity, [...(byIdentity.get(table.identity) ?? []), table]);
    }
    const documents: SharedTableDocument[] = [];
    for (const [identity, tables] of byIdentity) {
      const { rows, types, counter, devices, quarantined } = await this.#share(tables);
      const keys = [...new Set(rows.map(({ operatorKey }) => operatorKey))];
      documents.push({
        hardwareClass: tables[0]!.hardwareClass,
        identity,
        unit: unitOf(counter),
        devices,
        quarantined,
        models: [...new Set(tables.map(({ modelSha256 }) => modelSha256))],
        operators: keys.map((key) => ({
          key,
          type: types[key] ?? null,
          choices: rows
            .filter(({ operatorKey }) => operatorKey === key)
            .map((row) => ({ ...choiceOf(row, counter), donors: row.donors })),
        })),
      });
    }
    return documents;
  }

  /**
   * What to plan a model on a target with: the device's own table; without one, another's of the same target identity. Null where nobody
   * alike has made that model.
   */
  plannable(device: string, target: string, modelSha256: string): PlannableTable | null {
    const identity = this.#devices.device(device)?.birth.targets[target]?.identity;
    if (identity === undefined) return null;
    const alike = this.#store
      .list({ identity: digestOf(identity) })
      .filter((table) => table.modelSha256 === modelSha256);
    const own = alike.find((table) => table.device === device && table.target === target);
    const table = own ?? alike[0];
    return table === undefined ? null : { table, isOwn: own !== undefined };
  }

  /** Plans with a table; equal questions are solved once. Null where nothing can be said. Fails with `solver/failed`. */
  replay({ table, isOwn }: PlannableTable, budget: Budget): Promise<Replay | null> {
    const alike = isOwn ? [] : this.#store.list({ identity: table.identity });
    const key = digestOf([table.sha256, budget, alike.map(({ sha256 }) => sha256)]);
    return remembered(this.#replays, mostReplays, key, async () => {
      const rows = isOwn ? null : (await this.#share(alike)).rows;
      const document = this.#store.document(table);
      return document === null ? null : this.#thread.replay({ document, rows, budget });
    });
  }

  close(): Promise<void> {
    return this.#thread.close();
  }

  /** Of the devices that have reported last, all that each has said of this identity. */
  #share(tables: readonly StoredTable[]): Promise<Shared> {
    const devices = new Set([...new Set(tables.map(({ device }) => device))].slice(0, mostDonations));
    const read = tables.filter(({ device }) => devices.has(device));
    const key = digestOf(read.map(({ sha256 }) => sha256));
    return remembered(this.#shared, mostShared, key, () =>
      this.#thread.share(read.map((table) => this.#store.document(table)).filter((document) => document !== null)),
    );
  }

  #targetDocument(stored: StoredTable): TargetTableDocument {
    // It was checked when it came.
    const table = parsed(gunzipSync(this.#store.document(stored)!)) as DeviceTable;
    const { counter, problem, provenance } = table;
    const byKey = new Map<string, LatencyRow[]>();
    for (const row of table.rows) byKey.set(row.operatorKey, [...(byKey.get(row.operatorKey) ?? []), row]);
    const choices = (key: string) =>
      (byKey.get(key) ?? []).map((row) => ({ ...choiceOf(row, counter), isDonor: row.donor !== undefined }));
    const named = problem?.operators.map(({ name, key, type }) => ({ name, key, type }));
    const operators = named ?? [...byKey.keys()].map((key) => ({ name: key, key, type: key.split('(')[0]! }));
    return {
      unit: unitOf(counter),
      model: stored.modelSha256,
      identity: stored.identity,
      receivedAt: stored.receivedAt,
      operators: operators.map(({ key, name, type }) => ({ key, name, type, choices: choices(key) })),
      sensitivities: (problem?.operators ?? []).flatMap(({ name, choices: own }) =>
        own.map(({ precision, costs }) => ({ operator: name, precision, value: costs.sensitivity })),
      ),
      provenance,
    };
  }
}

function choiceOf({ precision, median, minimum, spread }: LatencyRow, counter: Counter): ChoiceDocument {
  return { precision, median: inUnitOf(counter, median), minimum: inUnitOf(counter, minimum), spread };
}

/** What is known already, or is being found out; a failure is forgotten. The oldest go when there are too many. */
function remembered<T>(known: Map<string, Promise<T>>, most: number, key: string, work: () => Promise<T>): Promise<T> {
  const old = known.get(key);
  if (old !== undefined) return old;
  const answer = work();
  known.set(key, answer);
  answer.catch(() => known.delete(key));
  for (const oldest of known.keys()) {
    if (known.size <= most) break;
    known.delete(oldest);
  }
  return answer;
}

/** The compressed document of a text that has come in parts. */
function unpacked(text: string, { sha256 }: TablePart): Buffer {
  if (createHash('sha256').update(text).digest('hex') !== sha256) throw invalid('its parts do not have its digest');
  return Buffer.from(text, 'base64');
}

function checked(document: Buffer, { device, target }: TablePart): DeviceTable {
  let value: unknown;
  try {
    value = parsed(gunzipSync(document, { maxOutputLength: tableBytes }));
  } catch {
    throw invalid(`it is no compressed JSON of at most ${tableBytes} bytes`);
  }
  const table = validate(DeviceTable, value, 'document/invalid', 'table');
  if (table.device !== device || table.target !== target)
    throw invalid(`it speaks for ${table.device}/${table.target}`);
  if (table.problem === null) return table;
  try {
    validateProblem(table.problem);
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw invalid(`its planning problem makes no sense: ${cause.message}`);
  }
  return table;
}

function parsed(bytes: Buffer): unknown {
  return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
}

function invalid(message: string): EdgeError {
  return new EdgeError('document/invalid', message, { subject: 'table' });
}

/** Digest of a JSON value, as devices take it of theirs. */
function digestOf(value: unknown): string {
  return createHash('sha256').update(canonical(value)).digest('hex');
}
