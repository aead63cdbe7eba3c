/** The line to a microcontroller, with the real process that keeps it and the real firmware: whom it is lent to, and what ends it. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { McuRunners } from '../../../agent/adapters/mcu-runners.js';
import { startFirmware } from '../../../firmware-bridge/link/firmware-process.js';
import { Mcu } from '../../../firmware-bridge/mcu.js';
import { skipsHost } from '../../support/firmware.js';
import { imageOf, networkOfEverything } from '../../support/images.js';
import { calibratedNetwork } from '../../support/networks.js';
import { announceSeed } from '../../support/seed.js';

const seed = announceSeed();
const source = networkOfEverything(seed);
const { prepared, samples } = await calibratedNetwork(source, seed, 1);
const { bytes: image } = await imageOf(source, { weightBits: 8, activationBits: 8 }, seed);
const question = { kind: 'tensor', data: samples[0]! } as const;
const { signal } = new AbortController();

function artifact(t: Test): string {
  const folder = join(t.testdir(), 'artifact');
  mkdirSync(folder);
  writeFileSync(join(folder, 'model.qimg'), image);
  writeFileSync(join(folder, 'card.json'), JSON.stringify(prepared.card));
  return folder;
}

async function board(t: Test): Promise<string> {
  const firmware = await startFirmware('host');
  t.teardown(() => firmware.stop());
  return firmware.path;
}

t.test('while the line is lent nothing else goes over it, however much is asked', { skip: skipsHost }, async (t) => {
  const runners = new McuRunners(await board(t), null);
  t.teardown(() => runners.close());
  const runner = await runners.open(artifact(t), signal);
  const refusals = new Set<string>();
  let answers = 0;
  let isOver = false;
  const ask = async () => {
    while (!isOver) {
      await runner.infer(question).then(
        () => answers++,
        (error) => refusals.add(error.code),
      );
      await sleep(1);
    }
  };
  const asking = Array.from({ length: 8 }, ask);
  for (let loan = 0; loan < 5; loan++) {
    const before = answers;
    while (answers < before + 20) await sleep(1);
    await runners.lend(async (path) => {
      const answered = answers;
      const mcu = await Mcu.open(path);
      for (let look = 0; look < 20; look++) await mcu.statistics();
      await mcu.close();
      t.equal(answers, answered);
    });
  }
  isOver = true;
  await Promise.all(asking);
  t.same([...refusals], ['infer/unavailable']);
});

t.test('a process that stands still is ended: by a request in time, and by the end', { skip: skipsHost }, async (t) => {
  const runners = new McuRunners(await board(t), null, 5000);
  const folder = artifact(t);
  const runner = await runners.open(folder, signal);
  process.kill(runners.pid!, 'SIGSTOP');
  await t.rejects(runner.infer(question), { code: 'mcu/unreachable', message: /no answer within 5 s/ });
  await runner.ended;
  t.equal((await (await runners.open(folder, signal)).infer(question)).outputs.size, 1, 'another one goes on');
  process.kill(runners.pid!, 'SIGSTOP');
  const last = runners.look();
  last.catch(() => {});
  await runners.close();
  await t.rejects(last, { code: 'mcu/unreachable' });
});
