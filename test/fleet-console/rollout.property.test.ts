/**
 * Random fleets under random policies: failures, reboots, days offline, late words, clocks that jump, a console that forgets everything but
 * what it wrote. What must hold is checked against the devices' own truth, not against what the rollout believes.
 */
import t from 'tap';
import { EdgeError } from '../../configs/contracts/errors.js';
import { parsePolicy, type Rollout } from '../../configs/contracts/rollout.js';
import {
  type Advance,
  abort,
  advance,
  approve,
  hasEnded,
  pause,
  resume,
  rollBack,
  startRollout,
} from '../../fleet-console/rollout.js';
import { carryOut, type Fate, infeasible, MadeUpDevice, stored } from '../support/rollout-fleet.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();
const runs = Number(process.env.QUANTD_ROLLOUTS ?? 500);
const release = 'fire@2';
const stepSeconds = 20;
const deviceSeconds = 3000;

interface Setting {
  readonly random: Random;
  readonly fleet: Map<string, MadeUpDevice>;
  readonly rollout: Rollout;
}

function makeSetting(random: Random): Setting | null {
  const badShare = random.pick([0, 0, 0.05, 0.3, 0.8]);
  const all: Fate[] = [
    'reverts',
    'infeasible',
    'fails',
    'loses-all',
    'silent',
    'beyond-gate',
    'unmeasured',
    'reverts-later',
  ];
  const bad = random.next() < 0.5 ? all : [random.pick(all)];
  const fleet = new Map<string, MadeUpDevice>();
  const size = 1 + random.below(random.pick([3, 12, 40]));
  for (let i = 0; i < size; i++) {
    const labels: Record<string, string> = random.next() < 0.9 ? { site: random.pick(['a', 'b', 'c']) } : {};
    const fate = random.next() < badShare ? random.pick(bad) : 'good';
    const first = random.next() < 0.9 ? random.pick(['fire@1', 'fire@0']) : null;
    const failure = random.next() < 0.1 ? infeasible : null;
    fleet.set(`d${i}`, new MadeUpDevice(`d${i}`, labels, fate, first, failure));
  }
  const stages = random.pick<() => object[]>([
    () => [{ percent: 100 }],
    () => [{ count: 1, bakeSeconds: random.below(300) }, { percent: 30 }, { percent: 100, approval: true }],
    () => [{ selector: 'site=a', approval: random.next() < 0.5 }, { count: 2 }, { selector: 'all', bakeSeconds: 100 }],
    () => [{ percent: 10 }, { percent: 50, bakeSeconds: 60 }, { percent: 100 }],
  ])();
  const value = {
    stages,
    ...(random.next() < 0.3 ? { rate: { perMinute: 1 + random.below(5) } } : {}),
    ...(random.next() < 0.7
      ? {
          disruption: {
            ...(random.next() < 0.6 ? { groupBy: 'site' } : {}),
            ...(random.next() < 0.7 ? { maxUnavailable: 1 + random.below(4) } : { minAvailable: 1 + random.below(5) }),
          },
        }
      : {}),
    deadline: { deviceSeconds, stageSeconds: random.pick([deviceSeconds, 50_000]) },
    abort: random.pick([
      [{ class: 'ANY', percent: 0 }],
      [{ class: 'ANY', percent: 20, minimum: 1 }],
      [
        { class: 'REVERTED', percent: 10 },
        { class: 'GATE', percent: 0 },
      ],
      [{ class: 'ANY', percent: 99 }],
    ]),
    gates:
      random.next() < 0.5
        ? [
            { metric: 'agreement', mostDrop: 0.02 },
            { metric: 'latencyMedian', mostRatio: 1.2 },
          ]
        : [],
    onFail: random.pick(['pause', 'rollback-stage', 'rollback-all']),
    offline: random.pick(['wait', 'skip']),
    lateJoiners: random.pick(['adopt', 'ignore']),
  };
  const views = [...fleet.values()].map((device) => device.view());
  try {
    const policy = parsePolicy(value);
    return { random, fleet, rollout: startRollout({ id: 1, release, target: 'host', selector: 'all', policy }, views) };
  } catch (error) {
    // Impossible ones are refused; that is another test.
    if (error instanceof EdgeError && error.code === 'rollout/invalid') return null;
    throw error;
  }
}

const viewsOf = (fleet: ReadonlyMap<string, MadeUpDevice>) => [...fleet.values()].map((device) => device.view());

/** What a device had when it was first told something by the rollout: kept by the test, not by the rollout. */
type Before = Map<string, string | null>;

