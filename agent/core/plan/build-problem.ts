/** From measured tables to a planning problem for ONNX Runtime: what each operator costs at each precision, and each change between them. */
import type { LatencyRow, Precision } from '../../../configs/contracts/plan.js';
import { type ConversionOp, conversionKey, dispatchKey, type LatencyTable, runOverheadKey } from '../latency.js';
import { reads } from '../onnx/graph.js';
import type { Operator, Tensor } from '../onnx/model.js';
import { float, formatPrecision } from '../precision.js';
import type { PreparedModel } from '../prepare.js';
import { keepsRange, storedConstants } from '../quant/qdq.js';
import type { SensitivityTable } from '../sensitivity/table.js';
import type { Choice, Conversion, Edge, Problem } from './problem.js';

/** Bytes of graph description that an 8-bit operator adds (Q/DQ nodes, names, scalars), measured on written artifacts. */
const int8DescriptionBytes = 1100;

/** What a precision's activations are stored as. */
export function formatOf(precision: Precision): 'f32' | 'u8' {
  return precision.activationBits === 32 ? 'f32' : 'u8';
}

/**
 * Operators that read one weight are tied: it is stored once, at one precision.
 *
 * @param allowed precisions by operator, in order; a precision whose row is missing from the table is left out
 * @param floatArtifactBytes size of the model written all float, from which stored bytes of every plan follow
 */
export function buildProblem(
  prepared: PreparedModel,
  allowed: (operator: Operator) => readonly Precision[],
  table: LatencyTable,
  sensitivity: SensitivityTable,
  floatArtifactBytes: number,
): Problem {
  const { operators } = prepared;
  const ties = tiesOf(operators);
  const stored = new StoredBytes(prepared, ties);
  const floatBytes = operators.reduce((sum, operator) => sum + stored.of(operator, float), 0);
  const possible = operators.map((operator) =>
    allowed(operator).filter((precision) => table.get(operator.key, formatPrecision(precision)) !== undefined),
  );
  const planOperators = operators.map((operator, index) => {
    const others = ties.find((tie) => tie.includes(index)) ?? [];
    const isCommon = (precision: Precision) =>
      others.every((other) => possible[other]!.some((one) => formatPrecision(one) === formatPrecision(precision)));
    const choices = possible[index]!.filter(isCommon).map((precision) =>
      choiceOf(operator, precision, stored.of(operator, precision), table, sensitivity),
    );
    return { name: operator.name, choices };
  });
  return {
    operators: planOperators,
    edges: edgesOf(prepared, table, sensitivity),
    ties,
    fixed: {
      latency: table.median(runOverheadKey, 'float', 0),
      energy: table.get(runOverheadKey, 'float')?.energyJoules ?? null,
      bytes: Math.max(0, floatArtifactBytes - floatBytes),
      ramBytes: 0,
    },
  };
}

/** Indices of the operators that read each weight, where there is more than one. */
function tiesOf(operators: readonly Operator[]): number[][] {
  const readers = new Map<string, number[]>();
  operators.forEach(({ weight }, index) => {
    if (weight !== null) readers.set(weight.name, [...(readers.get(weight.name) ?? []), index]);
  });
  return [...readers.values()].filter((tie) => tie.length > 1);
}

/** What each operator's constants add to the artifact. */
class StoredBytes {
  readonly #weights: ReadonlyMap<Operator, Tensor | null>;
  /** Operators tied with each that come before it. */
  readonly #earlier: ReadonlyMap<Operator, readonly Operator[]>;
  /** By initializer: tied groups, and operators alone, that read it. */
  readonly #readers = new Map<string, Set<number>>();

