/**
 * Samples through several sessions of one model: a core each answers more samples a second than all of them on one, which wait for each
 * other after every operator.
 */
import type { Feed, Feeds, Runtime, Session } from '../ports.js';

/** More sessions of a model than these take more memory than they are worth. */
const mostSessions = 4;

/** Opens a model once for each core that there are samples for, on one thread each. */
export async function openSideBySide(
  runtime: Runtime,
  model: Uint8Array,
  cores: number,
  samples: number,
): Promise<Session[]> {
  const sessions: Session[] = [];
  const count = Math.max(1, Math.min(cores, samples, mostSessions));
  try {
    for (let core = 0; core < count; core++) sessions.push(await runtime.open(model, { threads: 1 }));
    return sessions;
  } catch (error) {
    await closeAll(sessions);
    throw error;
  }
}

/** Closes what was opened; all of it, before a failure to close one is thrown. */
export async function closeAll(sessions: readonly Session[]): Promise<void> {
  const ends = await Promise.allSettled(sessions.map((session) => session.close()));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
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
      const answer = sessions[running.length]!.run(feed);
      // Failures surface when the answers are awaited; without this, one that fails while a sample is read would end the process.
      answer.catch(() => {});
      running.push(answer);
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
