/** Ranges from streams of values against the same values looked at all at once. */
import fc from 'fast-check';
import t from 'tap';
import { prepare } from '../../../../agent/core/prepare.js';
import { fakeQuantize, unsignedAffine } from '../../../../agent/core/quant/affine.js';
import { Observer, type RangeRule, rangeRules } from '../../../../agent/core/quant/observer.js';
import { usefulRange } from '../../../../agent/core/quant/ranges.js';
import type { Range } from '../../../../configs/contracts/plan.js';
import { NetworkBuilder } from '../../../support/networks.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();
const property = (numRuns: number) => ({ numRuns, seed });

/** What a stream of values is made of; small, so that a counterexample can be read. */
interface Stream {
  kind: 'normal' | 'relu' | 'offset' | 'outliers' | 'growing' | 'tiny';
  chunks: number;
  valueSeed: number;
}

const stream = fc.record<Stream>({
  kind: fc.constantFrom('normal', 'relu', 'offset', 'outliers', 'growing', 'tiny'),
  chunks: fc.integer({ min: 1, max: 6 }),
  valueSeed: fc.integer(),
});

function chunksOf({ kind, chunks, valueSeed }: Stream): Float32Array[] {
  const random = new Random(valueSeed);
  const draw = (chunk: number): number => {
    const value = random.normal();
    if (kind === 'relu') return Math.max(0, value);
    if (kind === 'offset') return 5 + value;
    if (kind === 'outliers') return random.next() < 0.002 ? 40 * value : value;
    if (kind === 'growing') return value * 4 ** chunk;
    return kind === 'tiny' ? value * 1e-12 : value;
  };
  return Array.from({ length: chunks }, (_, chunk) => Float32Array.from({ length: 400 }, () => draw(chunk)));
}

function observe(chunks: readonly Float32Array[]): Observer {
  const observer = new Observer();
  for (const chunk of chunks) observer.add(chunk);
  return observer;
}

const all = (chunks: readonly Float32Array[]) => chunks.flatMap((chunk) => [...chunk]);
const whole = (values: readonly number[]): Range => ({
  minimum: Math.min(0, ...values),
  maximum: Math.max(0, ...values),
});

/** Width of a histogram bin: 2048 over twice the next power of two. */
const binWidth = (values: readonly number[]) =>
  (2 * 2 ** Math.ceil(Math.log2(Math.max(...values.map(Math.abs))))) / 2048;

t.test('minmax is that of all values and zero, however the histogram had to grow', async () => {
  fc.assert(
    fc.property(stream, (recipe) => {
      const chunks = chunksOf(recipe);
      const { minimum, maximum } = observe(chunks).range('minmax', 8);
      const expected = whole(all(chunks));
      return minimum === expected.minimum && maximum === expected.maximum;
    }),
    property(200),
  );
});

t.test('every rule answers a part of the whole range that holds zero', async () => {
  fc.assert(
    fc.property(stream, fc.constantFrom<RangeRule>(...rangeRules), fc.constantFrom(4, 8), (recipe, rule, bits) => {
      const chunks = chunksOf(recipe);
      const { minimum, maximum } = observe(chunks).range(rule, bits);
      const outer = whole(all(chunks));
      return minimum <= 0 && maximum >= 0 && maximum > minimum && minimum >= outer.minimum && maximum <= outer.maximum;
    }),
    property(120),
  );
});

t.test('the order of the samples does not matter beyond a bin', async () => {
  fc.assert(
    fc.property(stream, fc.constantFrom<RangeRule>('minmax', 'percentile'), (recipe, rule) => {
      const chunks = chunksOf(recipe);
      const [forwards, backwards] = [observe(chunks).range(rule, 8), observe([...chunks].reverse()).range(rule, 8)];
      const width = binWidth(all(chunks)) * 1.001;
      return (
        Math.abs(forwards.minimum - backwards.minimum) <= width &&
        Math.abs(forwards.maximum - backwards.maximum) <= width
      );
    }),
    property(200),
  );
});

t.test('searched ranges of one stream in two orders cost the same', async () => {
  fc.assert(
    fc.property(stream, fc.constantFrom<RangeRule>('mse', 'entropy'), (recipe, rule) => {
      const chunks = chunksOf(recipe);
      const error = (range: Range) => squaredError(all(chunks), range, 4);
      const [forwards, backwards] = [observe(chunks).range(rule, 4), observe([...chunks].reverse()).range(rule, 4)];
      return error(forwards) <= error(backwards) * 1.1 + 1e-30 && error(backwards) <= error(forwards) * 1.1 + 1e-30;
    }),
    property(60),
  );
});

t.test('percentile leaves out as many values on either side as it may, to within a bin', async () => {
  fc.assert(
    fc.property(stream, fc.constantFrom(0.9999, 0.999, 0.99, 0.9), (recipe, percentile) => {
      const chunks = chunksOf(recipe);
      const values = all(chunks);
      const { minimum, maximum } = observe(chunks).range('percentile', 8, percentile);
      const width = binWidth(values) * 1.001;
      const allowed = values.length * (1 - percentile) + 1e-9;
      const below = (limit: number) => values.filter((value) => value < limit).length;
      const above = (limit: number) => values.filter((value) => value > limit).length;
      const outer = whole(values);
      const isAllowed = below(minimum - width) <= allowed && above(maximum + width) <= allowed;
      const isTight =
        (minimum === 0 || minimum === outer.minimum || below(minimum + 2 * width) > allowed - 1) &&
        (maximum === 0 || maximum === outer.maximum || above(maximum - 2 * width) > allowed - 1);
      return isAllowed && isTight;
    }),
    property(200),
  );
});

