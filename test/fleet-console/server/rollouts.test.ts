/** Rollouts by a real console over real brokers: killed and started again anywhere, restored from an old database, told to stop. */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Database from 'better-sqlite3';
import t, { type Test } from 'tap';
import type { ConsoleClient } from '../../../fleet-console/client.js';
import type { DeviceDocument } from '../../../fleet-console/commands/devices.js';
import { ArtifactFolder } from '../../../fleet-console/server/artifacts.js';
import { AuditLog } from '../../../fleet-console/server/audit.js';
import { ConsoleDatabase } from '../../../fleet-console/server/database.js';
import { Fleet } from '../../../fleet-console/server/fleet.js';
import { RolloutStore } from '../../../fleet-console/server/rollout-store.js';
import {
  type RolloutAnswer,
  type RolloutDevices,
  type RolloutDocument,
  Rollouts,
} from '../../../fleet-console/server/rollouts.js';
import { ConsoleStore } from '../../../fleet-console/server/store.js';
import type { OverviewDocument } from '../../../fleet-console/server/view-api.js';
import { hasMosquitto, mosquittoBroker, type TestBroker, until } from '../../support/broker.js';
import { makeRelease, portOf, startConsole } from '../../support/console.js';
import { ConsoleProcess } from '../../support/console-process.js';
import { type Behaviour, SwiftDevice } from '../../support/rollout-device.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const kills = Number(process.env.QUANTD_CONSOLE_KILLS ?? 10);
const [before, after] = ['fire@1', 'fire@2'];

/** Devices d0 and so on, on two sites, that run the first release. */
async function fleetOn(
  console: { url: string; brokerUrl: string; client: ConsoleClient },
  behaviours: readonly Behaviour[],
): Promise<SwiftDevice[]> {
  const devices = behaviours.map(
    (behaviour, i) => new SwiftDevice(console.brokerUrl, `d${i}`, { site: i % 2 === 0 ? 'a' : 'b' }, behaviour),
  );
  for (const id of [before, after]) await makeRelease(console, id);
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: before });
  await until(
    async () => (await reportsOf(console.client, before)) === devices.length,
    'all run the first release',
    30_000,
  );
  return devices;
}

/** How many devices the console knows to run a release. */
async function reportsOf(client: ConsoleClient, release: string): Promise<number> {
  const { devices } = await client.get<{ devices: DeviceDocument[] }>('/v1/devices', { limit: 1000 });
  return devices.filter(({ reported }) => reported?.targets.host?.active?.release === release).length;
}

const rolloutOf = (client: ConsoleClient, id = 1) => client.get<RolloutDocument>(`/v1/rollouts/${id}`);
const statesOf = async (client: ConsoleClient, id = 1) =>
  (await client.get<RolloutDevices>(`/v1/rollouts/${id}/devices`)).devices;

async function statusBecomes(client: ConsoleClient, status: string, ms = 30_000): Promise<RolloutDocument> {
  await until(async () => (await rolloutOf(client).catch(() => null))?.status === status, `it is ${status}`, ms);
  return rolloutOf(client);
}

const policy = {
  stages: [{ name: 'canary', count: 1, bakeSeconds: 0.3 }, { percent: 50, bakeSeconds: 0.2 }, { percent: 100 }],
  disruption: { groupBy: 'site', maxUnavailable: 2 },
  gates: [{ metric: 'agreement', mostDrop: 0.02 }],
  onFail: 'rollback-all',
};

