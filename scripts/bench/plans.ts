/**
 * What plans are worth, end to end through the command line: without a budget the chosen plan against the faster of all-float
 * and all-int8; at the midpoint between the fastest and the most accurate plan, whether the measured latency holds; below the
 * fastest plan, whether the budget is refused with a frontier. Wall seconds of a whole first run beside it.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { QuantizeDocument } from '../../agent/report.js';
import { table } from '../../agent/terminal.js';
import type { BenchModel } from './models.js';

const main = fileURLToPath(new URL('../../agent/main.js', import.meta.url));

interface Run {
  readonly code: number | null;
  readonly seconds: number;
  readonly document: QuantizeDocument;
}

export function plansBench(models: readonly BenchModel[]): unknown {
  const folder = mkdtempSync(join(tmpdir(), 'quantd-bench-'));
  try {
    const rows = models.map((model) => {
      process.stderr.write(`${model.name}\n`);
      return benchOne(model, folder);
    });
    const ms = (value: number | null) => value?.toFixed(3) ?? '-';
    const cells = rows.map((row) => [
      row.model,
      row.seconds.toFixed(1),
      ms(row.float),
      ms(row.int8),
      ms(row.plan),
      row.againstFaster.toFixed(3),
      ms(row.midpoint.budget),
      ms(row.midpoint.measured),
      row.midpoint.holds ? 'holds' : 'missed',
      row.refused ? 'refused' : 'ACCEPTED',
    ]);
    const header = [
      'model',
      'wall s',
      'float ms',
      'int8 ms',
      'plan ms',
      'plan/faster',
      'midpoint ms',
      'measured ms',
      '',
      'below fastest',
    ];
    process.stdout.write(`${table(header, cells)}\n`);
    return { rows };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function benchOne(model: BenchModel, folder: string) {
  const first = quantize(model, folder, []);
  const { latency, frontier } = first.document;
  const fastest = frontier[0]!.latency;
  const mostAccurate = frontier[frontier.length - 1]!.latency;
  const budget = (fastest + mostAccurate) / 2;
  const middle = quantize(model, folder, ['--budget', `latency=${budget}ms`]);
  const below = quantize(model, folder, ['--budget', `latency=${fastest / 4}ms`]);
  return {
    model: model.name,
    seconds: first.seconds,
    float: latency.float,
    int8: latency.int8,
    plan: latency.measured,
    againstFaster: latency.measured! / Math.min(latency.float!, latency.int8!),
    ends: { fastest, mostAccurate },
    midpoint: {
      budget,
      measured: middle.document.latency.measured,
      holds: middle.code === 0 && middle.document.latency.measured! <= budget,
      rounds: middle.document.rounds,
    },
    refused: below.code === 3 && below.document.frontier.length > 0,
  };
}

function quantize(model: BenchModel, folder: string, options: readonly string[]): Run {
  const started = performance.now();
  const paths = ['--data', model.data, '--state', join(folder, 'state', model.name), '--out', join(folder, 'out')];
  const child = spawnSync(process.execPath, [main, 'quantize', model.path, ...paths, ...options, '--json'], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  const seconds = (performance.now() - started) / 1000;
  if (child.stdout === '') throw new Error(`${model.name} ${options.join(' ')}: ${child.stderr.slice(-500)}`);
  return { code: child.status, seconds, document: JSON.parse(child.stdout) as QuantizeDocument };
}
