import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { parseBudget } from '../../agent/core/budget.js';
import { ModelCard } from '../../configs/contracts/card.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Release } from '../../configs/contracts/release.js';
import { validate } from '../../configs/contracts/validate.js';
import { selectorForms } from '../selector.js';
import { addClientOptions, budgetText, type ClientFlags, clientOf, inBytes, printJson, printTable } from './common.js';
import { registerCompare } from './overview.js';

interface ReleaseFlags extends ClientFlags {
  readonly name?: string;
  readonly version?: string;
  readonly card?: string;
  readonly budget?: string;
}

/** Adds `release MODEL`, `release assign`, `release list` and `release compare`. */
export function registerRelease(program: Command, environment: NodeJS.ProcessEnv): void {
  const release = program
    .command('release')
    .description('uploads a float model as a release; see also: release assign, release list')
    .argument('<model>', 'float ONNX model')
    // Not required as far as the parser knows: it would ask them of the commands below this one, too.
    .option('--name <name>', 'name of the release (required)')
    .option('--version <version>', 'its version; a release never changes (required)')
    .option('--card <file>', 'model card (default: MODEL.json beside the model)')
    .option('--budget <budget>', 'holds where no device, group or label has a budget of its own');
  addClientOptions(release, environment)
    .addHelpText(
      'after',
      `
Examples:
  fleet release model.onnx --name detector --version 1.2.0
  fleet release assign detector@1.2.0 --to group=drones`,
    )
    .action(async (model: string, flags: ReleaseFlags) => {
      const id = releaseId(flags);
      const card = await readCard(model, flags.card);
      const client = await clientOf(flags);
      const isShown = process.stderr.isTTY === true;
      const sha256 = await client.upload(model, (share) => {
        if (isShown) process.stderr.write(`\rupload ${Math.round(share * 100)} %${share === 1 ? '\n' : ''}`);
      });
      const created = await client.send<Release>('POST', '/v1/releases', {
        id,
        model: { sha256 },
        card,
        ...(flags.budget === undefined ? {} : { budget: parseBudget(flags.budget) }),
      });
      if (flags.json) printJson(created);
      else process.stdout.write(`released ${created.id}, ${inBytes(created.model.sizeBytes)}, sha256 ${sha256}\n`);
    });

  const assign = release
    .command('assign')
    .description('assigns a release to devices, those that are there and those to come')
    .argument('<release>', 'NAME@VERSION')
    .requiredOption('--to <selector>', selectorForms)
    .option('--target <target>', 'target of the devices', 'host');
  addClientOptions(assign, environment).action(
    async (id: string, flags: ClientFlags & { to: string; target: string }) => {
      const body = { selector: flags.to, target: flags.target, release: id };
      const { devices } = await (await clientOf(flags)).send<{ devices: string[] }>('POST', '/v1/assignments', body);
      if (flags.json) printJson({ release: id, devices });
      else
        process.stdout.write(
          `${id} is wanted on ${devices.length === 0 ? 'no further device now' : devices.join(', ')}\n`,
        );
    },
  );

  registerCompare(release, environment);

  const list = release.command('list').description('releases, newest first');
  addClientOptions(list, environment).action(async (flags: ClientFlags) => {
    const answer = await (await clientOf(flags)).get<{ releases: (Release & { createdAt: string })[] }>('/v1/releases');
    if (flags.json) return printJson(answer);
    const rows = answer.releases.map(({ id, model, budget, createdAt }) => [
      id,
      inBytes(model.sizeBytes),
      model.sha256.slice(0, 12),
      budgetText(budget ?? {}),
      createdAt,
    ]);
    printTable(['release', 'size', 'sha256', 'budget', 'created'], rows);
  });
}

function releaseId({ name, version }: ReleaseFlags): string {
  const missing = [name === undefined ? '--name' : '', version === undefined ? '--version' : ''].filter(
    (flag) => flag !== '',
  );
  if (missing.length === 0) return `${name}@${version}`;
  throw new EdgeError('usage/invalid', `${missing.join(' and ')} must be given`, {
    subject: missing.join(' '),
    hint: 'For example: fleet release model.onnx --name detector --version 1.2.0',
  });
}

async function readCard(model: string, path: string | undefined): Promise<ModelCard | null> {
  const file = path ?? model.replace(/\.onnx$/i, '.json');
  const text = await readFile(file, 'utf8').catch((cause: Error) => {
    if (path === undefined) return null;
    throw new EdgeError('card/invalid', `the model card cannot be read: ${cause.message}`, { subject: file, cause });
  });
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new EdgeError('card/invalid', `the model card is not JSON: ${(cause as Error).message}`, {
      subject: file,
      cause,
    });
  }
  return validate(ModelCard, value, 'card/invalid', file);
}
