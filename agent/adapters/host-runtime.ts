/** Whatever runs on this machine: images in our engine, everything else in ONNX Runtime. */
import { EdgeError } from '../../configs/contracts/errors.js';
import type { ImageDescription } from '../../configs/contracts/image.js';
import { EngineModel, ImageFault } from '../../native/index.js';
import { isImage, readDescription } from '../core/image/description.js';
import type { Feed, Feeds, Runtime, Session } from '../ports.js';
import { createSession, OrtRuntime, sessionOptions, toTensors } from './ort-runtime.js';

/** Opens artifacts of either form; images are known by their first bytes. */
export class HostRuntime implements Runtime {
  readonly #ort = new OrtRuntime();

  async open(model: Uint8Array, options: { threads: number }): Promise<Session> {
    return isImage(model) ? new EngineSession(model, options.threads) : this.#ort.open(model, options);
  }
}

/** Prepares an image, or fails with `artifact/invalid` and the engine's own words. */
export function openEngine(image: Uint8Array, options: ConstructorParameters<typeof EngineModel>[1]): EngineModel {
  try {
    return new EngineModel(image, options);
  } catch (cause) {
    if (!(cause instanceof ImageFault)) throw cause;
    throw new EdgeError('artifact/invalid', `the engine refuses the image: ${cause.message}`, {
      subject: 'image',
      cause,
    });
  }
}

class EngineSession implements Session {
  readonly #model: EngineModel;
  readonly #description: ImageDescription;

  constructor(image: Uint8Array, threads: number) {
    this.#description = readDescription(image);
    this.#model = openEngine(image, { threads });
  }

  get inputNames(): readonly string[] {
    return this.#description.inputs.map(({ name }) => name);
  }

  get outputNames(): readonly string[] {
    return this.#description.outputs.map(({ name }) => name);
  }

  async run(feeds: Feeds, outputs?: readonly string[]): Promise<ReadonlyMap<string, Feed>> {
    const results = await this.#model.run(inputsOf(this.#description, feeds));
    const map = new Map<string, Feed>();
    this.#description.outputs.forEach(({ name, dims }, index) => {
      if (outputs === undefined || outputs.includes(name)) map.set(name, { dims, data: results[index]! });
    });
    return map;
  }

  async close(): Promise<void> {
    this.#model.close();
  }
}

function inputsOf({ inputs }: ImageDescription, feeds: Feeds): Float32Array[] {
  return inputs.map(({ name, dims }) => {
    const data = feeds.get(name)?.data;
    const count = dims.reduce((a, b) => a * b, 1);
    if (data instanceof Float32Array && data.length === count) return data;
    throw new EdgeError('target/failed', `the model takes ${count} floats as input ${name}`, { subject: name });
  });
}

/** A model that is ready to be timed on inputs that it has been given. */
export interface TimedModel {
  run(): Promise<unknown>;
  close(): Promise<void>;
}

/** Opens an artifact of either form with inputs converted already, so that a run is what a deployed model does. */
export async function openTimed(bytes: Uint8Array, feeds: Feeds, threads: number): Promise<TimedModel> {
  if (isImage(bytes)) {
    const inputs = inputsOf(readDescription(bytes), feeds);
    const model = openEngine(bytes, { threads });
    return { run: () => model.run(inputs), close: async () => model.close() };
  }
  const session = await createSession(bytes, sessionOptions(threads));
  const tensors = toTensors(feeds);
  return { run: () => session.run(tensors), close: () => session.release() };
}
