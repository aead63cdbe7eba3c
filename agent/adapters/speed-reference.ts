import type { InferenceSession } from 'onnxruntime-node';
import { Tensor } from 'onnxruntime-node';
import { encode } from '../core/onnx/codec.js';
import type { AttributeValue, Model, Node } from '../core/onnx/model.js';
import { makeTensor } from '../core/onnx/tensor.js';
import { median, quantile } from '../core/statistics.js';
import { createSession, sessionOptions } from './ort-runtime.js';

/** Slowdown of the reference, early to late, from which a measurement counts as throttled. */
const throttledRatio = 1.15;

/** Channels and side of the reference's image: two 3x3 convolutions of it are ten million multiply-accumulates. */
const channels = 32;
const side = 24;

/**
 * A small fixed model, timed now and then while something else is measured. It says how fast the machine is at that moment:
 * clocks change, neighbours come and go, and times taken minutes apart can only be compared through it. It also notices a
 * machine that slows down during a measurement.
 */
export class SpeedReference {
  readonly #session: InferenceSession;
  readonly #feeds = {
    x: new Tensor('float32', new Float32Array(channels * side * side).fill(0.5), [1, channels, side, side]),
  };
  readonly #times: number[] = [];

  private constructor(session: InferenceSession) {
    this.#session = session;
  }

  static async open(threads: number): Promise<SpeedReference> {
    const reference = new SpeedReference(await createSession(encode(referenceModel()), sessionOptions(threads)));
    for (let i = 0; i < 3; i++) await reference.#session.run(reference.#feeds);
    return reference;
  }

  async sample(): Promise<void> {
    const start = process.hrtime.bigint();
    await this.#session.run(this.#feeds);
    this.#times.push(Number(process.hrtime.bigint() - start));
  }

  /** Median time of the reference so far; NaN before the first sample. */
  get medianNs(): number {
    return median(this.#times);
  }

  /** Lower quartiles are compared: a busy neighbour makes some samples slow, a lowered clock makes all of them slow. */
  hasSlowedDown(): boolean {
    if (this.#times.length < 8) return false;
    const half = Math.floor(this.#times.length / 2);
    const [early, late] = [this.#times.slice(0, half), this.#times.slice(half)];
    return quantile(late, 0.25) > quantile(early, 0.25) * throttledRatio;
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}

function referenceModel(): Model {
  const weight = makeTensor(
    'w',
    'float32',
    [channels, channels, 3, 3],
    new Float32Array(channels * channels * 9).fill(0.01),
  );
  const attributes: ReadonlyMap<string, AttributeValue> = new Map([['pads', { kind: 'ints', value: [1, 1, 1, 1] }]]);
  const conv = (name: string, input: string, output: string): Node => {
    return { name, op: 'Conv', domain: '', inputs: [input, 'w'], outputs: [output], attributes };
  };
  const value = (name: string) => ({ name, type: 'float32' as const, shape: [1, channels, side, side] });
  return {
    irVersion: 8,
    opsets: new Map([['', 13]]),
    producer: 'quantd',
    metadata: new Map(),
    graph: {
      name: 'reference',
      nodes: [conv('first', 'x', 't'), conv('second', 't', 'y')],
      initializers: new Map([['w', weight]]),
      inputs: [value('x')],
      outputs: [value('y')],
      valueInfo: new Map(),
    },
  };
}
