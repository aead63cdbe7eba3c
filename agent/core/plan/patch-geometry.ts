/**
 * Geometry of inference by patches (Lin et al., "MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning", 2021,
 * section 3.1): which rectangle of every tensor one branch computes to make a given rectangle of the stage's output.
 */
import { EdgeError } from '../../../configs/contracts/errors.js';
import { intAttribute, intsAttribute } from '../onnx/attributes.js';
import { slidingGeometry } from '../onnx/geometry.js';
import type { Node, Operator } from '../onnx/model.js';
import { convGeometry, normalizeAxis } from '../onnx/shape-rules.js';
import type { PreparedModel } from '../prepare.js';

/** What patches need to know of a prepared model. */
export type PatchedModel = Pick<PreparedModel, 'model' | 'shapes' | 'operators'>;

/** Positions `first .. end - 1` along one axis; empty where they are equal. */
export interface Span {
  readonly first: number;
  readonly end: number;
}

/** A rectangle of a tensor, through all of its channels. Where one axis is empty, both are. */
export interface Region {
  readonly rows: Span;
  readonly columns: Span;
}

/** An image in a stage: one sample, channels first. */
export interface StageTensor {
  readonly name: string;
  readonly channels: number;
  readonly rows: number;
  readonly columns: number;
}

/** How an operator moves over one axis: output `o` reads the input at `o * stride - pad + k * dilation`, `0 <= k < kernel`. */
interface Window {
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  readonly pad: number;
}

/** An operator that a stage can hold: each output position depends on a window around one position of its inputs. */
export interface StageOperator {
  readonly operator: Operator;
  /** Indices into the stage's tensors. */
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  /** null: it reads the positions that it computes. */
  readonly window: { readonly rows: Window; readonly columns: Window } | null;
  /** Multiply-accumulates for one position of the output, all channels. */
  readonly macsPerPosition: number;
  readonly canWriteOver: boolean;
}

/** The operators in front of a split, which run once for each patch; one image goes in, one comes out. */
export interface Stage {
  /** How many operators of the model it has; the tail is the rest. */
  readonly split: number;
  readonly operators: readonly StageOperator[];
  readonly tensors: readonly StageTensor[];
  /** Indices of the tensor that goes in and of the one that the tail reads. */
  readonly input: number;
  readonly output: number;
}

/** Whether a branch stops at the borders of the images or goes on into the padding, as if all patches were alike. */
export type Borders = 'clipped' | 'nominal';

/** What the geometry of a stage follows from: operators in the order in which they run, tensors by their indices. */
export interface StageGeometry {
  readonly operators: readonly Pick<StageOperator, 'inputs' | 'outputs' | 'window'>[];
  readonly tensors: readonly Pick<StageTensor, 'rows' | 'columns'>[];
  readonly input: number;
  readonly output: number;
}

/** What one branch does; both lists are parallel to those of the stage. */
export interface Branch {
  /** What each operator computes, and what it reads of each of its inputs for that. */
  readonly steps: readonly { readonly computes: Region; readonly reads: Region }[];
  /** What of each tensor the branch holds: the least rectangle with all that is read of it. */
  readonly regions: readonly Region[];
}

const emptyRegion: Region = { rows: { first: 0, end: 0 }, columns: { first: 0, end: 0 } };

const slidingOps: ReadonlySet<string> = new Set(['Conv', 'MaxPool', 'AveragePool', 'LpPool']);
const pointwiseOps: ReadonlySet<string> = new Set([
  ...['Add', 'Sub', 'Mul', 'Div', 'Sum', 'Min', 'Max', 'Mean', 'BatchNormalization', 'Identity', 'Dropout'],
  ...['Relu', 'Clip', 'LeakyRelu', 'PRelu', 'Sigmoid', 'HardSigmoid', 'HardSwish', 'Tanh', 'Elu', 'Selu', 'Celu'],
  ...['Gelu', 'Mish', 'Softplus', 'Softsign', 'ThresholdedRelu', 'Abs', 'Neg'],
]);
const channelOps: ReadonlySet<string> = new Set(['Concat', 'Split']);

