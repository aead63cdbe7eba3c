import t from 'tap';
import type { Operator } from '../../../../agent/core/onnx/model.js';
import {
  area,
  type Borders,
  branchOf,
  cutGrid,
  cutStage,
  listStages,
  type Region,
  receptiveField,
  type Stage,
} from '../../../../agent/core/plan/patch-geometry.js';
import {
  costLayered,
  costPatches,
  halo,
  type PatchMemory,
  type PatchPlan,
  redundancy,
  searchPatches,
} from '../../../../agent/core/plan/patches.js';
import { type PreparedModel, prepare } from '../../../../agent/core/prepare.js';
import { EdgeError } from '../../../../configs/contracts/errors.js';
import { NetworkBuilder } from '../../../support/networks.js';
import { announceSeed, Random } from '../../../support/seed.js';
import { node } from '../onnx/support.js';
import { type DrawnNetwork, drawNetwork, mobileNetV2 } from './patch-networks.js';

const seed = announceSeed();
const int8: PatchMemory = { bitsOf: () => 8, isInputStreamed: true, isInPlace: true };

/** Positions of one tensor, as numbers that tell row and column. */
type Pixels = Set<number>;
const pixel = (row: number, column: number) => (row + 1000) * 4000 + column + 1000;
const rowOf = (code: number) => Math.floor(code / 4000) - 1000;
const columnOf = (code: number) => (code % 4000) - 1000;

function pixelsOf({ rows, columns }: Region): Pixels {
  const pixels: Pixels = new Set();
  for (let row = rows.first; row < rows.end; row++) {
    for (let column = columns.first; column < columns.end; column++) pixels.add(pixel(row, column));
  }
  return pixels;
}

function hullOf(pixels: Pixels): Region {
  if (pixels.size === 0) return { rows: { first: 0, end: 0 }, columns: { first: 0, end: 0 } };
  const bounds = (of: (code: number) => number) => {
    const values = [...pixels].map(of);
    return { first: Math.min(...values), end: Math.max(...values) + 1 };
  };
  return { rows: bounds(rowOf), columns: bounds(columnOf) };
}

/** The positions of a layer's input that the given positions of its output depend on, one tap at a time. */
function dependencies(net: DrawnNetwork, index: number, outputs: Pixels, borders: Borders): Pixels {
  const { kernel, stride, dilation, pad, inputs } = net.layers[index]!;
  const [, rows, columns] = net.sizes[inputs[0]!]!;
  const found: Pixels = new Set();
  for (const code of outputs) {
    for (let y = 0; y < kernel[0]; y++) {
      for (let x = 0; x < kernel[1]; x++) {
        const row = rowOf(code) * stride[0] - pad[0] + y * dilation[0];
        const column = columnOf(code) * stride[1] - pad[1] + x * dilation[1];
        const isImage = row >= 0 && row < rows && column >= 0 && column < columns;
        if (isImage || borders === 'nominal') found.add(pixel(row, column));
      }
    }
  }
  return found;
}

/** Marks, from one tensor back to the input, what it depends on; `fills`: whatever is computed is made a rectangle first. */
function mark(net: DrawnNetwork, output: number, region: Region, borders: Borders, fills: boolean): Pixels[] {
  const marked = net.sizes.map((): Pixels => new Set());
  marked[output] = pixelsOf(region);
  for (let tensor = output; tensor > 0; tensor--) {
    if (fills) marked[tensor] = pixelsOf(hullOf(marked[tensor]!));
    const found = dependencies(net, tensor - 1, marked[tensor]!, borders);
    for (const input of net.layers[tensor - 1]!.inputs) for (const code of found) marked[input]!.add(code);
  }
  if (fills) marked[0] = pixelsOf(hullOf(marked[0]!));
  return marked;
}

function drawRegion(random: Random, stage: Stage): Region {
  const { rows, columns } = stage.tensors[stage.output]!;
  const span = (size: number) => {
    const first = random.below(size);
    return { first, end: first + 1 + random.below(size - first) };
  };
  return { rows: span(rows), columns: span(columns) };
}

/** Random networks with at least one split, each with a generator for further choices. */
function* networks(count: number, hasGaps: boolean, steps = 9) {
  for (let index = 0; index < count; index++) {
    const random = new Random(seed + 7919 * index);
    const net = drawNetwork(seed + 104729 * index, 1 + random.below(steps), hasGaps);
    const prepared = prepare(net.model, null);
    yield { net, prepared, random, stages: listStages(prepared) };
  }
}

const tensorNamed = (net: DrawnNetwork, name: string) => net.names.indexOf(name);

