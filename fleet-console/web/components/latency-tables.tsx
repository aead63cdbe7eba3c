/** Operators of a device with what they take at each precision, as bars. */
import { digestText, latencyText } from '../format.js';
import { useReloadOnNews } from '../live.js';
import { type TargetTables, useTables } from '../tables.js';
import { Await, Empty, Tag } from './basics.js';
import { Bar } from './chart.js';

/** Tables of every target, or that there are none. */
export function LatencyTables({ device }: { device: string }) {
  const tables = useTables(device);
  // Tables come with results, of which events tell; they are too large to be asked for at every report.
  useReloadOnNews((news) => news.kind === 'event' && news.event.device === device, tables.reload, 3000);
  const none = <Empty>The device has sent no table of latencies. It sends one when it has timed a model.</Empty>;
  return (
    <Await document={tables} absent={none} lines={4}>
      {({ targets }) => {
        const entries = Object.entries(targets).filter(([, { operators }]) => operators.length > 0);
        if (entries.length === 0) return none;
        return entries.map(([target, table]) => <TableOf key={target} target={target} table={table} />);
      }}
    </Await>
  );
}

function TableOf({ target, table }: { target: string; table: TargetTables }) {
  const longest = Math.max(...table.operators.flatMap(({ choices }) => choices.map(({ median }) => median)));
  return (
    <>
      <p>
        {target}: {table.operators.length} distinct operators, medians in {table.unit}{' '}
        {table.provenance?.tableDigest !== undefined && (
          <>
            (table <code title={table.provenance.tableDigest}>{digestText(table.provenance.tableDigest)}</code>)
          </>
        )}
      </p>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by the keyboard */}
      <section class="scroll" tabIndex={0} aria-label={`Latencies of operators of ${target}`}>
        <table>
          <caption class="hidden">Operators with their median at each precision</caption>
          <thead>
            <tr>
              <th scope="col">Operator</th>
              <th scope="col">Precision</th>
              <th scope="col">Median</th>
              <th scope="col">Spread</th>
            </tr>
          </thead>
          <tbody>
            {table.operators.flatMap(({ key, name, type, choices }) =>
              choices.map(({ precision, median, spread, isDonor }, index) => (
                <tr key={`${key} ${precision}`}>
                  {index === 0 && (
                    <th scope="rowgroup" rowSpan={choices.length}>
                      {name}
                      <small>{type}</small>
                    </th>
                  )}
                  <td>
                    {precision} {isDonor && <Tag tone="busy">from its class</Tag>}
                  </td>
                  <td>
                    <Bar share={median / longest} text={latencyText(median, table.unit)} />
                  </td>
                  <td>± {(spread * 50).toFixed(1)} %</td>
                </tr>
              )),
            )}
          </tbody>
        </table>
      </section>
    </>
  );
}