/** One rollout, with the console killed when devices have done so much since it was last started. Answers how often it was. */
async function rolloutThroughKills(
  t: Test,
  folder: string,
  random: Random,
  most: number,
  broker: TestBroker | null,
): Promise<number> {
  const process = await ConsoleProcess.open(folder, broker?.url ?? null);
  const client = await process.client();
  const console = { url: process.url, brokerUrl: process.brokerUrl, client };
  // One device of the last stage, or none, is what ends it.
  const isBad = random.next() < 0.5;
  const behaviours = Array.from({ length: 8 }, () => ({
    workMs: 20 + random.below(200),
    ...(isBad && random.next() < 0.25 ? { reverts: [after] } : {}),
  }));
  const hasBad = behaviours.some((behaviour) => behaviour.reverts !== undefined);
  const devices = await fleetOn(console, behaviours);
  let steps = 0;
  let killAt = 1 + random.below(6);
  let [killed, worst] = [0, 0];
  let killing: Promise<void> | null = null;
  const kill = async () => {
    // Within the time in which what was said is looked at, and written.
    await sleep(random.below(200));
    await process.kill();
    await process.start();
    steps = 0;
    killAt = 1 + random.below(6);
    killing = null;
  };
  for (const device of devices) {
    device.onStep = () => {
      for (const site of ['a', 'b'])
        worst = Math.max(worst, devices.filter(({ labels, isChanging }) => labels.site === site && isChanging).length);
      if (killed >= most || killing !== null || ++steps < killAt) return;
      killed++;
      killing = kill();
    };
  }
  await client.send('POST', '/v1/rollouts', { release: after, selector: 'all', policy }).catch((error) => {
    // It was killed while it answered: what was written counts.
    if (killing === null) throw error;
  });
  const end = hasBad ? 'rolled-back' : 'completed';
  const runs = hasBad ? before : after;
  await statusBecomes(client, end, 90_000);
  if (killing !== null) await killing;
  t.same([...new Set(devices.map(({ active }) => active))], [runs], `${killed} kills: all run ${runs}`);
  const allowed = hasBad ? [`${before}`, `${before},${after},${before}`] : [`${before},${after}`];
  t.same(
    devices.map(({ goals }) => goals.join()).filter((goals) => !allowed.includes(goals)),
    [],
    'no device was told more than it had to be',
  );
  t.ok(worst <= 2, `at most 2 of a site changed at a time: ${worst}`);
  const states = await statesOf(client);
  const told = states.filter(({ startedMs }) => startedMs !== null);
  t.same([...new Set(told.map(({ state }) => state))], [hasBad ? 'returned' : 'confirmed']);
  await Promise.all(devices.map((device) => device.close()));
  await process.stop();
  t.equal(process.stderr.replaceAll(/^warning: .*\n/gm, ''), '');
  return killed;
}

t.test(`the console is killed at ${kills} points of rollouts, which end as if it had not been`, async (t) => {
  const random = new Random(seed);
  let done = 0;
  for (let round = 0; done < kills; round++) {
    const broker = hasMosquitto && round % 3 === 2 ? await mosquittoBroker() : null;
    const folder = join(t.testdir(), 'fleet');
    done += await rolloutThroughKills(t, folder, random, Math.min(6, kills - done), broker);
    await broker?.stop();
  }
  t.comment(`${done} kills`);
});

t.test('a canary that measures 3 percent less agreement is taken back, and nobody else is told', async (t) => {
  const console = await startConsole(t.testdir());
  const worse = { workMs: 20, agreement: { [after]: 0.95 } };
  const devices = await fleetOn(console, [worse, worse, worse, worse]);
  const news: { status: string; reasons: { text: string }[] }[] = [];
  const abort = new AbortController();
  const listening = (async () => {
    for await (const { event, data } of console.client.events(abort.signal))
      if (event === 'rollout') news.push(data as (typeof news)[0]);
  })();
  await sleep(100);
  await console.client.send('POST', '/v1/rollouts', { release: after, selector: 'all', policy });
  const { reason } = await statusBecomes(console.client, 'rolled-back');
  t.match(reason, /1 of 1 devices of stage 1 \(canary\) failed, more than 0 percent; 1 returned/);
  t.equal(devices.filter(({ goals }) => goals.includes(after)).length, 1);
  t.same([...new Set(devices.map(({ active }) => active))], [before]);
  const canary = devices.find(({ goals }) => goals.includes(after))!;
  const answer = await console.client.get<RolloutAnswer>(`/v1/devices/${canary.id}/rollout`);
  t.match(answer, { state: 'returned', why: /went back to fire@1/ });
  t.match(
    answer.history.map(({ text }) => text).join('\n'),
    /GATE: agreement: 95 %, beyond at most 2 % below 98 % before/,
  );
  const texts = news.flatMap(({ reasons }) => reasons.map(({ text }) => text)).join('\n');
  t.match(texts, /told to run fire@2[\s\S]*failed, GATE[\s\S]*told to go back to fire@1[\s\S]*rolled-back/);
  abort.abort();
  await listening;
  await Promise.all(devices.map((device) => device.close()));
  await console.close();
});

