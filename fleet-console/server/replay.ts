/** Plans a model for another budget from the table that a device has reported: what it would find, without asking it. Pure but for the solver. */
import { ceilingsOf } from '../../agent/core/budget.js';
import { LatencyTable } from '../../agent/core/latency.js';
import { allocate, type Ceilings, requireEnergy } from '../../agent/core/plan/allocate.js';
import { paretoPoints } from '../../agent/core/plan/expected-latency.js';
import { frontier } from '../../agent/core/plan/frontier.js';
import type { LinearSolver } from '../../agent/core/plan/linear-program.js';
import { uniformPlan } from '../../agent/core/plan/plan.js';
import type { Assignment, PlanCosts } from '../../agent/core/plan/problem.js';
import { parsePrecision } from '../../agent/core/precision.js';
import { median } from '../../agent/core/statistics.js';
import type { FrontierPoint } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget, Counter, LatencyRow } from '../../configs/contracts/plan.js';
import type { ModelTable, TableProblem } from '../../configs/contracts/tables.js';

/** What planning from a table has found. */
export interface Replay {
  readonly verdict: 'meets' | 'infeasible' | 'unknown';
  readonly why: string;
  /** The plan that would do, or the fastest where none does; null where nothing was solved. */
  readonly point: FrontierPoint | null;
  /** From fastest to most accurate, under the ceilings other than latency; without these where no plan holds them. */
  readonly frontier: readonly FrontierPoint[];
  /** What latencies are in. */
  readonly unit: string;
}

/** What is planned with: the table of a device, in full. */
export type ReplayedTable = Pick<ModelTable, 'counter' | 'experience'> & { readonly problem: TableProblem };

/** Predictions are off by so much, as a share: latency of a sum of operators, stored bytes of an artifact. Between, only the device can tell. */
const off = { latency: 0.1, bytes: 0.02 } as const;
/** Seconds for one solution, and for a frontier. */
const seconds = { plan: 3, frontier: 3 } as const;
const frontierPoints = 8;

/** Unit of a counter's latencies, as people read them: milliseconds where time is counted. */
export function unitOf(counter: Counter): string {
  return counter === 'nanoseconds' ? 'ms' : counter;
}

/** A latency in that unit, to six digits. */
export function inUnitOf(counter: Counter, value: number): number {
  return Number((counter === 'nanoseconds' ? value / 1e6 : value).toPrecision(6));
}

/**
 * Judges a budget by solving for it. Latencies are corrected by what the device has learnt of its predictions. That a plan exists is said
 * where one holds the ceilings with room for what predictions are off by; that none does, where none holds them with as much on top.
 * Floors on quality are beyond tables. Fails with `solver/failed`.
 */
export async function replay(
  table: ReplayedTable,
  budget: Budget,
  solver: LinearSolver,
  signal: AbortSignal,
): Promise<Replay> {
  const { problem, counter, experience } = table;
  const unit = unitOf(counter);
  const point = ({ assignment, costs }: { assignment: Assignment; costs: PlanCosts }): FrontierPoint => ({
    latency: inUnitOf(counter, costs.latency * experience.ratio),
    sensitivity: Number(costs.sensitivity.toPrecision(6)),
    sizeBytes: costs.bytes,
    ramBytes: costs.ramBytes,
    averageWeightBits: averageWeightBits(problem, assignment),
  });
  const answer = (verdict: Replay['verdict'], why: string, found: FrontierPoint | null, points: FrontierPoint[]) => {
    return { verdict, why, point: found, frontier: points, unit };
  };
  const reason = unjudgeable(table, budget);
  if (reason !== null) return answer('unknown', reason, null, []);
  const int8Latency = uniformPlan(problem, 'W8A8').costs.latency * (experience.int8Ratio ?? 1);
  // A relative ceiling is a share of a prediction: both are off alike.
  const ratio = budget.latencyRatio === undefined ? experience.ratio : 1;
  const ceilings = ceilingsOf(budget, int8Latency, [], ratio);
  const options = { timeLimitSeconds: seconds.plan };
  const { latency: _, ...others } = ceilings;
  const front = async (kept: Ceilings) => {
    const wanted = { points: frontierPoints, ceilings: kept, timeLimitSeconds: seconds.frontier, relativeGap: 0.005 };
    return paretoPoints((await frontier(problem, solver, wanted, signal)).map(point));
  };
  const held = await front(others);
  const points = held.length > 0 ? held : await front({});
  const loose = await allocate(problem, 'latency', widened(ceilings, 1), solver, options, signal);
  if (loose.status === 'infeasible') {
    const texts = loose.infeasible.map(({ metric, minimum, ceiling }) => {
      const shown = (value: number) =>
        metric === 'latency' ? `${inUnitOf(counter, value * experience.ratio)} ${unit}` : `${value}`;
      return `${metric} at least ${minimum === null ? 'unknown' : shown(minimum)}, at most ${shown(ceiling)} with all that predictions are off by`;
    });
    return answer('infeasible', `no plan holds it: ${texts.join('; ')}`, points[0] ?? null, points);
  }
  if (budget.drop !== undefined || budget.agreement !== undefined)
    return answer('unknown', 'a plan holds its ceilings, but only measuring tells its quality', point(loose), points);
  const objective = Object.keys(ceilings).length > 0 ? 'sensitivity' : 'latency';
  const tight = await allocate(problem, objective, widened(ceilings, -1), solver, options, signal);
  if (tight.status === 'infeasible')
    return answer('unknown', 'it is nearer to what plans can reach than predictions are exact', point(loose), points);
  const found = point(tight);
  return answer('meets', `a plan is expected to take ${Number(found.latency.toPrecision(3))} ${unit}`, found, points);
}

