/** One rollout: where it stands and why, and what can be done about it. */
import { useState } from 'preact/hooks';
import type { Gate, RolloutPolicy } from '../../../configs/contracts/rollout.js';
import type { RolloutCommand, RolloutDevices, RolloutDocument } from '../../server/rollouts.js';
import { send, useDocument, withQuery } from '../api.js';
import { announce } from '../components/announce.js';
import { Await, Button, Empty, Facts, PageHead, Section, Tag, Time } from '../components/basics.js';
import { Choice, Confirm, Field } from '../components/form.js';
import { progressStates, RolloutShares, StatusTag } from '../components/rollout-parts.js';
import { Pager, Table } from '../components/table.js';
import { bytesText, countText, digits, latencyText, percentText, secondsText } from '../format.js';
import { useReloadOnNews } from '../live.js';
import { Link, useQuery } from '../router.js';

const pageSize = 50;

/** The page of a rollout. */
export function Rollout({ id }: { id: string }) {
  const rollout = useDocument<RolloutDocument>(`/v1/rollouts/${encodeURIComponent(id)}`);
  const isLive = rollout.data !== null && ['running', 'paused', 'rolling-back'].includes(rollout.data.status);
  useReloadOnNews(
    (news) => (news.kind === 'rollout' && news.news.id === Number(id)) || (news.kind === 'device' && isLive),
    rollout.reload,
    700,
  );
  return (
    <>
      <PageHead
        title={`Rollout ${id}${rollout.data === null ? '' : ` of ${rollout.data.release}`}`}
        intro={
          rollout.data !== null && (
            <>
              <StatusTag status={rollout.data.status} /> <span role="status">{rollout.data.waitsFor}</span>
            </>
          )
        }
        actions={rollout.data !== null && <Commands rollout={rollout.data} onDone={rollout.reload} />}
      />
      <Await
        document={rollout}
        lines={30}
        absent={
          <Empty>
            There is no rollout {id}. <Link to="/rollouts">All rollouts</Link>
          </Empty>
        }
      >
        {(data) => (
          <>
            <RolloutShares counts={data.counts} />
            <Facts
              rows={[
                ['On', `target ${data.target} of ${data.selector}`],
                ['Started', <Time at={data.createdAt} />],
                ['Changed', <Time at={data.changedAt} />],
                ['On failure', failTexts[data.policy.onFail]],
              ]}
            />
            <Stages rollout={data} />
            <Gates policy={data.policy} />
            <Devices id={data.id} changedAt={data.changedAt} counts={data.counts} />
            <Section title="Decisions">
              <ol class="list">
                {data.reasons.map(({ number, device, text, time }) => (
                  <li key={number}>
                    <span class="quiet-text">
                      <Time at={time} />
                    </span>{' '}
                    {device !== null && <Link to={`/devices/${device}`}>{device}</Link>} {text}
                  </li>
                ))}
              </ol>
            </Section>
            <details>
              <summary>Policy as JSON</summary>
              {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by the keyboard */}
              <pre tabIndex={0}>
                <code>{JSON.stringify(data.policy, null, 2)}</code>
              </pre>
            </details>
          </>
        )}
      </Await>
    </>
  );
}

const failTexts: Readonly<Record<RolloutPolicy['onFail'], string>> = {
  pause: 'the rollout pauses until somebody decides',
  'rollback-stage': 'devices of the current stage go back to what they ran',
  'rollback-all': 'every device that was told goes back to what it ran',
};

function Stages({ rollout: { policy, stages, stage, status } }: { rollout: RolloutDocument }) {
  const isOver = status === 'completed';
  return (
    <Section title="Stages">
      <ol class="steps">
        {policy.stages.map((wanted, index) => {
          const isNow = index === stage && !isOver;
          const isDone = index < stage || isOver;
          const hasFailed = isNow && status !== 'running';
          const { settledMs, startedMs, isApproved } = stages[index] ?? {
            settledMs: null,
            startedMs: null,
            isApproved: false,
          };
          const parts = [
            wanted.bakeSeconds > 0 ? `bakes ${secondsText(wanted.bakeSeconds)}` : '',
            wanted.approval ? (isApproved ? 'approved' : 'needs approval') : '',
            isNow && startedMs !== null && settledMs !== null ? 'all have answered' : '',
          ].filter((text) => text !== '');
          return (
            <li
              key={index}
              class={hasFailed ? 'failed' : isNow ? 'now' : isDone ? 'done' : ''}
              aria-current={isNow ? 'step' : undefined}
            >
              {index + 1}. {wanted.name ?? sizeText(wanted)}
              <small>
                {wanted.name !== undefined && sizeText(wanted)}
                {parts.length > 0 && `${wanted.name === undefined ? '' : '; '}${parts.join(', ')}`}
              </small>
            </li>
          );
        })}
      </ol>
    </Section>
  );
}

