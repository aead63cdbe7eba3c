/**
 * From measured tables to a planning problem for our own engine. Its activations are codes everywhere, so there are no conversions:
 * an operator with weights chooses the bits of its weight and of the tensor it reads, and all that read one tensor choose alike.
 */
import type { Precision } from '../../../configs/contracts/plan.js';
import { type LatencyTable, runOverheadKey } from '../latency.js';
import type { Operator } from '../onnx/model.js';
import { formatPrecision } from '../precision.js';
import type { PreparedModel } from '../prepare.js';
import { keepsRange } from '../quant/qdq.js';
import type { SensitivityTable } from '../sensitivity/table.js';
import type { Choice, Edge, Problem } from './problem.js';

/** A precision has to be this much faster than a more accurate one of the same size to be worth a choice. */
const worthwhile = 0.99;

/**
 * @param allowed precisions by operator, in order; one without a row in the table is left out, and one that is neither faster nor
 *   smaller than a more accurate one, except `W8A8`
 * @param tail operators that run on floats, with no choice
 * @param artifactBytes size of the image with the given precisions
 * @param storedBytes what an operator's weights take in the image at a precision; absent: as they are before kernels pack them
 */
export function buildEngineProblem(
  prepared: PreparedModel,
  allowed: (operator: Operator) => readonly Precision[],
  tail: ReadonlySet<Operator>,
  table: LatencyTable,
  sensitivity: SensitivityTable,
  artifactBytes: (precisions: ReadonlyMap<string, Precision>) => number,
  storedBytes: (operator: Operator, precision: Precision) => number = (operator, { weightBits }) =>
    storedWeightBytes(prepared, operator, weightBits),
): Problem {
  const { operators } = prepared;
  const groups = readingGroups(operators);
  const uniform = new Map(operators.map(({ name }) => [name, { weightBits: 8, activationBits: 8 } as Precision]));
  const fixedBytes = operators.reduce(
    (rest, operator) => rest - storedBytes(operator, uniform.get(operator.name)!),
    artifactBytes(uniform),
  );
  /** Error of the tensor that an operator reads, counted at the first of those that read it. */
  const readError = (index: number, bits: number): number => {
    const group = groups.groupOf(index);
    if (group === null || group.readers[0] !== index) return 0;
    return group.tensors.reduce((sum, tensor) => sum + sensitivity.activation(tensor, bits), 0);
  };
  const countedByReaders = new Set(groups.all.flatMap(({ tensors }) => tensors));
  const choices = operators.map((operator, index): Choice[] => {
    const rows = allowed(operator).filter(
      (precision) => table.get(operator.key, formatPrecision(precision)) !== undefined,
    );
    if (tail.has(operator) || rows.length === 0) {
      const bytes = storedBytes(operator, uniform.get(operator.name)!);
      return [freeChoice(table.median(operator.key, 'W8A8', 0), bytes)];
    }
    return rows.map((precision) => {
      const { weightBits, activationBits } = precision;
      const written = keepsRange(operator)
        ? 0
        : operator.outputs
            .filter((tensor) => !countedByReaders.has(tensor))
            .reduce((sum, tensor) => sum + sensitivity.activation(tensor, 8), 0);
      const weight = operator.weight === null ? 0 : sensitivity.weight(operator.name, precision);
      return {
        precision: formatPrecision(precision),
        format: 'u8',
        costs: {
          sensitivity: weight + readError(index, activationBits) + written,
          latency: table.median(operator.key, formatPrecision(precision)),
          bytes: storedBytes(operator, precision),
          energy: null,
          bitOps: operator.macs * weightBits * activationBits,
        },
      };
    });
  });
  const ties = tiesOf(operators);
  // An operator that is tied loses a choice only together with the others.
  const kept = operators.map((operator, index) =>
    ties.some((tie) => tie.includes(index)) || operator.weight === null
      ? choices[index]!
      : worthwhileOf(choices[index]!),
  );
  for (const tie of ties) keepCommon(tie, kept);
  return {
    operators: operators.map(({ name }, index) => ({ name, choices: kept[index]! })),
    edges: edgesOf(prepared),
    ties,
    fixed: { latency: table.median(runOverheadKey, 'float', 0), energy: null, bytes: fixedBytes, ramBytes: 0 },
  };
}

function freeChoice(latency: number, bytes: number): Choice {
  const costs = { sensitivity: 0, latency, bytes, energy: null, bitOps: 0 };
  return { precision: 'W8A8', format: 'u8', costs };
}

