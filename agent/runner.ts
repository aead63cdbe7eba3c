/**
 * Entry point of a runner: a process that holds one artifact ready and answers requests over its IPC channel, one after the
 * other. It ends with its channel.
 */
import { EdgeError, type ErrorDocument } from '../configs/contracts/errors.js';
import { ArtifactRunner, readArtifact } from './adapters/artifact-runner.js';
import { HostRuntime } from './adapters/host-runtime.js';
import type { InferRequest } from './device-ports.js';
import type { Feed } from './ports.js';

/** What a runner is asked, with the number that its reply carries. */
export interface RunnerRequest {
  readonly id: number;
  readonly ask:
    | { readonly kind: 'load'; readonly folder: string; readonly threads: number }
    | { readonly kind: 'infer'; readonly request: InferRequest }
    | { readonly kind: 'probe'; readonly samplesFolder: string | null; readonly index: number };
}

/** What it answers. */
export type RunnerReply = { readonly id: number } & (
  | { readonly kind: 'loaded' }
  | { readonly kind: 'answer'; readonly outputs: readonly [string, Feed][]; readonly latencyMs: number }
  | { readonly kind: 'probed'; readonly latencyMs: number }
  | { readonly kind: 'failed'; readonly error: ErrorDocument }
);

/** Loads an artifact folder and runs it once, so that what cannot run is known at once. Fails with `artifact/invalid` or `target/failed`. */
async function load(folder: string, threads: number): Promise<ArtifactRunner> {
  const { model, card } = await readArtifact(folder);
  const session = await new HostRuntime().open(model, { threads });
  const dims = card.input.shape.map((size) => size ?? 1);
  const loaded = new ArtifactRunner(card, async (data) => {
    const started = performance.now();
    const outputs = await session.run(new Map([[card.input.name, { dims, data }]]));
    return { outputs: [...outputs], latencyMs: performance.now() - started };
  });
  await loaded.probe(null, 0);
  return loaded;
}

let runner: ArtifactRunner | null = null;

async function answer({ id, ask }: RunnerRequest): Promise<RunnerReply> {
  try {
    if (ask.kind === 'load') {
      runner = await load(ask.folder, ask.threads);
      return { id, kind: 'loaded' };
    }
    if (runner === null) throw new EdgeError('infer/unavailable', 'no model is loaded', { subject: 'runner' });
    if (ask.kind === 'infer') return { id, kind: 'answer', ...(await runner.infer(ask.request)) };
    return { id, kind: 'probed', latencyMs: await runner.probe(ask.samplesFolder, ask.index) };
  } catch (error) {
    const known =
      error instanceof EdgeError
        ? error
        : new EdgeError('target/failed', error instanceof Error ? error.message : String(error), { subject: 'runner' });
    return { id, kind: 'failed', error: known.toDocument() };
  }
}

let queue: Promise<unknown> = Promise.resolve();
process.on('message', (request: RunnerRequest) => {
  queue = queue.then(async () => {
    const reply = await answer(request);
    if (process.connected) process.send?.(reply, () => {});
  });
});
// Ctrl-C reaches the whole process group, and a service manager may tell all processes of a unit to stop: the daemon answers
// both. To end before it has noticed would look as if the model had crashed.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});
process.on('disconnect', () => process.exit(0));
