import { join } from 'node:path';
import t from 'tap';
import { topicsOf } from '../../../configs/contracts/device.js';
import { ArtifactFolder } from '../../../fleet-console/server/artifacts.js';
import { AuditLog } from '../../../fleet-console/server/audit.js';
import { ConsoleDatabase } from '../../../fleet-console/server/database.js';
import { Fleet } from '../../../fleet-console/server/fleet.js';
import { Intake } from '../../../fleet-console/server/intake.js';
import { ConsoleStore } from '../../../fleet-console/server/store.js';
import { until } from '../../support/broker.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const time = new Date(0).toISOString();

/** An intake with a database of its own. */
function openIntake(folder: string) {
  const database = new ConsoleDatabase(join(folder, 'fleet.db'));
  const store = new ConsoleStore(database, { events: 100_000, results: 100_000 }, () => {});
  const fleet = new Fleet(store, new ArtifactFolder(join(folder, 'artifacts')), new AuditLog(database, () => {}));
  const warnings: string[] = [];
  const intake = new Intake({
    namespace: 'quantd',
    tenant: 'default',
    store,
    fleet,
    table: () => {},
    warn: (text) => warnings.push(text),
  });
  return { database, store, fleet, intake, warnings };
}

const storedBy = (store: ConsoleStore) =>
  store.eventsAfter(0, 10_000).map(({ event }) => `${event.device}/${event.sequence}`);

const eventOf = (device: string, sequence: number) => ({
  topic: topicsOf('quantd', 'default', device).event,
  text: JSON.stringify({
    schema: 'quantd/event/1',
    device,
    session: 1,
    sequence,
    target: null,
    type: 'x',
    message: '',
    generation: 0,
    time,
  }),
});

t.test('whatever comes, in whatever order and however often, is stored once and settled once, in order', async (t) => {
  const random = new Random(seed);
  const { database, store, fleet, intake } = openIntake(t.testdir());
  const told: string[] = [];
  fleet.on('event', ({ event }) => told.push(`${event.device}/${event.sequence}`));
  const settlements: boolean[][] = [];
  const firsts: string[] = [];
  let broken = 0;
  for (let message = 0; message < 3000; message++) {
    const [device, sequence] = [`d${random.below(5)}`, random.below(300)];
    const { topic, text } = eventOf(device, sequence);
    const isBroken = random.below(10) === 0;
    if (isBroken) broken++;
    else if (!firsts.includes(`${device}/${sequence}`)) firsts.push(`${device}/${sequence}`);
    const settled: boolean[] = [];
    settlements.push(settled);
    intake.take(topic, Buffer.from(isBroken ? text.replace('"x"', '7') : text), (isStored) => {
      if (message % 50 === 0 && !isBroken)
        t.ok(storedBy(store).includes(`${device}/${sequence}`), 'it is there by then');
      settled.push(isStored);
    });
    if (random.below(20) === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await until(() => settlements.every((settled) => settled.length > 0), 'all are settled');
  t.ok(settlements.every((settled) => settled.length === 1 && settled[0]));
  t.same(storedBy(store), firsts);
  t.same(told, firsts);
  t.same(intake.counts, { taken: 3000 - broken, refused: broken });
  database.close();
});

t.test('where the store fails, nothing of what came together is there, and nobody is told that it is', async (t) => {
  const { database, store, fleet, intake, warnings } = openIntake(t.testdir());
  const told: string[] = [];
  fleet.on('event', ({ event }) => told.push(event.device));
  const take = (sequence: number) =>
    new Promise<boolean>((resolve) => {
      const { topic, text } = eventOf('d1', sequence);
      intake.take(topic, Buffer.from(text), resolve);
    });
  t.same(await Promise.all([take(1), take(2)]), [true, true]);
  database.write(() =>
    database.run(
      "CREATE TRIGGER full BEFORE INSERT ON event WHEN NEW.sequence = 5 BEGIN SELECT RAISE(ROLLBACK, 'no room'); END",
    ),
  );
  const answers = await Promise.all([5, 3, 4, 6].map(take));
  t.equal(answers[0], false, 'the first one of a batch spoils it');
  // A slow machine may have made two batches of them: whatever was answered has to be what is there.
  const there = store.eventsAfter(0, 10).map(({ event }) => event.sequence);
  t.same(
    answers,
    [5, 3, 4, 6].map((sequence) => there.includes(sequence)),
  );
  t.ok(warnings.length > 0);
  database.write(() => database.run('DROP TRIGGER full'));
  t.same(await Promise.all([take(3), take(4), take(5), take(6)]), [true, true, true, true]);
  t.same(
    store
      .eventsAfter(0, 10)
      .map(({ event }) => event.sequence)
      .sort(),
    [1, 2, 3, 4, 5, 6],
  );
  t.equal(told.length, 6);
  intake.close();
  t.equal(await take(7), false);
  database.close();
});
