import type {
  DeviceProgress,
  Rollout,
  RolloutHead,
  RolloutReason,
  RolloutStatus,
} from '../../configs/contracts/rollout.js';
import { hasEnded } from '../rollout.js';
import type { ConsoleDatabase } from './database.js';

/** A reason with its place in the stream of all reasons. */
export interface StoredReason extends RolloutReason {
  readonly number: number;
  readonly rollout: number;
  /** ISO 8601, by the console's clock. */
  readonly time: string;
}

/** A rollout in a list. */
export interface RolloutSummary extends RolloutHead {
  readonly createdAt: string;
  readonly changedAt: string;
  /** Devices by state. */
  readonly counts: Readonly<Record<string, number>>;
}

/** What an ended rollout has left behind. */
export interface RolloutTrouble {
  readonly id: number;
  readonly release: string;
  readonly status: RolloutStatus;
  /** How many have failed, or could not go back. */
  readonly devices: number;
  /** Ids of the first few. */
  readonly first: readonly string[];
}

/** Devices that are named of those. */
const namedDevices = 5;

interface Row {
  id: number;
  head: string;
  created_at: string;
  changed_at: string;
}

/** Rollouts in the console's database: everything that is known of them. */
export class RolloutStore {
  readonly #database: ConsoleDatabase;
  readonly #mostReasons: number;

  /** Keeps so many reasons, over all rollouts. */
  constructor(database: ConsoleDatabase, mostReasons: number) {
    this.#database = database;
    this.#mostReasons = mostReasons;
  }

  /** Number of the next rollout. */
  get nextId(): number {
    return this.#database.get<{ id: number }>('SELECT coalesce(max(id), 0) + 1 AS id FROM rollout')!.id;
  }

