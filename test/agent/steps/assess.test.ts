/** The walk over a model against running the whole model once for every perturbed tensor. */
import t from 'tap';
import { klDivergence, logitVariance, normalizedSquaredDistance } from '../../../agent/core/divergence.js';
import type { Model, Operator } from '../../../agent/core/onnx/model.js';
import { makeTensor, readFloats } from '../../../agent/core/onnx/tensor.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import { fakeQuantize, type QdqVariant, symmetricAffine, unsignedAffine } from '../../../agent/core/quant/affine.js';
import { biasCorrection, type ChannelMeans } from '../../../agent/core/quant/bias.js';
import { quantizeBlockwise } from '../../../agent/core/quant/matmul-nbits.js';
import { deployedOptions, dequantizeWeights, quantizeWeights } from '../../../agent/core/quant/weights.js';
import { seedOf } from '../../../agent/core/random.js';
import {
  type Estimator,
  type EstimatorContext,
  errorEnergy,
  type Site,
} from '../../../agent/core/sensitivity/estimator.js';
import { estimators, findEstimator } from '../../../agent/core/sensitivity/registry.js';
import type { Feed } from '../../../agent/ports.js';
import { assess, defaultSampleCounts } from '../../../agent/steps/assess.js';
import type { Precision } from '../../../configs/contracts/plan.js';
import { calibratedNetwork, imageCard, type Network, NetworkBuilder } from '../../support/networks.js';
import { Oracle, type Results } from '../../support/ort.js';
import { announceSeed, Random } from '../../support/seed.js';
import { CountingRuntime, clock, never, quiet, samplesOf } from '../../support/steps.js';
import { info } from '../core/onnx/support.js';

const seed = announceSeed();
/** Samples that weights are assessed on; there are more. */
const sampleCount = 4;
const candidates: readonly Precision[] = [
  { weightBits: 32, activationBits: 32 },
  { weightBits: 8, activationBits: 8 },
  { weightBits: 4, activationBits: 8 },
];

type Build = (builder: NetworkBuilder) => string[];

const networks: Readonly<Record<string, { build: Build; task: 'classification' | 'other' }>> = {
  'a classifier that ends in Softmax': {
    task: 'classification',
    build: (builder) => {
      const first = builder.same('Relu', builder.conv('x', { out: 8, stride: 2 }));
      const second = builder.conv(first, { out: 8, groups: 2 });
      const sum = builder.emit('Add', [second, first], builder.shapes.get(first)!);
      return [builder.same('Softmax', builder.gemm(builder.pooled(sum), 5), { axis: -1 })];
    },
  },
  'a classifier that ends in logits': {
    task: 'classification',
    build: (builder) => [builder.gemm(builder.pooled(builder.silu(builder.conv('x', { out: 6 }))), 4)],
  },
  'operators that share a weight': {
    task: 'classification',
    build: (builder) => {
      const first = builder.conv('x', { out: 3 });
      const shared = builder.nodes.at(-1)!;
      const second = builder.emit('Conv', [builder.same('Relu', first), ...shared.inputs.slice(1)], [1, 3, 6, 6], {
        kernel_shape: [3, 3],
        pads: [1, 1, 1, 1],
      });
      return [builder.gemm(builder.pooled(second), 4)];
    },
  },
  'a regressor with two outputs': {
    task: 'other',
    build: (builder) => {
      const shared = builder.same('Relu', builder.conv('x', { out: 6 }));
      return [builder.conv(shared, { out: 3, kernel: 1 }), builder.conv(shared, { out: 6, groups: 6, stride: 2 })];
    },
  },
};

async function makeNetwork(name: string): Promise<Network> {
  const { build, task } = networks[name]!;
  const builder = new NetworkBuilder(new Random(seed), [1, 3, 6, 6]);
  const source = builder.build(build(builder));
  const network = await calibratedNetwork(source, seed, 5);
  return { ...network, prepared: prepare(source, imageCard(task, [1, 3, 6, 6])) };
}

