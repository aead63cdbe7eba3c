import protobuf from 'protobufjs/light.js';
import t from 'tap';
import { encode } from '../../../../agent/core/onnx/codec.js';
import type { Node, Tensor } from '../../../../agent/core/onnx/model.js';
import type { ErrorCode } from '../../../../configs/contracts/errors.js';
import { failureOf, wholePath } from './hostile.js';
import { floats, type GraphParts, info, ints, model, node } from './support.js';

/** Milliseconds that one hostile input may take on a slow machine, and bytes that the process may grow by. */
const limits = { milliseconds: 5000, bytes: 512 * 2 ** 20 };

function checkCase(
  t: { test: typeof import('tap')['t']['test'] },
  name: string,
  make: () => Uint8Array,
  ...codes: (ErrorCode | null)[]
): void {
  t.test(name, async (t) => {
    const bytes = make();
    const before = process.memoryUsage().rss;
    const start = performance.now();
    const code = failureOf(() => wholePath(bytes));
    t.ok(codes.includes(code), `${code}`);
    t.ok(performance.now() - start < limits.milliseconds, 'in time');
    t.ok(process.memoryUsage().rss - before < limits.bytes, 'in memory');
  });
}

const malformed = 'model/malformed';
const unsupported = 'model/unsupported';
const tooLarge = 'model/too-large';

/** A one-input model from a list of nodes; the last node's first output is the graph output. */
function chain(nodes: readonly Node[], rest: Partial<GraphParts> = {}): Uint8Array {
  const inputs = rest.inputs ?? [info('x', [1, 4, 8, 8])];
  const outputs = rest.outputs ?? [info(nodes[nodes.length - 1]!.outputs[0]!, null)];
  return encode(model({ ...rest, inputs, nodes, outputs }));
}

function conv(
  attributes: Parameters<typeof node>[3],
  weight: Tensor = floats('w', [4, 4, 1, 1], new Array(16).fill(1)),
): Uint8Array {
  return chain([node('Conv', ['x', 'w'], ['y'], attributes)], { initializers: [weight] });
}

/** A tensor whose bytes do not fit what it says. */
function lying(name: string, dims: readonly number[], byteLength: number): Tensor {
  return { name, type: 'float32', dims, bytes: new Uint8Array(byteLength) };
}

const ok = chain([node('Relu', ['x'], ['y'])]);

t.test('files that are no models', async (t) => {
  const text =
    (content: string): (() => Uint8Array) =>
    () =>
      new TextEncoder().encode(content);
  checkCase(t, 'empty file', () => new Uint8Array(0), malformed);
  checkCase(t, 'text', text('Not a model, but quite a nice text.'), malformed);
  checkCase(t, 'HTML', text('<!DOCTYPE html><html><body>404</body></html>'), malformed);
  checkCase(t, 'JSON', text('{"graph": {"node": []}}'), malformed);
  checkCase(t, 'zip archive', () => Uint8Array.from([0x50, 0x4b, 3, 4, 20, 0, 0, 0, 8, 0]), malformed);
  checkCase(t, 'zeros', () => new Uint8Array(1000), malformed);
  checkCase(t, 'endless varint', () => new Uint8Array(1000).fill(0xff), malformed);
  checkCase(t, 'length past the end', () => Uint8Array.from([0x3a, 0xff, 0xff, 0xff, 0x7f, 1]), malformed);
  checkCase(t, 'length of 4 GB', () => Uint8Array.from([0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]), malformed);
  checkCase(t, 'field number 0', () => Uint8Array.from([0x02, 0x01, 0x00]), malformed);
  checkCase(t, 'groups nested without end', () => new Uint8Array(100_000).fill(0x0b), malformed);
  checkCase(
    t,
    'a million unknown fields',
    () => Uint8Array.from({ length: 4_000_000 }, (_, i) => [0xf8, 0x3f][i % 2] ?? 0),
    malformed,
    tooLarge,
  );
  checkCase(t, 'a model without graph', () => ok.slice(0, 2), malformed);
});

