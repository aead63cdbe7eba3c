/** The real firmware, on a real pseudo-terminal, over a line that does to bytes what bad lines do. */
import { createHash } from 'node:crypto';
import t from 'tap';
import { EdgeError } from '../../configs/contracts/errors.js';
import { upload } from '../../firmware-bridge/flash.js';
import { Connection } from '../../firmware-bridge/link/connection.js';
import { startFirmware } from '../../firmware-bridge/link/firmware-process.js';
import { openSerialPort } from '../../firmware-bridge/link/serial.js';
import { Mcu } from '../../firmware-bridge/mcu.js';
import { EngineModel } from '../../native/index.js';
import { type Faults, FaultyPort } from '../support/faulty-port.js';
import { imageOf, networkOfEverything } from '../support/images.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();
/** Requests and inferences; more in the soak. */
const rounds = Number(process.env.QUANTD_LINE_ROUNDS ?? 200);

const kinds: Readonly<Record<string, Faults>> = {
  drops: { drop: 0.01, repeat: 0, flip: 0, stall: 0, stallMs: 0 },
  duplicates: { drop: 0, repeat: 0.01, flip: 0, stall: 0, stallMs: 0 },
  flips: { drop: 0, repeat: 0, flip: 0.01, stall: 0, stallMs: 0 },
  stalls: { drop: 0, repeat: 0, flip: 0, stall: 0.005, stallMs: 90 },
  everything: { drop: 0.004, repeat: 0.004, flip: 0.004, stall: 0.004, stallMs: 70 },
};

async function open(random: Random, faults: Faults) {
  const firmware = await startFirmware('host');
  const port = new FaultyPort(await openSerialPort(firmware.path), random, faults);
  const close = async () => {
    await port.close();
    await firmware.stop();
  };
  const connection = await Connection.open(port, {
    replyTimeoutMs: 60,
    workTimeoutMs: 600,
    attempts: 8,
    handshakeMs: 10_000,
    random: () => random.below(2 ** 32),
  });
  return { mcu: new Mcu(connection), port, close };
}

/** What `work` answers; null where the line was too bad for it. Anything but a timeout is a failure of the test. */
async function unlessTimeout<T>(work: Promise<T>): Promise<T | null> {
  return work.catch((error: unknown) => {
    if (error instanceof EdgeError && error.code === 'mcu/timeout') return null;
    throw error;
  });
}

for (const [index, [kind, faults]] of Object.entries(kinds).entries()) {
  t.test(`with ${kind} on the line every answer is right or there is none`, async (t) => {
    const random = new Random(seed + index);
    const { mcu, port, close } = await open(random, faults);
    t.teardown(close);
    let answers = 0;
    for (let round = 0; round < rounds; round++) {
      const data = Uint8Array.from({ length: random.below(700) }, () => random.below(256));
      const reply = await unlessTimeout(mcu.connection.request('echo', { data }));
      if (reply === null) continue;
      answers++;
      if (!Buffer.from(reply.data).equals(data)) return t.fail(`round ${round}: ${reply.data}`);
    }
    t.ok(answers > rounds / 2, `${answers} of ${rounds} answered`);
    t.ok(port.faults > 10, `${port.faults} faults`);
    port.isFaulty = false;
    const data = new Uint8Array(10).fill(9);
    t.strictSame(new Uint8Array((await mcu.connection.request('echo', { data })).data), data, 'and it goes on');
  });
}

t.test('over a bad line an image arrives whole and computes what it computes here', async (t) => {
  const random = new Random(seed + 10);
  const { bytes, samples } = await imageOf(networkOfEverything(seed), { weightBits: 4, activationBits: 8 }, seed);
  const engine = new EngineModel(bytes, { threads: 1, onlyKernel: 'reference', features: [] });
  t.teardown(() => engine.close());
  const [expected] = await engine.run([samples[0]!]);
  const { mcu, port, close } = await open(random, kinds.everything!);
  t.teardown(close);
  let uploads = 0;
  for (let attempt = 0; attempt < 20 && uploads === 0; attempt++)
    if ((await unlessTimeout(upload(mcu, 0, bytes).then(() => true))) === true) uploads++;
  t.equal(uploads, 1);
  await unlessTimeout(mcu.load(0));
  let inferences = 0;
  const wanted = Math.ceil(rounds / 20);
  for (let attempt = 0; attempt < 5 * wanted && inferences < wanted; attempt++) {
    // A run that was executed twice would have used up its inputs, and be refused.
    const result = await unlessTimeout(mcu.infer([samples[0]!]));
    if (result === null) continue;
    inferences++;
    t.strictSame(result.outputs[0], expected);
  }
  t.equal(inferences, wanted);
  port.isFaulty = false;
  const state = await mcu.slotState(0);
  t.equal(state.image?.sha256, createHash('sha256').update(bytes).digest('hex'));
  const statistics = await mcu.statistics();
  t.comment(
    `${port.faults} faults; the firmware saw ${statistics.framesDamaged} damaged, ${statistics.framesRepeated} repeated`,
  );
  t.ok(statistics.framesDamaged > 0);
});
