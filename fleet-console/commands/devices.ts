import type { Command } from 'commander';
import type { DeviceEvent } from '../../configs/contracts/device.js';
import type { ConsoleClient } from '../client.js';
import { standingOf } from '../device-state.js';
import { selectorForms } from '../selector.js';
import type { RolloutNews } from '../server/rollouts.js';
import type { DeviceDocument } from '../server/store.js';
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

export type { DeviceDocument } from '../server/store.js';

/** Adds `devices`, `device` and `watch`. */
export function registerDevices(program: Command, environment: NodeJS.ProcessEnv): void {
  const devices = program
    .command('devices')
    .description('what runs on each device, and how well')
    .option('--selector <selector>', selectorForms, 'all');
  addClientOptions(devices, environment).action(async (flags: ClientFlags & { selector: string }) => {
    const list = await allDevices(await clientOf(flags), flags.selector);
    if (flags.json) printJson({ devices: list });
    else printDevices(list);
  });

  const device = program
    .command('device')
    .description('everything about one device')
    .argument('<id>')
    .option('--adopt', 'let a device that is ahead of this console take its word again');
  addClientOptions(device, environment).action(async (id: string, flags: ClientFlags & { adopt?: boolean }) => {
    const client = await clientOf(flags);
    const path = `/v1/devices/${encodeURIComponent(id)}`;
    const document = flags.adopt
      ? await client.send<DeviceDocument>('POST', `${path}/adopt`, {})
      : await client.get<DeviceDocument>(path);
    if (flags.json) printJson(document);
    else printDevice(document);
  });

  const watch = program.command('watch').description('follows the fleet: what devices do, as they do it');
  addClientOptions(watch, environment)
    .addHelpText('after', '\nWith --json, one document a line.')
    .action(async (flags: ClientFlags) => {
      const abort = new AbortController();
      process.once('SIGINT', () => abort.abort());
      process.once('SIGTERM', () => abort.abort());
      const client = await clientOf(flags);
      const steps = new Map<string, string>();
      for await (const { event, data } of client.events(abort.signal)) {
        if (flags.json) process.stdout.write(`${JSON.stringify({ event, data })}\n`);
        else if (event === 'event') printEvent(data as DeviceEvent);
        else if (event === 'rollout') printRollout(data as RolloutNews);
        else await printStep(client, (data as { id: string }).id, steps);
      }
    });
}

/** Every page of the devices that a selector names. */
export async function allDevices(client: ConsoleClient, selector: string): Promise<DeviceDocument[]> {
  const list: DeviceDocument[] = [];
  for (let after: string | null = ''; after !== null; ) {
    const page: { devices: DeviceDocument[]; next: string | null } = await client.get('/v1/devices', {
      selector,
      after,
      limit: 500,
    });
    list.push(...page.devices);
    after = page.next;
  }
  return list;
}

function printDevices(list: readonly DeviceDocument[]): void {
  const rows = list.map((device) => {
    const [target] = Object.values(device.reported?.targets ?? {});
    const [wanted] = Object.values(device.desired?.targets ?? {});
    const measured = target?.active?.measurements;
    return [
      device.id,
      device.birth.labels.group ?? '-',
      standingOf(device).state,
      target?.active?.release ?? '-',
      budgetText(wanted?.budget ?? {}),
      inUnit(measured?.latency.measured, measured?.latency.unit),
      inUnit(measured?.latency.int8, measured?.latency.unit),
      inPercent(measured?.quality.top1),
      inPercent(measured?.quality.agreement),
      inBytes(measured?.sizeBytes),
      target?.step == null ? '-' : `${target.step.name} ${Math.round(target.step.share * 100)}%`,
    ];
  });
  printTable(
    ['device', 'group', 'state', 'active', 'budget', 'latency', 'int8', 'top-1', 'agreement', 'size', 'step'],
    rows,
  );
}

function printDevice(device: DeviceDocument): void {
  const print = (text: string) => process.stdout.write(`${text}\n`);
  const { birth, reported, desired } = device;
  print(
    `${device.id}: ${standingOf(device).state}, last seen ${device.lastSeen}, quantd ${birth.agentVersion}, class ${birth.hardwareClass}`,
  );
  print(
    `labels: ${
      Object.entries(birth.labels)
        .map((label) => label.join('='))
        .join(', ') || 'none'
    }`,
  );
  print(`generation: wanted ${desired?.generation ?? 0}, seen ${reported?.observedGeneration ?? 0}`);
  const ids = new Set([...Object.keys(desired?.targets ?? {}), ...Object.keys(reported?.targets ?? {})]);
  for (const id of ids) {
    const wanted = desired?.targets[id];
    const { active = null, previous = null, step = null, frontier = [] } = reported?.targets[id] ?? {};
    print(`\ntarget ${id}`);
    print(`  wanted    ${wanted === undefined ? '-' : `${wanted.release.id}, budget ${budgetText(wanted.budget)}`}`);
    print(
      `  active    ${active === null ? '-' : `${active.release}${active.isConfirmed ? ', confirmed' : ''}, since ${active.since}`}`,
    );
    print(`  previous  ${previous?.release ?? '-'}`);
    if (step !== null) print(`  now       ${step.name} ${Math.round(step.share * 100)}% ${step.text}`);
    if (active !== null) {
      const { latency, quality, sizeBytes } = active.measurements;
      const { unit } = latency;
      print(
        `  latency   float ${inUnit(latency.float, unit)}, int8 ${inUnit(latency.int8, unit)}, plan ${inUnit(latency.measured, unit)}`,
      );
      print(
        `  top-1     float ${inPercent(quality.floatTop1)}, int8 ${inPercent(quality.int8Top1)}, plan ${inPercent(quality.top1)}`,
      );
      print(`  agreement ${inPercent(quality.agreement)} over ${quality.samples} samples; size ${inBytes(sizeBytes)}`);
    }
    if (frontier.length > 0) {
      print('\n  frontier, fastest first:');
      printTable(
        ['  latency', 'sensitivity', 'size', 'weight bits'],
        frontier.map((point) => [
          `  ${inUnit(point.latency, active?.measurements.latency.unit)}`,
          point.sensitivity.toExponential(2),
          inBytes(point.sizeBytes),
          point.averageWeightBits.toFixed(1),
        ]),
      );
    }
  }
  if (reported === null || reported.conditions.length === 0) return;
  print('');
  printTable(
    ['condition', 'target', 'holds', 'reason', 'message'],
    reported.conditions.map(({ type, target, status, reason, message }) => [type, target, status, reason, message]),
  );
}

function printEvent({ time, device, target, type, message }: DeviceEvent): void {
  process.stdout.write(`${time}  ${device}${target === null ? '' : `/${target}`}  ${type}: ${message}\n`);
}

function printRollout({ id, reasons }: RolloutNews): void {
  for (const { time, device, text } of reasons)
    process.stdout.write(`${time}  rollout ${id}${device === null ? '' : `, ${device}`}  ${text}\n`);
}

/** Steps are told when they begin, not at every percent. */
async function printStep(client: ConsoleClient, id: string, steps: Map<string, string>): Promise<void> {
  const { reported } = await client.get<DeviceDocument>(`/v1/devices/${encodeURIComponent(id)}`);
  for (const [target, { step }] of Object.entries(reported?.targets ?? {})) {
    const name = step?.name ?? 'rests';
    if (steps.get(`${id}/${target}`) === name) continue;
    steps.set(`${id}/${target}`, name);
    process.stdout.write(`${reported!.time}  ${id}/${target}  ${name}\n`);
  }
}
