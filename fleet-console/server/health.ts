import type { ConsoleDatabase } from './database.js';
import type { ConsoleLink } from './link.js';

/** One thing that the console cannot do without. */
export interface HealthCheck {
  readonly name: 'database' | 'broker';
  readonly status: 'ok' | 'failed';
  readonly message: string;
}

/** The database is written to no more often than this, whoever asks. */
const writeEveryMs = 5000;

/** Whether the console can do its work. Cheap enough to be asked by anybody. */
export class Health {
  readonly #database: ConsoleDatabase;
  readonly #link: ConsoleLink;
  #written: { readonly atMs: number; readonly check: HealthCheck } | null = null;

  constructor(database: ConsoleDatabase, link: ConsoleLink) {
    this.#database = database;
    this.#link = link;
  }

  checks(): readonly HealthCheck[] {
    const { isConnected } = this.#link;
    return [
      this.#databaseCheck(),
      {
        name: 'broker',
        status: isConnected ? 'ok' : 'failed',
        message: isConnected ? 'the console is connected' : 'the broker cannot be reached',
      },
    ];
  }

  #databaseCheck(): HealthCheck {
    const now = performance.now();
    if (this.#written === null || now - this.#written.atMs >= writeEveryMs)
      this.#written = { atMs: now, check: this.#write() };
    return this.#written.check;
  }

  #write(): HealthCheck {
    try {
      this.#database.write(() =>
        this.#database.run('INSERT OR REPLACE INTO health VALUES (1, ?)', new Date().toISOString()),
      );
      return { name: 'database', status: 'ok', message: 'it can be written' };
    } catch (error) {
      return { name: 'database', status: 'failed', message: (error as Error).message };
    }
  }
}
