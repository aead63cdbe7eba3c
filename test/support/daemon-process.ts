/** The real daemon in a process of its own, with what it says. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const main = fileURLToPath(new URL('../../agent/main.js', import.meta.url));

/** A line of its journal. */
export interface JournalLine {
  readonly level: number;
  readonly msg: string;
  readonly step?: string;
  readonly generation?: number;
  readonly code?: string;
}

/** A state folder whose path is short enough for a socket in it; gone after the test file. */
export function stateFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'qd-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Where the daemon finds its console, and other settings as variables. */
export interface DaemonAddresses {
  readonly url: string;
  readonly brokerUrl: string;
}

/** One start of `quantd run`. */
export class DaemonProcess {
  readonly journal: JournalLine[] = [];
  readonly child: ChildProcess;
  readonly ended: Promise<unknown>;
  stderr = '';

  constructor(state: string, { url, brokerUrl }: DaemonAddresses, settings: Record<string, string> = {}) {
    this.child = spawn(process.execPath, ['--enable-source-maps', main, 'run'], {
      env: {
        ...process.env,
        QUANTD__DEVICE__ID: 'd1',
        QUANTD__STATE__FOLDER: state,
        QUANTD__CONSOLE__URL: url,
        QUANTD__MQTT__URL: brokerUrl,
        QUANTD__CONFIRM__BAKE_SECONDS: '0.2',
        QUANTD__CONFIRM__PROBE_EVERY_MS: '20',
        QUANTD__CONFIRM__MOST_INTERRUPTIONS: '1000000',
        QUANTD__RETRY__FIRST_MS: '50',
        QUANTD__RETRY__MOST_MS: '500',
        ...settings,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let rest = '';
    this.child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop()!;
      for (const line of lines) this.journal.push(JSON.parse(line) as JournalLine);
    });
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.ended = once(this.child, 'close');
  }

  /** Kills it as a power cut would: at once, its children too. */
  async kill(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.ended;
  }

  async stop(): Promise<void> {
    this.child.kill('SIGTERM');
    await this.ended;
  }
}
