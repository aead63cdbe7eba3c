import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ModelCard } from '../../configs/contracts/card.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { validate } from '../../configs/contracts/validate.js';
import { sha256 } from '../digest.js';

/** An artifact with what lies beside it. */
export interface Artifact {
  readonly bytes: Uint8Array;
  readonly card: ModelCard;
  /** Path and digest of the float model it was made from. */
  readonly source: { readonly path: string; readonly sha256: string };
}

/** Opens an artifact and checks it against its report. Fails with `artifact/invalid`. */
export async function openArtifact(path: string): Promise<Artifact> {
  const folder = dirname(path);
  const fail = (message: string, cause?: unknown) =>
    new EdgeError('artifact/invalid', message, { subject: path, cause });
  const read = async (file: string) =>
    readFile(file).catch((cause) => {
      throw fail(`${file} cannot be read`, cause);
    });
  const parse = async (file: string) => {
    try {
      return JSON.parse((await read(file)).toString('utf8')) as unknown;
    } catch (cause) {
      throw cause instanceof EdgeError ? cause : fail(`${file} is not JSON`, cause);
    }
  };
  const bytes = await read(path);
  const report = (await parse(join(folder, 'report.json'))) as {
    artifact?: { sha256?: string };
    model?: { path?: string; sha256?: string };
  } | null;
  if (report?.artifact?.sha256 !== sha256(bytes)) throw fail('the artifact is not the one its report.json describes');
  const { path: modelPath, sha256: modelSha256 } = report.model ?? {};
  if (typeof modelPath !== 'string' || typeof modelSha256 !== 'string')
    throw fail('report.json does not say which model this was');
  return {
    bytes,
    card: validate(ModelCard, await parse(join(folder, 'card.json')), 'artifact/invalid', join(folder, 'card.json')),
    source: { path: modelPath, sha256: modelSha256 },
  };
}
