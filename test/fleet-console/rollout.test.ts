/** Policies that could never work, the decisions of a rollout one by one, and the answers to "why". */
import t from 'tap';
import { type Gate, type MetricValues, parsePolicy, type Rollout } from '../../configs/contracts/rollout.js';
import { judgeGate } from '../../fleet-console/rollout/gates.js';
import {
  advance,
  describe,
  explain,
  resume,
  rollBack,
  rolloutDeviceOf,
  startRollout,
} from '../../fleet-console/rollout.js';
import { carryOut, type Fate, goodValues, MadeUpDevice } from '../support/rollout-fleet.js';

const release = 'fire@2';
const fallen = 'it had confirmed fire@2, and runs fire@1 now';

/** Devices of one site each, `a0` and so on, that run fire@1. */
function fleetOf(fates: Readonly<Record<string, Fate>>, first: string | null = 'fire@1'): Map<string, MadeUpDevice> {
  const devices = Object.entries(fates).map(([id, fate]) => new MadeUpDevice(id, { site: id[0]! }, fate, first));
  return new Map(devices.map((device) => [device.id, device]));
}

/** A rollout on a fleet, moved by hand. */
class Hand {
  rollout: Rollout;
  readonly fleet: Map<string, MadeUpDevice>;
  readonly said: string[] = [];
  #nowMs = 0;

  constructor(fleet: Map<string, MadeUpDevice>, policy: object = {}) {
    this.fleet = fleet;
    const start = { id: 1, release, target: 'host', selector: 'all', policy: parsePolicy(policy) };
    this.rollout = startRollout(start, this.views());
  }

  views() {
    return [...this.fleet.values()].map((device) => device.view());
  }

