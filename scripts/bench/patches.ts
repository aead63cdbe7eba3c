/**
 * Patches with bits by value (QuantMCU) beside patch-based and layer-based int8: RAM, bit operations and top-1. Every figure of accuracy comes
 * from the engine's own integers (`steps/patch-simulation.ts`), the simulation itself is held against the engine's branches on samples. Plans
 * are chosen on calibration samples without their labels; test samples judge. The firmware counts instructions on an emulated board
 * (`patch-board.ts`), of samples with as many outlier patches as the test set has.
 *
 * `paper`: weights of 8 bits, entropy, the greedy search, lambda from the Pareto set: the cheapest choice that agrees with the float model about
 * as often as int8 does, and the one that comes nearest to the reduction that the paper claims. `ours`: estimated errors instead of entropy, the exact
 * search, weights by the integer programme under the same ceiling on bit operations. Both also without classes of patches, at equal cost.
 * `ours, instructions`: what operators take on the board is the cost instead, and the cheapest is chosen that agrees with the float model.
 * `ours, own patches`: the same, in the patches that its own codes need instead of those of int8, two codes of up to 4 bits in a byte.
 */
import { buildImage, type ImageOptions } from '../../agent/core/image/build.js';
import { type LatencyOf, planByValue, type ValuePlan } from '../../agent/core/plan/value-plan.js';
import {
  type BitOperations,
  bitOperations,
  type ClassPrecisions,
  classMacs,
} from '../../agent/core/plan/value-problem.js';
import { paretoSet, searchExact, searchGreedy } from '../../agent/core/plan/value-search.js';
import { unsignedAffine } from '../../agent/core/quant/affine.js';
import type { Ports } from '../../agent/pipeline.js';
import { type Classes, PatchSimulation } from '../../agent/steps/patch-simulation.js';
import type { Quality } from '../../agent/steps/quality.js';
import { table } from '../../agent/terminal.js';
import { EngineModel } from '../../native/index.js';
import type { BenchModel } from './models.js';
import {
  type Counted,
  countedSamples,
  countOnBoard,
  instructionsOnBoard,
  outlierShareOf,
  representative,
} from './patch-board.js';
import { type CutPlan, plansOfOwnCuts } from './patch-cuts.js';
import {
  coarse,
  fine,
  imageOptions,
  int8Precisions,
  judged,
  type Loss,
  memory,
  openPatchSubject,
  type PatchSubject,
  type PatchTask,
  problemOf,
  refined,
  type Widths,
} from './patch-subject.js';

/** Ceilings are what patch-based int8 is to fit; every one is below what it needs layer by layer. */
const tasks: Readonly<Record<string, PatchTask>> = {
  'mobilenetv1-025-vww96': { ceilingBytes: 32 * 1024, testSamples: 500, roundingSamples: 128 },
  'mobilenetv2-imagenet': { ceilingBytes: 200 * 1024, testSamples: 200, roundingSamples: 48 },
  'resnet8-cifar10': { ceilingBytes: 24 * 1024, testSamples: 500, roundingSamples: 128 },
  'dscnn-kws12': { ceilingBytes: 15 * 1024, testSamples: 500, roundingSamples: 100 },
};
const lambdas = Array.from({ length: 41 }, (_, index) => index / 40);
/** What network bit operations are to shrink to, against patch-based int8. */
const wantedReduction = 2.2;
/** The same for instructions. */
const wantedSpeedup = 1.3;
/** Plans aim a little further: test samples have other shares of outlier patches than those that plans were made with. */
const aimedReduction = 1.01 * wantedReduction;
/** Plans of the best estimates that are run before one is chosen. */
const triedPlans = 4;
const checkedSamples = 2;
/** Top-1 that may be lost: a point and a half, or two samples. */
const allowedLoss = (samples: number) => Math.max(0.015, 2 / samples);

/** A way to run a model, and what it comes to. Bit operations are of the test samples' classes. */
interface Row {
  readonly model: string;
  readonly form: string;
  /** Live activations, packed without gaps. */
  readonly ramBytes: number;
  /** The engine's arena: no depthwise convolution in place; a byte for each code, whatever its bits, but where more than the ceiling would be needed. */
  readonly arenaBytes: number | null;
  /** Of an inference on the emulated board, the mean of samples that are like the test set; or why there are none. */
  readonly counted: Counted;
  readonly bitOps: BitOperations;
  readonly activationBitOps: BitOperations;
  readonly weightBytes: number | null;
  readonly quality: Quality;
  readonly outlierShare: number | null;
  /** The same in the samples whose instructions are counted. */
  readonly countedOutlierShare: number | null;
  readonly lambdas: readonly number[] | null;
}

