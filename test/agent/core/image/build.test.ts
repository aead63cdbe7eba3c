/**
 * Every operator that the engine has, against ONNX Runtime in float on the same codes: what goes in is rounded to the input's grid,
 * weights to theirs, and what comes out may differ from the float result by one step of the output's grid, no more.
 */
import t, { type Test } from 'tap';
import { activationBits, buildImage, floatTail } from '../../../../agent/core/image/build.js';
import { readDescription } from '../../../../agent/core/image/description.js';
import { decode, encode } from '../../../../agent/core/onnx/codec.js';
import type { Model } from '../../../../agent/core/onnx/model.js';
import { makeTensor, readFloats } from '../../../../agent/core/onnx/tensor.js';
import type { PreparedModel } from '../../../../agent/core/prepare.js';
import { type Affine, fakeQuantize, unsignedAffine } from '../../../../agent/core/quant/affine.js';
import { keepsRange } from '../../../../agent/core/quant/qdq.js';
import { dequantizeWeights, quantizeWeights } from '../../../../agent/core/quant/weights.js';
import type { Precision, Range } from '../../../../configs/contracts/plan.js';
import { EngineModel } from '../../../../native/index.js';
import { calibratedNetwork, NetworkBuilder, randomNetwork } from '../../../support/networks.js';
import { feed, run } from '../../../support/ort.js';
import { announceSeed, Random } from '../../../support/seed.js';
import { ints } from '../onnx/support.js';

const seed = announceSeed();
const random = new Random(seed);
const between = (low: number, high: number) => low + random.below(high - low + 1);

type Build = (builder: NetworkBuilder) => string;

interface Case {
  readonly input?: () => readonly number[];
  readonly build: Build;
  /** Steps of the output's grid that the result may be off; 1 where absent. */
  readonly steps?: number;
}

const image = () => [1, between(1, 9), between(4, 11), between(4, 11)];
const shapeOf = (builder: NetworkBuilder, name = 'x') => builder.shapes.get(name)!;

/** Leaves codes as they are: what is in front of it has to be codes. */
const asCodes = (builder: NetworkBuilder, name: string) =>
  builder.emit('MaxPool', [name], shapeOf(builder, name), { kernel_shape: [1, 1] });

const convolutions: Record<string, Case> = {
  'Conv 3x3': { build: (b) => asCodes(b, b.conv('x', { out: between(1, 20) })) },
  'Conv 3x3 with Relu': { build: (b) => asCodes(b, b.same('Relu', b.conv('x', { out: between(1, 20) }))) },
  'Conv 1x1 with Clip': { build: (b) => asCodes(b, b.clip(b.conv('x', { out: 7, kernel: 1 }), 0, 1)) },
  'Conv of stride 2 without padding': { build: (b) => asCodes(b, b.conv('x', { out: 5, stride: 2, pad: 0 })) },
  'Conv padded beyond its kernel': { build: (b) => asCodes(b, b.conv('x', { out: 3, kernel: 1, pad: 1 })) },
  'depthwise Conv': {
    build: (b) => asCodes(b, b.conv('x', { out: shapeOf(b)[1]!, groups: shapeOf(b)[1]! })),
  },
  'grouped Conv': { input: () => [1, 8, 5, 6], build: (b) => asCodes(b, b.conv('x', { out: 12, groups: 4 })) },
  'Conv at the output, as floats': { build: (b) => b.conv('x', { out: between(1, 20) }) },
  'Conv with Relu at the output, as floats': { build: (b) => b.same('Relu', b.conv('x', { out: 4 })) },
  Gemm: { input: () => [1, between(1, 40)], build: (b) => b.gemm('x', between(1, 30), random.next() < 0.5) },
  'MatMul of several rows': {
    input: () => [1, 5, 12],
    build: (b) => b.emit('MatMul', ['x', b.weight([12, 9], 12)], [1, 5, 9]),
  },
  'Conv of one axis': {
    input: () => [1, 4, 20],
    build: (b) => b.emit('Conv', ['x', b.weight([6, 4, 3], 12)], [1, 6, 20], { kernel_shape: [3], pads: [1, 1] }),
  },
};

