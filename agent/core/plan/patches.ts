/**
 * What patches cost and save: multiply-accumulates done twice, peak RAM, and the search for the split and grid that need the least of
 * the former within a ceiling on the latter (MCUNetV2, sections 3.1 and 3.2). All figures follow from shapes alone.
 */
import { EdgeError } from '../../../configs/contracts/errors.js';
import { graphInputs } from '../onnx/graph.js';
import type { Operator } from '../onnx/model.js';
import { liveBytes } from './memory.js';
import {
  area,
  type Branch,
  branchOf,
  canWriteOver,
  cutGrid,
  listStages,
  type PatchedModel,
  type Stage,
} from './patch-geometry.js';

/** How activations are kept. */
export interface PatchMemory {
  /** Bits of each element of a tensor. */
  readonly bitsOf: (tensor: string) => number;
  /** True: the caller hands over the input patch by patch. False: all of it lies in RAM while the stage runs. */
  readonly isInputStreamed: boolean;
  /** Depthwise convolutions and element-wise operators write over an input that nobody reads any more, if it is large enough. */
  readonly isInPlace: boolean;
}

/** Patches along each axis of the stage's output. */
export interface PatchGrid {
  readonly rows: number;
  readonly columns: number;
}

/** Multiply-accumulates of a stage: once, and in all branches together. */
export interface StageMacs {
  readonly layered: number;
  /** As if no branch were at a border; the published figures are of this kind. */
  readonly nominal: number;
  readonly clipped: number;
}

/** Bytes of activations; kernels' scratch and padding of rows are not counted. */
export interface PatchRam {
  /** The most that one branch holds, without the stage's output, which it writes into directly. */
  readonly branchBytes: number;
  /** The stage's output, which the branches assemble. */
  readonly outputBytes: number;
  /** The whole input where it is not streamed, else 0: then a branch holds its part. */
  readonly inputBytes: number;
  /** The three together. */
  readonly stageBytes: number;
  /** The tail, operator by operator. */
  readonly tailBytes: number;
  /** The larger of stage and tail. */
  readonly peakBytes: number;
}

/** One way to execute a model. */
export interface PatchPlan {
  /** Operators in the stage; 0 with a grid of 1 x 1: none, everything runs operator by operator. */
  readonly split: number;
  readonly grid: PatchGrid;
  readonly macs: StageMacs;
  readonly ram: PatchRam;
}

/** Share of multiply-accumulates that patches add to those of the stage: 0.42 is 42 % more. */
export function redundancy({ layered, clipped, nominal }: StageMacs): { nominal: number; clipped: number } {
  const share = (macs: number) => (layered === 0 ? 0 : macs / layered - 1);
  return { nominal: share(nominal), clipped: share(clipped) };
}

/** Rows and columns of the input that neighbouring patches both read, at most and borders aside; 0 where there is one patch. */
export function halo(stage: Stage, grid: PatchGrid): { rows: number; columns: number } {
  const image = stage.tensors[stage.output]!;
  const parts = cutGrid(image, grid.rows, grid.columns);
  const inputs = parts.map((region) => branchOf(stage, region, 'nominal').regions[stage.input]!);
  let [rows, columns] = [0, 0];
  inputs.forEach((input, index) => {
    const right = (index + 1) % grid.columns === 0 ? undefined : inputs[index + 1];
    const below = inputs[index + grid.columns];
    if (right !== undefined) columns = Math.max(columns, input.columns.end - right.columns.first);
    if (below !== undefined) rows = Math.max(rows, input.rows.end - below.rows.first);
  });
  return { rows, columns };
}

/**
 * Costs of executing a stage by a grid of patches and the rest operator by operator.
 *
 * @throws RangeError for grids finer than the stage's output, `model/unsupported` where the tail has tensors of unknown shape
 */
export function costPatches(patched: PatchedModel, stage: Stage, grid: PatchGrid, memory: PatchMemory): PatchPlan {
  return costGrid(stage, grid, memory, remainderBytes(patched, stage, memory));
}

