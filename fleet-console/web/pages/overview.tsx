/** How the fleet stands, and what needs somebody. */
import { useState } from 'preact/hooks';
import type { StateCounts } from '../../server/fleet-view.js';
import type { RolloutSummary } from '../../server/rollout-store.js';
import type { StoredEvent } from '../../server/store.js';
import type { OverviewDocument as Document } from '../../server/view-api.js';
import { useDocument, withQuery } from '../api.js';
import { Await, Empty, PageHead, Section, StateTag, Tag } from '../components/basics.js';
import { Shares } from '../components/chart.js';
import { EventList } from '../components/events.js';
import { RolloutTable } from '../components/rollout-parts.js';
import { Table } from '../components/table.js';
import { countText } from '../format.js';
import { useNews, useReloadOnNews } from '../live.js';
import { Link } from '../router.js';
import { type DeviceState, deviceStateOrder, toneOf } from '../states.js';

const shownEvents = 20;
const live = new Set(['running', 'paused', 'rolling-back']);

/** The first page. */
export function Overview() {
  const overview = useDocument<Document>('/v1/overview');
  const rollouts = useDocument<{ rollouts: RolloutSummary[] }>('/v1/rollouts');
  useReloadOnNews(({ kind }) => kind === 'rollout' || kind === 'device', overview.reload);
  useReloadOnNews(({ kind }) => kind === 'rollout' || kind === 'device', rollouts.reload, 2000);
  return (
    <>
      <PageHead title="Overview" intro={<Health />} />
      <Await document={overview} lines={30}>
        {(data) =>
          data.devices === 0 ? (
            <Empty>
              No device has connected yet. Start one: <code>quantd run</code>
            </Empty>
          ) : (
            <>
              <Tiles data={data} />
              <Attention data={data} rollouts={rollouts.data?.rollouts ?? []} />
              <div class="columns">
                <Classes data={data} />
                <Shared data={data} />
              </div>
            </>
          )
        }
      </Await>
      <Section title="Rollouts under way" aside={<Link to="/rollouts">All rollouts</Link>}>
        <Await document={rollouts} lines={3}>
          {({ rollouts: all }) => {
            const running = all.filter(({ status }) => live.has(status));
            return running.length === 0 ? (
              <Empty>
                None. <Link to="/rollouts/new">Start one</Link>
              </Empty>
            ) : (
              <RolloutTable rollouts={running} />
            );
          }}
        </Await>
      </Section>
      <LatestEvents />
    </>
  );
}

/** Whether the console itself is well. */
function Health() {
  const ready = useDocument<{ ready: boolean }>('/readyz');
  useReloadOnNews(() => false, ready.reload);
  if (ready.error?.status === 503)
    return (
      <>
        <Tag tone="bad">not ready</Tag> {ready.error.message}
      </>
    );
  if (ready.error !== null) return <Tag tone="bad">the console does not answer</Tag>;
  return ready.data === null ? (
    <>Asking the console how it is…</>
  ) : (
    <>
      <Tag tone="good">console ready</Tag> Its database and its broker answer.
    </>
  );
}

function Tiles({ data }: { data: Document }) {
  const { states, devices, online } = data;
  return (
    <ul class="tiles" aria-label="The fleet in numbers">
      <li>
        <strong>{devices.toLocaleString('en')}</strong>
        <Link to="/devices">devices</Link>
      </li>
      <li>
        <strong>{online.toLocaleString('en')}</strong>
        online
      </li>
      {deviceStateOrder
        .filter((state) => states[state] > 0 || state === 'confirmed' || state === 'in trouble')
        .map((state) => (
          <li key={state}>
            <strong>{states[state].toLocaleString('en')}</strong>
            <Link to={withQuery('/devices', { state })}>{state}</Link>
          </li>
        ))}
    </ul>
  );
}

/** What is so of one of them, and of several. */
const causes: Partial<Record<DeviceState, readonly [string, string]>> = {
  ahead: ['has orders that this console does not know', 'have orders that this console does not know'],
  'in trouble': ['refuses its orders, or fails at a step', 'refuse their orders, or fail at a step'],
  'rolled back': ['went back to what ran before, by itself', 'went back to what ran before, by themselves'],
  infeasible: ['has no plan that holds its budget', 'have no plan that holds their budget'],
  offline: ['is not connected, and catches up when it comes', 'are not connected, and catch up when they come'],
};