/** Devices that are away as far as anybody can know, or busy in truth; in a rollback, of those that are there. */
function unavailable(devices: readonly MadeUpDevice[], isRollback: boolean): MadeUpDevice[] {
  return devices.filter(({ known, isBusy, isTaken }) => (known.isOnline ? isBusy && !isTaken : !isRollback));
}

function checkDisruption({ assignments, rollout }: Advance, fleet: ReadonlyMap<string, MadeUpDevice>): string | null {
  const { disruption } = rollout.policy;
  if (disruption === undefined || assignments.length === 0) return null;
  const groupOf = (device: MadeUpDevice) =>
    disruption.groupBy === undefined ? 'all' : (device.labels[disruption.groupBy] ?? 'none');
  for (const touched of new Set(assignments.map(({ device }) => groupOf(fleet.get(device)!)))) {
    const members = [...fleet.values()].filter((device) => groupOf(device) === touched);
    const most = disruption.maxUnavailable ?? members.length - disruption.minAvailable!;
    const away = unavailable(members, rollout.status !== 'running');
    if (away.length > most)
      return `group ${touched}: ${away.map(({ id }) => id).join()} of ${members.length}, at most ${most}`;
  }
  return null;
}

/** Devices of a stage that has been left, which neither confirmed nor failed nor were excused. */
function checkStages(before: Rollout, after: Rollout, fleet: ReadonlyMap<string, MadeUpDevice>): string | null {
  const hasLeft = after.stage > before.stage || (after.status === 'completed' && before.status !== 'completed');
  if (!hasLeft) return null;
  const last = after.status === 'completed' ? after.stage : after.stage - 1;
  for (const [id, { stage, state }] of Object.entries(after.devices)) {
    if (stage === null || stage > last) continue;
    const device = fleet.get(id)!;
    if (device.isTaken) continue;
    const said = device.known;
    const hasSaid =
      said.truth.release === release && said.truth.isConfirmed && said.generation >= device.desired.generation;
    const isExcused = after.policy.offline === 'skip' && !said.isOnline && device.desired.release !== release;
    const hasFailed = state === 'failed';
    if (!hasSaid && !isExcused && !hasFailed) return `${id} (${state}) in stage ${stage}`;
  }
  return null;
}

/** One life of a rollout. Answers what it broke, or null. */
function live(setting: Setting): { broken: string | null; end: string } {
  const { random, fleet } = setting;
  let { rollout } = setting;
  const before: Before = new Map();
  const toldAt = new Map<string, number>();
  let trueSeconds = 0;
  let wallMs = 1_700_000_000_000;
  let jumps = 0;
  const broken = (what: string) => ({
    broken: `${what}; step at ${trueSeconds} s, status ${rollout.status}`,
    end: 'broken',
  });
  const over = (end: string) => {
    const fault = checkAftermath(rollout, fleet, random);
    return fault === null ? { broken: null, end } : broken(fault);
  };
  for (let step = 0; step < 12_000; step++) {
    const isCalm = step > 1500;
    trueSeconds += stepSeconds;
    wallMs += stepSeconds * 1000;
    if (!isCalm && random.next() < 0.01) {
      wallMs += (random.next() - 0.5) * 20 * 86_400_000;
      jumps++;
    }
    if (!isCalm && random.next() < 0.01 && fleet.size < 60) {
      const id = `late${fleet.size}`;
      fleet.set(id, new MadeUpDevice(id, { site: 'a' }, 'good', 'fire@1'));
    }
    if (isCalm) for (const device of fleet.values()) device.isAhead = false;
    else if (random.next() < 0.02) disturb(random.pick([...fleet.values()]), before, random);
    for (const device of fleet.values()) device.live(stepSeconds, release, random, isCalm);
    const act = operatorOf(rollout, random, isCalm);
    if (act !== null) rollout = operated(act, rollout, fleet);
    if (rollout.status === 'aborted') {
      checkAborted(rollout);
      return over('aborted');
    }
    const result = advance(rollout, viewsOf(fleet), wallMs);
    if (rollout.status === 'paused' && (result.assignments.length > 0 || result.rollout.status !== 'paused'))
      return broken('a paused rollout went on');
    for (const { device, release: assigned } of result.assignments) {
      const { isAhead, isTaken, desired } = fleet.get(device)!;
      if (isAhead) return broken(`${device} was told something while it was ahead`);
      if (isTaken && assigned !== desired.release) return broken(`${device} was taken back from somebody`);
      if (!before.has(device)) before.set(device, fleet.get(device)!.desired.release);
      if (!toldAt.has(device)) toldAt.set(device, trueSeconds);
    }
    const known = rollout;
    rollout = carryOut(result, fleet);
    const fault = checkDisruption(result, fleet) ?? checkStages(known, rollout, fleet);
    if (fault !== null) return broken(fault);
    for (const [id, { state, failure }] of Object.entries(rollout.devices)) {
      if (state !== 'failed' || known.devices[id]?.state === 'failed') continue;
      const device = fleet.get(id)!;
      if (failure!.class !== 'TIMED_OUT') {
        if (device.known.generation < device.desired.generation)
          return broken(`${id} failed by its word on older orders`);
        continue;
      }
      const had = trueSeconds - toldAt.get(id)! + jumps * 60 + stepSeconds;
      if (had < deviceSeconds) return broken(`${id} TIMED_OUT after ${had} s`);
    }
    if (rollout.status === 'rolled-back') {
      const fault = checkReturned(rollout, before, fleet);
      return fault === null ? over('rolled-back') : broken(fault);
    }
    if (rollout.status === 'completed' && (random.next() < 0.7 || isCalm)) return over('completed');
  }
  return broken('it never ended');
}

