/** The outbox against a plain list, through outages, odd clocks, kills and damage. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { SqliteOutbox } from '../../../agent/adapters/sqlite-outbox.js';
import type { OutboxKind } from '../../../agent/device-ports.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const quiet = () => {};
const hourMs = 3_600_000;
const roomy = { mostBytes: 2 ** 30, mostDays: 1000 };

t.test('under its caps it is a queue, also after a restart', async (t) => {
  const random = new Random(seed);
  const path = join(t.testdir(), 'outbox.db');
  let outbox = new SqliteOutbox(path, roomy, quiet);
  const model: { kind: OutboxKind; payload: string }[] = [];
  for (let round = 0; round < 300; round++) {
    if (random.below(3) > 0) {
      const message = { kind: random.pick(['event', 'result'] as const), payload: `${round} é` };
      outbox.put(message);
      model.push(message);
    } else if (model.length > 0) {
      outbox.remove(outbox.next(1)[0]!.id);
      model.shift();
    }
    if (random.below(30) === 0) {
      outbox.close();
      outbox = new SqliteOutbox(path, roomy, quiet);
    }
    t.same(
      outbox.next(1000).map(({ kind, payload }) => ({ kind, payload })),
      model,
    );
    t.equal(outbox.state().messages, model.length);
  }
  t.equal(outbox.state().dropped, 0);
  outbox.close();
});

t.test(
  'over the cap on bytes the oldest parts of tables go first, then events, then results, never the newest',
  async (t) => {
    const random = new Random(seed);
    const mostBytes = 5000;
    const outbox = new SqliteOutbox(':memory:', { mostBytes, mostDays: 1000 }, quiet);
    let model: { kind: OutboxKind; payload: string; bytes: number }[] = [];
    let dropped = 0;
    for (let round = 0; round < 500; round++) {
      const payload = String(round).padEnd(1 + random.below(600), '.');
      const kind = random.pick(['event', 'event', 'result', 'table'] as const);
      outbox.put({ kind, payload });
      const newest = { kind, payload, bytes: payload.length + 64 };
      const waiting = (['table', 'event', 'result'] as const).flatMap((each) => model.filter((m) => m.kind === each));
      let total = newest.bytes + waiting.reduce((sum, { bytes }) => sum + bytes, 0);
      const gone = new Set<(typeof model)[0]>();
      for (const victim of waiting) {
        if (total <= mostBytes) break;
        gone.add(victim);
        total -= victim.bytes;
      }
      dropped += gone.size;
      model = [...model.filter((message) => !gone.has(message)), newest];
      t.same(
        outbox.next(1000).map((message) => message.payload),
        model.map((message) => message.payload),
      );
      t.ok(outbox.state().bytes <= mostBytes);
      t.equal(outbox.state().dropped, dropped);
    }
    t.throws(() => outbox.put({ kind: 'result', payload: 'x'.repeat(mostBytes) }), { code: 'outbox/too-large' });
    outbox.close();
  },
);

t.test('offline for a day and longer, it stays under its cap and keeps the newest results', async (t) => {
  const path = join(t.testdir(), 'outbox.db');
  const mostBytes = 200_000;
  let now = Date.parse('2026-01-01T00:00:00Z');
  const outbox = new SqliteOutbox(path, { mostBytes, mostDays: 2 }, quiet, () => now);
  let result = 0;
  for (let minute = 0; minute < 24 * 60; minute++) {
    now += 60_000;
    outbox.put({ kind: 'event', payload: 'e'.repeat(100) });
    if (minute % 20 === 0) outbox.put({ kind: 'result', payload: `${++result}`.padEnd(3000, 'r') });
    t.ok(outbox.state().bytes <= mostBytes);
  }
  const results = outbox.next(10_000).filter(({ kind }) => kind === 'result');
  t.match(results.at(-1)!.payload, /^72r/);
  const numbers = results.map(({ payload }) => Number.parseInt(payload, 10));
  t.same(
    numbers,
    Array.from({ length: numbers.length }, (_, index) => 72 - numbers.length + 1 + index),
    'an unbroken run up to the newest',
  );
  t.ok(numbers.length >= 50);
  for (const { id } of outbox.next(10_000)) outbox.remove(id);
  outbox.close();
  t.ok(statSync(path).size < mostBytes, 'the file shrinks again');
});

t.test('what is too old goes, but for the newest of its kind', async (t) => {
  let now = 1e12;
  const outbox = new SqliteOutbox(':memory:', { mostBytes: 1e6, mostDays: 1 }, quiet, () => now);
  for (let i = 0; i < 3; i++) outbox.put({ kind: 'result', payload: `r${i}` });
  now += 25 * hourMs;
  outbox.put({ kind: 'event', payload: 'e' });
  t.same(
    outbox.next(10).map(({ payload }) => payload),
    ['r2', 'e'],
  );
  outbox.close();
});

t.test('a clock that falls back, or was far ahead, does not empty it', async (t) => {
  let now = 1e12;
  const outbox = new SqliteOutbox(':memory:', { mostBytes: 1e6, mostDays: 1 }, quiet, () => now);
  outbox.put({ kind: 'result', payload: 'r0' });
  now = 0;
  for (let i = 1; i < 4; i++) outbox.put({ kind: 'result', payload: `r${i}` });
  t.equal(outbox.state().messages, 4, 'fallen back to 1970');
  now = 4e12;
  outbox.put({ kind: 'result', payload: 'future' });
  now = 1e12;
  outbox.put({ kind: 'result', payload: 'r5' });
  outbox.put({ kind: 'result', payload: 'r6' });
  t.same(
    outbox
      .next(10)
      .map(({ payload }) => payload)
      .slice(-3),
    ['future', 'r5', 'r6'],
  );
  outbox.close();
});

t.test('a message is there after kill -9 once put has returned', async (t) => {
  const random = new Random(seed);
  const path = join(t.testdir(), 'outbox.db');
  const module = fileURLToPath(new URL('../../../agent/adapters/sqlite-outbox.js', import.meta.url));
  const program = `
    import { SqliteOutbox } from ${JSON.stringify(module)};
    const outbox = new SqliteOutbox(${JSON.stringify(path)}, ${JSON.stringify(roomy)}, () => {});
    const first = outbox.state().messages;
    for (let n = first + 1; ; n++) { outbox.put({ kind: 'result', payload: String(n) }); process.stdout.write(n + '\\n'); }`;
  for (let round = 0; round < 6; round++) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let told = '';
    child.stdout.on('data', (text) => (told += text));
    await once(child.stdout, 'data');
    await new Promise((resolve) => setTimeout(resolve, random.below(60)));
    child.kill('SIGKILL');
    await once(child, 'close');
    const outbox = new SqliteOutbox(path, roomy, quiet);
    const numbers = outbox.next(1e6).map(({ payload }) => Number(payload));
    t.same(
      numbers,
      Array.from({ length: numbers.length }, (_, index) => index + 1),
    );
    t.ok(numbers.length >= Number(told.slice(0, told.lastIndexOf('\n')).split('\n').at(-1)));
    outbox.close();
  }
});

t.test('a damaged file is moved aside and told; the outbox begins empty', async (t) => {
  const path = join(t.testdir(), 'outbox.db');
  writeFileSync(path, 'no database, whatever the length'.repeat(500));
  const warnings: string[] = [];
  const outbox = new SqliteOutbox(path, roomy, (text) => warnings.push(text));
  t.equal(warnings.length, 1);
  t.ok(existsSync(`${path}.damaged`));
  outbox.put({ kind: 'event', payload: 'x' });
  t.equal(outbox.state().messages, 1);
  outbox.close();
});
