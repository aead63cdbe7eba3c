/** A target that keeps its model itself: whatever fails on either side, both end with the same model active, and that is what is told. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import t from 'tap';
import type { Condition } from '../../../configs/contracts/device.js';
import { EdgeError } from '../../../configs/contracts/errors.js';
import { type Behaviour, Disk, desired, desiredOf, History, identity, Life, release } from '../../support/device.js';
import { FakeChip } from '../../support/fake-chip.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const never = () => false;
const mostTurns = 20_000;

async function until(holds: () => boolean): Promise<boolean> {
  for (let turn = 0; turn < mostTurns; turn++) {
    if (holds()) return true;
    await nextTurn();
  }
  return false;
}

const conditionOf = ({ reported }: Life, type: Condition['type']) =>
  reported?.conditions.find((condition) => condition.type === type);

/** Whether the newest report says that a generation was dealt with, well or badly, and that nothing is being tried any more. */
function isAtRest(life: Life, generation: number): boolean {
  const { reported } = life;
  if (reported?.observedGeneration !== generation || reported.targets.host!.step !== null) return false;
  const isFinal = (type: Condition['type']) => conditionOf(life, type)?.failure?.isFinal === true;
  return conditionOf(life, 'Confirmed')?.status === 'true' || isFinal('RolledBack') || isFinal('Degraded');
}

async function stopped(life: Life): Promise<void> {
  life.daemon.stop();
  await life.running;
}

function begin(chip: FakeChip, disk = new Disk(), history = new History(), bakeSeconds = 1): Life {
  return new Life(disk, history, never, bakeSeconds, [], chip);
}

t.test('the model is activated on trial, confirmed there, and left alone by a restart', async (t) => {
  const [chip, disk, history] = [new FakeChip(identity), new Disk(), new History()];
  const first = begin(chip, disk, history);
  first.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(first, 1)));
  const { sha256 } = release('good').model;
  t.match(chip, { activeImage: sha256, isOnTrial: false, uploads: 1 });
  await stopped(first);
  const second = begin(chip, disk, history);
  second.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(second, 1)));
  t.equal(chip.uploads, 1);
  t.equal(second.reported!.targets.host!.active!.artifactSha256, sha256);
  await stopped(second);
  t.same(history.faults, []);
});

t.test('a model that fails its probes is taken back on the chip, too', async (t) => {
  const chip = new FakeChip(identity);
  const life = begin(chip);
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(life, 1)));
  life.deliver(desired(2, release('unfit')));
  t.ok(await until(() => isAtRest(life, 2) && life.reported!.targets.host!.active?.release === 'good@1'));
  t.match(chip, { activeImage: release('good').model.sha256, isOnTrial: false });
  t.equal(conditionOf(life, 'RolledBack')!.reason, 'confirm/failed');
  await stopped(life);
});

for (const why of ['power', 'watchdog', 'fault'] as const) {
  t.test(`a chip that is reset (${why}) during a trial is back at the model before, and that is told`, async (t) => {
    const [chip, disk, history] = [new FakeChip(identity), new Disk(), new History()];
    const life = begin(chip, disk, history, 60);
    life.deliver(desired(1, release('good')));
    t.ok(await until(() => isAtRest(life, 1)));
    life.deliver(desired(2, release('good', '2')));
    t.ok(await until(() => chip.isOnTrial && life.reported!.targets.host!.step?.name === 'confirm'));
    chip.reset(why);
    t.ok(await until(() => disk.events.some(({ type }) => type === 'reverted')));
    const told = disk.events.find(({ type }) => type === 'reverted')!.message;
    t.match(told, `reset (${why}) while good@2 was on trial; good@1 is active again`);
    t.ok(await until(() => isAtRest(life, 2)));
    const active = life.reported!.targets.host!.active!;
    // Power may fail under any model; what makes the processor stumble is not tried again.
    t.equal(active.release, why === 'power' ? 'good@2' : 'good@1');
    t.match(chip, { activeImage: active.artifactSha256, isOnTrial: false });
    if (why !== 'power') {
      t.match(conditionOf(life, 'RolledBack'), { reason: 'confirm/failed', message: told });
      t.ok(await until(() => conditionOf(life, 'Degraded') === undefined), 'nothing is left to be mended');
    }
    await stopped(life);
    t.same(history.faults, []);
  });
}

