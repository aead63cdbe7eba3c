/** What a device does, plans and has measured on one of its targets. */
import type { ActiveArtifact, DeviceResult, TargetReport } from '../../../configs/contracts/device.js';
import type { Budget } from '../../../configs/contracts/plan.js';
import type { DeviceDocument } from '../../server/store.js';
import { withQuery } from '../api.js';
import { Empty, Facts, Section, Tag, Time } from '../components/basics.js';
import { Bar, FrontierChart } from '../components/chart.js';
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
import { Link } from '../router.js';

/** The sections of a target: steps, measurements, plan, frontier, results, provenance. */
export function Target({
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
