/** The daemon's loop: through every kind of release, through power cuts at any call, full disks and hostile documents. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import t from 'tap';
import type { DesiredState, ReportedState } from '../../../configs/contracts/device.js';
import { type Behaviour, Disk, desired, History, impossible, Life, release } from '../../support/device.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const never = () => false;
/** Turns of the event loop after which a daemon that has not come to rest counts as stuck. */
const mostTurns = 20_000;

const isTrue = (reported: ReportedState | null, type: string) =>
  reported?.conditions.some((condition) => condition.type === type && condition.status === 'true') ?? false;

/** Runs on until something holds; false when it never does. */
async function until(holds: () => boolean): Promise<boolean> {
  for (let turn = 0; turn < mostTurns; turn++) {
    if (holds()) return true;
    await nextTurn();
  }
  return false;
}

/** Whether the newest report says that a generation was dealt with, well or badly. */
function isSettled({ reported }: Life, generation: number): boolean {
  return (
    reported !== null &&
    reported.observedGeneration === generation &&
    reported.targets.host!.step === null &&
    (isTrue(reported, 'Confirmed') ||
      isTrue(reported, 'BudgetInfeasible') ||
      isTrue(reported, 'RolledBack') ||
      isTrue(reported, 'Degraded'))
  );
}

async function settled(life: Life, document: DesiredState): Promise<boolean> {
  life.deliver(document);
  return until(() => isSettled(life, document.generation));
}

async function stopped(life: Life): Promise<void> {
  life.daemon.stop();
  await life.running;
}

t.test(
  'a release is fetched, quantized, activated, confirmed and published; the same document again does nothing',
  async (t) => {
    const [disk, history] = [new Disk(), new History()];
    const life = new Life(disk, history, never);
    t.ok(await settled(life, desired(1, release('good'))));
    const { active, previous, step } = life.reported!.targets.host!;
    t.match(active, { release: 'good@1', isConfirmed: true });
    t.equal(previous, null);
    t.equal(step, null);
    await until(() => disk.results.length > 0);
    t.same(
      disk.results.map(({ release: id }) => id),
      ['good@1'],
    );
    life.deliver(desired(1, release('good')));
    life.deliver(desired(1, release('unfit')));
    await until(() => false || disk.events.length > 100);
    t.equal(life.reported!.targets.host!.active!.release, 'good@1', 'a generation that is not newer changes nothing');
    t.same([...history.makes.values()], [1]);
    await stopped(life);
    t.same(history.faults, []);
  },
);

t.test('a restart of a device at rest does nothing again', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const first = new Life(disk, history, never);
  t.ok(await settled(first, desired(1, release('good'))));
  await until(() => disk.results.length > 0);
  await stopped(first);
  const second = new Life(disk, history, never);
  t.ok(await settled(second, desired(1, release('good'))));
  t.same([...history.makes.values()], [1]);
  t.equal(disk.results.length, 1);
  t.equal(second.reported!.session, 2);
  await stopped(second);
});

t.test('the 95th percentile of its probes is reported with a model, once there are enough to tell', async (t) => {
  for (const [bakeSeconds, expected] of [
    [1, null],
    [60, 1],
  ] as const) {
    const life = new Life(new Disk(), new History(), never, bakeSeconds);
    t.ok(await settled(life, desired(1, release('good'))));
    const { latency } = life.reported!.targets.host!.active!.measurements;
    t.equal(latency.p95, expected, `${bakeSeconds} s`);
    await stopped(life);
  }
});

t.test('offline through five edits, a device does the last one only', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const life = new Life(disk, history, never);
  t.ok(await settled(life, desired(1, release('good'))));
  // Retained: of what is published while it is away, the broker keeps the last.
  t.ok(await settled(life, desired(6, release('good', '2'))));
  t.equal(life.reported!.targets.host!.active!.release, 'good@2');
  t.equal(life.reported!.targets.host!.previous!.release, 'good@1');
  t.equal(history.makes.size, 2);
  await stopped(life);
});

t.test('an impossible budget leaves what is active, and reports the frontier', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const life = new Life(disk, history, never);
  t.ok(await settled(life, desired(1, release('good'))));
  const before = disk.links.get('active/host');
  t.ok(await settled(life, desired(2, release('good'), impossible)));
  t.ok(isTrue(life.reported, 'BudgetInfeasible'));
  t.equal(disk.links.get('active/host'), before);
  t.equal(life.reported!.targets.host!.frontier.length, 1);
  await until(() => disk.results.length === 2);
  t.equal(disk.results.length, 2, 'the result says why');
  t.ok(await settled(life, desired(3, release('good'))));
  t.notOk(isTrue(life.reported, 'BudgetInfeasible'));
  t.ok(isTrue(life.reported, 'Confirmed'));
  await stopped(life);
});