t.test('a chip that is away is a condition; one that has lost its model gets it back', async (t) => {
  const chip = new FakeChip(identity);
  chip.isAway = true;
  const life = begin(chip);
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => conditionOf(life, 'Degraded')?.reason === 'mcu/unreachable'));
  t.match(conditionOf(life, 'Degraded')!.failure, { step: 'settle', isFinal: false });
  chip.isAway = false;
  t.ok(await until(() => isAtRest(life, 1)));
  t.equal(conditionOf(life, 'Degraded'), undefined);
  chip.erase();
  t.ok(await until(() => chip.activeImage === release('good').model.sha256 && !chip.isOnTrial));
  await stopped(life);
});

t.test('a model that the chip had taken back when the power failed is not said to have been reset', async (t) => {
  const [chip, disk, history] = [new FakeChip(identity), new Disk(), new History()];
  const first = begin(chip, disk, history);
  first.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(first, 1)));
  first.deliver(desired(2, release('unfit')));
  t.ok(await until(() => chip.isOnTrial));
  t.ok(await until(() => !chip.isOnTrial));
  first.kill();
  t.not(disk.links.get('active/host'), undefined);
  const second = begin(chip, disk, history);
  t.ok(await until(() => isAtRest(second, 2) && second.reported!.targets.host!.active?.release === 'good@1'));
  t.match(disk.events.at(-1), { type: 'reverted', message: 'unfit@1 was taken back; good@1 is active again' });
  t.equal(conditionOf(second, 'Degraded'), undefined);
  await stopped(second);
  t.same(history.faults, []);
});

t.test('another kind of chip in its place gets a model of its own', async (t) => {
  const [disk, history] = [new Disk(), new History()];
  const first = begin(new FakeChip(identity), disk, history);
  first.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(first, 1)));
  await stopped(first);
  const other = new FakeChip({ ...identity, processor: 'another' });
  const second = begin(other, disk, history);
  second.deliver(desired(1, release('good')));
  t.ok(await until(() => history.makes.size === 2 && isAtRest(second, 1)));
  t.equal(other.activeImage, release('good').model.sha256);
  await stopped(second);
  t.same(history.faults, []);
});

t.test('a model that is refused for good is told and not served, and keeps no other from the chip', async (t) => {
  const [chip, disk, history] = [new FakeChip(identity), new Disk(), new History()];
  const first = begin(chip, disk, history);
  first.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(first, 1)));
  await stopped(first);
  const refused = disk.links.get('active/host')!;
  for (const code of ['artifact/invalid', 'mcu/refused', 'target/failed'] as const) {
    const life = begin(chip, disk, history);
    life.onOpen = (folder) => {
      if (folder === refused) throw new EdgeError(code, 'not with this version', { subject: folder });
    };
    const isTold = () => disk.events.some(({ type, message }) => type === 'failed' && message.includes(code));
    t.ok(await until(isTold), code);
    t.match(disk.events.at(-1), { message: `good@1 is not served: ${code}: not with this version` });
    t.notOk(life.daemon.isServing('host'));
    await stopped(life);
  }
  const last = begin(chip, disk, history);
  last.onOpen = (folder) => {
    if (folder === refused) throw new EdgeError('artifact/invalid', 'not with this version', { subject: folder });
  };
  last.deliver(desired(2, release('good', '2')));
  t.ok(await until(() => isAtRest(last, 2)));
  t.equal(last.reported!.targets.host!.active!.release, 'good@2');
  t.equal(chip.activeImage, release('good', '2').model.sha256);
  await stopped(last);
  t.same(history.faults, []);
});

