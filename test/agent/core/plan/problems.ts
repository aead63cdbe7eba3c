/** Planning problems for tests: seeded random ones small enough to try every assignment, and large ones shaped like networks. */
import type { Choice, Conversion, Edge, PlanCosts, Problem } from '../../../../agent/core/plan/problem.js';
import { evaluate } from '../../../../agent/core/plan/problem.js';

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const formats = ['f32', 'u8', 'u4'];
const bytesPerElement: Record<string, number> = { f32: 4, u8: 1, u4: 0.5 };

export interface RandomProblemOptions {
  operators: number;
  choices: number;
  /** How far sensitivities and latencies spread: 10^-decades to 1. */
  decades: number;
  ties: boolean;
  /** Chance that a pair of formats has no conversion. */
  forbidden: number;
}

/** A random graph: every operator reads one or two earlier tensors; costs are random, with many equal and many zero. */
export function randomProblem(seed: number, options: RandomProblemOptions): Problem {
  const random = randomNumbers(seed);
  const { operators: count, choices, decades } = options;
  const cost = () => (random() < 0.15 ? 0 : random() < 0.2 ? 10 ** -2 : 10 ** (-decades * random()));
  const pick = (limit: number) => Math.floor(random() * limit);
  const operators = Array.from({ length: count }, (_, index) => ({
    name: `op${index}`,
    choices: Array.from({ length: random() < 0.2 ? 1 : choices }, (_, which) => ({
      precision: `P${which}`,
      format: which === 0 ? 'f32' : formats[pick(3)]!,
      costs: { sensitivity: cost(), latency: cost(), bytes: pick(1000), energy: cost(), bitOps: pick(100) },
      scratchBytes: pick(200),
    })),
  }));
  const consumers = Array.from({ length: count + 1 }, () => [] as number[]);
  operators.forEach((_, index) => {
    for (let input = 0; input < 1 + pick(2); input++) consumers[Math.max(0, index - pick(3))]!.push(index);
  });
  const edges = consumers.map((readers, tensor): Edge => {
    const elements = 4 * (1 + pick(100));
    const conversions = formats.flatMap((from) =>
      formats
        .filter((to) => to !== from && random() >= options.forbidden)
        .map(
          (to): Conversion => ({
            from,
            to,
            latency: cost(),
            sensitivity: cost() * 0.1,
            energy: cost(),
            bytes: pick(20),
          }),
        ),
    );
    return {
      tensor: `t${tensor}`,
      producer: tensor === 0 ? null : tensor - 1,
      ...(tensor === 0 ? { sourceFormat: 'f32' } : {}),
      consumers: readers,
      sinkFormats: tensor === count || random() < 0.1 ? ['f32'] : [],
      conversions,
      ramBytes: Object.fromEntries(formats.map((format) => [format, elements * bytesPerElement[format]!])),
    };
  });
  const ties =
    options.ties && count > 3
      ? [
          [pick(count), pick(count)],
          [pick(count), pick(count), pick(count)],
        ]
      : [];
  return { operators, edges, ties, fixed: { latency: cost(), bytes: pick(100), ramBytes: pick(100), energy: cost() } };
}

/** Every assignment that keeps the ties and needs no forbidden conversion, with its costs. */
export function everyAssignment(problem: Problem): { assignment: number[]; costs: PlanCosts }[] {
  const all: { assignment: number[]; costs: PlanCosts }[] = [];
  const visit = (assignment: number[]) => {
    if (assignment.length < problem.operators.length) {
      for (const choice of problem.operators[assignment.length]!.choices.keys()) visit([...assignment, choice]);
      return;
    }
    const precision = (operator: number) => problem.operators[operator]!.choices[assignment[operator]!]!.precision;
    if (!problem.ties.every((tie) => tie.every((operator) => precision(operator) === precision(tie[0]!)))) return;
    const costs = evaluate(problem, assignment);
    if (Number.isFinite(costs.latency)) all.push({ assignment, costs });
  };
  visit([]);
  return all;
}

/**
 * A chain of blocks of three operators with a residual connection around the last two, as in a residual network. Precisions `float`
 * (f32), then W8A8 and narrower ones in u8; conversions cost a few per cent of an operator.
 */
export function residualChain(seed: number, count: number, choices: number): Problem {
  const random = randomNumbers(seed);
  const operators = Array.from({ length: count }, (_, index) => {
    const microseconds = 20 + 400 * random();
    const sensitivity = 10 ** (-5 + 4 * random());
    const elements = 1000 * (1 + Math.floor(500 * random()));
    return {
      name: `op${index}`,
      choices: Array.from({ length: choices }, (_, which): Choice => {
        const speedUp = which === 0 ? 1 : (1.5 + random()) * which;
        return {
          precision: which === 0 ? 'float' : `W${8 - 2 * (which - 1)}A8`,
          format: which === 0 ? 'f32' : 'u8',
          costs: {
            sensitivity: which === 0 ? 0 : sensitivity * 16 ** (which - 1),
            latency: (microseconds / speedUp) * 1e-6,
            bytes: Math.round((elements * (which === 0 ? 32 : 10 - 2 * which)) / 8),
            energy: null,
            bitOps: 0,
          },
        };
      }),
    };
  });
  const edges = Array.from({ length: count + 1 }, (_, tensor): Edge => {
    const consumers = [tensor, ...(tensor % 3 === 0 ? [tensor + 2] : [])].filter((operator) => operator < count);
    const elements = 1000 * (1 + Math.floor(200 * random()));
    const cost = { latency: (2 + 20 * random()) * 1e-6, energy: null, bytes: 40 };
    return {
      tensor: `t${tensor}`,
      producer: tensor === 0 ? null : tensor - 1,
      sourceFormat: 'f32',
      consumers,
      sinkFormats: tensor === count ? ['f32'] : [],
      conversions: [
        { from: 'f32', to: 'u8', sensitivity: 1e-6 * random(), ...cost },
        { from: 'u8', to: 'f32', sensitivity: 0, ...cost },
      ],
      ramBytes: { f32: 4 * elements, u8: elements },
    };
  });
  return { operators, edges, ties: [], fixed: { latency: 30e-6, bytes: 0, ramBytes: 0 } };
}