for (const behaviour of ['unfit', 'broken', 'crashing'] as const) {
  t.test(
    `a release that is ${behaviour} leaves, or brings back, what was there, and is tried again only when it is asked for anew`,
    async (t) => {
      const [disk, history] = [new Disk(), new History()];
      const life = new Life(disk, history, never);
      t.ok(await settled(life, desired(1, release('good'))));
      const before = disk.links.get('active/host');
      t.ok(await settled(life, desired(2, release(behaviour))));
      t.equal(disk.links.get('active/host'), before);
      t.ok(isTrue(life.reported, behaviour === 'unfit' ? 'RolledBack' : 'Degraded'));
      const failed = () => disk.events.filter(({ type }) => type === 'failed').length;
      t.ok(await until(() => failed() === 1), 'given up after a few tries at most');
      await until(() => failed() > 1);
      t.equal(failed(), 1, 'it is not tried again by itself');
      const failures = life.reported!.conditions.flatMap(({ failure }) => failure ?? []);
      t.same([...new Set(failures.map(({ isFinal }) => isFinal))], [true], 'and says so');
      await stopped(life);
      const next = new Life(disk, history, never);
      await until(() => failed() > 1);
      t.equal(failed(), 1, 'nor after a restart');
      t.ok(await settled(next, desired(3, release('good'))));
      t.ok(await settled(next, desired(4, release(behaviour))));
      t.ok(await until(() => failed() === 2), 'asked for anew, it is');
      t.equal(disk.links.get('active/host'), before);
      await stopped(next);
      t.same(history.faults, []);
    },
  );
}

t.test('a first release that does not prove itself leaves nothing active', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const life = new Life(disk, history, never);
  t.ok(await settled(life, desired(1, release('unfit'))));
  t.same([...disk.links.keys()], []);
  await stopped(life);
});

t.test('what is being made for a goal that is replaced is given up at once', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const life = new Life(disk, history, never);
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => history.makes.size === 1));
  t.ok(await settled(life, desired(2, release('good', '2'))));
  t.equal(disk.artifacts.size, 1, 'the first was never finished');
  t.equal(life.reported!.targets.host!.active!.release, 'good@2');
  await stopped(life);
});

t.test('documents that are hostile or malformed are refused, and change nothing', async (t) => {
  const random = new Random(seed);
  const [disk, history] = [new Disk(), new History()];
  const life = new Life(disk, history, never);
  t.ok(await settled(life, desired(1, release('good'))));
  const values = JSON.stringify([...disk.values].filter(([key]) => key !== 'conditions'));
  const text = JSON.stringify(desired(9, release('good', '2')));
  const mangled = () => {
    const at = random.below(text.length);
    const piece = random.pick(['', '"', '{', '}', '0', '-1', 'null', '\u0000', '"__proto__":{"a":1},', '[[[[']);
    return text.slice(0, at) + piece + text.slice(at + 1 + random.below(20));
  };
  const documents: (string | Uint8Array)[] = [
    '',
    'null',
    '[]',
    '{}',
    '{"__proto__":{"generation":9}}',
    `${'['.repeat(20_000)}${']'.repeat(20_000)}`,
    JSON.stringify({ ...desired(9, release('good', '2')), device: 'another' }),
    JSON.stringify({ ...desired(9, release('good', '2')), schema: 'quantd/desired/2' }),
    JSON.stringify(desired(-1, release('good', '2'))),
    JSON.stringify({ ...desired(9, null), targets: { '../../etc': { release: release('good'), budget: {} } } }),
    JSON.stringify({ ...desired(9, null), targets: { host: { release: release('good'), budget: { latencyMs: -1 } } } }),
    JSON.stringify({
      ...desired(9, null),
      targets: { host: { release: release('good'), budget: { latencyMs: 1, latencyRatio: 1 } } },
    }),
    Uint8Array.of(0xff, 0xfe, 0x00),
    new Uint8Array(70_000).fill(0x20),
    ...Array.from({ length: 200 }, mangled).filter((candidate) => {
      try {
        JSON.parse(candidate);
        return false;
      } catch {
        return true;
      }
    }),
  ];
  for (const document of documents) {
    life.deliver(typeof document === 'string' ? new TextEncoder().encode(document) : document);
    await nextTurn();
  }
  await until(() => isTrue(life.reported, 'Accepted') === false);
  t.ok(life.reported!.conditions.some(({ type, status }) => type === 'Accepted' && status === 'false'));
  t.equal(JSON.stringify([...disk.values].filter(([key]) => key !== 'conditions')), values);
  t.equal(({} as { generation?: number }).generation, undefined);
  t.ok(await settled(life, desired(10, release('good', '2'))), 'a good one is taken afterwards');
  await stopped(life);
});

