/** Models on codes against the float model between roundings of one's own. */
import t from 'tap';
import { encode } from '../../../../agent/core/onnx/codec.js';
import { prepare } from '../../../../agent/core/prepare.js';
import { fakeQuantize, unsignedAffine } from '../../../../agent/core/quant/affine.js';
import { onCodes } from '../../../../agent/core/quant/on-codes.js';
import { imageCard, NetworkBuilder } from '../../../support/networks.js';
import { announceSeed, Random } from '../../../support/seed.js';
import { CountingRuntime } from '../../../support/steps.js';

const seed = announceSeed();

t.test('codes in, codes out: what the float model makes of the codes, rounded to the output grid', async (t) => {
  const runtime = new CountingRuntime();
  for (let repeat = 0; repeat < 12; repeat++) {
    const random = new Random(seed + repeat);
    const builder = new NetworkBuilder(random, [1, 3, 7, 6]);
    const hidden = builder.same('Relu', builder.conv('x', { out: 5 }));
    const { model } = prepare(builder.build([hidden]), imageCard('other', [1, 3, 7, 6]));
    const output = model.graph.outputs[0]!.name;
    const bits = random.pick([2, 4, 6, 8]);
    const input = unsignedAffine({ minimum: -random.next(), maximum: 1 + random.next() }, 8);
    const grid = unsignedAffine({ minimum: -0.3 * random.below(2), maximum: 1 + random.next() }, bits);
    const codes = Uint8Array.from({ length: 126 }, () => random.below(256));
    const values = Float32Array.from(codes, (code) => (code - input.zeroPoint) * input.scale);
    const float = await runtime.open(encode(model), { threads: 1 });
    const [wanted] = (await float.run(new Map([['x', { dims: [1, 3, 7, 6], data: values }]]))).values();
    const part = onCodes(model, { inputs: new Map([['x', input]]), outputs: new Map([[output, grid]]) });
    const session = await runtime.open(encode(part), { threads: 1 });
    const [found] = (await session.run(new Map([['x', { dims: [1, 3, 7, 6], data: codes }]]))).values();
    const rounded = fakeQuantize(wanted!.data as Float32Array, grid);
    t.ok(found!.data instanceof Uint8Array);
    (found!.data as Uint8Array).forEach((code, index) => {
      const value = (code - grid.zeroPoint) * grid.scale;
      // Ties may fall either way: the runtime divides by the scale, or multiplies by its inverse.
      const isTie = Math.abs(Math.abs(value - (wanted!.data[index] as number)) - grid.scale / 2) < 1e-5;
      if (Math.abs(value - rounded[index]!) > 1e-5 && !isTie) t.fail(`${value} instead of ${rounded[index]}`);
    });
    await float.close();
    await session.close();
  }
});
