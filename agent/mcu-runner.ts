/**
 * Entry point of the process that keeps the line to one microcontroller: brings models there, runs and activates them, as the daemon asks
 * over the IPC channel. Requests are answered as they are done, so that an upload holds up no inference. It ends with its channel.
 */
import { createHash } from 'node:crypto';
import { EdgeError, type ErrorDocument } from '../configs/contracts/errors.js';
import { ArtifactRunner, readArtifact, type TimedRun } from './adapters/artifact-runner.js';
import { HostRuntime } from './adapters/host-runtime.js';
import { type BringOptions, McuBoard } from './adapters/mcu-board.js';
import { readDescription } from './core/image/description.js';
import type { InferRequest, SlotsView } from './device-ports.js';
import type { Session } from './ports.js';

/** What the process does. Artifacts are named by their folders; those that are run or activated were brought before. */
export interface McuService {
  /** Once, before anything else; see `McuBoard`. */
  open(where: string, storage: string | null): Promise<void>;
  look(): Promise<SlotsView>;
  /**
   * Brings an artifact to a slot and runs it there once; what is active then is loaded again. Fails with `mcu/wrong-result` where the board
   * computes anything else than the engine on this machine, with `target/failed` where that is not finite.
   */
  bring(folder: string): Promise<void>;
  infer(folder: string, request: InferRequest): Promise<TimedRun>;
  /** Runs one sample, or noise, and compares with the engine on this machine; answers milliseconds. Fails as `bring` does. */
  probe(folder: string, samplesFolder: string | null, index: number): Promise<number>;
  activate(folder: string): Promise<void>;
  confirm(folder: string): Promise<void>;
  revert(): Promise<void>;
  /** Closes the line; answers the path by which others open it. The next request of another kind takes it back. */
  lend(): Promise<string>;
}

/** Name of a method. */
export type McuMethod = keyof McuService;

/** A request: a call with the number that its reply carries, or the end of the wish for one. */
export type McuRunnerRequest =
  | { readonly id: number; readonly method: McuMethod; readonly args: readonly unknown[] }
  | { readonly abort: number };

/** Replies, shares of an upload on the way, and the word that the board is gone or was reset. */
export type McuRunnerMessage =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: ErrorDocument }
  | { readonly id: number; readonly share: number }
  | { readonly lost: string };

/** An artifact that was brought. */
interface Brought {
  readonly sha256: string;
  /** On the board. */
  readonly runner: ArtifactRunner;
  /** The engine on this machine, for the same model. */
  readonly reference: Session;
  readonly input: string;
  readonly dims: readonly number[];
}

/** The one that is active, the one that was, and one that is on its way. */
const mostBrought = 3;

let board: McuBoard | null = null;
const artifacts = new Map<string, Brought>();

function theBoard(): McuBoard {
  if (board === null) throw new EdgeError('mcu/unreachable', 'no board was opened', { subject: 'mcu-runner' });
  return board;
}

function brought(folder: string): Brought {
  const artifact = artifacts.get(folder);
  if (artifact !== undefined) return artifact;
  throw new EdgeError('infer/unavailable', 'the model was not brought to the board', { subject: folder });
}

async function load(folder: string): Promise<{ image: Uint8Array; artifact: Brought }> {
  const { model: image, card } = await readArtifact(folder);
  const sha256 = createHash('sha256').update(image).digest('hex');
  const reference = await new HostRuntime().open(image, { threads: 1 });
  const dims = card.input.shape.map((size) => size ?? 1);
  const { outputs: described } = readDescription(image);
  const runner = new ArtifactRunner(card, async (data) => {
    const { outputs, latencyMs } = await theBoard().run(sha256, [data]);
    return { outputs: described.map(({ name, dims }, index) => [name, { dims, data: outputs[index]! }]), latencyMs };
  });
  return { image, artifact: { sha256, runner, reference, input: card.input.name, dims } };
}

async function keep(folder: string, artifact: Brought): Promise<void> {
  await artifacts.get(folder)?.reference.close();
  artifacts.delete(folder);
  artifacts.set(folder, artifact);
  for (const [old, { reference }] of artifacts) {
    if (artifacts.size <= mostBrought) return;
    artifacts.delete(old);
    await reference.close();
  }
}

/** Same integers, same floats: whatever is not equal is wrong. What is not finite is none that a model may answer, here or there. */
async function compared({ runner, reference, input, dims }: Brought, data: Float32Array): Promise<number> {
  const { outputs, latencyMs } = await runner.infer({ kind: 'tensor', data });
  const expected = await reference.run(new Map([[input, { dims, data }]]));
  for (const [name, { data: found }] of outputs) {
    const wanted = expected.get(name)!.data;
    const isEqual = found.length === wanted.length && found.every((value, index) => Object.is(value, wanted[index]));
    if (!isEqual)
      throw new EdgeError('mcu/wrong-result', `output ${name} is not what the engine computes here`, { subject: name });
    if (!found.every((value) => Number.isFinite(value)))
      throw new EdgeError('target/failed', `output ${name} is not finite`, { subject: name });
  }
  return latencyMs;
}

const service = (options: BringOptions): McuService => ({
  async open(where, storage) {
    board ??= new McuBoard(where, storage, (why) => send({ lost: why }));
  },
  look: () => theBoard().look(),
  async bring(folder) {
    const { image, artifact } = await load(folder);
    try {
      await theBoard().bring(image, artifact.sha256, options);
      try {
        await compared(artifact, await artifact.runner.probeInput(null, 0));
      } finally {
        // However that ended, what is active answers again.
        await theBoard().serveActive();
      }
    } catch (error) {
      // It is tried again, maybe for days: no session may stay behind each time.
      await artifact.reference.close();
      throw error;
    }
    await keep(folder, artifact);
  },
  infer: (folder, request) => brought(folder).runner.infer(request),
  async probe(folder, samplesFolder, index) {
    const artifact = brought(folder);
    return compared(artifact, await artifact.runner.probeInput(samplesFolder, index));
  },
  activate: (folder) => theBoard().activate(brought(folder).sha256),
  confirm: (folder) => theBoard().confirm(brought(folder).sha256),
  revert: () => theBoard().revert(),
  lend: () => theBoard().lend(),
});

function send(message: McuRunnerMessage): void {
  if (process.connected) process.send?.(message, () => {});
}

const running = new Map<number, AbortController>();

async function answer(id: number, method: McuMethod, args: readonly unknown[]): Promise<void> {
  const abort = new AbortController();
  running.set(id, abort);
  try {
    const options = { signal: abort.signal, progress: (share: number) => send({ id, share }) };
    const call = service(options)[method] as (...args: readonly unknown[]) => Promise<unknown>;
    send({ id, value: (await call(...args)) ?? null });
  } catch (error) {
    const known =
      error instanceof EdgeError
        ? error
        : new EdgeError('target/failed', error instanceof Error ? error.message : String(error), { subject: method });
    send({ id, error: known.toDocument() });
  } finally {
    running.delete(id);
  }
}

process.on('message', (request: McuRunnerRequest) => {
  if ('abort' in request)
    running.get(request.abort)?.abort(new EdgeError('job/aborted', 'it was interrupted', { subject: 'upload' }));
  else void answer(request.id, request.method, request.args);
});
// The daemon answers these; see runner.ts.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});
process.on('disconnect', () => process.exit(0));
