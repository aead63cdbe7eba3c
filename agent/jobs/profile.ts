import { resolve } from 'node:path';
import { Pipeline, type Ports, type StepProgress } from '../pipeline.js';
import { profileDocument } from '../report.js';
import { type JobOptions, openJob } from './open-job.js';

/** Measures every distinct operator of a model at every precision the target can run. */
export async function profileJob(options: JobOptions, ports: Ports, signal: AbortSignal, progress: StepProgress) {
  const job = await openJob({ ...options, data: undefined });
  const profiled = await new Pipeline(job, ports, signal, progress).profile();
  return profileDocument(job, resolve(options.model), profiled.table, profiled);
}

/** The document of `profile --json`. */
export type ProfileReport = Awaited<ReturnType<typeof profileJob>>;
