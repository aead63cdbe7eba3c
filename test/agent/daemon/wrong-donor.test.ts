/** A real daemon is offered a table that is wrong: it notices, measures everything, and keeps nothing of it. */
import t from 'tap';
import type { ModelTable } from '../../../configs/contracts/tables.js';
import { until } from '../../support/broker.js';
import { FakeDevice, startConsole } from '../../support/console.js';
import { sayTable, tablesOf } from '../../support/tables.js';
import { made, release, stateOf, storedRows } from '../../support/warm-start.js';

t.test('a table that is wrong by two is noticed, and everything is measured', async (t) => {
  const home = await startConsole(t.testdir());
  await release(home);
  const first = await made(home, 'd1');
  await home.close();
  const [table] = tablesOf(first.state);
  const { rowsMeasured } = first.document.profiling;
  const dearest = [...table!.rows].sort((a, b) => b.median - a.median).map(({ operatorKey }) => operatorKey);
  const keys = [...new Set(dearest)].filter((key) => key.includes('('));
  const lies: Record<string, (key: string) => boolean> = {
    'twice on all operators': () => true,
    'twice on every second operator': (key) => keys.indexOf(key) % 2 === 0,
  };
  for (const [name, isLie] of Object.entries(lies)) {
    const rows = table!.rows.map((row) => {
      const factor = row.operatorKey.includes('(') && isLie(row.operatorKey) ? 2 : 1;
      return { ...row, median: row.median * factor, minimum: row.minimum * factor };
    });
    const console = await startConsole(t.testdir());
    await release(console);
    const { targets, hardwareClass } = first.device.birth;
    const liar = await FakeDevice.open(console.brokerUrl, 'liar', { targets, hardwareClass });
    await until(async () => (await stateOf(console, 'liar')) !== null, 'it is known');
    await sayTable(liar, { ...(table as ModelTable), rows });
    const isTaken = async () => (await console.client.get<{ tables: object[] }>('/v1/tables')).tables.length === 1;
    await until(isTaken, 'its table is taken');
    const { document, state } = await made(console, 'd3');
    t.match(document.profiling, { rowsTaken: 0, donor: { isAccepted: false } }, name);
    t.ok(document.profiling.rowsMeasured >= rowsMeasured, `${name}: ${document.profiling.donor!.why}`);
    t.equal(storedRows(state).taken, 0, 'nothing of it is kept');
    await liar.close();
    await console.close();
  }
});
