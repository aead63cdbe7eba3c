import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { EdgeError } from '../../configs/contracts/errors.js';
import { readModel } from '../adapters/model-files.js';
import { openSampleSet } from '../adapters/samples.js';
import { isImage } from '../core/image/description.js';
import { decode, encode } from '../core/onnx/codec.js';
import { type PreparedModel, prepare } from '../core/prepare.js';
import type { Ports, StepProgress } from '../pipeline.js';
import type { Progress, SampleSource } from '../ports.js';
import { assessQuality } from '../steps/quality.js';
import { findSynthetic, syntheticCount, syntheticSamples } from '../steps/synthetic.js';
import { openArtifact } from './artifact.js';

/** What `evaluate` takes: the artifact's file, and the folder of a sample set where there is one. */
export interface EvaluateOptions {
  readonly artifact: string;
  readonly data?: string;
}

/**
 * Quality of a produced artifact on a sample set: against labels, and against the float model where it still is where it was.
 * Without a set, on the synthetic samples of data-free calibration, against the float model, which then has to be there.
 */
export async function evaluateJob(options: EvaluateOptions, ports: Ports, signal: AbortSignal, progress: StepProgress) {
  const artifact = await openArtifact(options.artifact);
  const floatModel = existsSync(artifact.source.path) ? await readModel(artifact.source.path) : null;
  const hasFloat = floatModel !== null && floatModel.sha256 === artifact.source.sha256;
  if (!hasFloat && (options.data === undefined || isImage(artifact.bytes))) {
    throw new EdgeError('usage/invalid', 'this artifact can only be compared with its float model, which is gone', {
      subject: '--data',
      hint: isImage(artifact.bytes)
        ? `Put the model back at ${artifact.source.path}.`
        : `Give the folder of a sample set with --data DIR, or put the model back at ${artifact.source.path}.`,
    });
  }
  // Without the float model the artifact is its own reference: accuracy is still true, agreement is unknown.
  const prepared = prepare(hasFloat ? floatModel.model : decode(artifact.bytes), artifact.card);
  const { samples, source } = await samplesFor(prepared, options.data, ports, signal, (share, text) =>
    progress('calibrate', share, text),
  );
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
        source,
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

/** The best samples there are to judge by, and what they are. */
async function samplesFor(
  prepared: PreparedModel,
  data: string | undefined,
  ports: Ports,
  signal: AbortSignal,
  progress: Progress,
): Promise<{ samples: SampleSource; source: 'test' | 'calibration' | 'synthetic' }> {
  if (data !== undefined) {
    const { test, calibration } = await openSampleSet(data, prepared.card, prepared.inputDims);
    return test === null ? { samples: calibration!, source: 'calibration' } : { samples: test, source: 'test' };
  }
  const options = { count: syntheticCount, threads: availableParallelism() };
  const found = await findSynthetic(prepared, options, ports.runtime, signal, progress);
  const made = syntheticSamples(prepared, found);
  return { samples: { ...made, labels: null }, source: 'synthetic' };
}

/** The document of `evaluate --json`; what is not known is null. */
export type EvaluateReport = Awaited<ReturnType<typeof evaluateJob>>;
