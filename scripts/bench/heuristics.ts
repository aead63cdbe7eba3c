/**
 * Ways to choose a plan under a ceiling on latency that others have published, for `npm run bench -- search`: what the integer
 * programme is held against. They know sums alone, so problems with conversions are refused. Latencies are in the problem's unit.
 */
import type { Assignment, Problem } from '../../agent/core/plan/problem.js';
import { type Option, unitsOf } from '../../agent/core/plan/units.js';
import { xorshift32 } from '../../agent/core/random.js';

/** A unit's options of which no other is both faster and more accurate: the most accurate first, every further one faster. */
interface Ladder {
  readonly operators: readonly number[];
  readonly steps: readonly Option[];
}

/** For every unit, the step of its ladder. */
type Steps = readonly number[];

/**
 * Greedy descent (MPTQ-ViT, arXiv 2401.14895): from the most accurate plan, again and again the one change that saves most latency for
 * the sensitivity that it adds, until the ceiling holds. null where it cannot hold.
 */
export function greedyPlan(problem: Problem, ceiling: number): Assignment | null {
  const ladders = laddersOf(problem);
  let steps: Steps = ladders.map(() => 0);
  while (latencyOf(problem, ladders, steps) > ceiling) {
    let best: { at: number; step: number; gain: number } | null = null;
    for (const [at, ladder] of ladders.entries()) {
      const from = ladder.steps[steps[at]!]!.costs;
      for (let step = steps[at]! + 1; step < ladder.steps.length; step++) {
        const to = ladder.steps[step]!.costs;
        const gain = (from.latency - to.latency) / (to.sensitivity - from.sensitivity);
        if (best === null || gain > best.gain) best = { at, step, gain };
      }
    }
    if (best === null) return null;
    steps = steps.with(best.at, best.step);
  }
  return assignmentOf(problem, ladders, steps);
}

/**
 * Bisection (arXiv 2306.04879): units in the order of what the next narrower step adds to the sensitivity; the fewest from the front of
 * that order are lowered together that make the ceiling hold. Where all are too few, all are lowered, and the next step is tried.
 * null where the last does not help either.
 */
export function bisectedPlan(problem: Problem, ceiling: number): Assignment | null {
  const ladders = laddersOf(problem);
  const holds = (steps: Steps) => latencyOf(problem, ladders, steps) <= ceiling;
  let steps: Steps = ladders.map(() => 0);
  for (;;) {
    if (holds(steps)) return assignmentOf(problem, ladders, steps);
    const sensitivityAt = (at: number, step: number) => ladders[at]!.steps[step]!.costs.sensitivity;
    const added = (at: number) => sensitivityAt(at, steps[at]! + 1) - sensitivityAt(at, steps[at]!);
    const order = [...ladders.keys()]
      .filter((at) => steps[at]! + 1 < ladders[at]!.steps.length)
      .sort((a, b) => added(a) - added(b));
    if (order.length === 0) return null;
    const lowered = (count: number): Steps =>
      order.slice(0, count).reduce((list, at) => list.with(at, list[at]! + 1), steps);
    let [low, high] = [1, order.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (holds(lowered(middle))) high = middle;
      else low = middle + 1;
    }
    steps = lowered(high);
  }
}

/**
 * Exchange (SliM-LLM, arXiv 2405.14917): one unit goes up a step and one goes down a step, whichever two lower the sensitivity most
 * without raising the latency above the ceiling, until no two do. `start` has to hold the ceiling.
 */
