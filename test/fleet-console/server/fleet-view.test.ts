/** The fleet as lists and numbers, against counting every device anew. */
import t, { type Test } from 'tap';
import type { Measurements, ReportedState } from '../../../configs/contracts/device.js';
import { deviceStates, standingOf } from '../../../fleet-console/device-state.js';
import { matches, parseSelector } from '../../../fleet-console/selector.js';
import { ArtifactFolder } from '../../../fleet-console/server/artifacts.js';
import { AuditLog } from '../../../fleet-console/server/audit.js';
import { ConsoleDatabase } from '../../../fleet-console/server/database.js';
import { DeviceViews } from '../../../fleet-console/server/device-views.js';
import { Fleet } from '../../../fleet-console/server/fleet.js';
import { type DevicePage, FleetView } from '../../../fleet-console/server/fleet-view.js';
import { ConsoleStore, type DeviceRecord, viewOf } from '../../../fleet-console/server/store.js';
import { until } from '../../support/broker.js';
import { makeRelease, startConsole } from '../../support/console.js';
import { fleet as command } from '../../support/fleet-command.js';
import { PlainDevice } from '../../support/plain-device.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const time = new Date(0).toISOString();
const releases = ['a@1', 'a@2', 'b@1'];

function measured(latency: number): Measurements {
  return {
    latency: { unit: 'ms', float: null, int8: null, predicted: null, measured: latency },
    quality: { samples: 0, floatTop1: null, int8Top1: null, top1: null, agreement: null, kl: null },
    sizeBytes: null,
    ramBytes: null,
    averageWeightBits: null,
    averageActivationBits: null,
  };
}

/** A store with a fleet in it that goes on changing. */
class ChangingFleet {
  readonly store: ConsoleStore;
  readonly fleet: Fleet;
  readonly view: FleetView;
  readonly #random: Random;
  readonly #sequences = new Map<string, number>();

  constructor(folder: string, random: Random) {
    this.#random = random;
    const database = new ConsoleDatabase(':memory:');
    const tellNobody = () => {};
    this.store = new ConsoleStore(database, { events: 1000, results: 1000 }, tellNobody);
    this.fleet = new Fleet(this.store, new ArtifactFolder(folder), new AuditLog(database, tellNobody));
    this.view = new FleetView(this.store, this.fleet);
  }

  readonly birth = (id: string): void => {
    const random = this.#random;
    this.store.putBirth({
      schema: 'quantd/birth/1',
      device: id,
      session: 1,
      agentVersion: '0',
      hardwareClass: random.pick(['Pi', 'Jetson', 'x86']),
      targets: { host: { kind: 'ort', identity: {} } },
      labels: { group: random.pick(['g', 'h']), site: random.pick(['North', 'South']) },
      time,
    });
  };

