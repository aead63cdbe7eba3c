import type { Command } from 'commander';
import { formatPercent, table } from '../terminal.js';
import { addStateAndJson, type JobFlags, printJson, runWithProgress } from './common.js';

/** Adds `quantd evaluate`, whose action prints the report on stdout and fails with the job's EdgeError. */
export function registerEvaluate(program: Command, environment: NodeJS.ProcessEnv): void {
  const command = program
    .command('evaluate')
    .description(
      'quality of a produced artifact, run on its own target: against labels, and against the float model it was made from',
    )
    .argument('<artifact>', 'file written by `quantd quantize`')
    .option('--data <dir>', 'sample set to evaluate on (default: synthetic samples, against the float model alone)');
  addStateAndJson(command, environment).action(
    async (artifact: string, flags: Pick<JobFlags, 'data' | 'json' | 'state'>) => {
      const report = await runWithProgress(
        'evaluate',
        { artifact, data: flags.data },
        { threads: 1, state: flags.state },
      );
      if (flags.json) return printJson(report);
      const { quality } = report;
      const row = [
        quality.samples,
        formatPercent(quality.floatTop1),
        formatPercent(quality.top1),
        formatPercent(quality.agreement),
        quality.kl?.toFixed(4) ?? null,
      ];
      process.stdout.write(`${table(['samples', 'float top-1', 'top-1', 'agreement', 'KL'], [row])}\n`);
      if (quality.source === 'synthetic')
        process.stdout.write('\nsynthetic samples: no substitute for real ones, which --data DIR gives\n');
    },
  );
}
