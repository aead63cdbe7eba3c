/**
 * Samples through several sessions of one model: a core each answers more samples a second than all of them on one, which wait for each
 * other after every operator.
 */
import type { Feed, Feeds, Runtime, Session } from '../ports.js';

/** Opens a model once for each core, on one thread each. */
export async function openSideBySide(runtime: Runtime, model: Uint8Array, cores: number): Promise<Session[]> {
  const sessions: Session[] = [];
  try {
    for (let core = 0; core < Math.max(1, cores); core++) sessions.push(await runtime.open(model, { threads: 1 }));
    return sessions;
  } catch (error) {
    await closeAll(sessions);
    throw error;
  }
}

/** Closes what was opened. */
export async function closeAll(sessions: readonly Session[]): Promise<void> {
  for (const session of sessions) await session.close();
}

/** Answers in the order of the samples, of which as many are under way as there are sessions. */
export async function* runSideBySide(
  sessions: readonly Session[],
  feeds: AsyncIterable<Feeds> | Iterable<Feeds>,
  signal: AbortSignal,
): AsyncGenerator<ReadonlyMap<string, Feed>> {
  let running: Promise<ReadonlyMap<string, Feed>>[] = [];
  try {
    for await (const feed of feeds) {
      signal.throwIfAborted();
      running.push(sessions[running.length]!.run(feed));
      if (running.length < sessions.length) continue;
      const together = await Promise.all(running);
      running = [];
      yield* together;
    }
    const rest = await Promise.all(running);
    running = [];
    yield* rest;
  } finally {
    // Whoever stops listening closes the sessions next: none may be at work then.
    await Promise.allSettled(running);
  }
}
