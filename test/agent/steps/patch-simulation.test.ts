/** Patches of two classes: the engine's branches and the simulation, which knows of layers only, answer the same integers. */
import t from 'tap';
import { HostRuntime } from '../../../agent/adapters/host-runtime.js';
import { activationBits, buildImage, floatTail, type ImageOptions } from '../../../agent/core/image/build.js';
import { listStages } from '../../../agent/core/plan/patch-geometry.js';
import { buildValueProblem, type PatchCut } from '../../../agent/core/plan/value-problem.js';
import { PatchSimulation, patchWindows } from '../../../agent/steps/patch-simulation.js';
import { fitInput, gatherHistograms, inputCodes, voteOnPatches } from '../../../agent/steps/value-statistics.js';
import type { Bits } from '../../../configs/contracts/plan.js';
import { EngineModel } from '../../../native/index.js';
import { calibratedNetwork, type Network, NetworkBuilder, randomNetwork } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';
import { samplesOf } from '../../support/steps.js';
import { drawNetwork } from '../core/plan/patch-networks.js';

const seed = announceSeed();
const cases = Number(process.env.QUANTD_PATCH_CASES ?? 40);
const runtime = new HostRuntime();
const { signal } = new AbortController();

interface Case extends Network {
  readonly cut: PatchCut;
  readonly random: Random;
  readonly seed: number;
}

async function* networks(count: number): AsyncGenerator<Case> {
  for (let n = 0, found = 0; found < count; n++) {
    const random = new Random(seed + n);
    const isPlain = random.next() < 0.3;
    const source = isPlain ? randomNetwork(seed + n, 4) : drawNetwork(seed + n, 3 + random.below(6), false).model;
    const network = await calibratedNetwork(source, seed + n, 3);
    const { operators } = network.prepared;
    // Where all that follows runs on floats, nothing is put together from codes.
    const floats = floatTail(network.prepared);
    const stages = listStages(network.prepared).filter(({ split, tensors, output }) =>
      operators
        .slice(split)
        .some((operator) => operator.inputs.includes(tensors[output]!.name) && !floats.has(operator)),
    );
    if (stages.length === 0) continue;
    found++;
    const stage = random.pick(stages);
    const { rows, columns } = stage.tensors[stage.output]!;
    const upTo = (size: number) => 1 + random.below(Math.min(4, size));
    yield { ...network, cut: { stage, grid: { rows: upTo(rows), columns: upTo(columns) } }, random, seed: seed + n };
  }
}

/** Precisions of both classes, bits drawn for every map. */
function drawPrecisions({ prepared, cut, random }: Case) {
  const weights = new Map(prepared.operators.map(({ name }) => [name, random.pick([8, 4, 2] as const)]));
  const value = buildValueProblem(prepared, cut, {
    candidates: [8, 6, 4, 2],
    weightBits: (operator) => weights.get(operator)!,
    costOf: () => 0,
    lossOf: () => 0,
    outlierShares: null,
    memory: { isInputStreamed: true, isInPlace: true },
    ceilingBytes: Number.POSITIVE_INFINITY,
  });
  return value.precisionsOf(value.problem.maps.map(({ candidates }) => random.pick(candidates)));
}

function optionsOf({ ranges }: Network): ImageOptions {
  return { rangeOf: (tensor) => ranges.get(tensor), pairSafe: false, biasCorrection: () => null };
}

t.test(
  `${cases} random networks: branches chosen by the input's codes answer what layers stitched together do`,
  async (t) => {
    const seen = { refused: 0, cut: 0, mixed: 0, different: 0, patches: 0, outliers: 0 };
    for await (const each of networks(2 * cases)) {
      if (seen.cut === cases) break;
      const { prepared, cut, random, samples } = each;
      const precisions = drawPrecisions(each);
      const limits = { low: random.below(90), high: 255 - random.below(90) };
      const options = optionsOf(each);
      const outliers = { ...limits, precisions: precisions.outlier };
      const patches = { split: cut.stage.split, grid: cut.grid, isInputStreamed: random.next() < 0.5, outliers };
      let image: Uint8Array;
      try {
        image = buildImage(prepared, precisions.plain, { ...options, patches }).bytes;
      } catch (error) {
        if ((error as { code?: string }).code !== 'model/unsupported') throw error;
        seen.refused++;
        continue;
      }
      seen.cut++;
      const simulation = await PatchSimulation.open(prepared, cut, precisions, limits, options, {
        runtime,
        threads: 1,
      });
      const engine = new EngineModel(image, { threads: 1 });
      const plain = new EngineModel(buildImage(prepared, precisions.plain, options).bytes, { threads: 1 });
      try {
        for (const data of samples) {
          const feeds = new Map([[prepared.card.input.name, { dims: prepared.inputDims, data }]]);
          const results = await simulation.run(feeds);
          const [answer] = await engine.run([data]);
          const expected = results.get(prepared.model.graph.outputs[0]!.name)!.data as Float32Array;
          if (!isEqual(answer!, expected)) t.fail(`seed ${each.seed}: ${JSON.stringify(patches.grid)} differs`);
          const [uniform] = await plain.run([data]);
          if (!isEqual(uniform!, expected)) seen.different++;
        }
        const { shares } = simulation.votes;
        seen.patches += shares.length;
        seen.outliers += shares.reduce((a, b) => a + b, 0);
        if (shares.some((share) => share > 0) && shares.some((share) => share < 1)) seen.mixed++;
      } finally {
        engine.close();
        plain.close();
        await simulation.close();
      }
    }
    t.comment(JSON.stringify(seen));
    t.equal(seen.cut, cases);
    t.ok(seen.different > cases / 20, 'the second branch is not without effect');
    t.ok(seen.mixed > 0 && seen.outliers > 0 && seen.outliers < seen.patches, 'both classes occur');
  },
);

