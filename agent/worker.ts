/**
 * Entry point of the worker process: constructs the adapters, runs one job and answers over the IPC channel. A process of its
 * own, so that whatever a native runtime does (seconds of blocking, gigabytes, a crash) never happens to the one that asked.
 */
import { join } from 'node:path';
import { EdgeError, type ErrorDocument } from '../configs/contracts/errors.js';
import { type DonorOptions, HttpDonorTables } from './adapters/donor-tables.js';
import { HighsSolver } from './adapters/highs-solver.js';
import { HostRuntime } from './adapters/host-runtime.js';
import { McuTarget } from './adapters/mcu-target.js';
import { nativeRounder } from './adapters/native-rounder.js';
import { NativeTarget } from './adapters/native-target.js';
import { OrtTarget } from './adapters/ort-target.js';
import { openEnergyMeter } from './adapters/power.js';
import { SqliteStore } from './adapters/sqlite-store.js';
import { isMcuTargetName, placeOf } from './core/target-name.js';
import { type JobName, type OptionsOf, type ReportOf, runJob } from './jobs/index.js';
import type { StepSeconds } from './pipeline.js';
import type { Target } from './ports.js';

/** The one message that a worker is sent. */
export interface WorkerRequest<Name extends JobName = JobName> {
  readonly job: Name;
  readonly options: OptionsOf<Name>;
  readonly threads: number;
  readonly state: string;
  /** Where tables of other devices are asked for; absent: nowhere. */
  readonly donors?: DonorOptions;
}

/**
 * What a worker sends: progress as often as it likes, then `done` or `failed` once. `error` is null for what is no expected
 * failure.
 */
export type WorkerMessage =
  | { readonly kind: 'progress'; readonly step: keyof StepSeconds; readonly share: number; readonly text: string }
  | { readonly kind: 'done'; readonly report: ReportOf<JobName> }
  | { readonly kind: 'failed'; readonly error: ErrorDocument | null; readonly message: string };

async function work(request: WorkerRequest): Promise<ReportOf<JobName>> {
  const store = new SqliteStore(join(request.state, 'quantd.db'));
  const solver = new HighsSolver();
  const abort = new AbortController();
  // Ctrl-C reaches the whole process group; the parent answers it and ends this process in order.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () =>
    abort.abort(new EdgeError('job/aborted', 'the job was interrupted', { subject: request.job })),
  );
  try {
    const { options, threads } = request;
    const target = await openTarget('target' in options ? options.target : 'ort', threads);
    const ports = {
      runtime: new HostRuntime(),
      target,
      solver,
      rounder: nativeRounder,
      store,
      donors: request.donors === undefined ? null : new HttpDonorTables(request.donors),
      clock: { nanoseconds: () => process.hrtime.bigint(), now: () => new Date().toISOString() },
    };
    return await runJob(request.job, request.options, ports, abort.signal, (step, share, text) =>
      send({ kind: 'progress', step, share, text }),
    );
  } finally {
    await solver.close();
    store.close();
  }
}

async function openTarget(name: string, threads: number): Promise<Target> {
  if (isMcuTargetName(name)) return McuTarget.open(placeOf(name));
  return name === 'native' ? new NativeTarget({ threads }) : new OrtTarget({ threads, meter: await openEnergyMeter() });
}

function send(message: WorkerMessage): void {
  // Who asked may be gone this very moment; `disconnect` ends this process then.
  process.send?.(message, () => {});
}

process.once('message', (request: WorkerRequest) => {
  work(request)
    .then((report): WorkerMessage => ({ kind: 'done', report }))
    .catch((error: unknown): WorkerMessage => {
      const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
      return { kind: 'failed', error: error instanceof EdgeError ? error.toDocument() : null, message };
    })
    .then((message) => process.send?.(message, () => process.exit(0)));
});
// The parent is gone: nobody will read a result.
process.on('disconnect', () => process.exit(0));
