/** Bias corrections against the shift of the mean output that rounding the weights causes, measured by running both. */
import t from 'tap';
import { makeTensor, readFloats } from '../../../../agent/core/onnx/tensor.js';
import { prepare } from '../../../../agent/core/prepare.js';
import { biasCorrections } from '../../../../agent/core/quant/bias.js';
import { deployedOptions, dequantizeWeights, quantizeWeights } from '../../../../agent/core/quant/weights.js';
import { NetworkBuilder } from '../../../support/networks.js';
import { feed, Oracle } from '../../../support/ort.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();

interface Case {
  name: string;
  input: readonly number[];
  build(builder: NetworkBuilder): string;
}

const cases: readonly Case[] = [
  { name: '3x3 convolution', input: [1, 6, 7, 7], build: (builder) => builder.conv('x', { out: 10, pad: 0 }) },
  {
    name: 'convolution in groups',
    input: [1, 6, 7, 7],
    build: (builder) => builder.conv('x', { out: 9, groups: 3, pad: 0 }),
  },
  {
    name: 'depthwise convolution',
    input: [1, 6, 7, 7],
    build: (builder) => builder.conv('x', { out: 6, groups: 6, pad: 0, hasBias: false }),
  },
  { name: 'Gemm, transposed weight', input: [1, 24], build: (builder) => builder.gemm('x', 10, true) },
  { name: 'Gemm, plain weight', input: [1, 24], build: (builder) => builder.gemm('x', 10, false) },
  {
    name: 'MatMul',
    input: [1, 24],
    build: (builder) => builder.emit('MatMul', ['x', builder.weight([24, 10], 24)], [1, 10]),
  },
];

for (const saturates of [false, true]) {
  for (const { name, input, build } of cases) {
    t.test(
      `${name}, weights ${saturates ? 'kept small' : 'in full'}: the correction is the mean shift, with the other sign`,
      async (t) => {
        const random = new Random(seed);
        const builder = new NetworkBuilder(random, input);
        const output = build(builder);
        const { model, operators, shapes, card } = prepare(builder.build([output]), null);
        const [operator] = operators;
        const weight = model.graph.initializers.get(operator!.weight!.name)!;
        const axis = operator!.weight!.channelAxis;
        const options = deployedOptions(operator!, weight.dims, 8, saturates);
        const rounded = dequantizeWeights(
          quantizeWeights(readFloats(weight), weight.dims, axis, 8, options),
          weight.dims,
          axis,
        );
        const changed = new Map(model.graph.initializers).set(
          weight.name,
          makeTensor(weight.name, 'float32', weight.dims, rounded),
        );
        const sessions = [
          await Oracle.open(model, 'disabled'),
          await Oracle.open({ ...model, graph: { ...model.graph, initializers: changed } }, 'disabled'),
        ];

        // Images of one value a channel: without padding, every position then sees the channel's mean, and the formula is exact.
        const channels = input[1]!;
        const size = input.slice(2).reduce((a, b) => a * b, 1);
        const samples = 24;
        const means = new Array<number>(channels).fill(0);
        const outputs = shapes.get(output)![1]!;
        const shift = new Array<number>(outputs).fill(0);
        for (let sample = 0; sample < samples; sample++) {
          const values = Array.from({ length: channels }, () => 1 + random.normal());
          values.forEach((value, channel) => {
            means[channel]! += value / samples;
          });
          const data = Float32Array.from({ length: channels * size }, (_, i) => values[Math.floor(i / size)]!);
          const feeds = feed(card.input.name, input, data);
          const [original, quantized] = await Promise.all(
            sessions.map(async (session) => (await session.run(feeds)).get(output)!.data),
          );
          const positions = original!.length / outputs;
          original!.forEach((value, i) => {
            shift[Math.floor(i / positions)]! += (quantized![i]! - value) / positions / samples;
          });
        }
        for (const session of sessions) await session.close();

        const prepared = { ...prepare(builder.build([output]), null) };
        const correction = biasCorrections(prepared, { x: means }, saturates).get(operator!.name)!;
        t.equal(correction.length, outputs);
        const scale = Math.max(...shift.map(Math.abs));
        t.ok(scale > 1e-5, `rounding moves the mean by ${scale}`);
        shift.forEach((moved, channel) => {
          t.ok(
            Math.abs(correction[channel]! + moved) <= scale * 0.01,
            `channel ${channel}: ${correction[channel]} for a shift of ${moved}`,
          );
        });
      },
    );
  }
}

t.test('operators without weights or without known means are not corrected', async (t) => {
  const builder = new NetworkBuilder(new Random(1), [1, 4, 5, 5]);
  const first = builder.conv('x', { out: 4 });
  const second = builder.conv(builder.same('Sigmoid', first), { out: 4 });
  const prepared = prepare(builder.build([second]), null);
  const corrections = biasCorrections(prepared, { x: [1, 1, 1, 1] }, true);
  t.strictSame([...corrections.keys()], [prepared.operators[0]!.name]);
});
