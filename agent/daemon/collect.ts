/** What nobody needs any more, on disk and in the memory of the daemon. */
import type { ArtifactStore, Log, ModelCache, SampleKeeper } from '../device-ports.js';
import type { Memory } from './memory.js';
import { type DaemonTarget, goalKeyOf } from './state.js';

/** What is cleared, and where what fails of that is said. */
export interface CollectPorts {
  readonly memory: Memory;
  readonly artifacts: ArtifactStore;
  readonly models: ModelCache;
  readonly samples: SampleKeeper;
  readonly log: Log;
}

/** Deletes what neither is wanted nor active nor the way back. What cannot be deleted stays; that is logged, and nothing fails. */
export async function collect(
  { targets, algorithm }: { readonly targets: readonly DaemonTarget[]; readonly algorithm: string },
  { memory, artifacts, models, samples, log }: CollectPorts,
): Promise<void> {
  const attempt = async (work: () => void | Promise<void>) => {
    try {
      await work();
    } catch (error) {
      log.warn({ error: String(error) }, 'old files could not be deleted');
    }
  };
  await attempt(async () => {
    const keys = new Set<string>();
    const shas = new Set<string>();
    const folders = new Set<string>();
    for (const target of targets) {
      const goal = memory.goal(target.id);
      const own = [await artifacts.linked(target.id, 'active'), await artifacts.linked(target.id, 'previous')];
      if (goal !== null) {
        if (target.identity !== null) own.push(goalKeyOf(goal, target.identity, algorithm));
        shas.add(goal.wanted.release.model.sha256);
        if (goal.samples !== null) folders.add(goal.samples.folder);
      }
      const kept = new Set(own.filter((key) => key !== null));
      // On a full disk this fails, and the files have to go all the same.
      await attempt(() => memory.forgetArtifacts(target.id, kept));
      for (const key of kept) keys.add(key);
    }
    await attempt(() => artifacts.retain(keys));
    await attempt(() => models.retain(shas));
    await attempt(() => samples.retain(folders));
  });
}
