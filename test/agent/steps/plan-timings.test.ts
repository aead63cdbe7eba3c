/** What timings of plans say of plans that were not timed, on made-up machines whose tables are off. */
import t from 'tap';
import { LatencyTable } from '../../../agent/core/latency.js';
import { type LatencyExperience, noExperience } from '../../../agent/core/plan/expected-latency.js';
import { type Plan, planKey, planOf, planWith, restrict, uniformPlan } from '../../../agent/core/plan/plan.js';
import type { Problem } from '../../../agent/core/plan/problem.js';
import { prepare } from '../../../agent/core/prepare.js';
import { median } from '../../../agent/core/statistics.js';
import type { Comparison, Target } from '../../../agent/ports.js';
import { PlanTimings } from '../../../agent/steps/plan-timings.js';
import type { Budget } from '../../../configs/contracts/plan.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';
import { never, quiet, samplesOf } from '../../support/steps.js';

const seed = announceSeed();
const dims = [1, 3, 4, 4];
const prepared = prepare(new NetworkBuilder(new Random(seed), dims).build(['x']), imageCard('classification', dims));
const names = ['float', 'W8A8', 'W4A8', 'W4A4'];

function problemOf(random: Random, operators: number): Problem {
  const costs = () => ({ sensitivity: random.next(), latency: 1 + random.next(), bytes: 1, energy: null, bitOps: 1 });
  return {
    operators: Array.from({ length: operators }, (_, index) => ({
      name: `o${index}`,
      choices: names.map((precision) => ({ precision, format: 'u8', costs: costs() })),
    })),
    edges: [],
    ties: [],
    fixed: { latency: 0.5, bytes: 0, ramBytes: 0 },
  };
}

/** A machine that takes `times` what the tables say, and every choice and precision some percent more or less than that. */
class Machine {
  readonly #times: number;
  readonly #factors = new Map<string, number>();

  constructor(random: Random, times: number, { operators }: Problem) {
    this.#times = times;
    const factor = (spread: number) => 1 + spread * (2 * random.next() - 1);
    const shared = new Map(names.map((name) => [name, factor(0.08)]));
    for (const { name, choices } of operators)
      for (const { precision } of choices)
        this.#factors.set(`${name}@${precision}`, shared.get(precision)! * factor(0.15));
  }

  latencyOf({ problem, assignment }: Plan): number {
    const sum = problem.operators.reduce((total, { name, choices }, index) => {
      const { precision, costs } = choices[assignment[index]!]!;
      return total + costs.latency * this.#factors.get(`${name}@${precision}`)!;
    }, problem.fixed.latency);
    return this.#times * sum;
  }

  /** Artifacts are keys of plans of this problem. */
  target(problem: Problem): Target {
    const compare = async (models: readonly { name: string; bytes: Uint8Array }[]): Promise<Comparison> => {
      const timings = models.map(({ name, bytes }) => {
        const latency = this.latencyOf(planWith(problem, Buffer.from(bytes).toString())!);
        return { name, minimum: latency, median: latency, samples: 9 };
      });
      return { timings, ratios: [], referenceLatency: 1, throttled: false };
    };
    return { compare } as unknown as Target;
  }
}

const artifact = (plan: Plan) => ({ plan, bytes: Buffer.from(planKey(plan)) });

function timingsOn(machine: Machine, problem: Problem, budget: Budget, experience: LatencyExperience = noExperience) {
  const context = {
    job: { prepared, budget },
    assessed: { table: new LatencyTable() },
    calibrationSamples: { ...samplesOf([new Float32Array(48)]), source: 'samples' as const },
    experience,
    ports: { target: machine.target(problem) },
    signal: never,
  };
  return new PlanTimings(context, uniformPlan(problem, 'W8A8'), true);
}

const anyPlan = (random: Random, problem: Problem) =>
  planOf(
    problem,
    problem.operators.map(({ choices }) => random.below(choices.length)),
  );

for (const budget of [{ latencyMs: 1 }, { latencyRatio: 0.8 }]) {
  const kind = Object.keys(budget)[0];
  t.test(`timed plans say more of others than the tables do, also to a later search: ${kind}`, async (t) => {
    const errors = { tables: [] as number[], learnt: [] as number[] };
    for (let index = 0; index < 40; index++) {
      const random = new Random(seed + index);
      const problem = problemOf(random, 6);
      const machine = new Machine(random, 0.5 + 2 * random.next(), problem);
      const search = timingsOn(machine, problem, budget);
      const untold = search.learnt(problem);
      t.strictSame(
        [untold.problem, untold.corrections, untold.prior],
        [problem, [], 1],
        'nothing measured, nothing learnt',
      );
      const ends = [uniformPlan(problem, 'float'), uniformPlan(problem, 'W8A8')];
      for (let round = 0; round < 3; round++)
        await search.measure(
          [...ends, ...Array.from({ length: 4 }, () => anyPlan(random, problem))].map(artifact),
          quiet,
        );

      const int8 = ends[1]!;
      const { problem: learnt, corrections } = search.learnt(problem);
      t.equal(corrections.length, search.measured.length);
      t.ok(
        Math.abs(planWith(learnt, planKey(int8))!.costs.latency / int8.costs.latency - 1) < 0.02,
        'in the same unit',
      );
      const later = timingsOn(machine, problem, budget, search.learntFor([]));
      const retold = later.learnt(problem);
      const share = (plan: Plan) => machine.latencyOf(plan) / machine.latencyOf(int8);
      const tableShare = (plan: Plan) => plan.costs.latency / int8.costs.latency;
      const scale = median(search.measured.map(({ plan }) => share(plan) / tableShare(plan)));
      for (let other = 0; other < 10; other++) {
        const plan = anyPlan(random, problem);
        const predicted = planWith(learnt, planKey(plan))!.costs.latency / int8.costs.latency;
        const remembered = planWith(retold.problem, planKey(plan))!.costs.latency / int8.costs.latency;
        if (Math.abs(remembered / predicted - 1) > 0.02) t.fail(`${index}: ${remembered} remembered, not ${predicted}`);
        errors.tables.push(Math.abs((scale * tableShare(plan)) / share(plan) - 1));
        errors.learnt.push(Math.abs(predicted / share(plan) - 1));
      }
      const wanted = kind === 'latencyMs' ? machine.latencyOf(int8) / int8.costs.latency : 1;
      t.ok(Math.abs(retold.prior / wanted - 1) < 1e-9, 'how much longer int8 takes than the tables say');
    }
    const [tables, learnt] = [median(errors.tables), median(errors.learnt)];
    t.comment(`median error of the tables ${tables}, of what was learnt ${learnt}`);
    t.ok(learnt < 0.8 * tables);
  });
}