t.test('opsets', async (t) => {
  const nodes = [node('Relu', ['x'], ['y'])];
  for (const opset of [-1, 0, 7, 22, 1e9]) checkCase(t, `opset ${opset}`, () => chain(nodes, { opset }), unsupported);
  const empty = model({ inputs: [info('x', [1])], nodes, outputs: [info('y', null)] });
  checkCase(
    t,
    'no default-domain opset',
    () => encode({ ...empty, opsets: new Map([['com.example', 1]]) }),
    unsupported,
  );
  checkCase(t, 'opset beyond integers', bytesWithHugeOpset, malformed);
  checkCase(t, 'unknown domain', () => chain([{ ...nodes[0]!, domain: 'com.example' }]), null);
  checkCase(t, 'unknown operator', () => chain([node('Frobnicate', ['x'], ['y'], { depth: 3 })]), null);
  for (const op of ['__proto__', 'constructor', 'toString'])
    checkCase(t, `operator ${op}`, () => chain([node(op, ['x'], ['y'])]), null);
});

/** A second opset_import whose version is the varint of 2^63 - 1. */
function bytesWithHugeOpset(): Uint8Array {
  return Buffer.concat([ok, Uint8Array.from([0x42, 10, 0x10, ...new Array<number>(8).fill(0xff), 0x7f])]);
}

t.test('graphs that do not fit together', async (t) => {
  const relu = (input: string, output: string): Node => node('Relu', [input], [output]);
  checkCase(t, 'a cycle of two', () => chain([relu('b', 'a'), relu('a', 'b')]), malformed);
  checkCase(t, 'a node that reads itself', () => chain([relu('y', 'y')]), malformed);
  checkCase(
    t,
    'a cycle behind a long chain',
    () => {
      const nodes = Array.from({ length: 20_000 }, (_, i) => relu(`t${i}`, `t${i + 1}`));
      return chain([relu('t20000', 't0'), ...nodes]);
    },
    malformed,
  );
  checkCase(
    t,
    'a long chain in reverse order',
    () => {
      const nodes = Array.from({ length: 20_000 }, (_, i) => relu(i === 0 ? 'x' : `t${i}`, `t${i + 1}`));
      return chain(nodes.reverse(), { outputs: [info('t20000', null)] });
    },
    null,
  );
  checkCase(t, 'two makers of one tensor', () => chain([relu('x', 'y'), relu('x', 'y')]), malformed);
  checkCase(t, 'one node that makes a tensor twice', () => chain([node('Split', ['x'], ['y', 'y'])]), malformed);
  checkCase(t, 'a node that makes a graph input', () => chain([relu('x', 'x')]), malformed);
  checkCase(
    t,
    'a node that makes an initializer',
    () => chain([relu('x', 'w')], { initializers: [floats('w', [1], [1])] }),
    malformed,
  );
  checkCase(t, 'an input from nowhere', () => chain([relu('nowhere', 'y')]), malformed);
  checkCase(t, 'an output from nowhere', () => chain([relu('x', 'y')], { outputs: [info('z', null)] }), malformed);
  checkCase(t, 'no outputs', () => chain([relu('x', 'y')], { outputs: [] }), malformed);
  checkCase(
    t,
    'an output listed twice',
    () => chain([relu('x', 'y')], { outputs: [info('y', null), info('y', null)] }),
    malformed,
  );
  checkCase(
    t,
    'an input listed twice',
    () => chain([relu('x', 'y')], { inputs: [info('x', [1]), info('x', [1])] }),
    malformed,
  );
  checkCase(t, 'a node without type', () => chain([node('', ['x'], ['y'])]), malformed);
  checkCase(t, 'a node without its input', () => chain([node('Conv', ['x'], ['y'])]), malformed);
  checkCase(t, 'a node without any input', () => chain([node('Add', [], ['y'])]), malformed);
  checkCase(t, 'an omitted input that is needed', () => chain([node('Relu', [''], ['y'])]), malformed);
  checkCase(
    t,
    'many nodes of one name',
    () => chain(Array.from({ length: 5000 }, (_, i) => node('Relu', ['x'], [`y${i}`], {}, i % 2 ? 'a' : `a_${i / 2}`))),
    null,
  );
});

