/**
 * A fleet of devices under a real console and real brokers, with restarts in the middle. A slice by default; `npm run soak -- fleet` is
 * the whole (QUANTD_FLEET_DEVICES).
 */
import { connectAsync } from 'mqtt';
import t from 'tap';
import { topicsOf } from '../../../configs/contracts/device.js';
import { type BrokerKind, runExperiment } from '../../../scripts/fleet/experiment.js';
import { ConsoleView } from '../../../scripts/fleet/fleet.js';
import { hasMosquitto } from '../../support/broker.js';
import { ConsoleProcess } from '../../support/console-process.js';
import { announceSeed } from '../../support/seed.js';

const devices = Number(process.env.QUANTD_FLEET_DEVICES ?? 60);
const seed = announceSeed();

for (const broker of ['embedded', 'mosquitto'] satisfies BrokerKind[]) {
  t.test(
    `${devices} devices lose nothing and count nothing twice while console and broker restart (${broker})`,
    { skip: broker === 'mosquitto' && !hasMosquitto && 'mosquitto is not installed' },
    async (t) => {
      const result = await runExperiment({
        broker,
        devices,
        seed,
        folder: t.testdir(),
        workMs: 1000,
        connectMs: devices * 5,
        hasRollout: broker === 'embedded',
        patienceMs: 60_000 + devices * 100,
        say: (text) => t.comment(text),
      });
      t.ok(result.results >= 3 * devices, `${result.results} results`);
      t.match(result, { lost: 0, doubled: 0, unknown: 0, current: devices });
    },
  );
}

t.test('what the embedded broker has acknowledged is there after a kill at that moment', async (t) => {
  const folder = t.testdir();
  const console = await ConsoleProcess.open(folder);
  const time = new Date(0).toISOString();
  const numbers = { session: 1, generation: 0, time };
  const { event: topic } = topicsOf('quantd', 'default', 'd1');
  for (let sequence = 1; sequence <= 4; sequence++) {
    const client = await connectAsync(console.brokerUrl, { protocolVersion: 5, clientId: 'd1', reconnectPeriod: 0 });
    client.on('error', () => {});
    const event = {
      schema: 'quantd/event/1',
      device: 'd1',
      sequence,
      target: null,
      type: 'x',
      message: '',
      ...numbers,
    };
    await client.publishAsync(topic, JSON.stringify(event), { qos: 1 });
    await console.kill();
    await client.endAsync(true);
    const view = new ConsoleView(folder);
    t.equal(view.events, sequence);
    view.close();
    await console.start();
  }
  await console.stop();
});
