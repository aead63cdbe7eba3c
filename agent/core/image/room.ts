/**
 * Fits a model to a target that has little room: what its RAM and its flash hold are ceilings that nobody has to name, and where activations
 * do not fit layer by layer, the first operators run patch by patch.
 */
import { EdgeError } from '../../../configs/contracts/errors.js';
import type { Budget, Precision } from '../../../configs/contracts/plan.js';
import type { Operator } from '../onnx/model.js';
import { type RankedCut, rankCuts } from '../plan/patch-ranking.js';
import { type PatchMemory, type PatchPlan, redundancy } from '../plan/patches.js';
import type { Problem } from '../plan/problem.js';
import type { PreparedModel } from '../prepare.js';
import type { BuiltImage, ImagePatches } from './build.js';

/** What a target has for a model, where that is little. */
export interface Room {
  /** For everything that a model needs while it runs. */
  readonly ramBytes: number;
  /** For one image. */
  readonly flashBytes: number;
  /** RAM that an image needs beside its arena, or a little more. */
  besideArena(image: Uint8Array): number;
}

/** How a model fits. Bytes of RAM are the engine's arena of activations. */
export interface Fit {
  /** null: layer by layer. */
  readonly patches: ImagePatches | null;
  readonly arenaBytes: number;
  readonly layeredArenaBytes: number;
  /** Share of multiply-accumulates of the stage that patches add; 0 without patches. */
  readonly redundancy: { readonly nominal: number; readonly clipped: number };
  /** How often operators are computed, by name, where it is not once. */
  readonly shares: ReadonlyMap<string, number>;
  /** What a model takes on the target beside its arena: records, scratch memory, floats of outputs. */
  readonly besideBytes: number;
  /** The budget with the target's own ceilings. */
  readonly limits: Budget;
}

/** Builds an image of the model; its arena does not depend on precisions, as the engine keeps a byte for each code. */
export type BuildCut = (patches: ImagePatches | null) => BuiltImage;

/** Live bytes that no arena is below: a lower bound, by which cuts are sorted out before they are built. */
const memory: PatchMemory = { bitsOf: () => 8, isInputStreamed: true, isInPlace: true };

/**
 * The fastest way to run the model whose arena is within the budget and the target: layer by layer if that is, else the cut with the least
 * additional time. Where only the budget is missed, it is the cut of least RAM, and the planner tells by how much. Fails with
 * `mcu/no-room` where the model fits the target in no way.
 *
 * @param latencyOf what an operator takes layer by layer, to compare cuts by
 */
export function fitToRoom(
  prepared: PreparedModel,
  room: Room,
  budget: Budget,
  build: BuildCut,
  latencyOf: (operator: Operator) => number,
): Fit {
  const layered = build(null);
  const fitOf = (built: BuiltImage, cut: RankedCut | null): Fit => {
    const besideBytes = room.besideArena(built.bytes);
    const limits = {
      ...budget,
      ramBytes: Math.min(budget.ramBytes ?? Number.POSITIVE_INFINITY, room.ramBytes - besideBytes),
      flashBytes: Math.min(budget.flashBytes ?? Number.POSITIVE_INFINITY, room.flashBytes),
    };
    return {
      patches: cut === null ? null : patchesOf(cut.plan),
      arenaBytes: built.arenaBytes,
      layeredArenaBytes: layered.arenaBytes,
      redundancy: cut === null ? { nominal: 0, clipped: 0 } : redundancy(cut.plan.macs),
      shares: cut?.shares ?? new Map(),
      besideBytes,
      limits,
    };
  };
  const isWithin = ({ arenaBytes, limits }: Fit) => arenaBytes <= limits.ramBytes!;
  const plain = fitOf(layered, null);
  if (isWithin(plain)) return plain;
  for (const cut of rankCuts(prepared, plain.limits.ramBytes! + uncountedBytes(prepared), memory, latencyOf)) {
    const built = buildIfPossible(build, patchesOf(cut.plan));
    const fit = built === null ? null : fitOf(built, cut);
    if (fit !== null && isWithin(fit)) return fit;
  }
  const least = leastCut(prepared, build, layered.arenaBytes);
  const fit = least === null ? plain : fitOf(least.built, least.cut);
  const neededBytes = fit.arenaBytes + fit.besideBytes;
  if (neededBytes > room.ramBytes) throw noRoom('RAM', neededBytes, room.ramBytes);
  return fit;
}

/** As many cuts are built in search of the least arena: those of the fewest live bytes. */
const leastCandidates = 48;

/** The cut of the least arena, if it is below that of layers. */
function leastCut(prepared: PreparedModel, build: BuildCut, layeredBytes: number) {
  const slack = uncountedBytes(prepared);
  let best: { readonly cut: RankedCut; readonly built: BuiltImage } | null = null;
  const leastBytes = () => best?.built.arenaBytes ?? layeredBytes;
  for (const cut of rankCuts(prepared, layeredBytes + slack, memory, () => 0).slice(0, leastCandidates)) {
    if (cut.plan.ram.peakBytes >= leastBytes() + slack) break;
    const built = buildIfPossible(build, patchesOf(cut.plan));
    if (built !== null && built.arenaBytes < leastBytes()) best = { cut, built };
  }
  return best;
}

/**
 * What live bytes of shapes may be above the arena: outputs are counted, and lie elsewhere, being floats of the caller; and so is what only
 * gets another shape, which takes nothing.
 */
function uncountedBytes({ model, shapes, operators }: PreparedModel): number {
  const elements = (name: string) => (shapes.get(name) ?? []).reduce((a, b) => a * b, 1);
  const outputs = model.graph.outputs.reduce((sum, { name }) => sum + elements(name), 0);
  const views = operators.filter(({ op }) => viewOps.has(op)).flatMap((operator) => operator.outputs.map(elements));
  return outputs + Math.max(0, ...views);
}

const viewOps: ReadonlySet<string> = new Set(['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Identity', 'Dropout']);
function patchesOf({ split, grid }: PatchPlan): ImagePatches {
  return { split, grid, isInputStreamed: memory.isInputStreamed };
}

/** null where the engine has no form for a cut. */
function buildIfPossible(build: BuildCut, patches: ImagePatches): BuiltImage | null {
  try {
    return build(patches);
  } catch (error) {
    if (error instanceof EdgeError && error.code === 'model/unsupported') return null;
    throw error;
  }
}

/** What a model needs and a target lacks. */
export function noRoom(what: 'RAM' | 'flash', neededBytes: number, hasBytes: number): EdgeError {
  const message = `the model needs ${neededBytes} bytes of ${what} on the board, ${neededBytes - hasBytes} more than the ${hasBytes} that it has for a model`;
  return new EdgeError('mcu/no-room', message, { subject: what });
}

/** A problem of the model layer by layer as it is with a fit: the arena is what it is whatever the bits, and branches compute some things twice. */
export function fitted(problem: Problem, { arenaBytes, shares }: Fit): Problem {
  const operators = problem.operators.map((operator) => {
    const share = shares.get(operator.name) ?? 1;
    const choices = operator.choices.map((choice) => {
      const { latency, bitOps } = choice.costs;
      return { ...choice, costs: { ...choice.costs, latency: latency * share, bitOps: bitOps * share } };
    });
    return share === 1 ? operator : { ...operator, choices };
  });
  return { ...problem, operators, edges: [], fixed: { ...problem.fixed, ramBytes: arenaBytes } };
}

/** Uniform int8. */
export function uniformInt8({ operators }: PreparedModel): ReadonlyMap<string, Precision> {
  return new Map(operators.map(({ name }) => [name, { weightBits: 8, activationBits: 8 }]));
}
