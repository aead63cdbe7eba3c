import { createReadStream } from 'node:fs';
import swagger from '@fastify/swagger';
import { type Static, type TSchema, Type } from '@sinclair/typebox';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { ModelCard } from '../../configs/contracts/card.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { Budget } from '../../configs/contracts/plan.js';
import { ReleaseId } from '../../configs/contracts/release.js';
import { matches, parseSelector } from '../selector.js';
import { guardRoutes, personOf } from './access.js';
import type { ArtifactFolder } from './artifacts.js';
import type { AuditLog } from './audit.js';
import { addAuditRoutes } from './audit-api.js';
import type { Person } from './auth.js';
import type { Fleet } from './fleet.js';
import { FleetView } from './fleet-view.js';
import type { Health } from './health.js';
import type { ConsoleMetrics } from './metrics.js';
import { addPeopleRoutes, type PeopleOptions } from './people-api.js';
import type { Predictions } from './predictions.js';
import { answerProblem, problem } from './problem.js';
import { addRolloutRoutes } from './rollout-api.js';
import type { Rollouts } from './rollouts.js';
import type { ConsoleStore, DeviceDocument, DeviceRecord } from './store.js';
import { streamEvents } from './stream.js';
import type { Tables } from './tables.js';
import { addTableRoutes } from './tables-api.js';
import { withReasons } from './verdicts.js';
import { addViewRoutes } from './view-api.js';
import { addWebRoutes } from './web.js';
import type { Webhooks } from './webhooks.js';

/** What the API works on. */
export interface ApiOptions {
  readonly store: ConsoleStore;
  readonly fleet: Fleet;
  readonly rollouts: Rollouts;
  readonly tables: Tables;
  readonly predictions: Predictions;
  readonly artifacts: ArtifactFolder;
  readonly metrics: ConsoleMetrics;
  readonly version: string;
  readonly people: PeopleOptions;
  readonly audit: AuditLog;
  readonly webhooks: Webhooks;
  readonly health: Health;
  readonly mostUploadBytes: number;
  /** Whether a proxy on this machine is in front, whose word on address and scheme is taken. */
  readonly behindProxy: boolean;
  readonly warn: (text: string) => void;
}

const DeviceQuery = Type.Object({
  selector: Type.Optional(Type.String({ maxLength: 500 })),
  after: Type.Optional(Type.String({ maxLength: 64 })),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
});
const ReleaseBody = Type.Object(
  {
    id: ReleaseId,
    model: Type.Object({ sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }) }),
    card: Type.Union([ModelCard, Type.Null()]),
    targetKinds: Type.Optional(Type.Array(Type.String({ maxLength: 32 }), { maxItems: 16 })),
    budget: Type.Optional(Budget),
  },
  { additionalProperties: false },
);
const AssignmentBody = Type.Object(
  {
    selector: Type.String({ minLength: 1, maxLength: 500 }),
    target: Type.String({ pattern: '^[a-z0-9][a-z0-9_-]{0,63}$', default: 'host' }),
    release: Type.String({ maxLength: 200 }),
  },
  { additionalProperties: false },
);
const BudgetBody = Type.Object(
  { selector: Type.String({ minLength: 1, maxLength: 500 }), budget: Budget },
  { additionalProperties: false },
);
const WhatIfBody = Type.Object(
  {
    selector: Type.String({ minLength: 1, maxLength: 500 }),
    budget: Budget,
    /** Lists no more than so many of those that were judged. */
    mostDevices: Type.Optional(Type.Integer({ minimum: 0 })),
  },
  { additionalProperties: false },
);
const SelectorQuery = Type.Object({ selector: Type.String({ minLength: 1, maxLength: 500 }) });
const ResultQuery = Type.Object({
  device: Type.Optional(Type.String({ maxLength: 64 })),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
});
const AdoptQuery = Type.Object({
  take: Type.Union([Type.Literal('console'), Type.Literal('device')], { default: 'console' }),
});
const Id = Type.Object({ id: Type.String({ maxLength: 64 }) });
const Sha = Type.Object({ sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }) });

