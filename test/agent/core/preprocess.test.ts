/** Samples become inputs by the formula, written out. */
import fc from 'fast-check';
import t from 'tap';
import { prepare } from '../../../agent/core/prepare.js';
import { inferCard, inputDims, preprocess } from '../../../agent/core/preprocess.js';
import type { ModelCard, Preprocess } from '../../../configs/contracts/card.js';
import { announceSeed } from '../../support/seed.js';
import { info, model, node } from './onnx/support.js';

const seed = announceSeed();

function card(layout: string, shape: (number | null)[], how: Preprocess = {}): ModelCard {
  return { input: { name: 'x', layout, shape }, preprocess: how, task: 'classification' };
}

const image = fc
  .record({
    rows: fc.integer({ min: 1, max: 7 }),
    columns: fc.integer({ min: 1, max: 7 }),
    channels: fc.constantFrom(1, 3),
    layout: fc.constantFrom('NCHW', 'NHWC'),
    order: fc.constantFrom<'RGB' | 'BGR' | undefined>('RGB', 'BGR', undefined),
    scale: fc.constantFrom(undefined, 1 / 255, 0.0078125),
    zeroPoint: fc.constantFrom(undefined, 127.5),
    mean: fc.constantFrom<number[] | undefined>(undefined, [0.5], [0.485, 0.456, 0.406]),
    std: fc.constantFrom<number[] | undefined>(undefined, [0.25], [0.229, 0.224, 0.225]),
    crop: fc.constantFrom(undefined, 1, 2, 3),
  })
  // Rows x columns x channels must not be mistaken for channels x rows x columns.
  .filter(({ rows, channels }) => rows !== channels);

t.test('images: cut from the middle, reordered and scaled, for both layouts', async () => {
  fc.assert(
    fc.property(image, ({ rows, columns, channels, layout, order, scale, zeroPoint, mean, std, crop }) => {
      const [height, width] = [Math.min(crop ?? rows, rows), Math.min(crop ?? columns, columns)];
      const dims = layout === 'NCHW' ? [1, channels, height, width] : [1, height, width, channels];
      const how = {
        ...(order && { channels: order }),
        ...(scale && { scale }),
        ...(zeroPoint && { zeroPoint }),
        ...(mean && { mean }),
        ...(std && { std }),
        ...(crop && { crop }),
      };
      const values = Float32Array.from({ length: rows * columns * channels }, (_, i) => (i * 37) % 256);
      const result = preprocess(card(layout, dims, how), dims, { dims: [rows, columns, channels], values });
      const top = crop === undefined ? 0 : Math.floor((rows - height) / 2);
      const left = crop === undefined ? 0 : Math.floor((columns - width) / 2);
      for (let c = 0; c < channels; c++) {
        for (let y = 0; y < height; y++) {
          for (let x = 0; x < width; x++) {
            const stored =
              values[((y + top) * columns + x + left) * channels + (order === 'BGR' ? channels - 1 - c : c)]!;
            const expected =
              ((stored - (zeroPoint ?? 0)) * (scale ?? 1) - (mean?.[c] ?? mean?.[0] ?? 0)) /
              (std?.[c] ?? std?.[0] ?? 1);
            const at = layout === 'NCHW' ? (c * height + y) * width + x : (y * width + x) * channels + c;
            if (Math.abs(result[at]! - expected) > 1e-4 * (1 + Math.abs(expected))) return false;
          }
        }
      }
      return true;
    }),
    { numRuns: 300, seed },
  );
});

