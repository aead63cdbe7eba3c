/** ONNX Runtime as an oracle: runs a model on seeded random inputs. */
import ort from 'onnxruntime-node';
import { encode } from '../../../../agent/core/onnx/codec.js';
import { graphInputs } from '../../../../agent/core/onnx/graph.js';
import type { Model, Shapes } from '../../../../agent/core/onnx/model.js';

export type Values = ReadonlyMap<string, { readonly dims: readonly number[]; readonly data: Float32Array }>;

/** A small seeded generator of numbers in [-1, 1). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 31 - 1;
  };
}

/** Float32 feeds for all graph inputs, of the shapes given. */
export function randomFeeds(model: Model, shapes: Shapes, seed: number): Values {
  const next = randomNumbers(seed);
  return new Map(
    graphInputs(model.graph).map(({ name }) => {
      const dims = shapes.get(name)!;
      const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, next);
      return [name, { dims, data }];
    }),
  );
}

/** All outputs of a model, computed without graph optimizations; integer outputs as float32. */
export async function run(model: Model, feeds: Values): Promise<Values> {
  const session = await ort.InferenceSession.create(encode(model), {
    graphOptimizationLevel: 'disabled',
    intraOpNumThreads: 1,
    logSeverityLevel: 3,
  });
  try {
    const tensors = [...feeds]
      .filter(([name]) => session.inputNames.includes(name))
      .map(([name, { dims, data }]) => [name, new ort.Tensor('float32', data, [...dims])] as const);
    const results = await session.run(Object.fromEntries(tensors));
    return new Map(
      Object.entries(results).map(([name, { dims, data }]) => [
        name,
        { dims, data: data instanceof Float32Array ? data : Float32Array.from(data as Iterable<number>, Number) },
      ]),
    );
  } finally {
    await session.release();
  }
}

/** Largest absolute difference of any output, relative to the largest absolute value of that output. */
export function largestDifference(expected: Values, actual: Values): number {
  let worst = 0;
  for (const [name, { dims, data }] of expected) {
    const other = actual.get(name);
    if (other === undefined || other.dims.join() !== dims.join()) return Number.POSITIVE_INFINITY;
    const scale = data.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-6);
    data.forEach((value, i) => {
      const difference = Math.abs(value - other.data[i]!) / scale;
      if (!(difference <= worst)) worst = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
    });
  }
  return worst;
}