const slice = (builder: NetworkBuilder, input: string, axis: number, start: number, end: number, step: number) => {
  const names = [start, end, axis, step].map((value, index) => {
    const name = `s${builder.nodes.length}_${index}`;
    builder.initializers.push(ints(name, [value]));
    return name;
  });
  const shape = shapeOf(builder, input).map((size, d) => (d === axis ? Math.ceil((end - start) / step) : size));
  return builder.emit('Slice', [input, ...names], shape);
};

const others: Record<string, Case> = {
  Add: { build: (b) => b.emit('Add', ['x', b.same('Tanh', 'x')], shapeOf(b)) },
  'Add with Relu': { build: (b) => b.same('Relu', b.emit('Add', ['x', b.same('Sigmoid', 'x')], shapeOf(b))) },
  Sub: { build: (b) => b.emit('Sub', [b.same('Sigmoid', 'x'), 'x'], shapeOf(b)) },
  Mul: { build: (b) => b.emit('Mul', ['x', b.same('Tanh', 'x')], shapeOf(b)) },
  'Mul by one value a channel': {
    build: (b) => {
      const [, channels] = shapeOf(b);
      const pooled = b.emit('GlobalAveragePool', ['x'], [1, channels!, 1, 1]);
      return b.emit('Mul', ['x', b.same('HardSigmoid', pooled)], shapeOf(b));
    },
    steps: 3,
  },
  MaxPool: {
    build: (b) => {
      const [, c, h, w] = shapeOf(b) as [number, number, number, number];
      const shape = [1, c, Math.floor((h - 1) / 2) + 1, Math.floor((w - 1) / 2) + 1];
      return b.emit('MaxPool', ['x'], shape, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] });
    },
  },
  AveragePool: {
    build: (b) => {
      const [, c, h, w] = shapeOf(b) as [number, number, number, number];
      const attributes = {
        kernel_shape: [3, 2],
        strides: [1, 2],
        pads: [1, 0, 1, 0],
        count_include_pad: random.below(2),
      };
      return asCodes(b, b.emit('AveragePool', ['x'], [1, c, h, Math.floor((w - 2) / 2) + 1], attributes));
    },
  },
  GlobalAveragePool: {
    build: (b) => asCodes(b, b.emit('GlobalAveragePool', ['x'], [1, shapeOf(b)[1]!, 1, 1])),
  },
  'GlobalAveragePool at the output, as floats': {
    build: (b) => b.emit('GlobalAveragePool', ['x'], [1, shapeOf(b)[1]!, 1, 1]),
  },
  ...Object.fromEntries(
    ['Sigmoid', 'Tanh', 'HardSigmoid', 'LeakyRelu', 'Elu', 'Softplus', 'Abs', 'Neg', 'Relu'].map(
      (op): [string, Case] => [op, { build: (b) => asCodes(b, b.same(op, 'x')) }],
    ),
  ),
  SiLU: { build: (b) => asCodes(b, b.silu('x')) },
  Clip: { build: (b) => asCodes(b, b.clip('x', -0.5, 0.7)) },
  Concat: {
    build: (b) => {
      const [, c, h, w] = shapeOf(b) as [number, number, number, number];
      return asCodes(b, b.emit('Concat', ['x', b.same('Tanh', 'x'), 'x'], [1, 3 * c, h, w], { axis: 1 }));
    },
  },
  'Concat of rows': {
    build: (b) => {
      const [, c, h, w] = shapeOf(b) as [number, number, number, number];
      return asCodes(b, b.emit('Concat', ['x', b.same('Tanh', 'x')], [1, c, 2 * h, w], { axis: 2 }));
    },
  },
  'Slice of every second row': { build: (b) => asCodes(b, slice(b, 'x', 2, 1, shapeOf(b)[2]!, 2)) },
  'Slice of channels': { input: () => [1, 6, 4, 5], build: (b) => asCodes(b, slice(b, 'x', 1, 2, 5, 1)) },
  Pad: {
    build: (b) => {
      const [, c, h, w] = shapeOf(b) as [number, number, number, number];
      b.initializers.push(ints('pads', [0, 1, 2, 0, 0, 2, 0, 1]));
      return asCodes(b, b.emit('Pad', ['x', 'pads'], [1, c + 3, h + 2, w + 1]));
    },
  },
  'Transpose to channels last': {
    build: (b) => {
      const [, c, h, w] = shapeOf(b) as [number, number, number, number];
      return b.emit('Transpose', [b.conv('x', { out: c })], [1, h, w, c], { perm: [0, 2, 3, 1] });
    },
  },
  'Reshape that moves': {
    input: () => [1, 6, 4, 5],
    build: (b) => {
      b.initializers.push(ints('to', [1, 8, 3, 5]));
      return asCodes(b, b.emit('Reshape', [b.same('Tanh', 'x'), 'to'], [1, 8, 3, 5]));
    },
  },
  ...Object.fromEntries(
    [
      ['nearest', 'asymmetric', 2],
      ['nearest', 'half_pixel', 1.5],
      ['linear', 'half_pixel', 2],
      ['linear', 'align_corners', 2],
      ['linear', 'asymmetric', 0.5],
    ].map(([mode, coordinates, scale]): [string, Case] => [
      `Resize ${mode} ${coordinates} by ${scale}`,
      {
        // Interpolated codes are on the input's grid, rounded to it once more.
        steps: mode === 'linear' ? 2 : 1,
        input: () => [1, 3, 6, 8],
        build: (b) => {
          const scales = b.constant([4], Float32Array.of(1, 1, scale as number, scale as number));
          const shape = [1, 3, Math.floor(6 * (scale as number)), Math.floor(8 * (scale as number))];
          return asCodes(
            b,
            b.emit('Resize', ['x', '', scales], shape, {
              mode: mode as string,
              coordinate_transformation_mode: coordinates as string,
            }),
          );
        },
      },
    ]),
  ),
  DepthToSpace: {
    input: () => [1, 8, 3, 4],
    build: (b) =>
      asCodes(b, b.emit('DepthToSpace', ['x'], [1, 2, 6, 8], { blocksize: 2, mode: random.pick(['DCR', 'CRD']) })),
  },
  SpaceToDepth: {
    input: () => [1, 3, 6, 4],
    build: (b) => asCodes(b, b.emit('SpaceToDepth', ['x'], [1, 12, 3, 2], { blocksize: 2 })),
  },
  'Softmax and Sigmoid at the output, in float': {
    input: () => [1, 12],
    build: (b) => b.same('Softmax', b.same('Sigmoid', b.gemm('x', 9)), { axis: 1 }),
  },
};