export function exchangedPlan(problem: Problem, start: Assignment, ceiling: number): Assignment {
  const ladders = laddersOf(problem);
  let steps: Steps = ladders.map((ladder) => stepOf(problem, ladder, start));
  for (;;) {
    const room = ceiling - latencyOf(problem, ladders, steps);
    const moves = (by: 1 | -1) =>
      ladders.flatMap(({ steps: options }, at) => {
        const [from, to] = [options[steps[at]!]!.costs, options[steps[at]! + by]?.costs];
        const change = to && { sensitivity: to.sensitivity - from.sensitivity, latency: to.latency - from.latency };
        return change === undefined ? [] : [{ at, by, ...change }];
      });
    const downs = moves(1);
    let best: { up: number; down: number; sensitivity: number } | null = null;
    for (const up of moves(-1)) {
      for (const down of downs) {
        const sensitivity = up.sensitivity + down.sensitivity;
        const fits = up.at !== down.at && up.latency + down.latency <= room;
        if (fits && sensitivity < Math.min(0, best?.sensitivity ?? 0)) best = { up: up.at, down: down.at, sensitivity };
      }
    }
    if (best === null) return assignmentOf(problem, ladders, steps);
    steps = steps.with(best.up, steps[best.up]! - 1).with(best.down, steps[best.down]! + 1);
  }
}

/** A random plan takes at least this share of the ceiling, where there are such plans: one that is faster has given away accuracy. */
const leastShare = 0.97;
const repairs = 200;
const attemptsPerPlan = 10;

/**
 * Up to `count` different random plans under the ceiling: steps drawn uniformly by unit, then changed at random places, never away
 * from what the ceiling allows.
 */
export function randomPlans(problem: Problem, ceiling: number, count: number, seed: number): Assignment[] {
  const ladders = laddersOf(problem);
  const random = xorshift32(seed);
  const pick = (below: number) => Math.floor(random() * below);
  const distance = (steps: Steps) => {
    const latency = latencyOf(problem, ladders, steps);
    // Any plan above the ceiling is farther than any below.
    return latency > ceiling ? latency : Math.max(0, leastShare * ceiling - latency);
  };
  const plans = new Map<string, Assignment>();
  for (let attempt = 0; attempt < attemptsPerPlan * count && plans.size < count; attempt++) {
    let steps: Steps = ladders.map((ladder) => pick(ladder.steps.length));
    for (let repair = 0; repair < repairs && distance(steps) > 0; repair++) {
      const at = pick(ladders.length);
      const changed = steps.with(at, pick(ladders[at]!.steps.length));
      if (distance(changed) <= distance(steps)) steps = changed;
    }
    if (latencyOf(problem, ladders, steps) <= ceiling) plans.set(steps.join(), assignmentOf(problem, ladders, steps));
  }
  return [...plans.values()];
}

function laddersOf(problem: Problem): Ladder[] {
  if (problem.edges.some(({ conversions }) => conversions.length > 0))
    throw new TypeError('the problem has conversions, which are no sums over units');
  return unitsOf(problem).map(({ operators, options }) => {
    const sorted = [...options].sort(
      (a, b) => a.costs.sensitivity - b.costs.sensitivity || a.costs.latency - b.costs.latency,
    );
    const isFastest = (option: Option, at: number) =>
      sorted.slice(0, at).every(({ costs }) => option.costs.latency < costs.latency);
    return { operators, steps: sorted.filter(isFastest) };
  });
}

/** The step that an assignment has; where its choice is on no ladder, the most accurate step that is no slower. */
function stepOf(problem: Problem, { operators, steps }: Ladder, assignment: Assignment): number {
  const latency = operators.reduce(
    (sum, operator) => sum + problem.operators[operator]!.choices[assignment[operator]!]!.costs.latency,
    0,
  );
  return steps.findIndex(({ costs }) => costs.latency <= latency);
}

function latencyOf(problem: Problem, ladders: readonly Ladder[], steps: Steps): number {
  return ladders.reduce((sum, ladder, at) => sum + ladder.steps[steps[at]!]!.costs.latency, problem.fixed.latency);
}

function assignmentOf(problem: Problem, ladders: readonly Ladder[], steps: Steps): Assignment {
  const assignment = problem.operators.map(() => 0);
  ladders.forEach((ladder, at) => {
    ladder.operators.forEach((operator, position) => {
      assignment[operator] = ladder.steps[steps[at]!]!.choices[position]!;
    });
  });
  return assignment;
}
