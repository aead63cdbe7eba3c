import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { WebhookEvent } from '../../configs/contracts/people.js';
import { personOf } from './access.js';
import type { AuditLog } from './audit.js';
import type { Webhooks } from './webhooks.js';

const Word = Type.Optional(Type.String({ minLength: 1, maxLength: 500 }));
const AuditQuery = Type.Object({
  before: Type.Optional(Type.Integer({ minimum: 1 })),
  limit: Type.Integer({ minimum: 1, maximum: 1000, default: 100 }),
  actor: Word,
  action: Word,
  subject: Word,
});
const VerifyQuery = Type.Object({ head: Type.Optional(Type.String({ pattern: '^[0-9a-f]{64}$' })) });
const WebhookBody = Type.Object(
  {
    url: Type.String({ minLength: 1, maxLength: 2000 }),
    secret: Type.Optional(Type.String({ maxLength: 200 })),
    events: Type.Array(WebhookEvent, { minItems: 1, maxItems: 16 }),
  },
  { additionalProperties: false },
);
const WebhookId = Type.Object({ id: Type.Integer({ minimum: 1 }) });

/** The part of the API that tells what was done: the audit to whoever asks, webhooks to other programs. */
export function addAuditRoutes(app: FastifyInstance, audit: AuditLog, webhooks: Webhooks): void {
  app.get(
    '/v1/audit',
    { schema: { summary: 'Who did what, newest first, a page at a time', querystring: AuditQuery } },
    async (request) => {
      const {
        before = null,
        limit,
        actor = null,
        action = null,
        subject = null,
      } = request.query as Static<typeof AuditQuery>;
      return audit.page({ before, limit, actor, action, subject });
    },
  );
  app.get(
    '/v1/audit/verify',
    {
      schema: {
        summary: 'Whether the audit is as it was written, and has a head that was written down',
        querystring: VerifyQuery,
      },
    },
    async (request) => audit.verify((request.query as Static<typeof VerifyQuery>).head ?? null),
  );

  app.get('/v1/webhooks', { schema: { summary: 'Webhooks, with what became of their deliveries' } }, async () => ({
    webhooks: webhooks.list(),
  }));
  app.post(
    '/v1/webhooks',
    { schema: { summary: 'Adds a webhook; its secret is shown this once', body: WebhookBody } },
    async (request, reply) => {
      reply.header('cache-control', 'no-store');
      return webhooks.add(request.body as Static<typeof WebhookBody>, personOf(request));
    },
  );
  app.delete(
    '/v1/webhooks/:id',
    { schema: { summary: 'Removes a webhook, and what waits for it', params: WebhookId } },
    async (request) => {
      webhooks.remove((request.params as Static<typeof WebhookId>).id, personOf(request));
      return {};
    },
  );
  app.post(
    '/v1/webhooks/:id/test',
    { schema: { summary: 'Sends a message of kind `test` once, and tells what came of it', params: WebhookId } },
    async (request) => webhooks.test((request.params as Static<typeof WebhookId>).id, personOf(request)),
  );
}
