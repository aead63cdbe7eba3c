/** What devices share, against brute force: medians, odd devices, and rows that count for nothing. */
import t from 'tap';
import { speedReferenceKey } from '../../../agent/core/latency.js';
import type { LatencyRow } from '../../../configs/contracts/plan.js';
import { type Donation, shareTables } from '../../../fleet-console/server/shared-table.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();

const row = (operatorKey: string, precision: string, median: number): LatencyRow => {
  const rest = { spread: 0.1, repeats: 9, throttled: false, energyJoules: null, measuredAt: '2026-01-01T00:00:00Z' };
  return { operatorKey, precision, minimum: median * 0.9, median, ...rest };
};

/** The middle by counting those below and above. */
function middleOf(values: readonly number[]): number {
  const ranked = values.map((value, at) => [
    value,
    values.filter((o, i) => o < value || (o === value && i < at)).length,
  ]);
  const at = (rank: number) => ranked.find(([, own]) => own === rank)![0]!;
  const half = (values.length - 1) / 2;
  return (at(Math.floor(half)) + at(Math.ceil(half))) / 2;
}

t.test('medians over devices at one speed; odd devices are set aside, taken rows do not count', async (t) => {
  const random = new Random(seed);
  let aside = 0;
  for (let round = 0; round < 200; round++) {
    const operators = Array.from(
      { length: 4 + random.below(12) },
      (_, i) => [`k${i}`, 20_000 + random.below(1e6)] as const,
    );
    const devices = 1 + random.below(9);
    // Fewer than a third, so that the others can say so of every row: each of them lacks some.
    const liars = random.below(Math.ceil(devices / 3));
    const donations: Donation[] = [];
    for (let device = 0; device < devices; device++) {
      const speed = 0.6 + random.next();
      const lie = device < liars ? random.pick([0.4, 2.2, 3]) : 1;
      const own = operators
        .filter(() => device < liars || random.next() < 0.9)
        .flatMap(([key, time]) =>
          ['float', 'W8A8'].map((precision) => row(key, precision, time * speed * lie * (0.95 + 0.1 * random.next()))),
        );
      const taken = operators.map(([key, time]) => ({ ...row(key, 'W4A32', time * 77), donor: 'a'.repeat(64) }));
      donations.push({ device: `d${device}`, rows: [...own, ...taken, row(speedReferenceKey, 'float', 1e5 * speed)] });
    }
    const shared = shareTables(donations, 'nanoseconds');
    const expectedAside = devices >= 3 ? liars : 0;
    const names = shared.quarantined.map(({ device }) => device).sort();
    if (devices - liars >= 2) {
      aside += names.length;
      const expected = Array.from({ length: expectedAside }, (_, index) => `d${index}`);
      if (JSON.stringify(names) !== JSON.stringify(expected))
        t.fail(`${names} instead of ${expected} of ${devices}: ${JSON.stringify(shared.quarantined)}`);
    }
    const kept = donations.filter(({ device }) => !names.includes(device));
    t.same(shared.devices, kept.map(({ device }) => device).sort());
    const referenceOf = ({ rows }: Donation) =>
      rows.find(({ operatorKey }) => operatorKey === speedReferenceKey)!.median;
    const common = middleOf(donations.map(referenceOf));
    if (shared.rows.some(({ precision }) => precision === 'W4A32')) t.fail('a row that was taken from others counts');
    for (const { operatorKey, precision, median, donors } of shared.rows) {
      const values = kept.flatMap((donation) =>
        donation.rows
          .filter((own) => own.operatorKey === operatorKey && own.precision === precision && own.donor === undefined)
          .map((own) => (own.median * common) / referenceOf(donation)),
      );
      if (values.length !== donors || Math.abs(median / middleOf(values) - 1) > 1e-9)
        t.fail(`${operatorKey} at ${precision}: ${median} of ${donors}, not ${middleOf(values)} of ${values.length}`);
    }
  }
  t.ok(aside > 30, `${aside} devices were set aside`);
});

t.test('two devices cannot say which of them is odd; nothing comes of nothing', async (t) => {
  const donations = [1, 3].map((factor) => ({ device: `d${factor}`, rows: [row('k', 'float', 1e5 * factor)] }));
  t.match(shareTables(donations, 'cycles'), {
    devices: ['d1', 'd3'],
    quarantined: [],
    rows: [{ median: 2e5, donors: 2 }],
  });
  t.same(shareTables([], 'nanoseconds'), { devices: [], quarantined: [], rows: [] });
});