  /** Looks once, after some time. */
  look(seconds = 0): readonly string[] {
    this.#nowMs += seconds * 1000;
    const result = advance(this.rollout, this.views(), this.#nowMs);
    this.rollout = carryOut(result, this.fleet);
    this.said.push(...result.reasons.map(({ device, text }) => `${device ?? '*'} ${text}`));
    return result.assignments.map(({ device }) => device);
  }

  /** Devices do what they were told, and say so; then the rollout looks. */
  answer(...ids: string[]): readonly string[] {
    for (const id of ids) {
      const device = this.fleet.get(id)!;
      device.work(release);
      device.report(release);
    }
    return this.look(1);
  }

  states(): string {
    return Object.entries(this.rollout.devices)
      .map(([id, { state }]) => `${id} ${state}`)
      .join(', ');
  }

  why(id: string): string {
    return explain(this.rollout, this.views(), id);
  }
}

t.test('a policy that could never work is refused with the reason', async (t) => {
  const cases: [object, RegExp][] = [
    [{ stages: [] }, /stages/],
    [{ stages: [{ percent: 50 }] }, /never reach all devices/],
    [{ stages: [{ percent: 50 }, { percent: 20 }, { percent: 100 }] }, /stage 2 ends at 20 percent, which 50/],
    [{ stages: [{ percent: 100 }, { count: 1 }] }, /stage 2 comes after a stage that takes all/],
    [{ stages: [{ selector: 'all', name: 'x' }, { percent: 100 }] }, /stage 2 comes after/],
    [{ stages: [{ count: 1, percent: 100 }] }, /exactly one of count, percent and selector/],
    [{ stages: [{ name: 'canary' }] }, /stage 1 \(canary\) must have exactly one/],
    [{ disruption: { maxUnavailable: 1, minAvailable: 1 } }, /exactly one of maxUnavailable/],
    [{ disruption: { groupBy: 'site' } }, /exactly one of maxUnavailable/],
    [{ disruption: { maxUnavailable: 0 } }, /maxUnavailable/],
    [{ deadline: { deviceSeconds: 100, stageSeconds: 10 } }, /more time than its whole stage/],
    [{ deadline: { deviceSeconds: 0 } }, /0 seconds fails every device/],
    [{ gates: [{ metric: 'agreement', most: 0.9 }] }, /must have least or mostDrop/],
    [{ gates: [{ metric: 'latencyP95', least: 1 }] }, /must have most or mostRatio/],
    [{ gates: [{ metric: 'kl' }] }, /exactly one of/],
    [{ gates: [{ metric: 'top1', least: 98 }] }, /a fraction, at most 1/],
    [{ gates: [{ metric: 'kl', most: 1 }], abort: [{ class: 'REVERTED', percent: 5 }] }, /no abort rule of class GATE/],
    [{ abort: [{ class: 'ANY', percent: 100 }] }, /abort\/0\/percent/],
    [{ onFail: 'explode' }, /onFail/],
    [{ speed: 1 }, /speed/],
  ];
  for (const [policy, message] of cases)
    t.throws(() => parsePolicy(policy), { code: 'rollout/invalid', message }, JSON.stringify(policy));
  t.match(parsePolicy({}), { stages: [{ percent: 100 }], onFail: 'pause', offline: 'wait', abort: [{ class: 'ANY' }] });
});

t.test('a policy that could never work on these devices is refused when the rollout is started', async (t) => {
  const fleet = fleetOf({ a0: 'good', a1: 'good', b0: 'good' });
  const start =
    (policy: object, selector = 'all') =>
    () =>
      startRollout(
        { id: 1, release, target: 'host', selector, policy: parsePolicy(policy) },
        [...fleet.values()].map((device) => device.view()),
      );
  const refused = (policy: object, message: RegExp, selector?: string) =>
    t.throws(start(policy, selector), { code: 'rollout/invalid', message }, String(message));
  refused({ disruption: { groupBy: 'site', minAvailable: 1 } }, /site=b has 1 device, and minAvailable is 1/);
  refused({ disruption: { minAvailable: 3 } }, /the selector names 3 devices, and minAvailable is 3/);
  refused({ abort: [{ class: 'ANY', percent: 1, minimum: 4 }] }, /needs 4 answers, and there are 3 devices/);
  refused({ rate: { perMinute: 1 }, deadline: { deviceSeconds: 60, stageSeconds: 60 } }, /cannot begin within 60 s/);
  refused({}, /no device is named/, 'site=z');
  t.throws(start({ stages: [{ selector: '?' }, { percent: 100 }] }), { code: 'selector/invalid' });
  t.doesNotThrow(start({ disruption: { groupBy: 'site', maxUnavailable: 1 } }));
});

t.test('a gate passes, fails or is inconclusive by what was measured', async (t) => {
  const before = goodValues;
  const cases: [Gate, Partial<MetricValues>, MetricValues | null, string][] = [
    [{ metric: 'latencyP95', most: 12 }, {}, null, 'pass'],
    [{ metric: 'latencyP95', most: 11.9 }, {}, null, 'fail'],
    [{ metric: 'latencyP95', most: 12 }, { latencyP95: null }, null, 'inconclusive'],
    [{ metric: 'latencyMedian', most: 99 }, { unit: 'cycles' }, null, 'inconclusive'],
    [{ metric: 'latencyMedian', mostRatio: 1.1 }, { latencyMedian: 11 }, before, 'pass'],
    [{ metric: 'latencyMedian', mostRatio: 1.1 }, { latencyMedian: 11.2 }, before, 'fail'],
    [{ metric: 'latencyMedian', mostRatio: 9 }, { unit: 'cycles' }, before, 'inconclusive'],
    [{ metric: 'latencyMedian', mostRatio: 9 }, {}, null, 'inconclusive'],
    [{ metric: 'agreement', mostDrop: 0.02 }, { agreement: 0.961 }, before, 'pass'],
    [{ metric: 'agreement', mostDrop: 0.02 }, { agreement: 0.95 }, before, 'fail'],
    [{ metric: 'top1', least: 0.9 }, {}, null, 'pass'],
    [{ metric: 'kl', most: 0.005 }, {}, null, 'fail'],
    [{ metric: 'energyMj', most: 5 }, {}, null, 'inconclusive'],
    [{ metric: 'ramBytes', mostRatio: 1 }, {}, before, 'pass'],
  ];
  for (const [gate, change, baseline, verdict] of cases) {
    const judged = judgeGate(gate, { ...goodValues, ...change }, baseline);
    t.equal(judged.verdict, verdict, `${JSON.stringify(gate)}: ${judged.text}`);
  }
});

t.test('a canary, then the rest, each only when what came before has confirmed and baked', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'good', a1: 'good', a2: 'good', a3: 'good' }), {
    stages: [{ name: 'canary', count: 1, bakeSeconds: 30, approval: false }, { percent: 100 }],
  });
  const [canary, ...none] = hand.look();
  t.same(none, []);
  t.same(hand.look(10), [], 'told is not done');
  t.match(hand.why(canary!), /was told to run fire@2 and has not confirmed that; it has not seen its orders yet/);
  const other = [...hand.fleet.keys()].find((id) => id !== canary)!;
  t.match(hand.why(other), new RegExp(`its turn has not come: stage 1 \\(canary\\) waits for ${canary}`));
  t.same(hand.answer(canary!), [], 'it bakes');
  t.match(hand.why(other), /stage 1 \(canary\) bakes for \d+ s more/);
  t.same(hand.look(28), []);
  t.equal(hand.look(3).length, 3);
  hand.answer(...hand.fleet.keys());
  t.equal(hand.rollout.status, 'completed');
  t.match(hand.why(canary!), /it runs fire@2, confirmed/);
});

