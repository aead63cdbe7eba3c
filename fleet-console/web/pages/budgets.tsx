/** Budgets: what would become of one, and setting it. */
import { useState } from 'preact/hooks';
import type { Budget } from '../../../configs/contracts/plan.js';
import type { DeviceDocument } from '../../server/store.js';
import type { ReasonedAnswer, ReasonedClass } from '../../server/verdicts.js';
import { send, useDocument } from '../api.js';
import { announce } from '../components/announce.js';
import { Await, Button, Empty, ErrorBox, PageHead, Section, Tag, Time } from '../components/basics.js';
import { BudgetFields, budgetOf, draftOf, emptyDraft } from '../components/budget-editor.js';
import { FrontierChart } from '../components/chart.js';
import { Confirm, Field, useAction } from '../components/form.js';
import { Table } from '../components/table.js';
import { budgetText, bytesText, countText, numberText } from '../format.js';
import { Link, useQuery } from '../router.js';

interface Rule {
  readonly selector: string;
  readonly budget: Budget;
  readonly createdAt: string;
}

const shownDevices = 100;

/** The editor above, what was set below. */
export function Budgets() {
  const [query] = useQuery();
  const rules = useDocument<{ rules: Rule[] }>('/v1/budgets/rules');
  const [selector, setSelector] = useState(query.get('selector') ?? 'all');
  const [draft, setDraft] = useState(emptyDraft);
  return (
    <>
      <PageHead
        title="Budgets"
        intro="A device’s own comes before those of its groups and labels, these before “all”, that before the release’s; the newest within a rank."
      />
      <Editor
        selector={selector}
        setSelector={setSelector}
        draft={draft}
        setDraft={setDraft}
        onPushed={rules.reload}
        known={[...new Set((rules.data?.rules ?? []).map((rule) => rule.selector))]}
      />
      <Section title="What was set, newest first">
        <Await document={rules}>
          {({ rules: all }) =>
            all.length === 0 ? (
              <Empty>Nothing yet: the budget of each release holds, or none.</Empty>
            ) : (
              <RuleTable
                rules={all}
                onUse={(rule) => {
                  setSelector(rule.selector);
                  setDraft(draftOf(rule.budget));
                  document.querySelector<HTMLElement>('#budget-form input')?.focus();
                }}
              />
            )
          }
        </Await>
      </Section>
    </>
  );
}

function RuleTable({ rules, onUse }: { rules: readonly Rule[]; onUse: (rule: Rule) => void }) {
  const newest = new Map<string, Rule>();
  for (const rule of rules) if (!newest.has(rule.selector)) newest.set(rule.selector, rule);
  const rank = ({ selector }: Rule) =>
    selector.includes('device=') ? 'device' : selector === 'all' ? 'all' : 'group or label';
  return (
    <Table
      caption="Budgets that were set"
      rows={rules.map((rule, index) => ({ ...rule, index }))}
      keyOf={({ index }) => index}
      columns={[
        { name: 'For', cell: ({ selector }) => selector },
        { name: 'Rank', cell: rank },
        { name: 'Budget', cell: ({ budget }) => budgetText(budget) },
        { name: 'Set', cell: ({ createdAt }) => <Time at={createdAt} /> },
        {
          name: 'Holds',
          cell: (rule) =>
            newest.get(rule.selector)?.createdAt === rule.createdAt ? (
              <Tag tone="good">holds</Tag>
            ) : (
              <Tag tone="quiet">replaced</Tag>
            ),
        },
        {
          name: 'Again',
          cell: (rule) => (
            <Button kind="quiet" onClick={() => onUse(rule)}>
              Edit<span class="hidden"> the budget of {rule.selector}</span>
            </Button>
          ),
        },
      ]}
    />
  );
}

function Editor({
  selector,
  setSelector,
  draft,
  setDraft,
  onPushed,
  known,
}: {
  selector: string;
  setSelector: (selector: string) => void;
  draft: typeof emptyDraft;
  setDraft: (draft: typeof emptyDraft) => void;
  onPushed: () => void;
  known: readonly string[];
}) {
  const budget = budgetOf(draft);
  const question = JSON.stringify([selector.trim(), budget]);
  const [answer, setAnswer] = useState<{ question: string; document: ReasonedAnswer } | null>(null);
  const [isAsked, setAsked] = useState(false);
  const { isBusy, error, run } = useAction();
  const isAnswered = answer?.question === question;
  return (
    <>
      <form
        id="budget-form"
        onSubmit={(event) => {
          event.preventDefault();
          void run(async () => {
            const body = { selector, budget, mostDevices: shownDevices };
            const document = await send<ReasonedAnswer>('POST', '/v1/budgets/what-if', body);
            setAnswer({ question, document });
            announce(`What if: ${verdictsText(document)}.`);
          });
        }}
      >
        <Field
          label="For the devices"
          value={selector}
          onInput={setSelector}
          isRequired
          suggestions={['all', ...known]}
          hint="all, device=ID, group=NAME, LABEL=VALUE; a comma means and"
        />
        <BudgetFields draft={draft} onChange={setDraft} />
        {error !== null && <ErrorBox error={error} />}
        <div class="actions">
          <Button type="submit" kind={isAnswered ? 'plain' : 'primary'} isBusy={isBusy}>
            What if?
          </Button>
          <Button
            needs="operator"
            kind={isAnswered ? 'primary' : 'plain'}
            disabledBecause={isAnswered ? null : 'First ask what would become of it.'}
            onClick={() => setAsked(true)}
          >
            Set this budget
          </Button>
          <span class="quiet-text">{budgetText(budget)}</span>
        </div>
      </form>
      {answer !== null && <Answer answer={answer.document} isStale={!isAnswered} />}
      {isAsked && answer !== null && (
        <Confirm
          title={`Set the budget of ${selector}?`}
          action="Set this budget"
          onClose={() => setAsked(false)}
          onYes={async () => {
            const { devices } = await send<{ devices: string[] }>('PUT', '/v1/budgets', { selector, budget });
            announce(`${budgetText(budget)} is wanted on ${countText(devices.length, 'device')} now.`);
            onPushed();
          }}
        >
          <p>
            {budgetText(budget)}. Devices plan again from what they have stored; what runs stays until a plan holds the
            new budget.
          </p>
          <p>{verdictsText(answer.document)}.</p>
        </Confirm>
      )}
    </>
  );
}