t.test(
  'paused, nothing is told, whatever devices do; approved, it goes on; those that come later get it, too',
  async (t) => {
    const console = await startConsole(t.testdir());
    const devices = await fleetOn(console, Array(4).fill({ workMs: 20 }));
    const post = (command: string, body: object = {}) =>
      console.client.send<RolloutDocument>('POST', `/v1/rollouts/1/${command}`, body);
    await console.client.send('POST', '/v1/rollouts', {
      release: after,
      selector: 'all',
      policy: { stages: [{ count: 1, approval: true }, { percent: 100 }] },
    });
    await until(
      async () => /waits for approval/.test((await rolloutOf(console.client)).waitsFor),
      'the canary is done',
    );
    const told = () => devices.filter(({ goals }) => goals.includes(after)).length;
    t.equal(told(), 1);
    await post('pause', { because: 'lunch' });
    await t.rejects(post('approve'), { code: 'rollout/state' });
    await sleep(1500);
    t.equal(told(), 1);
    t.match(await rolloutOf(console.client), { status: 'paused', reason: 'lunch' });
    await post('resume');
    await post('approve', { because: 'looks good' });
    await statusBecomes(console.client, 'completed');
    t.equal(await reportsOf(console.client, after), 4);
    const late = new SwiftDevice(console.brokerUrl, 'late', {}, { workMs: 5 });
    await until(() => late.active === after, 'who comes later gets it');
    t.match(
      (await console.client.get<RolloutAnswer>('/v1/devices/late/rollout')).why,
      /it came after the rollout, which is completed/,
    );
    await post('rollback', { because: 'second thoughts' });
    await statusBecomes(console.client, 'rolled-back');
    await until(() => [...devices, late].every(({ active }) => active === before), 'all are back, the late one, too');
    await t.rejects(post('resume'), { code: 'rollout/state' });
    await Promise.all([...devices, late].map((device) => device.close()));
    await console.close();
  },
);

t.test('a step that cannot be written as a whole is not written at all, and is decided again', async (t) => {
  const folder = t.testdir();
  const warnings: string[] = [];
  const console = await startConsole(folder, {}, warnings);
  const devices = await fleetOn(console, Array(2).fill({ workMs: 20 }));
  const database = new Database(join(folder, 'fleet', 'fleet.db'));
  database.exec("CREATE TRIGGER refuse BEFORE INSERT ON pin BEGIN SELECT RAISE(ABORT, 'not now'); END");
  await console.client.send('POST', '/v1/rollouts', { release: after, selector: 'all' });
  await until(() => warnings.some((text) => /rollout 1 could not go on: .*not now/.test(text)), 'it is told');
  t.same(database.prepare('SELECT device FROM rollout_device').all(), [], 'nothing of the step is there');
  t.match((await rolloutOf(console.client)).reasons, [{ text: /^started/ }]);
  database.exec('DROP TRIGGER refuse');
  database.close();
  await statusBecomes(console.client, 'completed');
  t.same([...new Set(devices.map(({ goals }) => goals.join()))], [`${before},${after}`]);
  await Promise.all(devices.map((device) => device.close()));
  await console.close();
});

t.test('an abort is final; a later assignment replaces what the rollout left', async (t) => {
  const console = await startConsole(t.testdir());
  const devices = await fleetOn(console, Array(3).fill({ workMs: 20 }));
  const body = {
    release: after,
    selector: 'all',
    policy: { stages: [{ count: 1, bakeSeconds: 60 }, { percent: 100 }] },
  };
  await console.client.send('POST', '/v1/rollouts', body);
  await t.rejects(console.client.send('POST', '/v1/rollouts', body), { code: 'rollout/conflict' });
  await until(async () => (await reportsOf(console.client, after)) === 1, 'the canary');
  await console.client.send('POST', '/v1/rollouts/1/abort', {});
  for (const command of ['resume', 'rollback', 'pause', 'approve', 'abort'])
    await t.rejects(console.client.send('POST', `/v1/rollouts/1/${command}`, {}), { code: 'rollout/state' }, command);
  await sleep(300);
  t.equal(await reportsOf(console.client, after), 1);
  await makeRelease(console, 'fire@3');
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@3' });
  await until(async () => (await reportsOf(console.client, 'fire@3')) === 3, 'the newest wish holds on all');
  await Promise.all(devices.map((device) => device.close()));
  await console.close();
});

