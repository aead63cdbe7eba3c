import type { Command } from 'commander';
import type { FrontierDocument } from '../report.js';
import { formatBytes, formatLatency, table } from '../terminal.js';
import { addJobOptions, type JobFlags, jobOptions, printJson, runWithProgress } from './common.js';

/** Adds `quantd frontier`, whose action prints the report on stdout and fails with the job's EdgeError. */
export function registerFrontier(program: Command, environment: NodeJS.ProcessEnv): void {
  const command = program
    .command('frontier')
    .description('the best plans there are, from fastest to most accurate, solved from stored tables')
    .argument('<model>', 'float ONNX model');
  addJobOptions(command, environment).action(async (model: string, flags: JobFlags) => {
    const report = await runWithProgress('frontier', jobOptions(model, flags), flags);
    if (flags.json) return printJson(report);
    printFrontier(report.frontier, report.unit);
    const { float, int8 } = report.uniform;
    const allFloat = float === null ? '' : `all float ${formatLatency(float, report.unit)}, `;
    process.stdout.write(`\n${allFloat}all int8 ${formatLatency(int8, report.unit)} (predicted)\n`);
  });
}

/** Prints plans as a table on stdout, a row each, in the order given. */
export function printFrontier(points: readonly FrontierDocument[], unit: string): void {
  const rows = points.map((point) => [
    formatLatency(point.latency, unit),
    point.sensitivity.toExponential(2),
    formatBytes(point.sizeBytes),
    formatBytes(point.ramBytes),
    point.averageWeightBits.toFixed(1),
  ]);
  process.stdout.write(`${table(['latency', 'sensitivity', 'size', 'RAM', 'weight bits'], rows)}\n`);
}
