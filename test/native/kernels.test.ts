import t from 'tap';
import { compile, runProgram, sanitized } from '../support/c-program.js';
import { announceSeed } from '../support/seed.js';

const seed = announceSeed();
/** Many more in the soak. */
const cases = Number(process.env.QUANTD_KERNEL_CASES ?? 10_000);

t.test(`every kernel equals the reference bit for bit in ${cases} random convolutions`, async (t) => {
  const program = await compile('check_kernels', ['-O2']);
  const { code, output } = await runProgram(program, [String(seed), String(cases)]);
  for (const line of output.trim().split('\n')) t.comment(line);
  t.equal(code, 0, output);
  const counts = [...output.matchAll(/^(\S+)\s+(\d+) cases(.*)$/gm)];
  t.ok(counts.length > 0, 'there are kernels beside the reference');
  for (const [, name, count, note] of counts) {
    if (note !== '') t.comment(`${name}: not run${note}`);
    else t.ok(Number(count) >= cases / 200, `${name} had ${count} cases`);
  }
});

t.test('kernels touch nothing that is not theirs and compute without undefined behaviour', async (t) => {
  const program = await compile('check_kernels', sanitized);
  const { code, output } = await runProgram(program, [String(seed + 1), String(Math.ceil(cases / 10))]);
  t.equal(code, 0, output);
});
