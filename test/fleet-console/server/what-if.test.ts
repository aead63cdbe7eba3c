/** What-if: verdicts on budgets from reported frontiers, one by one, against every plan of a made-up device, and over the API. */
import t from 'tap';
import type { FrontierPoint, Measurements } from '../../../configs/contracts/device.js';
import type { Budget } from '../../../configs/contracts/plan.js';
import { predict } from '../../../fleet-console/server/what-if.js';
import { until } from '../../support/broker.js';
import { makeRelease, startConsole } from '../../support/console.js';
import { fleet } from '../../support/fleet-command.js';
import { SwiftDevice } from '../../support/rollout-device.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const point = (latency: number, sensitivity: number, sizeBytes: number): FrontierPoint => ({
  latency,
  sensitivity,
  sizeBytes,
  ramBytes: 500,
  averageWeightBits: 6,
});
const measured = (change: object = {}): Measurements => ({
  latency: { unit: 'ms', float: 20, int8: 10, predicted: 8, measured: 8 },
  quality: { samples: 9, floatTop1: 0.9, int8Top1: 0.9, top1: 0.89, agreement: 0.97, kl: 0.01 },
  sizeBytes: 1000,
  ramBytes: 600,
  averageWeightBits: 8,
  averageActivationBits: 8,
  ...change,
});
const frontier = [point(5, 0.3, 700), point(7, 0.1, 900), point(9, 0.01, 1100)];

t.test('each kind of budget gets its verdict, with the reason', async (t) => {
  const cases: [Budget, Partial<Parameters<typeof predict>[1]>, string, RegExp][] = [
    [{ latencyMs: 8 }, {}, 'meets', /what runs there was measured within it/],
    [{ latencyMs: 8, agreement: 0.97, drop: 0.02 }, {}, 'meets', /measured/],
    [{ latencyMs: 7.8 }, {}, 'meets', /expected to take 7 ms/],
    [{ latencyRatio: 0.6 }, {}, 'meets', /expected to take 5 ms/],
    [{ latencyMs: 4 }, {}, 'infeasible', /fastest plan is expected to take 5 ms, the ceiling is 4 ms/],
    [{ latencyRatio: 0.3 }, {}, 'infeasible', /the ceiling is 3 ms/],
    [{ latencyMs: 4.9 }, {}, 'unknown', /between its points/],
    [{ latencyMs: 4, sizeBytes: 2000 }, { budget: { sizeBytes: 1200 } }, 'unknown', /under a tighter sizeBytes/],
    [{ latencyMs: 4, sizeBytes: 1000 }, { budget: { sizeBytes: 1200 } }, 'infeasible', /fastest/],
    [{ latencyMs: 7, agreement: 0.9 }, {}, 'unknown', /quality was not measured/],
    [{ sizeBytes: 600 }, {}, 'unknown', /no plan on its frontier fits/],
    [{ energyMj: 3 }, {}, 'unknown', /do not report energyMj/],
    [{ latencyMs: 4 }, { frontier: [], measurements: null }, 'unknown', /reported no frontier/],
    [{ latencyRatio: 0.5 }, { measurements: null }, 'unknown', /int8 was not measured/],
    [
      { latencyMs: 4 },
      { measurements: measured({ latency: { unit: 'cycles', float: 1, int8: 1, predicted: 1, measured: 1 } }) },
      'unknown',
      /counted in cycles/,
    ],
  ];
  for (const [budget, change, verdict, why] of cases) {
    const prediction = predict(budget, { measurements: measured(), frontier, budget: {}, ...change });
    t.equal(prediction.verdict, verdict, `${JSON.stringify(budget)}: ${prediction.why}`);
    t.match(prediction.why, why);
  }
});

t.test('no verdict contradicts what a device could do, over random sets of plans', async (t) => {
  const random = new Random(seed);
  const seen = { meets: 0, infeasible: 0, unknown: 0, unaffected: 0 };
  for (let round = 0; round < 2000; round++) {
    const plans = Array.from({ length: 1 + random.below(30) }, () =>
      point(1 + random.below(100) / 10, random.below(1000) / 1000, 100 + random.below(1000)),
    );
    // What a device reports: plans that no other one beats in both, of those that its budget allows.
    const was: Budget = random.next() < 0.3 ? { sizeBytes: 200 + random.below(1000) } : {};
    const allowed = plans.filter(({ sizeBytes }) => sizeBytes <= (was.sizeBytes ?? Infinity));
    const reported = allowed.filter(
      (a) => !allowed.some((b) => b.latency <= a.latency && b.sensitivity <= a.sensitivity && b !== a),
    );
    const wanted: Budget = {
      ...(random.next() < 0.8 ? { latencyMs: 0.5 + random.below(100) / 10 } : {}),
      ...(random.next() < 0.5 ? { sizeBytes: 100 + random.below(1200) } : {}),
    };
    const { verdict, why } = predict(wanted, { measurements: null, frontier: reported, budget: was });
    const isPossible = plans.some(
      ({ latency, sizeBytes }) =>
        latency <= (wanted.latencyMs ?? Infinity) && sizeBytes <= (wanted.sizeBytes ?? Infinity),
    );
    seen[verdict]++;
    if (verdict !== 'unknown' && (verdict === 'meets') !== isPossible)
      t.fail(`${JSON.stringify({ wanted, was, plans })}: ${verdict}, ${why}`);
  }
  t.ok(seen.meets > 200 && seen.infeasible > 100, JSON.stringify(seen));
});

t.test('over the API and from the terminal, by hardware class; nothing is changed', async (t) => {
  const console = await startConsole(t.testdir());
  const device = new SwiftDevice(console.brokerUrl, 'd1', { group: 'g' }, { workMs: 5 });
  const own = new SwiftDevice(console.brokerUrl, 'd2', { group: 'g' }, { workMs: 5 });
  await makeRelease(console, 'fire@1');
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@1' });
  await console.client.send('PUT', '/v1/budgets', { selector: 'device=d2', budget: { latencyMs: 50 } });
  await until(() => device.active === 'fire@1' && own.active === 'fire@1' && own.observed === 2, 'both run it');
  const body = { selector: 'group=g', budget: { latencyMs: 11 } };
  const ask = () => console.client.send('POST', '/v1/budgets/what-if', body);
  await until(async () => JSON.stringify(await ask()).includes('measured within it'), 'it is known');
  t.match(await ask(), {
    devices: [
      { id: 'd1', release: 'fire@1', verdict: 'meets' },
      { id: 'd2', verdict: 'unaffected', why: /the budget of device=d2 holds there/ },
    ],
    classes: [{ hardwareClass: 'x', verdicts: { meets: 1, infeasible: 0, unknown: 0, unaffected: 1 } }],
  });
  const { stdout, code } = await fleet(console.url, 'budget', 'what-if', 'group=g', 'latency=11ms');
  t.equal(code, 0);
  t.match(stdout, /x +1 +0 +0 +1/);
  t.match(stdout, /d1 +host +fire@1 +meets/);
  t.equal(device.observed, 1);
  await device.close();
  await own.close();
  await console.close();
});
