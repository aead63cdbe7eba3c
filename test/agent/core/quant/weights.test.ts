/** Scales and codes of single tensors, by brute force and against ONNX Runtime's own Q and DQ. */
import fc from 'fast-check';
import t from 'tap';
import { makeTensor } from '../../../../agent/core/onnx/tensor.js';
import { fakeQuantize, roundHalfEven, symmetricAffine, unsignedAffine } from '../../../../agent/core/quant/affine.js';
import {
  canSaturate,
  deployedOptions,
  dequantizeWeights,
  quantizeWeights,
  type WeightOptions,
} from '../../../../agent/core/quant/weights.js';
import { calibratedNetwork, NetworkBuilder } from '../../../support/networks.js';
import { feed, run } from '../../../support/ort.js';
import { announceSeed, Random } from '../../../support/seed.js';
import { info, model, node } from '../onnx/support.js';

const seed = announceSeed();
const property = (numRuns: number) => ({ numRuns, seed });
const finite = fc.double({ min: -1e6, max: 1e6, noNaN: true });
const someRange = fc.tuple(finite, finite).map(([a, b]) => ({ minimum: Math.min(a, b), maximum: Math.max(a, b) }));
const bitWidths = fc.constantFrom(2, 3, 4, 8);

t.test('rounds half to even and nothing else', async (t) => {
  for (const [value, expected] of [
    [0.5, 0],
    [1.5, 2],
    [2.5, 2],
    [-0.5, 0],
    [-1.5, -2],
    [-2.5, -2],
    [254.5, 254],
    [0.49999999999999994, 0],
    [7, 7],
  ] as const) {
    t.equal(Math.abs(roundHalfEven(value) - expected), 0, `${value}`);
  }
  fc.assert(
    fc.property(
      fc.double({ min: -1e9, max: 1e9, noNaN: true }),
      (value) => Math.abs(roundHalfEven(value) - value) <= 0.5,
    ),
    property(1000),
  );
});

t.test(
  'unsigned codes cover the range to half a step, hold zero exactly, and begin at zero where the range does',
  async () => {
    fc.assert(
      fc.property(someRange, bitWidths, (range, bits) => {
        const { scale, zeroPoint, codeMinimum, codeMaximum } = unsignedAffine(range, bits);
        const low = scale * (codeMinimum - zeroPoint);
        const high = scale * (codeMaximum - zeroPoint);
        const isInteger = Number.isInteger(zeroPoint) && zeroPoint >= 0 && zeroPoint <= codeMaximum;
        const isCovered =
          low <= Math.min(range.minimum, 0) + scale * 0.501 && high >= Math.max(range.maximum, 0) - scale * 0.501;
        return Math.fround(scale) === scale && isInteger && isCovered && (range.minimum < 0 || zeroPoint === 0);
      }),
      property(2000),
    );
  },
);

t.test('symmetric codes have zero point 0 and reach the larger end of the range', async () => {
  fc.assert(
    fc.property(someRange, bitWidths, (range, bits) => {
      const { scale, zeroPoint, codeMinimum, codeMaximum } = symmetricAffine(range, bits);
      const bound = Math.max(Math.abs(range.minimum), Math.abs(range.maximum));
      const reaches = codeMaximum * scale >= bound * (1 - 1e-6);
      return zeroPoint === 0 && codeMinimum === -(2 ** (bits - 1)) && codeMaximum === 2 ** (bits - 1) - 1 && reaches;
    }),
    property(1000),
  );
});

t.test(
  'quantizing a quantized tensor changes nothing, and errors inside the range are half a step at most',
  async () => {
    fc.assert(
      fc.property(someRange, bitWidths, fc.integer(), (range, bits, valueSeed) => {
        const random = new Random(valueSeed);
        const affine = unsignedAffine(range, bits);
        const values = Float32Array.from(
          { length: 50 },
          () => range.minimum + (range.maximum - range.minimum) * random.next(),
        );
        const once = fakeQuantize(values, affine);
        const twice = fakeQuantize(once, affine);
        return once.every((value, i) => value === twice[i] && Math.abs(value - values[i]!) <= affine.scale * 1.01);
      }),
      property(300),
    );
  },
);

