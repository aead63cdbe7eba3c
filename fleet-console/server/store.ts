import { setImmediate as nextTurn } from 'node:timers/promises';
import type {
  Birth,
  ConditionType,
  DesiredState,
  DeviceEvent,
  DeviceResult,
  ReportedState,
} from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget } from '../../configs/contracts/plan.js';
import type { Release } from '../../configs/contracts/release.js';
import type { Selectable } from '../selector.js';
import type { Announce } from './announce.js';
import { canonical } from './canonical.js';
import type { ConsoleDatabase } from './database.js';
import type { Assignment, BudgetRule, DeviceView, Pin } from './desired.js';

/** A device as the console knows it. */
export interface DeviceRecord {
  readonly id: string;
  readonly birth: Birth;
  readonly isOnline: boolean;
  readonly reported: ReportedState | null;
  /** ISO 8601, by the console's clock. */
  readonly lastSeen: string;
  readonly desired: DesiredState | null;
  /**
   * The device has seen a higher generation than this console ever wrote: the database is older than the device. Nothing is sent to
   * it until somebody decides; see `adopt`.
   */
  readonly isAhead: boolean;
  /** What it has of its own, by target, over what is assigned by selector. */
  readonly pins: Readonly<Record<string, Pin>>;
}

/** A device as the API shows it. */
export type DeviceDocument = Omit<DeviceRecord, 'pins'>;

/** Devices by what is known of them; one counts in every state that it is in. */
export interface DeviceCounts {
  readonly known: number;
  readonly online: number;
  readonly ahead: number;
  readonly degraded: number;
  readonly infeasible: number;
  readonly gated: number;
}

/** An event with the number it has in the stream of all events. */
export interface StoredEvent {
  readonly number: number;
  readonly event: DeviceEvent;
}

/** What is kept of events and results. */
export interface Retention {
  readonly events: number;
  readonly results: number;
}

interface DeviceRow {
  id: string;
  birth: string;
  session: number;
  online: number;
  reported: string | null;
  observed: number;
  last_seen: string;
  desired: string | null;
  generation: number | null;
  pins: string;
}

/** Devices that are counted in one go. */
const countedAtOnce = 1000;

/** The console's truth, in one SQLite file. Methods are synchronous; what belongs together is written together. */
export class ConsoleStore {
  readonly #database: ConsoleDatabase;
  readonly #retention: Retention;
  readonly #announce: Announce;

  constructor(database: ConsoleDatabase, retention: Retention, announce: Announce) {
    this.#retention = retention;
    this.#database = database;
    this.#announce = announce;
  }

  /** Everything that `work` writes is there afterwards, or nothing of it. */
  atomically<T>(work: () => T): T {
    return this.#database.write(work);
  }

