import fc from 'fast-check';
import t from 'tap';
import { HighsSolver } from '../../../../agent/adapters/highs-solver.js';
import {
  type Allocation,
  allocate,
  type Ceilings,
  fastest,
  mostAccurate,
} from '../../../../agent/core/plan/allocate.js';
import { evaluate, type Metric, type PlanCosts, type Problem } from '../../../../agent/core/plan/problem.js';
import { hawqConfigurations, hawqProblem } from './hawq-resnet18.js';
import { everyAssignment, randomNumbers, randomProblem, residualChain } from './problems.js';

const seed = Number(process.env.QUANTD_SEED ?? Date.now() % 2 ** 31);
const signal = new AbortController().signal;
const solver = new HighsSolver();
t.teardown(() => solver.close());
t.comment(`seed ${seed}: repeat with QUANTD_SEED=${seed}`);

const metrics: Metric[] = ['sensitivity', 'latency', 'bytes', 'energy', 'bitOps', 'ramBytes'];

function solve(problem: Problem, objective: Metric, ceilings: Ceilings): Promise<Allocation> {
  return allocate(problem, objective, ceilings, solver, {}, signal);
}

function meets(costs: PlanCosts, ceilings: Ceilings): boolean {
  return Object.entries(ceilings).every(([metric, ceiling]) => costs[metric as Metric]! <= ceiling);
}

function near(actual: number, expected: number): boolean {
  return Math.abs(actual - expected) <= 2e-6 * Math.abs(expected) + 1e-300;
}

function least(costs: readonly PlanCosts[], metric: Metric): number {
  return costs.reduce((minimum, { [metric]: value }) => Math.min(minimum, value!), Number.POSITIVE_INFINITY);
}

/** Compares one allocation with every assignment there is; returns what is wrong with it. */
function faults(problem: Problem, objective: Metric, ceilings: Ceilings, allocation: Allocation): string[] {
  const every = everyAssignment(problem);
  const all = every.map(({ costs }) => costs);
  const allowed = all.filter((costs) => meets(costs, ceilings));
  const wrong: string[] = [];
  const expect = (holds: boolean, what: string) => holds || wrong.push(what);
  if (allocation.status === 'infeasible') {
    expect(allowed.length === 0, 'called infeasible');
    for (const { metric, ceiling, minimum, alone } of allocation.infeasible) {
      const { [metric]: _, ...others } = ceilings;
      const expected = least(alone ? all : all.filter((costs) => meets(costs, others)), metric);
      expect(
        minimum === null ? expected === Number.POSITIVE_INFINITY : near(minimum, expected),
        `minimum of ${metric}`,
      );
      expect(!alone || expected > ceiling, `${metric} can be met alone`);
    }
    expect(allocation.infeasible.length > 0, 'no shortfall named');
    return wrong;
  }
  const { assignment, costs } = allocation;
  const second = objective === 'latency' ? 'sensitivity' : 'latency';
  const rivals = all.filter((rival) => meets(rival, ceilings) && rival[objective]! <= costs[objective]!);
  expect(allocation.status === 'optimal', `status ${allocation.status}`);
  expect(JSON.stringify(costs) === JSON.stringify(evaluate(problem, assignment)), 'costs are not those of evaluate');
  expect(meets(costs, ceilings), 'a ceiling is exceeded');
  expect(near(costs[objective]!, least(allowed, objective)), `${costs[objective]} is not ${least(allowed, objective)}`);
  expect(near(costs[second]!, least(rivals, second)), `tie: ${costs[second]} is not ${least(rivals, second)}`);
  expect(
    every.some((one) => one.assignment.join() === assignment.join()),
    'ties or conversions',
  );
  return wrong;
}

