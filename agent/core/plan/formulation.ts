/**
 * The planning problem as an integer programme.
 *
 * Operators that are tied form one unit; one binary variable per unit and option, of which exactly one is 1. A conversion of a
 * tensor is a continuous variable that the binaries push up to 1. Memory is linear in the binaries at every position but for
 * tensors with several readers, which get a variable per format and gap between readers.
 *
 * Costs of one problem span many orders of magnitude and solvers work to absolute tolerances. So every metric is counted from the
 * sum of the units' minima and in parts of what may be spent above it, after all options that alone would spend more are removed.
 * Every coefficient is then between 0 and 1, and so is every bound.
 */
import type { LinearProgram } from './linear-program.js';
import { edgeReaders } from './memory.js';
import { liveBytesByPosition, type Reader } from './memory-rows.js';
import type { Assignment, Conversion, Edge, Metric, Problem } from './problem.js';
import { findConversion } from './problem.js';
import { combine, constant, type Expression, ProgramBuilder } from './program-builder.js';
import {
  type AdditiveMetric,
  type Limit,
  minimumOf,
  type Option,
  prune,
  spareOf,
  type Unit,
  unitsOf,
} from './units.js';

/** What to minimise, and under which conditions. */
export interface Goal {
  objective: Metric;
  ceilings: readonly (readonly [Metric, number])[];
  /** A value of the objective that is known to be possible; worse options need not be looked at. */
  cutoff?: number;
  /** The part of each ceiling's room that is left unused; 0 but for ceilings that were exceeded by rounding. */
  margin: number;
  /** Assignments that must not be found again. */
  excluded: readonly Assignment[];
  /** A feasible assignment to start from. */
  start?: Assignment;
}

/** A planning problem as a programme, with the way back. */
export interface Formulation {
  program: LinearProgram;
  /** The assignment that a solution of the programme stands for. */
  assignmentOf(values: Float64Array): Assignment;
  /** One unit of the programme's objective, in units of the metric. */
  scale: number;
}

/**
 * Writes the programme for a goal; null where looking at the operators alone shows that no assignment meets it.
 *
 * @throws EdgeError `budget/infeasible` where tied operators share no precision.
 */
export function formulate(problem: Problem, goal: Goal): Formulation | null {
  const limits = additiveLimits(goal);
  const units = prune(problem, unitsOf(problem), limits);
  if (!units) return null;
  const spares = limits.map(([metric, ceiling]) => [metric, spareOf(problem, units, metric, ceiling)] as const);
  return new Writer(problem, units, goal, spares).write();
}

function additiveLimits({ objective, ceilings, cutoff }: Goal): Limit[] {
  const all = cutoff === undefined ? ceilings : [...ceilings, [objective, cutoff] as const];
  return all.filter((limit): limit is Limit => limit[0] !== 'ramBytes');
}

function conversionCost(conversion: Conversion, metric: AdditiveMetric): number {
  return metric === 'bitOps' ? 0 : (conversion[metric] ?? 0);
}

/** A conversion that may take place, and the variable that is 1 when it does. */
interface PossibleConversion {
  conversion: Conversion;
  isMade: Expression;
}

const zero = constant(0);
const one = constant(1);

class Writer {
  readonly #builder = new ProgramBuilder();
  /** By unit and option: 1 when the option is chosen. */
  readonly #chosen: Expression[][];
  /** By operator: for each format, 1 when the operator takes it. */
  readonly #formats: Map<string, Expression>[] = [];
  readonly #conversions: PossibleConversion[] = [];

  constructor(
    readonly problem: Problem,
    readonly units: readonly Unit[],
    readonly goal: Goal,
    readonly spares: readonly Limit[],
  ) {
    this.#chosen = units.map((unit) => this.#binaries(unit));
    units.forEach((unit, index) => {
      unit.operators.forEach((operator, position) => {
        this.#formats[operator] = this.#formatsOf(unit, index, operator, position);
      });
    });
  }

