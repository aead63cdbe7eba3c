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
  const besideBytes = room.besideArena(layered.bytes);
  const ownBytes = room.ramBytes - besideBytes;
  const ceiling = Math.min(budget.ramBytes ?? Number.POSITIVE_INFINITY, ownBytes);
  const limits = {
    ...budget,
    ramBytes: ceiling,
    flashBytes: Math.min(budget.flashBytes ?? Number.POSITIVE_INFINITY, room.flashBytes),
  };
  const base = { layeredArenaBytes: layered.arenaBytes, besideBytes, limits };
  const plain = { ...base, patches: null, arenaBytes: layered.arenaBytes, redundancy: none, shares: new Map() };
  if (layered.arenaBytes <= ceiling) return plain;
  for (const { plan, shares } of rankCuts(prepared, ceiling + uncountedBytes(prepared), memory, latencyOf)) {
    const patches = patchesOf(plan);
    const built = buildIfPossible(build, patches);
    if (
      built === null ||
      built.arenaBytes > ceiling ||
      built.arenaBytes + room.besideArena(built.bytes) > room.ramBytes
    )
      continue;
    return { ...base, patches, arenaBytes: built.arenaBytes, redundancy: redundancy(plan.macs), shares };
  }
  const cut = leastCut(prepared, build, layered.arenaBytes);
  const arenaBytes = cut?.arenaBytes ?? layered.arenaBytes;
  if (arenaBytes > ownBytes) throw noRoom('RAM', arenaBytes + besideBytes, room.ramBytes);
  if (cut === null) return plain;
  const { plan, shares } = cut;
  return { ...base, patches: patchesOf(plan), arenaBytes, redundancy: redundancy(plan.macs), shares };
}

/** As many cuts are built in search of the least arena: those of the fewest live bytes. */
const leastCandidates = 48;

/** The cut of the least arena, if it is below that of layers. */
function leastCut(prepared: PreparedModel, build: BuildCut, layeredBytes: number) {
  const slack = uncountedBytes(prepared);
  const cuts = rankCuts(prepared, layeredBytes + slack, memory, () => 0);
  let best: (RankedCut & { readonly arenaBytes: number }) | null = null;
  for (const cut of cuts.slice(0, leastCandidates)) {
    if (cut.plan.ram.peakBytes >= (best?.arenaBytes ?? layeredBytes) + slack) break;
    const arenaBytes = buildIfPossible(build, patchesOf(cut.plan))?.arenaBytes ?? layeredBytes;
    if (arenaBytes < (best?.arenaBytes ?? layeredBytes)) best = { ...cut, arenaBytes };
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
const none = { nominal: 0, clipped: 0 };

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
