/** The device's end of MQTT against real brokers: what is said on connect, what survives outages, what hostile peers cannot do. */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { MqttFleetLink } from '../../../agent/adapters/fleet-link.js';
import { SqliteOutbox } from '../../../agent/adapters/sqlite-outbox.js';
import type { DeviceEvent, Online, ReportedState, Sync } from '../../../configs/contracts/device.js';
import { packetBytes, topicsOf } from '../../../configs/contracts/device.js';
import { type DeviceTable, TablePart } from '../../../configs/contracts/tables.js';
import { validate } from '../../../configs/contracts/validate.js';
import {
  aedesBroker,
  hasMosquitto,
  Listener,
  mosquittoBroker,
  type TestBroker,
  until,
  Wire,
} from '../../support/broker.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const device = 'bench-1';
const topics = topicsOf('quantd', 'default', device);
const time = '2026-01-01T00:00:00Z';

function linkTo(
  broker: { readonly url: string },
  changes: { session?: number; username?: string; password?: string } = {},
) {
  const outbox = new SqliteOutbox(':memory:', { mostBytes: 2 ** 20, mostDays: 1 }, () => {});
  const warnings: string[] = [];
  const heard: string[] = [];
  const states: boolean[] = [];
  const session = changes.session ?? 7;
  const link = new MqttFleetLink({
    url: broker.url,
    username: changes.username ?? '',
    password: changes.password ?? null,
    namespace: 'quantd',
    tenant: 'default',
    keepaliveSeconds: 5,
    willDelaySeconds: 0,
    birth: {
      schema: 'quantd/birth/1',
      device,
      session,
      agentVersion: '0',
      hardwareClass: 'x',
      targets: {},
      labels: {},
      time,
    },
    observedGeneration: () => 3,
    outbox,
    warn: (text) => warnings.push(text),
    backoff: { firstMs: 20, mostMs: 200 },
  });
  const told = { emptied: 0 };
  const start = () =>
    link.start({
      desired: (payload) => heard.push(Buffer.from(payload).toString('utf8')),
      connected: (is) => states.push(is),
      emptied: () => {
        told.emptied++;
      },
    });
  return { link, outbox, warnings, heard, states, told, start };
}

const report = (sequence: number): ReportedState => ({
  schema: 'quantd/reported/1',
  device,
  session: 7,
  sequence,
  observedGeneration: 3,
  targets: {},
  conditions: [],
  outbox: { messages: 0, bytes: 0, dropped: 0 },
  time,
});
const event = (sequence: number): DeviceEvent => ({
  schema: 'quantd/event/1',
  device,
  session: 7,
  sequence,
  target: null,
  type: 'test',
  message: '',
  generation: 0,
  time,
});

const brokers: readonly (readonly [string, () => Promise<TestBroker>, string | false])[] = [
  ['the embedded broker', aedesBroker, false],
  ['Mosquitto', mosquittoBroker, hasMosquitto ? false : 'mosquitto is not installed'],
];

