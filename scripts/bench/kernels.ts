/**
 * Single convolutions: every precision of the engine, by its fastest kernel, against ONNX Runtime's int8 and float, on the shapes of
 * networks that people deploy. Each shape is a model of its own with a small layer in front; the two runtimes are measured in turn,
 * several times, and the least of the medians counts.
 */
import { NativeTarget } from '../../agent/adapters/native-target.js';
import { OrtTarget } from '../../agent/adapters/ort-target.js';
import { kernelLabel } from '../../agent/core/image/precisions.js';
import type { Model, Node, Operator, Tensor } from '../../agent/core/onnx/model.js';
import { makeTensor } from '../../agent/core/onnx/tensor.js';
import { parsePrecision } from '../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../agent/core/prepare.js';
import { xorshift32 } from '../../agent/core/random.js';
import type { Ports } from '../../agent/pipeline.js';
import type { LatencyRow } from '../../configs/contracts/plan.js';
import type { BenchModel } from './models.js';

interface Shape {
  readonly name: string;
  readonly family: '3x3' | '1x1' | 'depthwise' | 'other';
  readonly from: number;
  readonly to: number;
  readonly size: number;
  readonly kernel: number;
  readonly stride: number;
  readonly groups: number;
}

const shape = (
  family: Shape['family'],
  from: number,
  to: number,
  size: number,
  kernel: number,
  stride = 1,
  groups = 1,
) => ({
  name: `${groups > 1 ? 'dw ' : ''}${kernel}x${kernel}${stride > 1 ? ` s${stride}` : ''} ${from}->${to} ${size}`,
  ...{ family, from, to, size, kernel, stride, groups },
});

const shapes: readonly Shape[] = [
  shape('3x3', 64, 64, 56, 3),
  shape('3x3', 128, 128, 28, 3),
  shape('3x3', 256, 256, 14, 3),
  shape('3x3', 512, 512, 7, 3),
  shape('other', 64, 128, 56, 3, 2),
  shape('1x1', 96, 24, 56, 1),
  shape('1x1', 24, 144, 56, 1),
  shape('1x1', 384, 96, 14, 1),
  shape('1x1', 960, 160, 7, 1),
  shape('depthwise', 144, 144, 56, 3, 1, 144),
  shape('other', 3, 64, 224, 7, 2),
];

const precisions = ['W8A8', 'W7A8', 'W4A8', 'W4A6', 'W4A4', 'W2A2'] as const;
const repeats = 3;

/** What each family has to reach against ONNX Runtime's int8 on x86 with AVX2 and without VNNI, by precision. */
const floors: Readonly<Record<string, number>> = {
  '3x3 W8A8': 2,
  '1x1 W8A8': 0.97,
  'other W8A8': 0.97,
  '1x1 W4A8': 1.45,
  'other W4A8': 1.45,
  '3x3 W4A6': 2.4,
  '3x3 W4A4': 2.5,
  '1x1 W4A4': 1.6,
  'depthwise W4A8': 3,
  '3x3 W2A2': 3,
};

