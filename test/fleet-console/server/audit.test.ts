/** The audit: what it records, with whom; and that whoever changes the file past the console is found out. */
import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import t from 'tap';
import type { AuditEntry, AuditVerdict } from '../../../configs/contracts/people.js';
import { AuditLog } from '../../../fleet-console/server/audit.js';
import { ConsoleDatabase } from '../../../fleet-console/server/database.js';
import { until } from '../../support/broker.js';
import { FakeDevice, makeRelease, startConsole } from '../../support/console.js';
import { addAccount, ask, bearer, cookieOf, login, makeToken } from '../../support/people.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const everything = { before: null, limit: 1000, actor: null, action: null, subject: null };

/** JSON with sorted keys, made anew. */
function sorted(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(sorted).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, inner]) => `${JSON.stringify(key)}:${sorted(inner)}`).join(',')}}`;
}

/** Hash of an entry as README.md describes it. */
function hashAfter({ hash: _, ...entry }: AuditEntry, previous: string): string {
  return createHash('sha256')
    .update(sorted({ ...entry, previous }))
    .digest('hex');
}

/** Changes a file past the console: with every trigger gone. */
function tamper(path: string, work: (database: Database.Database) => void): void {
  const database = new Database(path);
  for (const name of ['audit_no_update', 'audit_no_delete', 'audit_only_next']) database.exec(`DROP TRIGGER ${name}`);
  work(database);
  database.close();
}

/** A database with so many entries of the audit, at a path. */
function filled(path: string, entries: number, random: Random): void {
  for (const end of ['', '-wal', '-shm']) rmSync(`${path}${end}`, { force: true });
  const database = new ConsoleDatabase(path);
  const audit = new AuditLog(database, () => {});
  for (let i = 0; i < entries; i++) {
    const by = { name: random.pick(['ada', 'bob', 'token ci']), role: random.pick(['operator', 'admin'] as const) };
    audit.record(by, random.pick(['budget.set', 'release.assign']), random.pick(['all', 'group=ä', '"']), {
      z: random.next(),
      a: [random.below(5), { y: null, x: 'é"\\' }],
      absent: undefined,
    });
  }
  database.close();
}

async function verified(path: string, head: string | null = null): Promise<AuditVerdict> {
  const database = new ConsoleDatabase(path);
  const verdict = await new AuditLog(database, () => {}).verify(head);
  database.close();
  return verdict;
}

t.test('each entry is bound to the one before, as an independent reckoning finds', async (t) => {
  const path = join(t.testdir(), 'a.db');
  filled(path, 1203, new Random(seed));
  const database = new ConsoleDatabase(path);
  const audit = new AuditLog(database, () => {});
  const entries: AuditEntry[] = [];
  for (let before: number | null = null; ; ) {
    const page = audit.page({ ...everything, before, limit: 100 });
    entries.push(...page.entries);
    if ((before = page.next) === null) break;
  }
  entries.reverse();
  t.same(
    entries.map(({ number }) => number),
    Array.from({ length: 1203 }, (_, i) => i + 1),
  );
  let previous = '0'.repeat(64);
  t.ok(
    entries.every((entry) => {
      const isRight = hashAfter(entry, previous) === entry.hash;
      previous = entry.hash;
      return isRight;
    }),
  );
  const [one, two] = await Promise.all([audit.verify(null), audit.verify(previous)]);
  t.same(one, {
    isIntact: true,
    entries: 1203,
    head: { number: 1203, hash: previous },
    firstBroken: null,
    isHeadFound: null,
  });
  t.same(two, { ...one, isHeadFound: true });
  database.close();
});

t.test('filters answer what a look at all entries answers', async (t) => {
  const random = new Random(seed);
  const path = join(t.testdir(), 'a.db');
  filled(path, 200, random);
  const database = new ConsoleDatabase(path);
  const audit = new AuditLog(database, () => {});
  const all = audit.page(everything).entries;
  for (let round = 0; round < 50; round++) {
    const filter = {
      before: random.pick([null, 1 + random.below(220)]),
      limit: 1 + random.below(30),
      actor: random.pick([null, 'ada', 'eve']),
      action: random.pick([null, 'budget.set']),
      subject: random.pick([null, 'all', '"']),
    };
    const fit = all.filter(
      (entry) =>
        (filter.before === null || entry.number < filter.before) &&
        (filter.actor === null || entry.actor === filter.actor) &&
        (filter.action === null || entry.action === filter.action) &&
        (filter.subject === null || entry.subject === filter.subject),
    );
    const page = audit.page(filter);
    t.same(page.entries, fit.slice(0, filter.limit));
    t.equal(page.next, fit.length > filter.limit ? fit[filter.limit - 1]!.number : null);
  }
  database.close();
});

t.test(
  'the database refuses to change, delete or replace an entry, or to put one anywhere but at the end',
  async (t) => {
    const path = join(t.testdir(), 'a.db');
    filled(path, 5, new Random(seed));
    const database = new Database(path);
    for (const statement of [
      "UPDATE audit SET actor = 'eve' WHERE number = 2",
      'DELETE FROM audit WHERE number = 5',
      "INSERT OR REPLACE INTO audit SELECT number, time, 'eve', role, action, subject, details, hash FROM audit WHERE number = 5",
      'INSERT INTO audit SELECT 9, time, actor, role, action, subject, details, hash FROM audit WHERE number = 5',
      'INSERT INTO audit SELECT NULL, time, actor, role, action, subject, details, hash FROM audit WHERE number = 5',
    ])
      t.throws(() => database.exec(statement), /append-only/, statement);
    database.close();
    t.match(await verified(path), { isIntact: true, entries: 5 });
  },
);

t.test(
  'any changed field, missing row and exchange of rows is found, at the first entry that it concerns',
  async (t) => {
    const random = new Random(seed);
    const path = join(t.testdir(), 'a.db');
    const count = 30;
    const columns = ['number', 'time', 'actor', 'role', 'action', 'subject', 'details', 'hash'];
    for (let round = 0; round < 40; round++) {
      filled(path, count, random);
      const number = 1 + random.below(count);
      const other = 1 + ((number + random.below(count - 1)) % count);
      const kind = random.pick(['field', 'delete', 'swap', 'details', 'insert'] as const);
      let first = number;
      let what = `${kind} at ${number}`;
      tamper(path, (database) => {
        if (kind === 'field') {
          const column = random.pick(columns);
          what += ` of ${column}`;
          const value = column === 'number' ? -5 : column === 'details' ? '{"z":0}' : 'x';
          if (column === 'number') first = -5;
          database.prepare(`UPDATE audit SET ${column} = ? WHERE number = ?`).run(value, number);
        } else if (kind === 'details') {
          // The same content, written otherwise.
          database.prepare("UPDATE audit SET details = details || ' ' WHERE number = ?").run(number);
        } else if (kind === 'delete') {
          first = number === count ? 0 : number;
          database.prepare('DELETE FROM audit WHERE number = ?').run(number);
        } else if (kind === 'swap') {
          first = Math.min(number, other);
          const move = database.prepare('UPDATE audit SET number = ? WHERE number = ?');
          for (const [to, from] of [
            [1000, number],
            [number, other],
            [other, 1000],
          ])
            move.run(to, from);
        } else {
          first = count + 1;
          database.exec(
            `INSERT INTO audit SELECT ${count + 1}, time, 'eve', role, action, subject, details, hash FROM audit WHERE number = 1`,
          );
        }
      });
      const verdict = await verified(path);
      if (first === 0)
        t.match(verdict, { isIntact: true, entries: count - 1 }, 'only a head shows that the end is missing');
      else t.match(verdict, { isIntact: false, firstBroken: first }, what);
    }
  },
);

t.test(
  'a tail that was cut off, and a chain that was written anew, show against a head that was written down',
  async (t) => {
    const path = join(t.testdir(), 'a.db');
    filled(path, 20, new Random(seed));
    const { head } = await verified(path);
    tamper(path, (database) => database.exec('DELETE FROM audit WHERE number > 17'));
    t.match(await verified(path), { isIntact: true, entries: 17, isHeadFound: null });
    t.match(await verified(path, head!.hash), { isIntact: false, entries: 17, firstBroken: null, isHeadFound: false });
    // As good a chain as any, by somebody who knows how.
    filled(path, 20, new Random(seed + 1));
    t.match(await verified(path), { isIntact: true });
    t.match(await verified(path, head!.hash), { isIntact: false, isHeadFound: false });
  },
);

t.test('what fails is not recorded, and what is recorded was done', async (t) => {
  const database = new ConsoleDatabase(':memory:');
  const audit = new AuditLog(database, () => {});
  const by = { name: 'ada', role: 'admin' } as const;
  t.throws(() =>
    database.write(() => {
      audit.record(by, 'budget.set', 'all');
      throw new Error('the rest failed');
    }),
  );
  t.equal(audit.size, 0);
  database.close();
});

t.test(
  'every change through the API is recorded with who has made it, and decisions of rollouts with the console',
  async (t) => {
    const console = await startConsole(t.testdir());
    const device = await FakeDevice.open(console.brokerUrl, 'd1');
    await until(async () => (await ask(console.url, 'GET', '/v1/devices/d1')).status === 200, 'it is known');
    await makeRelease(console, 'a@1', 'one');
    await makeRelease(console, 'a@1', 'one');
    const ci = bearer(await makeToken(console.url, 'ci', 'operator'));
    await addAccount(console.url, 'ada', 'admin');
    await login(console.url, 'ada', 'a wrong password');
    await login(console.url, 'a password in the wrong field', 'x');
    const ada = cookieOf(await login(console.url, 'ada'));
    const send = async (method: string, path: string, as: Record<string, string>, body: object = {}) => {
      const answer = await ask(console.url, method, path, as, body);
      t.equal(answer.status, 200, `${method} ${path} ${answer.text.slice(0, 200)}`);
      return answer.body;
    };
    await send('PUT', '/v1/budgets', ci, { selector: 'all', budget: { latencyMs: 5 } });
    t.equal((await ask(console.url, 'PUT', '/v1/budgets', ci, { selector: 'what', budget: {} })).status, 400);
    await send('POST', '/v1/assignments', ci, { selector: 'device=d1', release: 'a@1' });
    await send('POST', '/v1/devices/d1/adopt', ada);
    const { id } = await send('POST', '/v1/rollouts', ada, { release: 'a@1', selector: 'all' });
    await send('POST', `/v1/rollouts/${id}/pause`, ci, { because: 'lunch' });
    await send('POST', `/v1/rollouts/${id}/resume`, ci);
    await send('POST', `/v1/rollouts/${id}/abort`, ada, { because: 'enough' });
    await send('POST', '/v1/accounts', ada, { name: 'bob', role: 'viewer', password: 'bob has a password' });
    await send('PATCH', '/v1/accounts/bob', ada, {
      role: 'operator',
      password: 'bob has another one',
      isDisabled: true,
    });
    await send('DELETE', '/v1/tokens/1', ada);
    const hook = await send('POST', '/v1/webhooks', ada, {
      url: 'http://127.0.0.1:9/x?key=hidden',
      events: ['result'],
    });
    await send('DELETE', `/v1/webhooks/${hook.id}`, ada);
    await send('DELETE', '/v1/session', ada);
    const again = cookieOf(await login(console.url, 'ada'));
    const { body, text } = await ask(console.url, 'GET', '/v1/audit?limit=1000', again);
    const told = (body.entries as AuditEntry[]).reverse().filter(({ action }) => action !== 'rollout.decide');
    t.same(
      told.map(({ actor, role, action, subject }) => [actor, role, action, subject].join('|')),
      [
        `local|admin|artifact.upload|${createHash('sha256').update('one').digest('hex')}`,
        'local|admin|release.create|a@1',
        `local|admin|artifact.upload|${createHash('sha256').update('one').digest('hex')}`,
        'local|admin|token.create|token ci',
        'local|admin|account.add|ada',
        'nobody|none|session.refused|ada',
        'nobody|none|session.refused|an unknown name',
        'ada|admin|session.login|ada',
        'token ci|operator|budget.set|all',
        'token ci|operator|release.assign|a@1',
        'ada|admin|device.adopt|d1',
        'ada|admin|rollout.start|rollout 1',
        'token ci|operator|rollout.pause|rollout 1',
        'token ci|operator|rollout.resume|rollout 1',
        'ada|admin|rollout.abort|rollout 1',
        'ada|admin|account.add|bob',
        'ada|admin|account.role|bob',
        'ada|admin|account.disable|bob',
        'ada|admin|account.password|bob',
        'ada|admin|token.revoke|token ci',
        'ada|admin|webhook.add|webhook 1',
        'ada|admin|webhook.remove|webhook 1',
        'ada|admin|session.logout|ada',
        'ada|admin|session.login|ada',
      ],
    );
    const decided = (await ask(console.url, 'GET', '/v1/audit?action=rollout.decide', again)).body
      .entries as AuditEntry[];
    t.ok(decided.length >= 1);
    t.match(decided.at(-1), {
      actor: 'console',
      role: 'console',
      subject: 'rollout 1',
      details: { orders: 1, status: 'running' },
    });
    t.notMatch(text, /hidden|wrong field|has a password|whsec_|fleet_[A-Za-z0-9_-]{20}/, 'no secret is in it');
    t.match((await ask(console.url, 'GET', '/v1/audit/verify', again)).body, { isIntact: true, firstBroken: null });
    await device.close();
    await console.close();
  },
);

t.test('refused log-ins cannot fill the audit: beyond some, they are counted', async (t) => {
  const console = await startConsole(t.testdir(), { http: { behindProxy: true } });
  await addAccount(console.url, 'ada', 'admin');
  const attempts = Array.from({ length: 24 }, (_, i) =>
    login(console.url, `n${i}`, 'a wrong password', { 'x-forwarded-for': `203.0.113.${i}` }),
  );
  t.same([...new Set((await Promise.all(attempts)).map(({ status }) => status))], [401]);
  const ada = cookieOf(await login(console.url, 'ada'));
  const { entries } = (await ask(console.url, 'GET', '/v1/audit?action=session.refused&limit=1000', ada)).body;
  t.equal(entries.length, 20);
  await console.close();
});
