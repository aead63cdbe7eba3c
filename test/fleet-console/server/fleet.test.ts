/** Wishes become desired documents on real brokers, through restarts of everything, hostile devices and restored databases. */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Database from 'better-sqlite3';
import { connectAsync } from 'mqtt';
import t from 'tap';
import { type DesiredState, type DeviceEvent, type DeviceResult, topicsOf } from '../../../configs/contracts/device.js';
import type { DeviceDocument } from '../../../fleet-console/commands/devices.js';
import { freePort, hasMosquitto, Listener, mosquittoBroker, until } from '../../support/broker.js';
import { FakeDevice, makeRelease, portOf, startConsole } from '../../support/console.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const time = '2026-01-01T00:00:00Z';

t.test(
  'a release reaches the devices that its selector names, those that are there and those that come later',
  async (t) => {
    const console = await startConsole(t.testdir());
    const drone = await FakeDevice.open(console.brokerUrl, 'drone-1', { labels: { group: 'drones' } });
    const other = await FakeDevice.open(console.brokerUrl, 'gateway-1');
    await makeRelease(console, 'fire@1');
    await until(
      async () => (await console.client.get<{ devices: unknown[] }>('/v1/devices')).devices.length === 2,
      'both are known',
    );
    const { devices } = await console.client.send<{ devices: string[] }>('POST', '/v1/assignments', {
      selector: 'group=drones',
      release: 'fire@1',
    });
    t.same(devices, ['drone-1']);
    await until(() => drone.last !== undefined, 'the drone is told');
    t.match(drone.last, {
      device: 'drone-1',
      generation: 1,
      targets: { host: { release: { id: 'fire@1' }, budget: {} } },
    });
    const later = await FakeDevice.open(console.brokerUrl, 'drone-2', { labels: { group: 'drones' } });
    await until(() => later.last !== undefined, 'the later drone is told');
    t.same(other.desired, []);
    await Promise.all([drone, other, later].map((device) => device.close()));
    await console.close();
  },
);

t.test('generations rise with every change and with nothing else', async (t) => {
  const console = await startConsole(t.testdir());
  const device = await FakeDevice.open(console.brokerUrl, 'd1');
  await makeRelease(console, 'fire@1');
  const assign = () => console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@1' });
  const set = (selector: string, budget: object) => console.client.send('PUT', '/v1/budgets', { selector, budget });
  await until(
    async () => (await console.client.get<{ devices: unknown[] }>('/v1/devices')).devices.length === 1,
    'it is known',
  );
  await assign();
  await assign();
  await set('all', { latencyMs: 5 });
  await set('all', { latencyMs: 5 });
  await set('group=nobody', { latencyMs: 1 });
  await set('device=d1', { latencyMs: 2 });
  await set('all', { latencyMs: 9 });
  await until(() => device.last?.generation === 3, 'three changes');
  await sleep(100);
  t.same(
    device.desired
      .map(({ generation, targets }) => [generation, targets.host!.budget.latencyMs])
      .filter(([, ms], i, all) => i === 0 || ms !== all[i - 1]![1]),
    [
      [1, undefined],
      [2, 5],
      [3, 2],
    ],
  );
  t.match(await console.client.get('/v1/budgets?selector=device%3Dd1'), {
    budget: { latencyMs: 2 },
    devices: [{ id: 'd1', budget: { latencyMs: 2 }, rule: 'device=d1' }],
  });
  await device.close();
  await console.close();
});

t.test('a device that is away through five edits finds the last one only', async (t) => {
  const console = await startConsole(t.testdir());
  const first = await FakeDevice.open(console.brokerUrl, 'd1');
  await makeRelease(console, 'fire@1');
  await until(
    async () => (await console.client.get<{ devices: unknown[] }>('/v1/devices')).devices.length === 1,
    'it is known',
  );
  await first.close();
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@1' });
  for (let ms = 1; ms <= 4; ms++)
    await console.client.send('PUT', '/v1/budgets', { selector: 'all', budget: { latencyMs: ms } });
  await sleep(100);
  const again = await FakeDevice.open(console.brokerUrl, 'd1', { session: 2 });
  await until(() => again.desired.length > 0, 'it is told');
  await sleep(100);
  t.same([...new Set(again.desired.map(({ generation }) => generation))], [5]);
  t.equal(again.last!.targets.host!.budget.latencyMs, 4);
  await again.close();
  await console.close();
});