t.test('the region of the input is that of the pixels that influence the output', async (t) => {
  let compared = 0;
  for (const { net, random, stages } of networks(150, false)) {
    for (const stage of stages) {
      const region = drawRegion(random, stage);
      const { regions } = branchOf(stage, region, 'clipped');
      const marked = mark(net, tensorNamed(net, stage.tensors[stage.output]!.name), region, 'clipped', false);
      stage.tensors.forEach(({ name }, index) => {
        const expected = hullOf(marked[tensorNamed(net, name)]!);
        if (JSON.stringify(regions[index]) !== JSON.stringify(expected)) t.same(regions[index], expected, name);
        compared++;
      });
    }
  }
  t.ok(compared > 150, `${compared} regions`);
});

t.test(
  'with gaps between what is read, regions are the least rectangles, and hold all that has influence',
  async (t) => {
    let compared = 0;
    let empty = 0;
    for (const { net, random, stages } of networks(150, true)) {
      for (const stage of stages) {
        const region = drawRegion(random, stage);
        const output = tensorNamed(net, stage.tensors[stage.output]!.name);
        const influences = mark(net, output, region, 'clipped', false);
        for (const borders of ['clipped', 'nominal'] as const) {
          const { regions, steps } = branchOf(stage, region, borders);
          const marked = mark(net, output, region, borders, true);
          stage.tensors.forEach(({ name }, index) => {
            const tensor = tensorNamed(net, name);
            const expected = hullOf(marked[tensor]!);
            if (JSON.stringify(regions[index]) !== JSON.stringify(expected)) t.same(regions[index], expected, name);
            const held = pixelsOf(regions[index]!);
            for (const code of influences[tensor]!) if (!held.has(code)) t.fail(`${name} lacks a position`);
            if (borders === 'clipped' && held.size === 0) empty++;
            compared++;
          });
          stage.operators.forEach(({ operator }, index) => {
            const first = tensorNamed(net, operator.nodes[0]!.outputs[0]!);
            const last = tensorNamed(net, operator.outputs[0]!);
            const read = hullOf(dependencies(net, first - 1, marked[last]!, borders));
            const expected = { computes: hullOf(marked[last]!), reads: read };
            if (JSON.stringify(steps[index]) !== JSON.stringify(expected))
              t.same(steps[index], expected, operator.name);
          });
        }
      }
    }
    t.ok(compared > 300, `${compared} regions, ${empty} of them empty`);
  },
);

t.test('the patches of a grid cover the image once, and none is empty', async (t) => {
  const random = new Random(seed);
  for (let index = 0; index < 50; index++) {
    const image = { name: 'x', channels: 1, rows: 1 + random.below(20), columns: 1 + random.below(20) };
    const parts = cutGrid(image, 1 + random.below(image.rows), 1 + random.below(image.columns));
    const covered = parts.flatMap((part) => [...pixelsOf(part)]);
    if (covered.length !== image.rows * image.columns || new Set(covered).size !== covered.length) {
      t.fail(`${JSON.stringify(parts)} do not cover ${JSON.stringify(image)}`);
    }
    if (parts.some((part) => area(part) === 0)) t.fail('an empty patch');
  }
  t.throws(() => cutGrid({ rows: 3, columns: 9 }, 4, 1), RangeError);
});

/** Runs operators one after another, freeing what nobody needs any more; returns the peak. */
function simulatedPeak(
  operators: readonly Operator[],
  source: string,
  delivered: readonly string[],
  bytes: (name: string) => number,
  writesOver: (operator: Operator) => boolean,
): number {
  const memory = new Map([[source, bytes(source)]]);
  const total = () => [...memory.values()].reduce((a, b) => a + b, 0);
  let peak = total();
  operators.forEach((operator, position) => {
    const later = new Set([...operators.slice(position + 1).flatMap(({ inputs }) => inputs), ...delivered]);
    const output = operator.outputs[0]!;
    const room = operator.inputs.find((name) => !later.has(name) && memory.get(name)! >= bytes(output));
    if (writesOver(operator) && room !== undefined) {
      peak = Math.max(peak, total());
      memory.delete(room);
      memory.set(output, bytes(output));
    } else {
      memory.set(output, bytes(output));
      peak = Math.max(peak, total());
    }
    for (const name of memory.keys()) if (!later.has(name)) memory.delete(name);
  });
  return Math.max(peak, total());
}

