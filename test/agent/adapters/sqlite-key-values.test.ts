/** The daemon's durable state against a plain map, through reopening, kill -9 and damage. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { SqliteKeyValues } from '../../../agent/adapters/sqlite-key-values.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();

t.test('behaves as a map, and a reopened file holds what was written', async (t) => {
  const random = new Random(seed);
  const path = join(t.testdir(), 'device.db');
  let values = new SqliteKeyValues(path);
  const model = new Map<string, unknown>();
  const keys = ['a', 'a.b', 'a.c', 'ab', 'b', 'goal.host', 'goal.mcu0'];
  for (let round = 0; round < 300; round++) {
    const changes = new Map<string, unknown>();
    for (let i = random.below(3); i >= 0; i--) {
      changes.set(random.pick(keys), random.below(3) === 0 ? null : { round, text: 'é"\n' });
    }
    values.write(changes);
    for (const [key, value] of changes) {
      if (value === null) model.delete(key);
      else model.set(key, value);
    }
    if (random.below(20) === 0) {
      values.close();
      values = new SqliteKeyValues(path);
    }
    for (const key of keys) t.same(values.read(key), model.get(key) ?? null);
    for (const prefix of ['', 'a', 'a.', 'goal.', 'x']) {
      t.same(values.keys(prefix), [...model.keys()].filter((key) => key.startsWith(prefix)).sort());
    }
  }
  values.close();
});

t.test('a process killed at any moment leaves all of a write or nothing of it', async (t) => {
  const random = new Random(seed);
  const path = join(t.testdir(), 'device.db');
  const module = fileURLToPath(new URL('../../../agent/adapters/sqlite-key-values.js', import.meta.url));
  const program = `
    import { SqliteKeyValues } from ${JSON.stringify(module)};
    const values = new SqliteKeyValues(${JSON.stringify(path)});
    for (let n = (values.read('x') ?? 0) + 1; ; n++) {
      values.write(new Map([['x', n], ['y', n]]));
      process.stdout.write(n + '\\n');
    }`;
  let last = 0;
  for (let round = 0; round < 8; round++) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let told = '';
    child.stdout.on('data', (text) => (told += text));
    await once(child.stdout, 'data');
    await new Promise((resolve) => setTimeout(resolve, random.below(60)));
    child.kill('SIGKILL');
    await once(child, 'close');
    const values = new SqliteKeyValues(path);
    const x = values.read('x') as number;
    t.equal(values.read('y'), x);
    // What was told was written before; the last line may be cut.
    const acknowledged = Number(told.slice(0, told.lastIndexOf('\n')).split('\n').at(-1));
    t.ok(x >= acknowledged && x > last, `${x} of ${acknowledged} told`);
    last = x;
    values.close();
  }
});

t.test('two processes never have it at once; who is killed frees it', async (t) => {
  const path = join(t.testdir(), 'device.db');
  const module = fileURLToPath(new URL('../../../agent/adapters/sqlite-key-values.js', import.meta.url));
  const program = `
    import { SqliteKeyValues } from ${JSON.stringify(module)};
    const values = new SqliteKeyValues(${JSON.stringify(path)});
    values.write(new Map([['x', 1]]));
    process.stdout.write('open');
    setInterval(() => values, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  t.throws(() => new SqliteKeyValues(path, 100), { code: 'socket/busy' });
  t.throws(() => SqliteKeyValues.openOrBegin(path, () => t.fail('it is not damaged')), { code: 'socket/busy' });
  child.kill('SIGKILL');
  await once(child, 'close');
  const values = new SqliteKeyValues(path);
  t.equal(values.read('x'), 1);
  values.close();
});

t.test('a damaged file, at its head or inside, is moved aside on request, and told', async (t) => {
  const folder = t.testdir();
  for (const at of [0, 4096 + 10]) {
    const path = join(folder, `device-${at}.db`);
    const first = new SqliteKeyValues(path);
    first.write(new Map(Array.from({ length: 500 }, (_, index) => [`key.${index}`, 'x'.repeat(50)])));
    first.close();
    const bytes = readFileSync(path);
    bytes.fill(0x5a, at, at + 3000);
    writeFileSync(path, bytes);
    t.throws(() => new SqliteKeyValues(path), { code: 'store/corrupt' });
    const warnings: string[] = [];
    const values = SqliteKeyValues.openOrBegin(path, (text) => warnings.push(text));
    t.same(values.keys(''), []);
    values.write(new Map([['x', 1]]));
    values.close();
    t.equal(warnings.length, 1);
    t.ok(readFileSync(`${path}.damaged`).equals(bytes));
  }
});

t.test('damage, a newer version and an unusable place are told apart', async (t) => {
  const folder = t.testdir({ 'noise.db': 'this is not a database, but long enough to look like one'.repeat(100) });
  t.throws(() => new SqliteKeyValues(join(folder, 'noise.db')), { code: 'store/corrupt' });
  writeFileSync(join(folder, 'file'), '');
  t.throws(() => new SqliteKeyValues(join(folder, 'file', 'device.db')), { code: 'store/unwritable' });
  const path = join(folder, 'newer.db');
  new SqliteKeyValues(path).close();
  const { default: Database } = await import('better-sqlite3');
  const database = new Database(path);
  database.pragma('user_version = 99');
  database.close();
  t.throws(() => new SqliteKeyValues(path), { code: 'store/corrupt' });
});
