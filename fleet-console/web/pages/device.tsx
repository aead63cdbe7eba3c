/** One device: what it is, what it does, what it measured. */
import { useEffect, useState } from 'preact/hooks';
import type { ActiveArtifact, Condition, DeviceResult, TargetReport } from '../../../configs/contracts/device.js';
import type { Budget } from '../../../configs/contracts/plan.js';
import type { DevicePage } from '../../server/fleet-view.js';
import type { RolloutAnswer } from '../../server/rollouts.js';
import type { DeviceDocument, StoredEvent } from '../../server/store.js';
import { get, send, useDocument, withQuery } from '../api.js';
import { announce } from '../components/announce.js';
import { Await, Button, Empty, Facts, PageHead, Section, StateTag, Tag, Time } from '../components/basics.js';
import { Bar, FrontierChart } from '../components/chart.js';
import { EventList } from '../components/events.js';
import { Confirm } from '../components/form.js';
import { LatencyTables } from '../components/latency-tables.js';
import { BitsChart, PlanTable } from '../components/plan.js';
import { StepLine } from '../components/steps.js';
import { Table } from '../components/table.js';
import type { QuantizeDocument } from '../documents.js';
import {
  budgetText,
  bytesText,
  changeText,
  digestText,
  latencyText,
  numberText,
  percentText,
  secondsText,
} from '../format.js';
import { useReloadOnNews } from '../live.js';
import { Link } from '../router.js';

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

function Target({
  target,
  device,
  results,
}: {
  target: string;
  device: DeviceDocument;
  results: readonly DeviceResult[];
}) {
  const report = device.reported?.targets[target];
  const wanted = device.desired?.targets[target];
  const kind = device.birth.targets[target]?.kind ?? 'unknown';
  const active = report?.active ?? null;
  const mine = results.filter((result) => result.target === target);
  const shown = mine.find(({ id }) => id === active?.result) ?? mine[0];
  const document = shown?.document as QuantizeDocument | undefined;
  const operators = document?.plan?.operators;
  return (
    <>
      <Section title={`Target ${target}`} aside={<span class="quiet-text">{kind}</span>}>
        <StepLine target={target} report={report} conditions={device.reported?.conditions ?? []} />
        <div class="columns">
          <Facts
            rows={[
              ['Wanted', wanted === undefined ? 'nothing: what it runs stays' : wanted.release.id],
              [
                'Budget',
                <Link to={withQuery('/budgets', { selector: `device=${device.id}` })}>
                  {budgetText(wanted?.budget)}
                </Link>,
              ],
              [
                'Runs',
                active === null ? (
                  'nothing'
                ) : (
                  <>
                    {active.release}{' '}
                    <Tag tone={active.isConfirmed ? 'good' : 'busy'}>
                      {active.isConfirmed ? 'confirmed' : 'proving itself'}
                    </Tag>{' '}
                    since <Time at={active.since} />
                  </>
                ),
              ],
              ['Before that', report?.previous?.release ?? 'nothing'],
              [
                'Change took',
                report?.secondsToActive == null
                  ? 'not known yet'
                  : `${secondsText(report.secondsToActive)}${report.hasReprofiled === null ? '' : report.hasReprofiled ? ', with new timings of operators' : ', without timing anything anew'}`,
              ],
            ]}
          />
          {active !== null && <Measured active={active} />}
        </div>
      </Section>
      {operators !== undefined && operators.length > 0 && (
        <Section
          title={`Plan of ${shown!.release}`}
          aside={
            <span class="quiet-text">
              on average W{numberText(document!.plan!.averageWeightBits)} A
              {numberText(document!.plan!.averageActivationBits)}
            </span>
          }
        >
          <BitsChart operators={operators} />
          <PlanTable operators={operators} unit={document!.latency?.unit ?? 'ms'} />
        </Section>
      )}
      <Frontier report={report} budget={wanted?.budget ?? {}} document={document} />
      <Section title="Measured against predicted">
        <Rounds results={mine} />
      </Section>
      {active !== null && <Provenance active={active} document={document} modelSha={wanted?.release.model.sha256} />}
    </>
  );
}

function Measured({ active: { measurements } }: { active: ActiveArtifact }) {
  const { latency, quality } = measurements;
  const longest = Math.max(
    latency.float ?? 0,
    latency.int8 ?? 0,
    latency.measured ?? 0,
    latency.p95 ?? 0,
    latency.predicted ?? 0,
  );
  const bar = (value: number | null | undefined, tone: 'accent' | 'soft') =>
    value == null ? (
      'not measured'
    ) : (
      <Bar share={value / longest} text={latencyText(value, latency.unit)} tone={tone} />
    );
  return (
    <Facts
      rows={[
        ['Float', bar(latency.float, 'soft')],
        ['Uniform int8', bar(latency.int8, 'soft')],
        ['Predicted', bar(latency.predicted, 'soft')],
        ['Measured, median', bar(latency.measured, 'accent')],
        ['95th percentile', bar(latency.p95, 'accent')],
        [
          'Top-1',
          `${percentText(quality.top1)} (float ${percentText(quality.floatTop1)}, int8 ${percentText(quality.int8Top1)})`,
        ],
        ['Agreement with float', `${percentText(quality.agreement)} on ${quality.samples} samples`],
        ['KL divergence', numberText(quality.kl)],
        ['Size, RAM', `${bytesText(measurements.sizeBytes)}, ${bytesText(measurements.ramBytes)}`],
      ]}
    />
  );
}