const precisionsOf = (prepared: PreparedModel, precision: Precision) =>
  new Map(prepared.operators.map(({ name }) => [name, precision]));

/** The model with its weights rounded as the image has them, every activation rounded by ONNX Runtime's own Q/DQ arithmetic in float. */
function roundedWeights({ model, operators }: PreparedModel, bits: number): Model {
  const initializers = new Map(model.graph.initializers);
  for (const { weight } of operators) {
    if (weight === null) continue;
    const tensor = initializers.get(weight.name)!;
    const clip = bits >= 8 ? 'absmax' : 'mse';
    const codes = quantizeWeights(readFloats(tensor), tensor.dims, weight.channelAxis, bits, { clip, pairSafe: false });
    const values = dequantizeWeights(codes, tensor.dims, weight.channelAxis);
    initializers.set(weight.name, makeTensor(weight.name, 'float32', tensor.dims, values));
  }
  return { ...model, graph: { ...model.graph, initializers } };
}

/** Largest scale of an accumulator: that of the weights times that of what is multiplied. */
function largestAccumulatorStep(
  { model, operators }: PreparedModel,
  bits: number,
  scaleOf: (tensor: string) => number,
): number {
  return Math.max(
    0,
    ...operators.map(({ weight, inputs }) => {
      if (weight === null) return 0;
      const tensor = model.graph.initializers.get(weight.name)!;
      const clip = bits >= 8 ? 'absmax' : 'mse';
      const { scales } = quantizeWeights(readFloats(tensor), tensor.dims, weight.channelAxis, bits, {
        clip,
        pairSafe: false,
      });
      return Math.max(...scales) * scaleOf(inputs[0]!);
    }),
  );
}

