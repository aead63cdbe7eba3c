import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { ProgressState, RolloutPolicy } from '../../configs/contracts/rollout.js';
import { personOf } from './access.js';
import type { RolloutCommand, Rollouts } from './rollouts.js';

const RolloutBody = Type.Object(
  {
    release: Type.String({ maxLength: 200 }),
    selector: Type.String({ minLength: 1, maxLength: 500 }),
    target: Type.String({ pattern: '^[a-z0-9][a-z0-9_-]{0,63}$', default: 'host' }),
    policy: Type.Optional(RolloutPolicy),
  },
  { additionalProperties: false },
);
const RolloutId = Type.Object({ id: Type.Integer({ minimum: 1 }) });
const DevicesQuery = Type.Object({
  after: Type.String({ maxLength: 64, default: '' }),
  limit: Type.Integer({ minimum: 1, maximum: 1000, default: 200 }),
  state: Type.Optional(ProgressState),
});
const CommandBody = Type.Object(
  { because: Type.String({ minLength: 1, maxLength: 500, default: 'an operator asked for it' }) },
  { additionalProperties: false },
);
const DeviceId = Type.Object({ id: Type.String({ maxLength: 64 }) });
const WhyQuery = Type.Object({ rollout: Type.Optional(Type.Integer({ minimum: 1 })) });

const commands: Readonly<Record<RolloutCommand, string>> = {
  pause: 'Tells no further device anything',
  resume: 'Goes on, knowing of what has failed so far',
  approve: 'Lets the next stage begin',
  abort: 'Ends a rollout for good, where it stands',
  rollback: 'Sends every device that was told back to what it had before',
};

/** The part of the API that is about rollouts. */
export function addRolloutRoutes(app: FastifyInstance, rollouts: Rollouts): void {
  app.get('/v1/rollouts', { schema: { summary: 'Rollouts, newest first' } }, async () => ({
    rollouts: rollouts.list(),
  }));
  app.post('/v1/rollouts', { schema: { summary: 'Starts a rollout', body: RolloutBody } }, async (request) => {
    const { release, selector, target, policy = {} } = request.body as Static<typeof RolloutBody>;
    return rollouts.begin({ release, selector, target, policy }, personOf(request));
  });
  app.get(
    '/v1/rollouts/:id',
    { schema: { summary: 'One rollout, with what was decided last, and why', params: RolloutId } },
    async (request) => rollouts.document((request.params as Static<typeof RolloutId>).id),
  );
  app.get(
    '/v1/rollouts/:id/devices',
    {
      schema: {
        summary: 'Devices of a rollout, by id, a page at a time',
        params: RolloutId,
        querystring: DevicesQuery,
      },
    },
    async (request) => {
      const { after, limit, state = null } = request.query as Static<typeof DevicesQuery>;
      return rollouts.devices((request.params as Static<typeof RolloutId>).id, after, limit, state);
    },
  );
  for (const [command, summary] of Object.entries(commands)) {
    app.post(
      `/v1/rollouts/:id/${command}`,
      { schema: { summary, params: RolloutId, body: CommandBody } },
      async (request) => {
        const { id } = request.params as Static<typeof RolloutId>;
        const { because } = request.body as Static<typeof CommandBody>;
        return rollouts.command(id, command as RolloutCommand, because, personOf(request));
      },
    );
  }
  app.get(
    '/v1/devices/:id/rollout',
    { schema: { summary: 'Why a device is, or is not, updated', params: DeviceId, querystring: WhyQuery } },
    async (request) => {
      const { rollout = null } = request.query as Static<typeof WhyQuery>;
      return rollouts.why((request.params as Static<typeof DeviceId>).id, rollout);
    },
  );
}