t.test(
  'devices that fall back after the end are failures of the rollout, and need somebody until that is over',
  async (t) => {
    const folder = t.testdir();
    let console = await startConsole(folder);
    const devices = await fleetOn(console, Array(3).fill({ workMs: 20 }));
    const [first, second] = devices as [SwiftDevice, SwiftDevice];
    await console.client.send('POST', '/v1/rollouts', { release: after, selector: 'all' });
    await statusBecomes(console.client, 'completed');
    const overview = () => console.client.get<OverviewDocument>('/v1/overview');
    t.same((await overview()).leftBehind, []);
    const stateOf = async (id: string) => (await statesOf(console.client)).find((device) => device.id === id)!;
    const fails = (id: string) => until(async () => (await stateOf(id)).state === 'failed', `${id} has failed`);

    first.fallBack(before);
    await fails('d0');
    const why = `it had confirmed ${after}, and runs ${before} now: it did not prove itself`;
    t.match((await stateOf('d0')).failure, { class: 'REVERTED', message: why });
    const answer = await console.client.get<RolloutAnswer>('/v1/devices/d0/rollout');
    t.match(answer, { rollout: 1, status: 'completed', state: 'failed' });
    t.match([answer.why, answer.history[0]!.text], [why, `failed, after the rollout was completed, REVERTED: ${why}`]);
    t.match(await rolloutOf(console.client), {
      status: 'completed',
      waitsFor: '3 confirmed; by now 2 confirmed, 1 failed',
    });
    const left = { id: 1, release: after, status: 'completed' };
    t.same((await overview()).leftBehind, [{ ...left, devices: 1, first: ['d0'] }]);

    t.comment('the same while no console was there');
    await console.close();
    second.fallBack(before);
    console = await startConsole(folder);
    for (const device of devices) await device.move(console.brokerUrl);
    await fails('d1');
    t.same((await overview()).leftBehind, [{ ...left, devices: 2, first: ['d0', 'd1'] }]);

    t.comment('one recovers, the other gets something else: neither needs anybody');
    first.recover();
    await until(async () => (await stateOf('d0')).state === 'confirmed', 'its success is taken back in');
    await makeRelease(console, 'fire@3');
    await console.client.send('POST', '/v1/assignments', { selector: 'device=d1', release: 'fire@3' });
    await until(async () => (await stateOf('d1')).state === 'superseded', 'it is no business of the rollout any more');
    t.same((await overview()).leftBehind, []);
    await sleep(500);
    t.same(
      (await statesOf(console.client)).map(({ state }) => state),
      ['confirmed', 'superseded', 'confirmed'],
    );
    t.same(
      devices.map(({ goals }) => goals.join()),
      [`${before},${after}`, `${before},${after},fire@3`, `${before},${after}`],
    );
    await Promise.all(devices.map((device) => device.close()));
    await console.close();
  },
);

t.test('what a device had said when the console was killed is taken over by the next one', async (t) => {
  const folder = t.testdir();
  let console = await startConsole(folder);
  const devices = await fleetOn(console, Array(2).fill({ workMs: 20 }));
  await console.client.send('POST', '/v1/rollouts', { release: after, selector: 'all' });
  await statusBecomes(console.client, 'completed');
  await Promise.all(devices.map((device) => device.close()));
  await console.close();
  // The console has stored a report, and gone before anything came of it; the device says nothing more.
  const database = new Database(join(folder, 'fleet', 'fleet.db'));
  database
    .prepare(`UPDATE device SET reported = json_set(reported, '$.targets.host.active.release', ?) WHERE id = 'd0'`)
    .run(before);
  database.close();
  console = await startConsole(folder);
  const states = async () => (await statesOf(console.client)).map(({ state }) => state);
  await until(async () => (await states())[0] === 'failed', 'the rollout knows of it', 5000);
  t.same(await states(), ['failed', 'confirmed']);
  await console.close();
});