t.test('plans of other choices are left aside, and of many only the latest are remembered', async (t) => {
  const random = new Random(seed + 999);
  const problem = problemOf(random, 8);
  const machine = new Machine(random, 1, problem);
  const search = timingsOn(machine, problem, {});
  const ends = [uniformPlan(problem, 'float'), uniformPlan(problem, 'W8A8')];
  const plans = Array.from({ length: 50 }, () => anyPlan(random, problem));
  for (const plan of plans) await search.measure([...ends, plan].map(artifact), quiet);
  const { plans: remembered, int8Latency, int8Ratio } = search.learntFor(ends);
  t.equal(remembered.length, 40);
  t.equal(new Set(remembered.map(({ key }) => key)).size, 40, 'each once');
  t.ok(
    remembered.slice(0, 3).some(({ key }) => key === planKey(plans.at(-1)!)),
    'newest first',
  );
  t.equal(int8Latency, machine.latencyOf(ends[1]!));
  t.equal(int8Ratio, 1);
  const few = restrict(problem, ['W8A8', 'W4A8']);
  const later = timingsOn(machine, problem, {}, search.learntFor([]));
  t.doesNotThrow(() => later.learnt(few));
  t.equal(planWith(few, planKey(ends[0]!)), null, 'float is none of its choices');
});

t.test('what was remembered yields to what is measured, all of it where that says something else', async (t) => {
  const random = new Random(seed + 2000);
  const problem = problemOf(random, 6);
  const ends = [uniformPlan(problem, 'float'), uniformPlan(problem, 'W8A8')];
  const plans = Array.from({ length: 6 }, () => anyPlan(random, problem));
  const machine = new Machine(random, 1, problem);
  const before = timingsOn(machine, problem, {});
  await before.measure([...ends, ...plans].map(artifact), quiet);
  const experience = before.learntFor([]);

  const agreeing = { ...experience, plans: experience.plans.map(({ key, share }) => ({ key, share: 1.05 * share })) };
  const contradicted = {
    ...experience,
    plans: experience.plans.map(({ key, share }) => ({ key, share: 1.5 * share })),
  };
  const after = async (known: LatencyExperience) => {
    const search = timingsOn(machine, problem, {}, known);
    await search.measure([...ends, plans[0]!].map(artifact), quiet);
    const { problem: learnt } = search.learnt(problem);
    return [plans[0]!, plans[1]!].map((plan) => planWith(learnt, planKey(plan))!.costs.latency);
  };
  const [nothing, told, misled] = [await after(noExperience), await after(agreeing), await after(contradicted)];
  t.strictSame(misled, nothing, 'nothing is left of what was contradicted');
  t.ok(Math.abs(told[0]! / nothing[0]! - 1) < 0.02, 'what is measured now counts for more');
  t.not(told[1], nothing[1], 'the rest is still believed');
});

t.test('the budget in the unit of the tables is scaled by what int8 takes, whatever other plans take', async (t) => {
  const random = new Random(seed + 3000);
  const problem = problemOf(random, 5);
  const int8 = uniformPlan(problem, 'W8A8');
  const slowElsewhere = new Machine(random, 1, problem);
  slowElsewhere.latencyOf = ({ problem: own, assignment }) => {
    const plan = planOf(own, assignment);
    return planKey(plan) === planKey(int8) ? 2e6 * plan.costs.latency : 3e6 * plan.costs.latency;
  };
  for (const [budget, wanted] of [
    [{ latencyMs: 10 }, 5],
    [{ latencyRatio: 0.5 }, 0.5 * int8.costs.latency],
  ] as const) {
    const search = timingsOn(slowElsewhere, problem, budget);
    await search.measure([uniformPlan(problem, 'float'), int8, anyPlan(random, problem)].map(artifact), quiet);
    t.ok(Math.abs(search.unit() / 2e6 - 1) < 1e-9);
    t.ok(Math.abs(search.ceiling()! / wanted - 1) < 1e-9, `${search.ceiling()}, not ${wanted}`);
  }
});