t.test('arrays in the order of the input are scaled by channel and not reordered', async (t) => {
  const how = { mean: [1, 2, 3], std: [1, 2, 4] };
  const planes = preprocess(card('NCHW', [1, 3, 2, 4], how), [1, 3, 2, 4], {
    dims: [3, 2, 4],
    values: new Float32Array(24).fill(5),
  });
  t.strictSame([...planes], [...new Array(8).fill(4), ...new Array(8).fill(1.5), ...new Array(8).fill(0.5)]);
  const vector = preprocess(card('NC', [1, 3], { scale: 2 }), [1, 3], { dims: [3], values: [1, 2, 3] });
  t.strictSame([...vector], [2, 4, 6]);
  const series = preprocess(card('NCW', [1, 2, 3], { mean: [0, 1] }), [1, 2, 3], {
    dims: [2, 3],
    values: [1, 2, 3, 4, 5, 6],
  });
  t.strictSame([...series], [1, 2, 3, 3, 4, 5]);
  const flat = preprocess(card('NCHW', [1, 1, 2, 2]), [1, 1, 2, 2], { dims: [4], values: [1, 2, 3, 4] });
  t.strictSame([...flat], [1, 2, 3, 4]);
});

t.test('a sample that does not fit is samples/mismatch', async (t) => {
  const wrong = [
    { dims: [5, 4, 3], how: {} },
    { dims: [4, 4, 1], how: {} },
    { dims: [4, 4], how: {} },
    { dims: [3, 4, 3], how: { crop: 4 } },
    { dims: [47], how: {} },
  ];
  for (const { dims, how } of wrong) {
    const values = new Float32Array(dims.reduce((a, b) => a * b, 1));
    t.throws(
      () => preprocess(card('NCHW', [1, 3, 4, 4], how), [1, 3, 4, 4], { dims, values }),
      { code: 'samples/mismatch', subject: dims.join('x') },
      dims.join('x'),
    );
  }
});

t.test('a card made up from the graph: layout by rank, channels last where only that makes a picture', async (t) => {
  const layouts = [
    { shape: ['N', 3, 32, 32], layout: 'NCHW', dims: [null, 3, 32, 32] },
    { shape: [1, 224, 224, 3], layout: 'NHWC', dims: [1, 224, 224, 3] },
    { shape: ['N', 640], layout: 'NC', dims: [null, 640] },
    { shape: [1, 16, 100], layout: 'NCW', dims: [1, 16, 100] },
    { shape: [-1, 3, 'H', 'W'], layout: 'NCHW', dims: [null, 3, null, null] },
  ] as const;
  for (const { shape, layout, dims } of layouts) {
    const inferred = inferCard(
      model({ inputs: [info('x', shape)], nodes: [node('Relu', ['x'], ['y'])], outputs: [info('y', null)] }),
    );
    t.strictSame(
      [inferred.input.layout, inferred.input.shape, inferred.preprocess, inferred.task],
      [layout, [...dims], {}, 'other'],
      shape.join('x'),
    );
  }
  const bare = model({ inputs: [info('x', null)], nodes: [node('Relu', ['x'], ['y'])], outputs: [info('y', null)] });
  t.throws(() => inferCard(bare), { code: 'model/unsupported' });
});

t.test('input sizes come from the card, then from the graph; an open batch is one', async (t) => {
  t.strictSame(inputDims(card('NCHW', [null, 3, null, 32]), new Map([['x', [7, 3, 28, 28]]])), [7, 3, 28, 32]);
  t.strictSame(inputDims(card('NC', [null, 10]), new Map()), [1, 10]);
});

t.test('models and cards that cannot be fed are refused before anything long begins', async (t) => {
  const relu = [node('Relu', ['x'], ['y'])];
  const outputs = [info('y', null)];
  const fails = (inputs: ReturnType<typeof info>[], given: ModelCard | null, code: string) =>
    t.throws(() => prepare(model({ inputs, nodes: relu, outputs }), given), { code });
  fails([info('x', [1, 4]), info('z', [1, 4])], null, 'model/unsupported');
  fails([info('x', [1, 4], 'int64')], null, 'model/unsupported');
  fails([info('x', [1, 'length'])], null, 'model/unsupported');
  fails(
    [info('x', [1, 4])],
    { ...card('NC', [1, 4]), input: { name: 'image', layout: 'NC', shape: [1, 4] } },
    'card/invalid',
  );
  fails([info('x', [1, 4])], card('NCHW', [1, 4]), 'card/invalid');
  t.strictSame(
    prepare(model({ inputs: [info('x', ['N', 'length'])], nodes: relu, outputs }), card('NC', [null, 6])).inputDims,
    [1, 6],
  );
});