  /** Takes a birth over. One of an older session than is known changes nothing; answers whether it was taken. */
  putBirth(birth: Birth): boolean {
    return this.#database.write(() => {
      const known = this.#session(birth.device);
      if (known !== undefined && known.session > birth.session) return false;
      this.#database.run(
        `INSERT INTO device (id, birth, session, online, last_seen) VALUES (?, ?, ?, 1, ?)
         ON CONFLICT (id) DO UPDATE SET birth = excluded.birth, session = excluded.session, last_seen = excluded.last_seen`,
        birth.device,
        JSON.stringify(birth),
        birth.session,
        timeNow(),
      );
      return true;
    });
  }

  /** Takes over whether a device is online. The word of another session than the current one is a late will, and is ignored. */
  putOnline(device: string, isOnline: boolean, session: number): boolean {
    return this.#database.write(() => {
      const known = this.#session(device);
      if (known === undefined || known.session !== session) return false;
      this.#database.run(
        'UPDATE device SET online = ?, last_seen = ? WHERE id = ?',
        isOnline ? 1 : 0,
        timeNow(),
        device,
      );
      return known.online !== (isOnline ? 1 : 0);
    });
  }

  /** Takes a report over. An older one than is known (by session and sequence), or one of an unknown device, changes nothing. */
  putReported(reported: ReportedState): boolean {
    return this.#database.write(() => {
      const last = this.#database.get<{ session: number | null; sequence: number | null }>(
        "SELECT reported ->> '$.session' AS session, reported ->> '$.sequence' AS sequence FROM device WHERE id = ?",
        reported.device,
      );
      if (last === undefined) return false;
      const { session, sequence } = last;
      const isOlder =
        session !== null &&
        (reported.session < session || (reported.session === session && reported.sequence < sequence!));
      if (isOlder) return false;
      this.#database.run(
        'UPDATE device SET reported = ?, observed = max(observed, ?), last_seen = ? WHERE id = ?',
        JSON.stringify(reported),
        reported.observedGeneration,
        timeNow(),
        reported.device,
      );
      return true;
    });
  }

  /** What a device says in a sync: the generation that it has seen. */
  putObserved(device: string, generation: number): void {
    this.#database.write(() =>
      this.#database.run('UPDATE device SET observed = max(observed, ?) WHERE id = ?', generation, device),
    );
  }

  device(id: string): DeviceRecord | null {
    const row = this.#row(id);
    return row === undefined ? null : deviceOf(row);
  }

  /** All devices, by id. */
  devices(): DeviceRecord[] {
    return this.#database.all<DeviceRow>(`${selectDevice} ORDER BY device.id`).map(deviceOf);
  }

  /** Ids of devices after an id, in order. */
  deviceIds(after = '', limit = Number.MAX_SAFE_INTEGER): string[] {
    const rows = this.#database.all<{ id: string }>(
      'SELECT id FROM device WHERE id > ? ORDER BY id LIMIT ?',
      after,
      limit,
    );
    return rows.map(({ id }) => id);
  }

  /** Devices after an id that are meant, in order; no more of the others is read than that takes. */
  devicesAfter(after: string, limit: number, isMeant: (device: Selectable) => boolean): DeviceRecord[] {
    const rows = this.#database.iterate<{ id: string; labels: string }>(
      "SELECT id, birth -> '$.labels' AS labels FROM device WHERE id > ? ORDER BY id",
      after,
    );
    const ids: string[] = [];
    for (const { id, labels } of rows) {
      if (ids.length === limit) break;
      if (isMeant({ id, labels: JSON.parse(labels) as Selectable['labels'] })) ids.push(id);
    }
    return ids.map((id) => this.device(id)!);
  }

  /** What a device should run, as JSON; null where there is nothing, or the device is ahead. */
  desiredText(id: string): string | null {
    const row = this.#database.get<{ document: string }>(
      `SELECT document FROM desired JOIN device ON device.id = desired.device
       WHERE desired.device = ? AND device.observed <= desired.generation`,
      id,
    );
    return row?.document ?? null;
  }

  /** Devices by what is known of them; others are served while they are counted. */
  async deviceCounts(): Promise<DeviceCounts> {
    const sum = { known: 0, online: 0, ahead: 0, degraded: 0, infeasible: 0, gated: 0 };
    let after: string | null = '';
    while (after !== null) {
      const { last, ...counts }: DeviceCounts & { last: string | null } = this.#countAfter(after);
      for (const key of Object.keys(sum) as (keyof DeviceCounts)[]) sum[key] += counts[key];
      after = last;
      if (after !== null) await nextTurn();
    }
    return sum;
  }

  /** Counts some devices after an id; `last`: the last one of them, null where there are none. */
  #countAfter(after: string): DeviceCounts & { readonly last: string | null } {
    // Few reports have these in them at all, and the others need not be parsed.
    const says = (type: ConditionType) =>
      `CASE WHEN instr(reported, '"${type}"') THEN EXISTS (SELECT 1 FROM json_each(reported, '$.conditions')
         WHERE value ->> 'type' = '${type}' AND value ->> 'status' = 'true') ELSE 0 END`;
    return this.#database.get<DeviceCounts & { last: string | null }>(
      `SELECT max(id) AS last, count(*) AS known, coalesce(sum(online), 0) AS online,
         coalesce(sum(observed > coalesce(generation, 0)), 0) AS ahead,
         coalesce(sum(${says('Degraded')}), 0) AS degraded, coalesce(sum(${says('BudgetInfeasible')}), 0) AS infeasible,
         coalesce(sum(${says('Gated')}), 0) AS gated
       FROM (SELECT id, online, observed, reported, generation FROM device LEFT JOIN desired ON desired.device = device.id
         WHERE id > ? ORDER BY id LIMIT ${countedAtOnce})`,
      after,
    )!;
  }

  /** Stores a release; answers false where one of the same id and content is there. Fails with `release/exists` for another content. */
  putRelease(release: Release): boolean {
    return this.#database.write(() => {
      const known = this.release(release.id);
      if (known !== null) {
        if (canonical(known) === canonical(release)) return false;
        throw new EdgeError('release/exists', `release ${release.id} is there already, with another content`, {
          subject: release.id,
        });
      }
      this.#database.run('INSERT INTO release VALUES (?, ?, ?)', release.id, JSON.stringify(release), timeNow());
      return true;
    });
  }

  release(id: string): Release | null {
    const row = this.#database.get<{ document: string }>('SELECT document FROM release WHERE id = ?', id);
    return row === undefined ? null : (JSON.parse(row.document) as Release);
  }

  /** Newest first. */
  releases(): (Release & { createdAt: string })[] {
    const rows = this.#database.all<{ document: string; created_at: string }>(
      'SELECT * FROM release ORDER BY rowid DESC',
    );
    return rows.map((row) => ({ ...(JSON.parse(row.document) as Release), createdAt: row.created_at }));
  }

  /** `rollout`: the one whose standing assignment it is. */
  putAssignment({ selector, target, release }: Omit<Assignment, 'number'>, rollout: number | null = null): void {
    this.#database.write(() =>
      this.#database.run(
        'INSERT INTO assignment (selector, target, release, created_at, rollout) VALUES (?, ?, ?, ?, ?)',
        selector,
        target,
        release,
        timeNow(),
        rollout,
      ),
    );
  }

  /** Takes the standing assignment of a rollout back. */
  withdrawAssignment(rollout: number): void {
    this.#database.write(() => this.#database.run('UPDATE assignment SET withdrawn = 1 WHERE rollout = ?', rollout));
  }

  /** What holds, oldest first. */
  assignments(): (Assignment & { createdAt: string; rollout: number | null })[] {
    return this.#database.all(
      'SELECT id AS number, selector, target, release, created_at AS createdAt, rollout FROM assignment WHERE withdrawn = 0 ORDER BY id',
    );
  }

  /** Gives a target of a device a release of its own, over every assignment until now; null: what is assigned holds again. */
  putPin(device: string, target: string, release: string | null): void {
    this.#database.write(() => {
      this.#database.run('DELETE FROM pin WHERE device = ? AND target = ?', device, target);
      if (release === null) return;
      this.#database.run(
        'INSERT INTO pin SELECT ?, ?, ?, coalesce(max(id), 0) FROM assignment',
        device,
        target,
        release,
      );
    });
  }

  putBudget(selector: string, budget: Budget): void {
    this.#database.write(() =>
      this.#database.run(
        'INSERT INTO budget (selector, budget, created_at) VALUES (?, ?, ?)',
        selector,
        JSON.stringify(budget),
        timeNow(),
      ),
    );
  }

  /** Every budget that was ever set, oldest first; the last of a selector holds. */
  budgets(): (BudgetRule & { createdAt: string })[] {
    const rows = this.#database.all<{ selector: string; budget: string; created_at: string }>(
      'SELECT * FROM budget ORDER BY id',
    );
    return rows.map((row) => ({
      selector: row.selector,
      budget: JSON.parse(row.budget) as Budget,
      createdAt: row.created_at,
    }));
  }

  /** Writes what a device should run, under a new generation, if that changes anything. Answers the document if so, else null. */
  putDesired(device: string, targets: DesiredState['targets']): DesiredState | null {
    return this.#database.write(() => {
      const row = this.#database.get<{ document: string }>('SELECT document FROM desired WHERE device = ?', device);
      const known = row === undefined ? null : (JSON.parse(row.document) as DesiredState);
      if (canonical(known?.targets ?? {}) === canonical(targets)) return null;
      return this.#putGeneration(device, (known?.generation ?? 0) + 1, targets);
    });
  }

  /** Writes what a known device should run under a generation above what it has seen, so that it takes this console's word again. */
  adopt(device: string, targets: DesiredState['targets']): DesiredState {
    return this.#database.write(() => {
      const { observed, generation } = this.#row(device)!;
      return this.#putGeneration(device, Math.max(observed, generation ?? 0) + 1, targets);
    });
  }

  /** Keeps an event; false where it is there already. */
  putEvent(event: DeviceEvent): StoredEvent | null {
    return this.#database.write(() => {
      const { changes, lastInsertRowid } = this.#database.run(
        'INSERT INTO event (device, session, sequence, document) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
        event.device,
        event.session,
        event.sequence,
        JSON.stringify(event),
      );
      if (changes === 0) return null;
      const number = lastInsertRowid;
      this.#database.run('DELETE FROM event WHERE number <= ?', number - this.#retention.events);
      this.#announce('device', event);
      return { number, event };
    });
  }

  /** Events after a number, oldest first. */
  eventsAfter(number: number, limit: number): StoredEvent[] {
    const rows = this.#database.all<{ number: number; document: string }>(
      'SELECT number, document FROM event WHERE number > ? ORDER BY number LIMIT ?',
      number,
      limit,
    );
    return rows.map((row) => ({ number: row.number, event: JSON.parse(row.document) as DeviceEvent }));
  }

  /** Events before a number, newest first; of one device, or of all. */
  eventsBefore(number: number, limit: number, device: string | null): StoredEvent[] {
    const rows = this.#database.all<{ number: number; document: string }>(
      `SELECT number, document FROM event WHERE number < ? ${device === null ? '' : 'AND device = ?'} ORDER BY number DESC LIMIT ?`,
      number,
      ...(device === null ? [] : [device]),
      limit,
    );
    return rows.map((row) => ({ number: row.number, event: JSON.parse(row.document) as DeviceEvent }));
  }

  /** Number of the newest event; 0 before any. */
  get lastEvent(): number {
    return this.#database.get<{ number: number | null }>('SELECT max(number) AS number FROM event')?.number ?? 0;
  }

  /** Keeps a result; false where it is there already. */
  putResult(result: DeviceResult): boolean {
    return this.#database.write(() => {
      const { changes, lastInsertRowid } = this.#database.run(
        'INSERT INTO result (id, device, document) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
        result.id,
        result.device,
        JSON.stringify(result),
      );
      if (changes === 0) return false;
      this.#database.run('DELETE FROM result WHERE number <= ?', lastInsertRowid - this.#retention.results);
      this.#announce('result', result);
      return true;
    });
  }

  /** Newest first; of one device, or of all. */
  results(device: string | null, limit: number): DeviceResult[] {
    const where = device === null ? '' : 'WHERE device = ?';
    const rows = this.#database.all<{ document: string }>(
      `SELECT document FROM result ${where} ORDER BY number DESC LIMIT ?`,
      ...(device === null ? [] : [device]),
      limit,
    );
    return rows.map((row) => JSON.parse(row.document) as DeviceResult);
  }

  #putGeneration(device: string, generation: number, targets: DesiredState['targets']): DesiredState {
    const document: DesiredState = { schema: 'quantd/desired/1', device, generation, targets, time: timeNow() };
    this.#database.run(
      `INSERT INTO desired VALUES (?, ?, ?)
       ON CONFLICT (device) DO UPDATE SET generation = excluded.generation, document = excluded.document`,
      device,
      generation,
      JSON.stringify(document),
    );
    return document;
  }

  #session(id: string): { readonly session: number; readonly online: number } | undefined {
    return this.#database.get('SELECT session, online FROM device WHERE id = ?', id);
  }

  #row(id: string): DeviceRow | undefined {
    return this.#database.get<DeviceRow>(`${selectDevice} WHERE device.id = ?`, id);
  }
}