for (const [name, open, skip] of brokers) {
  t.test(
    `${name}: birth, online, sync and the last report follow a connect; desired comes, retained or new`,
    { skip },
    async (t) => {
      const broker = await open();
      const console = await Listener.open(broker);
      await console.client.publishAsync(topics.desired, '{"retained":1}', { qos: 1, retain: true });
      const { link, heard, states, start } = linkTo(broker);
      link.report(report(1));
      link.report(report(2));
      start();
      await until(() => console.of<ReportedState>('/reported').length === 1, 'the report came');
      t.equal(console.of<ReportedState>('/reported')[0]!.sequence, 2, 'of two reports made offline, the last');
      t.same(console.of<Online>('/online'), [{ schema: 'quantd/online/1', online: true, session: 7 }]);
      t.match(console.of<Sync>('/sync'), [{ session: 7, observedGeneration: 3 }]);
      t.equal(console.of('/birth').length, 1);
      await until(() => heard.length > 0, 'the retained document came');
      t.equal(heard[0], '{"retained":1}');
      await console.client.publishAsync(topics.desired, '{"new":1}', { qos: 1, retain: true });
      await until(() => heard.includes('{"new":1}'), 'the new document came');
      t.same(states, [true]);
      const late = await Listener.open(broker);
      await until(() => late.messages.length >= 4, 'retained documents came');
      t.same(
        new Set(late.messages.filter(({ isRetained }) => isRetained).map(({ topic }) => topic)),
        new Set([topics.desired, topics.birth, topics.online, topics.reported]),
      );
      await link.close();
      await until(() => console.of<Online>('/online').some(({ online }) => !online), 'it said goodbye');
      await Promise.all([console.close(), late.close()]);
      await broker.stop();
    },
  );

  t.test(`${name}: messages survive outages of the broker, in order, each at least once`, { skip }, async (t) => {
    const random = new Random(seed);
    const broker = await open();
    let console = await Listener.open(broker, '+/1/+/dev/+/evt');
    const received: number[] = [];
    const collect = () => {
      for (const { sequence } of console.of<DeviceEvent>('/evt')) received.push(sequence);
      console.messages.length = 0;
    };
    const { link, outbox, start } = linkTo(broker);
    start();
    let sequence = 0;
    for (let outage = 0; outage < 3; outage++) {
      for (let i = random.below(30); i >= 0; i--) {
        link.send('event', event(++sequence));
        if (random.below(4) === 0) await sleep(random.below(5));
      }
      await sleep(random.below(30));
      collect();
      await console.close();
      await broker.stop();
      for (let i = random.below(10); i >= 0; i--) link.send('event', event(++sequence));
      await sleep(random.below(100));
      await broker.start();
      console = await Listener.open(broker, '+/1/+/dev/+/evt');
    }
    // What was acknowledged to the device while this listener was away has reached nobody; the last stretch must come whole.
    const from = sequence;
    for (let i = 0; i < 20; i++) link.send('event', event(++sequence));
    await until(() => outbox.state().messages === 0, 'the outbox is empty');
    await until(
      () => console.of<DeviceEvent>('/evt').some((message) => message.sequence === sequence),
      'the last one came',
    );
    collect();
    const last = received.slice(received.lastIndexOf(from + 1));
    t.same(
      last,
      Array.from({ length: 20 }, (_, index) => from + 1 + index),
    );
    const firsts = [...new Set(received)];
    t.same(
      firsts,
      [...firsts].sort((a, b) => a - b),
      'in order',
    );
    await link.close();
    await console.close();
    await broker.stop();
  });

  t.test(`${name}: the will of a device that vanishes carries its session`, { skip }, async (t) => {
    const broker = await open();
    const console = await Listener.open(broker);
    const wire = await Wire.to(broker);
    const { link, start, states } = linkTo(wire, { session: 41 });
    start();
    await until(() => states.length === 1, 'connected');
    wire.cut();
    await until(() => console.of<Online>('/online').some(({ online }) => !online), 'the will came');
    t.same(
      console.of<Online>('/online').find(({ online }) => !online),
      { schema: 'quantd/online/1', online: false, session: 41 },
    );
    await until(() => states.filter((is) => is).length === 2, 'it is back');
    await link.close();
    await console.close();
    wire.close();
    await broker.stop();
  });
}

t.test(
  'Mosquitto: what nobody has subscribed to stays in the outbox until somebody does',
  { skip: hasMosquitto ? false : 'mosquitto is not installed' },
  async (t) => {
    const broker = await mosquittoBroker();
    const { link, outbox, states, warnings, start } = linkTo(broker);
    start();
    await until(() => states.length === 1, 'connected');
    for (let sequence = 1; sequence <= 5; sequence++) link.send('event', event(sequence));
    await until(() => warnings.some((text) => text.includes('nobody listens')), 'it was told');
    await sleep(300);
    t.equal(outbox.state().messages, 5);
    const console = await Listener.open(broker);
    await until(() => outbox.state().messages === 0, 'all is sent');
    await until(() => console.of('/evt').length >= 5, 'all has come');
    t.same(
      console.of<DeviceEvent>('/evt').map(({ sequence }) => sequence),
      [1, 2, 3, 4, 5],
    );
    t.equal(warnings.filter((text) => text.includes('nobody listens')).length, 1, 'said once');
    await link.close();
    await console.close();
    await broker.stop();
  },
);

