import type { Command } from 'commander';
import { formatMs, table } from '../terminal.js';
import { addTargetOptions, type JobFlags, jobOptions, printJson, runWithProgress } from './common.js';

/** Adds `quantd bench`, whose action prints the report on stdout and fails with the job's EdgeError. */
export function registerBench(program: Command, environment: NodeJS.ProcessEnv): void {
  const command = program
    .command('bench')
    .description(
      'time a model in ONNX Runtime, float and uniform int8, and artifacts made from it, interleaved in one run',
    )
    .argument('<model>', 'float ONNX model')
    .argument('[artifacts...]', 'files written by `quantd quantize`');
  addTargetOptions(command, environment).action(async (model: string, artifacts: string[], flags: JobFlags) => {
    const report = await runWithProgress('bench', { ...jobOptions(model, flags), artifacts }, flags);
    if (flags.json) return printJson(report);
    const rows = report.runs.map((run) => [
      run.name,
      formatMs(run.minMs),
      formatMs(run.medianMs),
      run.samples,
      `${report.speedups[run.name]!.toFixed(2)} x`,
    ]);
    process.stdout.write(`${table(['model', 'minimum', 'median', 'runs', 'against int8'], rows)}\n`);
  });
}