/** How many devices a stage takes, in words. */
function sizeText({ count, percent, selector }: RolloutPolicy['stages'][number]): string {
  if (count !== undefined) return countText(count, 'more device', 'more devices');
  return percent === undefined ? (selector ?? '') : percent === 100 ? 'all the rest' : `up to ${percent} %`;
}

function Gates({ policy: { gates, abort } }: { policy: RolloutPolicy }) {
  return (
    <div class="columns">
      <Section title="Gates">
        {gates.length === 0 ? (
          <Empty>None: it counts that devices confirm.</Empty>
        ) : (
          <ul class="list">
            {gates.map((gate) => (
              <li key={JSON.stringify(gate)}>{gateText(gate)}</li>
            ))}
          </ul>
        )}
      </Section>
      <Section title="Abort rules">
        <ul class="list">
          {abort.map(({ class: kind, percent, minimum }) => (
            <li key={`${kind} ${percent} ${minimum}`}>
              {percent === 0 ? 'the first failure' : `failures on more than ${percent} % of them`}{' '}
              {kind === 'ANY' ? 'of any class' : `of class ${kind}`}, once{' '}
              {countText(minimum, 'device has', 'devices have')} answered
            </li>
          ))}
        </ul>
      </Section>
    </div>
  );
}

/** A gate in words. */
function gateText({ metric, most, least, mostRatio, mostDrop }: Gate): string {
  const value = (bound: number) => {
    if (metric === 'ramBytes') return bytesText(bound);
    if (metric === 'latencyMedian' || metric === 'latencyP95') return latencyText(bound);
    return metric === 'top1' || metric === 'agreement' ? percentText(bound) : digits(bound);
  };
  if (most !== undefined) return `${metric} at most ${value(most)}`;
  if (least !== undefined) return `${metric} at least ${value(least)}`;
  if (mostRatio !== undefined) return `${metric} at most ${mostRatio} times what the release before it measured`;
  return `${metric} at most ${value(mostDrop!)} below what the release before it measured`;
}

function Devices({
  id,
  changedAt,
  counts,
}: {
  id: number;
  changedAt: string;
  counts: Readonly<Record<string, number>>;
}) {
  const [query, setQuery] = useQuery();
  const state = query.get('state') ?? '';
  const page = useDocument<RolloutDevices>(
    // A change of the rollout asks again; the console does not look at it.
    withQuery(`/v1/rollouts/${id}/devices`, { state, after: query.get('after'), limit: pageSize, at: changedAt }),
  );
  return (
    <Section title="Devices">
      <div class="filters">
        <Choice
          label="State"
          value={state}
          options={[['', 'any'], ...progressStates.map((name) => [name, `${name} (${counts[name] ?? 0})`] as const)]}
          onChange={(value) => setQuery({ state: value, after: '' })}
        />
      </div>
      <Await document={page} lines={12}>
        {({ devices, next }) =>
          devices.length === 0 ? (
            <Empty>No device is in this state.</Empty>
          ) : (
            <>
              <Table
                caption="Devices of the rollout"
                rows={devices}
                keyOf={({ id: device }) => device}
                columns={[
                  { name: 'Device', cell: ({ id: device }) => <Link to={`/devices/${device}`}>{device}</Link> },
                  { name: 'Stage', cell: ({ stage }) => (stage === null ? 'not chosen yet' : stage + 1) },
                  { name: 'State', cell: ({ state: now }) => <ProgressTag state={now} /> },
                  {
                    name: 'Before',
                    cell: ({ previous, startedMs }) => previous ?? (startedMs === null ? 'not told yet' : 'nothing'),
                  },
                  {
                    name: 'Evidence',
                    cell: ({ gates, failure }) => (
                      <>
                        {failure !== null && gates.every(({ text }) => text !== failure.message) && (
                          <div>
                            <strong>{failure.class}</strong>: {failure.message}
                          </div>
                        )}
                        {gates.map(({ metric, verdict, text }) => (
                          <div key={metric}>
                            <Tag tone={verdict === 'pass' ? 'good' : verdict === 'fail' ? 'bad' : 'busy'}>
                              {verdict}
                            </Tag>{' '}
                            {text}
                          </div>
                        ))}
                        {failure === null && gates.length === 0 && 'none yet'}
                      </>
                    ),
                  },
                ]}
              />
              <Pager
                total={null}
                shown={devices.length}
                next={next}
                hasBefore={query.get('after') !== null}
                onNext={() => setQuery({ after: String(next) })}
                onFirst={() => setQuery({ after: '' })}
              />
            </>
          )
        }
      </Await>
    </Section>
  );
}

