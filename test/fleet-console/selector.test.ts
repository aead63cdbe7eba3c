/** Selectors and precedence, against a plain reading of their rules. */
import t from 'tap';
import type { Release } from '../../configs/contracts/release.js';
import { matches, parseSelector, rankOf } from '../../fleet-console/selector.js';
import { desiredTargets, effectiveBudget } from '../../fleet-console/server/desired.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();

t.test('a selector is the same however it is written', async (t) => {
  t.equal(parseSelector(' group=a , device=b').text, 'device=b,group=a');
  t.equal(parseSelector('all').text, 'all');
  t.equal(parseSelector('all,group=a,group=a').text, 'group=a');
  for (const wrong of ['', 'what', '=x', 'group=', 'a b=c', 'group=a,,'])
    t.throws(() => parseSelector(wrong), { code: 'selector/invalid' }, wrong);
});

t.test('all terms must hold; inherited names are no labels', async (t) => {
  const device = { id: 'd1', labels: { group: 'a', site: 'x=y' } };
  for (const [text, expected] of [
    ['all', true],
    ['device=d1', true],
    ['device=d2', false],
    ['group=a', true],
    ['group=a,site=x=y', true],
    ['group=a,site=z', false],
    ['group=a,group=b', false],
    ['constructor=x', false],
  ] as const) {
    t.equal(matches(parseSelector(text), device), expected, text);
  }
});

t.test(
  'the budget of a device: its own, then a group or label, then all, then the release; the newest within a rank',
  async (t) => {
    const random = new Random(seed);
    const selectors = [
      'all',
      'device=d1',
      'device=d2',
      'group=a',
      'group=b',
      'site=x',
      'group=a,site=x',
      'device=d1,group=a',
    ];
    for (let round = 0; round < 500; round++) {
      const device = {
        id: random.pick(['d1', 'd2']),
        labels: { group: random.pick(['a', 'b']), site: random.pick(['x', 'y']) },
      };
      const rules = Array.from({ length: random.below(8) }, (_, index) => ({
        selector: random.pick(selectors),
        budget: { latencyMs: index + 1 },
      }));
      // By the words: sort by rank, then by age, and take the last that matches.
      const ranked = rules
        .map((rule, age) => ({
          rule,
          age,
          rank: rule.selector.includes('device=') ? 2 : rule.selector === 'all' ? 0 : 1,
        }))
        .filter(({ rule }) =>
          rule.selector.split(',').every((term) => {
            const [name, value] = term.split('=') as [string, string | undefined];
            return (
              name === 'all' || (name === 'device' ? device.id === value : device.labels[name as 'group'] === value)
            );
          }),
        )
        .sort((a, b) => a.rank - b.rank || a.age - b.age);
      t.equal(effectiveBudget(device, rules), ranked.at(-1)?.rule ?? null);
      for (const { rule, rank } of ranked) t.equal(rankOf(parseSelector(rule.selector)), rank);
    }
  },
);

t.test('the newest assignment that fits a target decides; kinds and targets are kept apart', async (t) => {
  const release = (id: string, extra: Partial<Release> = {}): Release => ({
    id,
    model: { sha256: '0'.repeat(64), sizeBytes: 1, manifestSha256: '0'.repeat(64) },
    card: null,
    ...extra,
  });
  const releases = new Map(
    [release('a@1', { budget: { latencyMs: 7 } }), release('b@1'), release('m@1', { targetKinds: ['mcu'] })].map(
      (r) => [r.id, r],
    ),
  );
  const device = { id: 'd1', labels: {}, targets: { host: { kind: 'ort' }, mcu0: { kind: 'mcu' } } };
  const assignments = [
    { selector: 'all', target: 'host', release: 'a@1' },
    { selector: 'device=d1', target: 'mcu0', release: 'm@1' },
    { selector: 'all', target: 'host', release: 'm@1' },
    { selector: 'device=d2', target: 'host', release: 'b@1' },
    { selector: 'all', target: 'host', release: 'gone@1' },
  ].map((assignment, index) => ({ ...assignment, number: index + 1 }));
  const targets = desiredTargets(device, { releases, assignments, budgets: [] });
  t.equal(targets.host!.release.id, 'a@1', 'a release for microcontrollers is none for a host');
  t.same(targets.host!.budget, { latencyMs: 7 }, 'the release brings its budget');
  t.equal(targets.mcu0!.release.id, 'm@1');
  t.same(Object.keys(desiredTargets(device, { releases, assignments: [], budgets: [] })), []);
  const pinned = (over: number, release = 'b@1') =>
    desiredTargets({ ...device, pins: { host: { release, over } } }, { releases, assignments, budgets: [] }).host!
      .release.id;
  t.equal(pinned(1), 'b@1', 'what a device has of its own holds over what was assigned before');
  t.equal(pinned(0), 'a@1', 'and not over what was assigned after');
});