t.test('the console restarts, broker and all: a fresh broker is filled from the database', async (t) => {
  const folder = t.testdir();
  let console = await startConsole(folder);
  const ports = { http: { port: portOf(console.url) }, broker: { port: portOf(console.brokerUrl) } };
  const device = await FakeDevice.open(console.brokerUrl, 'd1');
  await makeRelease(console, 'fire@1');
  await until(
    async () => (await console.client.get<{ devices: unknown[] }>('/v1/devices')).devices.length === 1,
    'it is known',
  );
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@1' });
  await until(() => device.last?.generation === 1, 'told');
  await device.close();
  for (let restart = 2; restart < 5; restart++) {
    await console.close();
    console = await startConsole(folder, ports);
    await console.client.send('PUT', '/v1/budgets', { selector: 'all', budget: { latencyMs: restart } });
    // Without asking for it, the device sees what the new broker retains for it.
    const witness = await Listener.open({ url: console.brokerUrl }, device.topics.desired, { clientId: 'd1' });
    await until(
      () => witness.of<DesiredState>('/desired').some(({ generation }) => generation === restart),
      `generation ${restart} is retained`,
    );
    await witness.close();
  }
  t.match(await console.client.get<{ results: unknown[] }>('/v1/releases'), { releases: [{ id: 'fire@1' }] });
  await console.close();
});

t.test(
  'with Mosquitto: the broker restarts with nothing kept, then console and broker together',
  { skip: hasMosquitto ? false : 'mosquitto is not installed' },
  async (t) => {
    const folder = t.testdir();
    const broker = await mosquittoBroker();
    const values = { broker: { embedded: false }, mqtt: { url: broker.url } };
    let console = await startConsole(folder, values);
    const device = await FakeDevice.open(broker.url, 'd1');
    await makeRelease(console, 'fire@1');
    await until(
      async () => (await console.client.get<{ devices: unknown[] }>('/v1/devices')).devices.length === 1,
      'it is known',
    );
    await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@1' });
    await until(() => device.last?.generation === 1, 'told');
    const retained = async (generation: number) => {
      const witness = await FakeDevice.open(broker.url, 'witness');
      await witness.client.subscribeAsync(device.topics.desired, { qos: 1 });
      await until(
        () => witness.desired.some((document) => document.device === 'd1' && document.generation === generation),
        `generation ${generation} is retained`,
      );
      await witness.close();
    };
    await broker.stop();
    await console.client.send('PUT', '/v1/budgets', { selector: 'all', budget: { latencyMs: 2 } });
    await broker.start();
    await retained(2);
    await console.close();
    await broker.stop();
    await broker.start();
    console = await startConsole(folder, values);
    await retained(2);
    await device.close();
    await console.close();
    await broker.stop();
  },
);

const eventOf = (device: string, sequence: number): DeviceEvent => ({
  schema: 'quantd/event/1',
  device,
  session: 1,
  sequence,
  target: null,
  type: 'x',
  message: String(sequence),
  generation: 0,
  time,
});

/** Sequences of all events that a console has. */
async function eventsOf(url: string, last: number): Promise<number[]> {
  const abort = new AbortController();
  const response = await fetch(`${url}/v1/events`, { headers: { 'last-event-id': '0' }, signal: abort.signal });
  const reader = response.body!.getReader();
  let text = '';
  const timer = setTimeout(() => abort.abort(), 10_000);
  try {
    while (!text.includes(`"message":"${last}"`)) text += Buffer.from((await reader.read()).value!).toString();
  } catch {
    // It never came: what is missing shows.
  }
  clearTimeout(timer);
  abort.abort();
  return [...text.matchAll(/"message":"(\d+)"/g)].map(([, sequence]) => Number(sequence));
}

