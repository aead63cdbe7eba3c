/** Layer by layer: what comes out is nearer to the float model than rounding to nearest, in the engine's own integers. */
import t from 'tap';
import { HostRuntime } from '../../../agent/adapters/host-runtime.js';
import { nativeRounder } from '../../../agent/adapters/native-rounder.js';
import { normalizedSquaredDistance } from '../../../agent/core/divergence.js';
import { buildImage } from '../../../agent/core/image/build.js';
import { prepare } from '../../../agent/core/prepare.js';
import { floatModel } from '../../../agent/steps/apply.js';
import { calibrate } from '../../../agent/steps/calibrate.js';
import { type Refinement, type RefineOptions, refine } from '../../../agent/steps/refine.js';
import type { Precision } from '../../../configs/contracts/plan.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';
import { never, quiet, samplesOf } from '../../support/steps.js';

const seed = announceSeed();
const shape = [1, 3, 12, 12];
const whole: RefineOptions = {
  rule: 'mse',
  rounds: true,
  aims: true,
  correctsBiases: true,
  saturates: false,
  threads: 2,
  samplesMost: 64,
};

/** A network with everything that a walk can meet: groups, a residual, a concatenation, a pool, a product. */
async function network(networkSeed: number) {
  const random = new Random(networkSeed);
  const builder = new NetworkBuilder(random, shape);
  const first = builder.same('Relu', builder.conv('x', { out: 8 }));
  const deep = builder.same('Relu', builder.conv(first, { out: 8, groups: 8 }));
  const sum = builder.emit('Add', [builder.conv(deep, { out: 8 }), first], [1, 8, 12, 12]);
  const wide = builder.emit('Concat', [sum, builder.same('Relu', deep)], [1, 16, 12, 12], { axis: 1 });
  const pooled = builder.emit('MaxPool', [wide], [1, 16, 6, 6], { kernel_shape: [2, 2], strides: [2, 2] });
  const logits = builder.gemm(builder.pooled(builder.same('Relu', builder.conv(pooled, { out: 12 }))), 6);
  const prepared = prepare(builder.build([logits]), imageCard('other', shape));
  // Neighbouring values are alike, as in pictures; otherwise there is nothing to learn from moments.
  const picture = () => {
    let value = 0;
    return Float32Array.from({ length: 432 }, () => {
      value = 0.8 * value + 0.6 * random.normal();
      return value;
    });
  };
  const [samples, others] = [Array.from({ length: 48 }, picture), Array.from({ length: 48 }, picture)];
  const runtime = new HostRuntime();
  const options = { rules: ['mse'] as const, bits: [8, 6, 4, 2], threads: 1, most: 64 };
  const { ranges } = await calibrate(prepared, samplesOf(samples), options, runtime, never, quiet);
  const rangeOf = (tensor: string, bits: number) => ranges.mse![bits]![tensor]!;
  return { prepared, samples, others, runtime, rangeOf };
}

type Network = Awaited<ReturnType<typeof network>>;

function precisionsOf({ prepared }: Network, precision: Precision): Map<string, Precision> {
  const weighted = prepared.operators.filter(({ weight }) => weight !== null);
  return new Map(
    weighted.map(({ name, inputs }) => [name, inputs.includes('x') ? { ...precision, activationBits: 8 } : precision]),
  );
}

function refined(given: Network, precisions: ReadonlyMap<string, Precision>, options = whole): Promise<Refinement> {
  const ports = { runtime: given.runtime, rounder: nativeRounder };
  const range = given.rangeOf('x', 8);
  return refine(given.prepared, precisions, samplesOf(given.samples), range, options, ports, never, quiet);
}

/** Mean squared distance from the float model, on samples that nothing was made with. */
async function errorOf(given: Network, precisions: ReadonlyMap<string, Precision>, refinement: Refinement | null) {
  const { prepared, runtime, rangeOf, others } = given;
  const { bytes } = buildImage(prepared, precisions, {
    rangeOf: (tensor, bits) => refinement?.ranges[tensor] ?? rangeOf(tensor, bits),
    pairSafe: false,
    biasCorrection: () => null,
    roundedOf: ({ name }) => refinement?.operators[name] ?? null,
  });
  const sessions = [
    await runtime.open(floatModel(prepared), { threads: 1 }),
    await runtime.open(bytes, { threads: 1 }),
  ];
  let error = 0;
  for (const data of others) {
    const feeds = new Map([['x', { dims: shape, data }]]);
    const [float, rounded] = await Promise.all(
      sessions.map(async (session) => [...(await session.run(feeds)).values()][0]!.data as Float32Array),
    );
    error += normalizedSquaredDistance(float!, rounded!) / others.length;
  }
  for (const session of sessions) await session.close();
  return error;
}

for (const precision of [
  { weightBits: 4, activationBits: 8 },
  { weightBits: 4, activationBits: 4 },
  { weightBits: 2, activationBits: 8 },
] as const)
  t.test(
    `W${precision.weightBits}A${precision.activationBits}: nearer to float than rounding to nearest`,
    async (t) => {
      let [ours, plain] = [0, 0];
      for (let repeat = 0; repeat < 3; repeat++) {
        const given = await network(seed + repeat);
        const precisions = precisionsOf(given, precision);
        const refinement = await refined(given, precisions);
        for (const { name, weight } of given.prepared.operators) {
          if (weight === null) continue;
          const { weights, bias } = refinement.operators[name]!;
          t.ok(weights.codes.every((code) => Math.abs(code) < 2 ** (precision.weightBits - 1)));
          t.equal(bias.length, weights.scales.length);
        }
        ours += await errorOf(given, precisions, refinement);
        plain += await errorOf(given, precisions, null);
      }
      t.ok(ours < 0.8 * plain, `${ours.toFixed(4)} against ${plain.toFixed(4)}, seed ${seed}`);
    },
  );

t.test('8 bits: not worse than rounding to nearest by more than noise', async (t) => {
  const given = await network(seed);
  const precisions = precisionsOf(given, { weightBits: 8, activationBits: 8 });
  const ours = await errorOf(given, precisions, await refined(given, precisions));
  const plain = await errorOf(given, precisions, null);
  t.ok(ours < 1.2 * plain, `${ours} against ${plain}, seed ${seed}`);
});

t.test('without any of its passes it rounds to nearest and leaves biases alone', async (t) => {
  const given = await network(seed);
  const precisions = precisionsOf(given, { weightBits: 4, activationBits: 8 });
  const off = { ...whole, rounds: false, aims: false, correctsBiases: false };
  const { operators } = await refined(given, precisions, off);
  const [first] = given.prepared.operators;
  const bias = given.prepared.model.graph.initializers.get(first!.bias ?? '');
  const floats = bias === undefined ? null : new Float32Array(bias.bytes.slice().buffer);
  operators[first!.name]!.bias.forEach((value, channel) => {
    t.equal(value, floats?.[channel] ?? 0);
  });
});

t.test('the same samples give the same result, and an abort is heeded', async (t) => {
  const given = await network(seed);
  const precisions = precisionsOf(given, { weightBits: 4, activationBits: 4 });
  t.strictSame(await refined(given, precisions), await refined(given, precisions));
  const abort = new AbortController();
  const ports = { runtime: given.runtime, rounder: nativeRounder };
  const stopped = refine(
    given.prepared,
    precisions,
    samplesOf(given.samples),
    given.rangeOf('x', 8),
    whole,
    ports,
    abort.signal,
    () => abort.abort(new Error('enough')),
  );
  await t.rejects(stopped, { message: 'enough' });
});