/** Somebody assigns a device of the rollout something else; or a device turns out to have newer orders, until that is decided. */
function disturb(device: MadeUpDevice, before: Before, random: Random): void {
  const lot = random.next();
  if (lot < 0.3) device.isAhead = !device.isAhead;
  else if (lot < 0.5 && before.has(device.id) && !device.isAhead) {
    device.tell('other@1');
    device.isTaken = true;
  }
}

/** What comes of an operator's wish; what cannot be now is refused, and changes nothing. */
function operated(
  act: NonNullable<ReturnType<typeof operatorOf>>,
  rollout: Rollout,
  fleet: ReadonlyMap<string, MadeUpDevice>,
): Rollout {
  try {
    return carryOut(act(rollout, viewsOf(fleet)), fleet);
  } catch (error) {
    if (error instanceof EdgeError && error.code === 'rollout/state') return rollout;
    throw error;
  }
}

/** What somebody does at this moment; mostly nothing. */
function operatorOf(
  rollout: Rollout,
  random: Random,
  isCalm: boolean,
): ((rollout: Rollout, views: ReturnType<typeof viewsOf>) => Advance) | null {
  const chance = isCalm ? 0.2 : 0.03;
  if (rollout.status === 'paused' && random.next() < chance)
    return random.next() < 0.25 ? (r) => rollBack(r, 'an operator') : (r, views) => resume(r, views, 'an operator');
  if (rollout.status === 'completed' && random.next() < 0.3) return (r) => rollBack(r, 'an operator');
  if (rollout.status === 'running') {
    const { settledMs, isApproved } = rollout.stages[rollout.stage]!;
    const { approval, bakeSeconds } = rollout.policy.stages[rollout.stage]!;
    const isWaiting =
      approval && !isApproved && settledMs !== null && rollout.clockMs - settledMs >= bakeSeconds * 1000;
    if (isWaiting && random.next() < 0.3) return (r) => approve(r, 'an operator');
    if (!isCalm && random.next() < 0.002) return (r) => pause(r, 'an operator');
    if (!isCalm && random.next() < 0.001) return (r) => rollBack(r, 'an operator');
    if (!isCalm && random.next() < 0.0005) return (r) => abort(r, 'an operator');
  }
  return null;
}

/**
 * What is left of a rollout that has ended, while its devices fall back, recover, and are assigned other things: it orders nothing, and in
 * the end knows of every device what is so. Answers what is broken, or null.
 */
