/** Estimators on a linear model in memory, where every answer can be written down. */
import t from 'tap';
import { klDivergence, logitVariance } from '../../../../agent/core/divergence.js';
import type { EstimatorContext, Site } from '../../../../agent/core/sensitivity/estimator.js';
import { maskEstimator } from '../../../../agent/core/sensitivity/mask.js';
import { defaultEstimator, estimators, findEstimator } from '../../../../agent/core/sensitivity/registry.js';
import { SensitivityTable } from '../../../../agent/core/sensitivity/table.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();
const samples = 5;
const classes = 4;

/** Quantizes by rounding to multiples of 2^-bits: any quantizer will do. */
const rounded = (values: Float32Array, bits: number) =>
  values.map((value) => Math.round(value * 2 ** bits) / 2 ** bits);

interface LinearModel {
  site: Site;
  context: EstimatorContext;
  /** What was passed to `forward`, by sample. */
  fed: [number, Float32Array][];
  outputs: Float32Array[];
}

/** Logits that are sums of weights times inputs; the site is the weight, or an activation that differs from sample to sample. */
function linearModel(
  size: number,
  options: { kind?: Site['kind']; topProbability?: number; deviation?: number } = {},
): LinearModel {
  const { kind = 'weight', topProbability = 0.5, deviation = 0.4 } = options;
  const random = new Random(seed);
  const tensors = Array.from({ length: kind === 'weight' ? 1 : samples }, () => random.floats(size, deviation));
  const inputs = Array.from({ length: samples }, () => Array.from({ length: classes }, () => random.floats(size, 0.3)));
  const values = (sample: number) => tensors[kind === 'weight' ? 0 : sample]!;
  const output = (sample: number, changed: Float32Array) =>
    Float32Array.from(inputs[sample]!, (row) => row.reduce((sum, input, i) => sum + input * changed[i]!, 0));
  const outputs = inputs.map((_, sample) => output(sample, values(sample)));
  const fed: [number, Float32Array][] = [];
  const site: Site = {
    kind,
    name: 'w',
    seed: 77,
    values,
    quantized: (bits, sample) => rounded(values(sample), bits),
    forward: async (sample, changed) => {
      fed.push([sample, changed]);
      return output(sample, changed);
    },
    local: async (_sample, changed) => changed.map((value) => 2 * value),
  };
  const context: EstimatorContext = {
    samples,
    bits: [2, 3, 4, 6, 8],
    divergence: (sample, other, temperature) => klDivergence(outputs[sample]!, other, temperature),
    squaredError: (sample, other) => logitVariance(outputs[sample]!, other),
    topProbability: (temperature) => topProbability / temperature,
  };
  return { site, context, fed, outputs };
}

const energy = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0);
const isNear = (actual: number, expected: number, relative = 1e-6) =>
  Math.abs(actual - expected) <= relative * Math.abs(expected) + 1e-15;

