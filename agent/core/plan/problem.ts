/**
 * The planning problem as plain data, and `evaluate`, the one function that scores a solution. Whatever else computes with costs
 * (the integer programme, the frontier, what-if views) must agree with `evaluate`.
 */
import { peakRamBytes } from './memory.js';

/** Costs of one operator at one precision. Latency is in the target's counter, energy in joules, bytes are stored bytes. */
export interface Costs {
  sensitivity: number;
  latency: number;
  bytes: number;
  /** null: not known on this target. */
  energy: number | null;
  bitOps: number;
}

/** One precision at which an operator can run. */
export interface Choice {
  /** Unique among the choices of its operator; operators that are tied agree on it. */
  precision: string;
  /** The format (`f32`, `u8`, ...) in which the operator reads and writes its activations at this precision. */
  format: string;
  costs: Costs;
  /** Working memory the kernel needs while it runs; 0 when absent. */
  scratchBytes?: number;
}

/** An operator and what it may be. A precision that is not allowed is simply not among the choices. */
export interface PlanOperator {
  name: string;
  choices: readonly Choice[];
}

/** What it costs to turn one tensor from one format into another. Costs are zero or more. */
export interface Conversion {
  from: string;
  to: string;
  latency: number;
  sensitivity: number;
  /** null: not known on this target. */
  energy: number | null;
  /** Stored bytes the conversion adds to the artifact. */
  bytes: number;
}

/**
 * An activation tensor between its producer and its consumers. Where a consumer reads another format than the producer writes,
 * the tensor is converted once per target format, just before the first consumer that reads that format.
 */
export interface Edge {
  tensor: string;
  /** Index of the operator that writes the tensor; null for a graph input, whose format is then `sourceFormat`. */
  producer: number | null;
  sourceFormat?: string;
  /** Indices of the operators that read the tensor. */
  consumers: readonly number[];
  /** Formats in which the tensor leaves the graph, where it is a graph output. */
  sinkFormats?: readonly string[];
  /** A pair of formats without a conversion is forbidden. */
  conversions: readonly Conversion[];
  /** Bytes of memory the tensor takes, by format. */
  ramBytes: Readonly<Record<string, number>>;
}

/** Everything that `allocate` decides on. */
export interface Problem {
  /** In the order in which they run: a producer comes before its consumers. */
  operators: readonly PlanOperator[];
  edges: readonly Edge[];
  /** Groups of operator indices that must take the same precision. */
  ties: readonly (readonly number[])[];
  /** What every solution costs on top: overhead per run, stored bytes and memory that no choice changes. */
  fixed: {
    latency: number;
    bytes: number;
    ramBytes: number;
    /** null: not known on this target; 0 when absent. */
    energy?: number | null;
  };
}

/** For every operator, the index of its choice. */
export type Assignment = readonly number[];

/** Costs of a whole solution. */
export interface PlanCosts extends Costs {
  /** Peak bytes of live activation tensors and scratch memory. */
  ramBytes: number;
}

/** What a solution is judged by, and what ceilings may be put on. */
export type Metric = keyof PlanCosts;

/**
 * Scores an assignment. Energy is null where any part of it is unknown. An assignment that needs a forbidden conversion has
 * infinite sensitivity and latency.
 */
export function evaluate(problem: Problem, assignment: Assignment): PlanCosts {
  const total = { sensitivity: 0, latency: problem.fixed.latency, bytes: problem.fixed.bytes, bitOps: 0 };
  let energy: number | null = problem.fixed.energy === undefined ? 0 : problem.fixed.energy;
  const add = (costs: Omit<Costs, 'bitOps'>) => {
    total.sensitivity += costs.sensitivity;
    total.latency += costs.latency;
    total.bytes += costs.bytes;
    energy = energy === null || costs.energy === null ? null : energy + costs.energy;
  };
  problem.operators.forEach((operator, index) => {
    const { costs } = operator.choices[assignment[index]!]!;
    add(costs);
    total.bitOps += costs.bitOps;
  });
  for (const edge of problem.edges) {
    for (const conversion of conversionsOf(problem, edge, assignment)) add(conversion);
  }
  return { ...total, energy, ramBytes: peakRamBytes(problem, assignment) };
}