t.test('tensors and shapes', async (t) => {
  const weight =
    (tensor: Tensor): (() => Uint8Array) =>
    () =>
      conv({}, tensor);
  checkCase(t, 'data shorter than the shape', weight(lying('w', [4, 4, 1, 1], 63)), malformed);
  checkCase(t, 'data longer than the shape', weight(lying('w', [4, 4, 1, 1], 65)), malformed);
  checkCase(t, 'no data', weight(lying('w', [4, 4, 1, 1], 0)), malformed);
  checkCase(t, 'a claim of 2 GB', weight(lying('w', [2 ** 29 - 1], 4)), malformed);
  checkCase(t, 'a claim of 4 GB', weight(lying('w', [2 ** 30], 4)), tooLarge);
  checkCase(t, 'a product that overflows to 0', weight(lying('w', [2 ** 32, 2 ** 32], 0)), tooLarge);
  checkCase(t, 'an absurd dimension beside a zero', weight(lying('w', [2 ** 40, 0], 0)), tooLarge);
  checkCase(t, 'a negative dimension', weight(lying('w', [-4, -4], 64)), malformed);
  checkCase(t, 'a rank of 10000', weight(lying('w', new Array(10_000).fill(1), 4)), unsupported);
  checkCase(
    t,
    'an input of zero elements',
    () => chain([node('Relu', ['x'], ['y'])], { inputs: [info('x', [1, 0])] }),
    malformed,
  );
  checkCase(
    t,
    'an open input',
    () => chain([node('Relu', ['x'], ['y'])], { inputs: [info('x', [1, 'H', null])] }),
    unsupported,
  );
  checkCase(
    t,
    'an input without shape',
    () => chain([node('Relu', ['x'], ['y'])], { inputs: [info('x', null)] }),
    unsupported,
  );
  checkCase(
    t,
    'an input of 2^53 elements',
    () => chain([node('Relu', ['x'], ['y'])], { inputs: [info('x', [2 ** 50, 8])] }),
    tooLarge,
  );
  checkCase(t, 'external data without a reader', () => conv({}, external('weights.bin')), 'model/external-data');
  checkCase(t, 'external data without a place', () => conv({}, external('')), malformed);
  checkCase(
    t,
    'a weight of text',
    () =>
      conv(
        {},
        {
          name: 'w',
          type: 'string',
          dims: [4],
          bytes: new Uint8Array(0),
          unknown: { dims: [4], dataType: 8, stringData: [] },
        },
      ),
    malformed,
    null,
  );
  checkCase(
    t,
    'an element type from the future',
    () =>
      conv(
        {},
        {
          name: 'w',
          type: 'other',
          dims: [4, 4, 1, 1],
          bytes: new Uint8Array(0),
          unknown: { dims: [4, 4, 1, 1], dataType: 99, rawData: new Uint8Array(2) },
        },
      ),
    null,
  );
  checkCase(t, 'integer weights', () => conv({}, { ...ints('w', new Array(16).fill(1), [4, 4, 1, 1]) }), null);
});

function external(location: string): Tensor {
  const entry = new protobuf.Writer()
    .uint32((13 << 3) | 2)
    .fork()
    .uint32(10)
    .string('location')
    .uint32(18)
    .string(location)
    .ldelim()
    .finish();
  const place = new protobuf.Writer()
    .uint32(14 << 3)
    .int32(1)
    .finish();
  return { ...lying('w', [4, 4, 1, 1], 0), unknown: { $unknowns: [entry, place] } };
}