t.test('fields that are not known are ignored', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const life = new Life(disk, history, never);
  const document = desired(1, release('good'));
  life.deliver({ ...document, future: { a: 1 } } as DesiredState);
  t.ok(await until(() => isSettled(life, 1)));
  t.notMatch(JSON.stringify([...disk.values]), /future/);
  await stopped(life);
});

t.test('a full disk holds work up, and nothing else: it goes on by itself when there is space', async (t) => {
  for (let calls = 0; calls < 40; calls += 3) {
    const [disk, history] = [new Disk(), new History()];
    const life = new Life(disk, history, never);
    t.ok(await settled(life, desired(1, release('good'))));
    life.deliver(desired(2, release('good', '2')));
    for (let turn = 0; turn < calls; turn++) await nextTurn();
    life.isFull = true;
    for (let turn = 0; turn < 300; turn++) await nextTurn();
    t.ok(disk.links.has('active/host'), 'something is active all the time');
    life.isFull = false;
    const isDone = await until(() => life.reported?.targets.host?.active?.release === 'good@2' && isSettled(life, 2));
    t.ok(isDone, `full from turn ${calls} on`);
    await stopped(life);
    t.same(history.faults, []);
  }
});

t.test(
  'a clock that is set back or far ahead, at any moment and over a restart, changes nothing but the times that are told',
  async (t) => {
    const random = new Random(seed);
    for (let round = 0; round < 20; round++) {
      const [disk, history] = [new Disk(), new History()];
      let life = new Life(disk, history, never);
      life.wallOffsetMs = 1.7e12;
      t.ok(await settled(life, desired(1, release('good'))));
      life.deliver(desired(2, release('good', '2')));
      for (let turn = random.below(60); turn > 0; turn--) await nextTurn();
      life.wallOffsetMs = random.pick([0, 1e9, 4e12]);
      for (let turn = random.below(30); turn > 0; turn--) await nextTurn();
      life.kill();
      life = new Life(disk, history, never);
      life.wallOffsetMs = random.pick([0, 1e9, 4e12]);
      t.ok(await settled(life, desired(2, release('good', '2'))));
      t.equal(life.reported!.targets.host!.active!.release, 'good@2');
      await stopped(life);
      t.same([history.faults, history.remade], [[], 0]);
    }
  },
);

t.test(
  'power cuts at any call: the device always ends where it was told to, and finished work is not done again',
  async (t) => {
    const rounds = Number(process.env.QUANTD_POWER_CUTS ?? 150);
    let cuts = 0;
    for (let round = 0; round < rounds; round++) {
      const random = new Random(seed + round);
      const [disk, history] = [new Disk(), new History()];
      const likelihood = random.pick([0, 0.02, 0.05, 0.1, 0.2]);
      let life = new Life(disk, history, () => random.next() < likelihood);
      let document = desired(0, null);
      for (let edit = 1; edit <= 1 + random.below(4); edit++) {
        const behaviour: Behaviour = random.pick(['good', 'good', 'good', 'unfit', 'broken', 'crashing']);
        const budget = random.below(4) === 0 ? impossible : {};
        document = desired(edit, release(behaviour, random.pick(['1', '2'])), budget);
        life.deliver(document);
        for (let turn = random.below(120); turn > 0; turn--) {
          await nextTurn();
          // Some power cuts last until after the next edit.
          if (!life.isDead || random.below(30) > 0) continue;
          cuts++;
          life = new Life(disk, history, () => random.next() < likelihood);
          life.deliver(document);
        }
      }
      life.kill();
      const last = new Life(disk, history, never);
      const { release: wanted, budget } = document.targets.host!;
      if (!(await settled(last, document))) {
        t.fail(`round ${round}: no rest; ${JSON.stringify(last.reported?.conditions)}`);
        break;
      }
      const key = disk.links.get('active/host');
      const active = key === undefined ? null : disk.artifacts.get(key)!;
      const mustBeActive = wanted.id.startsWith('good') && budget.sizeBytes !== 1;
      const isActive = active?.model.sha256 === wanted.model.sha256 && active.feasible;
      if (mustBeActive !== (isActive && last.reported!.targets.host!.active!.release === wanted.id)) {
        // A release that is not to be active may be the one that was active before, under another budget.
        if (mustBeActive || !wanted.id.startsWith('good'))
          t.fail(
            `round ${round}: ${wanted.id} is ${isActive ? '' : 'not '}active; ${JSON.stringify(last.reported, null, 1)}; ${JSON.stringify([...disk.values.keys()])}`,
          );
      }
      if (active !== null && !last.reported!.targets.host!.active!.isConfirmed) t.fail(`round ${round}: not confirmed`);
      await stopped(last);
      t.same(history.faults, [], `round ${round}`);
      if (history.remade > 0) t.fail(`round ${round}: ${history.remade} finished artifacts were made again`);
    }
    t.comment(`${cuts} power cuts in ${rounds} rounds`);
    t.ok(cuts > rounds / 2);
  },
);