function checkAftermath(ended: Rollout, fleet: ReadonlyMap<string, MadeUpDevice>, random: Random): string | null {
  let rollout = ended;
  const devices = [...fleet.values()];
  for (const device of devices) device.isAhead = false;
  /** Devices on which something else has been wanted since the end. */
  const replaced = new Set<string>();
  for (let step = 0; step < 80; step++) {
    const isLast = step === 79;
    const isCalm = step > 40;
    const device = random.pick(devices);
    const lot = random.next();
    if (lot < 0.2 && !isCalm) device.fallBack();
    else if (lot < 0.3 && !isCalm) device.recover();
    else if (lot < 0.4 && !isCalm) device.replanInVain();
    else if (lot < 0.43 && !isCalm) {
      device.tell('other@1');
      device.isTaken = true;
      replaced.add(device.id);
    } else if (lot < 0.55 && !isCalm && replaced.has(device.id)) {
      // Somebody wants again what the rollout had told it.
      const { state, previous } = rollout.devices[device.id] ?? { state: 'superseded', previous: null };
      device.tell(state === 'returned' ? previous : release);
    }
    for (const device of devices) device.live(isLast ? 1e6 : stepSeconds, release, random, isCalm);
    if (isLast) {
      for (const device of devices) {
        device.live(1e6, release, random, true);
        device.report(release);
      }
    }
    // As the console does it: of those that have said something or were assigned something, no others.
    const views = viewsOf(fleet).filter(({ id }) => isLast || id === device.id || random.next() < 0.3);
    const result = advance(rollout, views, step * 1e7);
    if (result.assignments.length > 0 || result.standing !== null || result.rollout.status !== ended.status)
      return `an end was not final: ${ended.status}`;
    if (result.rollout.clockMs !== ended.clockMs) return 'the clock of a rollout that has ended went on';
    for (const [id, { state }] of Object.entries(result.rollout.devices)) {
      const old = rollout.devices[id]!.state;
      if (state !== old && replaced.has(id) && state !== 'superseded')
        return `${id} was ${old} and is ${state}, after something else was wanted on it`;
      if (state === old || (old !== 'confirmed' && old !== 'returned')) continue;
      if (state === 'superseded') return `${id} is ${state}, and what had come of it is forgotten`;
      if (old === 'confirmed' && fleet.get(id)!.known.truth.release === release)
        return `${id} is ${state} for what it does with the release that it had confirmed and runs`;
    }
    rollout = stored(result.rollout);
  }
  for (const [id, { state, previous, failure }] of Object.entries(rollout.devices)) {
    const was = ended.devices[id]!.state;
    const { desired, truth } = fleet.get(id)!;
    const isForward = ['updating', 'confirmed', 'failed'].includes(was);
    const isBackward = ['returning', 'returned', 'stranded'].includes(was);
    const word = isForward ? release : previous;
    const runsIt = truth.release === word && truth.isConfirmed && truth.failure === null;
    const allowed =
      !isForward && !isBackward
        ? [was]
        : desired.release !== word || replaced.has(id)
          ? ['confirmed', 'returned', 'superseded']
          : runsIt || word === null
            ? [isForward ? 'confirmed' : 'returned']
            : truth.failure !== null && truth.release !== word
              ? [isForward ? 'failed' : 'stranded']
              : [];
    const isGate = isForward && runsIt && state === 'failed' && failure!.class === 'GATE';
    if (!allowed.includes(state) && !isGate && allowed.length > 0)
      return `${id} was ${was}, is ${state}, and runs ${truth.release} (${truth.failure?.class}) where ${word} was told and ${desired.release} is wanted`;
  }
  return null;
}

function checkAborted(rollout: Rollout): void {
  for (const again of [
    () => resume(rollout, [], 'x'),
    () => rollBack(rollout, 'x'),
    () => pause(rollout, 'x'),
    () => approve(rollout, 'x'),
  ])
    t.throws(again, { code: 'rollout/state' });
}

/** Whether every device that was told, of the stages that were taken back, has and runs what it had before. */
function checkReturned(rollout: Rollout, before: Before, fleet: ReadonlyMap<string, MadeUpDevice>): string | null {
  for (const [id, was] of before) {
    const device = fleet.get(id)!;
    const { stage } = rollout.devices[id]!;
    if (stage! < rollout.rollbackFrom! || device.isTaken) continue;
    if (device.desired.release !== was) return `${id} is wanted to run ${device.desired.release}, and had ${was}`;
    if (was !== null && (device.truth.release !== was || !device.truth.isConfirmed))
      return `${id} runs ${device.truth.release}, and had ${was}`;
  }
  return null;
}

t.test(
  `${runs} rollouts keep the disruption budget, advance on confirmed devices only, return wholly, end`,
  async (t) => {
    const ends = new Map<string, number>();
    for (let run = 0; run < runs; run++) {
      const setting = makeSetting(new Random(seed + run));
      if (setting === null) {
        ends.set('refused', (ends.get('refused') ?? 0) + 1);
        continue;
      }
      const policy = JSON.stringify(setting.rollout.policy);
      const { broken, end } = live(setting);
      ends.set(end, (ends.get(end) ?? 0) + 1);
      if (broken !== null) t.fail(`QUANTD_SEED=${seed + run}: ${broken}; policy ${policy}`);
    }
    t.comment([...ends].map(([end, count]) => `${end} ${count}`).join(', '));
    t.ok(hasEnded({ status: 'aborted' }));
    // A test in which nothing ever completes, or is ever taken back, would show nothing.
    if (runs >= 100) for (const end of ['completed', 'rolled-back']) t.ok((ends.get(end) ?? 0) > runs / 20, end);
  },
);
