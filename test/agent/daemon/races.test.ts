/** What comes at the wrong moment: documents between a look and a step, full disks at any write, processes that end, files that are gone. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import t from 'tap';
import { type DesiredState, packetBytes, type ReportedState } from '../../../configs/contracts/device.js';
import { EdgeError } from '../../../configs/contracts/errors.js';
import { Disk, desired, History, Life, release } from '../../support/device.js';

const never = () => false;

const holds = (reported: ReportedState | null, type: string) =>
  reported?.conditions.find((condition) => condition.type === type)?.status === 'true';

async function until(condition: () => boolean, turns = 20_000): Promise<boolean> {
  for (let turn = 0; turn < turns; turn++) {
    if (condition()) return true;
    await nextTurn();
  }
  return false;
}

function isConfirmed({ reported }: Life, id: string): boolean {
  const active = reported?.targets.host?.active;
  return active?.release === id && active.isConfirmed && reported!.targets.host!.step === null;
}

async function rests(life: Life, document: DesiredState): Promise<boolean> {
  life.deliver(document);
  return until(() => isConfirmed(life, document.targets.host!.release.id));
}

async function stopped(life: Life): Promise<void> {
  life.daemon.stop();
  await life.running;
}

t.test('the last report is of the last state, however long it takes to put one together', async (t) => {
  for (const turns of [1, 2, 3, 5, 8, 13]) {
    const life = new Life(new Disk(), new History(), never);
    life.linkTurns = turns;
    t.ok(await rests(life, desired(1, release('good'))));
    await until(never, 500);
    const { targets, conditions } = await life.daemon.status();
    t.same([life.reported!.targets, life.reported!.conditions], [targets, conditions], `${turns} turns a look`);
    await stopped(life);
  }
});

t.test('what holds of older orders is never said of newer ones that come while it is put together', async (t) => {
  for (let turn = 0; turn < 40; turn += 2) {
    const life = new Life(new Disk(), new History(), never);
    life.linkTurns = 10;
    t.ok(await rests(life, desired(1, release('good'))));
    const said = life.daemon.status();
    await until(never, turn);
    life.deliver(desired(2, release('good', '2')));
    const { observedGeneration, conditions } = await said;
    const confirmed = conditions.find(({ type }) => type === 'Confirmed')!;
    t.ok(observedGeneration < 2 || confirmed.message === 'good@2', `the newer ones came after ${turn} turns`);
    await stopped(life);
  }
});

t.test('whoever asks how the device stands leaves nothing behind of older orders', async (t) => {
  const disk = new Disk();
  const life = new Life(disk, new History(), never);
  t.ok(await rests(life, desired(1, release('good'))));
  await until(never, 300);
  life.linkTurns = 30_000;
  let isAnswered = false;
  const asked = life.daemon.status().finally(() => {
    isAnswered = true;
  });
  // Its first look alone takes so long.
  life.linkTurns = 1;
  t.ok(await rests(life, desired(2, release('good', '2'))));
  await until(never, 300);
  t.notOk(isAnswered, 'it takes longer than all of that');
  t.equal((await asked).observedGeneration, 1);
  t.same(disk.values.get('conditions'), life.reported!.conditions);
  await stopped(life);
});

t.test('a goal that is replaced just before its step begins is not worked on', async (t) => {
  for (let turn = 0; turn < 160; turn += 4) {
    const [disk, history] = [new Disk(), new History()];
    const life = new Life(disk, history, never);
    life.linkTurns = 10;
    t.ok(await rests(life, desired(1, release('good'))));
    await until(never, 300);
    life.deliver(desired(2, release('good', '2')));
    await until(never, turn);
    life.deliver(desired(3, release('good', '3')));
    t.ok(await until(() => disk.values.get('generation') === 3));
    const begun = history.makes.size;
    t.ok(await until(() => isConfirmed(life, 'good@3')));
    t.equal(history.makes.size, begun + 1, `replaced after ${turn} turns`);
    await stopped(life);
  }
});

t.test('a document is taken over whole, whichever write fails for want of space', async (t) => {
  for (let write = 1; write < 12; write++) {
    const life = new Life(new Disk(), new History(), never);
    t.ok(await rests(life, desired(1, release('good'))));
    life.fullAtWrite = write;
    t.ok(await rests(life, desired(2, release('good', '2'))), `write ${write}`);
    t.ok(await until(() => holds(life.reported, 'Accepted') === true), `write ${write}`);
    await stopped(life);
  }
});

t.test('samples that were chosen a moment ago are not deleted as old', async (t) => {
  for (let turn = 0; turn < 80; turn++) {
    const [disk, history] = [new Disk(), new History()];
    const life = new Life(disk, history, never);
    life.hasSamples = true;
    life.deliver(desired(1, release('good')));
    await until(() => disk.links.has('active/host'));
    await until(never, turn);
    t.ok(await rests(life, desired(2, release('good', '2'))));
    const goal = disk.values.get('goal.host') as { samples: { folder: string } };
    t.ok(life.snapshots.has(goal.samples.folder), `the document came ${turn} turns after the activation`);
    await stopped(life);
  }
});

t.test('what nobody needs makes room: a full disk is cleared before the next try', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const life = new Life(disk, history, never);
  t.ok(await rests(life, desired(1, release('good'))));
  t.ok(disk.models.has(release('good').model.sha256));
  life.deliver(desired(2, release('good', '2')));
  t.ok(await until(() => life.reported?.observedGeneration === 2));
  life.isFull = true;
  t.ok(await until(() => !disk.models.has(release('good').model.sha256)), 'the old model is gone');
  life.isFull = false;
  t.ok(await until(() => isConfirmed(life, 'good@2')));
  await stopped(life);
});

t.test('a previous model that cannot be loaded does not hold the device for ever', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const life = new Life(disk, history, never);
  t.ok(await rests(life, desired(1, release('good'))));
  const first = disk.links.get('active/host');
  life.onOpen = (folder) => {
    if (folder === first) throw new EdgeError('target/failed', 'damaged', { subject: folder });
  };
  life.deliver(desired(2, release('unfit')));
  t.ok(await until(() => !disk.links.has('active/host')), 'what failed is taken away all the same');
  t.ok(await rests(life, desired(3, release('good', '3'))));
  await stopped(life);
  t.same(history.faults, []);
});

t.test('a model that cannot be taken back for want of space leaves no process behind', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const life = new Life(disk, history, never);
  t.ok(await rests(life, desired(1, release('good'))));
  life.deliver(desired(2, release('unfit')));
  t.ok(await until(() => [...disk.values.keys()].some((key) => key.startsWith('failure.'))));
  life.isFull = true;
  await until(never, 300);
  t.ok(life.runners.size <= 3, `${life.runners.size} runners`);
  life.isFull = false;
  t.ok(await until(() => isConfirmed(life, 'good@1')));
  await until(never, 50);
  t.equal(life.runners.size, 1);
  await stopped(life);
  t.equal(life.runners.size, 0);
});

t.test('an active model that could not be loaded at the start is loaded as soon as it can be', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const first = new Life(disk, history, never);
  t.ok(await rests(first, desired(1, release('good'))));
  await stopped(first);
  const life = new Life(disk, history, never);
  let failures = 3;
  life.onOpen = (folder) => {
    if (failures-- > 0) throw new EdgeError('target/failed', 'no memory', { subject: folder });
  };
  const told: string[] = [];
  life.daemon.onActive(({ artifact }) => told.push(artifact));
  t.ok(await until(() => life.daemon.isServing('host')));
  t.match(await life.daemon.infer('host', { kind: 'tensor', data: new Float32Array(1) }), { latencyMs: 1 });
  t.same(told, [disk.links.get('active/host')]);
  await stopped(life);
});

t.test(
  'a model whose process ends while it proves itself is taken back, though a request has started it again',
  async (t) => {
    const [disk, history] = [new Disk(), new History()];
    const life = new Life(disk, history, never);
    t.ok(await rests(life, desired(1, release('good'))));
    const before = disk.links.get('active/host');
    let probes = 0;
    life.onProbe = (runner) => {
      if (runner.folder === before || ++probes !== 1) return;
      setImmediate(() => {
        runner.die();
        void life.daemon.infer('host', { kind: 'tensor', data: new Float32Array(1) });
      });
    };
    life.deliver(desired(2, release('good', '2')));
    t.ok(await until(() => holds(life.reported, 'RolledBack') === true));
    t.ok(await until(() => disk.links.get('active/host') === before));
    await stopped(life);
  },
);

t.test('samples that are gone are no fault of the model: it proves itself on noise', async (t) => {
  const life = new Life(new Disk(), new History(), never);
  life.hasSamples = true;
  const probed: (string | null)[] = [];
  life.onProbe = (_runner, folder) => {
    probed.push(folder);
    if (folder !== null) throw new EdgeError('samples/unreadable', 'no such folder', { subject: folder });
  };
  t.ok(await rests(life, desired(1, release('good'))));
  t.equal(probed.filter((folder) => folder !== null).length, 1);
  await stopped(life);
});

t.test('a result that is too large for a packet goes without its list of operators', async (t) => {
  const disk = new Disk();
  const life = new Life(disk, new History(), never);
  life.operatorBytes = packetBytes;
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => disk.results.length === 1));
  const { document } = disk.results[0]!;
  t.match(document, { feasible: true, plan: { operators: [] } });
  t.ok(JSON.stringify(disk.results[0]).length < packetBytes / 2);
  await stopped(life);
});

t.test('what a document asks in vain is said until another comes, over restarts and over rubbish', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const document = desired(1, release('good'));
  const partly = { ...document, targets: { ...document.targets, mcu: document.targets.host! } };
  const isRefused = (life: Life) =>
    life.reported?.conditions.some(
      (c) => c.type === 'Accepted' && c.status === 'false' && c.reason === 'target/unknown',
    );
  const first = new Life(disk, history, never);
  t.ok(await rests(first, partly));
  t.ok(isRefused(first));
  await stopped(first);
  const life = new Life(disk, history, never);
  life.deliver(partly);
  await until(() => life.reported !== null);
  t.ok(isRefused(life), 'after a restart');
  life.deliver(new TextEncoder().encode('rubbish'));
  t.ok(await until(() => life.reported!.conditions.some(({ reason }) => reason === 'document/invalid')));
  life.deliver(partly);
  t.ok(await until(() => isRefused(life) === true), 'after rubbish, and the same again');
  t.ok(await rests(life, desired(2, release('good', '2'))));
  t.ok(await until(() => holds(life.reported, 'Accepted') === true));
  life.deliver(new TextEncoder().encode('rubbish'));
  t.ok(await until(() => holds(life.reported, 'Accepted') !== true));
  life.deliver(desired(2, release('good', '2')));
  t.ok(await until(() => holds(life.reported, 'Accepted') === true), 'the console has said again what holds');
  await stopped(life);
});

t.test('a wiped device comes back with a higher session number than it ever had', async (t) => {
  const { Memory } = await import('../../../agent/daemon/memory.js');
  const values = () => {
    const kept = new Map<string, unknown>();
    return {
      read: (key: string) => kept.get(key) ?? null,
      write: (changes: ReadonlyMap<string, unknown>) => {
        for (const [key, value] of changes) kept.set(key, value);
      },
      keys: () => [],
      close: () => {},
    };
  };
  const first = new Memory(values());
  const last = [1.7e9, 1.7e9, 5, 0].map((time) => first.beginSession(time));
  t.same(last, [1.7e9, 1.7e9 + 1, 1.7e9 + 2, 1.7e9 + 3], 'it rises, whatever the clock does');
  t.ok(new Memory(values()).beginSession(1.7e9 + 100) > last.at(-1)!);
});
