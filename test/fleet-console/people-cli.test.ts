/** `fleet account`, `token`, `audit` and `webhook`, as people and scripts use them. */
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import t from 'tap';
import { startConsole } from '../support/console.js';
import { type FleetAnswer, fleet, fleetWith } from '../support/fleet-command.js';

/** What was said, where it went well. */
function json({ code, stdout, stderr }: FleetAnswer) {
  if (code !== 0) throw new Error(`exit code ${code}: ${stderr}`);
  return JSON.parse(stdout);
}

t.test('from nothing to an admin, to tokens, to an audit of all that', async (t) => {
  const folder = t.testdir();
  const { url, close } = await startConsole(folder);
  const first = await fleetWith({ input: 'a password for ada\n' }, url, 'account', 'add', 'vic', '--role', 'viewer');
  t.equal(first.code, 1);
  t.match(first.stderr, /account\/last-admin.*first account has to be an admin/);
  t.match(await fleetWith({ input: 'a password for ada\n' }, url, 'account', 'add', 'ada', '--role', 'admin'), {
    code: 0,
    stdout: 'ada is admin\n',
  });
  const refused = await fleet(url, 'devices');
  t.equal(refused.code, 1);
  t.match(refused.stderr, /console\/refused[\s\S]*FLEET_TOKEN/);

  const passwordFile = join(folder, 'password');
  writeFileSync(passwordFile, 'a password for ada\n');
  const made = await fleet(
    url,
    'token',
    'create',
    'terminal',
    '--role',
    'admin',
    '--as',
    'ada',
    '--password-file',
    passwordFile,
  );
  t.match(made.stdout, /^fleet_[A-Za-z0-9_-]{43}\n$/, 'the secret alone, for a file');
  t.match(made.stderr, /token 1, terminal, is admin/);
  const token = made.stdout.trim();
  const wrong = await fleetWith({ input: 'not it at all' }, url, 'token', 'list', '--as', 'ada');
  t.equal(wrong.code, 1);
  t.match(wrong.stderr, /login\/refused/);
  const as = (...args: string[]) => fleetWith({ token }, url, ...args);

  writeFileSync(join(folder, 'bob'), 'a password for bob');
  t.match(
    json(await as('account', 'add', 'bob', '--role', 'operator', '--password-file', join(folder, 'bob'), '--json')),
    {
      name: 'bob',
      role: 'operator',
      isDisabled: false,
    },
  );
  t.match(json(await as('account', 'role', 'bob', 'viewer', '--json')), { role: 'viewer' });
  t.match(json(await as('account', 'disable', 'bob', '--json')), { isDisabled: true });
  t.match(json(await as('account', 'enable', 'bob', '--json')), { isDisabled: false });
  const last = await as('account', 'disable', 'ada');
  t.equal(last.code, 1);
  t.match(last.stderr, /last-admin/);
  t.match(await fleetWith({ token, input: 'another one for bob\n' }, url, 'account', 'password', 'bob'), {
    code: 0,
    stdout: /has another password/,
  });
  t.equal((await fleetWith({ token, input: 'short' }, url, 'account', 'password', 'bob')).code, 2);
  t.match(
    (await as('account', 'list')).stdout,
    /^account +role +state[^\n]*\nada +admin +enabled[^\n]*\nbob +viewer +enabled/,
  );
  t.match(json(await as('account', 'list', '--json')), { accounts: [{ name: 'ada' }, { name: 'bob' }] });

  t.match(json(await as('token', 'create', 'drones', '--role', 'device', '--days', '2', '--json')), {
    id: 2,
    role: 'device',
    secret: /^fleet_/,
  });
  t.equal((await as('token', 'create', 'x', '--role', 'device', '--days', 'many')).code, 2);
  t.match((await as('token', 'list')).stdout, /1 +terminal +admin[\s\S]*2 +drones +device/);
  t.match(json(await as('token', 'revoke', '2', '--json')), { id: 2, isRevoked: true });
  t.equal((await as('token', 'revoke', '2')).code, 1);
  const tokenFile = join(folder, 'token');
  writeFileSync(tokenFile, `${token}\n`);
  t.equal(
    (await fleetWith({ token: 'of no worth' }, url, 'devices', '--token-file', tokenFile)).code,
    0,
    'the option comes first',
  );

  const { entries } = json(await as('audit', '--actor', 'token terminal', '--action', 'account.role', '--json'));
  t.match(entries, [
    { actor: 'token terminal', role: 'admin', subject: 'bob', details: { role: 'viewer', before: 'operator' } },
  ]);
  t.equal(json(await as('audit', '--limit', '3', '--json')).entries.length, 3);
  t.match((await as('audit', '--subject', 'token drones')).stdout, /token\.revoke[\s\S]*token\.create/);
  t.equal((await as('audit', '--limit', 'all')).code, 2);
  await close();
});

