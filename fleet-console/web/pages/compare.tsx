/** Two releases on the devices that have run both. */
import type { Measurements } from '../../../configs/contracts/device.js';
import type { Release } from '../../../configs/contracts/release.js';
import type { ComparedTarget } from '../../server/fleet-view.js';
import { useDocument, withQuery } from '../api.js';
import { Await, Empty, PageHead, Section } from '../components/basics.js';
import { Choice, Field } from '../components/form.js';
import { Table } from '../components/table.js';
import { bytesText, changeText, latencyText, numberText, percentText } from '../format.js';
import { Link, useQuery } from '../router.js';

interface Metric {
  readonly name: string;
  readonly of: (measurements: Measurements) => number | null | undefined;
  readonly text: (value: number | null | undefined, unit: string) => string;
  /** Changes are told in percentage points, not in per cent of a percentage. */
  readonly isFraction?: boolean;
}

const metrics: readonly Metric[] = [
  { name: 'Latency, median', of: ({ latency }) => latency.measured, text: latencyText },
  { name: 'Latency, p95', of: ({ latency }) => latency.p95, text: latencyText },
  { name: 'RAM', of: ({ ramBytes }) => ramBytes, text: bytesText },
  { name: 'Size', of: ({ sizeBytes }) => sizeBytes, text: bytesText },
  { name: 'Top-1', of: ({ quality }) => quality.top1, text: percentText, isFraction: true },
  { name: 'Agreement', of: ({ quality }) => quality.agreement, text: percentText, isFraction: true },
  { name: 'KL', of: ({ quality }) => quality.kl, text: numberText },
];

/** Rows that are shown; the summary is over all. */
const shownTargets = 200;

/** The page; which two stands in its address. */
export function Compare() {
  const [query, setQuery] = useQuery();
  const releases = useDocument<{ releases: Release[] }>('/v1/releases');
  const [base, other, selector] = [query.get('base') ?? '', query.get('other') ?? '', query.get('selector') ?? 'all'];
  const isAsked = base !== '' && other !== '' && base !== other;
  const compared = useDocument<{ targets: ComparedTarget[] }>(
    isAsked ? withQuery('/v1/comparisons', { base, other, selector }) : null,
  );
  const options = [['', 'choose one'] as const, ...(releases.data?.releases ?? []).map(({ id }) => [id, id] as const)];
  return (
    <>
      <PageHead
        title="Compare releases"
        intro="What each device measured of one, and of the other, one after the other."
      />
      <div class="filters">
        <Choice label="Base" value={base} options={options} onChange={(value) => setQuery({ base: value })} />
        <Choice label="Other" value={other} options={options} onChange={(value) => setQuery({ other: value })} />
        <Field label="On the devices" value={selector} onInput={(value) => setQuery({ selector: value })} />
      </div>
      {isAsked ? (
        <Await document={compared}>
          {({ targets }) =>
            targets.length === 0 ? (
              <Empty>
                No device has run both, one right after the other.{' '}
                <Link to="/rollouts/new">Roll the newer one out</Link> to some first.
              </Empty>
            ) : (
              <Result targets={targets} />
            )
          }
        </Await>
      ) : (
        <Empty>Choose two releases.</Empty>
      )}
    </>
  );
}

function Result({ targets }: { targets: readonly ComparedTarget[] }) {
  return (
    <>
      <Section title={`Summary over ${targets.length} ${targets.length === 1 ? 'target' : 'targets'}`}>
        <Table
          caption="Change of each metric: the median device, the best and the worst"
          rows={metrics}
          keyOf={({ name }) => name}
          columns={[
            { name: 'Metric', cell: ({ name }) => name },
            { name: 'Measured twice on', isNumber: true, cell: (metric) => changesOf(metric, targets).length },
            { name: 'Least', isNumber: true, cell: (metric) => changeAt(metric, targets, 0) },
            { name: 'Median', isNumber: true, cell: (metric) => changeAt(metric, targets, 0.5) },
            { name: 'Most', isNumber: true, cell: (metric) => changeAt(metric, targets, 1) },
          ]}
        />
      </Section>
      <Section
        title="Device by device"
        aside={
          targets.length > shownTargets && (
            <span class="quiet-text">
              the first {shownTargets} of {targets.length.toLocaleString('en')}; a selector picks others
            </span>
          )
        }
      >
        <Table
          caption="Measurements of both releases on each device"
          rows={targets.slice(0, shownTargets)}
          keyOf={({ device, target }) => `${device}/${target}`}
          columns={[
            {
              name: 'Device',
              cell: ({ device, target }) => (
                <>
                  <Link to={`/devices/${device}`}>{device}</Link>/{target}
                </>
              ),
            },
            ...metrics.map(({ name, of, text, isFraction }) => ({
              name,
              isNumber: true,
              cell: ({ base, other }: ComparedTarget) => (
                <>
                  {text(of(base), base.latency.unit)} → {text(of(other), other.latency.unit)}
                  {!isFraction && <small>{changeText(of(base), of(other))}</small>}
                </>
              ),
            })),
          ]}
        />
      </Section>
    </>
  );
}

/** Changes of a metric, rising: ratios, or differences of fractions. Values of different units are not compared. */
function changesOf({ of, isFraction }: Metric, targets: readonly ComparedTarget[]): number[] {
  return targets
    .flatMap(({ base, other }) => {
      const [was, is] = [of(base), of(other)];
      if (was == null || is == null || base.latency.unit !== other.latency.unit) return [];
      if (isFraction) return [is - was];
      return was === 0 ? [] : [is / was];
    })
    .sort((a, b) => a - b);
}

function changeAt(metric: Metric, targets: readonly ComparedTarget[], share: number): string {
  const changes = changesOf(metric, targets);
  const change = changes[Math.round((changes.length - 1) * share)];
  if (change === undefined) return '–';
  if (!metric.isFraction) return changeText(1, change);
  return `${change >= 0 ? '+' : '−'}${Math.abs(change * 100).toFixed(1)} points`;
}