  /** One device is born, goes, comes, or says something. */
  change(most: number): void {
    const random = this.#random;
    const id = `d${random.below(most)}`;
    const kind = random.below(3);
    if (this.store.device(id) === null || random.next() < 0.1) this.birth(id);
    else if (kind === 0) this.store.putOnline(id, random.next() < 0.7, 1);
    else if (kind === 1) {
      const release = {
        id: random.pick(releases),
        model: { sha256: '0'.repeat(64), sizeBytes: 1, manifestSha256: '0'.repeat(64) },
        card: null,
      };
      this.store.putDesired(id, { host: { release, budget: {} } });
    } else this.store.putReported(this.#report(id));
    this.fleet.emit('device', id);
  }

  #report(id: string): ReportedState {
    const random = this.#random;
    const sequence = (this.#sequences.get(id) ?? 0) + 1;
    this.#sequences.set(id, sequence);
    const artifact = () => ({
      release: random.pick(releases),
      modelSha256: '0'.repeat(64),
      artifactSha256: '0'.repeat(64),
      planDigest: '',
      budget: {},
      isConfirmed: random.next() < 0.7,
      measurements: measured(1 + random.below(20)),
      result: '0'.repeat(64),
      since: time,
    });
    const types = ['Accepted', 'Confirmed', 'Degraded', 'RolledBack', 'BudgetInfeasible', 'Active'] as const;
    return {
      schema: 'quantd/reported/1',
      device: id,
      session: 1,
      sequence,
      observedGeneration: random.below(4),
      targets: {
        host: {
          active: random.next() < 0.8 ? artifact() : null,
          previous: random.next() < 0.5 ? artifact() : null,
          step: null,
          frontier: [],
          secondsToActive: null,
          hasReprofiled: null,
        },
      },
      conditions: types
        .filter(() => random.next() < 0.3)
        .map((type) => ({
          target: null,
          type,
          status: random.next() < 0.6 ? 'true' : 'false',
          reason: 'x',
          message: 'm',
          time,
        })),
      outbox: { messages: 0, bytes: 0, dropped: 0 },
      time,
    };
  }
}

function textsOf({ id, birth, reported, desired }: DeviceRecord): string[] {
  const running = Object.values(reported?.targets ?? {}).map(({ active }) => active?.release ?? '');
  const wanted = Object.values(desired?.targets ?? {}).map(({ release }) => release.id);
  return [id, birth.hardwareClass, ...Object.values(birth.labels), ...running, ...wanted];
}

t.test('a view that cannot be made is made the next time, and what was made before it is in order', async (t) => {
  const { store, fleet, birth } = new ChangingFleet(t.testdir(), new Random(seed));
  for (const id of ['b', 'd', 'c']) birth(id);
  let failing = '';
  const views = new DeviceViews(store, fleet, ({ id, isOnline }) => {
    if (id === failing) throw new Error('not now');
    return isOnline;
  });
  t.same(
    [...(await views.fresh())],
    [
      ['b', true],
      ['c', true],
      ['d', true],
    ],
  );
  for (const id of ['d', 'a', 'c']) {
    birth(id);
    store.putOnline(id, false, 1);
  }
  failing = 'c';
  for (const id of ['d', 'a', 'c']) fleet.emit('device', id);
  t.throws(() => views.now(), { message: 'not now' });
  await t.rejects(views.fresh(), { message: 'not now' });
  failing = '';
  const all = [
    ['a', false],
    ['b', true],
    ['c', false],
    ['d', false],
  ];
  t.same([...views.now()], all);
  t.same([...(await views.fresh())], all);
  views.close();
});

t.test('counts, lists and pages say what counting every device says, while devices change', async (t) => {
  const random = new Random(seed);
  const changing = new ChangingFleet(t.testdir(), random);
  const { store, view } = changing;
  for (let round = 0; round < 40; round++) {
    for (let change = 0; change < 20; change++) changing.change(60);
    const all = store.devices();
    const [overview, again] = await Promise.all([view.overview(), view.overview()]);
    t.same(again, overview, 'two who ask at once');
    t.equal(overview.devices, all.length);
    t.equal(overview.online, all.filter(({ isOnline }) => isOnline).length);
    for (const state of deviceStates) {
      const count = all.filter((device) => standingOf(device).state === state).length;
      t.equal(overview.states[state], count, state);
      const inClasses = overview.classes.reduce((sum, { states }) => sum + states[state], 0);
      t.equal(inClasses, count, `${state}, over the classes`);
    }
    for (const release of releases) {
      const share = overview.releases.find((entry) => entry.release === release);
      const active = all.filter(({ reported }) => reported?.targets.host?.active?.release === release);
      t.equal(share?.active ?? 0, active.length);
      t.equal(
        share?.confirmed ?? 0,
        active.filter(({ reported }) => reported!.targets.host!.active!.isConfirmed).length,
      );
      t.equal(share?.wanted ?? 0, all.filter(({ desired }) => desired?.targets.host?.release.id === release).length);
    }
    for (const { state, devices, first } of overview.attention) {
      t.equal(devices, overview.states[state]);
      t.ok(first.length > 0 && first.every((device) => device.state === state));
    }
    await checkLists(t, all, view, random);
    await checkComparison(t, all, view);
  }
});

async function checkLists(t: Test, all: readonly DeviceRecord[], view: FleetView, random: Random): Promise<void> {
  const query = {
    selector: random.pick(['all', 'group=g', 'site=North,group=h', 'device=d3']),
    search: random.pick(['', 'd1', 'NORTH', 'jet', 'a@2', 'nothing']),
    ...(random.next() < 0.4 ? { state: random.pick(deviceStates) } : {}),
    ...(random.next() < 0.3 ? { hardwareClass: random.pick(['Pi', 'absent']) } : {}),
    ...(random.next() < 0.3 ? { release: random.pick(releases) } : {}),
  };
  const expected = all
    .filter((device) => matches(parseSelector(query.selector), viewOf(device)))
    .filter((device) => textsOf(device).some((text) => text.toLowerCase().includes(query.search.toLowerCase())))
    .filter((device) => query.state === undefined || standingOf(device).state === query.state)
    .filter(({ birth }) => query.hardwareClass === undefined || birth.hardwareClass === query.hardwareClass)
    .filter((device) => query.release === undefined || textsOf(device).includes(query.release))
    .map(({ id }) => id);
  const found: string[] = [];
  const limit = 1 + random.below(10);
  for (let after: string | null = ''; after !== null; ) {
    const page: DevicePage = await view.devices({ ...query, after, limit });
    t.equal(page.total, expected.length);
    t.ok(page.devices.length <= limit);
    found.push(...page.devices.map(({ id }) => id));
    after = page.next;
  }
  t.same(found, expected, JSON.stringify(query));
}

async function checkComparison(t: Test, all: readonly DeviceRecord[], view: FleetView): Promise<void> {
  const expected = all.flatMap(({ id, reported }) => {
    const { active, previous } = reported?.targets.host ?? { active: null, previous: null };
    const both = [active?.release, previous?.release];
    return both.includes('a@1') && both.includes('a@2') ? [id] : [];
  });
  const compared = await view.compare('a@1', 'a@2', 'all');
  t.same(
    compared.map(({ device }) => device),
    expected,
  );
  for (const { device, base } of compared) {
    const { active, previous } = all.find(({ id }) => id === device)!.reported!.targets.host!;
    t.same(base, [active, previous].find((artifact) => artifact?.release === 'a@1')!.measurements);
  }
}

t.test('ten thousand devices are counted and searched without reading them again', async (t) => {
  const changing = new ChangingFleet(t.testdir(), new Random(seed));
  const { store, view } = changing;
  store.atomically(() => {
    for (let index = 0; index < 10_000; index++) {
      store.putBirth({
        schema: 'quantd/birth/1',
        device: `d${String(index).padStart(5, '0')}`,
        session: 1,
        agentVersion: '0',
        hardwareClass: `class ${index % 7}`,
        targets: { host: { kind: 'ort', identity: {} } },
        labels: { group: `g${index % 3}` },
        time,
      });
    }
  });
  let turns = 0;
  let turn = setImmediate(function next() {
    turns++;
    turn = setImmediate(next);
  });
  await view.overview();
  clearImmediate(turn);
  // No machine reads them in less than three slices.
  t.ok(turns >= 3, `others were served ${turns} times while all were read for the first time`);
  const started = performance.now();
  const rounds = 20;
  for (let round = 0; round < rounds; round++) {
    changing.fleet.emit('device', 'd05000');
    t.equal((await view.overview()).devices, 10_000);
    t.equal((await view.devices({ search: 'd0999', limit: 50 })).total, 10);
  }
  const meanMs = (performance.now() - started) / rounds;
  t.comment(`${meanMs.toFixed(1)} ms for an overview and a search`);
  // Reading and parsing all of them takes ten times as long; that a machine is busy must not fail this.
  t.ok(meanMs < 500);
});

t.test('the API and the command tell the same: overview, history, budgets, comparison', async (t) => {
  const console = await startConsole(t.testdir());
  const devices = await Promise.all(
    ['d1', 'd2'].map((id, index) =>
      new PlainDevice(id, { labels: { group: 'g' }, hardwareClass: 'Pi', seed: index + 1 }).open(console.brokerUrl),
    ),
  );
  for (const id of ['fire@1', 'fire@2']) {
    await makeRelease(console, id);
    await console.client.send('POST', '/v1/assignments', { selector: 'all', release: id });
    await until(() => devices.every(({ active }) => active === id), `${id} runs`);
  }
  const overview = () => console.client.get<{ states: { confirmed: number } }>('/v1/overview');
  await until(async () => (await overview()).states.confirmed === 2, 'both are confirmed');
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await command(console.url, ...args);
    t.equal(code, 0, stderr);
    return stdout;
  };
  t.match(await run('overview'), /2 devices, 2 online: 2 confirmed[\s\S]*Pi +2 +2 confirmed[\s\S]*fire@2 +2 +2 +2/);
  t.same(JSON.parse(await run('overview', '--json')), await overview());

  const page = await console.client.get<{ events: { number: number }[]; next: number | null }>('/v1/history', {
    device: 'd1',
    limit: 2,
  });
  t.equal(page.events.length, 2);
  const older = await console.client.get<typeof page>('/v1/history', { device: 'd1', limit: 2, before: page.next! });
  t.ok(older.events.every(({ number }) => number < page.events[1]!.number));
  t.match(await run('history', '--device', 'd1', '--limit', '1'), /d1\/host +confirmed +fire@2, [\d.]+ ms\s*$/);

  for (const budget of ['latency=12ms', 'latency=20ms']) await run('budget', 'set', 'group=g', budget);
  t.match(await run('budget', 'list'), /group=g +latency=20ms[\s\S]*group=g +latency=12ms/);
  t.match(await run('release', 'compare', 'fire@1', 'fire@2'), /d1\/host +[\d.]+ ms -> [\d.]+ ms[\s\S]*d2\/host/);
  const none = await console.client.get<{ targets: unknown[] }>('/v1/comparisons', { base: 'fire@1', other: 'no@1' });
  t.same(none.targets, []);
  await Promise.all(devices.map((device) => device.close()));
  await console.close();
});

