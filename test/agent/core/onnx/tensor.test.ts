import fc from 'fast-check';
import protobuf from 'protobufjs/light.js';
import t from 'tap';
import { decode, encode } from '../../../../agent/core/onnx/codec.js';
import type { Tensor } from '../../../../agent/core/onnx/model.js';
import { elementCount, makeTensor, readFloats, readInts } from '../../../../agent/core/onnx/tensor.js';
import { floats, info, model, node, propertyOptions } from './support.js';

t.test('float32 is read in place where it is aligned, and by copy where it is not', async (t) => {
  const file = new Uint8Array(12);
  file.set(new Uint8Array(Float32Array.of(1.5, -2).buffer), 4);
  const at = (offset: number): Tensor => ({
    name: 't',
    type: 'float32',
    dims: [2],
    bytes: file.subarray(offset, offset + 8),
  });
  t.equal(readFloats(at(4)).buffer, file.buffer);
  t.same([...readFloats(at(4))], [1.5, -2]);
  const shifted = new Uint8Array(13);
  shifted.set(file, 1);
  t.same([...readFloats({ ...at(4), bytes: shifted.subarray(5, 13) })], [1.5, -2]);
  const buffer = Buffer.from(shifted.subarray(5, 13));
  t.same([...readFloats({ ...at(4), bytes: buffer })], [1.5, -2], 'from a Buffer too');
});

t.test('half precision: known bit patterns of IEEE 754 binary16', async (t) => {
  const patterns: [number, number][] = [
    [0x0000, 0],
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0x0400, 2 ** -14],
    [0x0001, 2 ** -24],
    [0x3555, 0.333251953125],
    [0x7c00, Number.POSITIVE_INFINITY],
    [0xfc00, Number.NEGATIVE_INFINITY],
    [0x7e00, Number.NaN],
  ];
  const bits = Uint16Array.from(patterns, ([pattern]) => pattern);
  t.same(
    [...readFloats(makeTensor('t', 'float16', [patterns.length], bits))],
    patterns.map(([, value]) => value),
  );
});

t.test('bfloat16 is the upper half of float32, and float64 is rounded', async (t) => {
  const upper = new Uint16Array(Float32Array.of(1, -3.5, 1e30).buffer).filter((_, i) => i % 2 === 1);
  const [one, minus, large] = readFloats(makeTensor('t', 'bfloat16', [3], upper));
  t.same([one, minus], [1, -3.5]);
  t.ok(Math.abs(large! / 1e30 - 1) < 2 ** -7);
  t.same([...readFloats(makeTensor('t', 'float64', [1], Float64Array.of(0.1)))], [Math.fround(0.1)]);
  t.throws(() => readFloats(makeTensor('t', 'int32', [1], Int32Array.of(1))), {
    code: 'model/unsupported',
    subject: 't',
  });
});

t.test('integers of every width', async (t) => {
  t.same(readInts(makeTensor('t', 'int8', [2], Int8Array.of(-128, 127))), [-128, 127]);
  t.same(readInts(makeTensor('t', 'uint8', [2], Uint8Array.of(0, 255))), [0, 255]);
  t.same(readInts(makeTensor('t', 'int16', [1], Int16Array.of(-32768))), [-32768]);
  t.same(readInts(makeTensor('t', 'uint32', [1], Uint32Array.of(2 ** 32 - 1))), [2 ** 32 - 1]);
  t.same(readInts(makeTensor('t', 'bool', [3], Uint8Array.of(0, 1, 7))), [0, 1, 1]);
  const extremes = BigInt64Array.of(2n ** 63n - 1n, -(2n ** 63n), -5n);
  t.same(readInts(makeTensor('t', 'int64', [3], extremes)), [Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, -5]);
  t.throws(() => readInts(floats('t', [1], [1])), { code: 'model/unsupported' });
});

