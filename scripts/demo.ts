/**
 * `npm run demo`: the pipeline on the bundled model, on this machine, with nothing downloaded. Version 1 is quantized for speed,
 * then planned again under a budget of 60 % of the float model's size, then version 2 is rolled over it under the same budget. The
 * tables of measured latencies are kept in between, so only the first run times operators; that is checked, not assumed.
 *
 *   npm run demo [-- --once] [--json]        --json: one JSON document on stdout; progress goes to stderr either way
 *
 * `--once` exits at the end. There is nothing to leave open yet, so the demo always does.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { ProfileReport } from '../agent/jobs/profile.js';
import type { QuantizeDocument } from '../agent/report.js';
import { formatBytes, formatMs, formatPercent, table } from '../agent/terminal.js';

interface DemoRun {
  readonly version: string;
  /** As typed on the command line; null for none. */
  readonly budget: string | null;
  readonly plan: { readonly averageWeightBits: number; readonly averageActivationBits: number };
  readonly size: QuantizeDocument['size'];
  readonly latency: QuantizeDocument['latency'];
  readonly quality: QuantizeDocument['quality'];
  readonly seconds: QuantizeDocument['seconds'];
  /** Whether operators were timed in this run. */
  readonly reprofiled: boolean;
}

const fromRoot = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const quantd = fromRoot('dist/agent/main.js');
const models = fromRoot('scripts/firewatch/model');
const samples = join(models, 'samples');
/** Of the float model's size, in the tightened budget: uniform int8 needs 43 %, so there is something to choose. */
const sizeShare = 0.6;
let child: ChildProcess | null = null;

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Runs the compiled command and answers its JSON document. Its progress shows on stderr. */
function callQuantd<T>(...args: string[]): Promise<T> {
  return new Promise((resolve, reject) => {
    const started = spawn(process.execPath, [quantd, ...args, '--json'], { stdio: ['ignore', 'pipe', 'inherit'] });
    child = started;
    let stdout = '';
    started.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    started.on('error', reject);
    started.on('close', (status, signal) => {
      if (status === 0) resolve(JSON.parse(stdout) as T);
      else reject(new Error(`quantd ${args.join(' ')} ended with ${signal ?? `status ${status}`}`));
    });
  });
}

async function quantize(version: string, budget: string | null, folder: string): Promise<DemoRun> {
  const model = join(models, `firewatch-${version}.onnx`);
  const state = ['--state', join(folder, 'state')];
  const started = new Date().toISOString();
  const document = await callQuantd<QuantizeDocument>(
    ...['quantize', model, '--data', samples, '--out', join(folder, `${version}-${budget ?? 'fastest'}`), ...state],
    ...(budget === null ? [] : ['--budget', budget]),
  );
  // The stored rows say when they were measured. Operators that cost nothing have made-up rows.
  const { rows } = await callQuantd<ProfileReport>('profile', model, ...state);
  const { plan, size, latency, quality, seconds } = document;
  return {
    version,
    budget,
    plan: { averageWeightBits: plan!.averageWeightBits, averageActivationBits: plan!.averageActivationBits },
    size,
    latency,
    quality,
    seconds,
    reprofiled: rows.some(({ median, measuredAt }) => median > 0 && measuredAt >= started),
  };
}

async function demonstrate(folder: string): Promise<DemoRun[]> {
  say('1/3  firewatch v1, no budget: profiles every operator on this machine, then takes the fastest plan');
  const first = await quantize('v1', null, folder);
  const budget = `size=${Math.round((first.size.floatBytes * sizeShare) / 1024)}KB`;
  say(`2/3  firewatch v1, ${budget}: plans again from the stored tables`);
  const tightened = await quantize('v1', budget, folder);
  say(`3/3  firewatch v2, ${budget}: new weights, the same operators`);
  const second = await quantize('v2', budget, folder);
  const replanned = [tightened, second].find(({ reprofiled }) => reprofiled);
  if (replanned !== undefined) throw new Error(`${replanned.version} under ${replanned.budget} timed operators again`);
  return [first, tightened, second];
}

/** `1.0 ms` and `2.0 ms` as `1.0 / 2.0 ms`. */
function sideBySide(texts: readonly string[]): string {
  const unitOf = (text: string) => text.replace(/^[^ ]*/, '');
  const unit = unitOf(texts.at(-1)!);
  return texts.every((text) => unitOf(text) === unit)
    ? texts.map((text) => text.slice(0, text.length - unit.length)).join(' / ') + unit
    : texts.join(' / ');
}

function printTable(runs: readonly DemoRun[]): void {
  const rows = runs.map(({ version, budget, plan, size, latency, quality, seconds, reprofiled }) => [
    version,
    budget ?? 'none',
    `W${plan.averageWeightBits.toFixed(1)} A${plan.averageActivationBits.toFixed(1)}`,
    sideBySide([size.floatBytes, size.artifactBytes ?? 0].map(formatBytes)),
    sideBySide([latency.float, latency.int8, latency.measured].map(formatMs)),
    sideBySide([quality.floatTop1, quality.int8Top1, quality.top1].map(formatPercent)),
    formatPercent(quality.agreement),
    reprofiled ? 'yes' : 'no',
    `${seconds.total!.toFixed(1)} s`,
  ]);
  const header = ['version', 'budget', 'bits', 'size float/plan', 'latency float/int8/plan', 'top-1 float/int8/plan'];
  process.stdout.write(`\n${table([...header, 'agreement', 'profiled', 'time'], rows)}\n`);
  const { samples: count } = runs[0]!.quality;
  process.stdout.write(
    `
Bits: 32 is float; an operator stays float where int8 is not faster on this machine and the budget allows it.
Latency: medians of ONNX Runtime on this machine, one thread, timed in turn. Quality: ${count} test samples.
`,
  );
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { once: { type: 'boolean' }, json: { type: 'boolean' } } });
  const { version } = JSON.parse(readFileSync(fromRoot('package.json'), 'utf8')) as { version: string };
  const folder = mkdtempSync(join(tmpdir(), 'quantd-demo-'));
  try {
    const runs = await demonstrate(folder);
    if (values.json) process.stdout.write(`${JSON.stringify({ quantd: version, target: 'ort', runs }, null, 2)}\n`);
    else printTable(runs);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

let isInterrupted = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    isInterrupted = true;
    child?.kill(signal);
  });
}
try {
  await main();
} catch (error) {
  say(isInterrupted ? 'demo: interrupted' : `demo: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = isInterrupted ? 130 : 1;
}