/** The HTTP API of the console, and the web console; OpenAPI at /openapi.json. Answers errors as RFC 9457 problems. */
export async function buildApi(options: ApiOptions): Promise<FastifyInstance> {
  const { store, fleet, artifacts, metrics, audit } = options;
  const { auth } = options.people;
  const app = Fastify({
    bodyLimit: 2 ** 20,
    trustProxy: options.behindProxy ? 'loopback' : false,
    ajv: { customOptions: { removeAdditional: false, coerceTypes: true } },
  });
  await app.register(swagger, {
    openapi: { openapi: '3.1.0', info: { title: 'Quantd fleet console', version: options.version } },
  });
  app.setErrorHandler((error, request, reply) => answerProblem(reply, error, request, options.warn));
  app.setNotFoundHandler((request, reply) =>
    problem(reply, 404, {
      code: 'usage/invalid',
      message: `there is no ${request.method} ${request.url.split('?')[0]}`,
    }),
  );
  guardRoutes(app, auth);
  app.addHook('onResponse', async ({ method, routeOptions }, { statusCode }) =>
    metrics.answered(method, routeOptions.url, statusCode),
  );
  const get = <Q extends TSchema>(path: string, summary: string, querystring: Q, work: (query: Static<Q>) => unknown) =>
    app.get(path, { schema: { summary, querystring } }, async (request) => work(request.query as Static<Q>));
  const post = <B extends TSchema>(
    path: string,
    summary: string,
    body: B,
    work: (body: Static<B>, by: Person) => unknown,
  ) =>
    app.post(path, { schema: { summary, body } }, async (request) =>
      work(request.body as Static<B>, personOf(request)),
    );

  get(
    '/v1/devices',
    'Devices, by id, a page at a time',
    DeviceQuery,
    ({ selector = 'all', after = '', limit = 200 }) => {
      const parsed = parseSelector(selector);
      const named = store.devicesAfter(after, limit + 1, (device) => matches(parsed, device));
      return {
        devices: named.slice(0, limit).map(deviceDocument),
        next: named.length > limit ? named[limit - 1]!.id : null,
      };
    },
  );
  app.get('/v1/devices/:id', { schema: { summary: 'One device', params: Id } }, async (request) =>
    deviceDocument(existing(store, (request.params as Static<typeof Id>).id)),
  );
  app.post(
    '/v1/devices/:id/adopt',
    {
      schema: {
        summary:
          'Lets a device that is ahead of the database take its word again: what that wants, or what the device runs',
        params: Id,
        querystring: AdoptQuery,
      },
    },
    async (request) => {
      const { id } = request.params as Static<typeof Id>;
      fleet.adopt(id, (request.query as Static<typeof AdoptQuery>).take, personOf(request));
      return deviceDocument(existing(store, id));
    },
  );
  get('/v1/releases', 'Releases, newest first', Type.Object({}), () => ({ releases: store.releases() }));
  post('/v1/releases', 'Makes a release of an uploaded model', ReleaseBody, (body, by) =>
    fleet.createRelease(body, by),
  );
  get('/v1/assignments', 'Assignments, oldest first', Type.Object({}), () => ({ assignments: store.assignments() }));
  post(
    '/v1/assignments',
    'Assigns a release to devices',
    AssignmentBody,
    async ({ selector, target, release }, by) => ({
      devices: await fleet.assign(selector, target, release, by),
    }),
  );
  get('/v1/budgets', 'The budget of a selector, and of the devices that it names', SelectorQuery, ({ selector }) =>
    fleet.budget(selector),
  );
  app.put(
    '/v1/budgets',
    { schema: { summary: 'Sets the budget of a selector', body: BudgetBody } },
    async (request) => {
      const { selector, budget } = request.body as Static<typeof BudgetBody>;
      return { devices: await fleet.setBudget(selector, budget, personOf(request)) };
    },
  );
  post(
    '/v1/budgets/what-if',
    'What would become of a budget; changes nothing',
    WhatIfBody,
    async ({ selector, budget, mostDevices = Number.POSITIVE_INFINITY }) =>
      withReasons(await options.predictions.whatIf(selector, budget), mostDevices),
  );
  get('/v1/results', 'Results, newest first', ResultQuery, ({ device = null, limit = 100 }) => ({
    results: store.results(device, limit),
  }));
  addRolloutRoutes(app, options.rollouts);
  await addPeopleRoutes(app, options.people);
  addAuditRoutes(app, audit, options.webhooks);
  addTableRoutes(app, options.tables);
  addViewRoutes(app, { view: new FleetView(store, fleet), store, rollouts: options.rollouts });
  app.get(
    '/v1/events',
    // Its head alone would never be sent, nor its place among the streams be given back.
    { schema: { summary: 'Server-sent events: `device`, `event` and `rollout`' }, exposeHeadRoute: false },
    (request, reply) => streamEvents(request, reply, store, fleet, auth),
  );

  await app.register(async (uploads) => {
    // Models are streamed, never held in memory, and nothing else is taken at such a length.
    uploads.removeAllContentTypeParsers();
    uploads.addContentTypeParser('application/octet-stream', (_request, payload, done) => done(null, payload));
    uploads.put(
      '/v1/artifacts/:sha256',
      { schema: { summary: 'Uploads a model', params: Sha }, bodyLimit: options.mostUploadBytes },
      async (request) => {
        const { sha256 } = request.params as Static<typeof Sha>;
        const ref = await artifacts.add(request.body as AsyncIterable<Uint8Array>, sha256, options.mostUploadBytes);
        audit.record(personOf(request), 'artifact.upload', sha256, { sizeBytes: ref.sizeBytes });
        return ref;
      },
    );
  });
  app.get(
    '/v1/artifacts/:sha256',
    { schema: { summary: 'A model, whole or a range of it', params: Sha } },
    (request, reply) => sendBlob((request.params as Static<typeof Sha>).sha256, artifacts, request, reply),
  );
  app.get(
    '/v1/artifacts/:sha256/manifest',
    { schema: { summary: 'Digests of the chunks', params: Sha } },
    async (request, reply) => {
      const manifest = await artifacts.manifest((request.params as Static<typeof Sha>).sha256);
      if (manifest === null)
        return problem(reply, 404, { code: 'usage/invalid', message: 'there is no such artifact' });
      return reply.type('application/json').send(manifest);
    },
  );

  app.get('/livez', { schema: { hide: true } }, async () => ({ live: true }));
  app.get('/readyz', { schema: { hide: true } }, async (_request, reply) => {
    const checks = options.health.checks();
    const failed = checks.filter(({ status }) => status === 'failed');
    const why = failed.length === 0 ? null : failed.map(({ message }) => message).join('; ');
    return reply.code(why === null ? 200 : 503).send({ ready: why === null, why, checks });
  });
  app.get('/metrics', { schema: { hide: true } }, async (_request, reply) =>
    reply.type('text/plain; version=0.0.4').send(await metrics.text()),
  );
  app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger());
  addWebRoutes(app);
  return app;
}

