/** Everything that runs in a worker process, by name. */
import type { Ports, StepProgress } from '../pipeline.js';
import { benchJob } from './bench.js';
import { evaluateJob } from './evaluate.js';
import { frontierJob } from './frontier.js';
import { profileJob } from './profile.js';
import { quantizeJob } from './quantize.js';

/** The jobs; each reads its files, works through the ports it is given, and answers a document of plain data. */
export const jobs = {
  quantize: quantizeJob,
  frontier: frontierJob,
  profile: profileJob,
  evaluate: evaluateJob,
  bench: benchJob,
};

/** Name of a job, as it is sent to the worker. */
export type JobName = keyof typeof jobs;

/** What a job takes; plain data, so that it can be sent. */
export type OptionsOf<Name extends JobName> = Parameters<(typeof jobs)[Name]>[0];

/** What a job answers; plain data, so that it can be sent. */
export type ReportOf<Name extends JobName> = Awaited<ReturnType<(typeof jobs)[Name]>>;

/** Runs one job. The table guarantees that options and job belong together. */
export function runJob<Name extends JobName>(
  name: Name,
  options: OptionsOf<Name>,
  ports: Ports,
  signal: AbortSignal,
  progress: StepProgress,
) {
  const job = jobs[name] as (
    options: OptionsOf<Name>,
    ports: Ports,
    signal: AbortSignal,
    progress: StepProgress,
  ) => Promise<ReportOf<Name>>;
  return job(options, ports, signal, progress);
}
