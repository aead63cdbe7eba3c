/** Log-ins, sessions, tokens and accounts, over HTTP against a live console. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Database from 'better-sqlite3';
import { connectAsync } from 'mqtt';
import t from 'tap';
import { openConsole } from '../../../fleet-console/server/serve.js';
import { until } from '../../support/broker.js';
import { consoleSettings, startConsole } from '../../support/console.js';
import { addAccount, ask, bearer, cookieOf, login, makeToken, passwordOf } from '../../support/people.js';

t.test('before there is an account nobody is asked; after that, nobody is let in without one or a token', async (t) => {
  const console = await startConsole(t.testdir());
  const who = (headers = {}) => ask(console.url, 'GET', '/v1/session', headers);
  t.same((await who()).body, { name: 'local', role: 'admin', via: 'local' });
  t.equal((await addAccount(console.url, 'vic', 'viewer')).status, 409, 'the first is an admin');
  t.match((await addAccount(console.url, 'ada', 'admin')).body, { name: 'ada', role: 'admin', isDisabled: false });
  const refused = await who();
  t.equal(refused.status, 401);
  t.match(refused.headers['content-type'], /^application\/problem\+json/);
  t.notMatch(refused.headers['www-authenticate'], /Basic/, 'the page asks, not the browser');
  t.equal((await ask(console.url, 'GET', '/v1/devices')).status, 401);
  t.equal((await addAccount(console.url, 'eve', 'admin')).status, 401);
  for (const path of ['/', '/devices/d1', '/livez', '/assets/icon.svg'])
    t.equal((await ask(console.url, 'GET', path)).status, 200, path);
  t.equal((await ask(console.url, 'GET', '/v1/devices', { host: 'fleet.example' })).status, 401, 'by any name');

  const entered = await login(console.url, 'ada');
  t.same(entered.body, { name: 'ada', role: 'admin', via: 'session' });
  const cookie = entered.headers['set-cookie']![0]!;
  t.match(cookie, /^fleet_session=[A-Za-z0-9_-]{43}; Max-Age=604800; Path=\/; HttpOnly; SameSite=Strict$/);
  t.same((await who(cookieOf(entered))).body, { name: 'ada', role: 'admin', via: 'session' });
  const left = await ask(console.url, 'DELETE', '/v1/session', cookieOf(entered));
  t.match(left.headers['set-cookie']![0], /^fleet_session=; Max-Age=0;/);
  t.equal((await who(cookieOf(entered))).status, 401, 'the cookie is worth nothing any more');
  t.equal((await ask(console.url, 'DELETE', '/v1/session')).status, 200, 'whoever is out may leave');
  await console.close();
});

t.test('the file holds no secret that was shown to anybody, and only its owner reads it', async (t) => {
  const folder = t.testdir();
  const console = await startConsole(folder);
  await addAccount(console.url, 'ada', 'admin');
  const session = cookieOf(await login(console.url, 'ada'));
  const secrets = [
    session.cookie.split('=')[1]!,
    await makeToken(console.url, 'ci', 'operator', session),
    passwordOf('ada'),
  ];
  await console.close();
  const path = join(folder, 'fleet', 'fleet.db');
  const { readFileSync, statSync } = await import('node:fs');
  const bytes = readFileSync(path);
  t.ok(bytes.includes('scrypt$'), 'it is the file');
  for (const secret of secrets) t.notOk(bytes.includes(secret));
  t.equal(statSync(path).mode & 0o077, 0);
});

t.test('sessions end when they are not used for 12 hours, and after 7 days', async (t) => {
  const folder = t.testdir();
  const console = await startConsole(folder);
  await addAccount(console.url, 'ada', 'admin');
  const hourMs = 3_600_000;
  const age = (column: string, ms: number) => {
    const database = new Database(join(folder, 'fleet', 'fleet.db'));
    database.prepare(`UPDATE session SET ${column} = ${column} - ?`).run(ms);
    database.close();
  };
  const status = async (headers: Record<string, string>) =>
    (await ask(console.url, 'GET', '/v1/session', headers)).status;
  const idle = cookieOf(await login(console.url, 'ada'));
  age('used_ms', 11.9 * hourMs);
  t.equal(await status(idle), 200);
  age('used_ms', 11.9 * hourMs);
  t.equal(await status(idle), 200, 'it was used in between');
  age('used_ms', 12.1 * hourMs);
  t.equal(await status(idle), 401);
  const old = cookieOf(await login(console.url, 'ada'));
  age('created_ms', 7 * 24 * hourMs - 60_000);
  t.equal(await status(old), 200);
  age('created_ms', 120_000);
  t.equal(await status(old), 401);
  await console.close();
});

t.test('another password and being disabled end sessions at once, and the streams that they read', async (t) => {
  const console = await startConsole(t.testdir());
  await addAccount(console.url, 'ada', 'admin');
  const ada = cookieOf(await login(console.url, 'ada'));
  await addAccount(console.url, 'bob', 'operator', ada);
  const change = (body: object) => ask(console.url, 'PATCH', '/v1/accounts/bob', ada, body);
  const status = async (headers: Record<string, string>) =>
    (await ask(console.url, 'GET', '/v1/session', headers)).status;

  const bob = cookieOf(await login(console.url, 'bob'));
  const stream = await fetch(`${console.url}/v1/events`, { headers: bob });
  const ended = (async () => {
    for await (const _ of stream.body as unknown as AsyncIterable<Uint8Array>);
  })().catch(() => {});
  t.equal((await change({ password: 'quite another password' })).status, 200);
  t.equal(await status(bob), 401);
  t.not(await Promise.race([ended.then(() => 'ended'), sleep(2000, 'goes on')]), 'goes on');
  t.equal((await login(console.url, 'bob')).status, 401);
  const again = cookieOf(await login(console.url, 'bob', 'quite another password'));
  t.equal(await status(again), 200);
  t.match((await change({ isDisabled: true })).body, { isDisabled: true });
  t.equal(await status(again), 401);
  t.equal((await login(console.url, 'bob', 'quite another password')).status, 401);
  t.equal((await change({ isDisabled: false })).status, 200);
  t.equal(await status(again), 401, 'what was ended stays ended');
  const back = cookieOf(await login(console.url, 'bob', 'quite another password'));
  t.equal((await change({ role: 'viewer' })).status, 200);
  t.match((await ask(console.url, 'GET', '/v1/session', back)).body, { role: 'viewer' }, 'a role holds at once');

  const own = (current: string) =>
    ask(console.url, 'PUT', '/v1/session/password', back, { current, password: 'a third good password' });
  t.equal((await own('not the password')).status, 401);
  const renewed = await own('quite another password');
  t.equal(renewed.status, 200);
  t.equal(await status(back), 401);
  t.equal(await status(cookieOf(renewed)), 200);
  await console.close();
});

t.test('nobody can lock everybody out', async (t) => {
  const console = await startConsole(t.testdir());
  await addAccount(console.url, 'ada', 'admin');
  const ada = cookieOf(await login(console.url, 'ada'));
  const change = async (name: string, body: object) =>
    (await ask(console.url, 'PATCH', `/v1/accounts/${name}`, ada, body)).status;
  t.equal(await change('ada', { isDisabled: true }), 409);
  t.equal(await change('ada', { role: 'operator' }), 409);
  t.equal(await change('ada', { role: 'viewer', password: 'a new password here' }), 409);
  t.equal((await ask(console.url, 'GET', '/v1/session', ada)).status, 200, 'nothing of it was done');
  await addAccount(console.url, 'bob', 'admin', ada);
  t.equal(await change('bob', { isDisabled: true }), 200);
  t.equal(await change('ada', { role: 'viewer' }), 409, 'a disabled admin is none');
  t.equal(await change('bob', { isDisabled: false }), 200);
  t.equal(await change('ada', { role: 'viewer' }), 200);
  t.equal(await change('bob', { role: 'viewer' }), 403, 'one who is no admin any more cannot');
  await console.close();
});

t.test('bad names, passwords, roles and times are refused', async (t) => {
  const console = await startConsole(t.testdir());
  const add = async (body: object) => {
    const answer = await ask(
      console.url,
      'POST',
      '/v1/accounts',
      {},
      { role: 'admin', password: 'long enough to do', ...body },
    );
    return [answer.status, answer.body.code];
  };
  t.same(await add({ name: 'Ada' }), [400, 'usage/invalid']);
  t.same(await add({ name: 'token file' }), [400, 'usage/invalid']);
  t.same(await add({ name: 'local' }), [400, 'account/invalid']);
  t.same(await add({ name: 'ada', password: 'short' }), [400, 'account/invalid']);
  t.same(await add({ name: 'adalovelace', password: 'AdaLovelace1' }), [400, 'account/invalid']);
  t.same(await add({ name: 'ada', role: 'device' }), [400, 'usage/invalid']);
  t.same(await add({ name: 'ada' }), [200, undefined]);
  const ada = cookieOf(await login(console.url, 'ada', 'long enough to do'));
  t.equal((await addAccount(console.url, 'ada', 'viewer', ada)).body.code, 'account/exists');
  t.equal((await ask(console.url, 'PATCH', '/v1/accounts/eve', ada, { role: 'viewer' })).status, 404);
  t.equal((await ask(console.url, 'PATCH', '/v1/accounts/ada', ada, {})).status, 400);
  const token = async (body: object) =>
    (await ask(console.url, 'POST', '/v1/tokens', ada, { role: 'viewer', ...body })).body.code;
  t.equal(await token({ name: 'file' }), 'token/invalid');
  t.equal(await token({ name: 'a', expiresAt: 'tomorrow' }), 'token/invalid');
  t.equal(await token({ name: 'a', expiresAt: '2001-01-01T00:00:00Z' }), 'token/invalid');
  t.equal(await token({ name: 'a' }), undefined);
  t.equal(await token({ name: 'a' }), 'token/exists');
  await console.close();
});

t.test('tokens: their role, their expiry, their end; shown as a password too', async (t) => {
  const folder = t.testdir();
  const console = await startConsole(folder);
  const secret = await makeToken(console.url, 'ci', 'operator');
  const who = async (headers: Record<string, string>) => (await ask(console.url, 'GET', '/v1/session', headers)).body;
  t.same(
    await who(bearer(secret)),
    { name: 'token ci', role: 'operator', via: 'token' },
    'before accounts it counts as well',
  );
  await addAccount(console.url, 'ada', 'admin');
  const ada = cookieOf(await login(console.url, 'ada'));
  t.same(await who(bearer(secret)), { name: 'token ci', role: 'operator', via: 'token' });
  const basic = Buffer.from(`anybody:${secret}`).toString('base64');
  t.match(await who({ authorization: `Basic ${basic}` }), { name: 'token ci' });
  t.match(await who(bearer(`${secret}x`)), { status: 401 });
  t.match(await who({ ...bearer('wrong'), ...ada }), { name: 'ada', via: 'session' });

  const soon = new Date(Date.now() + 700).toISOString();
  const brief = (await ask(console.url, 'POST', '/v1/tokens', ada, { name: 'brief', role: 'viewer', expiresAt: soon }))
    .body;
  t.match(await who(bearer(brief.secret)), { name: 'token brief' });
  await sleep(800);
  t.match(await who(bearer(brief.secret)), { status: 401 });
  const { tokens } = (await ask(console.url, 'GET', '/v1/tokens', ada)).body;
  t.match(tokens, [
    { id: 1, name: 'ci', expiresAt: null },
    { name: 'brief', expiresAt: soon },
  ]);
  t.match(tokens[0].lastUsedAt, /^20/);
  t.notMatch(JSON.stringify(tokens), /secret|digest/);
  t.equal((await ask(console.url, 'DELETE', '/v1/tokens/1', ada)).status, 200);
  t.match(await who(bearer(secret)), { status: 401 });
  t.equal((await ask(console.url, 'DELETE', '/v1/tokens/1', ada)).status, 404);
  await console.close();
});

t.test('the shared token goes on: it is admin beside accounts, and alone browsers ask for it as ever', async (t) => {
  const folder = t.testdir();
  const tokenFile = join(folder, 'token');
  writeFileSync(tokenFile, 'a-shared-token-of-all\n');
  const console = await startConsole(folder, { http: { tokenFile } });
  const shared = bearer('a-shared-token-of-all');
  t.same((await ask(console.url, 'GET', '/v1/session', shared)).body, {
    name: 'token file',
    role: 'admin',
    via: 'token-file',
  });
  const alone = await ask(console.url, 'GET', '/');
  t.equal(alone.status, 401);
  t.match(alone.headers['www-authenticate'], /Basic/);
  t.equal((await addAccount(console.url, 'ada', 'admin')).status, 401);
  t.equal((await addAccount(console.url, 'ada', 'admin', shared)).status, 200);
  t.equal((await ask(console.url, 'GET', '/')).status, 200);
  t.notMatch((await ask(console.url, 'GET', '/v1/devices')).headers['www-authenticate'], /Basic/);
  t.equal((await ask(console.url, 'GET', '/v1/tokens', shared)).status, 200);
  await console.close();
});

t.test('guessing is slowed down for a name and for an address, attempts side by side among it', async (t) => {
  const console = await startConsole(t.testdir());
  await addAccount(console.url, 'ada', 'admin');
  const answers = await Promise.all(Array.from({ length: 12 }, () => login(console.url, 'ada', 'a wrong password')));
  const statuses = answers.map(({ status }) => status);
  t.equal(statuses.filter((status) => status === 401).length, 5);
  t.equal(statuses.filter((status) => status === 429).length, 7);
  const slowed = answers.find(({ status }) => status === 429)!;
  t.match(slowed.headers['retry-after'], /^[1-9]\d*$/);
  t.equal(slowed.body.code, 'login/throttled');
  let pauseSeconds = 0;
  while (pauseSeconds < 4) {
    const { headers } = await login(console.url, 'ada', 'a wrong password');
    pauseSeconds = Number(headers['retry-after'] ?? 0);
  }
  t.equal((await login(console.url, 'ada')).status, 429, 'the right password as well');
  await until(async () => (await login(console.url, 'ada')).status === 200, 'after a while it is taken');
  for (let i = 0; i < 30; i++) await login(console.url, `name-${i}`, 'a wrong password');
  t.equal((await login(console.url, 'another', 'a wrong password')).status, 429, 'of this address');
  await console.close();
});

t.test('an unknown name, a disabled account and a wrong password look alike, and take as long', async (t) => {
  const console = await startConsole(t.testdir());
  await addAccount(console.url, 'ada', 'admin');
  const ada = cookieOf(await login(console.url, 'ada'));
  await addAccount(console.url, 'bob', 'viewer', ada);
  await ask(console.url, 'PATCH', '/v1/accounts/bob', ada, { isDisabled: true });
  const attempts = {
    known: ['ada', 'not it, I fear'],
    disabled: ['bob', passwordOf('bob')],
    unknown: ['eve', 'not it, I fear'],
  };
  const times: Record<string, number> = { known: Infinity, disabled: Infinity, unknown: Infinity };
  const texts = new Set<string>();
  for (let round = 0; round < 4; round++)
    for (const [kind, [name, password]] of Object.entries(attempts)) {
      const started = performance.now();
      const { status, text, headers } = await login(console.url, name!, password);
      times[kind] = Math.min(times[kind]!, performance.now() - started);
      texts.add(`${status} ${text} ${Object.keys(headers).join()}`);
    }
  t.equal(texts.size, 1);
  const [least, most] = [Math.min(...Object.values(times)), Math.max(...Object.values(times))];
  t.ok(least > 20, `a guess costs ${least.toFixed(0)} ms`);
  t.ok(most < 1.5 * least, `${JSON.stringify(times)}`);
  await console.close();
});

t.test(
  'a log-in is not taken from the page of another site, and the cookie is for https where that is spoken',
  async (t) => {
    const folder = t.testdir();
    const console = await startConsole(folder, { http: { behindProxy: true } });
    await addAccount(console.url, 'ada', 'admin');
    t.equal((await login(console.url, 'ada', passwordOf('ada'), { origin: 'https://evil.example' })).status, 403);
    t.equal((await login(console.url, 'ada', passwordOf('ada'), { origin: console.url })).status, 200);
    const proxied = await login(console.url, 'ada', passwordOf('ada'), {
      'x-forwarded-proto': 'https',
      'x-forwarded-for': '203.0.113.9',
    });
    t.match(proxied.headers['set-cookie']![0], /; Secure/);
    const { entries } = (await ask(console.url, 'GET', '/v1/audit?action=session.login', cookieOf(proxied))).body;
    t.equal(entries[0].details.address, '203.0.113.9');
    await console.close();
    const strict = await startConsole(join(folder, 'strict'), { http: { secureCookie: true } });
    await addAccount(strict.url, 'ada', 'admin');
    const entered = await login(strict.url, 'ada', passwordOf('ada'), { 'x-forwarded-for': '203.0.113.9' });
    t.match(entered.headers['set-cookie']![0], /; Secure/);
    const own = (await ask(strict.url, 'GET', '/v1/audit?action=session.login', cookieOf(entered))).body;
    t.equal(own.entries[0].details.address, '127.0.0.1', 'without a proxy, nobody says where they come from');
    await strict.close();
  },
);

t.test(
  'once there is an account, other addresses are served, and devices show the broker a token of theirs',
  async (t) => {
    const folder = t.testdir();
    const settings = consoleSettings({ http: { host: '0.0.0.0' }, broker: { host: '0.0.0.0' } });
    const surroundings = { version: '0', stateFolder: join(folder, 'fleet'), warn: () => {} };
    await t.rejects(openConsole(settings, surroundings), { code: 'settings/insecure' });
    const local = await startConsole(folder);
    await addAccount(local.url, 'ada', 'admin');
    const ada = cookieOf(await login(local.url, 'ada'));
    const device = await makeToken(local.url, 'drones', 'device', ada);
    const viewer = await makeToken(local.url, 'eyes', 'viewer', ada);
    await local.close();

    const console = await openConsole(settings, surroundings);
    const url = console.url.replace('0.0.0.0', '127.0.0.1');
    t.equal((await ask(url, 'GET', '/v1/devices')).status, 401);
    t.equal((await ask(url, 'GET', '/v1/devices', ada)).status, 200, 'sessions outlive the console');
    t.equal(
      (await ask(url, 'GET', `/v1/artifacts/${'0'.repeat(64)}/manifest`, bearer(device))).status,
      404,
      'it may ask',
    );
    const broker = console.brokerUrl.replace('0.0.0.0', '127.0.0.1');
    const connect = (password?: string) =>
      connectAsync(broker, {
        protocolVersion: 5,
        username: 'd1',
        reconnectPeriod: 0,
        ...(password === undefined ? {} : { password }),
      });
    await (await connect(device)).endAsync();
    await t.rejects(connect(viewer));
    await t.rejects(connect());
    const readyz = await ask(url, 'GET', '/readyz');
    t.match(readyz.body, {
      ready: true,
      checks: [
        { name: 'database', status: 'ok' },
        { name: 'broker', status: 'ok' },
      ],
    });
    await console.close();
  },
);

t.test('readiness says what is wrong', async (t) => {
  const console = await startConsole(t.testdir(), { broker: { embedded: false }, mqtt: { url: 'mqtt://127.0.0.1:1' } });
  const { status, body } = await ask(console.url, 'GET', '/readyz');
  t.equal(status, 503);
  t.match(body, {
    ready: false,
    why: /broker/,
    checks: [
      { name: 'database', status: 'ok' },
      { name: 'broker', status: 'failed', message: /cannot be reached/ },
    ],
  });
  t.equal((await ask(console.url, 'GET', '/livez')).status, 200);
  await console.close();
});

t.test('metrics count requests by route, whatever is asked for', async (t) => {
  const console = await startConsole(t.testdir());
  const series = async () =>
    (await ask(console.url, 'GET', '/metrics')).text.split('\n').filter((line) => line.startsWith('fleet_http')).length;
  for (const path of ['/v1/devices/a', '/nothing/a']) await ask(console.url, 'GET', path);
  await series();
  const before = await series();
  for (let i = 0; i < 50; i++)
    for (const path of [`/v1/devices/x${i}`, `/nothing/x${i}`]) await ask(console.url, 'GET', path);
  t.equal(await series(), before);
  t.match(
    (await ask(console.url, 'GET', '/metrics')).text,
    /fleet_http_requests_total\{route="GET \/v1\/devices\/:id",status="4xx"\} 51/,
  );
  await console.close();
});
