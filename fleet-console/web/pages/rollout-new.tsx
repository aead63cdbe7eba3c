/** A new rollout: its policy as a form, and as the JSON that is sent. */
import { useState } from 'preact/hooks';
import type { Release } from '../../../configs/contracts/release.js';
import type { FailureClass, GateMetric } from '../../../configs/contracts/rollout.js';
import type { DevicePage } from '../../server/fleet-view.js';
import type { RolloutDocument } from '../../server/rollouts.js';
import { send, useDocument, withQuery } from '../api.js';
import { announce } from '../components/announce.js';
import { Await, Button, Empty, ErrorBox, PageHead } from '../components/basics.js';
import { Check, Choice, Field, useAction } from '../components/form.js';
import { countText } from '../format.js';
import { go, Link } from '../router.js';

interface StageDraft {
  readonly name: string;
  readonly by: 'count' | 'percent' | 'selector';
  readonly value: string;
  readonly bakeSeconds: string;
  readonly hasApproval: boolean;
}
type Bound = 'most' | 'least' | 'mostRatio' | 'mostDrop';
interface GateDraft {
  readonly metric: GateMetric;
  readonly bound: Bound;
  readonly value: string;
}
interface AbortDraft {
  readonly kind: FailureClass | 'ANY';
  readonly percent: string;
  readonly minimum: string;
}

const metrics: readonly (readonly [GateMetric, string])[] = [
  ['latencyMedian', 'latency, median (ms)'],
  ['latencyP95', 'latency, p95 (ms)'],
  ['ramBytes', 'RAM (bytes)'],
  ['energyMj', 'energy (mJ)'],
  ['kl', 'KL divergence'],
  ['top1', 'top-1 (fraction)'],
  ['agreement', 'agreement with float (fraction)'],
];
const rising = new Set<GateMetric>(['top1', 'agreement']);
const boundsOf = (metric: GateMetric): readonly (readonly [Bound, string])[] =>
  rising.has(metric)
    ? [
        ['mostDrop', 'at most so far below the release before'],
        ['least', 'at least'],
      ]
    : [
        ['mostRatio', 'at most so many times the release before'],
        ['most', 'at most'],
      ];
const classes = ['ANY', 'GATE', 'REVERTED', 'FAILED', 'INFEASIBLE', 'REJECTED', 'TIMED_OUT'] as const;

/** The form. */
export function NewRollout() {
  const releases = useDocument<{ releases: Release[] }>('/v1/releases');
  return (
    <>
      <PageHead
        title="New rollout"
        intro="Every key that is left out has a default; the console refuses a policy that could never end or never act."
      />
      <Await document={releases}>
        {({ releases: all }) =>
          all.length === 0 ? (
            <Empty>
              There is no release to roll out. <Link to="/releases">Make one</Link>
            </Empty>
          ) : (
            <Form releases={all.map(({ id }) => id)} />
          )
        }
      </Await>
    </>
  );
}