/** Ceilings on some metrics, each at the value that some assignment has, or a little below the least there is. */
function randomCeilings(problem: Problem, random: () => number): Ceilings {
  const all = everyAssignment(problem);
  const ceilings: Ceilings = {};
  for (const metric of metrics) {
    if (random() < 0.55 || all.length === 0) continue;
    const values = all.map(({ costs }) => costs[metric]!).sort((a, b) => a - b);
    ceilings[metric] = random() < 0.07 ? values[0]! * 0.999 : values[Math.floor(values.length * random() ** 2)]!;
  }
  return ceilings;
}

t.test('finds the nine configurations published for ResNet-18', async (t) => {
  const uniform = (choice: number) =>
    evaluate(
      hawqProblem,
      hawqProblem.operators.map(() => choice),
    );
  for (const { metric, fraction, bits, sensitivity } of hawqConfigurations) {
    const [low, high] = [uniform(0)[metric], uniform(1)[metric]];
    const allocation = await solve(hawqProblem, 'sensitivity', { [metric]: low + fraction * (high - low) });
    if (allocation.status === 'infeasible') return t.fail('infeasible');
    const found = allocation.assignment.map((choice) => (choice === 0 ? '4' : '8')).join('');
    t.equal(found, bits, `${metric} at ${fraction}`);
    t.equal(allocation.costs.sensitivity.toFixed(4), sensitivity.toFixed(4));
    t.same(allocation.binding, [metric]);
  }
});

for (const [title, options, runs] of [
  ['two choices', { operators: 9, choices: 2, decades: 3, ties: true, forbidden: 0 }, 60],
  ['three choices', { operators: 6, choices: 3, decades: 3, ties: true, forbidden: 0 }, 60],
  ['forbidden conversions', { operators: 6, choices: 3, decades: 3, ties: false, forbidden: 0.3 }, 40],
  ['costs that spread over nine decades', { operators: 8, choices: 2, decades: 9, ties: true, forbidden: 0 }, 60],
] as const) {
  t.test(`agrees with trying every assignment: ${title}`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), async (number) => {
        const problem = randomProblem(number, options);
        const random = randomNumbers(number + 1);
        const ceilings = randomCeilings(problem, random);
        const objective = metrics[Math.floor(random() * metrics.length)]!;
        const wrong = faults(problem, objective, ceilings, await solve(problem, objective, ceilings));
        if (wrong.length > 0) throw new Error(`${objective} under ${JSON.stringify(ceilings)}: ${wrong.join('; ')}`);
      }),
      { seed, numRuns: runs },
    );
  });
}

t.test('finds the optimum of a programme on which the presolve of HiGHS 1.15.1 errs', async () => {
  const options = { operators: 6, choices: 3, decades: 3, ties: false, forbidden: 0.3 };
  const problem = randomProblem(377018454, options);
  const ceilings = { latency: 0.804699453874361, bitOps: 265 };
  const wrong = faults(problem, 'bitOps', ceilings, await solve(problem, 'bitOps', ceilings));
  if (wrong.length > 0) throw new Error(wrong.join('; '));
});

t.test('the same problem in other units has the same solution', async (t) => {
  const scaled = (problem: Problem, factor: Record<'sensitivity' | 'latency', number>): Problem => {
    const scale = <T extends { sensitivity: number; latency: number }>(costs: T): T => ({
      ...costs,
      sensitivity: costs.sensitivity * factor.sensitivity,
      latency: costs.latency * factor.latency,
    });
    return {
      ...problem,
      operators: problem.operators.map((operator) => ({
        ...operator,
        choices: operator.choices.map((choice) => ({ ...choice, costs: scale(choice.costs) })),
      })),
      edges: problem.edges.map((edge) => ({ ...edge, conversions: edge.conversions.map(scale) })),
      fixed: { ...problem.fixed, latency: problem.fixed.latency * factor.latency },
    };
  };
  const problem = residualChain(1, 30, 3);
  const ceiling =
    evaluate(
      problem,
      problem.operators.map(() => 0),
    ).latency * 0.6;
  const reference = await solve(problem, 'sensitivity', { latency: ceiling });
  for (const [sensitivity, latency] of [
    [2 ** -30, 2 ** 30],
    [2 ** 40, 2 ** -40],
    [2 ** -60, 1],
  ] as const) {
    const other = await solve(scaled(problem, { sensitivity, latency }), 'sensitivity', { latency: ceiling * latency });
    if (reference.status === 'infeasible' || other.status === 'infeasible') return t.fail('infeasible');
    t.ok(near(other.costs.sensitivity / sensitivity, reference.costs.sensitivity));
  }
});