t.test('3 percent less fidelity stop at the canary and go back, with the evidence in the reason', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'beyond-gate', a1: 'beyond-gate', a2: 'beyond-gate' }), {
    stages: [{ count: 1 }, { percent: 100 }],
    gates: [{ metric: 'agreement', mostDrop: 0.02 }],
    onFail: 'rollback-all',
  });
  const [canary] = hand.look();
  t.same(hand.answer(canary!), [canary], 'told to go back, and nobody else is told');
  t.match(hand.said.join('\n'), /failed, GATE: agreement: 94 %, beyond at most 2 % below 98 % before/);
  hand.answer(canary!);
  t.equal(hand.rollout.status, 'rolled-back');
  t.equal(hand.fleet.get(canary!)!.truth.release, 'fire@1');
  t.match(hand.why(canary!), /it went back to fire@1: 1 of 1 devices of stage 1 failed, more than 0 percent/);
});

t.test('an inconclusive gate pauses; resuming accepts it', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'unmeasured', a1: 'good' }), {
    stages: [{ selector: 'device=a0' }, { percent: 100 }],
    gates: [{ metric: 'agreement', mostDrop: 0.02 }],
  });
  hand.look();
  hand.answer('a0');
  t.match(hand.rollout, { status: 'paused', reason: /inconclusive on a0: agreement: it was not measured/ });
  t.match(hand.why('a1'), /the rollout is paused: a gate is inconclusive on a0/);
  hand.rollout = resume(hand.rollout, hand.views(), 'looked at it').rollout;
  t.same(hand.look(), ['a1']);
});

t.test('a device that reverts after it had confirmed takes its success back, and the rules look again', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'good', a1: 'good' }), {
    stages: [{ count: 1, bakeSeconds: 100 }, { percent: 100 }],
  });
  const [canary] = hand.look();
  hand.answer(canary!);
  t.match(hand.states(), new RegExp(`${canary} confirmed`));
  const device = hand.fleet.get(canary!)!;
  device.truth = { release: 'fire@1', isConfirmed: true, failure: null };
  device.report(release);
  t.same(hand.look(5), []);
  t.match(hand.why(canary!), /failed, REVERTED .*: it had confirmed fire@2, and runs fire@1 now/);
  t.equal(hand.rollout.status, 'paused');
});

t.test(
  'a device that got something else after the end is let go of, even when it is to run the release again',
  async (t) => {
    const hand = new Hand(fleetOf({ a0: 'good', a1: 'good' }));
    hand.look();
    hand.answer('a0', 'a1');
    const device = hand.fleet.get('a0')!;
    device.tell('other@1');
    hand.answer('a0');
    t.equal(hand.said.at(-1), 'a0 left alone from here on: it was assigned other@1 outside of the rollout');
    const said = hand.said.length;
    device.tell(release);
    // It has seen that, and still runs what it ran.
    device.generation = device.desired.generation;
    device.report(release);
    hand.look(5);
    t.match(hand.rollout.devices.a0, { state: 'confirmed', failure: null, isLetGo: true });
    t.match(
      hand.why('a0'),
      /^it had confirmed fire@2, and was assigned something else after the rollout was completed/,
    );
    device.fallBack();
    device.report(release);
    hand.look(5);
    t.equal(hand.said.length, said, 'nothing that it does is said of the rollout any more');
    hand.rollout = rollBack(hand.rollout, 'second thoughts').rollout;
    t.same(hand.look(), ['a1'], 'a rollback leaves it alone as well');
    t.equal(hand.rollout.devices.a0!.state, 'superseded');
  },
);

