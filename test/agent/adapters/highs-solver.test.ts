import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import t from 'tap';
import { HighsSolver } from '../../../agent/adapters/highs-solver.js';
import type { LinearProgram, Row, SolveOptions } from '../../../agent/core/plan/linear-program.js';
import { randomNumbers } from '../core/plan/problems.js';

const seed = Number(process.env.QUANTD_SEED ?? Date.now() % 2 ** 31);
t.comment(`seed ${seed}: repeat with QUANTD_SEED=${seed}`);
const never = new AbortController().signal;
const options: SolveOptions = { timeLimitSeconds: 20, relativeGap: 0 };

/** Minimise `costs` over binaries under `rows . x <= bounds`. */
function binaryProgram(
  costs: number[],
  rows: number[][],
  bounds: number[],
  relation: Row['relation'] = '<=',
): LinearProgram {
  const terms = (coefficients: number[]) => coefficients.map((coefficient, variable) => ({ variable, coefficient }));
  return {
    variables: costs.map((_, index) => ({ name: `x${index}`, lower: 0, upper: 1, integer: true })),
    objective: terms(costs),
    rows: rows.map((row, index) => ({ name: `row ${index}`, terms: terms(row), relation, bound: bounds[index]! })),
  };
}

/** Market split (Cornuejols and Dawande, 1998): far beyond what branch and bound finishes in a minute, but easy to start on. */
function hardProgram(): LinearProgram {
  const random = randomNumbers(1);
  const [rows, columns] = [5, 60];
  const matrix = Array.from({ length: rows }, () => Array.from({ length: columns }, () => Math.floor(100 * random())));
  const slackColumns = Array.from({ length: 2 * rows }, (_, slack) => ({
    row: slack >> 1,
    sign: slack % 2 === 0 ? 1 : -1,
  }));
  return {
    variables: [
      ...Array.from({ length: columns }, (_, index) => ({ name: `x${index}`, lower: 0, upper: 1, integer: true })),
      ...slackColumns.map((_, index) => ({ name: `s${index}`, lower: 0, upper: 1e5, integer: false })),
    ],
    objective: slackColumns.map((_, index) => ({ variable: columns + index, coefficient: 0.01 })),
    rows: matrix.map((row, index) => ({
      name: `row ${index}`,
      terms: [
        ...row.map((coefficient, variable) => ({ variable, coefficient })),
        ...slackColumns.flatMap((slack, which) =>
          slack.row === index ? [{ variable: columns + which, coefficient: slack.sign }] : [],
        ),
      ],
      relation: '=' as const,
      bound: Math.floor(row.reduce((sum, value) => sum + value, 0) / 2),
    })),
  };
}

t.test('agrees with trying every point of small binary programmes', async (t) => {
  const solver = new HighsSolver();
  t.teardown(() => solver.close());
  await fc.assert(
    fc.asyncProperty(fc.nat(), async (number) => {
      const random = randomNumbers(number);
      const size = 1 + Math.floor(8 * random());
      const numbers = () => Array.from({ length: size }, () => Math.round(20 * random() - 8));
      const rows = [numbers(), numbers()];
      const bounds = rows.map(() => Math.round(20 * random() - 8));
      const costs = numbers();
      const dot = (row: number[], point: number) =>
        row.reduce((sum, value, bit) => sum + value * ((point >> bit) & 1), 0);
      const points = Array.from({ length: 2 ** size }, (_, point) => point);
      const allowed = points.filter((point) => rows.every((row, index) => dot(row, point) <= bounds[index]!));
      const solution = await solver.solve(binaryProgram(costs, rows, bounds), options, never);
      if (allowed.length === 0) return solution.status === 'infeasible' && solution.values.length === 0;
      const best = allowed.reduce((least, point) => Math.min(least, dot(costs, point)), Number.POSITIVE_INFINITY);
      return solution.status === 'optimal' && Math.abs(solution.objective - best) < 1e-9 && solution.gap < 1e-9;
    }),
    { seed, numRuns: 100 },
  );
});