function deviceDocument({ pins: _, ...device }: DeviceRecord): DeviceDocument {
  return device;
}

function existing(store: ConsoleStore, id: string): DeviceRecord {
  const device = store.device(id);
  if (device !== null) return device;
  throw new EdgeError('device/unknown', `there is no device ${id}`, { subject: id });
}

async function sendBlob(
  sha256: string,
  artifacts: ArtifactFolder,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<unknown> {
  const blob = await artifacts.find(sha256);
  if (blob === null) return problem(reply, 404, { code: 'usage/invalid', message: 'there is no such artifact' });
  const { path, sizeBytes } = blob;
  const etag = `"${sha256}"`;
  reply
    .headers({ etag, 'accept-ranges': 'bytes', 'cache-control': 'immutable, max-age=31536000' })
    .type('application/octet-stream');
  const condition = request.headers['if-range'];
  const range = condition === undefined || condition === etag ? rangeOf(request.headers.range, sizeBytes) : null;
  if (range === 'unsatisfiable') {
    return reply.code(416).header('content-range', `bytes */${sizeBytes}`).send();
  }
  if (range === null) return reply.header('content-length', sizeBytes).send(createReadStream(path));
  const [start, end] = range;
  return reply
    .code(206)
    .headers({ 'content-range': `bytes ${start}-${end}/${sizeBytes}`, 'content-length': end - start + 1 })
    .send(createReadStream(path, { start, end }));
}

/** One range, both ends included (RFC 9110, section 14); null where the whole is to be sent. */
function rangeOf(header: string | undefined, size: number): readonly [number, number] | 'unsatisfiable' | null {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (match === null || (match[1] === '' && match[2] === '')) return null;
  const [, from = '', to = ''] = match;
  const start = from === '' ? Math.max(0, size - Number(to)) : Number(from);
  const end = from === '' || to === '' ? size - 1 : Math.min(size - 1, Number(to));
  return start > end || start >= size ? 'unsatisfiable' : [start, end];
}
