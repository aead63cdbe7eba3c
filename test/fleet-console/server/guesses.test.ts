/** How guessing is slowed down, on a clock of its own. */
import t from 'tap';
import { Guesses } from '../../../fleet-console/server/guesses.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const hourMs = 3_600_000;

t.test('pauses double from a second to a minute for a name; a right password ends them', async (t) => {
  let now = 0;
  const guesses = new Guesses(() => now);
  const addresses = Array.from({ length: 100 }, (_, i) => `10.0.0.${i}`);
  for (let i = 0; i < 5; i++) t.equal(guesses.begin('ada', addresses[i]!), null);
  for (const pauseMs of [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]) {
    t.equal(guesses.begin('ada', addresses[50]!), pauseMs, 'whoever asks, from wherever');
    t.equal(guesses.begin('bob', addresses[50]!), null, 'others go on');
    guesses.succeeded('bob', addresses[50]!);
    now += pauseMs;
    t.equal(guesses.begin('ada', addresses.pop()!), null);
  }
  now += 60_000;
  t.equal(guesses.begin('ada', '10.1.1.1'), null);
  guesses.succeeded('ada', '10.1.1.1');
  for (let i = 0; i < 5; i++) t.equal(guesses.begin('ada', addresses[i]!), null);
});

t.test('an address may fail 20 times; an own account to log in with between changes nothing', async (t) => {
  let now = 0;
  const guesses = new Guesses(() => now);
  for (let i = 0; i < 20; i++) {
    t.equal(guesses.begin(`name-${i}`, '2001:db8::1'), null);
    if (i < 19) {
      t.equal(guesses.begin('mine', '2001:db8:0:0:ffff::2'), null);
      guesses.succeeded('mine', '2001:db8:0:0:ffff::2');
    }
  }
  t.equal(guesses.begin('mine', '2001:db8::3'), 1000, 'the network counts, not the address in it');
  t.equal(guesses.begin('mine', '2001:db8:0:1::3'), null);
  t.equal(guesses.begin('mine', '::ffff:10.0.0.1'), null);
  now += hourMs + 1001;
  t.equal(guesses.begin('mine', '2001:db8::3'), null);
  t.equal(guesses.begin('mine', '2001:db8::3'), null, 'after an hour it is forgotten');
});

t.test(
  'however many names and addresses are tried, memory is bounded, and pauses are as a plain list has them',
  async (t) => {
    const random = new Random(seed);
    let now = 0;
    const guesses = new Guesses(() => now);
    for (let i = 0; i < 30_000; i++) guesses.begin(`x${i}`, `172.16.${i >> 8}.${i & 255}`);
    t.ok(guesses.size <= 10_000);

    const fresh = new Guesses(() => now);
    const failures = new Map<string, { count: number; until: number; last: number }>();
    const most = { name: [5, 60_000], address: [20, 900_000] } as const;
    for (let round = 0; round < 3000; round++) {
      now += random.pick([0, 300, 2000, 90_000]);
      const [name, address] = [`n${random.below(4)}`, `192.0.2.${random.below(3)}`];
      const kinds = [['name', name] as const, ['address', address] as const];
      const wait = Math.max(...kinds.map(([, key]) => (failures.get(key)?.until ?? 0) - now));
      const answer = fresh.begin(name, address);
      t.equal(answer, wait > 0 ? wait : null, `round ${round}`);
      if (answer !== null) continue;
      const isRight = random.below(4) === 0;
      for (const [kind, key] of kinds) {
        const known = failures.get(key);
        const count = (known === undefined || now - known.last > hourMs ? 0 : known.count) + 1;
        const [free, mostMs] = most[kind];
        const until = count < free ? now : now + Math.min(mostMs, 1000 * 2 ** (count - free));
        if (!isRight) failures.set(key, { count, until, last: now });
        else if (kind === 'name' || count === 1) failures.delete(key);
        else failures.set(key, { count: count - 1, until: 0, last: now });
      }
      if (isRight) fresh.succeeded(name, address);
    }
  },
);