/** Without what is neither faster nor smaller than something at least as wide in both. */
function worthwhileOf(choices: readonly Choice[]): Choice[] {
  const widths = (choice: Choice) => /^W(\d+)A(\d+)$/.exec(choice.precision)!.slice(1).map(Number) as [number, number];
  return choices.filter((choice) => {
    const [weight, activation] = widths(choice);
    return !choices.some((other) => {
      const [otherWeight, otherActivation] = widths(other);
      const isWider = other !== choice && otherWeight >= weight && otherActivation >= activation;
      return (
        isWider && choice.costs.latency >= other.costs.latency * worthwhile && choice.costs.bytes >= other.costs.bytes
      );
    });
  });
}

/** Leaves tied operators the precisions that all of them have. */
function keepCommon(tie: readonly number[], choices: Choice[][]): void {
  for (const index of tie) {
    choices[index] = choices[index]!.filter(({ precision }) =>
      tie.every((other) => choices[other]!.some((choice) => choice.precision === precision)),
    );
  }
}

/** Indices of operators that take one precision because they read one tensor, or share a weight; only sets of several. */
export function tiesOf(operators: readonly Operator[]): number[][] {
  const readers = readingGroups(operators).all.map((group) => group.readers);
  return joined([...readers, ...tiedWeights(operators)].filter((tie) => tie.length > 1));
}

/** Sets of indices that share a member become one. */
function joined(sets: readonly (readonly number[])[]): number[][] {
  const result: Set<number>[] = [];
  for (const set of sets) {
    const touching = result.filter((other) => set.some((index) => other.has(index)));
    const merged = new Set([...set, ...touching.flatMap((other) => [...other])]);
    for (const other of touching) result.splice(result.indexOf(other), 1);
    result.push(merged);
  }
  return result.map((set) => [...set].sort((a, b) => a - b));
}

/** Indices of operators that multiply by one weight; only sets of several. */
export function tiedWeights(operators: readonly Operator[]): number[][] {
  const readers = new Map<string, number[]>();
  operators.forEach(({ weight }, index) => {
    if (weight !== null) readers.set(weight.name, [...(readers.get(weight.name) ?? []), index]);
  });
  return [...readers.values()].filter((tie) => tie.length > 1);
}

/** Operators with weights that read one tensor, also through operators that leave its codes as they are; and the tensor. */
export interface ReadingGroup {
  readonly readers: number[];
  /** The tensors whose rounding is one decision: the one that is computed; what passes through has its codes. */
  readonly tensors: string[];
}

/** The groups of a model's operators, each with the tensor whose bits they choose. */
export function readingGroups(operators: readonly Operator[]): {
  all: readonly ReadingGroup[];
  groupOf: (index: number) => ReadingGroup | null;
} {
  /** The computed tensor behind each that is only passed through. */
  const origin = new Map<string, string>();
  const originOf = (tensor: string) => origin.get(tensor) ?? tensor;
  const groups = new Map<string, ReadingGroup>();
  const byReader = new Map<number, ReadingGroup>();
  operators.forEach((operator, index) => {
    const [input] = operator.inputs;
    if (input === undefined) return;
    if (keepsRange(operator)) for (const output of operator.outputs) origin.set(output, originOf(input));
    if (operator.weight === null) return;
    const tensor = originOf(input);
    const group = groups.get(tensor) ?? { readers: [], tensors: [tensor] };
    group.readers.push(index);
    groups.set(tensor, group);
    byReader.set(index, group);
  });
  return { all: [...groups.values()], groupOf: (index) => byReader.get(index) ?? null };
}

/** Bytes of an operator's weights in the image. */
export function storedWeightBytes({ model }: PreparedModel, operator: Operator, bits: number): number {
  const tensor = operator.weight === null ? undefined : model.graph.initializers.get(operator.weight.name);
  if (tensor === undefined) return 0;
  const channels = tensor.dims[operator.weight!.channelAxis]!;
  const perChannel = tensor.dims.reduce((a, b) => a * b, 1) / channels;
  const storage = bits <= 2 ? 2 : bits <= 4 ? 4 : 8;
  return channels * Math.ceil((perChannel * storage) / 8);
}

function edgesOf({ operators, model, shapes }: PreparedModel): Edge[] {
  const consumers = new Map<string, number[]>();
  operators.forEach((operator, index) => {
    for (const name of operator.inputs) consumers.set(name, [...(consumers.get(name) ?? []), index]);
  });
  const sources = model.graph.inputs.map(({ name }) => name).filter((name) => !model.graph.initializers.has(name));
  const producers = operators.flatMap(({ outputs }, index) => outputs.map((name) => [name, index] as const));
  return [...sources.map((name) => [name, null] as const), ...producers].map(([tensor, producer]) => ({
    tensor,
    producer,
    ...(producer === null ? { sourceFormat: 'u8' } : {}),
    consumers: consumers.get(tensor) ?? [],
    conversions: [],
    ramBytes: { u8: (shapes.get(tensor) ?? []).reduce((a, b) => a * b, 1) },
  }));
}