/** Runs the model operator by operator in float, rounding what the image holds as codes. */
/** The input as codes say it. The engine rounds in float32: where a value is half way between two codes, that decides. */
function asEngineReads(input: Float32Array, { scale, zeroPoint, codeMinimum, codeMaximum }: Affine): Float32Array {
  const inverse = Math.fround(1 / scale);
  return input.map((value) => {
    const code = Math.floor(Math.fround(Math.fround(value * inverse) + 0.5)) + zeroPoint;
    return (Math.max(codeMinimum, Math.min(codeMaximum, code)) - zeroPoint) * scale;
  });
}

async function expectedOutput(
  prepared: PreparedModel,
  model: Model,
  gridOf: (tensor: string) => ReturnType<typeof unsignedAffine>,
  input: Float32Array,
): Promise<Float32Array> {
  const tail = floatTail(prepared);
  const live = new Map<string, { dims: readonly number[]; data: Float32Array }>();
  const { name } = prepared.card.input;
  const isRead = prepared.operators.some((operator) => !tail.has(operator) && operator.inputs.includes(name));
  live.set(name, { dims: prepared.inputDims, data: isRead ? asEngineReads(input, gridOf(name)) : input });
  const output = prepared.model.graph.outputs[0]!.name;
  for (const operator of prepared.operators) {
    const isRounded = !tail.has(operator);
    const feeds = new Map(
      operator.inputs.map((tensor) => {
        const value = live.get(tensor)!;
        return [tensor, isRounded ? { ...value, data: fakeQuantize(value.data, gridOf(tensor)) } : value] as const;
      }),
    );
    const info = (tensor: string, shape: readonly number[] | null) => ({
      name: tensor,
      type: 'float32' as const,
      shape,
    });
    const part: Model = {
      ...model,
      graph: {
        ...model.graph,
        nodes: operator.nodes,
        inputs: operator.inputs.map((tensor) => info(tensor, prepared.shapes.get(tensor)!)),
        outputs: operator.outputs.map((tensor) => info(tensor, null)),
      },
    };
    for (const [tensor, value] of await run(part, feeds)) live.set(tensor, value);
  }
  return live.get(output)!.data;
}

