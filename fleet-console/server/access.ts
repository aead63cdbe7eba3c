import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { EdgeError } from '../../configs/contracts/errors.js';
import { allows, type Role } from '../../configs/contracts/people.js';
import type { Auth, Person } from './auth.js';
import { problem } from './problem.js';

/** What a route asks of whoever calls it. `page`: nothing, where people log in on it. `open`: nothing. */
export type Need = Role | 'page' | 'open';

/** Every route of the console with the weakest role that may call it: a route that is not here is not served. */
export const routeNeeds: Readonly<Record<string, Need>> = {
  'GET /livez': 'open',
  'GET /readyz': 'open',
  'GET /': 'page',
  'GET /assets/:file': 'page',
  'GET /devices': 'page',
  'GET /devices/*': 'page',
  'GET /releases': 'page',
  'GET /releases/*': 'page',
  'GET /rollouts': 'page',
  'GET /rollouts/*': 'page',
  'GET /budgets': 'page',
  'GET /budgets/*': 'page',
  'GET /audit': 'page',
  'GET /audit/*': 'page',
  'GET /metrics': 'viewer',
  'GET /openapi.json': 'viewer',

  'GET /v1/session': 'viewer',
  'POST /v1/session': 'open',
  'DELETE /v1/session': 'open',
  'PUT /v1/session/password': 'viewer',
  'GET /v1/accounts': 'admin',
  'POST /v1/accounts': 'admin',
  'PATCH /v1/accounts/:name': 'admin',
  'GET /v1/tokens': 'admin',
  'POST /v1/tokens': 'admin',
  'DELETE /v1/tokens/:id': 'admin',
  'GET /v1/webhooks': 'admin',
  'POST /v1/webhooks': 'admin',
  'DELETE /v1/webhooks/:id': 'admin',
  'POST /v1/webhooks/:id/test': 'admin',
  'GET /v1/audit': 'viewer',
  'GET /v1/audit/verify': 'viewer',

  'GET /v1/overview': 'viewer',
  'GET /v1/device-summaries': 'viewer',
  'GET /v1/history': 'viewer',
  'GET /v1/comparisons': 'viewer',
  'GET /v1/devices': 'viewer',
  'GET /v1/devices/:id': 'viewer',
  'GET /v1/devices/:id/rollout': 'viewer',
  'GET /v1/devices/:id/tables': 'viewer',
  'POST /v1/devices/:id/adopt': 'operator',
  'GET /v1/tables': 'viewer',
  'POST /v1/tables/offer': 'device',
  'GET /v1/releases': 'viewer',
  'POST /v1/releases': 'operator',
  'GET /v1/assignments': 'viewer',
  'POST /v1/assignments': 'operator',
  'GET /v1/budgets': 'viewer',
  'PUT /v1/budgets': 'operator',
  'GET /v1/budgets/rules': 'viewer',
  'POST /v1/budgets/what-if': 'viewer',
  'GET /v1/results': 'viewer',
  'GET /v1/events': 'viewer',
  'GET /v1/rollouts': 'viewer',
  'POST /v1/rollouts': 'operator',
  'GET /v1/rollouts/:id': 'viewer',
  'GET /v1/rollouts/:id/devices': 'viewer',
  'POST /v1/rollouts/:id/pause': 'operator',
  'POST /v1/rollouts/:id/resume': 'operator',
  'POST /v1/rollouts/:id/approve': 'operator',
  'POST /v1/rollouts/:id/abort': 'operator',
  'POST /v1/rollouts/:id/rollback': 'operator',
  'PUT /v1/artifacts/:sha256': 'operator',
  'GET /v1/artifacts/:sha256': 'device',
  'GET /v1/artifacts/:sha256/manifest': 'device',
};

const people = new WeakMap<FastifyRequest, Person>();

/**
 * Lets nobody call a route who may not. To be added before the routes: one that `routeNeeds` does not have fails to be added, and one that
 * it has and is not added fails the start.
 *
 * What changes something is not taken from the page of another site at all.
 */
export function guardRoutes(app: FastifyInstance, auth: Auth): void {
  const missing = new Set(Object.keys(routeNeeds));
  app.addHook('onRoute', ({ method, url }) => {
    for (const name of [method].flat()) {
      const key = keyOf(name, url);
      if (routeNeeds[key] === undefined) throw new TypeError(`${key} has no role in routeNeeds`);
      missing.delete(key);
    }
  });
  app.addHook('onReady', async () => {
    if (missing.size > 0) throw new TypeError(`routeNeeds has what is not served: ${[...missing].join(', ')}`);
  });
  app.addHook('onRequest', async (request, reply) => {
    if (request.method !== 'GET' && request.method !== 'HEAD' && isForeign(request)) {
      return problem(reply, 403, {
        code: 'console/refused',
        message: 'this is not taken from the page of another site',
      });
    }
    // What is not there is told to nobody who is not known.
    const need = routeNeeds[keyOf(request.method, request.routeOptions.url ?? '')] ?? 'viewer';
    if (need === 'open' || (need === 'page' && auth.hasAccounts)) return undefined;
    const person = auth.identify(request);
    if (person === null) return refuse(reply, auth);
    const needed = need === 'page' ? 'viewer' : need;
    if (!allows(person.role, needed)) {
      throw new EdgeError('access/forbidden', `this needs the role ${needed}; ${person.name} is ${person.role}`, {
        subject: keyOf(request.method, request.routeOptions.url ?? request.url.split('?')[0]!),
      });
    }
    people.set(request, person);
    return undefined;
  });
}

/** Who has sent a request to a route that is not open. */
export function personOf(request: FastifyRequest): Person {
  const person = people.get(request);
  if (person === undefined) throw new TypeError('the route is open: nobody was asked');
  return person;
}

function refuse(reply: FastifyReply, auth: Auth): FastifyReply {
  if (auth.isOpen) {
    return problem(reply, 421, {
      code: 'console/refused',
      message: 'without accounts and a token, the console answers on this machine and to loopback names only',
    });
  }
  // Where people log in on the page, the browser's own question would only be in the way.
  const basic = auth.hasAccounts ? [] : ['Basic realm="Quantd fleet", charset="UTF-8"'];
  reply.header('www-authenticate', ['Bearer', ...basic]);
  return problem(reply, 401, {
    code: 'console/refused',
    message: 'whoever asks has to show a token, or to log in; what was shown, if anything, is not or no longer good',
  });
}

function keyOf(method: string, url: string): string {
  return `${method === 'HEAD' ? 'GET' : method} ${url}`;
}

/** Whether a browser says that the page behind a request is of another site. */
function isForeign({ headers, host }: FastifyRequest): boolean {
  if (headers.origin === undefined) return false;
  return !URL.canParse(headers.origin) || new URL(headers.origin).host !== host;
}