t.test('elements are counted without overflow, as exact arithmetic counts them', async (t) => {
  const dim = fc.oneof(
    fc.integer({ min: 0, max: 70_000 }),
    fc.constantFrom(1, 2 ** 31, 2 ** 32, 2 ** 52, -1, 0.5, Number.NaN),
  );
  fc.assert(
    fc.property(fc.array(dim, { maxLength: 6 }), (dims) => {
      const isNatural = dims.every((value) => Number.isSafeInteger(value) && value >= 0);
      const nonZero = isNatural ? dims.filter((value) => value !== 0).reduce((a, b) => a * BigInt(b), 1n) : -1n;
      let counted: number | null = null;
      try {
        counted = elementCount(dims);
      } catch {
        counted = null;
      }
      if (!isNatural || nonZero > 2n ** 31n) return counted === null;
      return counted === (dims.includes(0) ? 0 : Number(nonZero));
    }),
    propertyOptions(500),
  );
  t.pass();
});

t.test('makeTensor refuses values that do not fill the shape', async (t) => {
  t.throws(() => makeTensor('t', 'float32', [3], Float32Array.of(1, 2)), RangeError);
  t.throws(() => makeTensor('t', 'int64', [2], Int32Array.of(1, 2)), RangeError);
});

/** A TensorProto named `w` with one of the typed fields, which `fill` writes. */
function typedTensor(dataType: number, count: number, fill: (writer: protobuf.Writer) => protobuf.Writer): Tensor {
  const message = fill(new protobuf.Writer().uint32(8).int64(count).uint32(16).int32(dataType))
    .uint32(66)
    .string('w')
    .finish();
  const file = encode(model({ inputs: [], nodes: [node('Identity', ['w'], ['y'])], outputs: [info('y', null)] }));
  const graph = new protobuf.Writer()
    .uint32((5 << 3) | 2)
    .bytes(message)
    .finish();
  // A field that occurs twice is merged: the second graph adds the initializer.
  const bytes = Buffer.concat([
    file,
    new protobuf.Writer()
      .uint32((7 << 3) | 2)
      .bytes(graph)
      .finish(),
  ]);
  return decode(bytes).graph.initializers.get('w')!;
}

t.test('tensors stored in typed fields, packed or not, become raw data', async (t) => {
  const packedFloats = typedTensor(1, 2, (writer) =>
    writer
      .uint32((4 << 3) | 2)
      .fork()
      .float(1.5)
      .float(-2)
      .ldelim(),
  );
  t.same([...readFloats(packedFloats)], [1.5, -2]);
  const looseFloats = typedTensor(1, 2, (writer) =>
    writer
      .uint32((4 << 3) | 5)
      .float(1.5)
      .uint32((4 << 3) | 5)
      .float(-2),
  );
  t.same([...readFloats(looseFloats)], [1.5, -2]);
  const doubles = typedTensor(11, 1, (writer) =>
    writer
      .uint32((10 << 3) | 2)
      .fork()
      .double(0.25)
      .ldelim(),
  );
  t.same([...readFloats(doubles)], [0.25]);
  const longs = typedTensor(7, 2, (writer) =>
    writer
      .uint32((7 << 3) | 2)
      .fork()
      .int64(-5)
      .int64(2 ** 40)
      .ldelim(),
  );
  t.same(readInts(longs), [-5, 2 ** 40]);
  const bytes = typedTensor(3, 2, (writer) =>
    writer
      .uint32((5 << 3) | 2)
      .fork()
      .int32(-128)
      .int32(127)
      .ldelim(),
  );
  t.same(readInts(bytes), [-128, 127]);
  const halves = typedTensor(10, 1, (writer) =>
    writer
      .uint32((5 << 3) | 2)
      .fork()
      .int32(0x3c00)
      .ldelim(),
  );
  t.same([...readFloats(halves)], [1]);
  const unsigned = typedTensor(12, 1, (writer) =>
    writer
      .uint32((11 << 3) | 2)
      .fork()
      .uint64(2 ** 32 - 1)
      .ldelim(),
  );
  t.same(readInts(unsigned), [2 ** 32 - 1]);
});