t.test(
  'restored from an hour ago: devices that are newer are marked, the rollout pauses, nobody is downgraded',
  async (t) => {
    const folder = t.testdir();
    let console = await startConsole(folder);
    const ports = { http: { port: portOf(console.url) }, broker: { port: portOf(console.brokerUrl) } };
    const devices = await fleetOn(console, Array(6).fill({ workMs: 20 }));
    const body = {
      release: after,
      selector: 'all',
      policy: { stages: [{ count: 1, approval: true }, { percent: 100 }] },
    };
    await console.client.send('POST', '/v1/rollouts', body);
    await until(
      async () => /waits for approval/.test((await rolloutOf(console.client)).waitsFor),
      'the canary is done',
    );
    await console.close();
    copyFileSync(join(folder, 'fleet', 'fleet.db'), join(folder, 'backup.db'));
    console = await startConsole(folder, ports);
    await until(
      () =>
        console.client.send('POST', '/v1/rollouts/1/approve', {}).then(
          () => true,
          () => false,
        ),
      'approved',
    );
    await statusBecomes(console.client, 'completed');
    await makeRelease(console, 'fire@3');
    const canary = (await statesOf(console.client)).find(({ stage }) => stage === 0)!.id;
    const lone = devices.find(({ id }) => id !== canary)!;
    await console.client.send('POST', '/v1/assignments', { selector: `device=${lone.id}`, release: 'fire@3' });
    await until(() => lone.active === 'fire@3', 'one runs what the backup does not know');
    await console.close();

    copyFileSync(join(folder, 'backup.db'), join(folder, 'fleet', 'fleet.db'));
    const goals = devices.map((device) => device.goals.join());
    console = await startConsole(folder, ports);
    const { reason } = await statusBecomes(console.client, 'paused');
    t.match(reason, /orders newer than this database, which was restored/);
    const ahead = async () => {
      const { devices: list } = await console.client.get<{ devices: DeviceDocument[] }>('/v1/devices');
      return list.filter(({ isAhead }) => isAhead).map(({ id }) => id);
    };
    await until(async () => (await ahead()).length === 5, 'all but the canary are ahead');
    await sleep(1500);
    t.same(
      devices.map((device) => device.goals.join()),
      goals,
      'nobody was told anything',
    );
    await t.rejects(console.client.send('POST', '/v1/rollouts/1/resume', {}), { code: 'rollout/state' });

    const [first, ...rest] = (await ahead()).filter((id) => id !== lone.id);
    await t.rejects(console.client.send('POST', `/v1/devices/${lone.id}/adopt?take=device`, {}), {
      code: 'release/unknown',
      subject: 'fire@3',
    });
    for (const id of rest) await console.client.send('POST', `/v1/devices/${id}/adopt?take=device`, {});
    await makeRelease(console, 'fire@3');
    await console.client.send('POST', `/v1/devices/${lone.id}/adopt?take=device`, {});
    await console.client.send('POST', `/v1/devices/${first}/adopt`, {});
    t.same(await ahead(), []);
    const downgraded = devices.find(({ id }) => id === first)!;
    await until(() => downgraded.active === before, 'the one for which the console was chosen');
    t.same(
      devices.filter(({ id }) => id !== first).map(({ goals }) => goals.join()),
      goals.filter((_, index) => devices[index]!.id !== first),
      'the others keep what they run',
    );
    await Promise.all(devices.map((device) => device.close()));
    await console.close();
  },
);

t.test('a rollout that is refused takes from no other one what that has made of the devices', async (t) => {
  const database = new ConsoleDatabase(':memory:');
  const audit = new AuditLog(database, () => {});
  let reads = 0;
  class CountingStore extends ConsoleStore {
    override device(id: string) {
      // So long that a look at all of them takes several turns.
      for (const until = performance.now() + 1; performance.now() < until; );
      reads++;
      return super.device(id);
    }
  }
  const store = new CountingStore(database, { events: 10, results: 10 }, () => {});
  const fleet = new Fleet(store, new ArtifactFolder(t.testdir()), audit);
  const rollouts = new Rollouts(store, new RolloutStore(database, 10), fleet, {
    audit,
    announce: () => {},
    warn: t.fail,
  });
  const count = 100;
  const targets = { host: { kind: 'ort', identity: {} } };
  const about = {
    session: 1,
    agentVersion: '0',
    hardwareClass: 'x',
    targets,
    labels: {},
    time: new Date(0).toISOString(),
  };
  for (let i = 0; i < count; i++) store.putBirth({ schema: 'quantd/birth/1', device: `d${i}`, ...about });
  const model = { sha256: '0'.repeat(64), sizeBytes: 1, manifestSha256: '0'.repeat(64) };
  store.putRelease({ id: after, model, card: null });
  const by = { name: 'ada', role: 'operator' } as const;
  const nobody = { release: after, selector: 'site=nowhere', target: 'host', policy: {} };
  const refused = await Promise.allSettled([rollouts.begin(nobody, by), rollouts.begin(nobody, by)]);
  t.same(
    refused.map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  t.equal(reads, count, 'each device was looked at once');
  await t.rejects(rollouts.begin(nobody, by));
  t.equal(reads, 2 * count, 'nothing is kept for nobody');
  rollouts.stop();
  fleet.close();
  database.close();
});
