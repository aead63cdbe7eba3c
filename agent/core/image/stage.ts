/**
 * The first operators of an image as a stage that runs patch by patch: what each patch holds of each tensor, crops where operators read
 * less of a tensor than others do, and the operator that pastes patches together. Operators keep the geometry of whole tensors.
 */
import { EdgeError } from '../../../configs/contracts/errors.js';
import {
  area,
  type Branch,
  branchOf,
  cutGrid,
  length,
  type Region,
  type StageGeometry,
} from '../plan/patch-geometry.js';
import { type Draft, numberOf, type OperatorEntry, type Regions, type TensorEntry, type TensorId } from './draft.js';

/** Patches along each axis of the stage's output. */
export interface StageCut {
  /** How many of the image's operators belong to the stage; the first quantizes the only input of the model. */
  readonly operators: number;
  readonly gridRows: number;
  readonly gridColumns: number;
  /** True: the caller brings the input patch by patch. False: all of it lies in the arena while the stage runs. */
  readonly isInputStreamed: boolean;
  /** A second branch for some of the patches; null: all have the same. */
  readonly outliers: OutlierCut | null;
}

/** The branch of patches whose window has codes outside of `low` to `high`. It reads the same window, and ends in the same grid of codes. */
export interface OutlierCut {
  /** How many operators it has; they follow those of the other branch. */
  readonly operators: number;
  /** What the other branch computes; the tail reads what this one does. */
  readonly plainResult: TensorId;
  readonly low: number;
  readonly high: number;
}

/** Height, width and channels of a tensor of the stage. */
interface Size {
  readonly rows: number;
  readonly columns: number;
  readonly channels: number;
}

const sliding: ReadonlySet<string> = new Set(['convolution', 'maxPool', 'averagePool']);
const elementwise: ReadonlySet<string> = new Set(['table', 'add', 'multiply']);

/**
 * The image with its first operators as a stage. Fails with `model/unsupported` where an operator does not run patch by patch, more than one
 * tensor leaves the stage, or patches read padding only; throws a RangeError for a grid finer than the stage's output.
 */
export function cutPatches(draft: Draft, cut: StageCut): Draft {
  const { outliers } = cut;
  const end = cut.operators + (outliers?.operators ?? 0);
  const quantize = draft.operators[0];
  if (quantize?.kind !== 'quantize' || draft.tensors[quantize.inputs[0]!]!.place !== 'input' || cut.operators < 2)
    throw impossible(quantize, 'a stage begins with the quantization of the input');
  const result = resultOf(draft, end);
  const plain = partsOf(draft, cut, quantize, 1, cut.operators, outliers?.plainResult ?? result);
  const outlier = outliers === null ? null : partsOf(draft, cut, quantize, cut.operators, end, result);
  return assemble(draft, cut, quantize, plain, outlier);
}

/** A branch in front of the cut: operators on whole tensors, and what a patch has of each. */
interface Parts {
  readonly body: readonly OperatorEntry[];
  readonly result: TensorId;
  readonly sizes: ReadonlyMap<TensorId, Size>;
  /** Tensors in the order of the branches' regions, what the branch reads first. */
  readonly ids: readonly TensorId[];
  readonly branches: readonly Branch[];
}

function partsOf(
  draft: Draft,
  cut: StageCut,
  quantize: OperatorEntry,
  ...[begin, end, result]: [number, number, TensorId]
): Parts {
  const body = draft.operators.slice(begin, end);
  const sizes = sizesOf(quantize, body);
  const ids = [quantize.output, ...body.map(({ output }) => output)];
  const geometry: StageGeometry = {
    tensors: ids.map((id) => sizes.get(id)!),
    operators: body.map((operator) => ({
      inputs: operator.inputs.map((id) => ids.indexOf(id)),
      outputs: [ids.indexOf(operator.output)],
      window: windowOf(operator),
    })),
    input: 0,
    output: ids.indexOf(result),
  };
  const grid = cutGrid(sizes.get(result)!, cut.gridRows, cut.gridColumns);
  const branches = grid.map((region) => branchOf(geometry, region, 'clipped'));
  for (const [index, operator] of body.entries()) {
    if (branches.some(({ steps }) => area(steps[index]!.reads) === 0))
      throw impossible(operator, 'a patch of it is not read, or is made of padding only');
  }
  return { body, result, sizes, ids, branches };
}

