/** What people see: units, and colours on terminals alone. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { allowColour, bold, formatBytes, formatLatency, formatMs, formatPercent } from '../../agent/terminal.js';

t.test('numbers with their units; what is unknown is a dash', async (t) => {
  t.strictSame([0, 1023, 1024, 1536, 1024 ** 2, 2.5 * 1024 ** 2].map(formatBytes), [
    '0 B',
    '1023 B',
    '1.0 KB',
    '1.5 KB',
    '1.00 MB',
    '2.50 MB',
  ]);
  t.strictSame([0, 0.9814, 1, null].map(formatPercent), ['0.0 %', '98.1 %', '100.0 %', '-']);
  t.equal(formatLatency(1.5, 'ms'), formatMs(1.5));
  t.equal(formatLatency(null, 'cycles'), '-');
  t.equal(formatLatency(12051984, 'instructions'), '12051984 instructions');
  t.strictSame([0.0125, 0.9999, 1, 12.345, null].map(formatMs), ['0.013 ms', '1.000 ms', '1.00 ms', '12.35 ms', '-']);
});

t.test('text is bold on a terminal, unless colours are not allowed', async (t) => {
  const was = process.stdout.isTTY;
  t.teardown(() => {
    process.stdout.isTTY = was;
    allowColour(true);
  });
  process.stdout.isTTY = true;
  t.equal(bold('x'), '\x1b[1mx\x1b[0m');
  allowColour(false);
  t.equal(bold('x'), 'x');
  allowColour(true);
  process.stdout.isTTY = false;
  t.equal(bold('x'), 'x');
});

const main = fileURLToPath(new URL('../../agent/main.js', import.meta.url));
const command = [process.execPath, main, 'quantize', 'absent.onnx', '--out', 'out', '--budget', 'speed=1'];

/** What the command prints, on a terminal of its own or into a pipe. */
function shown(isTerminal: boolean, environment: Readonly<Record<string, string>>): string {
  const { NO_COLOR: _, ...rest } = process.env;
  const options = { encoding: 'utf8', env: { ...rest, ...environment } } as const;
  const onTerminal = ['-c', 'import pty, sys; pty.spawn(sys.argv[1:])', ...command];
  const { stdout, stderr } = isTerminal
    ? spawnSync('python3', onTerminal, options)
    : spawnSync(command[0]!, command.slice(1), options);
  return stdout + stderr;
}

const skip = spawnSync('python3', ['--version']).status === 0 ? false : 'python3 is absent';
t.test('NO_COLOR keeps a terminal without colours, as a pipe always is', { skip }, async (t) => {
  const red = '\x1b[31m';
  for (const [isTerminal, environment, isColoured] of [
    [true, {}, true],
    [true, { NO_COLOR: '' }, true],
    [true, { NO_COLOR: '1' }, false],
    [false, {}, false],
  ] as const) {
    const text = shown(isTerminal, environment);
    t.match(text, /budget\/invalid/);
    t.equal(text.includes(red), isColoured, JSON.stringify([isTerminal, environment]));
  }
});