t.test('costs are those of marking every pixel and running every branch', async (t) => {
  let compared = 0;
  for (const { net, prepared, random, stages } of networks(60, true, 7)) {
    const layerOf = (operator: Operator) => net.layers[tensorNamed(net, operator.nodes[0]!.outputs[0]!) - 1]!;
    for (const stage of stages) {
      const image = stage.tensors[stage.output]!;
      const grid = {
        rows: 1 + random.below(Math.min(3, image.rows)),
        columns: 1 + random.below(Math.min(3, image.columns)),
      };
      const bits = new Map(net.names.map((name) => [name, random.pick([2, 4, 8])]));
      const memory: PatchMemory = {
        bitsOf: (name) => bits.get(name)!,
        isInputStreamed: random.next() < 0.5,
        isInPlace: random.next() < 0.5,
      };
      const plan = costPatches(prepared, stage, grid, memory);
      const macs = { layered: 0, nominal: 0, clipped: 0 };
      const bytesOf = (name: string, positions: number) =>
        Math.ceil((positions * net.sizes[tensorNamed(net, name)]![0] * bits.get(name)!) / 8);
      const whole = (name: string) => {
        const [, rows, columns] = net.sizes[tensorNamed(net, name)]!;
        return bytesOf(name, rows * columns);
      };
      const writesOver = (operator: Operator) =>
        memory.isInPlace && (layerOf(operator).isDepthwise || ['Relu', 'Add'].includes(layerOf(operator).op));
      const held = prepared.operators.slice(0, stage.split);
      let branchBytes = 0;
      const inputs: Region[] = [];
      for (const part of cutGrid(image, grid.rows, grid.columns)) {
        for (const borders of ['nominal', 'clipped'] as const) {
          const marked = mark(net, tensorNamed(net, image.name), part, borders, true);
          for (const operator of held) {
            macs[borders] += marked[tensorNamed(net, operator.outputs[0]!)]!.size * layerOf(operator).macsPerPixel;
          }
          if (borders === 'nominal') {
            inputs.push(hullOf(marked[0]!));
            continue;
          }
          const bytes = (name: string) => {
            if (name === image.name || (name === 'x' && !memory.isInputStreamed)) return 0;
            return bytesOf(name, marked[tensorNamed(net, name)]!.size);
          };
          branchBytes = Math.max(branchBytes, simulatedPeak(held, 'x', [], bytes, writesOver));
        }
      }
      for (const operator of held) {
        const [, rows, columns] = net.sizes[tensorNamed(net, operator.outputs[0]!)]!;
        macs.layered += rows * columns * layerOf(operator).macsPerPixel;
      }
      const common = (one: number, other: number) => {
        const pixels = pixelsOf(inputs[other]!);
        return hullOf(new Set([...pixelsOf(inputs[one]!)].filter((code) => pixels.has(code))));
      };
      const widest = { rows: 0, columns: 0 };
      for (let row = 0; row < grid.rows; row++) {
        for (let column = 0; column < grid.columns; column++) {
          const patch = row * grid.columns + column;
          const below = row + 1 < grid.rows ? common(patch, patch + grid.columns) : null;
          const beside = column + 1 < grid.columns ? common(patch, patch + 1) : null;
          if (below) widest.rows = Math.max(widest.rows, below.rows.end - below.rows.first);
          if (beside) widest.columns = Math.max(widest.columns, beside.columns.end - beside.columns.first);
        }
      }
      t.same(halo(stage, grid), widest);
      const tail = prepared.operators.slice(stage.split);
      const delivered = [net.names.at(-1)!];
      const tailBytes = simulatedPeak(tail, image.name, delivered, whole, writesOver);
      const inputBytes = memory.isInputStreamed ? 0 : whole('x');
      const outputBytes = whole(image.name);
      const stageBytes = branchBytes + outputBytes + inputBytes;
      const ram = {
        branchBytes,
        outputBytes,
        inputBytes,
        stageBytes,
        tailBytes,
        peakBytes: Math.max(stageBytes, tailBytes),
      };
      t.same(plan, { split: stage.split, grid, macs, ram });
      const layered = simulatedPeak(prepared.operators, 'x', delivered, whole, writesOver);
      t.equal(costLayered(prepared, memory).ram.peakBytes, layered);
      compared++;
    }
  }
  t.ok(compared > 60, `${compared} plans`);
});

t.test('what is still to be read is not written over', async (t) => {
  const builder = new NetworkBuilder(new Random(seed), [1, 1, 8, 8]);
  const narrow = builder.conv('x', { out: 4 });
  const wide = builder.conv('x', { out: 4 });
  const sum = builder.emit('Add', [narrow, wide], [1, 4, 8, 8]);
  const prepared = prepare(builder.build([builder.emit('Add', [sum, wide], [1, 4, 8, 8])]), null);
  const bitsOf = (name: string) => (name === narrow ? 2 : 8);
  // The first sum has no room in 64 bytes, and must not take the 256 that the second one reads.
  t.equal(costLayered(prepared, { ...int8, bitsOf }).ram.peakBytes, 64 + 256 + 256);
  t.equal(costLayered(prepared, { ...int8, bitsOf, isInPlace: false }).ram.peakBytes, 3 * 256);
});

