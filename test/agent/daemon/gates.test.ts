/** Maintenance gates in the daemon's loop: what is new waits for them, what is there already does not. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import t from 'tap';
import type { Condition } from '../../../configs/contracts/device.js';
import { Disk, desired, History, Life, release } from '../../support/device.js';
import { HandGate } from '../../support/gates.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const never = () => false;

async function until(holds: () => boolean, turns = 20_000): Promise<boolean> {
  for (let turn = 0; turn < turns; turn++) {
    if (holds()) return true;
    await nextTurn();
  }
  return false;
}

const rest = async (turns: number) => void (await until(never, turns));
const said = ({ reported }: Life, type: string): Condition | undefined =>
  reported?.conditions.find((condition) => condition.type === type && condition.status === 'true');
const runs = ({ reported }: Life, id: string) =>
  reported?.targets.host?.active?.release === id && reported.targets.host.active.isConfirmed;

async function stopped(life: Life): Promise<void> {
  life.daemon.stop();
  await life.running;
}

t.test(
  'with a closed gate a model is fetched, quantized and published, and serves only when the gate is open',
  async (t) => {
    const [disk, history, gate] = [new Disk(), new History(), new HandGate(false)];
    const life = new Life(disk, history, never, 1, [gate]);
    life.deliver(desired(1, release('good')));
    t.ok(await until(() => disk.results.length === 1 && said(life, 'Gated') !== undefined));
    await rest(500);
    t.equal(disk.links.has('active/host'), false);
    t.ok(said(life, 'Staged') && said(life, 'Quantized'));
    t.match(said(life, 'Gated'), { reason: 'lock', message: 'activate of good@1 waits for lock (by hand)' });
    t.equal(said(life, 'Degraded'), undefined);
    const since = said(life, 'Gated')!.time;
    gate.reason = 'for another reason';
    t.ok(await until(() => said(life, 'Gated')?.message.includes('for another reason') === true));
    t.equal(said(life, 'Gated')!.time, since, 'it is the same wait');
    gate.isOpen = true;
    t.ok(await until(() => runs(life, 'good@1')));
    t.equal(said(life, 'Gated'), undefined);
    await stopped(life);
    t.ok(gate.isClosed);
    t.same([...history.makes.values()], [1]);
    t.same(history.faults, []);
  },
);

t.test('a device at rest does not look at its gates', async (t) => {
  const gate = new HandGate(true);
  const life = new Life(new Disk(), new History(), never, 1, [gate]);
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => runs(life, 'good@1')));
  await rest(200);
  const { reads } = gate;
  await rest(500);
  t.equal(gate.reads, reads);
  t.match(await life.daemon.gates(), [{ gate: 'lock', isOpen: true, reason: 'by hand' }]);
  t.equal(gate.reads, reads + 1, 'but when somebody asks');
  gate.isOpen = false;
  life.deliver(desired(2, release('good', '2')));
  t.ok(await until(() => said(life, 'Gated') !== undefined), 'and when there is something to do');
  t.ok(runs(life, 'good@1'));
  await stopped(life);
});

t.test('a gate that flaps opens nothing: it has to stay open', async (t) => {
  const [disk, gate] = [new Disk(), new HandGate(false)];
  const life = new Life(disk, new History(), never, 1, [gate]);
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => said(life, 'Gated') !== undefined));
  for (let flap = 0; flap < 40; flap++) {
    gate.isOpen = true;
    const { reads } = gate;
    // Looked at less often than once a second for ten seconds.
    await until(() => gate.reads >= reads + 4);
    gate.isOpen = false;
    await until(() => gate.reads >= reads + 6);
  }
  t.equal(disk.links.has('active/host'), false);
  gate.isOpen = true;
  t.ok(await until(() => runs(life, 'good@1')));
  await stopped(life);
});

t.test('a gate that closes between the decision and the switch is noticed; the loaded model is let go', async (t) => {
  const [disk, gate] = [new Disk(), new HandGate(true)];
  const life = new Life(disk, new History(), never, 1, [gate]);
  let fresh = 0;
  gate.onFresh = () => {
    if (++fresh === 1) gate.isOpen = false;
  };
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => fresh === 1 && said(life, 'Gated') !== undefined));
  await rest(300);
  t.equal(disk.links.has('active/host'), false);
  t.equal(life.runners.size, 0);
  t.equal(said(life, 'Degraded'), undefined, 'it is no failure');
  gate.isOpen = true;
  t.ok(await until(() => runs(life, 'good@1')));
  t.equal(life.runners.size, 1);
  await stopped(life);
});

t.test(
  'a gate that holds work as well lets a model be fetched, not quantized, and stops what is being quantized',
  async (t) => {
    const [disk, history, gate] = [
      new Disk(),
      new History(),
      new HandGate(false, { kind: 'temperature', holds: 'work' }),
    ];
    const life = new Life(disk, history, never, 1, [gate]);
    life.deliver(desired(1, release('good')));
    t.ok(await until(() => said(life, 'Gated') !== undefined));
    await rest(300);
    t.equal(disk.models.size, 1);
    t.equal(history.makes.size, 0);
    t.match(said(life, 'Gated'), { reason: 'temperature', message: /^quantize of good@1 waits for temperature/ });
    gate.isOpen = true;
    life.makeTurns = 200;
    t.ok(await until(() => history.makes.size === 1 && life.reported!.targets.host!.step !== null));
    gate.isOpen = false;
    t.ok(await until(() => said(life, 'Gated') !== undefined && life.reported!.targets.host!.step === null));
    t.equal(disk.artifacts.size, 0, 'it was stopped');
    life.makeTurns = 1;
    gate.isOpen = true;
    t.ok(await until(() => runs(life, 'good@1')));
    await stopped(life);
    t.same(history.faults, []);
  },
);

t.test(
  'what cannot be read is closed for activation and lets work go on, unless the settings take it for open',
  async (t) => {
    for (const unreadable of ['closed', 'open'] as const) {
      const [disk, gate] = [new Disk(), new HandGate(null, { kind: 'power', holds: 'work', unreadable })];
      const life = new Life(disk, new History(), never, 1, [gate]);
      life.deliver(desired(1, release('good')));
      t.ok(await until(() => disk.artifacts.size === 1), 'it is quantized');
      if (unreadable === 'closed') {
        t.ok(await until(() => said(life, 'Gated')?.reason === 'power'));
        await rest(300);
        t.equal(disk.links.has('active/host'), false);
      } else t.ok(await until(() => runs(life, 'good@1')));
      await stopped(life);
    }
  },
);

t.test('what serves proves itself, and is taken back, whatever the gates say', async (t) => {
  const [disk, history, gate] = [new Disk(), new History(), new HandGate(true)];
  const life = new Life(disk, history, never, 1, [gate]);
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => runs(life, 'good@1')));
  const before = disk.links.get('active/host');
  // Taken off as soon as the new model serves; it fails its probes then.
  life.onProbe = () => {
    gate.isOpen = false;
  };
  life.deliver(desired(2, release('unfit')));
  t.ok(await until(() => said(life, 'RolledBack') !== undefined && disk.links.get('active/host') === before));
  t.equal(gate.isOpen, false, 'in flight');
  await stopped(life);
  t.same(history.faults, []);
});

t.test('through power cuts, nothing is activated while a gate is closed, and everything once it is open', async (t) => {
  let cuts = 0;
  for (let round = 0; round < 40; round++) {
    const random = new Random(seed + round);
    const [disk, history, gate] = [new Disk(), new History(), new HandGate(false)];
    const likelihood = random.pick([0.02, 0.05, 0.1]);
    const start = () => new Life(disk, history, () => random.next() < likelihood, 1, [gate]);
    let life = start();
    life.deliver(desired(1, release('good')));
    for (let turn = 0; turn < 300; turn++) {
      await nextTurn();
      if (disk.links.has('active/host')) return t.fail(`round ${round}: active behind a closed gate`);
      if (!life.isDead) continue;
      cuts++;
      life = start();
      life.deliver(desired(1, release('good')));
    }
    life.kill();
    const last = new Life(disk, history, never, 1, [gate]);
    last.deliver(desired(1, release('good')));
    t.ok(await until(() => said(last, 'Gated') !== undefined), `round ${round}: it still waits`);
    gate.isOpen = true;
    t.ok(await until(() => runs(last, 'good@1')), `round ${round}`);
    await stopped(last);
    t.same([history.faults, history.remade], [[], 0]);
  }
  t.comment(`${cuts} power cuts`);
  t.ok(cuts > 40);
});