function Attention({ data, rollouts }: { data: Document; rollouts: readonly RolloutSummary[] }) {
  const waiting = rollouts.filter(({ status }) => status === 'paused' || status === 'rolling-back');
  const isCalm = data.attention.length === 0 && data.leftBehind.length === 0 && waiting.length === 0;
  return (
    <Section title="What needs attention">
      {isCalm ? (
        <Empty>Nothing: every device is online, and none is in trouble.</Empty>
      ) : (
        <ul class="list">
          {waiting.map(({ id, release, status, reason }) => (
            <li key={`rollout ${id}`}>
              <Link to={`/rollouts/${id}`}>
                Rollout {id} of {release}
              </Link>{' '}
              is {status === 'paused' ? 'paused' : 'going back'}: {reason}
            </li>
          ))}
          {data.leftBehind.map(({ id, release, status, devices, first }) => (
            <li key={`left by rollout ${id}`}>
              <Link to={`/rollouts/${id}`}>
                Rollout {id} of {release}
              </Link>{' '}
              is {status.replace('-', ' ')}, and {countText(devices, 'device has', 'devices have')} failed in it.{' '}
              <FirstDevices ids={first} of={devices} />
            </li>
          ))}
          {data.attention.map(({ state, devices, first }) => (
            <li key={state}>
              <StateTag state={state} />{' '}
              <Link to={withQuery('/devices', { state })}>{countText(devices, 'device')}</Link>{' '}
              {causes[state]?.[devices === 1 ? 0 : 1]}. <FirstDevices ids={first.map(({ id }) => id)} of={devices} />
            </li>
          ))}
        </ul>
      )}
    </Section>
  );
}

/** The first few of some devices. */
function FirstDevices({ ids, of }: { ids: readonly string[]; of: number }) {
  return (
    <span class="quiet-text">
      {ids.map((id, index) => (
        <span key={id}>
          {index > 0 && ', '}
          <Link to={`/devices/${id}`}>{id}</Link>
        </span>
      ))}
      {of > ids.length && ' …'}
    </span>
  );
}

function partsOf(states: StateCounts) {
  return deviceStateOrder.map((state) => ({ name: state, count: states[state], tone: toneOf(state) }));
}

function Classes({ data }: { data: Document }) {
  return (
    <Section title="Hardware classes">
      <Table
        caption="Devices by hardware class"
        columns={[
          {
            name: 'Class',
            cell: ({ hardwareClass }) => <Link to={withQuery('/devices', { hardwareClass })}>{hardwareClass}</Link>,
          },
          { name: 'Devices', cell: ({ devices }) => devices.toLocaleString('en'), isNumber: true },
          { name: 'States', cell: ({ states }) => <Shares parts={partsOf(states)} /> },
        ]}
        rows={data.classes}
        keyOf={({ hardwareClass }) => hardwareClass}
      />
    </Section>
  );
}

function Shared({ data }: { data: Document }) {
  return (
    <Section title="Releases">
      {data.releases.length === 0 ? (
        <Empty>
          No device runs a release or is to. <Link to="/releases">Make one, and assign it</Link>
        </Empty>
      ) : (
        <Table
          caption="Targets of devices by release"
          columns={[
            { name: 'Release', cell: ({ release }) => <Link to={withQuery('/devices', { release })}>{release}</Link> },
            { name: 'Wanted on', cell: ({ wanted }) => wanted.toLocaleString('en'), isNumber: true },
            {
              name: 'Runs on',
              cell: ({ active, confirmed, wanted }) => (
                <Shares
                  parts={[
                    { name: 'confirmed', count: confirmed, tone: 'good' },
                    { name: 'proving itself', count: active - confirmed, tone: 'busy' },
                    { name: 'still to come', count: Math.max(0, wanted - active), tone: 'quiet' },
                  ]}
                />
              ),
            },
          ]}
          rows={data.releases}
          keyOf={({ release }) => release}
        />
      )}
    </Section>
  );
}

function LatestEvents() {
  const history = useDocument<{ events: StoredEvent[] }>(`/v1/history?limit=${shownEvents}`);
  const [fresh, setFresh] = useState<readonly StoredEvent[]>([]);
  useNews((news) => {
    if (news.kind !== 'event') return;
    setFresh((old) => [{ number: news.number, event: news.event }, ...old].slice(0, shownEvents));
  });
  return (
    <Section title="Latest events">
      <Await document={history} lines={8}>
        {({ events }) => {
          const known = new Set(fresh.map(({ number }) => number));
          const all = [...fresh, ...events.filter(({ number }) => !known.has(number))];
          return <EventList events={all.slice(0, shownEvents)} />;
        }}
      </Await>
    </Section>
  );
}
