import { type ChildProcess, fork } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { fileURLToPath } from 'node:url';
import { EdgeError } from '../configs/contracts/errors.js';
import type { JobName, OptionsOf, ReportOf } from './jobs/index.js';
import type { StepProgress } from './pipeline.js';
import type { WorkerMessage, WorkerRequest } from './worker.js';

/** What a worker may take of the machine. */
export interface WorkerLimits {
  /** Nice value. */
  readonly nice: number;
  /** Resident memory, in MiB, at which it is ended. */
  readonly memoryMb: number;
}

/** How often a worker's memory is looked at. */
const watchMs = 500;

/** How long an aborted worker may take to stop by itself before it is killed. */
const graceMs = 3000;

/** Runs a job in a worker process. Aborting kills it; its finished steps are in the store. Fails with the job's EdgeError. */
export function runInWorker<Name extends JobName>(
  job: Name,
  options: OptionsOf<Name>,
  settings: Pick<WorkerRequest, 'threads' | 'state' | 'donors'>,
  signal: AbortSignal,
  progress: StepProgress,
  limits?: WorkerLimits,
): Promise<ReportOf<Name>> {
  if (signal.aborted) {
    return Promise.reject(new EdgeError('job/aborted', 'the job was interrupted', { subject: job }));
  }
  return new Promise((resolve, reject) => {
    const child: ChildProcess = fork(fileURLToPath(new URL('./worker.js', import.meta.url)), {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const unwatch =
      limits === undefined ? () => {} : limit(child, limits, () => answer(() => reject(tooLarge(job, limits))));
    let isAnswered = false;
    const answer = (settle: () => void) => {
      if (isAnswered) return;
      isAnswered = true;
      unwatch();
      signal.removeEventListener('abort', stop);
      settle();
    };
    const stop = () => {
      child.kill('SIGTERM');
      setTimeout(() => child.kill('SIGKILL'), graceMs).unref();
    };
    signal.addEventListener('abort', stop, { once: true });
    child.on('message', (message: WorkerMessage) => {
      if (message.kind === 'progress') progress(message.step, message.share, message.text);
      else if (message.kind === 'done') answer(() => resolve(message.report as ReportOf<Name>));
      else
        answer(() =>
          reject(message.error === null ? new Error(message.message) : EdgeError.fromDocument(message.error)),
        );
    });
    child.on('error', (cause) =>
      answer(() =>
        reject(new EdgeError('target/failed', `the worker did not start: ${cause.message}`, { subject: job, cause })),
      ),
    );
    child.on('exit', (code, killedBy) => {
      answer(() =>
        reject(
          signal.aborted
            ? new EdgeError('job/aborted', 'the job was interrupted', { subject: job })
            : new EdgeError('target/failed', `the worker ended without an answer (${killedBy ?? `status ${code}`})`, {
                subject: job,
              }),
        ),
      );
    });
    const request: WorkerRequest<Name> = { job, options, ...settings };
    child.send(request);
  });
}

/** Lowers a worker's priority, and ends it when it grows too large. Answers how to stop watching. */
function limit(child: ChildProcess, { nice, memoryMb }: WorkerLimits, tooLarge: () => void): () => void {
  const { pid } = child;
  if (pid === undefined) return () => {};
  try {
    setPriority(pid, nice);
  } catch {
    // It has ended already, which its own events tell.
  }
  const timer = setInterval(() => {
    readFile(`/proc/${pid}/status`, 'utf8').then(
      (status) => {
        const residentKb = Number(/^VmRSS:\s*(\d+) kB$/m.exec(status)?.[1] ?? 0);
        if (residentKb <= memoryMb * 1024) return;
        tooLarge();
        child.kill('SIGKILL');
      },
      () => {},
    );
  }, watchMs);
  timer.unref();
  return () => clearInterval(timer);
}

function tooLarge(job: string, { memoryMb }: WorkerLimits): EdgeError {
  return new EdgeError('job/memory', `the worker took more than ${memoryMb} MiB`, { subject: job });
}