for (const kind of ['weight', 'activation'] as const) {
  t.test(`exact, ${kind}: mean KL at temperature 1 with the tensor quantized, at every width (ZeroQ)`, async (t) => {
    const { site, context, outputs } = linearModel(30, { kind });
    const result = await findEstimator('exact').estimate(site, context);
    for (const bits of context.bits) {
      let sum = 0;
      for (let sample = 0; sample < samples; sample++) {
        sum += klDivergence(outputs[sample]!, await site.forward(sample, site.quantized(bits, sample)), 1);
      }
      t.ok(isNear(result.get(bits)!, sum / samples), `${bits} bits`);
    }
  });

  for (const name of ['mask4', 'logits']) {
    const what = name === 'mask4' ? 'KL at temperature 4' : 'squared error of the logits';
    t.test(`${name}, ${kind}: ${what}, 4 bits measured, more by the ratio of energies, fewer measured`, async (t) => {
      const { site, context, outputs, fed } = linearModel(30, { kind });
      const result = await findEstimator(name).estimate(site, context);
      const samplesAt = (bits: number) => (name === 'logits' && bits < 4 ? 4 : samples);
      t.equal(fed.length, samplesAt(4) + samplesAt(3) + samplesAt(2), 'passes at 4, 3 and 2 bits');
      const errorOf = (sample: number, output: Float32Array) =>
        name === 'mask4' ? klDivergence(outputs[sample]!, output, 4) : logitVariance(outputs[sample]!, output);
      const measured = async (bits: number) => {
        let sum = 0;
        for (let sample = 0; sample < samplesAt(bits); sample++)
          sum += errorOf(sample, await site.forward(sample, site.quantized(bits, sample)));
        return sum / samplesAt(bits);
      };
      const energyAt = (bits: number) => {
        let sum = 0;
        for (let sample = 0; sample < 4; sample++) sum += energy(site.values(sample), site.quantized(bits, sample));
        return sum;
      };
      for (const bits of [2, 3, 4]) t.ok(isNear(result.get(bits)!, await measured(bits)), `${bits} bits`);
      for (const bits of [6, 8])
        t.ok(isNear(result.get(bits)!, ((await measured(4)) * energyAt(bits)) / energyAt(4)), `${bits} bits`);
    });
  }

  t.test(`mask, ${kind}: sensitivities are to each other as the energies of the quantization errors`, async (t) => {
    const { site, context, fed, outputs } = linearModel(400, { kind });
    const result = await findEstimator('mask').estimate(site, context);
    t.equal(fed.length, samples, 'one pass a sample, whatever the widths');
    let divergence = 0;
    let removed = 0;
    for (const [sample, masked] of fed.slice()) {
      const values = site.values(sample);
      const zeroed = masked.filter((value, i) => value !== values[i]);
      t.ok(
        zeroed.every((value) => value === 0),
        'masked values are zero',
      );
      t.ok(zeroed.length >= 400 * 0.01 && zeroed.length <= 400 * 0.12, `${zeroed.length} of 400 masked`);
      divergence += klDivergence(outputs[sample]!, await site.forward(sample, masked), 1);
      removed += energy(values, masked);
    }
    for (const bits of context.bits) {
      let own = 0;
      for (let sample = 0; sample < samples; sample++)
        own += energy(site.values(sample), site.quantized(bits, sample)) / samples;
      t.ok(isNear(result.get(bits)!, (divergence / removed) * own), `${bits} bits`);
    }
  });
}

t.test('logits runs no pass for widths that nobody asks for, and few for coarse ones', async (t) => {
  const { site, context, fed } = linearModel(30);
  await findEstimator('logits').estimate(site, { ...context, bits: [2] });
  t.equal(fed.length, 4, 'at 2 bits alone, of 5 samples');
  fed.length = 0;
  await findEstimator('logits').estimate(site, { ...context, bits: [8, 7] });
  t.equal(fed.length, samples, 'at 4 bits, from which both follow');
});

t.test('squared errors of tensors with independent errors add up where divergences do not', async (t) => {
  // Two logits, a sum of weights each: quantizing both weights is on average as bad as each alone, together.
  const random = new Random(seed);
  const trials = 4000;
  const errors = { one: 0, other: 0, both: 0 };
  for (let trial = 0; trial < trials; trial++) {
    const logits = random.floats(classes, 3);
    const [one, other] = [random.floats(classes, 1), random.floats(classes, 2)];
    const plus = (...differences: Float32Array[]) =>
      logits.map((value, i) => value + differences.reduce((sum, difference) => sum + difference[i]!, 0));
    errors.one += logitVariance(logits, plus(one)) / trials;
    errors.other += logitVariance(logits, plus(other)) / trials;
    errors.both += logitVariance(logits, plus(one, other)) / trials;
  }
  t.ok(Math.abs(errors.both / (errors.one + errors.other) - 1) < 0.1, JSON.stringify(errors));
});

t.test('masks differ between samples, are the same every time, and differ with the seed', async (t) => {
  const masksOf = async (maskSeed: number) => {
    const { site, context, fed } = linearModel(200);
    await maskEstimator(maskSeed).estimate(site, context);
    return fed.slice(0, samples).map(([, masked]) => [...masked].map((value) => (value === 0 ? '0' : '1')).join(''));
  };
  const first = await masksOf(0);
  t.equal(new Set(first).size, samples);
  t.strictSame(await masksOf(0), first);
  t.notSame(await masksOf(1), first);
});

