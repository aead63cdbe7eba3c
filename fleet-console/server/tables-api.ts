import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { OfferRequest } from '../../configs/contracts/tables.js';
import type { Tables } from './tables.js';

const Id = Type.Object({ id: Type.String({ maxLength: 64 }) });
const ClassQuery = Type.Object({ hardwareClass: Type.Optional(Type.String({ maxLength: 80 })) });

/** The part of the API that is about tables of latencies and sensitivities. */
export function addTableRoutes(app: FastifyInstance, tables: Tables): void {
  app.get(
    '/v1/tables',
    { schema: { summary: 'What devices alike have measured together, by hardware class', querystring: ClassQuery } },
    async (request) => {
      const { hardwareClass = null } = request.query as Static<typeof ClassQuery>;
      return { tables: await tables.shared(hardwareClass) };
    },
  );
  app.get(
    '/v1/devices/:id/tables',
    { schema: { summary: 'Latencies and sensitivities of the model that each target made last', params: Id } },
    async (request) => tables.ofDevice((request.params as Static<typeof Id>).id),
  );
  app.post(
    '/v1/tables/offer',
    {
      schema: {
        summary: 'For devices: rows that others with the same target identity have measured',
        body: OfferRequest,
      },
    },
    async (request) => ({ donor: await tables.offer(request.body as OfferRequest) }),
  );
}