t.test(
  'with Mosquitto: what devices send while the console is away reaches it when it is back',
  { skip: hasMosquitto ? false : 'mosquitto is not installed' },
  async (t) => {
    const folder = t.testdir();
    const broker = await mosquittoBroker();
    const values = { broker: { embedded: false }, mqtt: { url: broker.url } };
    const device = await FakeDevice.open(broker.url, 'd1');
    await device.report(3, 1);
    let console = await startConsole(folder, values);
    await until(
      // Not known at all counts as not reported.
      async () =>
        ((await console.client.get<DeviceDocument>('/v1/devices/d1').catch(() => null))?.reported ?? null) !== null,
      'what is retained of a device is taken, whatever the order on the broker',
    );
    t.equal((await console.client.get<DeviceDocument>('/v1/devices/d1')).reported!.sequence, 1);
    for (let sequence = 1; sequence <= 10; sequence++) {
      if (sequence === 3) await console.close();
      await device.say('event', eventOf('d1', sequence));
    }
    console = await startConsole(folder, values);
    t.same(await eventsOf(console.url, 10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    await device.close();
    await console.close();
    await broker.stop();
  },
);

t.test('a device that connects before the console listens is let in when it does', async (t) => {
  for (let round = 0; round < 5; round++) {
    const [folder, port] = [t.testdir(), await freePort()];
    const early = (async () => {
      for (;;) {
        const client = await connectAsync(
          `mqtt://127.0.0.1:${port}`,
          { protocolVersion: 5, clientId: 'd1' },
          false,
        ).catch(() => null);
        if (client === null) continue;
        const topic = topicsOf('quantd', 'default', 'd1').event;
        await client.publishAsync(topic, JSON.stringify(eventOf('d1', 1)), { qos: 1 });
        return client;
      }
    })();
    const console = await startConsole(folder, { broker: { port } });
    const client = await early;
    t.same(await eventsOf(console.url, 1), [1]);
    await client.endAsync(true);
    await console.close();
  }
});

t.test('an event that cannot be stored is not acknowledged, and is stored when it can be', async (t) => {
  const folder = t.testdir();
  const warnings: string[] = [];
  const console = await startConsole(folder, {}, warnings);
  const device = await FakeDevice.open(console.brokerUrl, 'd1');
  await device.say('event', eventOf('d1', 1));
  await until(async () => (await eventsOf(console.url, 1)).length === 1, 'stored');
  // Another process holds the database for longer than is waited for.
  const other = new Database(join(folder, 'fleet', 'fleet.db'));
  other.exec('BEGIN IMMEDIATE');
  let isAcknowledged = false;
  const second = device.say('event', eventOf('d1', 2)).then(() => {
    isAcknowledged = true;
  });
  await until(() => warnings.some((text) => text.includes('could not be stored')), 'it is told', 30_000);
  t.notOk(isAcknowledged);
  other.exec('ROLLBACK');
  other.close();
  await second;
  await device.say('event', eventOf('d1', 3));
  await until(async () => (await eventsOf(console.url, 3)).length === 3, 'all are there', 60_000);
  t.same((await eventsOf(console.url, 3)).sort(), [1, 2, 3]);
  await device.close();
  await console.close();
});

t.test('a broker that others can reach asks for the token, and is not opened without one', async (t) => {
  const folder = t.testdir({ token: 'a long enough token' });
  await t.rejects(startConsole(folder, { broker: { host: '0.0.0.0' } }), {
    code: 'settings/insecure',
    subject: 'broker.host',
  });
  const tokenFile = join(folder, 'token');
  const console = await startConsole(folder, { broker: { host: '0.0.0.0' }, http: { tokenFile } });
  const url = `mqtt://127.0.0.1:${portOf(console.brokerUrl)}`;
  const options = { protocolVersion: 5 as const, clientId: 'd1', username: 'd1' };
  for (const password of [undefined, '', 'a wrong enough token'])
    await t.rejects(connectAsync(url, { ...options, ...(password === undefined ? {} : { password }) }, false));
  const client = await connectAsync(url, { ...options, password: 'a long enough token' }, false);
  await client.endAsync(true);
  await console.close();
});

t.test('a release whose card is too large to tell devices is refused when it is made', async (t) => {
  const console = await startConsole(t.testdir());
  const { model } = await makeRelease(console, 'fire@1');
  const card = {
    input: { name: 'x', layout: 'NCHW', shape: [1, 3, 8, 8] },
    preprocess: {},
    task: 'classification',
    classes: Array.from({ length: 10_000 }, (_, index) => `class ${index}`),
  };
  await t.rejects(
    console.client.send('POST', '/v1/releases', { id: 'fire@2', model: { sha256: model.sha256 }, card }),
    {
      code: 'card/invalid',
    },
  );
  await console.close();
});

t.test('results and events that come twice count once', async (t) => {
  const console = await startConsole(t.testdir());
  const device = await FakeDevice.open(console.brokerUrl, 'd1');
  const event = (sequence: number, session = 1): DeviceEvent => ({
    schema: 'quantd/event/1',
    device: 'd1',
    session,
    sequence,
    target: null,
    type: 'x',
    message: `${session}.${sequence}`,
    generation: 0,
    time,
  });
  const result = (n: number): DeviceResult => ({
    schema: 'quantd/result/1',
    id: String(n).repeat(64),
    device: 'd1',
    target: 'host',
    generation: 1,
    release: 'a@1',
    budget: {},
    document: { n },
    time,
  });
  for (const n of [1, 2, 1, 3, 3, 2]) await device.say('result', result(n));
  for (const [sequence, session] of [
    [1, 1],
    [2, 1],
    [1, 1],
    [1, 2],
  ] as const)
    await device.say('event', event(sequence, session));
  const results = async () =>
    (await console.client.get<{ results: DeviceResult[] }>('/v1/results', { device: 'd1' })).results;
  await until(async () => (await results()).length === 3, 'all results are there');
  t.same(
    (await results()).map(({ document }) => document.n),
    [3, 2, 1],
  );
  const abort = new AbortController();
  const messages: string[] = [];
  const response = await fetch(`${console.url}/v1/events`, { headers: { 'last-event-id': '0' }, signal: abort.signal });
  const reader = response.body!.getReader();
  let text = '';
  while (!text.includes('2.1')) text += Buffer.from((await reader.read()).value!).toString();
  for (const match of text.matchAll(/"message":"([\d.]+)"/g)) messages.push(match[1]!);
  t.same(messages, ['1.1', '1.2', '2.1'], 'a stream resumes after the last event that was seen');
  abort.abort();
  await device.close();
  await console.close();
});

t.test('a late will of an older session, and an older report, change nothing', async (t) => {
  const console = await startConsole(t.testdir());
  const device = await FakeDevice.open(console.brokerUrl, 'd1', { session: 5 });
  const state = async () => console.client.get<DeviceDocument>('/v1/devices/d1').catch(() => null);
  await until(async () => (await state())?.isOnline === true, 'online');
  await device.report(0, 7, 5);
  await until(async () => (await state())?.reported?.sequence === 7, 'reported');
  await device.say('online', { schema: 'quantd/online/1', online: false, session: 4 }, true);
  await device.report(0, 6, 5);
  await device.report(0, 99, 4);
  await device.report(0, 8, 5);
  await until(async () => (await state())?.reported?.sequence === 8, 'the newest report came');
  t.equal((await state())!.isOnline, true);
  await device.say('online', { schema: 'quantd/online/1', online: false, session: 5 }, true);
  await until(async () => (await state())?.isOnline === false, 'its own will counts');
  await device.close();
  await console.close();
});

t.test('hostile and malformed documents change nothing, and the console goes on', async (t) => {
  const random = new Random(seed);
  const warnings: string[] = [];
  const console = await startConsole(t.testdir(), {}, warnings);
  const device = await FakeDevice.open(console.brokerUrl, 'd1');
  const state = async () => console.client.get<DeviceDocument>('/v1/devices/d1').catch(() => null);
  await until(async () => (await state())?.isOnline === true, 'online');
  const before = { ...(await state())!, lastSeen: '' };
  const reported = {
    schema: 'quantd/reported/1',
    device: 'd1',
    session: 1,
    sequence: 9,
    observedGeneration: 0,
    targets: {},
    conditions: [],
    outbox: { messages: 0, bytes: 0, dropped: 0 },
    time,
  };
  const value = (depth: number): unknown =>
    random.pick<() => unknown>([
      () => null,
      () => random.below(10) - 5,
      () => 'x'.repeat(random.below(50)),
      () => (depth > 4 ? [] : Array.from({ length: random.below(4) }, () => value(depth + 1))),
      () =>
        depth > 4
          ? {}
          : Object.fromEntries(
              Array.from({ length: random.below(4) }, (_, i) => [
                random.pick(['a', '__proto__', 'device', 'constructor']) + (i || ''),
                value(depth + 1),
              ]),
            ),
    ])();
  const kinds = ['birth', 'online', 'reported', 'sync', 'event', 'result'] as const;
  for (let round = 0; round < 150; round++) await device.say(random.pick(kinds), value(0));
  const hostile: [(typeof kinds)[number], string | Buffer][] = [
    ['reported', JSON.stringify({ ...reported, device: 'another' })],
    ['reported', JSON.stringify({ ...reported, targets: { '../x': {} } })],
    ['reported', JSON.stringify({ ...reported, sequence: -1 })],
    ['reported', JSON.stringify({ ...reported, schema: 'quantd/reported/2' })],
    ['reported', JSON.stringify({ ...reported, conditions: Array(500).fill({}) })],
    ['reported', `${'['.repeat(10_000)}${']'.repeat(10_000)}`],
    ['reported', Buffer.from([0xff, 0xfe])],
    ['reported', 'x'.repeat(100_000)],
    ['sync', JSON.stringify({ schema: 'quantd/sync/1', session: 1, observedGeneration: Number.MAX_VALUE })],
    ['birth', '{"__proto__":{"polluted":1}}'],
  ];
  for (const [kind, payload] of hostile) await device.client.publishAsync(device.topics[kind], payload, { qos: 1 });
  for (const topic of [
    'quantd/1/default/dev/../reported',
    'quantd/1/default/dev/d1/unknown',
    'quantd/1/default/dev//birth',
  ]) {
    await device.client.publishAsync(topic, '{}', { qos: 1 }).catch(() => {});
  }
  await device.report(0, 1);
  await until(async () => (await state())?.reported?.sequence === 1, 'a good one is taken afterwards');
  t.match({ ...(await state())!, lastSeen: '', reported: null }, before);
  t.equal(({} as { polluted?: number }).polluted, undefined);
  t.ok(warnings.some((text) => text.includes('refused')));
  t.ok(warnings.length < 20, `${warnings.length} warnings: they are held back`);
  await device.close();
  await console.close();
});

t.test(
  'a database restored from earlier never downgrades a device; an operator may let it take orders again',
  async (t) => {
    const folder = t.testdir();
    let console = await startConsole(folder);
    const device = await FakeDevice.open(console.brokerUrl, 'd1');
    await makeRelease(console, 'fire@1');
    await until(
      async () => (await console.client.get<{ devices: unknown[] }>('/v1/devices')).devices.length === 1,
      'it is known',
    );
    await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@1' });
    await console.close();
    copyFileSync(join(folder, 'fleet', 'fleet.db'), join(folder, 'backup.db'));
    console = await startConsole(folder);
    for (let ms = 1; ms <= 3; ms++)
      await console.client.send('PUT', '/v1/budgets', { selector: 'all', budget: { latencyMs: ms } });
    await console.close();
    await device.close();
    copyFileSync(join(folder, 'backup.db'), join(folder, 'fleet', 'fleet.db'));
    console = await startConsole(folder);
    const back = await FakeDevice.open(console.brokerUrl, 'd1', { session: 2, observed: 4 });
    const state = () => console.client.get<DeviceDocument>('/v1/devices/d1');
    await until(async () => (await state()).isAhead, 'it is seen to be ahead');
    back.desired.length = 0;
    for (let ms = 5; ms <= 9; ms++)
      await console.client.send('PUT', '/v1/budgets', { selector: 'all', budget: { latencyMs: ms } });
    await sleep(200);
    t.same(back.desired, [], 'nothing is sent over its head');
    await console.client.send('POST', '/v1/devices/d1/adopt', {});
    await until(() => back.last !== undefined, 'it is told again');
    t.equal(back.last!.generation, 5, 'above what it has seen');
    t.equal(back.last!.targets.host!.budget.latencyMs, 9, 'with what was asked for meanwhile');
    t.equal((await state()).isAhead, false);
    await back.close();
    await console.close();
  },
);
