/**
 * What patches cost and save: multiply-accumulates done twice, peak RAM, and the search for the split and grid that need the least of
 * the former within a ceiling on the latter (MCUNetV2, sections 3.1 and 3.2). All figures follow from shapes alone.
 */
import { EdgeError } from '../../../configs/contracts/errors.js';
import { graphInputs } from '../onnx/graph.js';
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

/** Bytes of live activations, which no arena is smaller than; kernels' scratch and padding of rows are not counted. */
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

/**
 * Share of multiply-accumulates that patches add to those of the stage: 0.42 is 42 % more. Negative where layers compute more that
 * nobody reads than branches compute twice.
 */
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
  const { macs, branchBytes } = costBranches(stage, grid, memory);
  const nominal = cutGrid(stage.tensors[stage.output]!, grid.rows, grid.columns)
    .map((region) => branchMacs(stage, branchOf(stage, region, 'nominal')))
    .reduce((a, b) => a + b, 0);
  const outputBytes = wholeBytes(stage, stage.output, memory);
  const inputBytes = memory.isInputStreamed ? 0 : wholeBytes(stage, stage.input, memory);
  const stageBytes = branchBytes + outputBytes + inputBytes;
  const tailBytes = remainderBytes(patched, stage, memory);
  const peakBytes = Math.max(stageBytes, tailBytes);
  return {
    split: stage.split,
    grid,
    macs: { layered: layeredMacs(stage), nominal, clipped: macs },
    ram: { branchBytes, outputBytes, inputBytes, stageBytes, tailBytes, peakBytes },
  };
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

/** A stage (null: none) and a grid, and what decides between them. */
interface Candidate {
  readonly stage: Stage | null;
  readonly grid: PatchGrid;
  readonly extraMacs: number;
  readonly peakBytes: number;
}

/**
 * The plan with the fewest multiply-accumulates (clipped) whose peak is within the ceiling, among all splits and all grids up to
 * `largestGrid` patches along an axis, and no patches at all. Equally good ones are decided by RAM, then by the number of patches,
 * then by the shorter stage. Where no plan is within the ceiling, `isWithin` is false and the plan is one of the least peak. Even
 * with RAM to spare a stage may win: branches leave out what nobody reads, such as the last row in front of a pool of stride 2.
 *
 * @throws RangeError for a `largestGrid` below 1, `model/unsupported` where tensors have unknown shapes
 */
export function searchPatches(
  patched: PatchedModel,
  ceilingBytes: number,
  memory: PatchMemory,
  largestGrid = 8,
): { readonly isWithin: boolean; readonly plan: PatchPlan } {
  if (!Number.isSafeInteger(largestGrid) || largestGrid < 1) throw new RangeError(`no grid has ${largestGrid} patches`);
  const layered = costLayered(patched, memory);
  let best: Candidate = { stage: null, grid: layered.grid, extraMacs: 0, peakBytes: layered.ram.peakBytes };
  const isWithin = ({ peakBytes }: Candidate) => peakBytes <= ceilingBytes;
  for (const stage of listStages(patched)) {
    const tailBytes = remainderBytes(patched, stage, memory);
    // Whatever the grid, the peak is no less than the tail's.
    if (tailBytes > ceilingBytes && (isWithin(best) || tailBytes > best.peakBytes)) continue;
    const outside = wholeBytes(stage, stage.output, memory);
    const fixedBytes = outside + (memory.isInputStreamed ? 0 : wholeBytes(stage, stage.input, memory));
    for (const grid of gridsOf(stage, largestGrid)) {
      const { macs, branchBytes } = costBranches(stage, grid, memory);
      const extraMacs = macs - layeredMacs(stage);
      const candidate = { stage, grid, extraMacs, peakBytes: Math.max(fixedBytes + branchBytes, tailBytes) };
      if (isBetter(candidate, best, isWithin)) best = candidate;
    }
  }
  const plan = best.stage === null ? layered : costPatches(patched, best.stage, best.grid, memory);
  return { isWithin: isWithin(best), plan };
}

function gridsOf({ tensors, output }: Stage, largest: number): PatchGrid[] {
  const upTo = (size: number) => Array.from({ length: Math.min(size, largest) }, (_, index) => index + 1);
  const { rows, columns } = tensors[output]!;
  return upTo(rows).flatMap((down) => upTo(columns).map((across) => ({ rows: down, columns: across })));
}

function isBetter(candidate: Candidate, best: Candidate, isWithin: (candidate: Candidate) => boolean): boolean {
  if (isWithin(candidate) !== isWithin(best)) return isWithin(candidate);
  const byMacs = candidate.extraMacs - best.extraMacs;
  const byBytes = candidate.peakBytes - best.peakBytes;
  const byCost = isWithin(candidate) ? byMacs || byBytes : byBytes || byMacs;
  const patches = ({ grid }: Candidate) => grid.rows * grid.columns;
  return (byCost || patches(candidate) - patches(best)) < 0;
}

