/**
 * `npm test`: runs the compiled test files, each a tap program in a process of its own, two at a time. Counted are tests: the
 * top-level results of the files; a file that crashes, runs out of time or holds no tests counts as one failure. The last line is
 * `N passed, N failed`, with `, N skipped` where some were.
 *
 *   npm test -- [--seed N] [--jobs N] [FILTER...]      files whose path contains one of the filters
 *
 * Tests take their seed from QUANTD_SEED and their sample models from QUANTD_DATA (default: ../shared/data beside the checkout);
 * those that need the data skip where it is absent. With CI=true nothing may be skipped, except what `skipsAllowedInCi` names.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { readTapOutput, type TapOutput } from './tap-output.js';

/** Tests that CI may skip, by name, with the reason. */
const skipsAllowedInCi: Readonly<Record<string, string>> = {
  'inputs at the top of their range saturate an x86 without VNNI, unless weights are kept small':
    'machines differ: where the processor has VNNI, nothing saturates that could be looked at',
};

/** A single file may take so long, and so may one of its tests. */
const fileLimitSeconds = 600;
const killGraceMs = 5000;
/** Of what a crashed file wrote to stderr, the last lines are shown. */
const stderrLines = 40;

interface Settings {
  /** Holds the compiled test files. */
  readonly folder: string;
  readonly data: string;
  readonly seed: number;
  readonly jobs: number;
  readonly limitSeconds: number;
  readonly isCi: boolean;
}

interface Ended {
  readonly stdout: string;
  readonly stderr: string;
  /** Why the process did not end well; null if it did. */
  readonly fault: string | null;
}

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const root = fileURLToPath(new URL('../../', import.meta.url));
const running = new Set<ChildProcess>();

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function run(file: string, settings: Settings): Promise<Ended> {
  return new Promise((done) => {
    const environment = {
      ...process.env,
      QUANTD_DATA: settings.data,
      QUANTD_SEED: String(settings.seed),
      TAP_TIMEOUT: String(settings.limitSeconds),
    };
    const child = spawn(process.execPath, ['--enable-source-maps', join(settings.folder, file)], {
      cwd: root,
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    running.add(child);
    let stdout = '';
    let stderr = '';
    let isLate = false;
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const limit = setTimeout(() => {
      isLate = true;
      child.kill('SIGTERM');
      setTimeout(() => child.kill('SIGKILL'), killGraceMs).unref();
    }, settings.limitSeconds * 1000);
    const end = (fault: string | null) => {
      clearTimeout(limit);
      running.delete(child);
      done({ stdout, stderr, fault: isLate ? `took longer than ${settings.limitSeconds} s` : fault });
    };
    child.on('error', (error) => end(error.message));
    child.on('close', (status, signal) => end(status === 0 ? null : `ended with ${signal ?? `status ${status}`}`));
  });
}

/** What is wrong with a file beside its failed tests; null if nothing is. */
function faultOf(ended: Ended, tap: TapOutput): string | null {
  const hasResults = tap.passed + tap.failures.length + tap.skipped.length > 0;
  if (tap.failures.length > 0 && tap.isComplete) return null;
  if (ended.fault !== null) return ended.fault;
  if (!hasResults) return 'holds no tests';
  return tap.isComplete ? null : 'ended before its last test';
}

async function test(file: string, settings: Settings): Promise<Counts> {
  const started = performance.now();
  const ended = await run(file, settings);
  const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(6);
  const tap = readTapOutput(ended.stdout);
  const fault = faultOf(ended, tap);
  const unwelcome = settings.isCi ? tap.skipped.filter(({ name }) => !(name in skipsAllowedInCi)) : [];
  const failed = tap.failures.length + (fault === null ? 0 : 1) + unwelcome.length;
  const counts = { passed: tap.passed, failed, skipped: tap.skipped.length - unwelcome.length };
  print(`${failed === 0 ? 'ok    ' : 'FAILED'} ${seconds} s  ${file.replace(/\.js$/, '.ts')}: ${summary(counts)}`);
  for (const { name, reason } of tap.skipped) print(`         skipped: ${name}${reason === '' ? '' : ` (${reason})`}`);
  for (const { name } of unwelcome) print(`         FAILED: "${name}" was skipped, which CI does not allow`);
  for (const failure of tap.failures) {
    print(`         FAILED: ${failure.name}`);
    for (const line of failure.output) print(`           ${line}`);
  }
  if (fault !== null) {
    print(`         FAILED: the file ${fault}`);
    for (const line of [...ended.stdout.split('\n').slice(-10), ...ended.stderr.split('\n').slice(-stderrLines)]) {
      if (line.trim() !== '') print(`           ${line}`);
    }
  }
  if (failed > 0) for (const comment of tap.comments) print(`         ${comment}`);
  return counts;
}

function summary({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

/** Runs the files, `jobs` at a time. */
async function testAll(files: readonly string[], settings: Settings): Promise<Counts> {
  const total: Counts = { passed: 0, failed: 0, skipped: 0 };
  const queue = [...files];
  const work = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const counts = await test(file, settings);
      total.passed += counts.passed;
      total.failed += counts.failed;
      total.skipped += counts.skipped;
    }
  };
  await Promise.all(Array.from({ length: settings.jobs }, work));
  return total;
}

function fail(reason: string): void {
  print(`FAILED: ${reason}`);
  print(summary({ passed: 0, failed: 1, skipped: 0 }));
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seed: { type: 'string', default: process.env.QUANTD_SEED ?? String(Date.now() % 2 ** 31) },
      jobs: { type: 'string', default: '2' },
      folder: { type: 'string', default: join(root, 'dist', 'test') },
      limit: { type: 'string', default: String(fileLimitSeconds) },
    },
  });
  const settings: Settings = {
    folder: resolve(values.folder),
    data: resolve(root, process.env.QUANTD_DATA ?? '../shared/data'),
    seed: Number(values.seed),
    jobs: Math.max(1, Number(values.jobs)),
    limitSeconds: Number(values.limit),
    isCi: process.env.CI === 'true',
  };
  if (settings.isCi && !existsSync(settings.data)) {
    return fail(
      `the data folder ${settings.data} is absent, and CI may not skip the tests that need it; set QUANTD_DATA`,
    );
  }
  const files = readdirSync(settings.folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.js'))
    .filter(
      (file) => positionals.length === 0 || positionals.some((filter) => file.includes(filter.replace(/\.ts$/, ''))),
    )
    .sort();
  if (files.length === 0)
    return fail(`no test file in ${settings.folder} matches ${positionals.join(', ') || '*.test.js'}`);
  print(`${files.length} files, seed ${settings.seed} (repeat with: npm test -- --seed ${settings.seed})`);
  const total = await testAll(files, settings);
  print(summary(total));
  process.exitCode = total.failed === 0 ? 0 : 1;
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    for (const child of running) child.kill('SIGKILL');
    process.exit(130);
  });
}
await main();
