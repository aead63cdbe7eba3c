/** Headroom of ranges that were found on made-up samples. */
import t from 'tap';
import { prepare } from '../../../../agent/core/prepare.js';
import { isEarly, syntheticRange, withHeadroom } from '../../../../agent/core/quant/ranges.js';
import { imageCard, NetworkBuilder } from '../../../support/networks.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();

/** Ten convolutions in a row, every second with an activation function. */
function chain() {
  const builder = new NetworkBuilder(new Random(seed), [1, 3, 6, 6]);
  let tensor = 'x';
  for (let i = 0; i < 10; i++) {
    tensor = builder.conv(tensor, { out: 4 });
    if (i % 2 === 1) tensor = builder.same('Relu', tensor);
  }
  return prepare(builder.build([tensor]), imageCard('other', [1, 3, 6, 6]));
}

t.test('ranges of the last fifth of the operators grow, up to twice, and the others stay', async (t) => {
  const prepared = chain();
  const range = { minimum: -1, maximum: 3 };
  t.strictSame(withHeadroom(prepared, 'x', range), range, 'the input is known');
  const factors = prepared.operators.map(({ outputs }) => withHeadroom(prepared, outputs[0]!, range).maximum / 3);
  t.equal(factors.length, 10);
  t.ok(factors.slice(0, 9).every((factor) => factor === 1));
  t.ok(factors[9]! > 1.4 && factors[9]! < 2, `${factors[9]}`);
});

t.test('no headroom is given beyond what the activation function lets through', async (t) => {
  const prepared = chain();
  const last = prepared.operators[9]!;
  const bounded = { operators: [...prepared.operators.slice(0, 9), { ...last, clamp: [0, 6] as const }] };
  const of = (minimum: number, maximum: number) => withHeadroom(bounded, last.outputs[0]!, { minimum, maximum });
  t.strictSame(of(0, 5), { minimum: 0, maximum: 6 });
  t.strictSame(of(0, 6), { minimum: 0, maximum: 6 });
  t.equal(of(0, 1).minimum, 0);
  t.ok(of(0, 1).maximum > 1.4);
});

t.test('the range of the input comes from its card; fitted samples get no headroom, others do', async (t) => {
  const plain = chain();
  const seen = { minimum: -0.1, maximum: 0.2 };
  t.strictSame(syntheticRange(plain, 'x', seen, false), seen, 'the card says nothing');
  const prepared = { ...plain, card: { ...plain.card, preprocess: { scale: 1 / 255, mean: [0.5], std: [0.25] } } };
  for (const isFitted of [false, true]) {
    const { minimum, maximum } = syntheticRange(prepared, 'x', seen, isFitted);
    t.ok(Math.abs(minimum + 2) < 1e-6 && Math.abs(maximum - 2) < 1e-6, `[${minimum}, ${maximum}]`);
  }
  const last = prepared.operators[9]!.outputs[0]!;
  t.strictSame(syntheticRange(prepared, last, seen, true), seen);
  t.ok(syntheticRange(prepared, last, seen, false).maximum > 0.25);
});

t.test('the input and the first half of the operators are early', async (t) => {
  const prepared = chain();
  t.ok(isEarly(prepared, 'x'));
  const early = prepared.operators.map(({ outputs }) => isEarly(prepared, outputs[0]!));
  t.strictSame(early, [true, true, true, true, true, false, false, false, false, false]);
  const operators = prepared.operators.map((operator, at) =>
    at === 1 ? { ...operator, clamp: [0, 6] as const } : operator,
  );
  t.ok(
    operators.every(({ outputs }) => isEarly({ operators }, outputs[0]!)),
    'all of a model that bounds its activations',
  );
});