  /** Writes a rollout. `known`: what was read or written last; of the devices, only those are written that are other objects there. */
  put(rollout: Rollout, known: Rollout | null): void {
    const { devices, ...head } = rollout;
    const now = new Date().toISOString();
    this.#database.write(() => {
      this.#database.run(
        `INSERT INTO rollout VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET head = excluded.head, status = excluded.status, changed_at = excluded.changed_at`,
        rollout.id,
        JSON.stringify(head),
        rollout.status,
        now,
        now,
      );
      for (const [device, progress] of Object.entries(devices)) {
        if (known?.devices[device] === progress) continue;
        this.#database.run(
          'INSERT OR REPLACE INTO rollout_device VALUES (?, ?, ?, ?)',
          rollout.id,
          device,
          progress.state,
          JSON.stringify(progress),
        );
      }
      for (const device of Object.keys(known?.devices ?? {})) {
        if (devices[device] !== undefined) continue;
        this.#database.run('DELETE FROM rollout_device WHERE rollout = ? AND device = ?', rollout.id, device);
      }
    });
  }

  /** Keeps reasons; answers them with their numbers. */
  putReasons(rollout: number, reasons: readonly RolloutReason[]): StoredReason[] {
    const time = new Date().toISOString();
    return this.#database.write(() => {
      const stored = reasons.map(({ device, text }) => {
        const { lastInsertRowid: number } = this.#database.run(
          'INSERT INTO rollout_reason (rollout, device, text, time) VALUES (?, ?, ?, ?)',
          rollout,
          device,
          text,
          time,
        );
        return { number, rollout, device, text, time };
      });
      const last = stored.at(-1)?.number ?? 0;
      this.#database.run('DELETE FROM rollout_reason WHERE number <= ?', last - this.#mostReasons);
      return stored;
    });
  }

  /** Of one rollout, newest first. `device`: about this one only. */
  reasons(rollout: number, limit: number, device: string | null = null): StoredReason[] {
    return this.#database.all(
      'SELECT * FROM rollout_reason WHERE rollout = ? AND (? IS NULL OR device = ?) ORDER BY number DESC LIMIT ?',
      rollout,
      device,
      device,
      limit,
    );
  }

  get(id: number): Rollout | null {
    const row = this.#database.get<Row>('SELECT * FROM rollout WHERE id = ?', id);
    if (row === undefined) return null;
    const rows = this.#database.all<{ device: string; progress: string }>(
      'SELECT device, progress FROM rollout_device WHERE rollout = ? ORDER BY device',
      id,
    );
    const devices = rows.map(({ device, progress }) => [device, JSON.parse(progress) as DeviceProgress]);
    return { ...(JSON.parse(row.head) as RolloutHead), devices: Object.fromEntries(devices) };
  }

  /** Those that have not ended, oldest first. */
  live(): Rollout[] {
    const rows = this.#database.all<Row>('SELECT * FROM rollout ORDER BY id');
    const heads = rows.map(({ head }) => JSON.parse(head) as RolloutHead).filter((head) => !hasEnded(head));
    return heads.map(({ id }) => this.get(id)!);
  }

  /** Devices that a rollout has told something, and not let go of before its end. */
  toldDevices(): string[] {
    const rows = this.#database.all<{ device: string }>(
      "SELECT DISTINCT device FROM rollout_device WHERE state NOT IN ('waiting', 'superseded')",
    );
    return rows.map(({ device }) => device);
  }

  /**
   * By target, the newest rollout that has told a device something, as far as it has ended and not let go of it: with that device only.
   * Those whose word is still wanted and carried out are left out, as most are, without the device's documents being read.
   */
  endedWith(device: string): Rollout[] {
    const rows = this.#database.all<{ head: string; progress: string; runs: string | null; wanted: string | null }>(
      `SELECT max(own.rollout), own.progress, head,
         reported ->> ('$.targets."' || (head ->> '$.target') || '".active.release') AS runs,
         desired.document ->> ('$.targets."' || (head ->> '$.target') || '".release.id') AS wanted
       FROM rollout_device AS own JOIN rollout ON rollout.id = own.rollout JOIN device ON device.id = own.device
         LEFT JOIN desired ON desired.device = own.device
       WHERE own.device = ? AND own.state NOT IN ('waiting', 'superseded') GROUP BY head ->> '$.target'`,
      device,
    );
    return rows
      .map(({ head, progress, ...now }) => ({
        head: JSON.parse(head) as RolloutHead,
        progress: JSON.parse(progress) as DeviceProgress,
        ...now,
      }))
      .filter(({ head, progress: { state, previous, isLetGo = false }, runs, wanted }) => {
        const kept = state === 'confirmed' ? head.release : state === 'returned' ? previous : null;
        return hasEnded(head) && !isLetGo && (kept === null || runs !== kept || wanted !== kept);
      })
      .map(({ head, progress }) => ({ ...head, devices: { [device]: progress } }));
  }

  /**
   * Devices that have failed in a rollout that has ended, or could not go back, and on which its word still holds: no rollout acts on
   * them any more. Without those whose failure somebody has accepted by resuming.
   */
  left(): RolloutTrouble[] {
    const rows = this.#database.all<{ id: number; release: string; status: RolloutStatus; device: string }>(
      `SELECT rollout.id, head ->> '$.release' AS release, status, own.device
       FROM rollout_device AS own JOIN rollout ON rollout.id = own.rollout
       WHERE own.state IN ('failed', 'stranded') AND status IN ('completed', 'rolled-back', 'aborted')
         AND NOT progress ->> '$.isAccepted'
         AND NOT EXISTS (
           SELECT 1 FROM rollout_device AS newer JOIN rollout AS next ON next.id = newer.rollout
           WHERE newer.device = own.device AND newer.rollout > own.rollout AND newer.state NOT IN ('waiting', 'superseded')
             AND next.head ->> '$.target' = rollout.head ->> '$.target')
       ORDER BY rollout.id DESC, own.device`,
    );
    const troubles = new Map<number, RolloutTrouble>();
    for (const { device, ...head } of rows) {
      const { devices, first } = troubles.get(head.id) ?? { devices: 0, first: [] };
      const named = first.length < namedDevices ? [...first, device] : first;
      troubles.set(head.id, { ...head, devices: devices + 1, first: named });
    }
    return [...troubles.values()];
  }

  /** Newest first. */
  list(): RolloutSummary[] {
    return this.#database.all<Row>('SELECT * FROM rollout ORDER BY id DESC').map((row) => this.#summaryOf(row));
  }

  /** The newest rollout that has a device, else the newest of all; null before any. */
  newestFor(device: string): number | null {
    const own = this.#database.get<{ id: number | null }>(
      'SELECT max(rollout) AS id FROM rollout_device WHERE device = ?',
      device,
    );
    return own?.id ?? this.#database.get<{ id: number | null }>('SELECT max(id) AS id FROM rollout')!.id;
  }

  /** By status, every status among them. */
  counts(): Record<RolloutStatus, number> {
    const counts = { running: 0, paused: 0, 'rolling-back': 0, completed: 0, 'rolled-back': 0, aborted: 0 };
    const rows = this.#database.all<{ status: RolloutStatus; count: number }>(
      'SELECT status, count(*) AS count FROM rollout GROUP BY status',
    );
    for (const { status, count } of rows) counts[status] = count;
    return counts;
  }

  summary(id: number): RolloutSummary | null {
    const row = this.#database.get<Row>('SELECT * FROM rollout WHERE id = ?', id);
    return row === undefined ? null : this.#summaryOf(row);
  }

  #summaryOf({ id, head, created_at: createdAt, changed_at: changedAt }: Row): RolloutSummary {
    const counts = this.#database.all<{ state: string; count: number }>(
      'SELECT state, count(*) AS count FROM rollout_device WHERE rollout = ? GROUP BY state',
      id,
    );
    return {
      ...(JSON.parse(head) as RolloutHead),
      createdAt,
      changedAt,
      counts: Object.fromEntries(counts.map(({ state, count }) => [state, count])),
    };
  }
}