/** Single convolutions; the models of other benchmarks are not used. */
export async function kernelsBench(_models: readonly BenchModel[], _ports: Ports, signal: AbortSignal) {
  const [ort, native] = [new OrtTarget({ threads: 1 }), new NativeTarget({ threads: 1 })];
  const identity = await ort.identity();
  const isRightMachine =
    identity.architecture === 'x64' &&
    identity.features.includes('avx2') &&
    !identity.features.some((feature) => feature.endsWith('vnni'));
  const results = [];
  for (const each of shapes) {
    const { prepared, operator } = modelOf(each);
    const rows: LatencyRow[] = [];
    for (let repeat = 0; repeat < repeats; repeat++) {
      rows.push(
        ...(await ort.measure(prepared, [operator], ['float', 'W8A8'].map(parsePrecision), signal, () => {})).map(
          (row) => ({ ...row, precision: `ort ${row.precision}` }),
        ),
      );
      rows.push(...(await native.measure(prepared, [operator], precisions.map(parsePrecision), signal, () => {})));
    }
    const least = (label: string, pick: 'minimum' | 'median') =>
      Math.min(
        ...rows.filter((row) => row.operatorKey === operator.key && row.precision === label).map((row) => row[pick]),
      );
    const kernelOf = (precision: string) => {
      const prefix = kernelLabel(parsePrecision(precision), '');
      const own = rows.filter((row) => row.operatorKey === operator.key && row.precision.startsWith(prefix));
      return own.reduce((best, row) => (row.median < best.median ? row : best)).precision.slice(prefix.length);
    };
    const int8 = { minimum: least('ort W8A8', 'minimum'), median: least('ort W8A8', 'median') };
    const engine = precisions.map((precision) => ({
      precision,
      kernel: kernelOf(precision),
      minimumUs: least(precision, 'minimum') / 1e3,
      medianUs: least(precision, 'median') / 1e3,
      timesInt8: int8.minimum / least(precision, 'minimum'),
    }));
    const result = {
      shape: each.name,
      family: each.family,
      ortFloatUs: least('ort float', 'minimum') / 1e3,
      ortInt8Us: int8.minimum / 1e3,
      engine,
    };
    results.push(result);
    const cells = engine.map(
      (cell) => `${cell.precision} ${cell.minimumUs.toFixed(0)} (x${cell.timesInt8.toFixed(2)} ${cell.kernel})`,
    );
    print(
      `${each.name.padEnd(20)} ort float ${result.ortFloatUs.toFixed(0)} int8 ${result.ortInt8Us.toFixed(0)} us | ${cells.join(', ')}`,
    );
  }
  print(
    isRightMachine ? 'floors:' : 'the floors are for x86 with AVX2 and without VNNI: they do not apply to this machine',
  );
  for (const [name, floor] of Object.entries(floors)) {
    const [family, precision] = name.split(' ');
    const ratios = results
      .filter((result) => result.family === family)
      .map((result) => result.engine.find((cell) => cell.precision === precision)!.timesInt8);
    const mean = Math.exp(ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0) / ratios.length);
    print(
      `${name.padEnd(16)} x${mean.toFixed(2)}, floor x${floor.toFixed(2)}${isRightMachine ? (mean >= floor ? ', held' : ', MISSED') : ''}`,
    );
  }
  return { isRightMachine, results };
}

function modelOf({ from, to, size, kernel, stride, groups }: Shape): { prepared: PreparedModel; operator: Operator } {
  const random = xorshift32(from * 31 + to);
  const initializers = new Map<string, Tensor>();
  const weight = (name: string, dims: readonly number[]) => {
    const normal = () => random() + random() + random() + random() - 2;
    const values = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, normal);
    initializers.set(name, makeTensor(name, 'float32', dims, values));
  };
  // A layer in front, so that the one under test does not read the model's input.
  weight('w0', [from, 1, 1, 1]);
  weight('w1', [to, from / groups, kernel, kernel]);
  const pad = kernel >> 1;
  const ints = (value: readonly number[]) => ({ kind: 'ints', value }) as const;
  const node = (name: string, inputs: readonly string[], output: string, attributes: Node['attributes']): Node => ({
    ...{ name, op: 'Conv', domain: '', inputs, outputs: [output], attributes },
  });
  const nodes = [
    node('front', ['x', 'w0'], 'a', new Map([['group', { kind: 'int', value: from }]])),
    node(
      'tested',
      ['a', 'w1'],
      'b',
      new Map<string, ReturnType<typeof ints> | { kind: 'int'; value: number }>([
        ['kernel_shape', ints([kernel, kernel])],
        ['strides', ints([stride, stride])],
        ['pads', ints([pad, pad, pad, pad])],
        ['group', { kind: 'int', value: groups }],
      ]),
    ),
    // Keeps the result as codes.
    {
      name: 'back',
      op: 'MaxPool',
      domain: '',
      inputs: ['b'],
      outputs: ['y'],
      attributes: new Map([['kernel_shape', ints([1, 1])]]),
    },
  ];
  const model: Model = {
    irVersion: 8,
    opsets: new Map([['', 13]]),
    producer: 'quantd',
    metadata: new Map(),
    graph: {
      name: 'one',
      nodes,
      initializers,
      inputs: [{ name: 'x', type: 'float32', shape: [1, from, size, size] }],
      outputs: [{ name: 'y', type: 'float32', shape: null }],
      valueInfo: new Map(),
    },
  };
  const prepared = prepare(model, null);
  return { prepared, operator: prepared.operators.find(({ name }) => name === 'tested')! };
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