/** The model without patches: the input in RAM, one operator after another. */
export function costLayered(patched: PatchedModel, memory: PatchMemory): PatchPlan {
  const tailBytes = remainderBytes(patched, null, memory);
  return {
    split: 0,
    grid: { rows: 1, columns: 1 },
    macs: { layered: 0, nominal: 0, clipped: 0 },
    ram: { branchBytes: 0, outputBytes: 0, inputBytes: 0, stageBytes: 0, tailBytes, peakBytes: tailBytes },
  };
}

/**
 * The plan with the fewest additional multiply-accumulates (clipped) whose peak is within the ceiling, among all splits and all grids
 * up to `largestGrid` patches along an axis, and no patches at all. Equally good ones are decided by RAM, then by the number of patches,
 * then by the shorter stage. Where no plan is within the ceiling, `isWithin` is false and the plan is one of the least peak.
 */
export function searchPatches(
  patched: PatchedModel,
  ceilingBytes: number,
  memory: PatchMemory,
  largestGrid = 8,
): { readonly isWithin: boolean; readonly plan: PatchPlan } {
  let best = costLayered(patched, memory);
  const isWithin = ({ ram }: PatchPlan) => ram.peakBytes <= ceilingBytes;
  for (const stage of listStages(patched)) {
    const tailBytes = remainderBytes(patched, stage, memory);
    // Whatever the grid, the peak is no less than the tail's.
    if (tailBytes > ceilingBytes && (isWithin(best) || tailBytes > best.ram.peakBytes)) continue;
    for (const grid of gridsOf(stage, largestGrid)) {
      const plan = costGrid(stage, grid, memory, tailBytes);
      if (isBetter(plan, best, isWithin)) best = plan;
    }
  }
  return { isWithin: isWithin(best), plan: best };
}

/** All grids of at least two patches that the stage's output can be cut into. */
function gridsOf({ tensors, output }: Stage, largest: number): PatchGrid[] {
  const upTo = (size: number) => Array.from({ length: Math.min(size, largest) }, (_, index) => index + 1);
  const { rows, columns } = tensors[output]!;
  const grids = upTo(rows).flatMap((across) => upTo(columns).map((along) => ({ rows: across, columns: along })));
  return grids.filter((grid) => grid.rows * grid.columns > 1);
}

function isBetter(plan: PatchPlan, best: PatchPlan, isWithin: (plan: PatchPlan) => boolean): boolean {
  if (isWithin(plan) !== isWithin(best)) return isWithin(plan);
  const extra = ({ macs }: PatchPlan) => macs.clipped - macs.layered;
  const patches = ({ grid }: PatchPlan) => grid.rows * grid.columns;
  const bytes = ({ ram }: PatchPlan) => ram.peakBytes;
  const byMacs = extra(plan) - extra(best);
  const byBytes = bytes(plan) - bytes(best);
  const byCost = isWithin(plan) ? byMacs || byBytes : byBytes || byMacs;
  return (byCost || patches(plan) - patches(best)) < 0;
}

function costGrid(stage: Stage, grid: PatchGrid, memory: PatchMemory, tailBytes: number): PatchPlan {
  const parts = cutGrid(stage.tensors[stage.output]!, grid.rows, grid.columns);
  const macs = { layered: 0, nominal: 0, clipped: 0 };
  for (const { operator } of stage.operators) macs.layered += operator.macs;
  let branchBytes = 0;
  for (const region of parts) {
    const clipped = branchOf(stage, region, 'clipped');
    macs.clipped += branchMacs(stage, clipped);
    macs.nominal += branchMacs(stage, branchOf(stage, region, 'nominal'));
    branchBytes = Math.max(branchBytes, branchPeakBytes(stage, clipped, memory));
  }
  const whole = (tensor: number) => {
    const { name, channels, rows, columns } = stage.tensors[tensor]!;
    return bytesOf(channels * rows * columns, memory.bitsOf(name));
  };
  const outputBytes = whole(stage.output);
  const inputBytes = memory.isInputStreamed ? 0 : whole(stage.input);
  const stageBytes = branchBytes + outputBytes + inputBytes;
  const peakBytes = Math.max(stageBytes, tailBytes);
  const ram = { branchBytes, outputBytes, inputBytes, stageBytes, tailBytes, peakBytes };
  return { split: stage.split, grid, macs, ram };
}