  constructor({ operators, model }: PreparedModel, ties: readonly (readonly number[])[]) {
    const { initializers } = model.graph;
    this.#weights = new Map(
      operators.map((operator) => [operator, initializers.get(operator.weight?.name ?? '') ?? null]),
    );
    const groups = operators.map((_, index) => ties.find((tie) => tie.includes(index)) ?? [index]);
    this.#earlier = new Map(
      operators.map((operator, index) => [
        operator,
        groups[index]!.filter((other) => other < index).map((other) => operators[other]!),
      ]),
    );
    operators.forEach((operator, index) => {
      for (const name of operator.nodes.flatMap(reads)) {
        if (initializers.has(name))
          this.#readers.set(name, (this.#readers.get(name) ?? new Set()).add(groups[index]![0]!));
      }
    });
  }

  /**
   * Bytes at a precision. What tied operators share is counted at the first of them. A float constant that others read as well
   * stays in every artifact, so it is not counted here.
   */
  of(operator: Operator, precision: Precision): number {
    const constants = (of: Operator) => storedConstants(of, this.#weights.get(of)!, precision);
    const counted = new Set(this.#earlier.get(operator)!.flatMap((other) => [...constants(other).keys()]));
    let bytes = 0;
    for (const [name, size] of constants(operator)) {
      if (!counted.has(name) && (this.#readers.get(name)?.size ?? 1) === 1) bytes += size;
    }
    return bytes;
  }
}

function choiceOf(
  operator: Operator,
  precision: Precision,
  storedBytes: number,
  table: LatencyTable,
  sensitivity: SensitivityTable,
): Choice {
  const format = formatOf(precision);
  const row = table.get(operator.key, formatPrecision(precision))!;
  const weightError = operator.weight === null ? 0 : sensitivity.weight(operator.name, precision);
  const outputError =
    format === 'f32' || keepsRange(operator)
      ? 0
      : sensitivity.activation(operator.outputs[0]!, precision.activationBits);
  return {
    precision: formatPrecision(precision),
    format,
    costs: {
      sensitivity: weightError + outputError,
      latency: row.median,
      bytes: storedBytes + (format === 'u8' ? int8DescriptionBytes : 0),
      energy: row.energyJoules,
      bitOps: operator.macs * precision.weightBits * precision.activationBits,
    },
  };
}

function edgesOf(prepared: PreparedModel, table: LatencyTable, sensitivity: SensitivityTable): Edge[] {
  const { operators, model, shapes } = prepared;
  const producerOf = new Map(
    operators.flatMap((operator, index) => operator.outputs.map((name) => [name, index] as const)),
  );
  const consumersOf = new Map<string, number[]>();
  operators.forEach((operator, index) => {
    for (const name of operator.inputs) consumersOf.set(name, [...(consumersOf.get(name) ?? []), index]);
  });
  const sinks = new Set(model.graph.outputs.map((output) => output.name));
  const sources = model.graph.inputs
    .filter((input) => !model.graph.initializers.has(input.name))
    .map((input) => input.name);
  const tensors = [...sources, ...producerOf.keys()];
  return tensors.map((tensor) => {
    const producer = producerOf.get(tensor) ?? null;
    const dims = shapes.get(tensor) ?? [];
    const count = dims.reduce((a, b) => a * b, 1);
    return {
      tensor,
      producer,
      ...(producer === null ? { sourceFormat: 'f32' } : {}),
      consumers: consumersOf.get(tensor) ?? [],
      ...(sinks.has(tensor) ? { sinkFormats: ['f32'] } : {}),
      conversions: conversionsOf(tensor, dims, producer === null, sinks.has(tensor), table, sensitivity),
      ramBytes: { f32: count * 4, u8: count },
    };
  });
}

/**
 * ONNX Runtime keeps float images in blocked-channel layout and 8-bit ones channels-last, so a change of format is a reorder or
 * transpose beside the quantize node; graph inputs and outputs are in plain layout.
 */
function conversionsOf(
  tensor: string,
  dims: readonly number[],
  isSource: boolean,
  isSink: boolean,
  table: LatencyTable,
  sensitivity: SensitivityTable,
): Conversion[] {
  const free = { latency: 0, energy: 0 };
  const row = (op: ConversionOp) => table.get(conversionKey(op, dims), 'float');
  const dispatch = timeAndEnergy(table.get(dispatchKey, 'float'), { latency: 0, energy: null });
  const transpose = dims.length === 4 ? timeAndEnergy(row('Transpose'), free) : free;
  const quantize = [
    timeAndEnergy(row('QuantizeLinear'), dispatch),
    transpose,
    isSource ? free : timeAndEnergy(row('ReorderOutput'), free),
  ];
  const dequantize = [
    timeAndEnergy(row('DequantizeLinear'), dispatch),
    transpose,
    isSink ? free : timeAndEnergy(row('ReorderInput'), free),
  ];
  return [
    { from: 'f32', to: 'u8', ...sum(quantize), sensitivity: sensitivity.activation(tensor, 8), bytes: 0 },
    { from: 'u8', to: 'f32', ...sum(dequantize), sensitivity: 0, bytes: 0 },
  ];
}

/** Time in the target's counter and energy in joules, null where it is not known. */
type TimeAndEnergy = Pick<Conversion, 'latency' | 'energy'>;

/** What a row says; what stands in for a row that was never measured. */
function timeAndEnergy(row: LatencyRow | undefined, otherwise: TimeAndEnergy): TimeAndEnergy {
  return row === undefined ? otherwise : { latency: row.median, energy: row.energyJoules };
}

function sum(parts: readonly TimeAndEnergy[]): TimeAndEnergy {
  const latency = parts.reduce((total, part) => total + part.latency, 0);
  const energy = parts.reduce<number | null>(
    (total, part) => (total === null || part.energy === null ? null : total + part.energy),
    0,
  );
  return { latency, energy };
}
