import { resolve } from 'node:path';
import { Pipeline, type Ports, type StepProgress } from '../pipeline.js';
import { frontierDocument, modelDocument, uniformPredictions, unitOf } from '../report.js';
import { type JobOptions, openJob } from './open-job.js';

/** The Pareto set of a model on this target, from stored tables; measures only what is missing. */
export async function frontierJob(options: JobOptions, ports: Ports, signal: AbortSignal, progress: StepProgress) {
  const job = await openJob(options);
  const pipeline = new Pipeline(job, ports, signal, progress);
  const assessed = await pipeline.assess();
  const points = await pipeline.frontier(assessed);
  const experience = pipeline.experience(assessed.identity);
  return {
    model: modelDocument(job, resolve(options.model)),
    target: { kind: assessed.identity.kind, identity: assessed.identity, counter: assessed.counter },
    unit: unitOf(assessed.counter),
    latencyRatio: experience.ratio,
    uniform: uniformPredictions(assessed, experience.ratio),
    frontier: frontierDocument(job, points, experience, assessed.counter),
  };
}

/** The document of `frontier --json`; latencies are what plans can be expected to measure. */
export type FrontierReport = Awaited<ReturnType<typeof frontierJob>>;
