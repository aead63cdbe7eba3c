import type { Command } from 'commander';
import type { DeviceResult } from '../../configs/contracts/device.js';
import {
  addClientOptions,
  budgetText,
  type ClientFlags,
  clientOf,
  inBytes,
  inPercent,
  inUnit,
  printJson,
  printTable,
} from './common.js';

/** What is shown of a `quantize` document. */
interface Document {
  readonly feasible?: boolean;
  readonly plan?: { readonly averageWeightBits?: number; readonly averageActivationBits?: number } | null;
  readonly latency?: { readonly unit?: string; readonly int8?: number | null; readonly measured?: number | null };
  readonly quality?: { readonly top1?: number | null; readonly agreement?: number | null };
  readonly size?: { readonly artifactBytes?: number | null };
  readonly seconds?: { readonly total?: number };
}

/** Adds `results`: what devices have measured. */
export function registerResults(program: Command, environment: NodeJS.ProcessEnv): void {
  const results = program
    .command('results')
    .description('what devices have measured: plans, latency, quality, newest first')
    .option('--device <id>', 'of this device only')
    .option('--limit <n>', 'how many', '50');
  addClientOptions(results, environment).action(async (flags: ClientFlags & { device?: string; limit: string }) => {
    const query = { device: flags.device, limit: flags.limit };
    const answer = await (await clientOf(flags)).get<{ results: DeviceResult[] }>('/v1/results', query);
    if (flags.json) return printJson(answer);
    const rows = answer.results.map(({ time, device, target, release, budget, document }) => {
      const { feasible, plan, latency, quality, size, seconds } = document as Document;
      return [
        time,
        `${device}/${target}`,
        release,
        budgetText(budget),
        feasible ? `W${plan?.averageWeightBits?.toFixed(1)} A${plan?.averageActivationBits?.toFixed(1)}` : 'infeasible',
        inUnit(latency?.measured, latency?.unit),
        inUnit(latency?.int8, latency?.unit),
        inPercent(quality?.top1),
        inPercent(quality?.agreement),
        inBytes(size?.artifactBytes),
        inUnit(seconds?.total, 's'),
      ];
    });
    const header = [
      'time',
      'target',
      'release',
      'budget',
      'plan',
      'latency',
      'int8',
      'top-1',
      'agreement',
      'size',
      'took',
    ];
    printTable(header, rows);
  });
}