/** Multiply-accumulates of one branch. */
export function branchMacs(stage: Stage, { steps }: Branch): number {
  return stage.operators.reduce((sum, each, index) => sum + each.macsPerPosition * area(steps[index]!.computes), 0);
}

/**
 * Most bytes that a clipped branch holds at once: every tensor's region from its operator to its last reader. The stage's output is
 * not among them, and the input is where it is streamed. Branches of another class of patches have other bits: ask for each.
 */
export function branchPeakBytes(stage: Stage, branch: Branch, memory: PatchMemory): number {
  const byName = new Map(stage.tensors.map(({ name }, index) => [name, index]));
  return peakOf({
    operators: stage.operators.map((each) => ({ ...each.operator, isInPlace: memory.isInPlace && each.canWriteOver })),
    source: stage.tensors[stage.input]!.name,
    isDelivered: () => false,
    bytes: (name) => {
      const tensor = byName.get(name)!;
      if (tensor === stage.output || (tensor === stage.input && !memory.isInputStreamed)) return 0;
      return bytesOf(area(branch.regions[tensor]!) * stage.tensors[tensor]!.channels, memory.bitsOf(name));
    },
  });
}

/** Peak of what runs operator by operator: the tail of a stage, or all of the model. */
function remainderBytes(patched: PatchedModel, stage: Stage | null, memory: PatchMemory): number {
  const { model, operators, shapes } = patched;
  const delivered = new Set(model.graph.outputs.map(({ name }) => name));
  return peakOf({
    operators: operators.slice(stage?.split ?? 0).map((operator) => ({
      inputs: operator.inputs,
      outputs: operator.outputs,
      isInPlace: memory.isInPlace && canWriteOver(operator, patched),
    })),
    source: stage === null ? graphInputs(model.graph)[0]!.name : stage.tensors[stage.output]!.name,
    isDelivered: (name) => delivered.has(name),
    bytes: (name) => {
      const shape = shapes.get(name);
      if (shape === undefined)
        throw new EdgeError('model/unsupported', `the size of ${name} is not known`, { subject: name });
      return bytesOf(
        shape.reduce((a, b) => a * b, 1),
        memory.bitsOf(name),
      );
    },
  });
}

/** Operators one after another, and the memory of their tensors. */
interface Execution {
  readonly operators: readonly (Pick<Operator, 'inputs' | 'outputs'> & { readonly isInPlace: boolean })[];
  /** The tensor that is there at the beginning. */
  readonly source: string;
  /** Whether the tensor must be there at the end. */
  readonly isDelivered: (tensor: string) => boolean;
  readonly bytes: (tensor: string) => number;
}

/** Largest sum of live bytes; lifetimes are those of `tensorLifetimes`, but an output in place begins when its input has ended. */
function peakOf({ operators, source, isDelivered, bytes }: Execution): number {
  const end = operators.length;
  const lifetime = (name: string, first: number) => {
    return { name, bytes: bytes(name), first, last: isDelivered(name) ? end : first };
  };
  const alive = new Map([[source, lifetime(source, 0)]]);
  operators.forEach(({ inputs, outputs }, position) => {
    for (const name of outputs) alive.set(name, lifetime(name, position));
    for (const name of inputs) {
      const tensor = alive.get(name)!;
      tensor.last = Math.max(tensor.last, position);
    }
  });
  operators.forEach(({ inputs, outputs, isInPlace }, position) => {
    const output = alive.get(outputs[0]!)!;
    const ends = (name: string) => alive.get(name)!.last === position && alive.get(name)!.bytes >= output.bytes;
    if (isInPlace && output.last > position && inputs.some(ends)) output.first = position + 1;
  });
  return liveBytes([...alive.values()], end + 1).reduce((a, b) => Math.max(a, b), 0);
}

function bytesOf(elements: number, bits: number): number {
  return Math.ceil((elements * bits) / 8);
}
