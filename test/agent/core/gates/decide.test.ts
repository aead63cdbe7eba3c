/** What gates allow, against a plain look back over everything that they have said. */
import t from 'tap';
import {
  afterLook,
  decide,
  describeReasons,
  type GateKind,
  type GatePolicy,
  type GateState,
  unreadGate,
} from '../../../../agent/core/gates/decide.js';
import { judgePower, judgeTemperature } from '../../../../agent/core/gates/sensors.js';
import { oneLine } from '../../../../agent/core/one-line.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();
const kinds: readonly GateKind[] = ['window', 'lock', 'exec', 'power', 'temperature', 'mavlink'];
const at = (ms: number) => ({ ms, now: new Date(ms).toISOString() });

interface Look {
  readonly ms: number;
  readonly isOpen: boolean | null;
}

/** By the definition: every look back to `openMs` ago said open, and no two looks, nor the last and now, were more than 15 s apart. */
function isSettled(looks: readonly Look[], nowMs: number, openMs: number, counts: (look: Look) => boolean): boolean {
  let later = nowMs;
  for (const look of [...looks].reverse()) {
    if (later - look.ms > 15_000 || !counts(look)) return false;
    if (nowMs - look.ms >= openMs) return true;
    later = look.ms;
  }
  return false;
}

t.test('nothing is allowed but after every gate was seen open for long enough, without a gap', async (t) => {
  const random = new Random(seed);
  const seen = { allowed: 0, workOnly: 0, nothing: 0 };
  for (let round = 0; round < 300; round++) {
    const openMs = random.pick([0, 3000, 10_000, 40_000]);
    const policies = kinds
      .filter(() => random.below(3) === 0)
      .map(
        (kind): GatePolicy => ({
          kind,
          holds: random.pick(['activation', 'work'] as const),
          unreadable: random.pick(['closed', 'open'] as const),
        }),
      );
    let states: GateState[] = policies.map((policy) => unreadGate(policy, at(0).now));
    const looks: Look[][] = policies.map(() => []);
    let nowMs = random.below(1000);
    for (let step = 0; step < 60; step++) {
      nowMs += random.below(20) === 0 ? random.below(30_000) : random.below(2500);
      states = states.map((state, index) => {
        if (random.below(8) === 0) return state;
        const isOpen = random.pick([true, true, true, true, true, true, true, true, true, true, true, null, false]);
        looks[index]!.push({ ms: nowMs, isOpen });
        return afterLook(state, { isOpen, reason: 'r', until: null }, at(nowMs));
      });
      const { mayWork, mayActivate, reasons } = decide(states, nowMs, openMs);
      const settled = policies.map(({ unreadable }, index) =>
        isSettled(looks[index]!, nowMs, openMs, ({ isOpen }) => isOpen ?? unreadable === 'open'),
      );
      const holdsWork = policies.map(({ holds }, index) => {
        const last = looks[index]!.at(-1);
        // Not being readable is in the way of activation only.
        const isUnreadable = last !== undefined && last.isOpen === null && nowMs - last.ms <= 15_000;
        return holds === 'work' && !settled[index] && !isUnreadable;
      });
      const expected = {
        mayActivate: settled.every(Boolean),
        mayWork: !holdsWork.some(Boolean),
        gates: policies.flatMap(({ kind }, index) => (settled[index] ? [] : kind)),
      };
      const found = { mayActivate, mayWork, gates: reasons.map(({ gate }) => gate) };
      if (JSON.stringify(found) !== JSON.stringify(expected)) {
        return t.same(found, expected, `round ${round}, step ${step}`);
      }
      seen[mayActivate ? 'allowed' : mayWork ? 'workOnly' : 'nothing']++;
    }
  }
  t.comment(JSON.stringify(seen));
  t.ok(Math.min(...Object.values(seen)) > 100, 'every outcome was met');
});

t.test('a reason says which gate, why, since when and until when', async (t) => {
  const policy: GatePolicy = { kind: 'lock', holds: 'activation', unreadable: 'closed' };
  const first = afterLook(unreadGate(policy, at(0).now), { isOpen: false, reason: 'a: b', until: null }, at(1000));
  const second = afterLook(first, { isOpen: false, reason: 'a: c', until: at(9000).now }, at(2000));
  const { reasons } = decide([second], 2000, 0);
  t.same(reasons, [{ gate: 'lock', reason: 'a: c', since: at(1000).now, until: at(9000).now, holdsWork: false }]);
  t.equal(describeReasons('activate of m@1', reasons), `activate of m@1 waits for lock (a: c, until ${at(9000).now})`);
});

t.test('power: mains and the emptiest battery, and nothing that is not known', async (t) => {
  const cases: [boolean | null, number | null, number, 'enough' | 'required' | 'ignored', boolean | null][] = [
    [true, null, 50, 'enough', true],
    [true, 3, 50, 'enough', true],
    [false, 50, 50, 'enough', true],
    [false, 49, 50, 'enough', false],
    [null, 49, 50, 'enough', false],
    [null, null, 50, 'enough', null],
    [false, null, 50, 'enough', null],
    [true, 49, 50, 'required', false],
    [true, 50, 50, 'required', true],
    [true, null, 50, 'required', true],
    [false, 100, 50, 'required', false],
    [null, 100, 50, 'required', null],
    [true, 49, 50, 'ignored', false],
    [true, null, 50, 'ignored', null],
  ];
  for (const [isOnMains, percent, leastPercent, mains, expected] of cases) {
    const { isOpen } = judgePower({ isOnMains, percent }, { leastPercent, mains });
    t.equal(isOpen, expected, JSON.stringify([isOnMains, percent, mains]));
  }
});

t.test('temperature: once too hot, it has to cool down further', async (t) => {
  const limits = { mostCelsius: 70, hysteresisCelsius: 5 };
  let wasTooHot = false;
  const seen = [69, 70, 70.1, 69, 65.1, 65, 69, 71].map((celsius) => {
    const { isOpen } = judgeTemperature(celsius, wasTooHot, limits);
    wasTooHot = isOpen === false;
    return isOpen;
  });
  t.same(seen, [true, true, false, false, false, true, true, false]);
  t.equal(judgeTemperature(null, false, limits).isOpen, null);
});

t.test('what others have written becomes one line without commands for terminals', async (t) => {
  t.equal(oneLine('  spraying\u001b[31m red\u0007\nsecond'), 'spraying [31m red');
  t.equal(oneLine(''), '');
  t.equal(oneLine('x'.repeat(500)).length, 200);
});