/** The format in which an edge's tensor is written. */
export function writtenFormat(problem: Problem, edge: Edge, assignment: Assignment): string {
  return edge.producer === null ? edge.sourceFormat! : formatOf(problem, edge.producer, assignment);
}

/** The conversions an edge needs, one per target format. A forbidden one is there with infinite sensitivity and latency. */
export function conversionsOf(problem: Problem, edge: Edge, assignment: Assignment): Conversion[] {
  const from = writtenFormat(problem, edge, assignment);
  const targets = new Set(edge.sinkFormats ?? []);
  for (const consumer of edge.consumers) targets.add(formatOf(problem, consumer, assignment));
  targets.delete(from);
  return [...targets].map((to) => findConversion(edge, from, to) ?? forbidden(from, to));
}

/** The conversion an edge offers for a pair of formats, if it offers one. */
export function findConversion(edge: Edge, from: string, to: string): Conversion | undefined {
  return edge.conversions.find((conversion) => conversion.from === from && conversion.to === to);
}

function formatOf(problem: Problem, operator: number, assignment: Assignment): string {
  return problem.operators[operator]!.choices[assignment[operator]!]!.format;
}

function forbidden(from: string, to: string): Conversion {
  return { from, to, latency: Number.POSITIVE_INFINITY, sensitivity: Number.POSITIVE_INFINITY, energy: 0, bytes: 0 };
}

/**
 * Checks what the types cannot say: order of the operators, indices, unique precisions, finite numbers, no negative conversion,
 * known memory of every format a tensor can have.
 *
 * @throws TypeError naming the operator or tensor.
 */
export function validateProblem(problem: Problem): void {
  for (const operator of problem.operators) validateOperator(operator);
  for (const edge of problem.edges) validateEdge(problem, edge);
  for (const index of problem.ties.flat()) {
    if (!problem.operators[index]) throw new TypeError(`a tie names operator ${index}, which does not exist`);
  }
  const { latency, bytes, ramBytes, energy = 0 } = problem.fixed;
  requireFinite([latency, bytes, ramBytes, energy], 'fixed costs');
}

function validateOperator({ name, choices }: PlanOperator): void {
  if (choices.length === 0) throw new TypeError(`operator ${name} has no choice`);
  if (new Set(choices.map((choice) => choice.precision)).size < choices.length) {
    throw new TypeError(`operator ${name} has two choices of the same precision`);
  }
  for (const { costs, scratchBytes, precision } of choices) {
    requireFinite([...Object.values(costs), scratchBytes ?? 0], `operator ${name} at ${precision}`);
  }
}

function validateEdge(problem: Problem, edge: Edge): void {
  const { tensor, producer, consumers } = edge;
  const fail = (what: string) => {
    throw new TypeError(`tensor ${tensor} ${what}`);
  };
  if (producer === null && edge.sourceFormat === undefined) fail('has neither a producer nor a source format');
  if (producer !== null && !problem.operators[producer]) fail('has a producer that does not exist');
  for (const consumer of consumers) {
    if (!problem.operators[consumer]) fail('has a consumer that does not exist');
    if (producer !== null && consumer <= producer) fail('has a consumer that does not run after its producer');
  }
  for (const format of possibleFormats(problem, edge)) {
    if (edge.ramBytes[format] === undefined) fail(`can be ${format} but has no ramBytes for it`);
  }
  for (const { from, to, latency, sensitivity, energy, bytes } of edge.conversions) {
    const costs = [latency, sensitivity, energy ?? 0, bytes];
    requireFinite(costs, `conversion of ${tensor} from ${from} to ${to}`);
    if (costs.some((cost) => cost < 0)) fail(`has a negative cost of conversion from ${from} to ${to}`);
  }
}

function possibleFormats(problem: Problem, edge: Edge): Set<string> {
  const operators = edge.producer === null ? edge.consumers : [edge.producer, ...edge.consumers];
  const formats = operators.flatMap((index) => problem.operators[index]!.choices.map((choice) => choice.format));
  if (edge.producer === null) formats.push(edge.sourceFormat!);
  return new Set([...formats, ...(edge.sinkFormats ?? [])]);
}

function requireFinite(values: readonly (number | null)[], subject: string): void {
  if (values.some((value) => value !== null && !Number.isFinite(value))) {
    throw new TypeError(`${subject}: costs must be finite numbers`);
  }
}
