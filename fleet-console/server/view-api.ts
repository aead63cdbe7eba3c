import { type Static, type TSchema, Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { ReleaseId } from '../../configs/contracts/release.js';
import { deviceStates } from '../device-state.js';
import type { FleetView, Overview } from './fleet-view.js';
import type { RolloutTrouble } from './rollout-store.js';
import type { Rollouts } from './rollouts.js';
import type { ConsoleStore } from './store.js';

const Selector = Type.String({ minLength: 1, maxLength: 500, default: 'all' });
const Limit = Type.Integer({ minimum: 1, maximum: 1000, default: 50 });
const SummaryQuery = Type.Object({
  selector: Selector,
  search: Type.Optional(Type.String({ maxLength: 200 })),
  state: Type.Optional(Type.Union(deviceStates.map((state) => Type.Literal(state)))),
  hardwareClass: Type.Optional(Type.String({ maxLength: 80 })),
  release: Type.Optional(Type.String({ maxLength: 200 })),
  after: Type.Optional(Type.String({ maxLength: 64 })),
  limit: Limit,
});
const HistoryQuery = Type.Object({
  device: Type.Optional(Type.String({ maxLength: 64 })),
  before: Type.Optional(Type.Integer({ minimum: 1 })),
  limit: Limit,
});
const CompareQuery = Type.Object({ base: ReleaseId, other: ReleaseId, selector: Selector });

/** The overview as the API shows it. */
export interface OverviewDocument extends Overview {
  /** Rollouts that have ended, newest first, with devices that have failed there: nobody acts on them any more. */
  readonly leftBehind: readonly RolloutTrouble[];
}

/** The part of the API that shows the fleet as lists and numbers. */
export function addViewRoutes(
  app: FastifyInstance,
  { view, store, rollouts }: { view: FleetView; store: ConsoleStore; rollouts: Rollouts },
): void {
  const get = <Q extends TSchema>(path: string, summary: string, querystring: Q, work: (query: Static<Q>) => unknown) =>
    app.get(path, { schema: { summary, querystring } }, async (request) => work(request.query as Static<Q>));
  get(
    '/v1/overview',
    'The fleet in numbers, and what needs somebody',
    Type.Object({}),
    async (): Promise<OverviewDocument> => ({ ...(await view.overview()), leftBehind: rollouts.left() }),
  );
  get('/v1/device-summaries', 'Devices in short, found by text and state, a page at a time', SummaryQuery, (query) =>
    view.devices(query),
  );
  get(
    '/v1/history',
    'Events of devices, newest first, a page at a time',
    HistoryQuery,
    ({ device = null, before = Number.MAX_SAFE_INTEGER, limit }) => {
      const events = store.eventsBefore(before, limit, device);
      return { events, next: events.length < limit ? null : events.at(-1)!.number };
    },
  );
  get('/v1/budgets/rules', 'Every budget that was ever set, newest first', Type.Object({}), () => ({
    rules: store.budgets().reverse(),
  }));
  get(
    '/v1/comparisons',
    'What two releases measured on the devices that have run both',
    CompareQuery,
    async ({ base, other, selector }) => ({
      base,
      other,
      selector,
      targets: await view.compare(base, other, selector),
    }),
  );
}
