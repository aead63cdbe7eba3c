/** Masters: a model without its float weights, from which the same images are made. */
import t from 'tap';
import { masterOf, preparedFrom } from '../../../agent/core/master.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import { apply } from '../../../agent/steps/apply.js';
import type { QuantizationRecipe } from '../../../agent/steps/tune.js';
import { nearestWeights } from '../../../agent/steps/width-weights.js';
import type { Precision } from '../../../configs/contracts/plan.js';
import { randomNetwork } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const widths = [8, 7] as const;

/** Made-up ranges and channel means, as if calibrated. */
function recipeFor(prepared: PreparedModel, random: Random): QuantizationRecipe {
  const ranges = new Map(
    [...prepared.floatTensors].map((name) => [name, { minimum: -1 - random.next(), maximum: 1 + 3 * random.next() }]),
  );
  const means = [...prepared.floatTensors].map((name) => {
    const channels = prepared.shapes.get(name)?.[1] ?? 1;
    return [name, [...random.floats(channels, 1)]] as const;
  });
  const byBits = Object.fromEntries(ranges);
  return {
    ranges,
    rangesByBits: { '8': byBits, '4': byBits },
    biasCorrections: new Map(),
    channelMeans: Object.fromEntries(means),
    rounded: () => null,
  };
}

t.test('a master has the same operators, keys and shapes, and little of the bytes of weights', async (t) => {
  for (let index = 0; index < 40; index++) {
    const prepared = prepare(randomNetwork(seed + index, 6), null);
    const master = masterOf(prepared);
    const again = preparedFrom(master);
    t.same(
      again.operators.map(({ name, key, op, macs, inputs, outputs }) => ({ name, key, op, macs, inputs, outputs })),
      prepared.operators.map(({ name, key, op, macs, inputs, outputs }) => ({ name, key, op, macs, inputs, outputs })),
    );
    t.same(again.shapes, prepared.shapes);
    const { macs, parameters, inputDims, logits, endsInSoftmax, hasCard, card, floatTensors } = prepared;
    t.match(again, { macs, parameters, inputDims, logits, endsInSoftmax, hasCard, card, floatTensors });
    for (const { weight } of prepared.operators) {
      if (weight === null) continue;
      const [before, after] = [prepared, again].map(({ model }) => model.graph.initializers.get(weight.name)!);
      t.same(after!.dims, before!.dims);
      t.equal(after!.type, 'float32');
    }
  }
});

t.test('with the weights of every width, images are the same to the byte, and need no float weight', async (t) => {
  for (let index = 0; index < 40; index++) {
    const random = new Random(seed + index);
    const prepared = prepare(randomNetwork(seed + index, 6), null);
    const recipe = recipeFor(prepared, random);
    const byWidth = new Map(widths.map((bits) => [bits, nearestWeights(prepared, bits, recipe, false)] as const));
    const stored: QuantizationRecipe = {
      ...recipe,
      rounded: (operator, bits) => byWidth.get(bits as 7 | 8)?.[operator] ?? null,
    };
    const precisions = new Map(
      prepared.operators.map(({ name }): [string, Precision] => [
        name,
        { weightBits: random.pick([...widths]), activationBits: 8 },
      ]),
    );
    const form = { variant: 'native' as const, saturates: false };
    const image = apply(prepared, precisions, recipe, form);
    t.same(apply(prepared, precisions, stored, form), image, 'rounded before, or while it is written');
    t.same(apply(preparedFrom(masterOf(prepared)), precisions, stored, form), image, 'from the master');
  }
});