t.test('messages that are sent at any moment of emptying the outbox are not forgotten in it', async (t) => {
  const broker = await aedesBroker();
  const { link, outbox, states, start } = linkTo(broker);
  start();
  await until(() => states.length === 1, 'connected');
  const remove = outbox.remove.bind(outbox);
  let more = 40;
  outbox.remove = (id) => {
    remove(id);
    // In a microtask after the outbox was found empty.
    if (more-- > 0)
      Promise.resolve()
        .then(() => {})
        .then(() => {})
        .then(() => link.send('event', event(1000 + more)));
  };
  link.send('event', event(1));
  await until(() => more < 0 && outbox.state().messages === 0, 'all is sent', 5000);
  t.equal(outbox.state().messages, 0);
  await link.close();
  await broker.stop();
});

t.test('a report that something waits is followed by word that nothing does any more', async (t) => {
  const broker = await aedesBroker();
  const console = await Listener.open(broker, topics.event);
  const { link, outbox, told, start } = linkTo(broker);
  link.send('event', event(1));
  link.report({ ...report(1), outbox: link.outbox() });
  start();
  await until(() => told.emptied === 1, 'it is told');
  t.equal(outbox.state().messages, 0);
  link.report({ ...report(2), outbox: link.outbox() });
  link.send('event', event(2));
  await until(() => console.messages.length === 2 && outbox.state().messages === 0, 'the second is sent');
  t.equal(told.emptied, 1, 'nothing that was reported has changed');
  await link.close();
  await console.close();
  await broker.stop();
});

t.test('with wrong credentials it goes on trying, slowly, and says so without the password', async (t) => {
  let attempts = 0;
  const broker = await aedesBroker((_name, password) => {
    attempts++;
    return password === 'right';
  });
  const { link, warnings, states, start } = linkTo(broker, { username: 'device', password: 'hunter2' });
  start();
  await sleep(1500);
  t.ok(attempts >= 3 && attempts < 60, `${attempts} attempts`);
  t.same(states, []);
  t.ok(warnings.length >= 3);
  t.notMatch(warnings.join('\n'), /hunter2/);
  await link.close();
  await broker.stop();
});

t.test('without a broker everything is allowed, and closing does not wait', async (t) => {
  const broker = await aedesBroker();
  await broker.stop();
  const { link, outbox, start } = linkTo(broker);
  start();
  link.report(report(1));
  link.send('event', event(1));
  t.equal(outbox.state().messages, 1);
  const started = performance.now();
  await link.close();
  t.ok(performance.now() - started < 3000);
});

t.test('a message that fits no packet is refused when it is handed over, and poisons nothing', async (t) => {
  const broker = await aedesBroker();
  const { link, outbox } = linkTo(broker);
  t.throws(() => link.send('event', { ...event(1), message: 'x'.repeat(300_000) }), { code: 'outbox/too-large' });
  t.equal(outbox.state().messages, 0);
  await link.close();
  await broker.stop();
});

t.test('a table goes in parts that fit packets, and comes out whole; one that is too long is left out', async (t) => {
  const broker = await aedesBroker();
  const console = await Listener.open(broker, topics.table);
  const { link, outbox, warnings, start } = linkTo(broker);
  start();
  const random = new Random(seed);
  const rows = (count: number) =>
    Array.from({ length: count }, (_, i) => ({
      operatorKey: `k${i} ${random.next()} ${random.next()}`,
      median: random.next(),
    }));
  const table = (count: number) => ({ device, target: 'host', time, rows: rows(count) }) as unknown as DeviceTable;
  const sent = table(12_000);
  link.send('table', sent);
  const arrived = () => console.of<{ parts: number }>('/table');
  await until(() => arrived().length > 0 && arrived().length === arrived()[0]!.parts, 'all parts are there');
  await until(() => outbox.state().messages === 0, 'none is kept');
  const parts = console.of('/table').map((part) => validate(TablePart, part, 'document/invalid', 'part'));
  t.ok(parts.length > 1 && console.messages.every((message) => message.text.length < packetBytes));
  const text = parts.map((part) => part.text).join('');
  t.ok(
    parts.every(
      ({ sha256, parts: count }) =>
        count === parts.length && sha256 === createHash('sha256').update(text).digest('hex'),
    ),
  );
  t.same(JSON.parse(gunzipSync(Buffer.from(text, 'base64')).toString('utf8')), sent);
  link.send('table', table(200_000));
  t.equal(outbox.state().messages, 0);
  t.ok(warnings.some((warning) => warning.includes('longer than tables may be')));
  await link.close();
  await console.close();
  await broker.stop();
});
