import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { readTapOutput } from '../../scripts/tap-output.js';

const runner = fileURLToPath(new URL('../../scripts/test.js', import.meta.url));
const emptyFolder = t.testdir();

/** Runs the runner on test files given as source text; they print TAP themselves. */
function runFiles(folder: string, options: { arguments?: string[]; environment?: Record<string, string> } = {}) {
  const environment = { ...process.env, CI: '', QUANTD_DATA: emptyFolder, QUANTD_SEED: '5', ...options.environment };
  const result = spawnSync(process.execPath, [runner, '--folder', folder, ...(options.arguments ?? [])], {
    env: environment,
    encoding: 'utf8',
  });
  return { status: result.status, output: result.stdout, last: result.stdout.trimEnd().split('\n').at(-1) };
}

const say = (...lines: string[]) => `console.log(${JSON.stringify(lines.join('\n'))});`;
const passing = say(
  'TAP version 14',
  'ok 1 - one',
  '# Subtest: two',
  '    ok 1 - inner',
  '    1..1',
  'ok 2 - two',
  '1..2',
);

t.test('passing files are counted by their top-level tests', async (t) => {
  const folder = t.testdir({ 'a.test.js': passing, deep: { 'b.test.js': passing }, 'support.js': 'process.exit(1)' });
  t.match(runFiles(folder), { status: 0, last: '4 passed, 0 failed' });
  t.match(runFiles(folder, { arguments: ['deep/b'] }), { status: 0, last: '2 passed, 0 failed' });
  t.match(runFiles(folder, { arguments: ['deep/b.test.ts'] }), { last: '2 passed, 0 failed' });
  t.match(runFiles(folder, { arguments: ['absent'] }), { status: 1, last: '0 passed, 1 failed' });
});

t.test('a failed test shows what it printed, and fails the run', async (t) => {
  const text = [
    '# Subtest: sums',
    '    ok 1 - quiet',
    '    not ok 2 - loud',
    '      ---',
    '      diff: 1',
    '      ...',
    '    1..2',
  ];
  const folder = t.testdir({
    'a.test.js': `${say(...text, 'not ok 1 - sums', 'ok 2 - x', '1..2')} process.exitCode = 1;`,
  });
  const result = runFiles(folder);
  t.match(result, { status: 1, last: '1 passed, 1 failed' });
  t.match(result.output, /FAILED: sums\n.*not ok 2 - loud/);
  t.match(result.output, /diff: 1/);
  t.notMatch(result.output, /quiet/);
});

t.test('a file that does not run to its end is a failure', async (t) => {
  const files: Record<string, [string, RegExp]> = {
    'throws before any test': ['throw new Error("boom");', /status 1[\s\S]*boom/],
    'prints nothing': ['', /holds no tests/],
    'prints no TAP': [say('hello'), /holds no tests/],
    'stops early': [say('ok 1 - one', '1..2'), /ended before its last test/],
    'exits before its plan': [say('ok 1 - one'), /ended before its last test/],
    'passes, then ends badly': [`${passing} process.exitCode = 7;`, /status 7/],
    'is killed': [`${say('ok 1 - one')} process.kill(process.pid, 'SIGKILL');`, /SIGKILL/],
  };
  for (const [name, [source, reason]] of Object.entries(files)) {
    const result = runFiles(t.testdir({ 'a.test.js': source }));
    t.equal(result.status, 1, name);
    t.match(result.last, /, 1 failed$/, name);
    t.match(result.output, reason, name);
  }
});

t.test('a file that takes too long is stopped', async (t) => {
  const folder = t.testdir({ 'a.test.js': 'setInterval(() => {}, 1000);' });
  const result = runFiles(folder, { arguments: ['--limit', '0.5'] });
  t.match(result, { status: 1, last: '0 passed, 1 failed' });
  t.match(result.output, /took longer than 0.5 s/);
});

t.test('skipped tests are told apart, and CI allows none', async (t) => {
  const skipping = say(
    'ok 1 - one',
    'ok 2 - data # SKIP no folder',
    '    ok 1 - inner # SKIP',
    'ok 3 - later # TODO',
    '1..3',
  );
  const folder = t.testdir({ 'a.test.js': skipping });
  const result = runFiles(folder);
  t.match(result, { status: 0, last: '1 passed, 0 failed, 3 skipped' });
  t.match(result.output, /skipped: data \(no folder\)/);
  const inCi = runFiles(folder, { environment: { CI: 'true' } });
  t.match(inCi, { status: 1, last: '1 passed, 3 failed' });
  t.match(inCi.output, /"data" was skipped, which CI does not allow/);
});

t.test('without its data folder CI fails at once and says why', async (t) => {
  const folder = t.testdir({ 'a.test.js': passing });
  const result = runFiles(folder, { environment: { CI: 'true', QUANTD_DATA: 'no/such/folder' } });
  t.match(result, { status: 1, last: '0 passed, 1 failed' });
  t.match(result.output, /data folder .*no\/such\/folder is absent/);
});

t.test('seed and data folder reach every test file', async (t) => {
  const source = `console.log(process.env.QUANTD_SEED === '42' && process.env.QUANTD_DATA[0] === '/' ? 'ok 1 - x' : 'not ok 1 - x'); ${say('1..1')}`;
  const result = runFiles(t.testdir({ 'a.test.js': source }), { arguments: ['--seed', '42'] });
  t.match(result, { status: 0, last: '1 passed, 0 failed' });
  t.match(result.output, /seed 42/);
});

t.test('the reader takes what tap prints: diagnostics, times, comments', async (t) => {
  const text = [
    'TAP version 14',
    '# seed 3',
    'not ok 1 - flat # time=2.5ms',
    '  ---',
    '  diff: 2',
    '  ...',
    'ok 2 - b # time=1ms',
    '1..2',
  ];
  t.same(readTapOutput(text.join('\n')), {
    passed: 1,
    failures: [{ name: 'flat', output: ['  ---', '  diff: 2', '  ...'] }],
    skipped: [],
    isComplete: true,
    comments: ['# seed 3'],
  });
  const skippedFile = [{ name: 'the whole file', reason: 'no data' }];
  t.match(readTapOutput('TAP version 14\n1..0 # no data'), { passed: 0, skipped: skippedFile, isComplete: true });
  t.match(readTapOutput('1..0'), { passed: 0, skipped: [], isComplete: true });
});