t.test('what has failed is taken back after a power cut, and not opened again before', async (t) => {
  const [chip, disk, history] = [new FakeChip(identity), new Disk(), new History()];
  const first = begin(chip, disk, history);
  first.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(first, 1)));
  first.deliver(desired(2, release('unfit')));
  const failed = () => [...disk.values.keys()].find((key) => key.startsWith('failure.host.'))?.split('.')[2];
  t.ok(await until(() => failed() !== undefined));
  first.kill();
  t.equal(disk.links.get('active/host'), failed());
  const second = begin(chip, disk, history);
  const opened: string[] = [];
  second.onOpen = (folder) => opened.push(folder);
  t.ok(await until(() => isAtRest(second, 2) && second.reported!.targets.host!.active?.release === 'good@1'));
  t.notOk(opened.includes(failed()!));
  t.match(chip, { activeImage: release('good').model.sha256, isOnTrial: false });
  await stopped(second);
  t.same(history.faults, []);
});

t.test('a release that is withdrawn while it is brought to the chip never serves there', async (t) => {
  const [chip, disk, history] = [new FakeChip(identity), new Disk(), new History()];
  const life = begin(chip, disk, history);
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(life, 1)));
  chip.uploadTurns = 1000;
  life.deliver(desired(2, release('good', '2')));
  t.ok(await until(() => chip.isUploading));
  life.deliver(desired(3, release('good', '3')));
  t.ok(await until(() => isAtRest(life, 3)));
  const activated = disk.events.filter(({ type }) => type === 'activated').map(({ message }) => message);
  t.same(activated, ['good@1', 'good@3']);
  t.match(chip, { activeImage: release('good', '3').model.sha256, uploads: 2 });
  await stopped(life);
  t.same(history.faults, []);
});

t.test(
  'what fails elsewhere says nothing of the chip, and a chip that comes back is looked at in any pause',
  async (t) => {
    const chip = new FakeChip(identity);
    const life = begin(chip);
    life.deliver(desired(1, release('good')));
    t.ok(await until(() => isAtRest(life, 1)));
    const looks = chip.looks;
    const looksAt: number[] = [];
    life.onFetch = () => {
      // In the pause that follows the fifth, the line is lost once.
      if (looksAt.push(chip.looks - looks) === 5) void nextTurn().then(() => chip.lose());
      throw new EdgeError('download/failed', 'the console is away', { subject: 'good@2' });
    };
    life.deliver(desired(2, release('good', '2')));
    t.ok(await until(() => looksAt.length === 6));
    t.same(looksAt, [0, 0, 0, 0, 0, 1]);
    t.ok(await until(() => conditionOf(life, 'Degraded')?.failure?.attempts === 6), 'and the pauses grow on');
    t.equal(conditionOf(life, 'Active')!.status, 'false');
    await stopped(life);
  },
);

t.test('a line that loses much fails no model', async (t) => {
  const [chip, disk, history] = [new FakeChip(identity), new Disk(), new History()];
  const life = begin(chip, disk, history);
  const interruptions = new Set<unknown>();
  let [opens, probes] = [0, 0];
  const lossy = (count: number) => {
    if (count <= 12) throw new EdgeError('mcu/timeout', 'no reply', { subject: 'chip' });
  };
  life.onOpen = () => lossy(++opens);
  life.onProbe = () => {
    for (const [key, count] of disk.values) if (key.startsWith('bakes.')) interruptions.add(count);
    lossy(++probes);
  };
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(life, 1)));
  t.match(life.reported!.targets.host!.active, { release: 'good@1', isConfirmed: true });
  t.same([...interruptions], [1], 'nor does it count as a machine that the model brings down');
  await stopped(life);
  t.same(history.faults, []);
});