function Form({ releases }: { releases: readonly string[] }) {
  const [release, setRelease] = useState(releases[0]!);
  const [selector, setSelector] = useState('all');
  const [target, setTarget] = useState('host');
  const [stages, setStages] = useState<readonly StageDraft[]>([
    { name: 'canary', by: 'count', value: '1', bakeSeconds: '60', hasApproval: false },
    { name: '', by: 'percent', value: '100', bakeSeconds: '0', hasApproval: false },
  ]);
  const [gates, setGates] = useState<readonly GateDraft[]>([
    { metric: 'latencyP95', bound: 'mostRatio', value: '1.2' },
    { metric: 'agreement', bound: 'mostDrop', value: '0.02' },
  ]);
  const [aborts, setAborts] = useState<readonly AbortDraft[]>([{ kind: 'ANY', percent: '0', minimum: '1' }]);
  const [onFail, setOnFail] = useState('rollback-all');
  const [offline, setOffline] = useState('wait');
  const [lateJoiners, setLateJoiners] = useState('adopt');
  const [perMinute, setPerMinute] = useState('');
  const [maxUnavailable, setMaxUnavailable] = useState('');
  const { isBusy, error, run } = useAction();
  const policy = {
    stages: stages.map(({ name, by, value, bakeSeconds, hasApproval }) => ({
      ...(name.trim() === '' ? {} : { name: name.trim() }),
      [by]: by === 'selector' ? value : Number(value),
      bakeSeconds: Number(bakeSeconds || 0),
      approval: hasApproval,
    })),
    gates: gates.map(({ metric, bound, value }) => ({ metric, [bound]: Number(value) })),
    abort: aborts.map(({ kind, percent, minimum }) => ({
      class: kind,
      percent: Number(percent),
      minimum: Number(minimum),
    })),
    onFail,
    offline,
    lateJoiners,
    ...(perMinute === '' ? {} : { rate: { perMinute: Number(perMinute) } }),
    ...(maxUnavailable === '' ? {} : { disruption: { maxUnavailable: Number(maxUnavailable) } }),
  };
  const body = { release, selector, target, policy };
  const change = <T,>(list: readonly T[], index: number, values: Partial<T>) =>
    list.map((row, at) => (at === index ? { ...row, ...values } : row));
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void run(async () => {
          const rollout = await send<RolloutDocument>('POST', '/v1/rollouts', body);
          announce(`Rollout ${rollout.id} has started.`);
          go(`/rollouts/${rollout.id}`);
        });
      }}
    >
      <div class="grid-fields">
        <Choice
          label="Release"
          value={release}
          options={releases.map((id) => [id, id] as const)}
          onChange={setRelease}
        />
        <Field
          label="On the devices"
          value={selector}
          onInput={setSelector}
          isRequired
          hint="all, group=NAME, LABEL=VALUE; a comma means and"
        />
        <Field
          label="Target"
          value={target}
          onInput={setTarget}
          isRequired
          hint="host, or the name of a microcontroller"
        />
      </div>
      <Named selector={selector} />
      <Rows
        title="Stages, one after the other; the last takes all that are left"
        rows={stages}
        noun="stage"
        least={1}
        onAdd={() =>
          setStages([
            ...stages.slice(0, -1),
            { name: '', by: 'percent', value: '50', bakeSeconds: '0', hasApproval: false },
            ...stages.slice(-1),
          ])
        }
        onRemove={(index) => setStages(stages.filter((_, at) => at !== index))}
        fields={({ name, by, value, bakeSeconds, hasApproval }, index) => (
          <>
            <Field
              label={`Stage ${index + 1}, name`}
              value={name}
              onInput={(text) => setStages(change(stages, index, { name: text }))}
            />
            <Choice
              label="Takes"
              value={by}
              options={[
                ['count', 'so many more devices'],
                ['percent', 'until so many per cent'],
                ['selector', 'those that a selector names'],
              ]}
              onChange={(text) => setStages(change(stages, index, { by: text as StageDraft['by'] }))}
            />
            <Field
              label={by === 'selector' ? 'Selector' : by === 'percent' ? 'Per cent' : 'Devices'}
              type={by === 'selector' ? 'text' : 'number'}
              value={value}
              isRequired
              onInput={(text) => setStages(change(stages, index, { value: text }))}
            />
            <Field
              label="Bake, seconds"
              type="number"
              value={bakeSeconds}
              onInput={(text) => setStages(change(stages, index, { bakeSeconds: text }))}
            />
            <Check
              label="Needs approval after it"
              isOn={hasApproval}
              onChange={(isOn) => setStages(change(stages, index, { hasApproval: isOn }))}
            />
          </>
        )}
      />
      <Rows
        title="Gates, on what each device measures"
        rows={gates}
        noun="gate"
        least={0}
        onAdd={() => setGates([...gates, { metric: 'latencyMedian', bound: 'mostRatio', value: '1.1' }])}
        onRemove={(index) => setGates(gates.filter((_, at) => at !== index))}
        fields={({ metric, bound, value }, index) => (
          <>
            <Choice
              label={`Gate ${index + 1}, metric`}
              value={metric}
              options={metrics}
              onChange={(text) =>
                setGates(
                  change(gates, index, { metric: text as GateMetric, bound: boundsOf(text as GateMetric)[0]![0] }),
                )
              }
            />
            <Choice
              label="Bound"
              value={bound}
              options={boundsOf(metric)}
              onChange={(text) => setGates(change(gates, index, { bound: text as Bound }))}
            />
            <Field
              label="Value"
              type="number"
              value={value}
              isRequired
              onInput={(text) => setGates(change(gates, index, { value: text }))}
            />
          </>
        )}
      />
      <Rows
        title="Abort rules, on the share of failures"
        rows={aborts}
        noun="rule"
        least={1}
        onAdd={() => setAborts([...aborts, { kind: 'GATE', percent: '0', minimum: '1' }])}
        onRemove={(index) => setAborts(aborts.filter((_, at) => at !== index))}
        fields={({ kind, percent, minimum }, index) => (
          <>
            <Choice
              label={`Rule ${index + 1}, class`}
              value={kind}
              options={classes.map((name) => [name, name === 'ANY' ? 'any' : name] as const)}
              onChange={(text) => setAborts(change(aborts, index, { kind: text as AbortDraft['kind'] }))}
            />
            <Field
              label="More than, %"
              type="number"
              value={percent}
              isRequired
              onInput={(text) => setAborts(change(aborts, index, { percent: text }))}
            />
            <Field
              label="Of at least, answers"
              type="number"
              value={minimum}
              isRequired
              onInput={(text) => setAborts(change(aborts, index, { minimum: text }))}
            />
          </>
        )}
      />
      <fieldset>
        <legend>Otherwise</legend>
        <div class="grid-fields">
          <Choice
            label="On failure"
            value={onFail}
            options={[
              ['pause', 'pause'],
              ['rollback-stage', 'roll the stage back'],
              ['rollback-all', 'roll everything back'],
            ]}
            onChange={setOnFail}
          />
          <Choice
            label="Devices that are offline"
            value={offline}
            options={[
              ['wait', 'are waited for'],
              ['skip', 'are told when they come'],
            ]}
            onChange={setOffline}
          />
          <Choice
            label="Devices that come later"
            value={lateJoiners}
            options={[
              ['adopt', 'take part'],
              ['ignore', 'are left alone'],
            ]}
            onChange={setLateJoiners}
          />
          <Field label="Most that begin within a minute" type="number" value={perMinute} onInput={setPerMinute} />
          <Field
            label="Most that are unavailable at one time"
            type="number"
            value={maxUnavailable}
            onInput={setMaxUnavailable}
          />
        </div>
      </fieldset>
      <h2>What is sent</h2>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by the keyboard */}
      <pre tabIndex={0}>
        <code>{JSON.stringify(body, null, 2)}</code>
      </pre>
      {error !== null && <ErrorBox error={error} />}
      <div class="actions">
        <Button type="submit" kind="primary" needs="operator" isBusy={isBusy}>
          Start the rollout
        </Button>
      </div>
    </form>
  );
}