function assemble(draft: Draft, cut: StageCut, quantize: OperatorEntry, plain: Parts, outlier: Parts | null): Draft {
  const tensors: TensorEntry[] = draft.tensors.map((tensor) => ({ ...tensor }));
  const whole = tensors.push({ ...tensors[(outlier ?? plain).result]! }) - 1;
  const source = cut.isInputStreamed ? null : tensors.push({ ...tensors[quantize.output]! }) - 1;
  const plainBranch = cutBranch(tensors, cut, plain, whole);
  const window = tensors[quantize.output]!.regions!;
  const outlierBranch = outlier === null ? [] : cutBranch(tensors, cut, outlier, whole);
  if (outlier !== null) {
    const isAlike =
      isSame(window, tensors[quantize.output]!.regions!) &&
      hasSameGrid(draft.tensors[plain.result]!, draft.tensors[outlier.result]!) &&
      hasSameShape(tensors, plainBranch, outlierBranch);
    if (!isAlike)
      throw impossible(plain.body.at(-1), 'its two branches differ in more than the codes that they compute with');
  }
  const { source: name, output } = quantize;
  const head: OperatorEntry[] =
    source === null
      ? [quantize]
      : [
          { ...quantize, output: source },
          { kind: 'crop', source: name, inputs: [source], output, values: {} },
        ];
  const { result } = outlier ?? plain;
  const tail = draft.operators
    .slice(cut.operators + (cut.outliers?.operators ?? 0))
    .map((operator) => ({ ...operator, inputs: operator.inputs.map((id) => (id === result ? whole : id)) }));
  const stage = {
    gridRows: cut.gridRows,
    gridColumns: cut.gridColumns,
    firstOperator: head.length - 1,
    plainOperators: plainBranch.length,
    outlierOperators: outlierBranch.length,
    low: cut.outliers?.low ?? 0,
    high: cut.outliers?.high ?? 255,
  };
  return { tensors, operators: [...head, ...plainBranch, ...outlierBranch, ...tail], stage };
}

/** The operators of a branch, with its crops and its paste into `whole`; its tensors become parts, and those of crops are added. */
function cutBranch(
  tensors: TensorEntry[],
  cut: StageCut,
  { body, result, sizes, ids, branches }: Parts,
  whole: TensorId,
): OperatorEntry[] {
  const add = (tensor: TensorEntry): TensorId => tensors.push(tensor) - 1;
  const regionsOf = (id: TensorId, of: (branch: Branch) => Region) => toRegions(sizes.get(id)!, cut, branches.map(of));
  for (const [index, id] of ids.entries())
    tensors[id] = inParts(
      tensors[id]!,
      regionsOf(id, ({ regions }) => regions[index]!),
    );
  const readers = body.map((operator, index) => ({
    operator,
    reads: regionsOf(operator.inputs[0]!, ({ steps }) => steps[index]!.reads),
  }));
  /** Where all of what is held of a tensor is read last, in front of an operator: behind that it may be cropped. */
  const lastFullReader = (id: TensorId, before: number) =>
    readers.findLastIndex(
      ({ operator, reads }, index) =>
        index < before && operator.inputs.includes(id) && isSame(reads, tensors[id]!.regions!),
    );
  const crops: { readonly behind: number; readonly entry: OperatorEntry }[] = [];
  const cropOf = (id: TensorId, reads: Regions, reader: number): TensorId => {
    if (isSame(reads, tensors[id]!.regions!)) return id;
    const known = crops.find(({ entry }) => entry.inputs[0] === id && isSame(tensors[entry.output]!.regions!, reads));
    if (known !== undefined) return known.entry.output;
    const output = add(inParts(tensors[id]!, reads));
    const maker = body.findIndex((operator) => operator.output === id);
    const isReadLater = readers.some(
      ({ operator, reads: others }, index) =>
        index > reader && operator.inputs.includes(id) && isSame(others, tensors[id]!.regions!),
    );
    const behind = isReadLater ? reader - 1 : Math.max(maker, lastFullReader(id, reader));
    const { source } = body[reader]!;
    crops.push({ behind, entry: { kind: 'crop', source, inputs: [id], output, values: {} } });
    return output;
  };
  const cropped = readers.map(({ operator, reads }, index) => ({
    ...operator,
    inputs: operator.inputs.map((id) => cropOf(id, reads, index)),
  }));
  const cropsBehind = (index: number) => crops.filter(({ behind }) => behind === index).map(({ entry }) => entry);
  return [
    ...cropsBehind(-1),
    ...cropped.flatMap((operator, index) => [operator, ...cropsBehind(index)]),
    { kind: 'paste' as const, source: body.at(-1)!.source, inputs: [result], output: whole, values: {} },
  ];
}

/** Whether operators are of the same kinds, one by one, and read and make tensors of the same sizes. */
function hasSameShape(
  tensors: readonly TensorEntry[],
  plain: readonly OperatorEntry[],
  outlier: readonly OperatorEntry[],
): boolean {
  const twin = new Map(plain.map(({ output }, index) => [output, outlier[index]?.output]));
  return (
    plain.length === outlier.length &&
    plain.every(({ kind, inputs, output }, index) => {
      const other = outlier[index]!;
      const isSameInput = (id: TensorId, position: number) => (twin.get(id) ?? id) === other.inputs[position];
      return (
        kind === other.kind &&
        inputs.length === other.inputs.length &&
        inputs.every(isSameInput) &&
        tensors[output]!.elements === tensors[other.output]!.elements
      );
    })
  );
}

