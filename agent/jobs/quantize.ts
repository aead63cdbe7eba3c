import { basename, join, resolve } from 'node:path';
import { imageExtension } from '../../configs/contracts/image.js';
import { FloatModelNeeded } from '../core/master.js';
import type { StepProgress } from '../pipeline.js';
import { Pipeline, type Ports } from '../pipeline.js';
import { type QuantizeDocument, quantizeDocument } from '../report.js';
import { modelTable } from '../steps/model-table.js';
import { type JobOptions, keepMaster, type OpenJob, openJob, openJobFromMaster } from './open-job.js';
import { requireWritableFolder, writeFolder } from './output-folder.js';

/** What `quantize` takes: a job, and the folder for what it makes. */
export interface QuantizeOptions extends JobOptions {
  readonly out: string;
  /** Whether to write `table.json` there too: what a console shares with other devices, and plans with. Absent: no. */
  readonly hasTable?: boolean;
}

/** From what is stored of the model, where that is enough: a new budget does not need the model itself. */
async function quantized(options: QuantizeOptions, ports: Ports, signal: AbortSignal, progress: StepProgress) {
  const quantize = async (job: OpenJob) => {
    return { job, result: await new Pipeline(job, ports, signal, progress).quantize() };
  };
  const stored = await openJobFromMaster(options, ports.store);
  if (stored !== null) {
    try {
      return await quantize(stored);
    } catch (error) {
      if (!(error instanceof FloatModelNeeded)) throw error;
    }
  }
  const job = await openJob(options);
  await keepMaster(options, job, ports.store);
  return quantize(job);
}

/** Profiles, plans, quantizes and verifies a model, and writes the artifact folder. */
export async function quantizeJob(
  options: QuantizeOptions,
  ports: Ports,
  signal: AbortSignal,
  progress: StepProgress,
): Promise<QuantizeDocument> {
  await requireWritableFolder(options.out);
  const { job, result } = await quantized(options, ports, signal, progress);
  const extension = job.variant === 'native' ? imageExtension : '.onnx';
  const name = `${basename(options.model).replace(/\.onnx$/i, '')}-quantized${extension}`;
  const artifact = join(resolve(options.out), name);
  const isWritten = result.feasible && result.chosen !== null;
  const format = { ort: 'onnx-qdq', tensorrt: 'onnx-qdq-tensorrt', native: 'quantd-image' }[job.variant];
  const document = quantizeDocument(job, result, {
    model: resolve(options.model),
    artifact: isWritten ? artifact : null,
    format,
  });
  if (isWritten) {
    const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
    await writeFolder(options.out, [
      [basename(artifact), result.chosen!.bytes],
      ['card.json', json(job.prepared.card)],
      ['plan.json', json(document.plan)],
      ['report.json', json(document)],
    ]);
  }
  if (options.hasTable) {
    const table = JSON.stringify(modelTable(job, result));
    await writeFolder(options.out, [['table.json', table]]);
  }
  return document;
}
