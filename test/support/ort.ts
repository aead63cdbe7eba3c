/** ONNX Runtime as an oracle, and what this machine's kernels are like. */
import { readFileSync } from 'node:fs';
import ort from 'onnxruntime-node';
import { encode } from '../../agent/core/onnx/codec.js';
import type { Model } from '../../agent/core/onnx/model.js';
import type { Feed, Feeds } from '../../agent/ports.js';

export type Optimization = 'disabled' | 'all';
export type Results = ReadonlyMap<string, { readonly dims: readonly number[]; readonly data: Float32Array }>;

/** A model opened once; answers its outputs as float32. */
export class Oracle {
  readonly #session: ort.InferenceSession;

  private constructor(session: ort.InferenceSession) {
    this.#session = session;
  }

  static async open(model: Model | Uint8Array, optimization: Optimization): Promise<Oracle> {
    const options = { graphOptimizationLevel: optimization, intraOpNumThreads: 1, logSeverityLevel: 3 } as const;
    return new Oracle(await ort.InferenceSession.create(model instanceof Uint8Array ? model : encode(model), options));
  }

  async run(feeds: Feeds): Promise<Results> {
    const tensors = [...feeds].map(
      ([name, { dims, data }]) => [name, new ort.Tensor('float32', data as Float32Array, [...dims])] as const,
    );
    const results = await this.#session.run(Object.fromEntries(tensors));
    return new Map(Object.entries(results).map(([name, { dims, data }]) => [name, { dims, data: asFloats(data) }]));
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}

function asFloats(data: ort.Tensor['data']): Float32Array {
  return data instanceof Float32Array ? data : Float32Array.from(data as ArrayLike<number>, Number);
}

/** All outputs of a model for one set of inputs, computed node by node. */
export async function run(
  model: Model | Uint8Array,
  feeds: Feeds,
  optimization: Optimization = 'disabled',
): Promise<Results> {
  const oracle = await Oracle.open(model, optimization);
  try {
    return await oracle.run(feeds);
  } finally {
    await oracle.close();
  }
}

/** Feeds of one image or vector. */
export function feed(name: string, dims: readonly number[], data: Float32Array): Feeds {
  return new Map<string, Feed>([[name, { dims, data }]]);
}

/** Whether 8-bit kernels of this processor sum pairs of products in saturating 16 bits: x86 without VNNI. */
export function hasSaturatingKernels(): boolean {
  return process.arch === 'x64' && !/vnni/.test(readFileSync('/proc/cpuinfo', 'utf8'));
}
