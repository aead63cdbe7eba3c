/** The state database across restarts, versions, damage and processes. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import t from 'tap';
import { SqliteStore } from '../../../agent/adapters/sqlite-store.js';
import type { TargetIdentity } from '../../../agent/ports.js';
import type { LatencyRow } from '../../../configs/contracts/plan.js';

const identity: TargetIdentity = {
  kind: 'ort',
  processor: 'test',
  architecture: 'x64',
  cores: 2,
  threads: 1,
  governor: 'unknown',
  powerMode: 'unknown',
  runtime: 'none',
  features: [],
  energyMeter: null,
};

function row(operatorKey: string, median: number, changes: Partial<LatencyRow> = {}): LatencyRow {
  const measuredAt = '2026-01-02T03:04:05.678Z';
  const rest = { minimum: median / 2, spread: 0.25, repeats: 9, throttled: false, energyJoules: null, measuredAt };
  return { operatorKey, precision: 'float', median, ...rest, ...changes };
}

const rows = [
  row('Conv[1]', 1234.5),
  row('Conv[1]', 17, { precision: 'W8A8', throttled: true, energyJoules: 1e-9 }),
  row('Gemm "quoted", [2]', 3),
];
const byKey = (list: readonly LatencyRow[]) =>
  [...list].sort((a, b) => `${a.operatorKey}@${a.precision}`.localeCompare(`${b.operatorKey}@${b.precision}`));

t.test('rows and results survive reopening, in a folder that was not there', async (t) => {
  const path = join(t.testdir(), 'new', 'folder', 'quantd.db');
  const first = new SqliteStore(path);
  const result = {
    list: [1, 2.5, null],
    text: 'ü',
    nested: { yes: true, codes: Int8Array.of(-7, 7), scales: Float32Array.of(0.1) },
  };
  first.putLatencyRows('machine', identity, rows);
  first.putResult('step', 'plan', result);
  first.close();
  const second = new SqliteStore(path);
  t.strictSame(byKey(second.latencyRows('machine', ['Conv[1]', 'Gemm "quoted", [2]', 'absent'])), byKey(rows));
  t.strictSame(second.latencyRows('machine', ['Gemm "quoted", [2]']), [rows[2]]);
  t.strictSame(second.latencyRows('machine', []), []);
  t.strictSame(second.latencyRows('another', ['Conv[1]']), []);
  t.strictSame(second.result('step'), result);
  t.equal(second.result('absent'), null);
  second.close();
});

t.test('a row or result that is there already is replaced, in its place', async (t) => {
  const store = new SqliteStore(':memory:');
  store.putLatencyRows('machine', identity, rows);
  const [before] = store.allLatencyRows('machine');
  store.putLatencyRows('machine', identity, [row('Conv[1]', 99, { throttled: true })]);
  const after = store.allLatencyRows('machine');
  t.equal(after.length, 3);
  t.strictSame(after[0], { id: before!.id, ...row('Conv[1]', 99, { throttled: true }) });
  store.putResult('step', 'plan', 1);
  store.putResult('step', 'plan', [2]);
  t.strictSame(store.result('step'), [2]);
  store.close();
});

t.test('rows are put together or not at all', async (t) => {
  const store = new SqliteStore(':memory:');
  const broken = { ...row('b', 2), measuredAt: null as unknown as string };
  t.throws(() => store.putLatencyRows('machine', identity, [row('a', 1), broken]), { code: 'store/unwritable' });
  t.strictSame(store.allLatencyRows('machine'), []);
  store.close();
});

t.test('a database of version 0 is brought forward once; one of this version is left alone', async (t) => {
  const path = join(t.testdir(), 'quantd.db');
  const version = () => {
    const database = new Database(path, { readonly: true });
    const found = database.pragma('user_version', { simple: true }) as number;
    database.close();
    return found;
  };
  new Database(path).close();
  const store = new SqliteStore(path);
  store.putResult('step', 'plan', 'kept');
  store.close();
  const current = version();
  t.ok(current >= 1);
  const again = new SqliteStore(path);
  t.equal(again.result('step'), 'kept');
  again.close();
  t.equal(version(), current);
});

t.test('a database of a newer program is refused as it is, and says so', async (t) => {
  const path = join(t.testdir(), 'quantd.db');
  new SqliteStore(path).close();
  const database = new Database(path);
  database.pragma('user_version = 99');
  database.exec('CREATE TABLE of_the_future (x)');
  database.close();
  t.throws(() => new SqliteStore(path), { code: 'store/corrupt', subject: path, message: /99/, hint: /newer/ });
  const after = new Database(path);
  t.equal(after.pragma('user_version', { simple: true }), 99);
  t.ok(after.prepare("SELECT 1 FROM sqlite_master WHERE name = 'of_the_future'").get());
  after.close();
});

t.test('a file that is no database is store/corrupt, and is not touched', async (t) => {
  const path = join(t.testdir(), 'quantd.db');
  writeFileSync(path, 'this is no database, whatever its name says; '.repeat(100));
  const before = readFileSync(path);
  t.throws(() => new SqliteStore(path), { code: 'store/corrupt', subject: path, hint: /Move the state database away/ });
  t.strictSame(readFileSync(path), before);
});

t.test('damage inside a database is store/corrupt, whenever it shows', async (t) => {
  const damage: Readonly<Record<string, (path: string) => void>> = {
    'pages overwritten': (path) => {
      const file = openSync(path, 'r+');
      for (let at = 8192; at < statSync(path).size; at += 512) writeSync(file, Buffer.alloc(512, 0xa5), 0, 512, at);
      closeSync(file);
    },
    'end cut off': (path) => truncateSync(path, 8192),
    'a result that is not JSON': (path) => {
      const database = new Database(path);
      database.prepare("UPDATE step SET result = '{'").run();
      database.close();
    },
  };
  for (const [kind, apply] of Object.entries(damage)) {
    const path = join(t.testdir(), 'quantd.db');
    const store = new SqliteStore(path);
    const many = Array.from({ length: 500 }, (_, index) => row(`operator ${index}`, index + 1));
    store.putLatencyRows('machine', identity, many);
    store.putResult('step', 'plan', 'x'.repeat(20_000));
    store.close();
    apply(path);
    const use = () => {
      const damaged = new SqliteStore(path);
      try {
        damaged.allLatencyRows('machine');
        damaged.latencyRows('machine', ['operator 7']);
        damaged.result('step');
      } finally {
        damaged.close();
      }
    };
    t.throws(use, { code: 'store/corrupt', subject: path }, kind);
  }
});

t.test('where no database can be made is store/unwritable', async (t) => {
  const folder = t.testdir({ file: 'x' });
  for (const path of [join(folder, 'file', 'quantd.db'), folder])
    t.throws(() => new SqliteStore(path), { code: 'store/unwritable', subject: path });
});

/** Opens the database, and puts rows and results into it one by one. */
const program = `
import { SqliteStore } from ${JSON.stringify(new URL('../../../agent/adapters/sqlite-store.js', import.meta.url).href)};
const [path, name, count, identity, row] = process.argv.slice(1);
for (let index = 0; index < Number(count); index++) {
  const store = new SqliteStore(path);
  store.putLatencyRows('machine', JSON.parse(identity), [{ ...JSON.parse(row), operatorKey: name + index }]);
  store.putResult(name + index, 'plan', { name, index });
  store.putResult('shared', 'plan', name);
  store.close();
}
`;

t.test('processes that make and use one database at once lose nothing', async (t) => {
  const path = join(t.testdir(), 'quantd.db');
  const names = ['a', 'b', 'c'];
  const ends = names.map((name) => {
    const args = [path, name, '30', JSON.stringify(identity), JSON.stringify(row('', 1))];
    return once(spawn(process.execPath, ['--input-type=module', '-e', program, ...args], { stdio: 'inherit' }), 'exit');
  });
  t.strictSame(
    await Promise.all(ends),
    names.map(() => [0, null]),
  );
  const store = new SqliteStore(path);
  t.equal(store.allLatencyRows('machine').length, 90);
  for (const name of names)
    for (let index = 0; index < 30; index++) t.strictSame(store.result(`${name}${index}`), { name, index });
  t.ok(names.includes(store.result('shared') as string));
  store.close();
});
