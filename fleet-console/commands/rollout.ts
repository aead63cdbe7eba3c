import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { EdgeError } from '../../configs/contracts/errors.js';
import { parsePolicy, type RolloutPolicy, type Stage, stageName } from '../../configs/contracts/rollout.js';
import type { ConsoleClient } from '../client.js';
import { selectorForms } from '../selector.js';
import type { RolloutSummary } from '../server/rollout-store.js';
import type { RolloutAnswer, RolloutDevices, RolloutDocument, RolloutNews } from '../server/rollouts.js';
import { addClientOptions, type ClientFlags, clientOf, printJson, printTable } from './common.js';

type Device = RolloutDevices['devices'][number];

/** Devices that are listed by name; the rest are counted. */
const mostDevices = 50;
/** A rollout that is watched is looked at this often, whatever the stream says. */
const lookAgainMs = 2000;
/** Decisions that are shown with the status. */
const mostReasons = 10;

const policyHelp = `
A policy is JSON; every key has a default:
  { "stages": [{ "name": "canary", "count": 1, "bakeSeconds": 600 },
               { "percent": 25, "approval": true }, { "percent": 100 }],
    "gates": [{ "metric": "agreement", "mostDrop": 0.02 }, { "metric": "latencyMedian", "mostRatio": 1.2 }],
    "abort": [{ "class": "ANY", "percent": 10, "minimum": 5 }],
    "disruption": { "groupBy": "site", "maxUnavailable": 1 },
    "onFail": "rollback-all" }
All keys: fleet-console/README.md.`;

/** Adds `rollout` with its subcommands. */
export function registerRollout(program: Command, environment: NodeJS.ProcessEnv): void {
  const rollout = program
    .command('rollout')
    .description('spreads a release over devices in stages, watched by what they measure');
  const start = rollout
    .command('start')
    .description('starts a rollout')
    .argument('<release>', 'NAME@VERSION')
    .requiredOption('--to <selector>', selectorForms)
    .option('--policy <file>', 'how it spreads (default: everywhere at once, pausing at the first failure)')
    .option('--target <target>', 'target of the devices', 'host');
  addClientOptions(start, environment)
    .addHelpText('after', policyHelp)
    .action(async (release: string, flags: ClientFlags & { to: string; policy?: string; target: string }) => {
      const policy = flags.policy === undefined ? parsePolicy({}) : await readPolicy(flags.policy);
      const body = { release, selector: flags.to, target: flags.target, policy };
      const client = await clientOf(flags);
      const document = await client.send<RolloutDocument>('POST', '/v1/rollouts', body);
      if (flags.json) printJson(document);
      else await printStatus(client, document);
    });

  const list = rollout.command('list').description('rollouts, newest first');
  addClientOptions(list, environment).action(async (flags: ClientFlags) => {
    const answer = await (await clientOf(flags)).get<{ rollouts: RolloutSummary[] }>('/v1/rollouts');
    if (flags.json) return printJson(answer);
    const rows = answer.rollouts.map(({ id, release, selector, status, stage, policy, counts, createdAt }) => [
      id,
      release,
      selector,
      status,
      `${stage + 1} of ${policy.stages.length}`,
      countsText(counts),
      createdAt,
    ]);
    printTable(['rollout', 'release', 'devices', 'status', 'stage', 'states', 'started'], rows);
  });

  const status = rollout
    .command('status')
    .description('how far a rollout has come')
    .argument('[id]', 'number of the rollout (default: the newest that has not ended, else the newest)')
    .option('--watch', 'go on with every decision, until it ends; with --json, one document a line');
  addClientOptions(status, environment).action(
    async (id: string | undefined, flags: ClientFlags & { watch?: boolean }) => {
      const client = await clientOf(flags);
      const document = await find(client, id);
      if (flags.watch) return watch(client, document, flags.json === true);
      if (flags.json) printJson({ ...document, devices: await allDevices(client, document.id) });
      else await printStatus(client, document);
    },
  );

  const commands: [string, string][] = [
    ['pause', 'tells no further device anything'],
    ['resume', 'goes on, knowing of what has failed so far: that counts no more'],
    ['approve', 'lets the next stage begin'],
    ['abort', 'ends a rollout for good, where it stands'],
    ['rollback', 'sends every device that was told back to what it had before'],
  ];
  for (const [name, description] of commands) {
    const command = rollout
      .command(name)
      .description(description)
      .argument('[id]', 'number of the rollout (default: the newest that has not ended, else the newest)')
      .option('--because <text>', 'reason, for whoever looks later');
    addClientOptions(command, environment).action(
      async (id: string | undefined, flags: ClientFlags & { because?: string }) => {
        const client = await clientOf(flags);
        const { id: found } = await find(client, id);
        const body = flags.because === undefined ? {} : { because: flags.because };
        const document = await client.send<RolloutDocument>('POST', `/v1/rollouts/${found}/${name}`, body);
        if (flags.json) printJson(document);
        else await printStatus(client, document);
      },
    );
  }

  const why = rollout
    .command('why')
    .description('why a device is, or is not, updated')
    .argument('<device>')
    .option('--rollout <id>', 'in this one (default: the newest that has the device)');
  addClientOptions(why, environment).action(async (device: string, flags: ClientFlags & { rollout?: string }) => {
    const path = `/v1/devices/${encodeURIComponent(device)}/rollout`;
    const answer = await (await clientOf(flags)).get<RolloutAnswer>(path, { rollout: flags.rollout });
    if (flags.json) return printJson(answer);
    process.stdout.write(
      `${device}, ${answer.release} (rollout ${answer.rollout}, ${answer.status}): ${answer.state}\n`,
    );
    process.stdout.write(`  ${answer.why}\n`);
    for (const { time, text } of [...answer.history].reverse()) process.stdout.write(`  ${time}  ${text}\n`);
  });
}

