/** What a card says of the input before any sample is seen. The oracle is the preprocessing that samples go through. */
import t from 'tap';
import { inputPrior, inputSize, knownInputRange } from '../../../agent/core/input-prior.js';
import { preprocess } from '../../../agent/core/preprocess.js';
import type { Preprocess } from '../../../configs/contracts/card.js';
import { imageCard } from '../../support/networks.js';

function described(given: Preprocess, dims: readonly number[] = [1, 3, 2, 2], layout = 'NCHW') {
  const card = imageCard('classification', dims);
  return { card: { ...card, preprocess: given, input: { ...card.input, layout } }, inputDims: dims };
}

/** Least and most of what samples of the given codes become. */
function endsOf({ card, inputDims }: ReturnType<typeof described>, codes: Uint8Array | Int8Array) {
  const dims = [inputDims[2]!, inputDims[3]!, inputDims[1]!];
  const size = dims.reduce((a, b) => a * b, 1);
  let [minimum, maximum] = [0, 0];
  for (const code of codes) {
    const values = preprocess(card, inputDims, { dims, values: new Array<number>(size).fill(code) });
    minimum = Math.min(minimum, ...values);
    maximum = Math.max(maximum, ...values);
  }
  return { minimum, maximum };
}

const unsigned = Uint8Array.from({ length: 256 }, (_, code) => code);
const signed = Int8Array.from({ length: 256 }, (_, code) => code - 128);
const features = [1, 1, 4, 6];

t.test('the range of the input is that of all codes that samples can have', async (t) => {
  const cases: [string, ReturnType<typeof described>, Uint8Array | Int8Array][] = [
    ['pixels', described({ scale: 1 }), unsigned],
    [
      'a mean and a deviation for each channel',
      described({ scale: 1 / 255, mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4] }),
      unsigned,
    ],
    ['pixels around a zero point', described({ scale: 1 / 128, zeroPoint: 128 }), unsigned],
    ['signed pixels', described({ scale: 1 / 255, zeroPoint: -128 }), signed],
    ['signed features', described({ scale: 0.58, zeroPoint: 83 }, features), signed],
    ['unsigned features', described({ scale: 0.1, zeroPoint: 140 }, features), unsigned],
  ];
  for (const [name, prepared, codes] of cases) {
    const found = knownInputRange(prepared)!;
    const expected = endsOf(prepared, codes);
    for (const end of ['minimum', 'maximum'] as const)
      t.ok(
        Math.abs(found[end] - expected[end]) < 1e-5 * (expected.maximum - expected.minimum),
        `${name}: ${found[end]}`,
      );
  }
});

t.test('without preprocessing nothing is known of the range', async (t) => {
  t.equal(knownInputRange(described({})), null);
  t.match(inputPrior(described({}), 0), { mean: 0, deviation: 1 });
  const standardized = described({ mean: [-30], std: [15] }, features);
  t.equal(knownInputRange(standardized), null, 'numbers, not codes');
  t.match(inputPrior(standardized, 0), { mean: 0, deviation: 1 });
});

t.test('images are expected around the middle of their codes, features around their zero point', async (t) => {
  t.equal(inputPrior(described({ scale: 1, zeroPoint: -128 }), 0).mean, 118);
  t.equal(inputPrior(described({ scale: 1, zeroPoint: 83 }, features), 0).mean, 0);
});

t.test('the input is planes in either layout, and a vector is one line', async (t) => {
  t.strictSame(inputSize(described({}, [1, 3, 4, 6])), { channels: 3, height: 4, width: 6 });
  t.strictSame(inputSize(described({}, [1, 4, 6, 3], 'NHWC')), { channels: 3, height: 4, width: 6 });
  t.strictSame(inputSize(described({}, [1, 40], 'NC')), { channels: 1, height: 1, width: 40 });
});