async function compare(t: Test, source: Model, sampleSeed: number, precision: Precision, steps: number) {
  const { prepared, samples, ranges } = await calibratedNetwork(source, sampleSeed, 3);
  const bits = activationBits(prepared, precisionsOf(prepared, precision));
  // What is only moved keeps the grid on which it was computed.
  const originOf = (tensor: string): string => {
    const writer = prepared.operators.find((operator) => operator.outputs.includes(tensor));
    return writer !== undefined && keepsRange(writer) ? originOf(writer.inputs[0]!) : tensor;
  };
  const gridOf = (tensor: string) => unsignedAffine(ranges.get(originOf(tensor))!, bits.get(originOf(tensor)) ?? 8);
  const { bytes } = buildImage(prepared, precisionsOf(prepared, precision), {
    rangeOf: (tensor): Range | undefined => ranges.get(tensor),
    pairSafe: false,
    biasCorrection: () => null,
  });
  const model = new EngineModel(bytes, { threads: 2 });
  const portable = new EngineModel(bytes, { threads: 1, features: [] });
  const rounded = roundedWeights(prepared, precision.weightBits);
  const biasStep = largestAccumulatorStep(prepared, precision.weightBits, (tensor) => gridOf(tensor).scale);
  const output = prepared.model.graph.outputs[0]!.name;
  const last = prepared.operators.find((operator) => operator.outputs.includes(output))!;
  try {
    for (const input of samples) {
      const [result] = await model.run([input]);
      t.strictSame((await portable.run([input]))[0], result, 'every machine computes the same');
      const expected = await expectedOutput(prepared, rounded, gridOf, input);
      t.equal(result!.length, expected.length);
      const isFloat = floatTail(prepared).has(last) || last.weight !== null || /GlobalAverage/.test(last.op);
      // What only moves codes leaves them on the grid on which they came.
      const isKept = keepsRange(last);
      const grid = gridOf(isKept ? last.inputs[0]! : output);
      // A bias is rounded to the accumulator's step, which is coarse where codes have few bits.
      const exact = 1e-4 * Math.max(1, Math.abs(ranges.get(output)!.maximum)) + biasStep / 2;
      const tolerance = isFloat ? exact : steps * grid.scale * 1.001 + biasStep / 2;
      const low = (grid.codeMinimum - grid.zeroPoint) * grid.scale;
      const high = (grid.codeMaximum - grid.zeroPoint) * grid.scale;
      let worst = 0;
      expected.forEach((value, index) => {
        const wanted =
          isFloat || isKept ? value : Math.min(high, Math.max(low, Math.round(value / grid.scale) * grid.scale));
        worst = Math.max(worst, Math.abs(result![index]! - wanted));
      });
      t.ok(worst <= tolerance, `off by ${worst}, allowed ${tolerance}`);
    }
  } finally {
    model.close();
    portable.close();
  }
}

for (const [name, { input = image, build, steps = 1 }] of Object.entries({ ...convolutions, ...others })) {
  t.test(`${name} computes what it computes in float, to one step`, async (t) => {
    for (let repeat = 0; repeat < 3; repeat++) {
      const builder = new NetworkBuilder(new Random(seed + repeat), input());
      const output = build(builder);
      // Written and read again, as a model from a file.
      await compare(
        t,
        decode(encode(builder.build([output]))),
        seed + repeat,
        { weightBits: 8, activationBits: 8 },
        steps,
      );
    }
  });
}

t.test('an output that hardly moves, or not at all, is no reason to refuse a model', async (t) => {
  const builder = new NetworkBuilder(new Random(seed), image());
  const off = builder.clip(builder.conv('x', { out: 4 }), 0, 0);
  const nothing = builder.emit('Sub', ['x', 'x'], shapeOf(builder));
  const still = builder.emit('Mul', [nothing, nothing], shapeOf(builder));
  const outputs = [builder.conv(off, { out: 3 }), builder.conv(still, { out: 2 })];
  outputs.push(builder.gemm(builder.pooled(builder.conv('x', { out: 4 })), 3));
  const { prepared, samples, ranges } = await calibratedNetwork(builder.build(outputs), seed, 2);
  const means = prepared.operators.filter(({ op }) => /AveragePool/.test(op)).flatMap(({ outputs: of }) => of);
  t.equal(means.length, 1);
  const { bytes } = buildImage(prepared, new Map(), {
    rangeOf: (tensor) => (means.includes(tensor) ? { minimum: 0, maximum: 1e-25 } : ranges.get(tensor)),
    pairSafe: false,
    biasCorrection: () => null,
  });
  const model = new EngineModel(bytes, { threads: 1 });
  try {
    for (const output of await model.run([samples[0]!])) t.ok(output.every(Number.isFinite));
  } finally {
    model.close();
  }
});