t.test('solves programmes without integers, with equalities, and tells an unbounded one', async (t) => {
  const solver = new HighsSolver();
  t.teardown(() => solver.close());
  const variables = ['x', 'y'].map((name) => ({ name, lower: 0, upper: Number.POSITIVE_INFINITY, integer: false }));
  const sum = [0, 1].map((variable) => ({ variable, coefficient: 1 }));
  const objective = [
    { variable: 0, coefficient: 2 },
    { variable: 1, coefficient: 3 },
  ];
  const rows: Row[] = [
    { name: 'sum', terms: sum, relation: '=', bound: 4 },
    { name: 'x', terms: [sum[0]!], relation: '<=', bound: 1 },
  ];
  const solution = await solver.solve({ variables, objective, rows }, options, never);
  t.match(solution, { status: 'optimal', objective: 11, gap: 0 });
  t.same([...solution.values], [1, 3]);
  const unbounded = { variables, objective: [{ variable: 0, coefficient: -1 }], rows: [] };
  t.equal((await solver.solve(unbounded, options, never)).status, 'unbounded');
});

t.test('answers with the best point and its gap when time runs out', async (t) => {
  const solver = new HighsSolver();
  t.teardown(() => solver.close());
  const solution = await solver.solve(hardProgram(), { ...options, timeLimitSeconds: 1 }, never);
  t.equal(solution.status, 'feasible');
  t.ok(solution.values.length > 0);
  t.ok(solution.gap > 0);
  t.ok(solution.seconds < 3, `${solution.seconds} s`);
});

t.test('stops at once when aborted, and solves the next programme', async (t) => {
  const solver = new HighsSolver();
  t.teardown(() => solver.close());
  const controller = new AbortController();
  const running = solver.solve(hardProgram(), { ...options, timeLimitSeconds: 60 }, controller.signal);
  const waiting = solver.solve(hardProgram(), options, controller.signal);
  const next = solver.solve(binaryProgram([-1, 2], [], []), options, never);
  setTimeout(() => controller.abort(), 700);
  const begun = performance.now();
  await t.rejects(running, { code: 'job/aborted' });
  await t.rejects(waiting, { code: 'job/aborted' });
  t.match(await next, { status: 'optimal', objective: -1 });
  t.ok(performance.now() - begun < 10_000);
});

t.test('keeps the event loop free while it solves', async (t) => {
  const solver = new HighsSolver();
  t.teardown(() => solver.close());
  let longest = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 5);
  await solver.solve(hardProgram(), { ...options, timeLimitSeconds: 1 }, never);
  clearInterval(timer);
  t.ok(longest < 400, `${longest} ms`);
});

t.test('a programme that breaks the solver fails alone', async (t) => {
  const solver = new HighsSolver();
  t.teardown(() => solver.close());
  const good = binaryProgram([-1, 2], [], []);
  const badIndex = {
    ...good,
    rows: [{ name: 'bad', terms: [{ variable: 99, coefficient: 1 }], relation: '<=' as const, bound: 1 }],
  };
  const tooLarge = { ...good, start: new Float64Array(7) };
  const notANumber = binaryProgram([-1, 2], [[1, 1]], [Number.NaN]);
  const notData = { ...good, variables: [() => undefined] } as unknown as LinearProgram;
  for (const bad of [badIndex, tooLarge, notANumber, notData]) {
    const failing = solver.solve(bad, options, never);
    const next = solver.solve(good, options, never);
    await t.rejects(failing, { code: 'solver/failed' });
    t.match(await next, { status: 'optimal', objective: -1 });
  }
});

t.test('starts from a point that is not feasible as if there were none', async (t) => {
  const solver = new HighsSolver();
  t.teardown(() => solver.close());
  const program = binaryProgram([-1, -2], [[1, 1]], [1]);
  t.match(await solver.solve({ ...program, start: new Float64Array([1, 1]) }, options, never), { objective: -2 });
});

t.test('closing ends a solve, and a process ends without closing', async (t) => {
  const solver = new HighsSolver();
  const running = solver.solve(hardProgram(), options, never);
  setTimeout(() => solver.close(), 500);
  await t.rejects(running, { code: 'solver/failed' });
  const module = new URL('../../../agent/adapters/highs-solver.js', import.meta.url).href;
  const program = JSON.stringify(binaryProgram([-1, 2], [], []));
  const script = `
    const { HighsSolver } = await import(${JSON.stringify(module)});
    const solution = await new HighsSolver().solve(${program}, ${JSON.stringify(options)}, new AbortController().signal);
    console.log(solution.objective);`;
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    timeout: 20_000,
  });
  t.equal(child.stdout.trim(), '-1', child.stderr);
  t.equal(child.status, 0);
});
