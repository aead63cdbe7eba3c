import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';
import { readModel } from '../adapters/model-files.js';
import { openSampleSet } from '../adapters/samples.js';
import { decode, encode } from '../core/onnx/codec.js';
import { prepare } from '../core/prepare.js';
import type { Ports, StepProgress } from '../pipeline.js';
import { assessQuality } from '../steps/quality.js';
import { openArtifact } from './artifact.js';

export interface EvaluateOptions {
  readonly artifact: string;
  readonly data?: string;
}

/** Quality of a produced artifact on a sample set: against labels, and against the float model where it still is where it was. */
export async function evaluateJob(options: EvaluateOptions, ports: Ports, signal: AbortSignal, progress: StepProgress) {
  if (options.data === undefined) {
    throw new EdgeError('usage/invalid', 'evaluating needs samples', {
      subject: '--data',
      hint: 'Give the folder of a sample set with --data DIR.',
    });
  }
  const artifact = await openArtifact(options.artifact);
  const floatModel = existsSync(artifact.source.path) ? await readModel(artifact.source.path) : null;
  const hasFloat = floatModel !== null && floatModel.sha256 === artifact.source.sha256;
  // Without the float model the artifact is its own reference: accuracy is still true, agreement is unknown.
  const prepared = prepare(hasFloat ? floatModel.model : decode(artifact.bytes), artifact.card);
  const set = await openSampleSet(options.data, prepared.card, prepared.inputDims);
  const samples = set.test ?? set.calibration!;
  const threads = availableParallelism();
  const own = await ports.runtime.open(artifact.bytes, { threads });
  // Written anew rather than read from the file, which may have its data outside.
  const reference = hasFloat ? await ports.runtime.open(encode(prepared.model), { threads }) : own;
  try {
    const { reference: float, qualities } = await assessQuality(
      prepared,
      samples,
      reference,
      [own],
      signal,
      (share, text) => progress('verify', share, text),
    );
    const quality = qualities[0]!;
    return {
      artifact: { path: resolve(options.artifact) },
      model: artifact.source,
      quality: {
        samples: float.outputs.length,
        source: set.test === null ? 'calibration' : 'test',
        floatTop1: hasFloat ? float.top1 : null,
        top1: quality.top1,
        agreement: hasFloat ? quality.agreement : null,
        kl: hasFloat ? quality.kl : null,
        sqnrDb: hasFloat ? quality.sqnrDb : null,
      },
    };
  } finally {
    await own.close();
    if (hasFloat) await reference.close();
  }
}
export type EvaluateReport = Awaited<ReturnType<typeof evaluateJob>>;