async function readPolicy(path: string): Promise<RolloutPolicy> {
  const text = await readFile(path, 'utf8').catch((cause: Error) => {
    throw new EdgeError('rollout/invalid', `the policy cannot be read: ${cause.message}`, { subject: path, cause });
  });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new EdgeError('rollout/invalid', `the policy is not JSON: ${(cause as Error).message}`, {
      subject: path,
      cause,
    });
  }
  return parsePolicy(value, path);
}

/** The rollout that is named; else the newest that has not ended, else the newest. */
async function find(client: ConsoleClient, id: string | undefined): Promise<RolloutDocument> {
  if (id !== undefined) return client.get(`/v1/rollouts/${encodeURIComponent(id)}`);
  const { rollouts } = await client.get<{ rollouts: RolloutSummary[] }>('/v1/rollouts');
  const live = rollouts.find(({ status }) => ['running', 'paused', 'rolling-back'].includes(status)) ?? rollouts[0];
  if (live === undefined) throw new EdgeError('rollout/unknown', 'there was no rollout yet', { subject: 'rollout' });
  return client.get(`/v1/rollouts/${live.id}`);
}

async function allDevices(client: ConsoleClient, id: number): Promise<Device[]> {
  const list: Device[] = [];
  for (let after: string | null = ''; after !== null; ) {
    const page: RolloutDevices = await client.get(`/v1/rollouts/${id}/devices`, { after, limit: 1000 });
    list.push(...page.devices);
    after = page.next;
  }
  return list;
}

/** Follows a rollout, decision by decision; ends with it, or with Ctrl-C. */
async function watch(client: ConsoleClient, first: RolloutDocument, isJson: boolean): Promise<void> {
  const abort = new AbortController();
  const { signal } = abort;
  process.once('SIGINT', () => abort.abort());
  process.once('SIGTERM', () => abort.abort());
  if (!isJson) await printStatus(client, first);
  let last = first.reasons[0]?.number ?? 0;
  let document = first;
  while (!signal.aborted && !['completed', 'rolled-back', 'aborted'].includes(document.status)) {
    await newsOf(client, first.id, signal);
    document = await client.get<RolloutDocument>(`/v1/rollouts/${first.id}`);
    const fresh = document.reasons.filter(({ number }) => number > last).reverse();
    last = fresh.at(-1)?.number ?? last;
    const { id, release, status, stage } = document;
    if (isJson && fresh.length > 0)
      process.stdout.write(`${JSON.stringify({ id, release, status, stage, reasons: fresh } satisfies RolloutNews)}\n`);
    if (!isJson)
      for (const { time, device, text } of fresh) process.stdout.write(`${time}  ${device ?? 'rollout'}  ${text}\n`);
  }
}

