/** What value-driven search and classification know of a model's values, from passes of the float model over calibration samples. */
import type { Range } from '../../configs/contracts/plan.js';
import { encode } from '../core/onnx/codec.js';
import type { Region } from '../core/plan/patch-geometry.js';
import { type CodeImage, type CodeLimits, classifyPatches, Moments, PatchVotes } from '../core/plan/value-classes.js';
import type { PreparedModel } from '../core/prepare.js';
import { type Affine, roundHalfEven, unsignedAffine } from '../core/quant/affine.js';
import type { Runtime } from '../ports.js';
import { groupByBytes, withOutputs } from './calibrate.js';
import { readAhead, type SampleReader } from './samples.js';

/** How often each 8-bit code occurs in a tensor, and the grid that codes are of. */
export interface CodeHistogram {
  readonly counts: Float64Array;
  readonly grid: Affine;
}

/** Histograms of codes of tensors at 8 bits, from one pass over the first samples. */
export async function gatherHistograms(
  prepared: PreparedModel,
  tensors: readonly string[],
  rangeOf: (tensor: string) => Range,
  samples: SampleReader,
  options: { readonly most: number; readonly threads: number },
  runtime: Runtime,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, CodeHistogram>> {
  const histograms = new Map(
    tensors.map((name): [string, CodeHistogram] => [
      name,
      { counts: new Float64Array(256), grid: unsignedAffine(rangeOf(name), 8) },
    ]),
  );
  const input = prepared.card.input.name;
  const fetched = tensors.filter((name) => name !== input);
  const session = await runtime.open(encode(withOutputs(prepared, fetched)), { threads: options.threads });
  try {
    for await (const data of readAhead(samples, Math.min(samples.count, options.most))) {
      signal.throwIfAborted();
      const feeds = new Map([[input, { dims: prepared.inputDims, data }]]);
      if (histograms.has(input)) addCodes(histograms.get(input)!, data);
      for (const group of groupByBytes(prepared, fetched)) {
        for (const [name, value] of await session.run(feeds, group))
          addCodes(histograms.get(name)!, value.data as Float32Array);
      }
    }
  } finally {
    await session.close();
  }
  return histograms;
}

function addCodes({ counts, grid: { scale, zeroPoint, codeMaximum } }: CodeHistogram, values: Float32Array): void {
  for (const value of values) {
    const code = roundHalfEven(value / scale) + zeroPoint;
    counts[code < 0 ? 0 : code > codeMaximum ? codeMaximum : code]!++;
  }
}

/** The Gaussian that the model's input is like, over the first samples. */
export async function fitInput(samples: SampleReader, most: number) {
  const moments = new Moments();
  for await (const data of readAhead(samples, Math.min(samples.count, most))) moments.add(data);
  return moments.fit();
}

/** Codes of an input, as the engine makes them: times the inverse in single precision, halves up. */
export function inputCodes(values: Float32Array, { scale, zeroPoint, codeMinimum, codeMaximum }: Affine): Uint8Array {
  const inverse = Math.fround(1 / scale);
  const codes = new Uint8Array(values.length);
  for (let at = 0; at < values.length; at++) {
    const code = Math.floor(Math.fround(Math.fround(values[at]! * inverse) + 0.5)) + zeroPoint;
    codes[at] = code < codeMinimum ? codeMinimum : code > codeMaximum ? codeMaximum : code;
  }
  return codes;
}

/** How often each patch is an outlier patch, over the first samples. */
export async function voteOnPatches(
  image: Omit<CodeImage, 'codes'>,
  windows: readonly Region[],
  limits: CodeLimits,
  grid: Affine,
  samples: SampleReader,
  most: number,
): Promise<PatchVotes> {
  const votes = new PatchVotes(windows.length);
  for await (const data of readAhead(samples, Math.min(samples.count, most)))
    votes.add(classifyPatches({ ...image, codes: inputCodes(data, grid) }, windows, limits));
  return votes;
}
