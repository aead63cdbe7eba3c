import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { packForCortexM } from '../../native/index.js';
import { compileFuzzer, runProgram } from '../support/c-program.js';
import { imageOf, networkOfEverything, networkOfPatches } from '../support/images.js';
import { randomNetwork } from '../support/networks.js';
import { announceSeed } from '../support/seed.js';

const seed = announceSeed();
/** Random requests and stretches of bytes; many more in the soak. */
const requests = Number(process.env.QUANTD_HOSTILE_REQUESTS ?? 20_000);

t.test(
  'whatever arrives, the firmware stays within its own memory and computes without undefined behaviour',
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'quantd-hostile-'));
    t.teardown(() => rmSync(folder, { recursive: true }));
    const images = [
      await imageOf(networkOfEverything(seed), { weightBits: 8, activationBits: 8 }, seed),
      await imageOf(networkOfEverything(seed), { weightBits: 4, activationBits: 4 }, seed),
      await imageOf(randomNetwork(seed, 3), { weightBits: 2, activationBits: 2 }, seed),
      await imageOf(networkOfPatches(seed), { weightBits: 4, activationBits: 4 }, seed, {
        patches: { split: 8, grid: { rows: 2, columns: 2 }, isInputStreamed: true },
        packer: packForCortexM,
      }),
    ];
    const paths = images.map(({ bytes }, index) => {
      const path = join(folder, `${index}.qimg`);
      writeFileSync(path, bytes);
      return path;
    });
    const program = await compileFuzzer('fuzz_wire');
    const { code, output } = await runProgram(program, [String(seed), String(requests), ...paths]);
    t.comment(output.trim());
    t.equal(code, 0, output);
    const counts = /(\d+) frames received, (\d+) damaged, (\d+) repeated, (\d+) stale, (\d+) runs/
      .exec(output)
      ?.slice(1)
      .map(Number);
    t.ok(
      counts?.every((count) => count > requests / 1000),
      'everything happened',
    );
  },
);
