import { type Command, Option } from 'commander';
import { EdgeError } from '../../configs/contracts/errors.js';
import { roles, type TokenDocument } from '../../configs/contracts/people.js';
import type { ConsoleClient } from '../client.js';
import { addClientOptions, type ClientFlags, clientOf, printJson, printTable } from './common.js';
import { readSecret } from './secrets.js';

interface TokenFlags extends ClientFlags {
  readonly as?: string;
  readonly passwordFile?: string;
}

const dayMs = 86_400_000;

/** Adds `token create`, `list` and `revoke`. */
export function registerToken(program: Command, environment: NodeJS.ProcessEnv): void {
  const token = program.command('token').description('secrets that programs and devices show instead of a log-in');
  const addOptions = (command: Command) =>
    addClientOptions(
      command
        .option('--as <account>', 'log in as this account for this one command; its password is asked for')
        .option('--password-file <file>', 'file with the password of that account'),
      environment,
    );

  const create = token
    .command('create')
    .description('makes a token, and shows its secret this once')
    .argument('<name>', 'small letters, digits, . _ @ -')
    .addOption(new Option('--role <role>', 'what who shows it may do').choices([...roles]).makeOptionMandatory())
    .option('--days <number>', 'for so many days (default: until it is revoked)');
  addOptions(create)
    .addHelpText(
      'after',
      `
Alone on stdout is the secret, so that it can go into a file. Role device is for devices: it lets them fetch models, and connect to the
console's own broker where that asks (console.tokenFile and mqtt.passwordFile of quantd); nothing else.

Examples:
  fleet token create drones --role device > drones.token
  fleet token create prometheus --role viewer --days 90
  fleet token create terminal --role admin --as ada > FILE     for a terminal: FLEET_TOKEN, or --token-file FILE`,
    )
    .action(async (name: string, flags: TokenFlags & { role: string; days?: string }) => {
      const expiry = flags.days === undefined ? {} : { expiresAt: timeIn(flags.days) };
      const created = await within(flags, (client) =>
        client.send<TokenDocument & { secret: string }>('POST', '/v1/tokens', { name, role: flags.role, ...expiry }),
      );
      if (flags.json) return printJson(created);
      process.stderr.write(
        `token ${created.id}, ${name}, is ${created.role}${created.expiresAt === null ? '' : ` until ${created.expiresAt}`}; its secret is not shown again:\n`,
      );
      process.stdout.write(`${created.secret}\n`);
    });

  const list = token.command('list').description('tokens, oldest first; their secrets are not kept');
  addOptions(list).action(async (flags: TokenFlags) => {
    const answer = await within(flags, (client) => client.get<{ tokens: TokenDocument[] }>('/v1/tokens'));
    if (flags.json) return printJson(answer);
    printTable(
      ['token', 'name', 'role', 'last used', 'expires', 'created'],
      answer.tokens.map(({ id, name, role, lastUsedAt, expiresAt, createdAt }) => [
        id,
        name,
        role,
        lastUsedAt ?? 'never',
        expiresAt ?? 'never',
        createdAt,
      ]),
    );
  });

  const revoke = token
    .command('revoke')
    .description('ends a token: whoever shows it is let in no more')
    .argument('<id>', 'its number, as `fleet token list` shows it');
  addOptions(revoke).action(async (id: string, flags: TokenFlags) => {
    await within(flags, (client) => client.send('DELETE', `/v1/tokens/${encodeURIComponent(id)}`));
    if (flags.json) printJson({ id: Number(id), isRevoked: true });
    else process.stdout.write(`token ${id} is revoked\n`);
  });
}

/** Works as the account that is named, or as whoever the token is. */
async function within<T>(flags: TokenFlags, work: (client: ConsoleClient) => Promise<T>): Promise<T> {
  const client = await clientOf(flags);
  if (flags.as === undefined) return work(client);
  const session = await client.login(flags.as, await readSecret(`password of ${flags.as}`, flags.passwordFile, false));
  try {
    return await work(session);
  } finally {
    await session.send('DELETE', '/v1/session');
  }
}

function timeIn(days: string): string {
  const number = Number(days);
  if (number > 0 && number <= 36_500) return new Date(Date.now() + number * dayMs).toISOString();
  throw new EdgeError('usage/invalid', `${days} is no number of days`, { subject: '--days' });
}