t.test('operators that contradict their inputs', async (t) => {
  const cases: Record<string, () => Uint8Array> = {
    'stride 0': () => conv({ strides: [0, 1] }),
    'negative stride': () => conv({ strides: [-1, 1] }),
    'dilation 0': () => conv({ dilations: [0, 0] }),
    'group 0': () => conv({ group: 0 }),
    'negative group': () => conv({ group: -1 }),
    'too many groups': () => conv({ group: 3 }),
    'a kernel larger than the input': () => conv({}, lying('w', [1, 4, 9, 9], 1296)),
    'a kernel that the weights do not have': () => conv({ kernel_shape: [3, 3] }),
    'a kernel of size 0': () => conv({}, lying('w', [4, 4, 0, 0], 0)),
    'pads for other axes': () => conv({ pads: [1, 1] }),
    'pads that remove everything': () => conv({ pads: [-9, -9, -9, -9] }),
    'an unknown auto_pad': () => conv({ auto_pad: 'BEST' }),
    'strides that are text': () => conv({ strides: 'two' }),
    'group that is a list': () => conv({ group: [1] }),
    'auto_pad that is a number': () => conv({ auto_pad: 3 }),
    'weights of another rank': () => conv({}, lying('w', [4, 4], 64)),
    'a pool without kernel': () => chain([node('MaxPool', ['x'], ['y'])]),
    'a pool with the kernel 0': () => chain([node('AveragePool', ['x'], ['y'], { kernel_shape: [0, 0] })]),
    'a transpose that is no permutation': () => chain([node('Transpose', ['x'], ['y'], { perm: [0, 0, 1, 2] })]),
    'an axis outside the rank': () => chain([node('Concat', ['x', 'x'], ['y'], { axis: 4 })]),
    'a flatten outside the rank': () => chain([node('Flatten', ['x'], ['y'], { axis: -5 })]),
    'a matrix product of other sizes': () =>
      chain([node('MatMul', ['x', 'w'], ['y'])], { initializers: [floats('w', [3, 1], [1, 2, 3])] }),
    'a Gemm of images': () => chain([node('Gemm', ['x', 'x'], ['y'])]),
    'a broadcast that cannot be': () =>
      chain([node('Add', ['x', 'w'], ['y'])], { initializers: [floats('w', [3], [1, 2, 3])] }),
    'a reshape to another size': () => chain([node('Reshape', ['x', 's'], ['y'])], { initializers: [ints('s', [7])] }),
    'a reshape with two open dimensions': () =>
      chain([node('Reshape', ['x', 's'], ['y'])], { initializers: [ints('s', [-1, -1])] }),
    'a reshape to a negative size': () =>
      chain([node('Reshape', ['x', 's'], ['y'])], { initializers: [ints('s', [-2, -128])] }),
    'a split that does not add up': () =>
      chain([node('Split', ['x', 's'], ['y', 'z'], { axis: 1 })], { initializers: [ints('s', [1, 1])] }),
    'a slice with the step 0': () =>
      chain([node('Slice', ['x', 's', 's', 's', 's'], ['y'])], { initializers: [ints('s', [0])] }),
    'a squeeze of a real axis': () => chain([node('Squeeze', ['x', 's'], ['y'])], { initializers: [ints('s', [1])] }),
    'pads of another rank': () => chain([node('Pad', ['x', 's'], ['y'])], { initializers: [ints('s', [1])] }),
    'pads that remove more than there is': () =>
      chain([node('Pad', ['x', 's'], ['y'])], { initializers: [ints('s', [0, 0, -9, 0, 0, 0, 0, 0])] }),
    'blocks that do not fit': () => chain([node('DepthToSpace', ['x'], ['y'], { blocksize: 3 })]),
    'blocks of size 0': () => chain([node('SpaceToDepth', ['x'], ['y'], { blocksize: 0 })]),
    'a range with the step 0': () =>
      chain([node('Range', ['a', 'b', 'a'], ['y'])], { initializers: [ints('a', [0], []), ints('b', [9], [])] }),
    'scales that are not numbers': () =>
      chain([node('Resize', ['x', '', 's'], ['y'])], {
        initializers: [floats('s', [4], [1, 1, Number.NaN, Number.NaN])],
      }),
    'negative scales': () =>
      chain([node('Resize', ['x', '', 's'], ['y'])], { initializers: [floats('s', [4], [1, 1, -1, 1])] }),
  };
  for (const [name, make] of Object.entries(cases)) checkCase(t, name, make, malformed);

  const large: Record<string, () => Uint8Array> = {
    'a tile of 2^60 elements': () =>
      chain([node('Tile', ['x', 's'], ['y'])], { initializers: [ints('s', [2 ** 20, 2 ** 20, 2 ** 20, 1])] }),
    'an expand to 2^62 elements': () =>
      chain([node('Expand', ['x', 's'], ['y'])], { initializers: [ints('s', [2 ** 31, 2 ** 31, 1, 1, 1, 1])] }),
    'a constant of 2^40 elements': () =>
      chain([node('ConstantOfShape', ['s'], ['y'])], { initializers: [ints('s', [2 ** 40])] }),
    'a range of 2^50 elements': () =>
      chain([node('Range', ['a', 'b', 'c'], ['y'])], {
        initializers: [ints('a', [0], []), ints('b', [2 ** 50], []), ints('c', [1], [])],
      }),
    'a resize by a million': () =>
      chain([node('Resize', ['x', '', 's'], ['y'])], { initializers: [floats('s', [4], [1, 1, 1e6, 1e6])] }),
    'infinite scales': () =>
      chain([node('Resize', ['x', '', 's'], ['y'])], {
        initializers: [floats('s', [4], [1, 1, Number.POSITIVE_INFINITY, 1])],
      }),
    'pads of 2^40': () => conv({ pads: [2 ** 40, 2 ** 40, 0, 0] }),
  };
  for (const [name, make] of Object.entries(large)) checkCase(t, name, make, tooLarge, malformed);
});