t.test('fixed classes take each patch from the branch of its position', async (t) => {
  for await (const each of networks(12)) {
    const { prepared, cut, random, samples } = each;
    const precisions = drawPrecisions(each);
    const options = optionsOf(each);
    const patches = cut.grid.rows * cut.grid.columns;
    const classes = Array.from({ length: patches }, () => random.next() < 0.5);
    const open = (of: Parameters<typeof PatchSimulation.open>[3]) =>
      PatchSimulation.open(prepared, cut, precisions, of, options, { runtime, threads: 1 });
    const data = samples[0]!;
    const feeds = new Map([[prepared.card.input.name, { dims: prepared.inputDims, data }]]);
    const grid = buildImage(prepared, precisions.plain, options).gridOf(prepared.card.input.name)!;
    const codes = inputCodes(data, grid);
    for (const all of [false, true]) {
      // Every code is beyond limits that leave none between them.
      const simulations = [
        await open(new Array<boolean>(patches).fill(all)),
        await open({ low: all ? 255 : 0, high: all ? 0 : 255 }),
      ];
      const [a, b] = await Promise.all(simulations.map((simulation) => simulation.run(feeds)));
      for (const [name, { data: values }] of a!) t.same(b!.get(name)!.data, values);
      for (const simulation of simulations) await simulation.close();
    }
    const simulation = await open(classes);
    await simulation.run(feeds);
    t.same(simulation.votes.majority, classes);
    t.ok(codes.every((code) => code <= grid.codeMaximum));
    await simulation.close();
  }
});

t.test(
  'one pass over samples gives the histograms of codes, the Gaussian and the share of outlier patches',
  async (t) => {
    for await (const each of networks(4)) {
      const { prepared, cut, samples, ranges } = each;
      const reader = samplesOf(samples);
      const names = [prepared.card.input.name, ...prepared.operators.flatMap(({ outputs }) => outputs)];
      const options = { most: 2, threads: 1 };
      const histograms = await gatherHistograms(
        prepared,
        names,
        (name) => ranges.get(name)!,
        reader,
        options,
        runtime,
        signal,
      );
      for (const name of names) {
        const { counts, grid } = histograms.get(name)!;
        const elements = prepared.shapes.get(name)!.reduce((a, b) => a * b, 1);
        t.equal(
          counts.reduce((a, b) => a + b, 0),
          2 * elements,
        );
        if (name !== prepared.card.input.name) continue;
        const expected = new Float64Array(256);
        for (const sample of samples.slice(0, 2))
          for (const value of sample) {
            const code = Math.round(value / grid.scale) + grid.zeroPoint;
            expected[Math.max(0, Math.min(255, code))]!++;
          }
        // Halves are rounded in two ways.
        const moved = counts.reduce((sum, count, code) => sum + Math.abs(count - expected[code]!), 0);
        t.ok(moved <= 4, `${moved}`);
      }
      const all = samples.slice(0, 2).flatMap((sample) => [...sample]);
      const mean = all.reduce((a, b) => a + b, 0) / all.length;
      t.ok(Math.abs((await fitInput(reader, 2)).mean - mean) < 1e-6);
      const image = cut.stage.tensors[cut.stage.input]!;
      const grid = histograms.get(prepared.card.input.name)!.grid;
      const windows = patchWindows(cut);
      const vote = (limits: { low: number; high: number }) => voteOnPatches(image, windows, limits, grid, reader, 3);
      t.ok((await vote({ low: 0, high: 255 })).shares.every((share) => share === 0));
      t.ok((await vote({ low: 255, high: 0 })).shares.every((share) => share === 1));
    }
  },
);

t.test('both branches read one copy of the weights', async (t) => {
  const builder = new NetworkBuilder(new Random(seed), [1, 8, 8, 8]);
  const first = builder.same('Relu', builder.conv('x', { out: 64 }));
  const wide = builder.conv(first, { out: 64 });
  const network = await calibratedNetwork(builder.build([builder.conv(wide, { out: 4 })]), seed, 1);
  const precisionsAt = (activationBits: Bits) =>
    new Map(
      network.prepared.operators.map(({ name }, index) => [
        name,
        { weightBits: 8 as const, activationBits: index === 1 ? activationBits : (8 as const) },
      ]),
    );
  const patches = { split: 2, grid: { rows: 2, columns: 2 }, isInputStreamed: true };
  const outliers = { low: 0, high: 200, precisions: precisionsAt(8) };
  const build = (of: typeof patches & { outliers?: typeof outliers }) =>
    buildImage(network.prepared, precisionsAt(4), { ...optionsOf(network), patches: of });
  const [one, two] = [build(patches), build({ ...patches, outliers })];
  t.ok(two.bytes.length > one.bytes.length);
  // Weights of the two convolutions take 41 KB; records, biases and multipliers of both less than 4.
  t.ok(two.bytes.length - one.bytes.length < 4096, `${two.bytes.length - one.bytes.length} bytes`);
  t.equal(two.arenaBytes, one.arenaBytes, 'nor does the second branch take memory');
});

t.test('bits of what only additions read stay at 8', async (t) => {
  for await (const each of networks(10)) {
    const widths = activationBits(each.prepared, drawPrecisions(each).plain);
    const read = new Set(
      each.prepared.operators.filter(({ weight }) => weight !== null).map(({ inputs }) => inputs[0]!),
    );
    for (const { op, inputs } of each.prepared.operators)
      if (op === 'Add') for (const name of inputs) if (!read.has(name)) t.equal(widths.get(name) ?? 8, 8);
  }
});

function isEqual(a: Float32Array, b: Float32Array): boolean {
  return a.length === b.length && a.every((value, index) => Object.is(value, b[index]));
}
