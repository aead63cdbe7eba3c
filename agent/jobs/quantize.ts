import { mkdir, rename, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { StepProgress } from '../pipeline.js';
import { Pipeline, type Ports } from '../pipeline.js';
import { type QuantizeDocument, quantizeDocument } from '../report.js';
import { type JobOptions, openJob } from './open-job.js';

export interface QuantizeOptions extends JobOptions {
  readonly out: string;
}

/** Profiles, plans, quantizes and verifies a model, and writes the artifact folder. */
export async function quantizeJob(
  options: QuantizeOptions,
  ports: Ports,
  signal: AbortSignal,
  progress: StepProgress,
): Promise<QuantizeDocument> {
  const job = await openJob(options);
  const result = await new Pipeline(job, ports, signal, progress).quantize();
  const artifact = join(resolve(options.out), `${basename(options.model).replace(/\.onnx$/i, '')}-quantized.onnx`);
  const isWritten = result.feasible && result.chosen !== null;
  const format = options.variant === 'tensorrt' ? 'onnx-qdq-tensorrt' : 'onnx-qdq';
  const document = quantizeDocument(job, result, {
    model: resolve(options.model),
    artifact: isWritten ? artifact : null,
    format,
  });
  if (isWritten) {
    const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
    await writeAll(options.out, [
      [basename(artifact), result.chosen!.bytes],
      ['card.json', json(job.prepared.card)],
      ['plan.json', json(document.plan)],
      ['report.json', json(document)],
    ]);
  }
  return document;
}

/** Writes files so that a reader, or a restart after a power cut, sees each either whole or not at all. */
async function writeAll(folder: string, files: readonly (readonly [string, Uint8Array | string])[]): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
    for (const [name, content] of files) {
      const temporary = join(folder, `.${name}.${process.pid}.part`);
      await writeFile(temporary, content, { flush: true });
      await rename(temporary, join(folder, name));
    }
  } catch (cause) {
    throw new EdgeError('store/unwritable', `the artifact cannot be written: ${(cause as Error).message}`, {
      subject: folder,
      hint: 'Check free space and permissions of the output folder.',
      cause,
    });
  }
}
