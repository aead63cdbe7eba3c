import { type Command, Option } from 'commander';
import { type AccountDocument, accountRoles, passwordLengths } from '../../configs/contracts/people.js';
import { addClientOptions, type ClientFlags, clientOf, printJson, printTable } from './common.js';
import { readSecret } from './secrets.js';

interface PasswordFlags extends ClientFlags {
  readonly passwordFile?: string;
}

const roleHelp = `
Roles, each with all that those before it may do:
  viewer    sees devices, releases, results, rollouts and the audit
  operator  changes what devices run: releases, assignments, budgets, rollouts
  admin     accounts, tokens and webhooks as well`;
const passwordHelp = `
The password is asked for without echo, or read from standard input, or from --password-file; ${passwordLengths.least} characters or more.`;

/** Adds `account add`, `list`, `password`, `role`, `disable` and `enable`. */
export function registerAccount(program: Command, environment: NodeJS.ProcessEnv): void {
  const account = program.command('account').description('who may log in to the console, and what they may do');
  const withPassword = (command: Command) => command.option('--password-file <file>', 'file with the password');
  const pathOf = (name: string) => `/v1/accounts/${encodeURIComponent(name)}`;
  const tell = (document: AccountDocument, isJson: boolean | undefined, text: string) => {
    if (isJson) printJson(document);
    else process.stdout.write(`${text}\n`);
  };

  const add = account
    .command('add')
    .description('adds an account; the first has to be an admin, and is made on the machine of the console')
    .argument('<name>', 'small letters, digits, . _ @ -')
    .addOption(new Option('--role <role>', 'what it may do').choices([...accountRoles]).makeOptionMandatory());
  addClientOptions(withPassword(add), environment)
    .addHelpText(
      'after',
      `${roleHelp}
${passwordHelp}

Once there is an account, everybody has to log in or to show a token, on this machine too. For this terminal:
  fleet account add ada --role admin
  fleet token create terminal --role admin --as ada > FILE     then FLEET_TOKEN=$(cat FILE), or --token-file FILE`,
    )
    .action(async (name: string, flags: PasswordFlags & { role: string }) => {
      const client = await clientOf(flags);
      const password = await readSecret(`password of ${name}`, flags.passwordFile, true);
      const added = await client.send<AccountDocument>('POST', '/v1/accounts', { name, role: flags.role, password });
      tell(added, flags.json, `${added.name} is ${added.role}`);
    });

  const list = account.command('list').description('accounts, by name');
  addClientOptions(list, environment).action(async (flags: ClientFlags) => {
    const answer = await (await clientOf(flags)).get<{ accounts: AccountDocument[] }>('/v1/accounts');
    if (flags.json) return printJson(answer);
    if (answer.accounts.length === 0) {
      process.stdout.write('there is no account: the console asks nobody on its machine\n');
      return;
    }
    printTable(
      ['account', 'role', 'state', 'last log-in', 'created'],
      answer.accounts.map(({ name, role, isDisabled, lastLoginAt, createdAt }) => [
        name,
        role,
        isDisabled ? 'disabled' : 'enabled',
        lastLoginAt,
        createdAt,
      ]),
    );
  });

  const password = account
    .command('password')
    .description('gives an account another password; its sessions end')
    .argument('<name>');
  addClientOptions(withPassword(password), environment)
    .addHelpText('after', `${passwordHelp}\n\nExample:\n  fleet account password ada --password-file new-password`)
    .action(async (name: string, flags: PasswordFlags) => {
      const client = await clientOf(flags);
      const text = await readSecret(`new password of ${name}`, flags.passwordFile, true);
      const changed = await client.send<AccountDocument>('PATCH', pathOf(name), { password: text });
      tell(changed, flags.json, `${name} has another password, and has to log in again`);
    });

  const role = account
    .command('role')
    .description('gives an account another role, from its next request on')
    .argument('<name>')
    .argument('<role>', accountRoles.join(', '));
  addClientOptions(role, environment)
    .addHelpText('after', `${roleHelp}\n\nThe last admin stays one.`)
    .action(async (name: string, wanted: string, flags: ClientFlags) => {
      const changed = await (await clientOf(flags)).send<AccountDocument>('PATCH', pathOf(name), { role: wanted });
      tell(changed, flags.json, `${name} is ${changed.role}`);
    });

  for (const [verb, isDisabled, description] of [
    [
      'disable',
      true,
      'lets nobody log in with an account any more; its sessions end. The last admin cannot be disabled',
    ],
    ['enable', false, 'lets an account that was disabled log in again'],
  ] as const) {
    const command = account.command(verb).description(description).argument('<name>');
    addClientOptions(command, environment).action(async (name: string, flags: ClientFlags) => {
      const changed = await (await clientOf(flags)).send<AccountDocument>('PATCH', pathOf(name), { isDisabled });
      tell(changed, flags.json, `${name} is ${verb}d`);
    });
  }
}