t.test('chips that are silent keep no target behind them waiting', async (t) => {
  const before = [new FakeChip(identity), new FakeChip(identity), new FakeChip(identity)];
  // Longer than the pauses between looks at a board that is away.
  for (const chip of before) Object.assign(chip, { isAway: true, silentMs: 6000 });
  const life = new Life(new Disk(), new History(), never, 1, [], null, { before });
  life.deliver(desired(1, release('good')));
  t.ok(await until(() => isAtRest(life, 1)));
  await stopped(life);
});

t.test('what has failed on one target is taken back before another gets something new', async (t) => {
  const [chip, disk] = [new FakeChip(identity), new Disk()];
  const life = new Life(disk, new History(), never, 1, [], null, { after: [chip] });
  const first = { host: release('good'), 'chip-0': release('unfit') };
  life.onProbe = ({ folder }) => {
    const isOfChip = disk.artifacts.get(folder)!.model.sha256 === first['chip-0'].model.sha256;
    if (isOfChip) life.deliver(desiredOf(2, { ...first, host: release('good', '2') }));
  };
  life.deliver(desiredOf(1, first));
  const told = () => disk.events.map(({ type, target }) => `${type} ${target}`);
  const isDone = () => told().filter((text) => text === 'confirmed host').length === 2;
  t.ok(await until(isDone));
  const beforeTheNew = told().slice(0, told().lastIndexOf('fetched host'));
  t.ok(beforeTheNew.includes('reverted chip-0'), told().join(', '));
  t.equal(chip.activeImage, null);
  await stopped(life);
});

t.test(
  'power cuts at any call, resets and lost lines at any time: chip and link end with the same model',
  async (t) => {
    const rounds = Number(process.env.QUANTD_POWER_CUTS ?? 120);
    let [cuts, resets] = [0, 0];
    for (let round = 0; round < rounds; round++) {
      const random = new Random(seed + round);
      const [chip, disk, history] = [new FakeChip(identity), new Disk(), new History()];
      const likelihood = random.pick([0, 0.02, 0.05, 0.1]);
      const start = () => new Life(disk, history, () => random.next() < likelihood, 1, [], chip);
      let life = start();
      let document = desired(0, null);
      for (let edit = 1; edit <= 1 + random.below(4); edit++) {
        const behaviour: Behaviour = random.pick(['good', 'good', 'good', 'unfit', 'broken']);
        document = desired(edit, release(behaviour, random.pick(['1', '2', '3'])));
        life.deliver(document);
        for (let turn = random.below(150); turn > 0; turn--) {
          await nextTurn();
          const fate = random.below(60);
          if (fate === 0) chip.isAway = !chip.isAway;
          if (fate === 1) chip.lose();
          if (fate === 2) chip.reset();
          if (fate === 3 && random.below(8) === 0) chip.erase();
          if (fate === 2) resets++;
          if (!life.isDead || random.below(20) > 0) continue;
          cuts++;
          life = start();
          life.deliver(document);
        }
      }
      life.kill();
      chip.isAway = false;
      const last = begin(chip, disk, history);
      last.deliver(document);
      if (!(await until(() => isAtRest(last, document.generation)))) {
        t.fail(`round ${round}: no rest; ${JSON.stringify(last.reported, null, 1)}`);
        break;
      }
      const { release: wanted } = document.targets.host!;
      const { active } = last.reported!.targets.host!;
      if (wanted.id.startsWith('good') && active?.release !== wanted.id) t.fail(`round ${round}: ${active?.release}`);
      const isSame = chip.activeImage === (active?.artifactSha256 ?? null);
      if (!isSame || chip.isOnTrial) t.fail(`round ${round}: ${JSON.stringify([chip, active])}`);
      if (active !== null && !active.isConfirmed) t.fail(`round ${round}: not confirmed`);
      await stopped(last);
      t.same(history.faults, [], `round ${round}`);
      if (history.remade > 0) t.fail(`round ${round}: ${history.remade} finished artifacts were made again`);
    }
    t.comment(`${cuts} power cuts and ${resets} resets in ${rounds} rounds`);
    t.ok(cuts > rounds / 4 && resets > rounds / 4);
  },
);