const selectDevice = `SELECT device.*, desired.document AS desired, desired.generation,
   (SELECT json_group_object(target, json_object('release', release, 'over', covers)) FROM pin WHERE pin.device = device.id) AS pins
 FROM device LEFT JOIN desired ON desired.device = device.id`;

/** ISO 8601, by the console's clock. */
const timeNow = () => new Date().toISOString();

/** Documents are parsed when they are looked at: most who look at many devices want one of them. */
function deviceOf(row: DeviceRow): DeviceRecord {
  const birth = parsedOnce<Birth>(row.birth);
  const reported = parsedOnce<ReportedState | null>(row.reported ?? 'null');
  const desired = parsedOnce<DesiredState | null>(row.desired ?? 'null');
  return {
    id: row.id,
    get birth() {
      return birth();
    },
    isOnline: row.online !== 0,
    get reported() {
      return reported();
    },
    lastSeen: row.last_seen,
    get desired() {
      return desired();
    },
    isAhead: row.observed > (row.generation ?? 0),
    pins: JSON.parse(row.pins) as Record<string, Pin>,
  };
}

function parsedOnce<Document>(text: string): () => Document {
  let parsed: { readonly document: Document } | null = null;
  return () => (parsed ??= { document: JSON.parse(text) as Document }).document;
}

/** A device as `desired.ts` looks at it. */
export function viewOf({ id, birth, pins }: DeviceRecord): DeviceView {
  return { id, labels: birth.labels, targets: birth.targets, pins };
}
