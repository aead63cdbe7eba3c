import { type Command, Option } from 'commander';
import { selectorForms } from '../selector.js';
import type { AheadChoice } from '../server/fleet.js';
import { addClientOptions, type ClientFlags, clientOf, printJson, printTable } from './common.js';
import { allDevices, type DeviceDocument } from './devices.js';

interface AheadFlags extends ClientFlags {
  readonly selector: string;
  readonly take?: AheadChoice;
}

/** Adds `ahead`: devices whose orders are newer than the database, as after a restored backup, and what is to hold for them. */
export function registerAhead(program: Command, environment: NodeJS.ProcessEnv): void {
  const ahead = program
    .command('ahead')
    .description(
      'devices with newer orders than this database (it was restored?): nothing is sent to them until you decide',
    )
    .option('--selector <selector>', selectorForms, 'all')
    .addOption(
      new Option('--take <side>', 'decide: what the console wants holds, or what each device runs').choices([
        'console',
        'device',
      ]),
    );
  addClientOptions(ahead, environment)
    .addHelpText(
      'after',
      '\nWithout --take, nothing is changed.\n\nExample:\n  fleet ahead --selector group=drones --take device',
    )
    .action(async (flags: AheadFlags) => {
      const client = await clientOf(flags);
      const found = (await allDevices(client, flags.selector)).filter(({ isAhead }) => isAhead);
      const devices: DeviceDocument[] = [];
      for (const device of found) {
        if (flags.take === undefined) devices.push(device);
        else {
          const path = `/v1/devices/${encodeURIComponent(device.id)}/adopt?take=${flags.take}`;
          devices.push(await client.send<DeviceDocument>('POST', path, {}));
        }
      }
      if (flags.json) return printJson({ devices });
      if (devices.length === 0) {
        process.stdout.write('no device is ahead of this console\n');
        return;
      }
      const rows = devices.flatMap(({ id, desired, reported }) => {
        const targets = new Set([...Object.keys(desired?.targets ?? {}), ...Object.keys(reported?.targets ?? {})]);
        return [...targets].map((target) => [
          id,
          target,
          desired?.targets[target]?.release.id ?? '-',
          reported?.targets[target]?.active?.release ?? '-',
          desired?.generation ?? 0,
          reported?.observedGeneration ?? 0,
        ]);
      });
      printTable(['device', 'target', 'console wants', 'device runs', 'generation', 'device has seen'], rows);
      if (flags.take === undefined) process.stdout.write('\ndecide with --take console or --take device\n');
    });
}