function squaredError(values: readonly number[], range: Range, bits: number): number {
  const floats = Float32Array.from(values);
  return fakeQuantize(floats, unsignedAffine(range, bits)).reduce(
    (sum, value, i) => sum + (value - floats[i]!) ** 2,
    0,
  );
}

t.test('mse is about as good as the best of a hundred shrunken ranges, measured on the values themselves', async () => {
  fc.assert(
    fc.property(stream, fc.constantFrom(4, 6), (recipe, bits) => {
      const chunks = chunksOf(recipe);
      const values = all(chunks);
      const outer = whole(values);
      const own = squaredError(values, observe(chunks).range('mse', bits), bits);
      const errors = Array.from({ length: 95 }, (_, i) => 1 - i / 100).map((factor) =>
        squaredError(values, { minimum: outer.minimum * factor, maximum: outer.maximum * factor }, bits),
      );
      // The histogram's bins and the coarser search leave a few per cent.
      return own <= Math.min(...errors) * 1.15 + 1e-30;
    }),
    property(60),
  );
});

t.test('mse, entropy and percentile leave out a lone outlier; minmax does not', async (t) => {
  const random = new Random(seed);
  const values = random.floats(200_000);
  values[0] = 60;
  const observer = observe([values]);
  t.equal(observer.range('minmax', 8).maximum, 60);
  t.ok(observer.range('percentile', 8).maximum < 6);
  t.ok(observer.range('mse', 4).maximum < 20);
  t.ok(observer.range('entropy', 8).maximum < 30);
});

t.test('NaN and infinities are ignored; nothing and only zeros answer [0, 0]', async (t) => {
  const observer = observe([Float32Array.of(Number.NaN, 2, Number.POSITIVE_INFINITY, -1, Number.NEGATIVE_INFINITY)]);
  for (const rule of rangeRules) {
    const { minimum, maximum } = observer.range(rule, 8);
    t.ok(minimum >= -1 && maximum <= 2 && maximum > minimum, rule);
  }
  t.equal(observer.count, 2);
  t.strictSame(observer.range('minmax', 8), { minimum: -1, maximum: 2 });
  for (const chunks of [[], [new Float32Array(0)], [new Float32Array(10)], [Float32Array.of(Number.NaN)]]) {
    for (const rule of rangeRules) {
      const { minimum, maximum } = observe(chunks).range(rule, 8);
      t.ok(
        minimum === 0 && maximum === 0,
        `${rule} of ${chunks.length === 0 ? 'nothing' : [...chunks[0]!.slice(0, 1)]}`,
      );
    }
  }
});

t.test('zeros before anything else, and one value alone', async (t) => {
  const observer = observe([new Float32Array(100), Float32Array.of(3)]);
  t.strictSame(observer.range('minmax', 8), { minimum: 0, maximum: 3 });
  t.ok(observer.range('mse', 8).maximum > 2.9);
  t.strictSame(observe([Float32Array.of(-0.25)]).range('minmax', 8), { minimum: -0.25, maximum: 0 });
});

t.test('the histogram of a large tensor sees all of its channels, also where they lie beside each other', async (t) => {
  for (const channels of [2, 3, 4, 5, 7, 16]) {
    const random = new Random(seed);
    const values = Float32Array.from(
      { length: channels * 70_000 },
      (_, i) => (i % channels === channels - 1 ? 100 : 1) * random.next(),
    );
    const sampled = observe([values]);
    t.ok(sampled.count >= 30_000 && sampled.count <= 80_000, `${sampled.count} values`);
    // One value in as many as there are channels is large.
    t.ok(sampled.range('percentile', 8, 1 - 0.5 / channels).maximum > 30, `${channels} channels`);
    t.ok(sampled.range('mse', 8).maximum > 80, `${channels} channels`);
  }
});

t.test('an observer keeps none of what it saw', async (t) => {
  const observer = new Observer();
  const chunk = new Random(seed).floats(250_000);
  observer.add(chunk);
  const before = process.memoryUsage().arrayBuffers;
  for (let i = 0; i < 100; i++) observer.add(chunk);
  t.ok(process.memoryUsage().arrayBuffers - before < 2 ** 20);
});

t.test('a range is cut to what its readers can tell apart, where all of them saturate', async (t) => {
  const wide = { minimum: -40, maximum: 40 };
  const rangeBehind = (read: (builder: NetworkBuilder, tensor: string) => string[]) => {
    const builder = new NetworkBuilder(new Random(1), [1, 4, 4, 4]);
    const tensor = builder.conv('x', { out: 4 });
    return usefulRange(prepare(builder.build(read(builder, tensor)), null), tensor, wide);
  };
  t.strictSame(
    rangeBehind((builder, tensor) => [builder.silu(tensor)]),
    { minimum: -8, maximum: 40 },
  );
  t.strictSame(
    rangeBehind((builder, tensor) => [builder.same('Sigmoid', tensor)]),
    { minimum: -8, maximum: 8 },
  );
  t.strictSame(
    rangeBehind((builder, tensor) => [builder.conv(tensor, { out: 4 })]),
    wide,
  );
  t.strictSame(
    rangeBehind((builder, tensor) => [builder.silu(tensor), builder.conv(tensor, { out: 4 })]),
    wide,
    'another reader',
  );
  t.strictSame(
    rangeBehind((builder, tensor) => [builder.silu(tensor), tensor]),
    wide,
    'a graph output',
  );
});
