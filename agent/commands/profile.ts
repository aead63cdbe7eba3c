import type { Command } from 'commander';
import { formatLatency, table } from '../terminal.js';
import { addTargetOptions, type JobFlags, jobOptions, printJson, runWithProgress } from './common.js';

/** Adds `quantd profile`, whose action prints the report on stdout and fails with the job's EdgeError. */
export function registerProfile(program: Command, environment: NodeJS.ProcessEnv): void {
  const command = program
    .command('profile')
    .description(
      'time every distinct operator of a model on this machine at every precision; what is stored is not timed again',
    )
    .argument('<model>', 'float ONNX model');
  addTargetOptions(command, environment).action(async (model: string, flags: JobFlags) => {
    const report = await runWithProgress('profile', jobOptions(model, flags), flags);
    if (flags.json) return printJson(report);
    const latency = (value: number) => formatLatency(value, report.unit);
    const precisions = [...new Set(report.rows.map((row) => row.precision))].sort();
    const keys = [...new Set(report.rows.map((row) => row.key))];
    const rows = keys.map((key) => {
      const own = report.rows.filter((row) => row.key === key);
      const cells = precisions.map((precision) => {
        const row = own.find((candidate) => candidate.precision === precision);
        return row === undefined ? null : `${latency(row.median)}${row.throttled ? '!' : ''}`;
      });
      const spread = Math.max(...own.map((row) => row.spread));
      return [
        own[0]!.op,
        key.length > 64 ? `${key.slice(0, 61)}...` : key,
        own[0]!.count,
        ...cells,
        `${(spread * 100).toFixed(0)} %`,
      ];
    });
    process.stdout.write(`${table(['type', 'operator key', 'count', ...precisions, 'spread'], rows)}\n`);
    process.stdout.write(
      `\nper run ${latency(report.overheads.run)}, per node ${latency(report.overheads.node)}; medians; ! = the machine slowed down\n`,
    );
  });
}