/** Waits until a rollout has gone on, or for a while: what happened before the stream was open is not missed either. */
async function newsOf(client: ConsoleClient, id: number, signal: AbortSignal): Promise<void> {
  const enough = new AbortController();
  const stop = AbortSignal.any([signal, enough.signal]);
  const timer = setTimeout(() => enough.abort(), lookAgainMs);
  try {
    for await (const { event, data } of client.events(stop))
      if (event === 'rollout' && (data as RolloutNews).id === id) return;
  } catch (error) {
    if (!stop.aborted) throw error;
  } finally {
    clearTimeout(timer);
    enough.abort();
  }
}

async function printStatus(client: ConsoleClient, document: RolloutDocument): Promise<void> {
  const print = (text: string) => process.stdout.write(`${text}\n`);
  const { id, release, target, selector, status, waitsFor, policy, counts } = document;
  const devices = await allDevices(client, id);
  print(`rollout ${id}: ${release} on ${target} of ${selector}`);
  print(`${status}: ${waitsFor}`);
  print(`devices: ${countsText(counts)}\n`);
  printTable(
    ['stage', 'devices', 'bake', 'approval', 'progress'],
    policy.stages.map((stage, index) => [
      stageName(policy.stages, index),
      extentOf(stage),
      `${stage.bakeSeconds} s`,
      stage.approval ? (document.stages[index]!.isApproved ? 'given' : 'needed') : '-',
      progressOf(document, devices, index),
    ]),
  );
  const told = devices.filter(({ state }) => state !== 'waiting').sort((a, b) => rankOf(a) - rankOf(b));
  if (told.length > 0) {
    print('');
    const rows = told
      .slice(0, mostDevices)
      .map((device) => [device.id, (device.stage ?? 0) + 1, device.state, device.previous, detailOf(device)]);
    printTable(['device', 'stage', 'state', 'before', 'detail'], rows);
    if (told.length > mostDevices) print(`and ${told.length - mostDevices} more; all of them with --json`);
  }
  print('\ndecisions, newest last:');
  for (const { time, device, text } of document.reasons.slice(0, mostReasons).reverse())
    print(`  ${time}  ${device ?? 'rollout'}  ${text}`);
}

function extentOf({ count, percent, selector }: Stage): string {
  if (count !== undefined) return `${count} more`;
  return percent !== undefined ? `up to ${percent} %` : selector!;
}

function progressOf({ stage, stages, status }: RolloutDocument, devices: readonly Device[], index: number): string {
  const own = devices.filter((device) => device.stage === index);
  if (stages[index]!.startedMs === null) return 'not begun';
  const answered = own.filter(({ state }) => state !== 'waiting' && state !== 'updating').length;
  const hasEnded = index < stage || status === 'completed';
  return `${answered} of ${own.length} answered${hasEnded ? ', ended' : ''}`;
}

/** What needs attention comes first. */
function rankOf({ state }: Device): number {
  return ['failed', 'stranded', 'updating', 'returning', 'superseded', 'confirmed', 'returned'].indexOf(state);
}

function detailOf({ state, failure, gates }: Device): string {
  if (failure !== null && state !== 'confirmed') return `${failure.class}: ${failure.message}`;
  return gates.map(({ text }) => text).join('; ') || '-';
}

function countsText(counts: Readonly<Record<string, number>>): string {
  return (
    Object.entries(counts)
      .map(([state, count]) => `${count} ${state}`)
      .join(', ') || 'none yet'
  );
}
