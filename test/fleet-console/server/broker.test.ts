/** The console's own broker, as MQTT clients see it. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectAsync } from 'mqtt';
import t from 'tap';
import { topicsOf } from '../../../configs/contracts/device.js';
import { EmbeddedBroker } from '../../../fleet-console/server/broker.js';
import { Listener, until } from '../../support/broker.js';
import { portOf, startConsole } from '../../support/console.js';

t.test(
  'what is retained comes once to who names its topic whole, to who names many, and not once it is cleared',
  async (t) => {
    const broker = await EmbeddedBroker.open({
      host: '127.0.0.1',
      port: 0,
      namespace: 'quantd',
      tenant: 'default',
      ownPassword: 'own',
      isPassword: null,
      take: (_topic, _payload, settled) => settled(true),
      warn: t.fail,
    });
    t.teardown(() => broker.close());
    broker.admit();
    let listeners = 0;
    const open = async (filter: string) => {
      // The console itself may do anything, under one name at a time: the next one is another.
      const clientId = `console-${listeners++}`;
      broker.reserve(clientId);
      const listener = await Listener.open(broker, filter, { clientId, username: 'console', password: 'own' });
      t.teardown(() => listener.close());
      return listener;
    };
    const { client } = await open('nothing');
    const publish = (topic: string, text: string) => client.publishAsync(topic, text, { qos: 1, retain: true });
    await publish('a/1', 'old');
    await publish('a/1', 'new');
    await publish('a/2', 'second');
    await publish('a/3', 'gone');
    await publish('a/3', '');
    await client.publishAsync('a/4', 'not retained', { qos: 1 });
    const said = ({ messages }: Listener) => messages.map(({ topic, text, isRetained }) => [topic, text, isRetained]);
    const [first, second] = [
      ['a/1', 'new', true],
      ['a/2', 'second', true],
    ];
    for (const [filter, expected] of [
      ['a/1', [first]],
      ['a/2', [second]],
      ['a/3', []],
      ['a/4', []],
      ['a/+', [first, second]],
      ['#', [first, second]],
      ['a', []],
    ] as const) {
      const listener = await open(filter);
      // Behind whatever is retained.
      await client.publishAsync(filter.replace(/[+#]/, 'last'), 'last', { qos: 1 });
      await until(() => listener.messages.some(({ text }) => text === 'last'), `${filter}: what comes last has come`);
      t.same(said(listener).slice(0, -1), expected, filter);
    }
  },
);

t.test('a client speaks for the device of its name, hears what that one should run, and commands nobody', async (t) => {
  const folder = t.testdir({ token: 'a long enough token' });
  const warnings: string[] = [];
  const values = { broker: { host: '0.0.0.0' }, http: { tokenFile: join(folder, 'token') } };
  const console = await startConsole(folder, values, warnings);
  t.teardown(() => console.close());
  const url = `mqtt://127.0.0.1:${portOf(console.brokerUrl)}`;
  const password = 'a long enough token';
  const connect = async (clientId: string, options: object = {}) => {
    const client = await connectAsync(url, {
      protocolVersion: 5,
      clientId,
      username: 'x',
      password,
      reconnectPeriod: 0,
      ...options,
    });
    client.on('error', () => {});
    t.teardown(() => client.endAsync(true));
    return client;
  };
  // The name of the console: nobody else may have it, whatever he knows.
  const name = `fleet-${createHash('sha256').update('quantd/default').digest('hex').slice(0, 24)}`;
  await t.rejects(connect(name), 'the name of the console');
  const [victim, other] = [topicsOf('quantd', 'default', 'victim'), topicsOf('quantd', 'default', 'other')];
  const device = await Listener.open({ url }, victim.desired, { clientId: 'victim', username: 'x', password });
  t.teardown(() => device.close());
  const order = JSON.stringify({ schema: 'quantd/desired/1', device: 'victim', generation: 1e6, targets: {} });
  const client = await connect('other', {
    will: { topic: victim.desired, payload: Buffer.from(order), qos: 1, retain: true },
  });
  for (const topic of [
    victim.desired,
    other.desired,
    victim.reported,
    `$SYS/x/new/clients`,
    'quantd/1/default/dev/other/else',
    'quantd/1/another/dev/other/evt',
    'anything',
  ]) {
    const payload = topic.startsWith('$SYS') ? name : order;
    await t.rejects(client.publishAsync(topic, payload, { qos: 1, retain: true }), { code: 0x87 }, topic);
  }
  for (const filter of ['#', '+/#', '$SYS/#', victim.desired, other.reported, 'quantd/1/default/dev/+/desired'])
    await t.rejects(client.subscribeAsync(filter, { qos: 1 }), filter);
  await client.subscribeAsync(other.desired, { qos: 1 });
  t.equal(warnings.filter((text) => text.startsWith('client other may not')).length, 1, 'one line a connection');
  // None of that has disturbed the connection, or what it has to say itself.
  t.ok(client.connected);
  const time = '2026-01-01T00:00:00Z';
  const birth = { agentVersion: '0', hardwareClass: 'x', targets: { host: { kind: 'ort', identity: {} } }, labels: {} };
  const born = { schema: 'quantd/birth/1', device: 'other', session: 1, time, ...birth };
  await client.publishAsync(other.birth, JSON.stringify(born), { qos: 1, retain: true });
  // What is left when the connection breaks is refused as well.
  client.stream.destroy();
  const known = async () => {
    const response = await fetch(`${console.url}/v1/devices`, { headers: { authorization: `Bearer ${password}` } });
    return ((await response.json()) as { devices: { id: string }[] }).devices.map(({ id }) => id);
  };
  await until(async () => (await known()).length > 0, 'it is born');
  t.same(await known(), ['other']);
  // Neither what was published nor what was left behind has reached anybody, or is retained.
  const again = await Listener.open({ url }, other.desired, { clientId: 'other', username: 'x', password });
  t.teardown(() => again.close());
  await again.client.publishAsync(
    other.sync,
    JSON.stringify({ schema: 'quantd/sync/1', session: 1, observedGeneration: 0 }),
    {
      qos: 1,
    },
  );
  const fresh = await Listener.open({ url }, victim.desired, { clientId: 'victim', username: 'x', password });
  t.teardown(() => fresh.close());
  await sleep(200);
  t.same([...device.messages, ...fresh.messages, ...again.messages], []);
  t.equal((await fetch(`${console.url}/readyz`)).status, 200, 'its own link stands');
});