  write(): Formulation {
    for (const edge of this.problem.edges) this.#addConversions(edge);
    for (const [metric, ceiling] of this.goal.ceilings) this.#addCeiling(metric, ceiling);
    for (const assignment of this.goal.excluded) this.#exclude(assignment);
    const { objective } = this.goal;
    const { expression, scale } = objective === 'ramBytes' ? this.#peak() : this.#objective(objective);
    const start = this.goal.start && this.#chosenBy(this.goal.start);
    return {
      program: this.#builder.minimise(expression, start && new Set(start)),
      assignmentOf: (values) => this.#assignmentOf(values),
      scale,
    };
  }

  #binaries(unit: Unit): Expression[] {
    const names = unit.options.map((option) => this.#nameOf(unit, option));
    const binaries = names.map((name) => this.#builder.binary(name, names.length === 1));
    if (names.length > 1) {
      this.#builder.equal(`one of ${names[0]}`, combine(...binaries.map((binary) => [1, binary] as const)), 1);
    }
    return binaries;
  }

  #nameOf(unit: Unit, option: Option): string {
    const operator = this.problem.operators[unit.operators[0]!]!;
    return `${operator.name} at ${operator.choices[option.choices[0]!]!.precision}`;
  }

  #formatsOf(unit: Unit, index: number, operator: number, position: number): Map<string, Expression> {
    const formats = new Map<string, Expression>();
    unit.options.forEach((option, which) => {
      const { format } = this.problem.operators[operator]!.choices[option.choices[position]!]!;
      formats.set(format, combine([1, formats.get(format) ?? zero], [1, this.#chosen[index]![which]!]));
    });
    // A format that every option has is certain, and saying so spares rows.
    return formats.size === 1 ? new Map([[[...formats.keys()][0]!, one]]) : formats;
  }

  #readersOf(edge: Edge): Reader[] {
    return edgeReaders(this.problem, edge).map(({ position, sinkFormat }) => ({
      position,
      formats: sinkFormat === undefined ? this.#formats[position]! : new Map([[sinkFormat, one]]),
    }));
  }

  #writtenFormats(edge: Edge): ReadonlyMap<string, Expression> {
    return edge.producer === null ? new Map([[edge.sourceFormat!, one]]) : this.#formats[edge.producer]!;
  }