t.test('fake quantization is what QuantizeLinear and DequantizeLinear of ONNX Runtime do', async (t) => {
  const random = new Random(seed);
  for (let round = 0; round < 20; round++) {
    const affine = unsignedAffine({ minimum: -3 * random.next(), maximum: 5 * random.next() }, 8);
    const constants = [
      makeTensor('scale', 'float32', [], Float32Array.of(affine.scale)),
      makeTensor('zero', 'uint8', [], Uint8Array.of(affine.zeroPoint)),
    ];
    const nodes = [
      node('QuantizeLinear', ['x', 'scale', 'zero'], ['q']),
      node('DequantizeLinear', ['q', 'scale', 'zero'], ['y']),
    ];
    const pair = model({ inputs: [info('x', [1000])], nodes, outputs: [info('y', [1000])], initializers: constants });
    const values = random.floats(1000, 3);
    const expected = (await run(pair, feed('x', [1000], values))).get('y')!.data;
    const actual = fakeQuantize(values, affine);
    // The runtime divides in float32: a value within rounding of a tie may fall to the other side.
    const different = actual.filter((value, i) => value !== expected[i]);
    t.ok(different.length <= 1, `${different.length} of 1000 differ`);
    actual.forEach((value, i) => {
      if (Math.abs(value - expected[i]!) > affine.scale * 1.001) t.fail(`value ${i}: ${value}, not ${expected[i]}`);
    });
  }
});

interface Case {
  dims: number[];
  axis: number;
  bits: number;
  options: WeightOptions;
  values: Float32Array;
}

/** Weights of any rank and axis; some channels are zero, some have an outlier. */
const weightCase = fc
  .record({
    dims: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 2, maxLength: 4 }),
    axisShare: fc.double({ min: 0, max: 0.999, noNaN: true }),
    bits: fc.constantFrom(2, 3, 4, 5, 6, 8),
    clip: fc.constantFrom<'absmax' | 'mse'>('absmax', 'mse'),
    pairSafe: fc.boolean(),
    valueSeed: fc.integer(),
  })
  .map(({ dims, axisShare, bits, clip, pairSafe, valueSeed }): Case => {
    const random = new Random(valueSeed);
    const scales = [0, 1e-3, 0.1, 1];
    const axis = Math.floor(axisShare * dims.length);
    const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1);
    const deviation = Array.from({ length: dims[axis]! }, () => random.pick(scales));
    const values = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => {
      const outlier = random.next() < 0.05 ? 6 : 1;
      return deviation[Math.floor(i / inner) % dims[axis]!]! * outlier * random.normal();
    });
    return { dims, axis, bits, options: { clip, pairSafe }, values };
  });

/** Indices of every channel, by the definition of a row-major layout. */
function channelsOf({ dims, axis, values }: Case): number[][] {
  const channels: number[][] = Array.from({ length: dims[axis]! }, () => []);
  for (let i = 0; i < values.length; i++) {
    let rest = i;
    const position = [...dims].reverse().map((size) => {
      const at = rest % size;
      rest = Math.floor(rest / size);
      return at;
    });
    channels[position.reverse()[axis]!]!.push(i);
  }
  return channels;
}

function roundedError(values: readonly number[], scale: number, limit: number): number {
  return values.reduce((sum, value) => {
    const code = Math.max(-limit, Math.min(limit, roundHalfEven(value / scale)));
    return sum + (code * scale - value) ** 2;
  }, 0);
}

t.test('every weight gets the nearest code of its channel, within the symmetric limit', async () => {
  fc.assert(
    fc.property(weightCase, (test) => {
      const { codes, scales } = quantizeWeights(test.values, test.dims, test.axis, test.bits, test.options);
      const limit = 2 ** (test.bits - 1) - 1;
      return channelsOf(test).every((indices, channel) =>
        indices.every((i) => {
          const nearest = Math.max(-limit, Math.min(limit, roundHalfEven(test.values[i]! / scales[channel]!)));
          return codes[i] === nearest + 0;
        }),
      );
    }),
    property(400),
  );
});

t.test('dequantized weights and the error energy are those of the codes', async () => {
  fc.assert(
    fc.property(weightCase, (test) => {
      const quantized = quantizeWeights(test.values, test.dims, test.axis, test.bits, test.options);
      const values = dequantizeWeights(quantized, test.dims, test.axis);
      return channelsOf(test).every((indices, channel) =>
        indices.every((i) => values[i] === Math.fround(quantized.codes[i]! * quantized.scales[channel]!)),
      );
    }),
    property(300),
  );
});