t.test('verify tells an intact audit from one that was changed, and from one whose end was cut off', async (t) => {
  const folder = t.testdir();
  let console = await startConsole(folder);
  for (const latency of [1, 2, 3, 4]) await fleet(console.url, 'budget', 'set', 'all', `latency=${latency}ms`);
  t.match((await fleet(console.url, 'audit', 'verify')).stdout, /^intact: 4 entries\nhead 4 {2}[0-9a-f]{64}\n$/);
  const { head } = json(await fleet(console.url, 'audit', 'verify', '--json'));
  const tamper = async (statement: string) => {
    await console.close();
    const database = new Database(join(folder, 'fleet', 'fleet.db'));
    for (const name of ['audit_no_update', 'audit_no_delete']) database.exec(`DROP TRIGGER IF EXISTS ${name}`);
    database.exec(statement);
    database.close();
    console = await startConsole(folder);
  };
  await tamper('DELETE FROM audit WHERE number = 4');
  t.equal((await fleet(console.url, 'audit', 'verify')).code, 0);
  const cut = await fleet(console.url, 'audit', 'verify', '--head', head.hash, '--json');
  t.equal(cut.code, 1);
  t.match(JSON.parse(cut.stdout), { isIntact: false, isHeadFound: false, firstBroken: null });
  t.match(cut.stderr, /audit\/broken.*cut off/);
  await tamper("UPDATE audit SET actor = 'eve' WHERE number = 2");
  const changed = await fleet(console.url, 'audit', 'verify');
  t.equal(changed.code, 1);
  t.equal(changed.stdout, '');
  t.match(changed.stderr, /entry 2 is not as it was written/);
  await console.close();
});

t.test('webhooks are added, tried, listed and removed', async (t) => {
  const { url, close } = await startConsole(t.testdir());
  const statuses = [200, 500];
  const server = createServer((request, response) => {
    request.resume().on('end', () => response.writeHead(statuses.shift() ?? 200).end());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const endpoint = `http://127.0.0.1:${(server.address() as { port: number }).port}/x`;
  t.match(await fleet(url, 'webhook', 'add', endpoint, '--events', 'device, result'), {
    code: 0,
    stdout: /secret, not shown again: whsec_/,
  });
  t.match(json(await fleet(url, 'webhook', 'list', '--json')), {
    webhooks: [{ id: 1, url: endpoint, events: ['device', 'result'] }],
  });
  t.match(await fleet(url, 'webhook', 'test', '1'), { code: 0, stdout: /took it, with status 200/ });
  const failed = await fleet(url, 'webhook', 'test', '1', '--json');
  t.equal(failed.code, 1);
  t.match(JSON.parse(failed.stdout), { isDelivered: false, status: 500 });
  t.match((await fleet(url, 'webhook', 'list')).stdout, /status 500/);
  t.equal((await fleet(url, 'webhook', 'add', 'ftp://x', '--events', 'device')).code, 2);
  t.equal((await fleet(url, 'webhook', 'add', endpoint, '--events', 'everything')).code, 2);
  t.match(json(await fleet(url, 'webhook', 'remove', '1', '--json')), { id: 1, isRemoved: true });
  t.equal((await fleet(url, 'webhook', 'remove', '1')).code, 1);
  server.close();
  await close();
});

t.test('help teaches roles, first steps and how to check a signature', async (t) => {
  const help = async (...args: string[]) => (await fleet('http://127.0.0.1:1', ...args, '--help')).stdout;
  t.match(await help(), /account[\s\S]*token[\s\S]*audit[\s\S]*webhook/);
  t.match(
    await help('account', 'add'),
    /viewer[\s\S]*operator[\s\S]*admin[\s\S]*token create terminal --role admin --as ada/,
  );
  t.match(await help('token', 'create'), /Role device is for devices/);
  t.match(await help('audit', 'verify'), /--head \$\(cat head\)/);
  t.match(await help('webhook', 'add'), /HMAC-SHA256 over ID\.TIMESTAMP\.BODY/);
});