function Frontier({
  report,
  budget,
  document,
}: {
  report: TargetReport | undefined;
  budget: Budget;
  document: QuantizeDocument | undefined;
}) {
  const points = report?.frontier ?? [];
  const measurements = report?.active?.measurements;
  const unit = measurements?.latency.unit ?? document?.latency?.unit ?? 'ms';
  const int8 = measurements?.latency.int8 ?? document?.latency?.int8 ?? null;
  const ceiling =
    budget.latencyMs ?? (budget.latencyRatio !== undefined && int8 !== null ? budget.latencyRatio * int8 : null);
  const operators = document?.feasible === false ? undefined : document?.plan?.operators;
  const sensitivity = operators?.reduce((sum, operator) => sum + operator.sensitivity, 0) ?? null;
  const latency = document?.latency?.predicted ?? null;
  return (
    <Section title="Frontier" aside={<span class="quiet-text">budget: {budgetText(budget)}</span>}>
      {points.length < 2 ? (
        <Empty>
          The device has reported no frontier for what is wanted: no plan was solved yet, or one was taken over as it
          was.
        </Empty>
      ) : (
        <FrontierChart
          points={points}
          unit={unit}
          ceiling={ceiling}
          chosen={latency === null || sensitivity === null ? null : { latency, sensitivity }}
        />
      )}
    </Section>
  );
}

function Rounds({ results }: { results: readonly DeviceResult[] }) {
  if (results.length === 0) return <Empty>The device has reported no result yet.</Empty>;
  return (
    <Table
      caption="Results of this target, newest first"
      rows={results}
      keyOf={({ id }) => id}
      columns={[
        { name: 'When', cell: ({ time }) => <Time at={time} /> },
        { name: 'Release', cell: ({ release }) => release },
        { name: 'Budget', cell: ({ budget }) => budgetText(budget) },
        {
          name: 'Plan',
          cell: ({ document }) => {
            const { feasible, plan } = document as QuantizeDocument;
            return feasible === false ? (
              <Tag tone="bad">infeasible</Tag>
            ) : (
              `W${numberText(plan?.averageWeightBits)} A${numberText(plan?.averageActivationBits)}`
            );
          },
        },
        {
          name: 'Predicted',
          isNumber: true,
          cell: ({ document }) => {
            const { latency } = document as QuantizeDocument;
            return latencyText(latency?.predicted, latency?.unit);
          },
        },
        {
          name: 'Measured',
          isNumber: true,
          cell: ({ document }) => {
            const { latency } = document as QuantizeDocument;
            return (
              <>
                {latencyText(latency?.measured, latency?.unit)}
                <small>{changeText(latency?.predicted, latency?.measured)}</small>
              </>
            );
          },
        },
        {
          name: 'Agreement',
          isNumber: true,
          cell: ({ document }) => percentText((document as QuantizeDocument).quality?.agreement),
        },
        {
          name: 'Took',
          isNumber: true,
          cell: ({ document }) => {
            const total = (document as QuantizeDocument).seconds?.total;
            return total === undefined ? '–' : secondsText(total);
          },
        },
      ]}
    />
  );
}

function Provenance({
  active,
  document,
  modelSha,
}: {
  active: ActiveArtifact;
  document: QuantizeDocument | undefined;
  modelSha: string | undefined;
}) {
  const recipe = [
    document?.estimator?.name === undefined ? '' : `sensitivity by ${document.estimator.name}`,
    document?.calibration?.description ?? '',
    document?.calibration?.rule === undefined ? '' : `ranges by ${document.calibration.rule}`,
    document?.calibration?.hasBiasCorrection ? 'bias correction' : '',
    document?.rounding === undefined ? '' : `rounding by ${document.rounding}`,
  ].filter((text) => text !== '');
  return (
    <Section title="Provenance">
      <Facts
        rows={[
          ['Float model', <Digest of={active.modelSha256} note={modelSha === active.modelSha256 ? 'as wanted' : ''} />],
          ['Plan', <Digest of={active.planDigest} />],
          ['Artifact', <Digest of={active.artifactSha256} note={document?.artifact?.format ?? ''} />],
          ['Result', <Digest of={active.result} />],
          ['Budget', budgetText(active.budget)],
          ['Recipe', recipe.length === 0 ? 'the result document is not here any more' : recipe.join('; ')],
          [
            'Target identity',
            document?.target?.identity === undefined ? (
              'not known'
            ) : (
              <details>
                <summary>{document.target.kind}</summary>
                <pre>
                  <code>{JSON.stringify(document.target.identity, null, 2)}</code>
                </pre>
              </details>
            ),
          ],
        ]}
      />
    </Section>
  );
}

function Digest({ of, note = '' }: { of: string; note?: string }) {
  return (
    <>
      <code title={of}>{digestText(of)}</code> {note}
    </>
  );
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