t.test("'absmax' clips nothing; 'mse' is never worse than any clip factor of the grid", async () => {
  fc.assert(
    fc.property(weightCase, (test) => {
      const { scales } = quantizeWeights(test.values, test.dims, test.axis, test.bits, { clip: test.options.clip });
      const limit = 2 ** (test.bits - 1) - 1;
      return channelsOf(test).every((indices, channel) => {
        const values = indices.map((i) => test.values[i]!);
        const bound = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const scale = scales[channel]!;
        if (bound === 0) return scale === 1;
        if (test.options.clip === 'absmax') return Math.abs(scale * limit - bound) <= bound * 1e-6;
        const own = roundedError(values, scale, limit);
        const factors = Array.from({ length: 41 }, (_, i) => 1 - i * 0.02);
        const best = Math.min(
          ...factors.map((factor) => roundedError(values, Math.fround((bound * factor) / limit), limit)),
        );
        return own <= best * (1 + 1e-6) + 1e-12;
      });
    }),
    property(300),
  );
});

t.test('pair-safe codes of one sign never sum beyond 128, and are no smaller than that asks for', async () => {
  fc.assert(
    fc.property(weightCase, (test) => {
      const safe = quantizeWeights(test.values, test.dims, test.axis, 8, { clip: 'absmax', pairSafe: true });
      const free = quantizeWeights(test.values, test.dims, test.axis, 8, { clip: 'absmax' });
      return channelsOf(test).every((indices, channel) => {
        const largest = (codes: Int8Array, sign: number) => {
          const order = indices.map((i) => codes[i]! * sign).filter((code) => code > 0);
          return order
            .sort((a, b) => b - a)
            .slice(0, 2)
            .reduce((a, b) => a + b, 0);
        };
        const pairOf = (codes: Int8Array) => Math.max(largest(codes, 1), largest(codes, -1));
        if (pairOf(free.codes) <= 126) return safe.scales[channel] === free.scales[channel];
        return pairOf(safe.codes) <= 128 && pairOf(safe.codes) >= 125;
      });
    }),
    property(500),
  );
});

t.test('only ordinary 8-bit kernels are spared, and only widths below 8 bits are clipped', async (t) => {
  const builder = new NetworkBuilder(new Random(1), [1, 4, 6, 6]);
  const depthwise = builder.conv('x', { out: 4, groups: 4 });
  const multiplied = builder.conv(depthwise, { out: 8, groups: 4 });
  const grouped = builder.conv(multiplied, { out: 8, groups: 2 });
  const output = builder.conv(grouped, { out: 4 });
  const { prepared } = await calibratedNetwork(builder.build([output]), 1, 1);
  const optionsOf = (at: number, bits: number, saturates: boolean) => {
    const operator = prepared.operators[at]!;
    return deployedOptions(
      operator,
      prepared.model.graph.initializers.get(operator.weight!.name)!.dims,
      bits,
      saturates,
    );
  };
  t.strictSame(
    [0, 1, 2, 3].map((at) => optionsOf(at, 8, true).pairSafe),
    [false, true, true, true],
  );
  t.strictSame(
    [0, 1, 2, 3].map((at) => optionsOf(at, 8, false).pairSafe),
    [false, false, false, false],
  );
  t.strictSame(
    [2, 4, 6, 8].map((bits) => optionsOf(3, bits, true).clip),
    ['mse', 'mse', 'mse', 'absmax'],
  );
});

t.test(
  'weights can saturate where any two of one sign and channel, at full range, sum beyond what two activations leave room for',
  (t) => {
    const random = new Random(seed);
    for (let repeat = 0; repeat < 200; repeat++) {
      const [channels, inner] = [1 + random.below(3), 1 + random.below(4)];
      // Two weights of a channel near its largest, or not.
      const values = random.floats(channels * inner, random.pick([0.1, 1]));
      const expected = Array.from({ length: channels }, (_, channel) => {
        const own = [...values.subarray(channel * inner, (channel + 1) * inner)];
        const scale = Math.fround(Math.max(...own.map(Math.abs)) / 127);
        const codes = own.map((value) => roundHalfEven(value / scale));
        return codes.some((a, i) => codes.some((b, j) => i !== j && a * b > 0 && 255 * Math.abs(a + b) > 32767));
      }).some(Boolean);
      t.equal(canSaturate(values, [channels, inner], 0), expected);
    }
    t.end();
  },
);