  /**
   * One variable per pair of formats, `made >= written in from + read in to - 1` for every reader. Where a tensor can be written in
   * several other formats, `sum(made) >= read in to - written in to` cuts off fractional points that those rows leave.
   */
  #addConversions(edge: Edge): void {
    const written = this.#writtenFormats(edge);
    const readers = this.#readersOf(edge);
    for (const to of new Set(readers.flatMap((reader) => [...reader.formats.keys()]))) {
      const reads = readers.flatMap((reader) => reader.formats.get(to) ?? []);
      const made: Expression[] = [];
      for (const [from, isFrom] of written) {
        if (from === to) continue;
        const bounds = reads.map((read) => combine([1, isFrom], [1, read], [-1, one]));
        const conversion = findConversion(edge, from, to);
        const name = `${edge.tensor} ${from} to ${to}`;
        const isAllowed = conversion !== undefined && this.#isAffordable(conversion);
        const isMade = this.#builder.maximum(name, bounds, isAllowed ? 1 : 0);
        made.push(isMade);
        if (isAllowed) this.#conversions.push({ conversion, isMade });
      }
      if (made.length < 2) continue;
      const sum = made.map((isMade) => [-1, isMade] as const);
      for (const read of reads) {
        this.#builder.atMost(`${edge.tensor} to ${to}`, combine([1, read], [-1, written.get(to) ?? zero], ...sum), 0);
      }
    }
  }

  #isAffordable(conversion: Conversion): boolean {
    return this.spares.every(([metric, spare]) => conversionCost(conversion, metric) <= spare);
  }

  /** What is spent above the units' minima. */
  #excess(metric: AdditiveMetric, scale: number): Expression {
    const parts: [number, Expression][] = [];
    this.units.forEach((unit, index) => {
      const minimum = minimumOf(unit, metric);
      unit.options.forEach((option, which) => {
        parts.push([(option.costs[metric] - minimum) / scale, this.#chosen[index]![which]!]);
      });
    });
    for (const { conversion, isMade } of this.#conversions) {
      parts.push([conversionCost(conversion, metric) / scale, isMade]);
    }
    return combine(...parts);
  }

  #addCeiling(metric: Metric, ceiling: number): void {
    if (metric === 'ramBytes') {
      const scale = Math.max(ceiling, 1);
      for (const live of this.#liveBytes(ceiling))
        this.#builder.atMost(metric, combine([1 / scale, live]), (ceiling * (1 - this.goal.margin)) / scale);
      return;
    }
    const spare = this.spares.find(([limited]) => limited === metric)![1];
    if (spare > 0) this.#builder.atMost(metric, this.#excess(metric, spare), 1 - this.goal.margin);
  }

  /** Bytes in use at each position where they might be more than the threshold. */
  #liveBytes(threshold: number): Expression[] {
    const { problem } = this;
    const scratch = problem.operators.map(() => constant(problem.fixed.ramBytes));
    this.units.forEach((unit, index) => {
      for (const [position, operator] of unit.operators.entries()) {
        const parts = unit.options.map((option, which) => {
          const { scratchBytes } = problem.operators[operator]!.choices[option.choices[position]!]!;
          return [scratchBytes ?? 0, this.#chosen[index]![which]!] as const;
        });
        scratch[operator] = combine([1, scratch[operator]!], ...parts);
      }
    });
    const tensors = problem.edges.map((edge) => ({
      edge,
      written: this.#writtenFormats(edge),
      readers: this.#readersOf(edge),
    }));
    return liveBytesByPosition(tensors, [...scratch, constant(problem.fixed.ramBytes)], threshold, this.#builder);
  }

  #peak(): { expression: Expression; scale: number } {
    const positions = this.#liveBytes(Number.NEGATIVE_INFINITY);
    const largest = (live: Expression) => [...live.terms.values()].reduce((sum, bytes) => sum + bytes, live.constant);
    const scale = positions.reduce((most, live) => Math.max(most, largest(live)), 1);
    const bounds = positions.map((live) => combine([1 / scale, live]));
    return { expression: this.#builder.maximum('peak', bounds, Number.POSITIVE_INFINITY), scale };
  }

  #objective(metric: AdditiveMetric): { expression: Expression; scale: number } {
    const excess = this.#excess(metric, 1);
    const scale = [...excess.terms.values()].reduce((sum, coefficient) => sum + coefficient, 0) || 1;
    return { expression: combine([1 / scale, excess]), scale };
  }

  #exclude(assignment: Assignment): void {
    const chosen = this.#chosenBy(assignment);
    if (chosen)
      this.#builder.atMost('excluded', combine(...chosen.map((binary) => [1, binary] as const)), chosen.length - 1);
  }

  /** The binaries that an assignment sets to 1; undefined where it takes an option that was removed. */
  #chosenBy(assignment: Assignment): Expression[] | undefined {
    const chosen = this.units.map((unit, index) => {
      const which = unit.options.findIndex((option) =>
        option.choices.every((choice, position) => assignment[unit.operators[position]!] === choice),
      );
      return this.#chosen[index]![which];
    });
    return chosen.every((binary) => binary !== undefined) ? (chosen as Expression[]) : undefined;
  }

  #assignmentOf(values: Float64Array): Assignment {
    const assignment = new Array<number>(this.problem.operators.length);
    this.units.forEach((unit, index) => {
      const value = (which: number) => values[[...this.#chosen[index]![which]!.terms.keys()][0]!]!;
      const best = unit.options.reduce((leader, _, which) => (value(which) > value(leader) ? which : leader), 0);
      unit.operators.forEach((operator, position) => {
        assignment[operator] = unit.options[best]!.choices[position]!;
      });
    });
    return assignment;
  }
}