t.test('the search answers what enumerating all splits and grids does', async (t) => {
  const outcomes = new Set<string>();
  for (const { prepared, random } of networks(40, false, 7)) {
    const memory: PatchMemory = {
      bitsOf: () => 8,
      isInputStreamed: random.next() < 0.7,
      isInPlace: random.next() < 0.5,
    };
    const plans: PatchPlan[] = [costLayered(prepared, memory)];
    for (let split = 1; split <= prepared.operators.length; split++) {
      let stage: Stage;
      try {
        stage = cutStage(prepared, split);
      } catch (error) {
        if (error instanceof EdgeError) continue;
        throw error;
      }
      for (let rows = 1; rows <= 4; rows++) {
        for (let columns = 1; columns <= 4; columns++) {
          const image = stage.tensors[stage.output]!;
          if (rows > image.rows || columns > image.columns) continue;
          plans.push(costPatches(prepared, stage, { rows, columns }, memory));
        }
      }
    }
    const peaks = plans.map(({ ram }) => ram.peakBytes).sort((a, b) => a - b);
    const extra = ({ macs }: PatchPlan) => macs.clipped - macs.layered;
    for (const ceiling of [peaks[0]! - 1, peaks[0]!, random.pick(peaks), peaks.at(-1)!]) {
      const { isWithin, plan } = searchPatches(prepared, ceiling, memory, 4);
      const within = plans.filter(({ ram }) => ram.peakBytes <= ceiling);
      t.equal(isWithin, within.length > 0);
      if (within.length === 0) {
        t.equal(plan.ram.peakBytes, peaks[0]);
        const least = plans.filter(({ ram }) => ram.peakBytes === peaks[0]);
        t.equal(extra(plan), Math.min(...least.map(extra)));
      } else {
        t.ok(plan.ram.peakBytes <= ceiling);
        t.equal(extra(plan), Math.min(...within.map(extra)));
        t.ok(plan.macs.nominal >= plan.macs.clipped);
        const cheapest = within.filter((other) => extra(other) === extra(plan));
        t.equal(plan.ram.peakBytes, Math.min(...cheapest.map(({ ram }) => ram.peakBytes)));
      }
      outcomes.add(`${isWithin} ${plan.split > 0}`);
    }
  }
  t.ok(outcomes.has('true true') && outcomes.has('false true') && outcomes.has('true false'), [...outcomes].join());
});

t.test('what patches cannot compute is refused by name', async (t) => {
  const builder = new NetworkBuilder(new Random(seed), [1, 4, 8, 8]);
  const first = builder.conv('x', { out: 4 });
  const sum = builder.emit('Add', [first, builder.conv(first, { out: 4 })], [1, 4, 8, 8]);
  const prepared = prepare(builder.build([builder.gemm(builder.pooled(sum), 3)]), null);
  t.same(
    prepared.operators.map(({ op }) => op),
    ['Conv', 'Conv', 'Add', 'GlobalAveragePool', 'Reshape', 'Gemm'],
  );
  t.same(
    listStages(prepared).map(({ split }) => split),
    [1, 3],
  );
  t.throws(() => cutStage(prepared, 2), { code: 'model/unsupported', subject: prepared.operators[1]!.name });
  t.throws(() => cutStage(prepared, 4), { code: 'model/unsupported', subject: prepared.operators[3]!.name });
  t.throws(() => cutStage(prepared, 7), RangeError);
  const stage = cutStage(prepared, 3);
  t.throws(() => branchOf(stage, { rows: { first: 0, end: 9 }, columns: { first: 0, end: 1 } }, 'clipped'), RangeError);
});