type Verdict = keyof ReasonedClass['verdicts'];
const verdicts: readonly (readonly [Verdict, 'good' | 'bad' | 'busy' | 'quiet'])[] = [
  ['meets', 'good'],
  ['infeasible', 'bad'],
  ['unknown', 'busy'],
  ['unaffected', 'quiet'],
];

function verdictsText({ classes }: ReasonedAnswer): string {
  const counts = verdicts.map(([name]) => [name, classes.reduce((sum, kind) => sum + kind.verdicts[name], 0)] as const);
  const texts = counts.filter(([, count]) => count > 0).map(([name, count]) => `${count} ${name}`);
  return texts.length === 0 ? 'no device of these runs a release' : texts.join(', ');
}

function Answer({ answer, isStale }: { answer: ReasonedAnswer; isStale: boolean }) {
  const { classes, devices, total } = answer;
  return (
    <Section title={`What if ${answer.selector} had ${budgetText(answer.budget)}?`}>
      {isStale && <p class="note">The fields have changed since: ask again.</p>}
      {classes.length === 0 ? (
        <Empty>No device that the selector names runs a release, so there is nothing to tell by.</Empty>
      ) : (
        <>
          <Table
            caption="Verdicts by hardware class"
            rows={classes}
            keyOf={({ hardwareClass }) => hardwareClass}
            columns={[
              { name: 'Class', cell: ({ hardwareClass }) => hardwareClass },
              ...verdicts.map(([name, tone]) => ({
                name,
                isNumber: true,
                cell: ({ verdicts: counts }: ReasonedClass) =>
                  counts[name] === 0 ? '0' : <Tag tone={tone}>{counts[name]}</Tag>,
              })),
              {
                name: 'Reasons',
                cell: ({ reasons }) => (
                  <ul class="list">
                    {reasons.map(({ verdict, why, targets: count }) => (
                      <li key={`${verdict} ${why}`}>
                        {count} {verdict}: {why}
                      </li>
                    ))}
                  </ul>
                ),
              },
              {
                name: 'Plans',
                cell: (kind) => <ClassFrontier kind={kind} budget={answer.budget} />,
              },
            ]}
          />
          <h3>Devices{total > devices.length && `: the first ${devices.length} of ${total.toLocaleString('en')}`}</h3>
          <Table
            caption="Verdicts by device"
            rows={devices}
            keyOf={({ id, target }) => `${id}/${target}`}
            columns={[
              {
                name: 'Device',
                cell: ({ id, target }) => (
                  <>
                    <Link to={`/devices/${id}`}>{id}</Link>/{target}
                  </>
                ),
              },
              {
                name: 'Verdict',
                cell: ({ verdict }) => <Tag tone={verdicts.find(([name]) => name === verdict)![1]}>{verdict}</Tag>,
              },
              { name: 'Why', cell: ({ why }) => why },
              { name: 'Runs', cell: ({ release }) => release },
              {
                name: 'Plan',
                cell: ({ point }) =>
                  point === null
                    ? 'as it runs, or not known'
                    : `${bytesText(point.sizeBytes)}, W${numberText(point.averageWeightBits)}`,
              },
            ]}
          />
        </>
      )}
    </Section>
  );
}

/** What a class could choose from: as the console has solved it, else as one device of it has reported it, asked for when somebody wants to see it. */
function ClassFrontier({ kind, budget }: { kind: ReasonedClass; budget: Budget }) {
  const [isOpen, setOpen] = useState(false);
  const solved = kind.frontiers[0];
  const reason = kind.reasons[0];
  const id = reason?.device ?? '';
  const device = useDocument<DeviceDocument>(isOpen ? `/v1/devices/${encodeURIComponent(id)}` : null);
  if (reason === undefined) return <>–</>;
  return (
    <>
      <Button onClick={() => setOpen(!isOpen)}>{isOpen ? 'Hide' : `Frontier of ${solved?.release ?? id}`}</Button>
      {isOpen && (
        <Await document={device}>
          {({ reported }) => {
            const report = reported?.targets[reason.target];
            const latency = report?.active?.measurements.latency;
            const int8 = latency?.int8 ?? null;
            const ratio = budget.latencyRatio === undefined || int8 === null ? null : budget.latencyRatio * int8;
            const points = solved?.points ?? report?.frontier ?? [];
            return points.length < 2 ? (
              <Empty>No plans to choose from are known.</Empty>
            ) : (
              <FrontierChart
                points={points}
                unit={solved?.unit ?? latency?.unit ?? 'ms'}
                ceiling={budget.latencyMs ?? ratio}
                chosen={null}
              />
            );
          }}
        </Await>
      )}
    </>
  );
}
