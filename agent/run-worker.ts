import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { EdgeError } from '../configs/contracts/errors.js';
import type { JobName, OptionsOf, ReportOf } from './jobs/index.js';
import type { StepProgress } from './pipeline.js';
import type { WorkerMessage, WorkerRequest } from './worker.js';

/** How long an aborted worker may take to stop by itself before it is killed. */
const graceMs = 3000;

/** Runs a job in a worker process. Aborting kills it; its finished steps are in the store. Fails with the job's EdgeError. */
export function runInWorker<Name extends JobName>(
  job: Name,
  options: OptionsOf<Name>,
  settings: { threads: number; state: string },
  signal: AbortSignal,
  progress: StepProgress,
): Promise<ReportOf<Name>> {
  return new Promise((resolve, reject) => {
    const child: ChildProcess = fork(fileURLToPath(new URL('./worker.js', import.meta.url)), {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    let isAnswered = false;
    const answer = (settle: () => void) => {
      if (isAnswered) return;
      isAnswered = true;
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