t.test('an overhead that dwarfs every operator does not blur the choice between them', async () => {
  const problem = randomProblem(5, { operators: 7, choices: 2, decades: 3, ties: false, forbidden: 0 });
  const large = { ...problem, fixed: { ...problem.fixed, latency: 1e7 } };
  const values = everyAssignment(large)
    .map(({ costs }) => costs.latency)
    .sort((a, b) => a - b);
  for (const latency of [values[0]!, values[3]!, values[40]!]) {
    const wrong = faults(large, 'sensitivity', { latency }, await solve(large, 'sensitivity', { latency }));
    if (wrong.length > 0) throw new Error(wrong.join('; '));
  }
});

t.test('never exceeds a ceiling by rounding, and uses one that is met exactly', async (t) => {
  const choice = (precision: string, sensitivity: number, latency: number) => ({
    precision,
    format: 'f32',
    costs: { sensitivity, latency, bytes: 0, energy: 0, bitOps: 0 },
  });
  const problem: Problem = {
    operators: Array.from({ length: 40 }, (_, index) => ({
      name: `op${index}`,
      choices: [choice('float', 0, 0.3), choice('W8A8', 1, 0.1)],
    })),
    edges: [],
    ties: [],
    fixed: { latency: 0, bytes: 0, ramBytes: 0 },
  };
  const exact = evaluate(
    problem,
    problem.operators.map((_, index) => (index < 17 ? 0 : 1)),
  ).latency;
  for (const latency of [exact, exact * (1 - 2 ** -53), exact * (1 - 2 ** -50), exact - 1e-12]) {
    const allocation = await solve(problem, 'sensitivity', { latency });
    if (allocation.status === 'infeasible') return t.fail('infeasible');
    t.ok(allocation.costs.latency <= latency);
    t.ok(allocation.costs.sensitivity <= 24, `${allocation.costs.sensitivity} at ${latency}`);
    if (latency === exact) t.equal(allocation.costs.sensitivity, 23);
  }
  const least = evaluate(
    problem,
    problem.operators.map(() => 1),
  ).latency;
  t.equal((await solve(problem, 'sensitivity', { latency: least })).status, 'optimal');
  t.equal((await solve(problem, 'sensitivity', { latency: least * (1 - 2 ** -53) })).status, 'infeasible');
});

t.test('a ceiling no assignment meets is named with the least there is', async (t) => {
  const problem = residualChain(3, 12, 2);
  const [fast, accurate] = [
    await fastest(problem, solver, {}, signal),
    await mostAccurate(problem, solver, {}, signal),
  ];
  if (fast.status === 'infeasible' || accurate.status === 'infeasible') return t.fail('infeasible');
  const least = fast.costs.latency;
  t.match(await solve(problem, 'sensitivity', { latency: least * 0.9, bytes: 1e12 }), {
    status: 'infeasible',
    infeasible: [{ metric: 'latency', ceiling: least * 0.9, minimum: least, alone: true }],
  });
  const ceilings = { latency: least, sensitivity: accurate.costs.sensitivity };
  t.match(await solve(problem, 'bytes', ceilings), {
    status: 'infeasible',
    infeasible: [
      { metric: 'latency', minimum: accurate.costs.latency, alone: false },
      { metric: 'sensitivity', minimum: fast.costs.sensitivity, alone: false },
    ],
  });
});