/**
 * Whether an operator can write its output over an input: it is element-wise, or a depthwise convolution, whose kernels keep the few rows
 * of one channel that are still to be read (MCUNetV2's engine does it so; those rows are scratch).
 */
export function canWriteOver(operator: Operator, { model, shapes }: PatchedModel): boolean {
  const [first, ...rest] = operator.nodes;
  const isPointwise = ({ op, domain }: Node) => domain === '' && pointwiseOps.has(op);
  if (first === undefined || !rest.every(isPointwise) || operator.outputs.length !== 1) return false;
  if (isPointwise(first)) return true;
  const weight =
    first.op === 'Conv' && first.domain === '' ? model.graph.initializers.get(first.inputs[1]!) : undefined;
  const channels = shapes.get(first.inputs[0]!)?.[1];
  return weight?.dims[1] === 1 && weight.dims[0] === channels;
}

/**
 * The first `split` operators as a stage.
 *
 * @throws RangeError where the model has no such split; EdgeError `model/unsupported` where one of the operators needs more of the
 * image than a window (a global pool, a product of matrices), or where not exactly one image crosses the split
 */
export function cutStage(patched: PatchedModel, split: number): Stage {
  if (!Number.isSafeInteger(split) || split < 1 || split > patched.operators.length) {
    throw new RangeError(`a model of ${patched.operators.length} operators has no split at ${split}`);
  }
  const stage = stageOrObstacle(patched, split);
  if ('operators' in stage) return stage;
  throw new EdgeError('model/unsupported', stage.message, {
    subject: stage.subject,
    hint: 'Choose another split: patches are for the convolutions and pools at the beginning of a model.',
  });
}

/** All stages that the model can be cut into, the shortest first. */
export function listStages(patched: PatchedModel): Stage[] {
  const splits = patched.operators.map((_, index) => index + 1);
  return splits.flatMap((split) => {
    const stage = stageOrObstacle(patched, split);
    return 'operators' in stage ? [stage] : [];
  });
}

interface Obstacle {
  readonly subject: string;
  readonly message: string;
}

function stageOrObstacle(patched: PatchedModel, split: number): Stage | Obstacle {
  const held = patched.operators.slice(0, split);
  const made = new Set(held.flatMap(({ outputs }) => outputs));
  const readByTail = new Set(patched.operators.slice(split).flatMap(({ inputs }) => inputs));
  for (const { name } of patched.model.graph.outputs) readByTail.add(name);
  const sources = [...new Set(held.flatMap(({ inputs }) => inputs))].filter((name) => !made.has(name));
  const crossing = [...made].filter((name) => readByTail.has(name));
  const last = held[split - 1]!;
  if (sources.length !== 1 || readByTail.has(sources[0]!)) {
    return { subject: last.name, message: `the operators up to ${last.name} are not the only readers of one input` };
  }
  if (crossing.length !== 1) {
    return { subject: last.name, message: `${crossing.length} tensors are read behind ${last.name}, not one` };
  }
  const names = [sources[0]!, ...made];
  const tensors: StageTensor[] = [];
  for (const name of names) {
    const shape = patched.shapes.get(name);
    if (shape?.length !== 4 || shape[0] !== 1) return { subject: name, message: `${name} is not one image` };
    tensors.push({ name, channels: shape[1]!, rows: shape[2]!, columns: shape[3]! });
  }
  const index = new Map(names.map((name, position) => [name, position]));
  const operators: StageOperator[] = [];
  for (const operator of held) {
    const inputs = operator.inputs.map((name) => index.get(name)!);
    const outputs = operator.outputs.map((name) => index.get(name)!);
    if (
      !isLocal(
        operator,
        patched,
        inputs.concat(outputs).map((tensor) => tensors[tensor]!),
      )
    ) {
      return { subject: operator.name, message: `${operator.op} ${operator.name} cannot be computed patch by patch` };
    }
    const { rows, columns } = tensors[outputs[0]!]!;
    operators.push({
      operator,
      inputs,
      outputs,
      window: windowOf(operator, patched),
      macsPerPosition: operator.macs / (rows * columns),
      canWriteOver: canWriteOver(operator, patched),
    });
  }
  return { split, operators, tensors, input: 0, output: index.get(crossing[0]!)! };
}