t.test('at least one value is masked, of a single one too', async (t) => {
  for (const size of [1, 2, 5]) {
    const { site, context, fed } = linearModel(size);
    const result = await findEstimator('mask').estimate(site, context);
    for (const [, masked] of fed.slice(0, samples)) t.ok(masked.includes(0), `${size} values`);
    for (const value of result.values()) t.ok(Number.isFinite(value) && value >= 0);
  }
});

t.test('over-confident models are softened before they are masked', async (t) => {
  for (const [top, temperature] of [
    [0.5, 1],
    [0.95, 2],
    [3, 4],
  ] as const) {
    const temperatures = new Set<number>();
    const { site, context } = linearModel(50, { topProbability: top });
    const watched: EstimatorContext = {
      ...context,
      divergence: (sample, output, used) => {
        temperatures.add(used);
        return context.divergence(sample, output, used);
      },
    };
    await findEstimator('mask').estimate(site, watched);
    t.strictSame([...temperatures], [temperature]);
  }
});

t.test('perturbation is relative error of the tensor, sqnr of its operator; neither runs the model', async (t) => {
  for (const kind of ['weight', 'activation'] as const) {
    const { site, context, fed } = linearModel(30, { kind });
    const perturbation = await findEstimator('perturbation').estimate(site, context);
    const sqnr = await findEstimator('sqnr').estimate(site, context);
    t.equal(fed.length, 0);
    for (const bits of context.bits) {
      let signal = 0;
      let error = 0;
      for (let sample = 0; sample < samples; sample++) {
        signal += energy(site.values(sample), new Float32Array(30));
        error += energy(site.values(sample), site.quantized(bits, sample));
      }
      t.ok(isNear(perturbation.get(bits)!, error / signal), `${kind}, ${bits} bits`);
      t.ok(isNear(sqnr.get(bits)!, error / signal), `${kind}, ${bits} bits`);
    }
  }
});

t.test('a tensor that quantizes without error, or is all zero, is not sensitive', async (t) => {
  for (const estimator of estimators) {
    for (const deviation of [0, 0.4]) {
      const { site, context } = linearModel(20, { deviation });
      const exactSite: Site = { ...site, quantized: (_bits, sample) => site.values(sample) };
      for (const [bits, value] of await estimator.estimate(exactSite, context))
        t.ok(value >= 0 && value < 1e-9, `${estimator.name}, ${bits} bits: ${value}`);
    }
  }
});

t.test('every estimator answers all widths asked for, none negative, and less error for more bits', async (t) => {
  for (const estimator of estimators) {
    const { site, context } = linearModel(300);
    const result = await estimator.estimate(site, context);
    t.strictSame(
      [...result.keys()].sort((a, b) => a - b),
      context.bits,
    );
    t.ok(result.get(8)! < result.get(4)! && result.get(4)! < result.get(2)!, estimator.name);
  }
});

t.test('names are unique, the default is among them, and an unknown one says which there are', async (t) => {
  t.equal(new Set(estimators.map((estimator) => estimator.name)).size, estimators.length);
  t.equal(findEstimator(defaultEstimator).name, defaultEstimator);
  t.throws(() => findEstimator('magic'), { code: 'estimator/unknown', subject: 'magic', hint: /logits.*exact/ });
});

t.test(
  'a table answers by operator or tensor, and precision; float and what was not assessed are harmless',
  async (t) => {
    const document = {
      estimator: 'exact',
      samples: 1,
      forwards: 1,
      seconds: 1,
      weights: { w: { 8: 0.1, 4: 0.5, '4b': 0.25 }, v: { 4: 0.75 } },
      activations: { a: { 8: 0.2 } },
    };
    const table = new SensitivityTable(document);
    t.equal(table.weight('w', { weightBits: 8, activationBits: 8 }), 0.1);
    t.equal(table.weight('w', { weightBits: 4, activationBits: 8 }), 0.5);
    t.equal(table.weight('w', { weightBits: 4, activationBits: 32 }), 0.25, 'in blocks');
    t.equal(table.weight('v', { weightBits: 4, activationBits: 32 }), 0.75, 'blocks not assessed: as channels');
    t.equal(table.weight('w', { weightBits: 32, activationBits: 32 }), 0);
    t.equal(table.weight('other', { weightBits: 8, activationBits: 8 }), 0);
    t.equal(table.activation('a', 8), 0.2);
    t.equal(table.activation('a', 32), 0);
    t.equal(table.activation('b', 8), 0);
  },
);
