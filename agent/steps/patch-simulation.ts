/**
 * Inference by patches of two classes with the engine's integers, and without its patches: every patch computes what layers compute there, so
 * the stage runs layer by layer at the precisions of either class, each patch takes its part from one of the two, and the tail goes
 * on from there. Much faster than running branches, for searches that try many plans; and a second account of what the engine must
 * answer. Classes may be fixed for each position or depend on the input, which images can only do in the latter way.
 */
import type { ModelCard } from '../../configs/contracts/card.js';
import { activationBits, buildImage, floatTail, type ImageOptions } from '../core/image/build.js';
import { unsupported } from '../core/image/unsupported.js';
import { branchOf, cutGrid, type Region } from '../core/plan/patch-geometry.js';
import { type CodeImage, type CodeLimits, classifyPatches, PatchVotes } from '../core/plan/value-classes.js';
import type { ClassPrecisions, PatchCut, Precisions } from '../core/plan/value-problem.js';
import type { PreparedModel } from '../core/prepare.js';
import type { Affine } from '../core/quant/affine.js';
import type { Feed, Feeds, Runtime, Session } from '../ports.js';
import { inputCodes } from './value-statistics.js';

/** Who is an outlier patch: those whose windows have codes beyond the limits, or the same positions for all inputs. */
export type Classes = CodeLimits | readonly boolean[];

/** What the branches of a grid read of the stage's input, row by row. */
export function patchWindows({ stage, grid }: PatchCut): Region[] {
  return cutGrid(stage.tensors[stage.output]!, grid.rows, grid.columns).map(
    (region) => branchOf(stage, region, 'clipped').regions[stage.input]!,
  );
}

/** Runs a model in patches of two classes; see above. Close it. */
export class PatchSimulation implements Session {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  /** Of all samples so far. */
  readonly votes: PatchVotes;
  readonly #prepared: PreparedModel;
  readonly #cut: PatchCut;
  readonly #classes: Classes;
  readonly #inputGrid: Affine;
  readonly #windows: readonly Region[];
  readonly #regions: readonly Region[];
  readonly #sessions: readonly [plain: Session, outlier: Session, tail: Session];

  private constructor(
    prepared: PreparedModel,
    cut: PatchCut,
    classes: Classes,
    inputGrid: Affine,
    sessions: readonly [plain: Session, outlier: Session, tail: Session],
  ) {
    this.#prepared = prepared;
    this.#cut = cut;
    this.#classes = classes;
    this.#inputGrid = inputGrid;
    this.#sessions = sessions;
    this.#windows = patchWindows(cut);
    const { stage, grid } = cut;
    this.#regions = cutGrid(stage.tensors[stage.output]!, grid.rows, grid.columns);
    this.votes = new PatchVotes(this.#regions.length);
    this.inputNames = [prepared.card.input.name];
    this.outputNames = prepared.model.graph.outputs.map(({ name }) => name);
  }

  /** Fails as `buildImage` does. */
  static async open(
    prepared: PreparedModel,
    cut: PatchCut,
    { plain, outlier }: ClassPrecisions,
    classes: Classes,
    options: ImageOptions,
    { runtime, threads }: { readonly runtime: Runtime; readonly threads: number },
  ): Promise<PatchSimulation> {
    const result = cut.stage.tensors[cut.stage.output]!.name;
    const first = buildImage(stagePart(prepared, cut, plain), plain, options);
    const grid = first.gridOf(result);
    if (grid === null) throw unsupported(prepared.operators[cut.stage.split - 1]!, 'what follows it runs on floats');
    const ending: ImageOptions = { ...options, gridOf: (tensor) => (tensor === result ? grid : null) };
    const images = [
      first,
      buildImage(stagePart(prepared, cut, outlier), outlier, ending),
      buildImage(tailPart(prepared, cut), plain, ending),
    ];
    const sessions: Session[] = [];
    try {
      for (const { bytes } of images) sessions.push(await runtime.open(bytes, { threads }));
    } catch (error) {
      for (const session of sessions) await session.close();
      throw error;
    }
    const inputGrid = first.gridOf(prepared.card.input.name)!;
    return new PatchSimulation(prepared, cut, classes, inputGrid, sessions as [Session, Session, Session]);
  }

  async run(feeds: Feeds, outputs?: readonly string[]): Promise<ReadonlyMap<string, Feed>> {
    const { stage } = this.#cut;
    const { name, channels, rows, columns } = stage.tensors[stage.output]!;
    const classes = this.#classify(feeds.get(this.#prepared.card.input.name)!.data as Float32Array);
    this.votes.add(classes);
    const [plain, outlier, tail] = this.#sessions;
    const [plainCodes, outlierCodes] = await Promise.all([
      classes.every((isOutlier) => isOutlier) ? null : plain.run(feeds),
      classes.some((isOutlier) => isOutlier) ? outlier.run(feeds) : null,
    ]);
    const [stitched, other] = [plainCodes ?? outlierCodes, outlierCodes].map((results) => results?.get(name)?.data);
    const data = stitched as Float32Array;
    for (const [patch, region] of this.#regions.entries()) {
      if (!classes[patch]) continue;
      for (let channel = 0; channel < channels; channel++) {
        for (let row = region.rows.first; row < region.rows.end; row++) {
          const from = (channel * rows + row) * columns;
          const [first, end] = [from + region.columns.first, from + region.columns.end];
          data.set((other as Float32Array).subarray(first, end), first);
        }
      }
    }
    return tail.run(new Map([[name, { dims: [1, channels, rows, columns], data }]]), outputs);
  }

  async close(): Promise<void> {
    await Promise.all(this.#sessions.map((session) => session.close()));
  }

  #classify(input: Float32Array): readonly boolean[] {
    if (!('low' in this.#classes)) return this.#classes;
    const { stage } = this.#cut;
    const image: CodeImage = { ...stage.tensors[stage.input]!, codes: inputCodes(input, this.#inputGrid) };
    return classifyPatches(image, this.#windows, this.#classes);
  }
}

/** The stage as a model that hands out, as floats, the very codes that the tail would read. */
function stagePart(prepared: PreparedModel, { stage }: PatchCut, precisions: Precisions): PreparedModel {
  const { name, channels, rows, columns } = stage.tensors[stage.output]!;
  const { operators, model } = prepared;
  const bits = activationBits(prepared, precisions).get(name);
  let end = stage.split + 1;
  const part = () => ({ ...prepared, operators: operators.slice(0, end) });
  // As far into the tail as it takes for the result to be codes and not floats, and of the bits that the tail's readers want.
  const isAlike = () => {
    const floats = floatTail(part());
    const isCodes = part().operators.some((operator) => operator.inputs.includes(name) && !floats.has(operator));
    return isCodes && activationBits(part(), precisions).get(name) === bits;
  };
  while (end < operators.length && !isAlike()) end++;
  const outputs = [{ name, type: 'float32' as const, shape: [1, channels, rows, columns] }];
  return { ...part(), model: { ...model, graph: { ...model.graph, outputs } } };
}

/** What follows the stage, as a model of which the stage's output is the input. */
function tailPart(prepared: PreparedModel, { stage }: PatchCut): PreparedModel {
  const { name, channels, rows, columns } = stage.tensors[stage.output]!;
  const inputDims = [1, channels, rows, columns];
  const card: ModelCard = { ...prepared.card, input: { name, layout: 'NCHW', shape: inputDims } };
  return { ...prepared, card, inputDims, operators: prepared.operators.slice(stage.split) };
}