/** @param images inputs and outputs of the operator */
function isLocal(operator: Operator, { model }: PatchedModel, images: readonly StageTensor[]): boolean {
  const [first, ...rest] = operator.nodes;
  const constants = (node: Node) => node.inputs.flatMap((name) => model.graph.initializers.get(name) ?? []);
  const pointwise = ({ op, domain }: Node) => domain === '' && pointwiseOps.has(op);
  // A constant that varies over the image would have to be cut as well.
  const isUniform = (node: Node) =>
    node.op === 'BatchNormalization' || constants(node).every(({ dims }) => dims.slice(-2).every((size) => size === 1));
  if (first === undefined || operator.inputs.length === 0) return false;
  if (!rest.every((node) => pointwise(node) && isUniform(node))) return false;
  if (slidingOps.has(first.op) && first.domain === '') {
    return operator.inputs.length === 1 && operator.outputs.length === 1;
  }
  if (images.some(({ rows, columns }) => rows !== images[0]!.rows || columns !== images[0]!.columns)) return false;
  if (channelOps.has(first.op) && first.domain === '') {
    const axis = intAttribute(first, 'axis', first.op === 'Split' ? 0 : 1);
    return normalizeAxis(first, axis, 4) === 1 && (first.op === 'Split' || constants(first).length === 0);
  }
  return pointwise(first) && isUniform(first);
}

function windowOf({ nodes, inputs }: Operator, { model, shapes }: PatchedModel): StageOperator['window'] {
  const node = nodes[0]!;
  if (!slidingOps.has(node.op)) return null;
  const input = shapes.get(inputs[0]!)!;
  const geometry =
    node.op === 'Conv'
      ? convGeometry(node, input, model.graph.initializers.get(node.inputs[1]!)!.dims)
      : slidingGeometry(node, input.slice(2), intsAttribute(node, 'kernel_shape')!);
  const along = (axis: number): Window => ({
    kernel: geometry.kernel[axis]!,
    stride: geometry.strides[axis]!,
    dilation: geometry.dilations[axis]!,
    pad: geometry.pads[axis]!,
  });
  return { rows: along(0), columns: along(1) };
}

/**
 * What a branch computes and reads for a region of the stage's output. Operators compute rectangles: positions between those that
 * are read, which strides and dilations leave out, are computed too. `clipped` is exact: no row or column at the edge of what an
 * operator reads is without use to it, and padding is never read. `nominal` is the rule of MCUNetV2, `(size - 1) * stride +
 * kernel`, without borders: coordinates may lie outside of the images.
 *
 * @throws RangeError where the region is not inside the stage's output
 */
export function branchOf(stage: StageGeometry, region: Region, borders: Borders): Branch {
  const { rows, columns } = stage.tensors[stage.output]!;
  if (!isInside(region.rows, rows) || !isInside(region.columns, columns)) {
    throw new RangeError(
      `rows ${spell(region.rows)}, columns ${spell(region.columns)} are not in ${rows} x ${columns}`,
    );
  }
  const regions = new Array<Region>(stage.tensors.length).fill(emptyRegion);
  regions[stage.output] = region;
  const steps = new Array<Branch['steps'][number]>(stage.operators.length);
  for (let position = stage.operators.length - 1; position >= 0; position--) {
    const operator = stage.operators[position]!;
    const computes = operator.outputs.reduce((all, output) => hull(all, regions[output]!), emptyRegion);
    const reads = readFor(operator, computes, stage.tensors[operator.inputs[0]!]!, borders);
    for (const input of operator.inputs) regions[input] = hull(regions[input]!, reads);
    steps[position] = { computes, reads };
  }
  return { steps, regions };
}