function hasSameGrid(a: TensorEntry, b: TensorEntry): boolean {
  return a.bits === b.bits && a.scale === b.scale && a.zero === b.zero;
}

function inParts(tensor: TensorEntry, regions: Regions): TensorEntry {
  const most = (spans: Regions['rowSpans']) => spans.reduce((longest, span) => Math.max(longest, length(span)), 0);
  return { ...tensor, elements: most(regions.rowSpans) * most(regions.columnSpans) * regions.channels, regions };
}

/** The regions of all patches, row by row, along their axes: none is empty, so that rows do not depend on the column of a patch. */
function toRegions(size: Size, { gridRows, gridColumns }: StageCut, regions: readonly Region[]): Regions {
  const { rows, columns, channels } = size;
  return {
    ...{ rows, columns, channels },
    rowSpans: Array.from({ length: gridRows }, (_, row) => regions[row * gridColumns]!.rows),
    columnSpans: Array.from({ length: gridColumns }, (_, column) => regions[column]!.columns),
  };
}

function isSame(a: Regions, b: Regions): boolean {
  return JSON.stringify([a.rowSpans, a.columnSpans]) === JSON.stringify([b.rowSpans, b.columnSpans]);
}

/** Sizes of the stage's tensors, by what slides over them; elementwise operators hand them on in both directions. */
function sizesOf(quantize: OperatorEntry, body: readonly OperatorEntry[]): Map<TensorId, Size> {
  const sizes = new Map<TensorId, Size>();
  for (const operator of body) {
    if (!sliding.has(operator.kind) && !elementwise.has(operator.kind))
      throw impossible(operator, `${operator.kind} does not run patch by patch`);
    if (operator.values.secondIsRepeated !== undefined && numberOf(operator, 'secondIsRepeated') !== 0)
      throw impossible(operator, 'it repeats one value over the image');
    if (!sliding.has(operator.kind)) continue;
    if (numberOf(operator, 'batch') !== 1) throw impossible(operator, 'it has more than one image');
    const isPool = operator.kind !== 'convolution';
    const size = (side: 'in' | 'out'): Size => ({
      rows: numberOf(operator, `${side}Height`),
      columns: numberOf(operator, `${side}Width`),
      channels: numberOf(operator, isPool ? 'channels' : `${side}Channels`),
    });
    sizes.set(operator.inputs[0]!, size('in'));
    sizes.set(operator.output, size('out'));
  }
  const ids = [quantize.output, ...body.map(({ output }) => output)];
  const isKnown = () => ids.every((id) => sizes.has(id));
  for (let round = 0; round < ids.length && !isKnown(); round++) {
    for (const { kind, inputs, output } of body) {
      if (!elementwise.has(kind)) continue;
      const known = [...inputs, output].map((id) => sizes.get(id)).find((size) => size !== undefined);
      if (known !== undefined) for (const id of [...inputs, output]) sizes.set(id, known);
    }
  }
  if (!isKnown()) throw impossible(body.at(-1), 'nothing in the stage moves over an image');
  return sizes;
}

/** The one tensor of the stage that is read behind it. */
function resultOf({ tensors, operators }: Draft, end: number): TensorId {
  const made = new Set(operators.slice(0, end).map(({ output }) => output));
  const read = new Set(operators.slice(end).flatMap(({ inputs }) => inputs.filter((id) => made.has(id))));
  const [result, ...others] = read;
  const last = operators[end - 1];
  if (result === undefined || others.length > 0 || operators[0]!.output === result)
    throw impossible(last, `${read.size} tensors are read behind it, not one that it computes`);
  const inputs = operators.filter((operator) => operator.inputs.some((id) => tensors[id]!.place === 'input'));
  if (inputs.length !== 1) throw impossible(last, 'the input is read more than once');
  return result;
}

function windowOf(operator: OperatorEntry): StageGeometry['operators'][number]['window'] {
  if (!sliding.has(operator.kind)) return null;
  const value = (field: string) => numberOf(operator, field);
  const along = (axis: 'Y' | 'X', kernel: string, pad: string) => ({
    kernel: value(kernel),
    stride: value(`stride${axis}`),
    dilation: value(`dilation${axis}`),
    pad: value(pad),
  });
  return { rows: along('Y', 'kernelHeight', 'padTop'), columns: along('X', 'kernelWidth', 'padLeft') };
}

function impossible(operator: OperatorEntry | undefined, reason: string): EdgeError {
  const subject = operator?.source ?? 'image';
  return new EdgeError('model/unsupported', `${subject} cannot be part of a stage of patches: ${reason}`, {
    subject,
    hint: 'Choose another split: patches are for the convolutions and pools at the beginning of a model.',
  });
}
