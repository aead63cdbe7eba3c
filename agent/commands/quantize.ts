import type { Command } from 'commander';
import type { QuantizeDocument } from '../report.js';
import { bold, formatBytes, formatLatency, formatPercent, table } from '../terminal.js';
import { addJobOptions, exitCodes, type JobFlags, jobOptions, printJson, runWithProgress } from './common.js';
import { printFrontier } from './frontier.js';

/** Adds `quantd quantize`. An infeasible budget is no failure of its action: the report is printed, and the exit code is 3. */
export function registerQuantize(program: Command, environment: NodeJS.ProcessEnv): void {
  const command = program
    .command('quantize')
    .description(
      'profile a float ONNX model on this machine, plan its precisions under a budget, quantize, verify and write it',
    )
    .argument('<model>', 'float ONNX model')
    .requiredOption('--out <dir>', 'folder for the artifact, its card, plan and report');
  addJobOptions(command, environment)
    .addHelpText(
      'after',
      `
With a ceiling on latency, size, memory or energy the most accurate plan that holds the budget is chosen, without one the fastest,
as measured. sensitivity=N (see \`quantd frontier\`) bounds the estimated output error, drop=N% and agreement=N% the measured one.

Examples:
  quantd quantize model.onnx --data samples --out build
  quantd quantize model.onnx --data samples --out build --budget latency=0.8x,drop=1%
  quantd quantize model.onnx --out build --precisions W8A8       (uniform int8, data-free)`,
    )
    .action(async (model: string, flags: JobFlags & { out: string }) => {
      const document = await runWithProgress('quantize', { ...jobOptions(model, flags), out: flags.out }, flags);
      if (flags.json) printJson(document);
      else printQuantize(document);
      process.exitCode = document.feasible ? exitCodes.ok : exitCodes.infeasible;
    });
}

/** The report for people: the plan, then latency, size and quality of float, int8 and the plan side by side. */
export function printQuantize(document: QuantizeDocument): void {
  const print = (text: string) => process.stdout.write(`${text}\n`);
  if (document.plan === null || !document.feasible) {
    print(bold('No plan holds the budget.'));
    for (const shortfall of document.infeasible) {
      const value = (number: number | null) =>
        number === null ? 'unknown' : `${number}${shortfall.unit === null ? '' : ` ${shortfall.unit}`}`;
      print(
        `  ${shortfall.metric}: asked for ${value(shortfall.ceiling)}, the best that can be had is ${value(shortfall.minimum)}`,
      );
    }
    print('\nThe frontier, to choose a budget from:');
    printFrontier(document.frontier, document.latency.unit);
    return;
  }
  const { plan, latency, quality, size } = document;
  const format = (value: number | null) => formatLatency(value, latency.unit);
  print(
    table(
      ['operator', 'type', 'precision', 'predicted', 'sensitivity'],
      plan.operators.map((operator) => [
        operator.name,
        operator.op,
        operator.precision,
        format(operator.latency),
        operator.sensitivity.toExponential(1),
      ]),
    ),
  );
  print('');
  print(
    table(
      ['', 'latency', 'size', 'top-1', 'agreement', 'KL'],
      [
        ['float', format(latency.float), formatBytes(size.floatBytes), formatPercent(quality.floatTop1), '', ''],
        [
          'int8',
          format(latency.int8),
          '',
          formatPercent(quality.int8Top1),
          formatPercent(quality.int8Agreement),
          quality.int8Kl?.toFixed(4) ?? '-',
        ],
        [
          'plan',
          format(latency.measured),
          formatBytes(size.artifactBytes ?? 0),
          formatPercent(quality.top1),
          formatPercent(quality.agreement),
          quality.kl?.toFixed(4) ?? '-',
        ],
      ],
    ),
  );
  if (document.patches !== null) {
    const { split, grid, redundancy, ramBytes, ramBytesWithout } = document.patches;
    print(
      `\nthe first ${split} operators run in ${grid.rows} x ${grid.columns} patches: ${formatBytes(ramBytes)} of RAM instead of ${formatBytes(ramBytesWithout)}, ${formatPercent(redundancy.clipped)} more multiply-accumulates there`,
    );
  }
  const counter = latency.throttled ? ' (the machine slowed down while measuring)' : '';
  print(
    `\npredicted ${format(latency.predicted)}, measured ${format(latency.measured)}${counter}; ${quality.samples} ${quality.source} samples`,
  );
  print(`calibration: ${document.calibration.description}; ${document.seconds.total} s in all`);
  if (quality.source === 'synthetic')
    print('quality is that on synthetic samples: no substitute for real ones, which --data DIR gives');
  if (document.floatOperators.length > 0) {
    print(`kept float: ${[...new Set(document.floatOperators.map((operator) => operator.op))].join(', ')}`);
  }
  print(`artifact: ${document.artifact.path}`);
}