/** Multiply-accumulates of all clipped branches together, and the most that one of them holds. */
function costBranches(stage: Stage, grid: PatchGrid, memory: PatchMemory): { macs: number; branchBytes: number } {
  const peakOfBranch = branchPeak(stage, memory);
  let macs = 0;
  let branchBytes = 0;
  for (const region of cutGrid(stage.tensors[stage.output]!, grid.rows, grid.columns)) {
    const branch = branchOf(stage, region, 'clipped');
    macs += branchMacs(stage, branch);
    branchBytes = Math.max(branchBytes, peakOfBranch(branch));
  }
  return { macs, branchBytes };
}

function layeredMacs(stage: Stage): number {
  return stage.operators.reduce((sum, { operator }) => sum + operator.macs, 0);
}

/** Multiply-accumulates of one branch. */
export function branchMacs(stage: Stage, { steps }: Branch): number {
  return stage.operators.reduce((sum, each, index) => sum + each.macsPerPosition * area(steps[index]!.computes), 0);
}

function wholeBytes({ tensors }: Stage, tensor: number, { bitsOf }: PatchMemory): number {
  const { name, channels, rows, columns } = tensors[tensor]!;
  return bytesOf(channels * rows * columns, bitsOf(name));
}

/**
 * Answers the most bytes that a clipped branch holds at once: every tensor's region from its operator to its last reader. The stage's
 * output is not among them, and the input only where it is streamed. Patches of different classes have different bits: ask for each.
 */
export function branchPeak(stage: Stage, memory: PatchMemory): (branch: Branch) => number {
  const schedule = stageSchedule(stage, memory.isInPlace);
  const bits = stage.tensors.map(({ name, channels }, tensor) =>
    isElsewhere(stage, tensor, memory) ? 0 : channels * memory.bitsOf(name),
  );
  return ({ regions }) => peakOf(schedule, (tensor) => bytesOf(area(regions[tensor]!), bits[tensor]!));
}

/** The stage's output, and its input where it is not streamed, are there for all branches. */
function isElsewhere(
  { input, output }: Stage,
  tensor: number,
  { isInputStreamed }: Pick<PatchMemory, 'isInputStreamed'>,
) {
  return tensor === output || (tensor === input && !isInputStreamed);
}

function stageSchedule({ operators, tensors }: Stage, isInPlace: boolean): Schedule {
  const steps = operators.map((each) => ({ ...each, isInPlace: isInPlace && each.canWriteOver }));
  return scheduleOf(steps, tensors.length, new Set());
}

/** A moment of the execution, at one operator: the tensors in RAM, and the bytes that they take at given bits. */
export interface PatchMoment {
  /** Of the stage: what a branch holds, of all branches the one that holds most then. */
  readonly isInStage: boolean;
  readonly tensors: readonly string[];
  readonly bytes: (bitsOf: PatchMemory['bitsOf']) => number;
}

/**
 * All moments of a model, those of its stage first (null: it has none); the largest is `PatchRam.peakBytes`. For searches that choose bits
 * by what they make of memory.
 *
 * @throws as `costPatches`
 */
export function momentsOf(
  patched: PatchedModel,
  cut: { readonly stage: Stage; readonly grid: PatchGrid } | null,
  memory: Omit<PatchMemory, 'bitsOf'>,
): PatchMoment[] {
  const moments: PatchMoment[] = [];
  if (cut !== null) {
    const { stage, grid } = cut;
    const schedule = stageSchedule(stage, memory.isInPlace);
    const fixed = [...stage.tensors.keys()].filter((tensor) => isElsewhere(stage, tensor, memory));
    const branches = differentBranches(stage, grid);
    for (let position = 0; position < stage.operators.length; position++) {
      const held = [...new Set([...aliveAt(schedule, position), ...fixed])];
      moments.push({
        isInStage: true,
        tensors: held.map((tensor) => stage.tensors[tensor]!.name),
        bytes: (bitsOf) => {
          const bits = stage.tensors.map(({ name, channels }, tensor) =>
            fixed.includes(tensor) ? 0 : channels * bitsOf(name),
          );
          const most = branches.reduce((peak, { regions }) => {
            const bytes = (tensor: number) => bytesOf(area(regions[tensor]!), bits[tensor]!);
            return Math.max(peak, liveAt(schedule, position, bytes));
          }, 0);
          return fixed.reduce((sum, tensor) => sum + wholeBytes(stage, tensor, { ...memory, bitsOf }), most);
        },
      });
    }
  }
  const { schedule, names, elements } = remainder(patched, cut?.stage ?? null, memory.isInPlace);
  for (let position = 0; position <= schedule.operators.length; position++) {
    moments.push({
      isInStage: false,
      tensors: aliveAt(schedule, position).map((tensor) => names[tensor]!),
      bytes: (bitsOf) => liveAt(schedule, position, (tensor) => bytesOf(elements[tensor]!, bitsOf(names[tensor]!))),
    });
  }
  return moments;
}

