import type { Command } from 'commander';
import type { SharedTableDocument } from '../server/tables.js';
import { addClientOptions, type ClientFlags, clientOf, inUnit, printJson, printTable } from './common.js';

/** Adds `tables`: what devices of a hardware class have measured together. */
export function registerTables(program: Command, environment: NodeJS.ProcessEnv): void {
  const tables = program
    .command('tables')
    .description('latencies of operators, as devices alike have measured them together')
    .option('--class <hardwareClass>', 'of this hardware class only');
  addClientOptions(tables, environment).action(async (flags: ClientFlags & { class?: string }) => {
    const query = { hardwareClass: flags.class };
    const answer = await (await clientOf(flags)).get<{ tables: SharedTableDocument[] }>('/v1/tables', query);
    if (flags.json) return printJson(answer);
    if (answer.tables.length === 0) {
      process.stdout.write('no device has reported a table\n');
      return;
    }
    for (const { hardwareClass, unit, devices, quarantined, models, operators } of answer.tables) {
      const counted = (count: number, what: string) => `${count} ${what}${count === 1 ? '' : 's'}`;
      process.stdout.write(
        `${hardwareClass}: ${counted(devices.length, 'device')}, ${counted(models.length, 'model')}, ${counted(operators.length, 'operator')}\n`,
      );
      for (const { device, why } of quarantined) process.stdout.write(`  set aside: ${device}, ${why}\n`);
      printTable(
        ['operator', 'precision', 'median', 'minimum', 'spread', 'devices'],
        operators.flatMap(({ key, choices }) =>
          choices.map(({ precision, median, minimum, spread, donors }) => [
            key,
            precision,
            inUnit(median, unit),
            inUnit(minimum, unit),
            `${(spread * 100).toFixed(0)} %`,
            donors,
          ]),
        ),
      );
      process.stdout.write('\n');
    }
  });
}
