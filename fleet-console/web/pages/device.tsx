/** One device: what it is, what it does, why, and what it has said. */
import { useEffect, useState } from 'preact/hooks';
import type { Condition, DeviceResult } from '../../../configs/contracts/device.js';
import type { DevicePage } from '../../server/fleet-view.js';
import type { RolloutAnswer } from '../../server/rollouts.js';
import type { DeviceDocument, StoredEvent } from '../../server/store.js';
import { get, send, useDocument, withQuery } from '../api.js';
import { announce } from '../components/announce.js';
import { Await, Button, Empty, Facts, PageHead, Section, StateTag, Tag, Time } from '../components/basics.js';
import { EventList } from '../components/events.js';
import { Confirm } from '../components/form.js';
import { LatencyTables } from '../components/latency-tables.js';
import { bytesText } from '../format.js';
import { useReloadOnNews } from '../live.js';
import { Link } from '../router.js';
import { Target } from './device-target.js';

const eventsAPage = 20;

/** The page of a device. */
export function Device({ id }: { id: string }) {
  const path = `/v1/devices/${encodeURIComponent(id)}`;
  const device = useDocument<DeviceDocument>(path);
  const summary = useDocument<DevicePage>(withQuery('/v1/device-summaries', { selector: `device=${id}` }));
  const results = useDocument<{ results: DeviceResult[] }>(withQuery('/v1/results', { device: id, limit: 20 }));
  useReloadOnNews(
    (news) => news.kind === 'device' && news.id === id,
    () => {
      device.reload();
      summary.reload();
    },
    500,
  );
  useReloadOnNews((news) => news.kind === 'event' && news.event.device === id, results.reload, 1500);
  const found = summary.data?.devices[0];
  return (
    <>
      <PageHead
        title={id}
        intro={
          <>
            {found !== undefined && <StateTag state={found.state} />} {found?.why}
          </>
        }
        actions={device.data?.isAhead ? <Adopt device={device.data} onDone={device.reload} /> : undefined}
      />
      <Await
        document={device}
        lines={40}
        absent={
          <Empty>
            There is no device {id}. <Link to="/devices">All devices</Link>
          </Empty>
        }
      >
        {(data) => (
          <>
            <Facts
              rows={[
                [
                  'Hardware class',
                  <Link to={withQuery('/devices', { hardwareClass: data.birth.hardwareClass })}>
                    {data.birth.hardwareClass}
                  </Link>,
                ],
                [
                  'Labels',
                  Object.entries(data.birth.labels)
                    .map((label) => label.join('='))
                    .join(', ') || 'none',
                ],
                ['Agent', `quantd ${data.birth.agentVersion}`],
                ['Last seen', <Time at={data.lastSeen} />],
                [
                  'Orders',
                  data.desired === null
                    ? 'none yet'
                    : `generation ${data.desired.generation}; it has seen ${data.reported?.observedGeneration ?? 0}`,
                ],
                ['Waits to be sent', outboxText(data)],
              ]}
            />
            {[...new Set([...Object.keys(data.birth.targets), ...Object.keys(data.reported?.targets ?? {})])].map(
              (target) => (
                <Target key={target} target={target} device={data} results={results.data?.results ?? []} />
              ),
            )}
            <div class="columns">
              <Conditions conditions={data.reported?.conditions ?? []} />
              <Why id={id} />
            </div>
          </>
        )}
      </Await>
      <Section title="Latencies of operators">
        <LatencyTables device={id} />
      </Section>
      <History id={id} />
    </>
  );
}

function outboxText({ reported }: DeviceDocument): string {
  const { messages, bytes, dropped } = reported?.outbox ?? { messages: 0, bytes: 0, dropped: 0 };
  const lost = dropped === 0 ? '' : `; ${dropped} had to be thrown away`;
  return messages === 0 ? `nothing${lost}` : `${messages} messages, ${bytesText(bytes)}${lost}`;
}

function Conditions({ conditions }: { conditions: readonly Condition[] }) {
  return (
    <Section title="Conditions">
      {conditions.length === 0 ? (
        <Empty>The device has said nothing of itself yet.</Empty>
      ) : (
        <ul class="list">
          {conditions.map(({ target, type, status, message, reason, time, failure }) => (
            <li key={`${target} ${type}`}>
              <Tag tone={toneOfCondition(type, status)}>
                {type}
                {status === 'true' ? '' : status === 'false' ? ': no' : ': unknown'}
              </Tag>{' '}
              {target !== null && <span class="quiet-text">{target}</span>} {message || reason}{' '}
              <span class="quiet-text">
                <Time at={time} />
              </span>
              {failure !== undefined && (
                <p class="quiet-text">
                  Step {failure.step}, {failure.subject}, tried {failure.attempts} times
                  {failure.isFinal ? '; not tried again until its orders change' : ''}. {failure.hint}
                </p>
              )}
            </li>
          ))}
        </ul>
      )}
    </Section>
  );
}