t.test('a ceiling on energy needs the energy of everything', async (t) => {
  const problem = residualChain(3, 4, 2);
  await t.rejects(solve(problem, 'sensitivity', { energy: 1 }), { code: 'budget/invalid', subject: 'op0 at float' });
  const known = randomProblem(5, { operators: 3, choices: 2, decades: 3, ties: false, forbidden: 0 });
  const overhead = { ...known, fixed: { ...known.fixed, energy: null } };
  await t.rejects(solve(overhead, 'sensitivity', { energy: 1 }), { code: 'budget/invalid', subject: /every run/ });
});

t.test('tied operators without a common precision are refused by name', async (t) => {
  const problem = residualChain(3, 4, 2);
  const operators = problem.operators.map((operator, index) =>
    index < 2 ? { ...operator, choices: [operator.choices[index]!] } : operator,
  );
  await t.rejects(solve({ ...problem, operators, ties: [[0, 1]] }, 'latency', {}), {
    code: 'budget/infeasible',
    subject: 'op0, op1',
  });
});

t.test('a start that breaks a tie, exceeds a ceiling or is no assignment is ignored', async (t) => {
  const problem = { ...residualChain(4, 8, 2), ties: [[0, 1]] };
  const float = problem.operators.map(() => 0);
  const expected = await solve(problem, 'latency', { bytes: 2e6 });
  for (const start of [[1, ...float.slice(1)], float, [], float.map(() => 9)]) {
    const allocation = await allocate(problem, 'latency', { bytes: 2e6 }, solver, { start }, signal);
    t.same({ ...allocation, seconds: 0 }, { ...expected, seconds: 0 });
  }
});

t.test('names the ceilings that hold the objective back', async (t) => {
  const problem = residualChain(4, 12, 2);
  const fast = await fastest(problem, solver, {}, signal);
  if (fast.status === 'infeasible') return t.fail('infeasible');
  const allocation = await solve(problem, 'sensitivity', { latency: fast.costs.latency * 1.3, bytes: 1e12 });
  t.match(allocation, { binding: ['latency'] });
  t.match(await solve(problem, 'sensitivity', { latency: 1 }), { binding: [] });
});

t.test('refuses malformed problems', async (t) => {
  const problem = residualChain(3, 6, 2);
  const edge = problem.edges[3]!;
  const withEdge = (changes: Partial<typeof edge>) => ({ ...problem, edges: [{ ...edge, ...changes }] });
  const malformed: Problem[] = [
    { ...problem, operators: [{ name: 'none', choices: [] }] },
    { ...problem, ties: [[0, 99]] },
    { ...problem, fixed: { latency: Number.NaN, bytes: 0, ramBytes: 0 } },
    withEdge({ consumers: [0] }),
    withEdge({ consumers: [99] }),
    withEdge({ producer: null, sourceFormat: undefined }),
    withEdge({ ramBytes: { f32: 1 } }),
    withEdge({ conversions: [{ ...edge.conversions[0]!, latency: -1 }] }),
  ];
  for (const one of malformed) await t.rejects(solve(one, 'latency', {}), TypeError);
});

t.test('stops when aborted', async (t) => {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 20);
  const allocation = allocate(
    residualChain(9, 300, 4),
    'sensitivity',
    { latency: 0.03 },
    solver,
    {},
    controller.signal,
  );
  await t.rejects(allocation, { code: 'job/aborted' });
});

t.test('gives the best plan so far when the time is short', async (t) => {
  const problem = residualChain(9, 300, 4);
  const fast = await fastest(problem, solver, {}, signal);
  if (fast.status === 'infeasible') return t.fail('infeasible');
  const options = { timeLimitSeconds: 0.01, start: fast.assignment };
  const allocation = await allocate(problem, 'sensitivity', { latency: 0.03 }, solver, options, signal);
  if (allocation.status === 'infeasible') return t.fail('infeasible');
  t.equal(allocation.status, 'feasible');
  t.ok(allocation.gap > 0);
  t.ok(allocation.costs.latency <= 0.03);
});