t.test('once completed, what devices say still counts, and nobody is told anything', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'good', a1: 'good' }));
  hand.look();
  hand.answer('a0', 'a1');
  t.match(hand.rollout, { status: 'completed', reason: '2 confirmed' });
  const device = hand.fleet.get('a0')!;
  device.fallBack();
  device.report(release);
  t.same(hand.look(5), []);
  t.equal(hand.said.at(-1), `a0 failed, after the rollout was completed, REVERTED: ${fallen}: taken back`);
  t.equal(hand.why('a0'), `it failed, REVERTED (confirm/failed): ${fallen}: taken back`);
  t.equal(describe(hand.rollout, hand.views()), '2 confirmed; by now 1 confirmed, 1 failed');
  hand.rollout = rollBack(hand.rollout, 'second thoughts').rollout;
  t.same([...hand.look()].sort(), ['a0', 'a1'], 'it is taken back as well');
});

t.test(
  'a silent device is TIMED_OUT at its deadline, on a clock that stands still while paused or asleep',
  async (t) => {
    const hand = new Hand(fleetOf({ a0: 'good', a1: 'good' }), {
      deadline: { deviceSeconds: 100, stageSeconds: 1000 },
      abort: [{ class: 'TIMED_OUT', percent: 60 }],
    });
    hand.look();
    hand.answer('a0');
    hand.look(86_400 * 30);
    t.equal(hand.rollout.devices.a1!.state, 'updating', 'nobody looked for a month: that is nobody’s fault');
    hand.look(-86_400 * 60);
    t.equal(hand.rollout.devices.a1!.state, 'updating');
    hand.look(50);
    t.match(hand.rollout.devices.a1, { state: 'failed', failure: { class: 'TIMED_OUT' } });
    t.equal(hand.rollout.status, 'completed', 'the policy puts up with half');
    t.match(hand.why('a1'), /failed, TIMED_OUT .*it has not confirmed within 100 s/);
  },
);

t.test('the disruption budget holds per group, and says who holds it up', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'good', a1: 'good', a2: 'good', b0: 'good' }), {
    disruption: { groupBy: 'site', maxUnavailable: 1 },
  });
  const told = hand.look();
  t.equal(told.length, 2);
  t.ok(told.includes('b0'));
  const other = ['a0', 'a1', 'a2'].find((id) => !told.includes(id))!;
  t.match(hand.why(other), /disruption budget of site=a: 1 of 3 devices are unavailable \(a\d\), at most 1 may be/);
  const busy = told.find((id) => id !== 'b0')!;
  t.equal(hand.answer(busy).length, 1, 'the next one');
});

t.test('a rate lets so many devices begin a minute', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'good', a1: 'good', a2: 'good', a3: 'good', a4: 'good' }), {
    rate: { perMinute: 2 },
  });
  t.equal(hand.look().length, 2);
  t.equal(hand.look(30).length, 0);
  t.match(hand.why('a4'), /2 devices have begun within the last minute/);
  t.equal(hand.look(31).length, 2);
});

t.test('offline devices are waited for, or left out and told when they come', async (t) => {
  for (const offline of ['wait', 'skip'] as const) {
    const hand = new Hand(fleetOf({ a0: 'good', a1: 'good' }), {
      stages: [{ selector: 'site=a' }, { percent: 100 }],
      offline,
    });
    const away = hand.fleet.get('a1')!;
    away.isOnline = false;
    away.report(release);
    t.same(hand.look(), ['a0']);
    t.equal(hand.why('a1'), 'it is offline');
    hand.answer('a0');
    t.equal(hand.rollout.status, offline === 'wait' ? 'running' : 'completed', offline);
  }
});

t.test('what somebody assigns meanwhile is left alone, in a rollback too', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'good', a1: 'good' }));
  hand.look();
  hand.fleet.get('a0')!.tell('other@1');
  hand.look();
  t.match(hand.why('a0'), /it was assigned other@1 meanwhile/);
  hand.rollout = rollBack(hand.rollout, 'not wanted').rollout;
  t.same(hand.look(), ['a1']);
  hand.answer('a1');
  t.equal(hand.rollout.status, 'rolled-back');
  t.equal(hand.fleet.get('a0')!.desired.release, 'other@1');
});

