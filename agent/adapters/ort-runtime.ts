import { InferenceSession, Tensor } from 'onnxruntime-node';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Feed, Feeds, Runtime, Session } from '../ports.js';

/** Session options of everything this program runs or times: one definition, so that what is measured is what is deployed. */
export function sessionOptions(threads: number): InferenceSession.SessionOptions {
  return {
    executionProviders: ['cpu'],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    graphOptimizationLevel: 'all',
    logSeverityLevel: 3,
    // Spinning threads steal time from whatever else the device runs, and make timings depend on it.
    extra: { session: { intra_op: { allow_spinning: '0' } } },
  };
}

/** Runs models in ONNX Runtime's CPU provider, in this process; runs execute on libuv's thread pool. */
export class OrtRuntime implements Runtime {
  async open(model: Uint8Array, options: { threads: number }): Promise<Session> {
    return new OrtSession(await createSession(model, sessionOptions(options.threads)));
  }
}

/** Creates a session, or fails with `target/failed` and the runtime's own words. */
export async function createSession(
  model: Uint8Array,
  options: InferenceSession.SessionOptions,
): Promise<InferenceSession> {
  try {
    return await InferenceSession.create(model, options);
  } catch (cause) {
    throw new EdgeError('target/failed', `ONNX Runtime does not accept the model: ${firstLine(cause)}`, {
      subject: 'ort',
      cause,
    });
  }
}

/** Feeds as ONNX Runtime tensors over the same memory. */
export function toTensors(feeds: Feeds): Record<string, Tensor> {
  const tensors: Record<string, Tensor> = {};
  for (const [name, feed] of feeds) tensors[name] = toTensor(feed);
  return tensors;
}

function toTensor({ data, dims }: Feed): Tensor {
  if (data instanceof Float32Array) return new Tensor('float32', data, dims);
  if (data instanceof BigInt64Array) return new Tensor('int64', data, dims);
  if (data instanceof Int32Array) return new Tensor('int32', data, dims);
  return data instanceof Uint8Array ? new Tensor('uint8', data, dims) : new Tensor('int8', data, dims);
}

class OrtSession implements Session {
  readonly #session: InferenceSession;
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];

  constructor(session: InferenceSession) {
    this.#session = session;
    this.inputNames = session.inputNames;
    this.outputNames = session.outputNames;
  }

  async run(feeds: Feeds, outputs?: readonly string[]): Promise<ReadonlyMap<string, Feed>> {
    let results: InferenceSession.OnnxValueMapType;
    try {
      results = await this.#session.run(toTensors(feeds), outputs ?? this.outputNames);
    } catch (cause) {
      throw new EdgeError('target/failed', `ONNX Runtime failed while running: ${firstLine(cause)}`, {
        subject: 'ort',
        cause,
      });
    }
    const map = new Map<string, Feed>();
    for (const [name, value] of Object.entries(results)) map.set(name, { dims: value.dims, data: valuesOf(value) });
    return map;
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}

/** The values as they are where a feed can hold them, as float32 otherwise. */
function valuesOf({ type, data }: Tensor): Feed['data'] {
  const isFed = type === 'float32' || type === 'int64' || type === 'int32' || type === 'uint8' || type === 'int8';
  return isFed ? (data as Feed['data']) : Float32Array.from(data as ArrayLike<number | bigint>, Number);
}

function firstLine(cause: unknown): string {
  const message = cause instanceof Error ? cause.message : String(cause);
  return message.split('\n')[0]!.slice(0, 300);
}