/** Brute force: a model of its own for every tensor under test, run from the inputs on. */
class Whole {
  readonly #prepared: PreparedModel;
  readonly #samples: readonly Float32Array[];
  readonly #outputs: readonly string[];
  references: Float32Array[] = [];

  constructor({ prepared, samples }: Network) {
    this.#prepared = prepared;
    this.#samples = samples;
    this.#outputs = prepared.endsInSoftmax
      ? [prepared.logits]
      : prepared.model.graph.outputs.map((output) => output.name);
  }

  async start(): Promise<void> {
    for (let sample = 0; sample < sampleCount; sample++)
      this.references.push(await this.run(this.#prepared.model, this.#outputs, sample));
  }

  async run(
    model: Model,
    outputs: readonly string[],
    sample: number,
    more: readonly [string, Feed][] = [],
  ): Promise<Float32Array> {
    const asked = { ...model, graph: { ...model.graph, outputs: outputs.map((name) => info(name, null)) } };
    const oracle = await Oracle.open(asked, 'disabled');
    try {
      const image: [string, Feed] = ['x', { dims: this.#prepared.inputDims, data: this.#samples[sample]! }];
      const results: Results = await oracle.run(new Map([image, ...more]));
      return Float32Array.from(outputs.flatMap((name) => [...results.get(name)!.data]));
    } finally {
      await oracle.close();
    }
  }

  /** @param correction of the bias for weights of so many bits */
  weightSite(operator: Operator, saturates: boolean, correction?: (bits: number) => Float32Array): Site {
    const { model } = this.#prepared;
    const tensor = model.graph.initializers.get(operator.weight!.name)!;
    const values = readFloats(tensor);
    const widths = new Map<Float32Array, number>();
    const bias = readFloats(model.graph.initializers.get(operator.bias!)!);
    // This operator's weight alone, whoever else reads the initializer.
    const replaced = (data: Float32Array): Model => {
      const instead = makeTensor('replaced', 'float32', tensor.dims, data);
      const change = correction?.(widths.get(data)!);
      const other = makeTensor(
        'other',
        'float32',
        [bias.length],
        bias.map((value, channel) => value + (change?.[channel] ?? 0)),
      );
      const nodes = model.graph.nodes.map((node) =>
        node === operator.nodes[0] ? { ...node, inputs: node.inputs.with(1, instead.name).with(2, other.name) } : node,
      );
      const initializers = new Map(model.graph.initializers).set(instead.name, instead).set(other.name, other);
      return { ...model, graph: { ...model.graph, nodes, initializers } };
    };
    const axis = operator.weight!.channelAxis;
    return {
      kind: 'weight',
      name: tensor.name,
      seed: seedOf(tensor.name),
      values: () => values,
      quantized: (bits) => {
        const options = deployedOptions(operator, tensor.dims, bits, saturates);
        const codes = quantizeWeights(values, tensor.dims, axis, bits, options);
        const rounded = dequantizeWeights(codes, tensor.dims, axis);
        widths.set(rounded, bits);
        return rounded;
      },
      forward: (sample, data) => this.run(replaced(data), this.#outputs, sample),
      local: (sample, data) => this.run(replaced(data), operator.outputs, sample),
    };
  }

  /** The tensor's readers, and the graph's outputs, take a graph input instead. */
  async activationSite(name: string, network: Network, variant: QdqVariant = 'ort'): Promise<Site> {
    const { model, shapes } = this.#prepared;
    const dims = shapes.get(name)!;
    const instead = 'instead';
    const nodes = model.graph.nodes.map((node) => ({
      ...node,
      inputs: node.inputs.map((input) => (input === name ? instead : input)),
    }));
    const changed = {
      ...model,
      graph: { ...model.graph, nodes, inputs: [...model.graph.inputs, info(instead, dims)] },
    };
    const values: Float32Array[] = [];
    for (const sample of this.#samples.keys())
      values.push(name === 'x' ? this.#samples[sample]! : await this.run(model, [name], sample));
    return {
      kind: 'activation',
      name,
      seed: seedOf(name),
      values: (sample) => values[sample]!,
      quantized: (bits, sample) => {
        const affineOf = variant === 'ort' ? unsignedAffine : symmetricAffine;
        return fakeQuantize(values[sample]!, affineOf(network.ranges.get(name)!, bits));
      },
      forward: async (sample, data) => {
        const kept = this.#outputs.filter((output) => output !== name);
        const rest =
          kept.length === 0 ? new Float32Array(0) : await this.run(changed, kept, sample, [[instead, { dims, data }]]);
        if (kept.length === this.#outputs.length) return rest;
        // The tensor is itself an output.
        return this.#outputs[0] === name ? Float32Array.of(...data, ...rest) : Float32Array.of(...rest, ...data);
      },
      local: async (_sample, data) => data,
    };
  }

  context(bits: readonly number[], samples: number): EstimatorContext {
    const isClassifier = this.#prepared.card.task === 'classification';
    return {
      samples,
      bits,
      divergence: (sample, output, temperature) =>
        isClassifier
          ? klDivergence(this.references[sample]!, output, temperature)
          : normalizedSquaredDistance(this.references[sample]!, output),
      squaredError: (sample, output) =>
        (isClassifier ? logitVariance : normalizedSquaredDistance)(this.references[sample]!, output),
      topProbability: (temperature) => {
        if (!isClassifier) return 0;
        const tops = this.references.map((logits) => {
          const exponentials = logits.map((value) => Math.exp(value / temperature));
          return Math.max(...exponentials) / exponentials.reduce((a, b) => a + b, 0);
        });
        return tops.reduce((a, b) => a + b, 0) / tops.length;
      },
    };
  }
}

interface AssessOptions {
  precisionsOf?: (index: number) => readonly Precision[];
  kinds?: readonly Site['kind'][];
  variant?: QdqVariant;
  saturates?: boolean;
  signal?: AbortSignal;
  runtime?: CountingRuntime;
  channelMeans?: ChannelMeans;
}

function assessed(network: Network, estimator: Estimator, options: AssessOptions = {}) {
  const {
    precisionsOf = () => candidates,
    kinds = ['weight', 'activation'],
    variant = 'ort',
    saturates = true,
    signal = never,
    runtime = new CountingRuntime(),
    channelMeans = null,
  } = options;
  const ranges = Object.fromEntries(network.ranges);
  return assess(
    network.prepared,
    samplesOf(network.samples),
    { 8: ranges, 4: ranges },
    estimator,
    { precisionsOf, samples: sampleCount, activationSamples: 2, threads: 1, kinds, variant, saturates, channelMeans },
    { runtime, clock },
    signal,
    quiet,
  );
}

// Float sums in another order: errors far below the divergences, which are their squares.
const isNear = (actual: number, expected: number) => Math.abs(actual - expected) <= 0.01 * Math.abs(expected) + 1e-10;

for (const name of Object.keys(networks)) {
  t.test(`${name}: every estimator's answers are those of whole runs`, async (t) => {
    const network = await makeNetwork(name);
    const { operators } = network.prepared;
    const whole = new Whole(network);
    await whole.start();
    for (const estimator of estimators) {
      const document = await assessed(network, estimator);
      t.equal(document.samples, sampleCount);
      t.equal(document.estimator, estimator.name);
      t.ok(document.seconds > 0 && document.forwards >= 1, `${estimator.name}: ${document.forwards} passes`);
      for (const operator of operators.filter((candidate) => candidate.weight !== null)) {
        const expected = await estimator.estimate(whole.weightSite(operator, true), whole.context([8, 4], sampleCount));
        for (const [bits, value] of expected) {
          const actual = document.weights[operator.name]![String(bits)]!;
          t.ok(
            isNear(actual, value),
            `${estimator.name}, ${operator.name} at ${bits} bits: ${actual}, expected ${value}`,
          );
        }
      }
      if (['exact', 'mask', 'logits'].includes(estimator.name)) {
        for (const [tensor, row] of Object.entries(document.activations)) {
          const expected = await estimator.estimate(await whole.activationSite(tensor, network), whole.context([8], 2));
          t.ok(
            isNear(row['8']!, expected.get(8)!),
            `${estimator.name}, ${tensor}: ${row['8']}, expected ${expected.get(8)}`,
          );
        }
      }
    }
  });
}

t.test(
  'every tensor that an operator reads or writes is assessed, at the widths its operators may have, and nothing else',
  async (t) => {
    const network = await makeNetwork('a classifier that ends in Softmax');
    const { operators } = network.prepared;
    const names = new Set(operators.flatMap((operator) => [...operator.inputs, ...operator.outputs]));
    const all = await assessed(network, findEstimator('perturbation'));
    const assessedTensors = new Set(Object.keys(all.activations));
    const final = network.prepared.model.graph.outputs[0]!.name;
    for (const name of names) if (name !== final) t.ok(assessedTensors.has(name), name);
    t.strictSame(
      new Set(Object.keys(all.weights)).size,
      operators.filter((operator) => operator.weight !== null).length,
    );

    const none = await assessed(network, findEstimator('perturbation'), { precisionsOf: () => [candidates[0]!] });
    t.strictSame([none.weights, none.activations], [{}, {}]);
    const weights = await assessed(network, findEstimator('perturbation'), { kinds: ['weight'] });
    t.strictSame(weights.activations, {});
  },
);

t.test('4-bit blocks get the sensitivity of 4-bit channels times the ratio of their error energies', async (t) => {
  const network = await makeNetwork('a classifier that ends in logits');
  const { operators, model } = network.prepared;
  const index = operators.findIndex((operator) => operator.op === 'Gemm');
  const blocks: Precision = { weightBits: 4, activationBits: 32 };
  const { weights } = await assessed(network, findEstimator('exact'), {
    precisionsOf: (at) => (at === index ? [...candidates, blocks] : candidates),
  });
  const operator = operators[index]!;
  const tensor = model.graph.initializers.get(operator.weight!.name)!;
  const { channelAxis } = operator.weight!;
  const channels = quantizeWeights(readFloats(tensor), tensor.dims, channelAxis, 4, { clip: 'mse' });
  const energy = errorEnergy(readFloats(tensor), dequantizeWeights(channels, tensor.dims, channelAxis));
  const ratio = quantizeBlockwise(operator, tensor).errorEnergy / energy;
  const row = weights[operator.name]!;
  t.ok(isNear(row['4b']!, row['4']! * ratio));
});

t.test('weights are assessed as they are deployed: kept small where kernels saturate', async (t) => {
  const network = await makeNetwork('a classifier that ends in logits');
  const whole = new Whole(network);
  await whole.start();
  const [operator] = network.prepared.operators;
  for (const saturates of [true, false]) {
    const { weights } = await assessed(network, findEstimator('exact'), { saturates });
    const expected = await findEstimator('exact').estimate(
      whole.weightSite(operator!, saturates),
      whole.context([8], sampleCount),
    );
    t.ok(isNear(weights[operator!.name]!['8']!, expected.get(8)!), `saturates ${saturates}`);
  }
});

t.test(
  'weights are assessed with the bias that is deployed with them, and with their own when they are float',
  async (t) => {
    for (const name of Object.keys(networks)) {
      const network = await makeNetwork(name);
      const { prepared } = network;
      const whole = new Whole(network);
      await whole.start();
      const random = new Random(seed);
      const reads = prepared.operators.filter(({ weight }) => weight !== null).map(({ inputs }) => inputs[0]!);
      const channelMeans = Object.fromEntries(
        reads.map((tensor) => [tensor, [...random.floats(prepared.shapes.get(tensor)![1]!, 1)]]),
      );
      const document = await assessed(network, findEstimator('exact'), { channelMeans });
      const plain = await assessed(network, findEstimator('exact'));
      let differing = 0;
      for (const operator of prepared.operators.filter(({ weight }) => weight !== null)) {
        const corrected = (bits: number) => biasCorrection(prepared, operator, bits, channelMeans, true)!;
        const site = whole.weightSite(operator, true, corrected);
        const expected = await findEstimator('exact').estimate(site, whole.context([8, 4], sampleCount));
        for (const [bits, value] of expected) {
          const actual = document.weights[operator.name]![String(bits)]!;
          t.ok(isNear(actual, value), `${name}, ${operator.name} at ${bits} bits: ${actual}, expected ${value}`);
        }
        if (!isNear(document.weights[operator.name]!['4']!, plain.weights[operator.name]!['4']!)) differing++;
      }
      // A correction may do nothing to one operator (all its channels behind a Relu that is shut), not to all.
      t.ok(differing > 0, name);
      for (const [tensor, row] of Object.entries(plain.activations))
        t.ok(isNear(document.activations[tensor]!['8']!, row['8']!), `${name}, ${tensor}`);
    }
  },
);

t.test('activations are assessed as they are deployed: with signed codes for TensorRT', async (t) => {
  const network = await makeNetwork('a classifier that ends in logits');
  const whole = new Whole(network);
  await whole.start();
  const { activations } = await assessed(network, findEstimator('exact'), { variant: 'tensorrt' });
  for (const [tensor, row] of Object.entries(activations)) {
    const site = await whole.activationSite(tensor, network, 'tensorrt');
    const expected = await findEstimator('exact').estimate(site, whole.context([8], 2));
    t.ok(isNear(row['8']!, expected.get(8)!), `${tensor}: ${row['8']}, expected ${expected.get(8)}`);
  }
});

t.test('an estimator gets no more samples than it can use', async (t) => {
  const network = await makeNetwork('a classifier that ends in logits');
  const frugal: Estimator = {
    ...findEstimator('exact'),
    samplesMost: 2,
    estimate: (site, context) => {
      t.equal(context.samples, 2);
      return findEstimator('exact').estimate(site, context);
    },
  };
  t.equal((await assessed(network, frugal)).samples, 2);
});

t.test('the same again gives the same, and every session is closed', async (t) => {
  const network = await makeNetwork('a regressor with two outputs');
  const runtime = new CountingRuntime();
  const { seconds: _, ...first } = await assessed(network, findEstimator('mask'), { runtime });
  const { seconds: __, ...second } = await assessed(network, findEstimator('mask'), { runtime });
  t.strictSame(first, second);
  t.ok(runtime.opened > 0);
  t.equal(runtime.closed, runtime.opened);
});

t.test('aborting stops it between operators, with every session closed', async (t) => {
  const network = await makeNetwork('a classifier that ends in Softmax');
  const runtime = new CountingRuntime();
  const abort = new AbortController();
  const reason = new Error('enough');
  const stopping: Estimator = {
    ...findEstimator('exact'),
    estimate: (site, context) => {
      abort.abort(reason);
      return findEstimator('exact').estimate(site, context);
    },
  };
  await t.rejects(assessed(network, stopping, { runtime, signal: abort.signal }), reason);
  t.equal(runtime.closed, runtime.opened);
});

t.test('large models are assessed on fewer samples', async (t) => {
  const counts = [1e6, 100e6, 1e9].map((macs) => defaultSampleCounts(macs));
  t.ok(counts[0]!.weights > counts[1]!.weights && counts[1]!.weights > counts[2]!.weights);
  t.ok(counts.every(({ activations, weights }) => activations >= 1 && activations <= weights));
});