/** Why a table says nothing about a budget; null where it does. */
function unjudgeable({ problem, counter, experience }: ReplayedTable, budget: Budget): string | null {
  if (budget.latencyMs !== undefined && counter !== 'nanoseconds')
    return `its latencies are counted in ${counter}: give a ceiling relative to int8`;
  const hasInt8 = problem.operators.some(({ choices }) => choices.some(({ precision }) => precision === 'W8A8'));
  const hasFloat = problem.operators.some(({ choices }) => choices.some(({ precision }) => precision === 'float'));
  // The engine's tables know its own int8 only; relative ceilings are of ONNX Runtime's.
  if (budget.latencyRatio !== undefined && (!hasInt8 || (!hasFloat && experience.int8Ratio === null)))
    return 'uniform int8 was not measured there with this model';
  if (budget.energyMj === undefined) return null;
  try {
    requireEnergy(problem);
    return null;
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    return 'it cannot measure energy';
  }
}

/** Ceilings with what predictions are off by on top of them (1), or off them (-1). */
function widened(ceilings: Ceilings, sign: 1 | -1): Ceilings {
  const by = (ceiling: number | undefined, share: number) =>
    ceiling === undefined ? undefined : sign > 0 ? ceiling / (1 - share) : ceiling / (1 + share);
  const wide = { ...ceilings };
  if (wide.latency !== undefined) wide.latency = by(wide.latency, off.latency)!;
  if (wide.bytes !== undefined) wide.bytes = by(wide.bytes, off.bytes)!;
  return wide;
}

function averageWeightBits({ operators }: TableProblem, assignment: Assignment): number {
  const total = operators.reduce((sum, { parameters }) => sum + parameters, 0);
  if (total === 0) return 32;
  const bits = operators.reduce((sum, { parameters, choices }, index) => {
    return parameters === 0
      ? sum
      : sum + parameters * parsePrecision(choices[assignment[index]!]!.precision).weightBits;
  }, 0);
  return Number((bits / total).toPrecision(4));
}

/**
 * A problem at the latencies of another table of the same target identity: operators by their rows, what has no row of its own (changes of
 * format, overhead) by the median ratio of those that do.
 */
export function atLatenciesOf(problem: TableProblem, rows: readonly LatencyRow[]): TableProblem {
  const table = new LatencyTable(rows);
  const ratios: number[] = [];
  const operators = problem.operators.map((operator) => ({
    ...operator,
    choices: operator.choices.map((choice) => {
      const latency = table.median(operator.key, choice.precision);
      if (Number.isNaN(latency)) return choice;
      if (choice.costs.latency > 0) ratios.push(latency / choice.costs.latency);
      return { ...choice, costs: { ...choice.costs, latency } };
    }),
  }));
  const ratio = ratios.length > 0 ? median(ratios) : 1;
  const edges = problem.edges.map((edge) => ({
    ...edge,
    conversions: edge.conversions.map((conversion) => ({ ...conversion, latency: conversion.latency * ratio })),
  }));
  return { ...problem, operators, edges, fixed: { ...problem.fixed, latency: problem.fixed.latency * ratio } };
}