t.test('what-if names the reasons of each class, and no more devices than are asked for', async (t) => {
  const console = await startConsole(t.testdir());
  const devices = await Promise.all(
    ['d1', 'd2', 'd3'].map((id) => new PlainDevice(id, { hardwareClass: 'Pi', int8Ms: 10 }).open(console.brokerUrl)),
  );
  await makeRelease(console, 'fire@1');
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@1' });
  const states = async () => (await console.client.get<{ states: { confirmed: number } }>('/v1/overview')).states;
  await until(async () => (await states()).confirmed === 3, 'all run it');
  const ask = (body: object) =>
    console.client.send<{ total: number; devices: unknown[]; classes: unknown[] }>('POST', '/v1/budgets/what-if', {
      selector: 'all',
      budget: { latencyMs: 1 },
      ...body,
    });
  t.equal((await ask({})).devices.length, 3);
  t.match(await ask({ mostDevices: 1 }), {
    total: 3,
    devices: [{ id: 'd1', verdict: 'infeasible' }],
    classes: [
      {
        hardwareClass: 'Pi',
        verdicts: { infeasible: 3 },
        reasons: [{ verdict: 'infeasible', targets: 3, device: 'd1' }],
      },
    ],
  });
  await Promise.all(devices.map((device) => device.close()));
  await console.close();
});
