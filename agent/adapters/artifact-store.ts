import { mkdir, readdir, readFile, readlink, rename, rm, stat, symlink, unlink } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { ModelTable } from '../../configs/contracts/tables.js';
import type { ArtifactStore, SlotRole } from '../device-ports.js';
import type { QuantizeDocument } from '../report.js';
import { diskError, sync, syncTree } from './durable-files.js';

/** Keys and targets are names of files: neither may lead anywhere else. */
const keyPattern = /^[0-9a-f]{16,128}$/;
const targetPattern = /^[a-z0-9][a-z0-9_-]{0,63}$/;
const reportName = 'report.json';
const tableName = 'table.json';

/**
 * Artifacts as folders `FOLDER/artifacts/KEY`, and what applications use as the links `FOLDER/active/TARGET` and
 * `FOLDER/previous/TARGET`. A folder gets its name, and a link its target, by one rename: a process that is killed between any
 * two instructions leaves the old or the new, never a part of one.
 */
export class FolderArtifactStore implements ArtifactStore {
  readonly #folder: string;
  /** Reports do not change once their folder has its name. */
  readonly #reports = new Map<string, QuantizeDocument>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  async begin(key: string): Promise<string> {
    const draft = this.#draft(key);
    return this.#guard(draft, async () => {
      await rm(draft, { recursive: true, force: true });
      await mkdir(draft, { recursive: true });
      return draft;
    });
  }

  async finish(key: string): Promise<void> {
    const draft = this.#draft(key);
    await this.#guard(draft, async () => {
      await syncTree(draft);
      // An older one of the same key holds the same: it is replaced only if it stands in the way.
      await rm(this.#path(key), { recursive: true, force: true });
      await rename(draft, this.#path(key));
      await sync(join(this.#folder, 'artifacts'));
    });
    this.#reports.delete(key);
  }

  async find(key: string): Promise<string | null> {
    const path = this.#path(key);
    return (await isFile(join(path, reportName))) ? path : null;
  }

  async report(key: string): Promise<QuantizeDocument | null> {
    const known = this.#reports.get(key);
    if (known !== undefined) return known;
    const path = join(this.#path(key), reportName);
    try {
      const report = JSON.parse(await readFile(path, 'utf8')) as QuantizeDocument;
      this.#reports.set(key, report);
      return report;
    } catch {
      // Absent, or damaged by the disk: either way there is no finished artifact of this key, and it is made again.
      return null;
    }
  }

  async table(key: string): Promise<ModelTable | null> {
    try {
      return JSON.parse(await readFile(join(this.#path(key), tableName), 'utf8')) as ModelTable;
    } catch {
      // Of an older program, or damaged: the next artifact has one.
      return null;
    }
  }

  async linked(target: string, role: SlotRole): Promise<string | null> {
    const content = await readlink(this.#link(target, role)).catch(() => null);
    if (content === null) return null;
    const key = basename(content);
    return keyPattern.test(key) && (await this.find(key)) !== null ? key : null;
  }

  async link(target: string, role: SlotRole, key: string | null): Promise<void> {
    const link = this.#link(target, role);
    await this.#guard(link, async () => {
      await mkdir(join(this.#folder, role), { recursive: true });
      if (key === null) {
        await unlink(link).catch(ignoreAbsent);
      } else {
        const draft = join(this.#folder, role, `.${target}.new`);
        await rm(draft, { force: true });
        await symlink(join('..', 'artifacts', basename(this.#path(key))), draft);
        await rename(draft, link);
      }
      await sync(join(this.#folder, role));
    });
  }

  async retain(keys: ReadonlySet<string>): Promise<void> {
    const linked = new Set<string | null>();
    for (const role of ['active', 'previous'] as const) {
      for (const target of await readdir(join(this.#folder, role)).catch(() => [])) {
        if (targetPattern.test(target)) linked.add(await this.linked(target, role));
      }
    }
    const parent = join(this.#folder, 'artifacts');
    await this.#guard(parent, async () => {
      for (const name of await readdir(parent).catch(() => [])) {
        if (keys.has(name) || linked.has(name)) continue;
        await rm(join(parent, name), { recursive: true, force: true });
        this.#reports.delete(name);
      }
    });
  }

  #path(key: string): string {
    if (!keyPattern.test(key)) throw new TypeError(`"${key}" is no artifact key`);
    return join(this.#folder, 'artifacts', key);
  }

  #draft(key: string): string {
    return `${this.#path(key)}.draft`;
  }

  #link(target: string, role: SlotRole): string {
    if (!targetPattern.test(target)) throw new TypeError(`"${target}" is no target`);
    return join(this.#folder, role, target);
  }

  async #guard<T>(subject: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (cause) {
      throw diskError(cause, 'the artifact store cannot be written', subject);
    }
  }
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}

function ignoreAbsent(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error;
}