function toneOfCondition(type: Condition['type'], status: Condition['status']) {
  const isBadNews = type === 'BudgetInfeasible' || type === 'RolledBack' || type === 'Degraded';
  if (isBadNews) return status === 'true' ? ('bad' as const) : ('quiet' as const);
  if (type === 'Accepted' && status === 'false') return 'bad' as const;
  return status === 'true' ? ('good' as const) : ('quiet' as const);
}

function Why({ id }: { id: string }) {
  const why = useDocument<RolloutAnswer>(`/v1/devices/${encodeURIComponent(id)}/rollout`);
  useReloadOnNews((news) => news.kind === 'rollout', why.reload, 1000);
  return (
    <Section title="Why is it updated, or not?">
      <Await
        document={why}
        absent={<Empty>No rollout has been about this device. Assignments reach it at once.</Empty>}
        lines={4}
      >
        {({ rollout, release, state, why: reason, history }) => (
          <>
            <p>
              <Link to={`/rollouts/${rollout}`}>
                Rollout {rollout} of {release}
              </Link>
              : {state}. {reason}
            </p>
            <ul class="list">
              {history.slice(0, 8).map(({ number, text, time }) => (
                <li key={number}>
                  <span class="quiet-text">
                    <Time at={time} />
                  </span>{' '}
                  {text}
                </li>
              ))}
            </ul>
          </>
        )}
      </Await>
    </Section>
  );
}

function History({ id }: { id: string }) {
  const first = useDocument<{ events: StoredEvent[]; next: number | null }>(
    withQuery('/v1/history', { device: id, limit: eventsAPage }),
  );
  const [older, setOlder] = useState<{ events: StoredEvent[]; next: number | null }>({ events: [], next: null });
  useReloadOnNews((news) => news.kind === 'event' && news.event.device === id, first.reload, 500);
  useEffect(
    () => setOlder((old) => (old.events.length === 0 ? { events: [], next: first.data?.next ?? null } : old)),
    [first.data],
  );
  return (
    <Section title="Timeline">
      <Await document={first} lines={8}>
        {({ events }) => {
          const oldest = events.at(-1)?.number ?? 0;
          return (
            <>
              <EventList
                events={[...events, ...older.events.filter(({ number }) => number < oldest)]}
                hasDevice={false}
              />
              {older.next !== null && (
                <Button
                  onClick={async () => {
                    const page = await get<{ events: StoredEvent[]; next: number | null }>('/v1/history', {
                      device: id,
                      before: older.next,
                      limit: eventsAPage,
                    });
                    setOlder({ events: [...older.events, ...page.events], next: page.next });
                  }}
                >
                  Older events
                </Button>
              )}
            </>
          );
        }}
      </Await>
    </Section>
  );
}

function Adopt({ device, onDone }: { device: DeviceDocument; onDone: () => void }) {
  const [take, setTake] = useState<'console' | 'device' | null>(null);
  const runs = Object.values(device.reported?.targets ?? {})
    .map(({ active }) => active?.release)
    .join(', ');
  return (
    <>
      <Button needs="operator" onClick={() => setTake('device')}>
        Keep what it runs
      </Button>
      <Button needs="operator" kind="primary" onClick={() => setTake('console')}>
        Send this console’s orders
      </Button>
      {take !== null && (
        <Confirm
          title={`Whose word holds on ${device.id}?`}
          action={take === 'console' ? 'Send this console’s orders' : 'Keep what it runs'}
          isDangerous={take === 'console'}
          onClose={() => setTake(null)}
          onYes={async () => {
            await send('POST', `/v1/devices/${encodeURIComponent(device.id)}/adopt?take=${take}`);
            announce(`${device.id} takes this console’s word again.`);
            onDone();
          }}
        >
          <p>The device has orders that are not in this database, as after the database was restored.</p>
          {take === 'console' ? (
            <p>It will be sent what this database wants, which may be an older release than it runs.</p>
          ) : (
            <p>What it runs ({runs || 'nothing'}) becomes what is wanted of it, until something else is assigned.</p>
          )}
        </Confirm>
      )}
    </>
  );
}