t.test('a rollback after completion withdraws the release from those to come, and returns all', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'good', a1: 'good' }));
  hand.look();
  hand.answer('a0', 'a1');
  t.equal(hand.rollout.status, 'completed');
  const taken = rollBack(hand.rollout, 'second thoughts');
  t.equal(taken.standing, 'withdraw');
  hand.rollout = taken.rollout;
  t.same([...hand.look()].sort(), ['a0', 'a1']);
  hand.answer('a0', 'a1');
  t.match(hand.rollout, { status: 'rolled-back', reason: /second thoughts; 2 returned/ });
});

t.test('a device that is ahead of a restored database pauses the rollout, and is not told anything', async (t) => {
  const hand = new Hand(fleetOf({ a0: 'good', a1: 'good' }), { stages: [{ count: 1 }, { percent: 100 }] });
  const [canary] = hand.look();
  const views = hand.views().map((view) => ({ ...view, isAhead: view.id === canary }));
  const result = advance(hand.rollout, views, 1000);
  t.match(result.rollout, { status: 'paused', reason: /has orders newer than this database/ });
  t.same(result.assignments, []);
  t.throws(() => resume(result.rollout, views, 'x'), { code: 'rollout/state', subject: canary });
  t.doesNotThrow(() => resume(result.rollout, hand.views(), 'x'));
});

t.test('what a device reports becomes a failure only when it will not go on trying', async (t) => {
  const of = (conditions: object[], targets = { host: { kind: 'ort', identity: {} } }) =>
    rolloutDeviceOf(
      {
        id: 'd',
        birth: { labels: {}, targets },
        isOnline: true,
        isAhead: false,
        desired: null,
        reported: { observedGeneration: 0, targets: {}, conditions },
      } as unknown as Parameters<typeof rolloutDeviceOf>[0],
      'host',
    ).failure?.class ?? null;
  const said = (type: string, reason: string, failure?: object, status = 'true', target: string | null = 'host') => ({
    target,
    type,
    status,
    reason,
    message: 'm',
    ...(failure === undefined ? {} : { failure }),
  });
  t.equal(of([said('RolledBack', 'confirm/failed')]), 'REVERTED');
  t.equal(of([said('BudgetInfeasible', 'infeasible')]), 'INFEASIBLE');
  t.equal(of([said('Degraded', 'model/malformed')]), 'FAILED');
  t.equal(of([said('Degraded', 'download/failed')]), null, 'it goes on trying');
  t.equal(of([said('Degraded', 'target/failed', { isFinal: true })]), 'FAILED');
  t.equal(of([said('Degraded', 'model/malformed', { isFinal: false })]), null);
  t.equal(of([said('Degraded', 'model/malformed', undefined, 'true', 'other')]), null, 'of another target');
  t.equal(of([said('Accepted', 'target/unknown', undefined, 'false', null)]), 'REJECTED');
});

t.test(
  'a device that waits for a gate is no failure, says why it waits, and runs into its deadline all the same',
  async (t) => {
    const facts = {
      id: 'd',
      birth: { labels: {}, targets: { host: { kind: 'ort', identity: {} } } },
      isOnline: true,
      isAhead: false,
      desired: null,
      reported: {
        observedGeneration: 0,
        targets: {},
        conditions: [
          {
            target: 'host',
            type: 'Gated',
            status: 'true',
            reason: 'mavlink',
            message: 'activate waits for mavlink (armed)',
          },
        ],
      },
    } as unknown as Parameters<typeof rolloutDeviceOf>[0];
    const { failure, activity } = rolloutDeviceOf(facts, 'host');
    t.equal(failure, null);
    t.equal(activity, 'waiting: gated (activate waits for mavlink (armed))');

    const hand = new Hand(fleetOf({ a0: 'good' }), { deadline: { deviceSeconds: 60 } });
    hand.look();
    const gated = () => hand.views().map((view) => ({ ...view, activity }));
    const early = advance(hand.rollout, gated(), hand.rollout.clockMs + 59_000);
    t.equal(early.rollout.devices.a0!.state, 'updating');
    t.match(
      explain(early.rollout, gated(), 'a0'),
      /has not confirmed that.*; waiting: gated \(activate waits for mavlink/,
    );
    const late = advance(early.rollout, gated(), early.rollout.clockMs + 120_000);
    t.match(late.rollout.devices.a0, {
      state: 'failed',
      failure: { class: 'TIMED_OUT', message: /within 60 s: waiting: gated/ },
    });
  },
);