t.test('products of fewer bits are as exact', async (t) => {
  for (const [weightBits, bits] of [
    [4, 8],
    [4, 4],
    [2, 8],
    [2, 2],
    [3, 5],
    [6, 6],
  ] as const) {
    for (const build of Object.values(convolutions)) {
      const builder = new NetworkBuilder(new Random(seed + weightBits), (build.input ?? image)());
      const output = build.build(builder);
      await compare(t, builder.build([output]), seed, { weightBits, activationBits: bits }, 1);
    }
  }
});

t.test('the image of a random network is as near to float as its codes allow', async (t) => {
  for (let n = 0; n < 6; n++) {
    const { prepared, samples, ranges } = await calibratedNetwork(randomNetwork(seed + n, 6), seed + n);
    const { bytes, arenaBytes } = buildImage(prepared, new Map(), {
      rangeOf: (tensor) => ranges.get(tensor),
      pairSafe: false,
      biasCorrection: () => null,
    });
    const [one, two] = [new EngineModel(bytes, { threads: 1 }), new EngineModel(bytes, { threads: 3 })];
    const reference = new EngineModel(bytes, { threads: 1, features: [] });
    t.ok(one.memory.arenaBytes >= arenaBytes && one.memory.arenaBytes < arenaBytes + 256, 'planned is what is taken');
    let [signal, error] = [0, 0];
    for (const input of samples) {
      const [result] = await one.run([input]);
      t.strictSame((await two.run([input]))[0], result, 'threads do not change a result');
      t.strictSame((await reference.run([input]))[0], result, 'nor do kernels');
      const float = [...(await run(prepared.model, feed('x', prepared.inputDims, input))).values()][0]!.data;
      float.forEach((value, index) => {
        signal += value ** 2;
        error += (value - result![index]!) ** 2;
      });
    }
    for (const model of [one, two, reference]) model.close();
    const decibels = 10 * Math.log10(signal / error);
    t.ok(decibels > 18, `signal to noise ${decibels.toFixed(1)} dB, seed ${seed + n}`);
  }
});

t.test('outputs come in the order of their names, in whichever order they are computed', async (t) => {
  let [outOfOrder, most] = [0, 0];
  for (let n = 0; n < 12; n++) {
    const draw = new Random(seed + n);
    const source = randomNetwork(seed + n, 6);
    // Any tensor may be an output, also one that others read.
    const names = source.graph.nodes.flatMap(({ outputs }) => outputs).filter(() => draw.next() < 0.3);
    const computed = [...new Set([...names, source.graph.outputs[0]!.name])];
    const drawn = new Map(computed.map((name) => [name, draw.next()]));
    const shuffled = [...computed].sort((a, b) => drawn.get(a)! - drawn.get(b)!);
    if (shuffled.join() !== computed.join()) outOfOrder++;
    most = Math.max(most, computed.length);
    const outputs = (of: readonly string[]) => of.map((name) => ({ ...source.graph.outputs[0]!, name, shape: null }));
    const answers = async (of: readonly string[]) => {
      const named = { ...source, graph: { ...source.graph, outputs: outputs(of) } };
      const { prepared, samples, ranges } = await calibratedNetwork(named, seed + n, 2);
      const { bytes } = buildImage(prepared, new Map(), {
        rangeOf: (tensor) => ranges.get(tensor),
        pairSafe: false,
        biasCorrection: () => null,
      });
      const engine = new EngineModel(bytes, { threads: 1 });
      try {
        const values = await engine.run([samples[0]!]);
        t.same(
          readDescription(bytes).outputs.map(({ name }) => name),
          of,
        );
        return new Map(of.map((name, index) => [name, values[index]!]));
      } finally {
        engine.close();
      }
    };
    const [inOrder, anyOrder] = [await answers(computed), await answers(shuffled)];
    for (const name of computed) t.strictSame(anyOrder.get(name), inOrder.get(name), `${name}, seed ${seed + n}`);
  }
  t.ok(outOfOrder > 3 && most > 2, `${outOfOrder} networks out of order, at most ${most} outputs`);
});