t.test('bombs', async (t) => {
  checkCase(
    t,
    'doubling by Concat',
    () => {
      const nodes = Array.from({ length: 60 }, (_, i) =>
        node('Concat', [`t${i}`, `t${i}`], [`t${i + 1}`], { axis: 0 }),
      );
      return chain(nodes, { initializers: [ints('t0', [1])] });
    },
    tooLarge,
  );
  checkCase(
    t,
    'many copies of a large weight',
    () => {
      const nodes = Array.from({ length: 200 }, (_, i) => node('Transpose', ['w'], [`t${i}`], { perm: [1, 0] }));
      const outputs = nodes.map((each) => info(each.outputs[0]!, null));
      return chain([...nodes, ...nodes.map((each, i) => node('Relu', each.outputs, [`r${i}`]))], {
        initializers: [lying('w', [2048, 1024], 2 ** 23)],
        outputs,
      });
    },
    null,
  );
  checkCase(
    t,
    'a large weight shared by many foldable nodes',
    () => {
      const nodes = Array.from({ length: 400 }, (_, i) => [
        node('Conv', ['x', 'w'], [`c${i}`]),
        node('Mul', [`c${i}`, 'k'], [`m${i}`]),
      ]).flat();
      const outputs = Array.from({ length: 400 }, (_, i) => info(`m${i}`, null));
      return chain(nodes, { initializers: [lying('w', [2 ** 17, 4, 1, 1], 2 ** 21), floats('k', [], [2])], outputs });
    },
    null,
  );
  checkCase(t, 'subgraphs nested 1000 deep', () => chain([nestedIf(1000)]), unsupported, tooLarge);
  checkCase(t, 'subgraphs nested 5 deep', () => chain([nestedIf(5)]), null);
  checkCase(t, 'a subgraph that reads from nowhere', () => chain([nestedIf(2, 'nowhere')]), malformed);
  checkCase(t, 'a subgraph of noise', () => chain([ifNode(Uint8Array.from([0x0a, 0xff, 0x01]))]), malformed);
  checkCase(
    t,
    'a million dimensions of an input',
    () => chain([node('Relu', ['x'], ['y'])], { inputs: [info('x', new Array(400_000).fill(1))] }),
    unsupported,
    tooLarge,
  );
  checkCase(
    t,
    'a hundred thousand empty nodes',
    () => {
      const graph = new protobuf.Writer();
      for (let i = 0; i < 600_000; i++) graph.uint32(10).uint32(0);
      return new protobuf.Writer()
        .uint32((7 << 3) | 2)
        .bytes(graph.finish())
        .finish();
    },
    tooLarge,
    malformed,
    unsupported,
  );
  checkCase(
    t,
    'forty million numbers outside raw data',
    () => {
      const numbers = new Uint8Array(40_000_000);
      const tensor = new protobuf.Writer()
        .uint32(8)
        .int32(40_000_000)
        .uint32(16)
        .int32(6)
        .uint32(42)
        .bytes(numbers)
        .uint32(66)
        .string('w')
        .finish();
      const graph = new protobuf.Writer().uint32(42).bytes(tensor).finish();
      return new protobuf.Writer()
        .uint32((7 << 3) | 2)
        .bytes(graph)
        .finish();
    },
    tooLarge,
  );
});

function ifNode(subgraph: Uint8Array): Node {
  const branch = (name: string) => [name, { kind: 'opaque', value: { name, g: subgraph, type: 5 } }] as const;
  return { ...node('If', ['x'], ['y']), attributes: new Map([branch('then_branch'), branch('else_branch')]) };
}

function nestedIf(depth: number, captured = 'x'): Node {
  const field = (id: number, bytes: Uint8Array): Uint8Array =>
    new protobuf.Writer()
      .uint32((id << 3) | 2)
      .bytes(bytes)
      .finish();
  const text = (value: string): Uint8Array => new TextEncoder().encode(value);
  let subgraph: Uint8Array = Buffer.concat([
    field(1, Buffer.concat([field(1, text(captured)), field(2, text('o')), field(4, text('Relu'))])),
    field(12, field(1, text('o'))),
  ]);
  for (let level = 1; level < depth; level++) {
    const attribute = Buffer.concat([field(1, text('then_branch')), field(6, subgraph), Uint8Array.from([0xa0, 1, 5])]);
    subgraph = Buffer.concat([
      field(1, Buffer.concat([field(2, text('o')), field(4, text('If')), field(5, attribute)])),
      field(12, field(1, text('o'))),
    ]);
  }
  return ifNode(subgraph);
}