/** How many devices a selector names now. */
function Named({ selector }: { selector: string }) {
  const page = useDocument<DevicePage>(
    selector.trim() === '' ? null : withQuery('/v1/device-summaries', { selector, limit: 1 }),
  );
  return (
    <p class="quiet-text" role="status">
      {page.error !== null
        ? page.error.message
        : page.data === null
          ? 'Counting…'
          : `The selector names ${countText(page.data.total, 'device')} now.`}
    </p>
  );
}

/** Rows of fields that can be added to and taken from. */
function Rows<T>({
  title,
  rows,
  fields,
  noun,
  least,
  onAdd,
  onRemove,
}: {
  title: string;
  rows: readonly T[];
  fields: (row: T, index: number) => preact.ComponentChildren;
  noun: string;
  least: number;
  onAdd: () => void;
  onRemove: (index: number) => void;
}) {
  return (
    <fieldset>
      <legend>{title}</legend>
      {rows.map((row, index) => (
        <div key={index} class="row-fields">
          <div class="grid-fields">{fields(row, index)}</div>
          {rows.length > least && (
            <Button kind="quiet" onClick={() => onRemove(index)}>
              Remove
              <span class="hidden">
                {' '}
                {noun} {index + 1}
              </span>
            </Button>
          )}
        </div>
      ))}
      <Button onClick={onAdd}>Add a {noun}</Button>
    </fieldset>
  );
}