function ProgressTag({ state }: { state: string }) {
  const tone =
    state === 'confirmed'
      ? 'good'
      : state === 'failed' || state === 'stranded'
        ? 'bad'
        : state === 'updating' || state === 'returning'
          ? 'busy'
          : 'quiet';
  return <Tag tone={tone}>{state}</Tag>;
}

function Commands({ rollout, onDone }: { rollout: RolloutDocument; onDone: () => void }) {
  const [asked, setAsked] = useState<RolloutCommand | null>(null);
  const [because, setBecause] = useState('');
  const { id, status, counts, policy, stage, stages, release } = rollout;
  const touched = ['updating', 'confirmed', 'failed'].reduce((sum, state) => sum + (counts[state] ?? 0), 0);
  const texts: Readonly<Record<RolloutCommand, { name: string; says: string; isDangerous?: boolean }>> = {
    pause: {
      name: 'Pause',
      says: 'No further device is told anything. Devices that were told go on; deadlines stand still.',
    },
    resume: { name: 'Resume', says: 'It goes on where it stands. What has failed until now counts no more.' },
    approve: { name: 'Approve', says: `Stage ${stage + 1} counts as approved, and the next one may begin.` },
    abort: {
      name: 'Abort',
      says: `It ends for good where it stands: ${countText(touched, 'device keeps', 'devices keep')} ${release}, the others keep what they run.`,
      isDangerous: true,
    },
    rollback: {
      name: 'Roll back',
      says: `${countText(touched, 'device is', 'devices are')} told to go back to what ran there before, the last stage first.`,
      isDangerous: true,
    },
  };
  const can: Readonly<Record<RolloutCommand, boolean>> = {
    pause: status === 'running',
    resume: status === 'paused',
    approve:
      (status === 'running' || status === 'paused') &&
      policy.stages[stage]?.approval === true &&
      !stages[stage]?.isApproved,
    abort: status === 'running' || status === 'paused' || status === 'rolling-back',
    rollback: status === 'running' || status === 'paused' || status === 'completed',
  };
  const offered = (Object.keys(texts) as RolloutCommand[]).filter((command) => can[command]);
  return (
    <>
      {offered.map((command) => (
        <Button
          key={command}
          needs="operator"
          kind={command === 'approve' || command === 'resume' ? 'primary' : 'plain'}
          onClick={() => {
            setBecause('');
            setAsked(command);
          }}
        >
          {texts[command].name}
        </Button>
      ))}
      {asked !== null && (
        <Confirm
          title={`${texts[asked].name} rollout ${id}?`}
          action={texts[asked].name}
          isDangerous={texts[asked].isDangerous ?? false}
          onClose={() => setAsked(null)}
          onYes={async () => {
            await send('POST', `/v1/rollouts/${id}/${asked}`, because.trim() === '' ? {} : { because: because.trim() });
            announce(`Rollout ${id}: ${texts[asked].name.toLowerCase()}.`);
            onDone();
          }}
        >
          <p>{texts[asked].says}</p>
          <Field
            label="Because"
            value={because}
            onInput={setBecause}
            hint="Kept with the decision; may be left empty."
          />
        </Confirm>
      )}
    </>
  );
}
