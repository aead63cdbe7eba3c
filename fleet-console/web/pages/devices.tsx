/** Every device, found by text, selector and state. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { DevicePage, DeviceSummary } from '../../server/fleet-view.js';
import { useDocument, withQuery } from '../api.js';
import { Await, Empty, PageHead, Progress, StateTag, Time } from '../components/basics.js';
import { Choice, Field } from '../components/form.js';
import { Pager, Table } from '../components/table.js';
import { budgetText, bytesText, latencyText, percentText } from '../format.js';
import { useReloadOnNews } from '../live.js';
import { Link, useQuery } from '../router.js';
import { deviceStateOrder } from '../states.js';

const pageSize = 50;
const typingMs = 250;

/** The list, a page at a time. */
export function Devices() {
  const [query, setQuery] = useQuery();
  const filters = Object.fromEntries(
    ['search', 'selector', 'state', 'hardwareClass', 'release', 'after'].map((name) => [name, query.get(name)]),
  );
  const page = useDocument<DevicePage>(withQuery('/v1/device-summaries', { ...filters, limit: pageSize }));
  useReloadOnNews(({ kind }) => kind === 'device', page.reload, 2000);
  return (
    <>
      <PageHead title="Devices" intro="What runs on each, and how well it was measured there." />
      <search>
        <div class="filters">
          <TypedField label="Search" name="search" hint="id, label, class or release" />
          <TypedField
            label="Selector"
            name="selector"
            hint="all, device=ID, group=NAME, LABEL=VALUE; a comma means and"
          />
          <Choice
            label="State"
            value={query.get('state') ?? ''}
            options={[['', 'any'], ...deviceStateOrder.map((state) => [state, state] as const)]}
            onChange={(state) => setQuery({ state, after: '' })}
          />
        </div>
        <Chips names={['hardwareClass', 'release']} />
      </search>
      <Await document={page} lines={24}>
        {({ devices, total, next }) =>
          devices.length === 0 ? (
            <Empty>
              {Object.values(filters).some((value) => value !== null) ? (
                <>
                  No device fits. <Link to="/devices">Show all</Link>
                </>
              ) : (
                <>
                  No device has connected yet. Start one: <code>quantd run</code>
                </>
              )}
            </Empty>
          ) : (
            <>
              <p role="status" class="quiet-text">
                {total.toLocaleString('en')} {total === 1 ? 'device' : 'devices'}
              </p>
              <DeviceTable devices={devices} />
              <Pager
                total={total}
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
    </>
  );
}

/** A field of the query, which follows what is typed after a moment. */
function TypedField({ label, name, hint }: { label: string; name: string; hint: string }) {
  const [query, setQuery] = useQuery();
  const [text, setText] = useState(query.get(name) ?? '');
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const given = query.get(name) ?? '';
  useEffect(() => setText(given), [given]);
  return (
    <Field
      label={label}
      type="search"
      value={text}
      hint={hint}
      onInput={(value) => {
        setText(value);
        clearTimeout(timer.current);
        timer.current = setTimeout(() => setQuery({ [name]: value.trim(), after: '' }), typingMs);
      }}
    />
  );
}

/** Conditions that came with a link, each of which can be taken away. */
function Chips({ names }: { names: readonly string[] }) {
  const [query, setQuery] = useQuery();
  const set = names.filter((name) => query.get(name) !== null);
  if (set.length === 0) return null;
  return (
    <p>
      {set.map((name) => (
        <button key={name} type="button" class="button" onClick={() => setQuery({ [name]: '', after: '' })}>
          {name === 'release' ? 'release' : 'hardware class'}: {query.get(name)} <span aria-hidden="true">×</span>
          <span class="hidden">, take this condition away</span>
        </button>
      ))}
    </p>
  );
}

function DeviceTable({ devices }: { devices: readonly DeviceSummary[] }) {
  const first = ({ targets }: DeviceSummary) => targets[0];
  const measured = (device: DeviceSummary) => first(device)?.active?.measurements;
  return (
    <Table
      caption="Devices"
      rows={devices}
      keyOf={({ id }) => id}
      columns={[
        {
          name: 'Device',
          cell: ({ id, labels, targets }) => (
            <>
              <Link to={`/devices/${id}`}>{id}</Link>
              <small>
                {Object.entries(labels)
                  .map((label) => label.join('='))
                  .join(' ')}
              </small>
              {targets.length > 1 && (
                <small>
                  {targets.length} targets; shown: {targets[0]!.target}
                </small>
              )}
            </>
          ),
        },
        {
          name: 'State',
          cell: (device) => (
            <>
              <StateTag state={device.state} />
              {device.state === 'offline' ? (
                <small>
                  seen <Time at={device.lastSeen} />
                </small>
              ) : (
                device.why !== '' && <small>{device.why}</small>
              )}
              {first(device)?.step && <Step device={device} />}
            </>
          ),
        },
        {
          name: 'Runs',
          cell: (device) => {
            const target = first(device);
            const other = target?.wanted && target.wanted !== target.active?.release ? target.wanted : null;
            return (
              <>
                {target?.active?.release ?? 'nothing'}
                {other !== null && <small>wanted: {other}</small>}
              </>
            );
          },
        },
        { name: 'Budget', cell: (device) => budgetText(first(device)?.budget) },
        {
          name: 'Latency',
          isNumber: true,
          cell: (device) => {
            const latency = measured(device)?.latency;
            return (
              <>
                {latencyText(latency?.measured, latency?.unit)}
                {latency?.int8 != null && <small>int8 {latencyText(latency.int8, latency.unit)}</small>}
              </>
            );
          },
        },
        { name: 'Top-1', isNumber: true, cell: (device) => percentText(measured(device)?.quality.top1) },
        { name: 'Agreement', isNumber: true, cell: (device) => percentText(measured(device)?.quality.agreement) },
        { name: 'Size', isNumber: true, cell: (device) => bytesText(measured(device)?.sizeBytes) },
        { name: 'Class', cell: ({ hardwareClass }) => hardwareClass },
      ]}
    />
  );
}

function Step({ device }: { device: DeviceSummary }) {
  const { name, share, text } = device.targets[0]!.step!;
  return (
    <small>
      {name} {Math.round(share * 100)} %<Progress share={share} label={`${name} of ${device.id}`} />
      {text}
    </small>
  );
}