/** Rows and columns of the input that one position of the output depends on, borders aside. */
export function receptiveField(stage: Stage): { readonly rows: number; readonly columns: number } {
  const pixel: Span = { first: 0, end: 1 };
  const field = branchOf(stage, { rows: pixel, columns: pixel }, 'nominal').regions[stage.input]!;
  return { rows: length(field.rows), columns: length(field.columns) };
}

/**
 * Cuts an image into a grid of regions, row by row: patch `a` of `n` along an axis has the positions from `floor(a * size / n)`,
 * so that sizes differ by one at most.
 *
 * @throws RangeError for grids finer than the image
 */
export function cutGrid(image: Pick<StageTensor, 'rows' | 'columns'>, rows: number, columns: number): Region[] {
  const bands = cutAxis(image.columns, columns);
  return cutAxis(image.rows, rows).flatMap((band) => bands.map((column) => ({ rows: band, columns: column })));
}

function cutAxis(size: number, count: number): Span[] {
  if (!Number.isSafeInteger(count) || count < 1 || count > size) {
    throw new RangeError(`${size} positions cannot be cut into ${count}`);
  }
  const border = (index: number) => Math.floor((index * size) / count);
  return Array.from({ length: count }, (_, index) => ({ first: border(index), end: border(index + 1) }));
}

/** Positions in a region. */
export function area({ rows, columns }: Region): number {
  return length(rows) * length(columns);
}

/** Positions in a span. */
export function length({ first, end }: Span): number {
  return end - first;
}

function readFor(
  operator: Pick<StageOperator, 'window'>,
  computes: Region,
  input: Pick<StageTensor, 'rows' | 'columns'>,
  borders: Borders,
): Region {
  const { window } = operator;
  if (window === null || area(computes) === 0) return computes;
  const rows = spanRead(window.rows, computes.rows, input.rows, borders);
  const columns = spanRead(window.columns, computes.columns, input.columns, borders);
  return length(rows) === 0 || length(columns) === 0 ? emptyRegion : { rows, columns };
}

function spanRead({ kernel, stride, dilation, pad }: Window, span: Span, size: number, borders: Borders): Span {
  const reach = (kernel - 1) * dilation;
  const first = span.first * stride - pad;
  const last = (span.end - 1) * stride - pad + reach;
  if (borders === 'nominal') return { first, end: last + 1 };
  const taps = { kernel, stride, dilation, outputs: length(span), size };
  const lowest = lowestInside(first, taps);
  if (lowest === null) return { first: 0, end: 0 };
  // The highest is the lowest of the mirrored axis.
  return { first: lowest, end: size - lowestInside(size - 1 - last, taps)! };
}

interface Taps {
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  readonly outputs: number;
  readonly size: number;
}

/**
 * The least `start + o * stride + k * dilation` in `[0, size)` over all outputs and taps; null where all are in the padding. It is
 * seldom further than the first output; a dilated window may step over the border, and a wide padding may hold whole windows.
 */
function lowestInside(start: number, { kernel, stride, dilation, outputs, size }: Taps): number | null {
  let best = size;
  for (let output = 0; output < outputs; output++) {
    const base = start + output * stride;
    if (Math.max(0, base) >= best) break;
    const tap = Math.max(0, Math.ceil(-base / dilation));
    if (tap < kernel) best = Math.min(best, base + tap * dilation);
  }
  return best < size ? best : null;
}

function hull(a: Region, b: Region): Region {
  if (area(a) === 0) return b;
  if (area(b) === 0) return a;
  return { rows: unite(a.rows, b.rows), columns: unite(a.columns, b.columns) };
}

function unite(a: Span, b: Span): Span {
  return { first: Math.min(a.first, b.first), end: Math.max(a.end, b.end) };
}

function isInside({ first, end }: Span, size: number): boolean {
  return Number.isSafeInteger(first) && Number.isSafeInteger(end) && first >= 0 && first < end && end <= size;
}

function spell({ first, end }: Span): string {
  return `${first} to ${end - 1}`;
}
