/** Who may call what: every route with every role, against a ranking that is written down here once more. */
import Fastify from 'fastify';
import t from 'tap';
import { guardRoutes, type Need, routeNeeds } from '../../../fleet-console/server/access.js';
import type { Auth } from '../../../fleet-console/server/auth.js';
import { startConsole } from '../../support/console.js';
import { addAccount, ask, bearer, makeToken } from '../../support/people.js';

const rank: Readonly<Record<Need, number>> = { open: 0, page: 0, device: 1, viewer: 2, operator: 3, admin: 4 };
/** What is asked for exists nowhere, so that nothing is changed by whoever may. */
const pathOf = (url: string) =>
  url.replace(':sha256', '0'.repeat(64)).replace(':id', '999999').replace(':name', 'nobody-there');

t.test('each route answers those who have its role or a stronger one, and nobody else', async (t) => {
  const console = await startConsole(t.testdir());
  const tokens: Record<string, string> = {};
  for (const role of ['device', 'viewer', 'operator', 'admin'] as const)
    tokens[role] = await makeToken(console.url, `a-${role}`, role);
  t.equal((await addAccount(console.url, 'ada', 'admin')).status, 200);
  for (const [route, need] of Object.entries(routeNeeds)) {
    const [method, url] = route.split(' ') as [string, string];
    for (const verb of method === 'GET' ? ['GET', 'HEAD'] : [method]) {
      for (const role of ['none', 'device', 'viewer', 'operator', 'admin']) {
        const headers: Record<string, string> = role === 'none' ? {} : bearer(tokens[role]!);
        const { status, text } = await ask(console.url, verb, pathOf(url), headers);
        const has = role === 'none' ? 0 : rank[role as Need];
        const what = `${verb} ${url} as ${role}: ${status}`;
        if (has >= rank[need]) {
          t.not(status, 403, what);
          t.not(status, 401, what);
        } else if (role === 'none') t.equal(status, 401, what);
        else {
          t.equal(status, 403, what);
          if (verb !== 'HEAD') t.match(text, new RegExp(`needs the role ${need}`), what);
        }
      }
    }
  }
  await console.close();
});

t.test(
  'what changes something needs an operator, what changes people an admin, and devices get models and tables only',
  async (t) => {
    const harmless = [
      'POST /v1/session',
      'DELETE /v1/session',
      'PUT /v1/session/password',
      'POST /v1/budgets/what-if',
      'POST /v1/tables/offer',
    ];
    for (const [route, need] of Object.entries(routeNeeds)) {
      if (!route.startsWith('GET ') && !harmless.includes(route)) t.ok(rank[need] >= rank.operator, route);
      if (/\/v1\/(accounts|tokens|webhooks)/.test(route)) t.equal(need, 'admin', route);
      t.equal(need === 'device', /^(GET \/v1\/artifacts|POST \/v1\/tables\/offer)/.test(route), route);
    }
  },
);

t.test('a route without a role is not served, and neither is a role without its route', async (t) => {
  const auth = {} as Auth;
  const app = Fastify();
  guardRoutes(app, auth);
  t.throws(() => app.get('/v1/forgotten', async () => 'secrets'), /GET \/v1\/forgotten has no role/);
  await t.rejects(async () => app.ready(), /is not served: GET \/livez/);
});

t.test('the description of the API names no route that has no role', async (t) => {
  const console = await startConsole(t.testdir());
  const { paths } = await console.client.get<{ paths: Record<string, Record<string, unknown>> }>('/openapi.json');
  const described = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path.replace(/\{(\w+)\}/g, ':$1')}`),
  );
  t.ok(described.length > 40);
  t.same(
    described.filter((route) => routeNeeds[route] === undefined && !route.startsWith('HEAD ')),
    [],
  );
  await console.close();
});