/** A choice of a sweep, as it does on calibration samples. */
interface Point {
  readonly plan: ValuePlan;
  readonly quality: Quality;
}

/** Prints the tables; answers rows and sweeps. */
export async function patchesBench(models: readonly BenchModel[], ports: Ports, signal: AbortSignal): Promise<unknown> {
  const rows: Row[] = [];
  const sweeps: unknown[] = [];
  for (const model of models) {
    const task = tasks[model.name];
    if (task === undefined) continue;
    process.stderr.write(`${model.name}\n`);
    const subject = await openPatchSubject(model, task, ports, signal);
    if (subject === null) continue;
    const bench = new PatchBench(model.name, subject);
    sweeps.push(await bench.run());
    rows.push(...bench.rows);
    process.stdout.write(`${tableOf(bench.rows)}\n${verdict(bench.rows, subject)}\n\n`);
  }
  return { rows, sweeps };
}

class PatchBench {
  readonly rows: Row[] = [];
  readonly #model: string;
  readonly #subject: PatchSubject;
  /** Of the test set, whose instructions are counted. */
  #samples: readonly Float32Array[] = [];

  constructor(model: string, subject: PatchSubject) {
    this.#model = model;
    this.#subject = subject;
  }

  async run() {
    const { prepared, cut, outlierShares, patched, layered, testSamples } = this.#subject;
    const int8 = int8Precisions(prepared);
    const all = await Promise.all(Array.from({ length: testSamples.count }, (_, index) => testSamples.read(index)));
    this.#samples = representative(all, (sample) => this.#outlierShare(sample), countedSamples);
    await this.#int8Rows(int8);
    const paper = await this.#paper(outlierShares);
    const paperWithout = await this.#paper(null);
    const base = this.rows.find(({ form }) => form === 'patches, int8')!;
    const ceiling = base.bitOps.network / aimedReduction;
    const limits = this.#subject.limits;
    const [held, wished] = [await this.#chooseByAgreement(paper, int8), nearest(paper, ceiling)];
    if (held !== wished) await this.#row('paper, near float', held.plan, limits);
    await this.#row('paper, near 2.2x', wished.plan, limits);
    const without = nearest(paperWithout, wished.plan.activationBitOperations.network);
    await this.#row('paper, one class', without.plan, null);
    const ours = await this.#ours(outlierShares, coarse, ceiling);
    const others: unknown[] = [];
    if (ours !== null) {
      const refinement = await this.#row('ours', ours.plan, limits);
      await this.#row('ours, fixed classes', ours.plan, this.#subject.majority, refinement);
      others.push(summary(ours));
      const oneClass = await this.#ours(null, coarse, ours.plan.bitOperations.network);
      if (oneClass !== null) {
        await this.#row('ours, one class', oneClass.plan, null);
        others.push(summary(oneClass));
      }
    }
    const finer = await this.#ours(outlierShares, fine, ceiling);
    if (finer !== null) {
      await this.#row('ours, fine widths', finer.plan, limits);
      others.push(summary(finer));
    }
    const latencyOf = await instructionsOnBoard(this.#subject.prepared, coarse, this.#subject.signal);
    if (latencyOf !== null) {
      const fastest = await this.#fastest(outlierShares, int8, latencyOf);
      await this.#row('ours, instructions', fastest.plan, limits);
      others.push(summary(fastest));
      const own = await this.#ownPatches(int8, latencyOf);
      if (own !== null) {
        await this.#row('ours, own patches', own.plan, null, null, own.subject);
        const { split } = own.subject.cut.stage;
        others.push({ ...summary(own), split, grid: own.subject.cut.grid });
      }
    }
    const front = paretoSet(
      paper,
      ({ plan }) => plan.activationBitOperations.network,
      ({ quality }) => quality.kl ?? 0,
    );
    const { thresholds, threshold } = this.#subject;
    const shares = thresholds.map((each) => `${each.threshold}: ${(100 * each.outlierShare).toFixed(0)} %`);
    print(`${this.#model}: outlier patches by threshold (taken: ${threshold}): ${shares.join(', ')}`);
    print(`${this.#model}: Pareto set of lambda on calibration samples (paper)\n${paretoTable(front, base)}\n`);
    return {
      model: this.#model,
      split: cut.stage.split,
      grid: cut.grid,
      macs: patched.macs,
      ram: { layered: layered.ram, patched: patched.ram },
      thresholds: this.#subject.thresholds,
      threshold: this.#subject.threshold,
      outlierShares,
      limits,
      paper: paper.map(summary),
      paperWithoutClasses: paperWithout.map(summary),
      ours: others,
    };
  }

  async #int8Rows(int8: ClassPrecisions): Promise<void> {
    const subject = this.#subject;
    const { prepared, cut, layered, patched } = subject;
    const refinement = await refined(subject, int8);
    const options = imageOptions(subject, int8, refinement);
    const { quality } = await judged(subject, int8, options, null, 'test');
    const none = new Array<number>(cut.grid.rows * cut.grid.columns).fill(0);
    const patches = { split: cut.stage.split, grid: cut.grid, isInputStreamed: memory.isInputStreamed };
    const whole = prepared.operators.reduce((sum, { macs, weight }) => sum + (weight === null ? 0 : 64 * macs), 0);
    const stage = cut.stage.operators.reduce(
      (sum, { operator }) => sum + (operator.weight === null ? 0 : 64 * operator.macs),
      0,
    );
    const counted = bitOperations(classMacs(prepared, cut, none), cut, int8, true);
    const shared = {
      model: this.#model,
      weightBytes: null,
      quality,
      outlierShare: null,
      countedOutlierShare: null,
      lambdas: null,
    };
    this.rows.push({
      ...shared,
      form: 'layers, int8',
      counted: await countOnBoard(prepared, int8.plain, options, this.#samples),
      ramBytes: layered.ram.peakBytes,
      arenaBytes: buildImage(prepared, int8.plain, options).arenaBytes,
      bitOps: { stage, network: whole },
      activationBitOps: { stage, network: whole },
    });
    this.rows.push({
      ...shared,
      form: 'patches, int8',
      counted: await countOnBoard(prepared, int8.plain, { ...options, patches }, this.#samples),
      ramBytes: patched.ram.peakBytes,
      arenaBytes: buildImage(prepared, int8.plain, { ...options, patches }).arenaBytes,
      bitOps: counted,
      activationBitOps: counted,
    });
  }

  /** The paper's choices over all lambdas, run on calibration samples. */
  async #paper(outlierShares: readonly number[] | null): Promise<Point[]> {
    const widths = { ...coarse, weights: [8 as const] };
    const plans = await this.#plans('entropy', outlierShares, widths, {}, searchGreedy);
    const points: Point[] = [];
    for (const plan of plans)
      points.push(await this.#check(plan, outlierShares === null ? null : this.#subject.limits));
    return points;
  }

  /** The best of the plans with the least estimated error under a ceiling on bit operations. */
  async #ours(outlierShares: readonly number[] | null, widths: Widths, bitOps: number): Promise<Point | null> {
    const plans = await this.#plans('sensitivity', outlierShares, widths, { bitOps }, searchExact);
    const expected = ({ choice, weightSensitivity }: ValuePlan) => choice.loss + weightSensitivity;
    const best = [...plans].sort((a, b) => expected(a) - expected(b)).slice(0, triedPlans);
    const points: Point[] = [];
    for (const plan of best) points.push(await this.#check(plan, outlierShares === null ? null : this.#subject.limits));
    points.sort((a, b) => (a.quality.kl ?? 0) - (b.quality.kl ?? 0));
    return points[0] ?? null;
  }

  /**
   * Of the plans with the fewest instructions for what they are estimated to lose, the fastest that agrees with the float model about as often
   * as int8 does.
   */
  async #fastest(outlierShares: readonly number[], int8: ClassPrecisions, latencyOf: LatencyOf): Promise<Point> {
    const { limits } = this.#subject;
    const plans = await this.#plans('sensitivity', outlierShares, coarse, {}, searchExact, latencyOf);
    const points: Point[] = [];
    for (const plan of plans.sort((a, b) => a.latency! - b.latency!)) points.push(await this.#check(plan, limits));
    return this.#chooseByAgreement(points, int8);
  }

  /** The same among plans with patches of their own, and without classes of patches; null where none fits. */
  async #ownPatches(int8: ClassPrecisions, latencyOf: LatencyOf): Promise<(Point & CutPlan) | null> {
    const least = await this.#leastAgreement(int8);
    for (const own of await plansOfOwnCuts(this.#subject, lambdas, latencyOf)) {
      const point = await this.#check(own.plan, null);
      if (point.quality.agreement >= least) return { ...point, ...own };
    }
    return null;
  }

  #plans(
    loss: Loss,
    outlierShares: readonly number[] | null,
    widths: Widths,
    ceilings: { bitOps?: number },
    search: typeof searchExact,
    latencyOf: LatencyOf | null = null,
  ): Promise<ValuePlan[]> {
    const { prepared, cut, sensitivity, ports, signal } = this.#subject;
    const shares = outlierShares ?? new Array<number>(cut.grid.rows * cut.grid.columns).fill(0);
    const macs = classMacs(prepared, cut, shares);
    const value = problemOf(this.#subject, loss, widths, outlierShares, latencyOf);
    const options = { lambdas, search, weightCandidates: widths.weights, ceilings, latencyOf };
    return planByValue(prepared, cut, macs, value, sensitivity, options, ports.solver, signal);
  }

  /** With weights that each width has by itself: to tell plans apart. */
  async #check(plan: ValuePlan, classes: Classes | null): Promise<Point> {
    const options = imageOptions(this.#subject, plan.precisions, null);
    const { quality } = await judged(this.#subject, plan.precisions, options, classes, 'check');
    return { plan, quality };
  }

  /** The cheapest that agrees with the float model about as often as int8 does. */
  async #chooseByAgreement(points: readonly Point[], int8: ClassPrecisions): Promise<Point> {
    const least = await this.#leastAgreement(int8);
    return points.find((point) => point.quality.agreement >= least) ?? points.at(-1)!;
  }

  async #leastAgreement(int8: ClassPrecisions): Promise<number> {
    const options = imageOptions(this.#subject, int8, null);
    const { quality } = await judged(this.#subject, int8, options, null, 'check');
    return quality.agreement - allowedLoss(this.#subject.checkSamples.count);
  }

  async #row(
    form: string,
    plan: ValuePlan,
    classes: Classes | null,
    known: Awaited<ReturnType<typeof refined>> | null = null,
    subject: PatchSubject = this.#subject,
  ): Promise<Awaited<ReturnType<typeof refined>>> {
    const { prepared, cut } = subject;
    const { precisions } = plan;
    const refinement = known ?? (await refined(subject, precisions));
    const options = imageOptions(subject, precisions, refinement);
    const { quality, outlierShares } = await judged(subject, precisions, options, classes, 'test');
    const shares = outlierShares ?? new Array<number>(cut.grid.rows * cut.grid.columns).fill(0);
    const macs = classMacs(prepared, cut, shares);
    this.rows.push({
      model: this.#model,
      form,
      ramBytes: plan.peakBytes,
      ...(await this.#asImage(precisions, options, classes, subject)),
      bitOps: bitOperations(macs, cut, precisions, true),
      activationBitOps: bitOperations(macs, cut, precisions, false),
      weightBytes: plan.weightBytes,
      quality,
      outlierShare: outlierShares === null ? null : mean(shares),
      countedOutlierShare: outlierShares === null ? null : mean(this.#samples.map((one) => this.#outlierShare(one))),
      lambdas: plan.choice.lambdas,
    });
    return refinement;
  }

  #outlierShare(sample: Float32Array): number {
    const { prepared, cut, limits, rangeOf } = this.#subject;
    return outlierShareOf(sample, cut, limits, unsignedAffine(rangeOf(prepared.card.input.name, 8)!, 8));
  }

  /** The image with the plan's branches, whose answers must be the simulation's; there is none for classes that images cannot have. */
  async #asImage(
    precisions: ClassPrecisions,
    options: ImageOptions,
    classes: Classes | null,
    { prepared, cut, ports, testSamples, task }: PatchSubject,
  ): Promise<Pick<Row, 'arenaBytes' | 'counted'>> {
    if (classes !== null && !('low' in classes)) return { arenaBytes: null, counted: { lacking: '-' } };
    const outliers = classes === null ? null : { ...classes, precisions: precisions.outlier };
    const patches = { split: cut.stage.split, grid: cut.grid, isInputStreamed: memory.isInputStreamed, outliers };
    const form = { ...options, patches, arenaCeilingBytes: task.ceilingBytes };
    const { bytes, arenaBytes } = buildImage(prepared, precisions.plain, form);
    const counted = await countOnBoard(prepared, precisions.plain, form, this.#samples);
    if (classes === null) return { arenaBytes, counted };
    const engine = new EngineModel(bytes, { threads: 1 });
    const simulation = await PatchSimulation.open(prepared, cut, precisions, classes, options, {
      runtime: ports.runtime,
      threads: 1,
    });
    try {
      for (let sample = 0; sample < checkedSamples; sample++) {
        const data = await testSamples.read(sample);
        const [answer] = await engine.run([data]);
        const feeds = new Map([[prepared.card.input.name, { dims: prepared.inputDims, data }]]);
        const [expected] = [...(await simulation.run(feeds)).values()];
        if (!answer!.every((value, index) => Object.is(value, expected!.data[index])))
          throw new Error(`${this.#model}: the engine's branches answer something else than the simulation`);
      }
    } finally {
      engine.close();
      await simulation.close();
    }
    return { arenaBytes, counted };
  }
}

function nearest(points: readonly Point[], bitOps: number): Point {
  const distance = ({ plan }: Point) => Math.abs(Math.log(plan.activationBitOperations.network / bitOps));
  return points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
}

/** A point without its maps. */
function summary({ plan, quality }: Point) {
  const { choice, bitOperations: bitOps, activationBitOperations, peakBytes, weightBytes, latency, precisions } = plan;
  const bits = Object.fromEntries(
    [...precisions.plain].map(([name, of]) => [name, `W${of.weightBits}A${of.activationBits}`]),
  );
  return { lambdas: choice.lambdas, bitOps, activationBitOperations, peakBytes, weightBytes, latency, bits, quality };
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

/** How many, and how many times fewer than patch-based int8. */
function instructionsOf(base: Counted, counted: Counted): string {
  if ('lacking' in counted) return counted.lacking;
  const millions = `${(counted.instructions / 1e6).toFixed(2)} M`;
  return 'lacking' in base ? millions : `${millions} (${times(base.instructions, counted.instructions)})`;
}

function times(base: number, value: number): string {
  return `${(base / value).toFixed(2)}x`;
}

function tableOf(rows: readonly Row[]): string {
  const base = rows.find(({ form }) => form === 'patches, int8')!;
  const header = [
    '',
    'RAM KB',
    'arena KB',
    'instructions',
    'stage',
    'network',
    'stage A',
    'network A',
    'weights KB',
    'top-1',
    'KL',
    'outliers',
  ];
  const kilobytes = (bytes: number | null) => (bytes === null ? '-' : (bytes / 1024).toFixed(1));
  const cells = rows.map((row) => [
    row.form,
    kilobytes(row.ramBytes),
    kilobytes(row.arenaBytes),
    instructionsOf(base.counted, row.counted),
    times(base.bitOps.stage, row.bitOps.stage),
    times(base.bitOps.network, row.bitOps.network),
    times(base.activationBitOps.stage, row.activationBitOps.stage),
    times(base.activationBitOps.network, row.activationBitOps.network),
    kilobytes(row.weightBytes),
    row.quality.top1?.toFixed(3) ?? '-',
    row.quality.kl?.toFixed(4) ?? '-',
    row.outlierShare === null ? '-' : `${(100 * row.outlierShare).toFixed(0)} %`,
  ]);
  return `${base.model}: bit operations of patch-based int8 over these, weights counted and (A) not\n${table(header, cells)}`;
}

function verdict(rows: readonly Row[], { testSamples }: PatchSubject): string {
  const base = rows.find(({ form }) => form === 'patches, int8')!;
  const lines = ['ours', 'ours, fine widths', 'ours, instructions', 'ours, own patches'].map((wanted) => {
    const own = rows.find(({ form }) => form === wanted);
    if (own === undefined) return `${wanted}: no such plan`;
    const lost = base.quality.top1! - own.quality.top1!;
    const reduction = base.bitOps.network / own.bitOps.network;
    const isMet = reduction >= wantedReduction && lost <= allowedLoss(testSamples.count) + 1e-12;
    const speedup =
      'lacking' in base.counted || 'lacking' in own.counted
        ? null
        : base.counted.instructions / own.counted.instructions;
    const isFast =
      speedup === null ? 'not counted' : `${speedup.toFixed(2)}x: ${speedup >= wantedSpeedup ? 'met' : 'not met'}`;
    const figures = `${reduction.toFixed(3)}x fewer bit operations, ${(100 * lost).toFixed(1)} points lost of ${testSamples.count} samples`;
    return `${wanted}: ${figures}: ${isMet ? 'met' : 'not met'}; instructions ${isFast}`;
  });
  return lines.join('\n');
}

function paretoTable(front: readonly Point[], base: Row): string {
  const cells = front.map(({ plan, quality }) => [
    `${plan.choice.lambdas[0]} to ${plan.choice.lambdas.at(-1)}`,
    times(base.activationBitOps.stage, plan.activationBitOperations.stage),
    times(base.activationBitOps.network, plan.activationBitOperations.network),
    quality.agreement.toFixed(3),
    quality.kl?.toFixed(4) ?? '-',
  ]);
  return table(['lambda', 'stage A', 'network A', 'agreement', 'KL'], cells);
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