/** Branches without those that are as large as another everywhere. */
function differentBranches(stage: Stage, grid: PatchGrid): Branch[] {
  const branches = cutGrid(stage.tensors[stage.output]!, grid.rows, grid.columns).map((region) =>
    branchOf(stage, region, 'clipped'),
  );
  return [...new Map(branches.map((branch) => [branch.regions.map(area).join(), branch])).values()];
}

/** Peak of what runs operator by operator: the tail of a stage, or all of the model. */
function remainderBytes(patched: PatchedModel, stage: Stage | null, memory: PatchMemory): number {
  const { schedule, names, elements } = remainder(patched, stage, memory.isInPlace);
  return peakOf(schedule, (tensor) => bytesOf(elements[tensor]!, memory.bitsOf(names[tensor]!)));
}

/** What runs operator by operator, with the names and sizes of its tensors. */
function remainder(patched: PatchedModel, stage: Stage | null, isInPlace: boolean) {
  const { model, shapes } = patched;
  const operators = patched.operators.slice(stage?.split ?? 0);
  const source = stage === null ? graphInputs(model.graph)[0]!.name : stage.tensors[stage.output]!.name;
  const names = [source, ...operators.flatMap(({ outputs }) => outputs)];
  const index = new Map(names.map((name, position) => [name, position]));
  const indices = (list: readonly string[]) => list.flatMap((name) => index.get(name) ?? []);
  const elements = names.map((name) => {
    const shape = shapes.get(name);
    if (shape === undefined) throw new EdgeError('model/unsupported', `${name} has no known size`, { subject: name });
    return shape.reduce((a, b) => a * b, 1);
  });
  const steps = operators.map((operator) => ({
    inputs: indices(operator.inputs),
    outputs: indices(operator.outputs),
    isInPlace: isInPlace && canWriteOver(operator, patched),
  }));
  const delivered = new Set(indices(model.graph.outputs.map(({ name }) => name)));
  return { schedule: scheduleOf(steps, names.length, delivered), names, elements };
}

/** An operator by the indices of its tensors. */
interface ScheduledOperator {
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly isInPlace: boolean;
}

/** Operators one after another, and when each tensor is there, as `tensorLifetimes` has it. */
interface Schedule {
  readonly operators: readonly ScheduledOperator[];
  readonly first: readonly number[];
  readonly last: readonly number[];
}

/** @param delivered tensors that must be there at the end; what no operator makes is there at the beginning */
function scheduleOf(
  operators: readonly ScheduledOperator[],
  tensors: number,
  delivered: ReadonlySet<number>,
): Schedule {
  const first = new Array<number>(tensors).fill(0);
  const last = new Array<number>(tensors).fill(0);
  operators.forEach(({ inputs, outputs }, position) => {
    for (const tensor of outputs) first[tensor] = last[tensor] = position;
    for (const tensor of inputs) last[tensor] = position;
  });
  for (const tensor of delivered) last[tensor] = operators.length;
  return { operators, first, last };
}

/** Largest sum of live bytes. */
function peakOf(schedule: Schedule, bytes: (tensor: number) => number): number {
  let peak = 0;
  for (let position = 0; position <= schedule.operators.length; position++)
    peak = Math.max(peak, liveAt(schedule, position, bytes));
  return peak;
}

/** Indices of the tensors that are alive at a position. */
function aliveAt({ first, last }: Schedule, position: number): number[] {
  return [...first.keys()].filter((tensor) => first[tensor]! <= position && position <= last[tensor]!);
}

/** Bytes that are alive at a position. An output that is written over an input begins when that has ended. */
function liveAt(schedule: Schedule, position: number, bytes: (tensor: number) => number): number {
  const { operators, first, last } = schedule;
  let live = 0;
  for (let tensor = 0; tensor < first.length; tensor++)
    if (first[tensor]! <= position && position <= last[tensor]!) live += bytes(tensor);
  const operator = operators[position];
  if (operator === undefined || !operator.isInPlace) return live;
  const output = bytes(operator.outputs[0]!);
  const isRoom = (tensor: number) => last[tensor] === position && bytes(tensor) >= output;
  return operator.inputs.some(isRoom) ? live - output : live;
}

/** Bytes of elements, packed without gaps. */
function bytesOf(elements: number, bits: number): number {
  return Math.ceil((elements * bits) / 8);
}
