/** Kernels for Cortex-M, executed on emulated processors, against the reference; on this machine `kernels.test.ts` runs their C. */
import t from 'tap';
import { type BoardName, compileForBoard, cortexMCommands, runOnBoard } from '../../scripts/cortex-m.js';
import { isInstalled } from '../support/c-program.js';
import { announceSeed } from '../support/seed.js';

const seed = announceSeed();
/** Many more in the soak. */
const cases = Math.ceil(Number(process.env.QUANTD_KERNEL_CASES ?? 10_000) / 4);
/** Multiply-accumulates of most cases, so that an emulator gets through thousands. */
const largest = 20_000;

const absent = (
  await Promise.all(cortexMCommands.map(async (name) => ((await isInstalled(name)) ? [] : [name])))
).flat();
const options = { skip: absent.length > 0 && `${absent.join(' and ')} not installed` };

/** Optimized for speed and for size: what compilers make of the C between the loops differs. */
const processors: readonly { readonly board: BoardName; readonly name: string; readonly optimization: string }[] = [
  { board: 'mps2-an386', name: 'Cortex-M4', optimization: '-O2' },
  { board: 'mps2-an500', name: 'Cortex-M7', optimization: '-Os' },
];

for (const [index, { board, name, optimization }] of processors.entries()) {
  t.test(
    `every kernel equals the reference bit for bit on ${name} in ${cases} random convolutions`,
    options,
    async (t) => {
      const program = await compileForBoard('check_kernels', board, [optimization, `-DLARGEST=${largest}`]);
      const { code, output } = await runOnBoard(program, board, [String(seed + index), String(cases)]);
      for (const line of output.trim().split('\n')) t.comment(line);
      t.equal(code, 0, output);
      const counts = [...output.matchAll(/^(\S+)\s+(\d+) cases$/gm)];
      t.ok(counts.length >= 7, 'there are kernels beside the reference');
      for (const [, kernel, count] of counts) {
        t.match(kernel, /\.dsp$/);
        t.ok(Number(count) >= cases / 400, `${kernel} had ${count} cases`);
      }
    },
  );
}

t.test('what is counted equals the reference, on either board by the same instructions', options, async (t) => {
  const [exact, rounded] = await Promise.all(
    (['netduinoplus2', 'mps2-an386'] as const).map(async (board) => {
      const program = await compileForBoard('count_kernels', board, ['-O2', '-fdata-sections']);
      const { code, output } = await runOnBoard(program, board, []);
      t.equal(code, 0, output);
      return new Map(
        output.split('\n').flatMap((line) => {
          const [layer, precision, kernel, instructions] = line.split(',');
          return instructions === undefined ? [] : [[`${layer} ${precision} ${kernel}`, Number(instructions)] as const];
        }),
      );
    }),
  );
  t.ok(exact!.size > 40, 'many cases are counted');
  for (const [name, instructions] of exact!) t.ok(Math.abs(rounded!.get(name)! - instructions) <= 16, name);
});
