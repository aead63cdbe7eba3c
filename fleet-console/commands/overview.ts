import type { Command } from 'commander';
import { deviceStates } from '../device-state.js';
import { selectorForms } from '../selector.js';
import type { ComparedTarget, StateCounts } from '../server/fleet-view.js';
import type { StoredEvent } from '../server/store.js';
import type { OverviewDocument } from '../server/view-api.js';
import {
  addClientOptions,
  type ClientFlags,
  clientOf,
  inBytes,
  inPercent,
  inUnit,
  printJson,
  printTable,
} from './common.js';

/** Adds `overview` and `history`. */
export function registerOverview(program: Command, environment: NodeJS.ProcessEnv): void {
  const overview = program.command('overview').description('the fleet in numbers, and what needs somebody');
  addClientOptions(overview, environment).action(async (flags: ClientFlags) => {
    const answer = await (await clientOf(flags)).get<OverviewDocument>('/v1/overview');
    if (flags.json) return printJson(answer);
    process.stdout.write(
      `${answer.devices} devices, ${answer.online} online: ${countsText(answer.states) || 'none yet'}\n\n`,
    );
    printTable(
      ['hardware class', 'devices', 'states'],
      answer.classes.map(({ hardwareClass, devices, states }) => [hardwareClass, devices, countsText(states)]),
    );
    process.stdout.write('\n');
    printTable(
      ['release', 'wanted', 'active', 'confirmed'],
      answer.releases.map(({ release, wanted, active, confirmed }) => [release, wanted, active, confirmed]),
    );
    const attention = [
      ...answer.attention.map(({ state, devices, first }) => [state, devices, first.map(({ id }) => id).join(', ')]),
      ...answer.leftBehind.map(({ id, release, status, devices, first }) => [
        `failed in rollout ${id} of ${release}, which is ${status}`,
        devices,
        first.join(', '),
      ]),
    ];
    if (attention.length === 0) return;
    process.stdout.write('\n');
    printTable(['needs somebody', 'devices', 'first of them'], attention);
  });

  const history = program
    .command('history')
    .description('what devices have reported, newest first')
    .option('--device <id>', 'of this device only')
    .option('--limit <n>', 'how many', '50')
    .option('--before <number>', 'older than this one, to go on');
  addClientOptions(history, environment).action(
    async (flags: ClientFlags & { device?: string; limit: string; before?: string }) => {
      const { device, limit, before } = flags;
      const answer = await (await clientOf(flags)).get<{ events: StoredEvent[]; next: number | null }>('/v1/history', {
        device,
        limit,
        before,
      });
      if (flags.json) return printJson(answer);
      const rows = answer.events.map(({ number, event }) => [
        number,
        event.time,
        event.target === null ? event.device : `${event.device}/${event.target}`,
        event.type,
        event.message,
      ]);
      printTable(['number', 'time', 'device', 'event', 'message'], rows);
    },
  );
}

/** Adds `release compare` below `release`. */
export function registerCompare(release: Command, environment: NodeJS.ProcessEnv): void {
  const compare = release
    .command('compare')
    .description('what two releases measured on the devices that have run both, one after the other')
    .argument('<base>')
    .argument('<other>')
    .option('--to <selector>', selectorForms, 'all');
  addClientOptions(compare, environment).action(
    async (base: string, other: string, flags: ClientFlags & { to: string }) => {
      const query = { base, other, selector: flags.to };
      const answer = await (await clientOf(flags)).get<{ targets: ComparedTarget[] }>('/v1/comparisons', query);
      if (flags.json) return printJson(answer);
      const pair = (a: string, b: string) => `${a} -> ${b}`;
      const rows = answer.targets.map(({ device, target, base: was, other: is }) => [
        `${device}/${target}`,
        pair(inUnit(was.latency.measured, was.latency.unit), inUnit(is.latency.measured, is.latency.unit)),
        pair(inUnit(was.latency.p95, was.latency.unit), inUnit(is.latency.p95, is.latency.unit)),
        pair(inBytes(was.ramBytes), inBytes(is.ramBytes)),
        pair(inPercent(was.quality.top1), inPercent(is.quality.top1)),
        pair(inPercent(was.quality.agreement), inPercent(is.quality.agreement)),
      ]);
      printTable(['target', 'latency', 'p95', 'RAM', 'top-1', 'agreement'], rows);
    },
  );
}

function countsText(states: StateCounts): string {
  return deviceStates
    .filter((state) => states[state] > 0)
    .map((state) => `${states[state]} ${state}`)
    .join(', ');
}