t.test(
  'channels may be split and joined in a stage, rows may not, and constants must be the same everywhere',
  async (t) => {
    const splits = (build: (builder: NetworkBuilder, image: string) => string) => {
      const builder = new NetworkBuilder(new Random(seed), [1, 3, 8, 8]);
      const image = build(builder, builder.conv('x', { out: 4 }));
      const prepared = prepare(builder.build([builder.conv(image, { out: 2 })]), null);
      return listStages(prepared).map(({ split }) => split);
    };
    const halves = (axis: number) => (builder: NetworkBuilder, image: string) => {
      const shape = [1, 4, 8, 8].map((size, index) => (index === axis ? size / 2 : size));
      const names = ['low', 'high'];
      builder.nodes.push(node('Split', [image], names, { axis }));
      for (const name of names) builder.shapes.set(name, shape);
      const low = builder.conv('low', { out: shape[1]! });
      return builder.emit('Concat', [low, 'high'], [1, 4, 8, 8], { axis });
    };
    t.same(splits(halves(1)), [1, 4, 5]);
    t.same(splits(halves(2)), [1]);
    const scaled = (dims: number[]) => (builder: NetworkBuilder, image: string) => {
      const factor = builder.constant(dims, builder.random.floats(dims.reduce((a, b) => a * b, 1)));
      return builder.emit('Mul', [builder.same('Relu', image), factor], [1, 4, 8, 8]);
    };
    t.same(splits(scaled([4, 1, 1])), [1, 2, 3]);
    t.same(splits(scaled([8, 8])), [1]);
    t.same(
      splits((builder, image) => builder.same('Softmax', image, { axis: 1 })),
      [1],
    );
  },
);

/** The first stage of MobileNetV2 whose output has 28 x 28 x 32 positions: behind the first block of stride 8. */
function mcuNetStage(prepared: PreparedModel): Stage {
  return listStages(prepared).find(({ tensors, output }) => {
    const { channels, rows, columns } = tensors[output]!;
    return channels === 32 && rows === 28 && columns === 28;
  })!;
}

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
const kib = (bytes: number) => bytes / 1024;

t.test('MobileNetV2 has the figures that are known of MCUNetV2', async (t) => {
  const figures = (isRedistributed: boolean, patches: number) => {
    const prepared = prepare(mobileNetV2(isRedistributed, true), null);
    const stage = mcuNetStage(prepared);
    const grid = { rows: patches, columns: patches };
    const { macs } = costPatches(prepared, stage, grid, int8);
    const inner = cutGrid(stage.tensors[stage.output]!, patches, patches)[0]!;
    const { rows, columns } = branchOf(stage, inner, 'nominal').regions[stage.input]!;
    const { nominal, clipped } = redundancy(macs);
    const overall = (stageMacs: number) => percent((stageMacs - macs.layered) / prepared.macs);
    return {
      convolutions: stage.operators.filter(({ operator }) => operator.op === 'Conv').length,
      patch: [rows.end - rows.first, columns.end - columns.first],
      megaMacs: [(macs.layered / 1e6).toFixed(1), (prepared.macs / 1e6).toFixed(1)],
      stage: [percent(nominal), percent(clipped)],
      model: [overall(macs.nominal), overall(macs.clipped)],
      field: receptiveField(stage).rows,
      halo: halo(stage, grid).rows,
    };
  };
  t.same(figures(false, 4), {
    convolutions: 12,
    patch: [75, 75],
    megaMacs: ['91.3', '300.8'],
    stage: ['41.9 %', '30.6 %'],
    model: ['12.7 %', '9.3 %'],
    field: 27,
    halo: 19,
  });
  const redistributed = figures(true, 4);
  t.same(redistributed.patch, [63, 63]);
  t.equal(redistributed.megaMacs[0], '84.5');
  t.same(redistributed.stage, ['17.4 %', '12.9 %']);
  t.same(redistributed.model, ['5.0 %', '3.7 %']);
  const coarse = figures(false, 2);
  t.same([coarse.patch[0], ...coarse.stage, ...coarse.model], [131, '19.8 %', '9.6 %', '6.0 %', '2.9 %']);
  const fine = figures(false, 7);
  t.same([fine.patch[0], ...fine.stage], [51, '79.1 %', '66.1 %']);
});

t.test('MobileNetV2 shrinks from 1372 to 172 KiB without residuals, to 196 KiB with them', async (t) => {
  const grid = { rows: 4, columns: 4 };
  const ram = (hasResiduals: boolean) => {
    const prepared = prepare(mobileNetV2(false, hasResiduals), null);
    const { ram } = costPatches(prepared, mcuNetStage(prepared), grid, int8);
    return {
      layered: kib(costLayered(prepared, int8).ram.peakBytes),
      stage: kib(ram.stageBytes),
      patched: kib(ram.peakBytes),
    };
  };
  const plain = ram(false);
  const residual = ram(true);
  t.comment(JSON.stringify({ plain, residual }));
  t.equal(plain.layered, 1372);
  t.equal(plain.patched, 171.5);
  t.equal(residual.layered, 1372);
  t.equal(residual.patched, 196);
});
