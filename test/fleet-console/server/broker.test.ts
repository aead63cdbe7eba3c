/** The console's own broker, as MQTT clients see it. */
import t from 'tap';
import { EmbeddedBroker } from '../../../fleet-console/server/broker.js';
import { Listener, until } from '../../support/broker.js';

t.test(
  'what is retained comes once to who names its topic whole, to who names many, and not once it is cleared',
  async (t) => {
    const broker = await EmbeddedBroker.open({
      host: '127.0.0.1',
      port: 0,
      isPassword: null,
      take: (_topic, _payload, settled) => settled(true),
      warn: t.fail,
    });
    t.teardown(() => broker.close());
    broker.admit();
    const open = async (filter: string) => {
      const listener = await Listener.open(broker, filter);
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
