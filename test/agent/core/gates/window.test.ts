/** Maintenance windows against a list of all their minutes, in zones with every kind of daylight saving. */
import t from 'tap';
import { isOpenAt, opensAfter, parseWindow, type WindowSettings } from '../../../../agent/core/gates/window.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();
const minute = 60_000;
const names = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const zones = [
  ...['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'Pacific/Chatham'],
  ...['America/Sao_Paulo', 'Africa/Casablanca', 'Pacific/Apia', 'Europe/Dublin', 'Antarctica/Troll', 'Asia/Kolkata'],
];

/** Every minute of the week at which a window is open, counted out one by one from the beginnings of its days. */
function minutesOf({ days, from, to }: WindowSettings): Set<number> {
  const at = (time: string) => Number(time.split(':')[0]) * 60 + Number(time.split(':')[1]);
  const open = new Set<number>();
  for (const day of days) {
    let now = names.indexOf(day) * 1440 + at(from);
    do {
      open.add(now % 10_080);
      now++;
    } while (now % 1440 !== at(to));
  }
  return open;
}

/** The minute of the week in a zone, by another way through the calendar than the product takes. */
function minuteOfWeek(zone: string, unixMs: number): number {
  const [date = '', time = ''] = new Date(unixMs).toLocaleString('sv-SE', { timeZone: zone }).split(' ');
  const day = new Date(`${date}T00:00:00Z`).getUTCDay();
  return day * 1440 + Number(time.slice(0, 2)) * 60 + Number(time.slice(3, 5));
}

function randomWindow(random: Random): WindowSettings {
  const two = (value: number) => String(value).padStart(2, '0');
  const time = () => `${two(random.below(24))}:${two(random.pick([0, 15, 30, random.below(60)]))}`;
  const days = names.filter(() => random.below(3) === 0);
  const from = random.pick([time(), '02:15', '23:30', '00:00']);
  const to = random.pick([time(), '02:45', from, '00:00']);
  return { days: days.length === 0 ? [random.pick(names)] : days, from, to, zone: random.pick(zones) };
}

/** Some time of the years 2025 to 2027; most of them near to where offsets change. */
function randomTime(random: Random): number {
  const changes = [
    Date.UTC(2026, 2, 29, 1),
    Date.UTC(2026, 9, 25, 1),
    Date.UTC(2026, 2, 8, 7),
    Date.UTC(2026, 10, 1, 6),
  ];
  const more = [
    Date.UTC(2026, 3, 4, 15),
    Date.UTC(2026, 9, 3, 15, 30),
    Date.UTC(2026, 1, 15, 2),
    Date.UTC(2026, 2, 22, 2),
  ];
  if (random.below(4) > 0)
    return random.pick([...changes, ...more]) + (random.below(2880) - 1440) * minute + random.below(minute);
  return Date.UTC(2025) + Math.floor(random.next() * 3 * 365 * 1440) * minute + random.below(minute);
}

t.test(
  'a window is open exactly at the minutes that it is made of, over midnight and over changes of the clock',
  async (t) => {
    const random = new Random(seed);
    for (let round = 0; round < 30; round++) {
      const settings = randomWindow(random);
      const window = parseWindow(settings);
      const open = minutesOf(settings);
      const start = randomTime(random);
      for (let step = 0; step < 300; step++) {
        const at = start + step * minute;
        if (isOpenAt(window, at) === open.has(minuteOfWeek(settings.zone, at))) continue;
        return t.fail(`${JSON.stringify(settings)} at ${new Date(at).toISOString()}`);
      }
    }
    t.pass();
  },
);

t.test('the time at which a closed window opens is the first minute at which it is open', async (t) => {
  const random = new Random(seed);
  let found = 0;
  for (let round = 0; round < 12; round++) {
    const settings = randomWindow(random);
    const window = parseWindow(settings);
    const start = randomTime(random);
    if (isOpenAt(window, start)) continue;
    const open = minutesOf(settings);
    let expected: number | null = Math.floor(start / minute) * minute + minute;
    const end = start + 15 * 1440 * minute;
    while (expected < end && !open.has(minuteOfWeek(settings.zone, expected))) expected += minute;
    if (expected >= end) expected = null;
    const opens = opensAfter(window, start);
    if (opens !== expected) {
      return t.fail(`${JSON.stringify(settings)} at ${new Date(start).toISOString()}: ${opens} and not ${expected}`);
    }
    found++;
  }
  t.ok(found > 1, `${found} of 12`);
});

t.test('clocks that are set forward skip a window, clocks that are set back repeat it', async (t) => {
  const window = parseWindow({ days: ['sun'], from: '02:15', to: '02:45', zone: 'Europe/Berlin' });
  const minutesOn = (day: number) => {
    let count = 0;
    for (let step = 0; step < 1440; step++) if (isOpenAt(window, day + step * minute)) count++;
    return count;
  };
  const minutesAgo = parseWindow({ days: ['sun'], from: '10:00', to: '10:05', zone: 'UTC' });
  t.equal(
    opensAfter(minutesAgo, Date.UTC(2026, 2, 22, 10, 7)),
    Date.UTC(2026, 2, 29, 10),
    'not one that has just ended',
  );
  t.equal(minutesOn(Date.UTC(2026, 2, 22)), 30, 'as on any Sunday');
  t.equal(minutesOn(Date.UTC(2026, 2, 29)), 0, 'from two to three there is no time');
  t.equal(minutesOn(Date.UTC(2026, 9, 25)), 60, 'from two to three it is twice');
  t.equal(opensAfter(window, Date.UTC(2026, 2, 28)), Date.UTC(2026, 3, 5, 0, 15), 'a week later, in summer time');
});

t.test('a zone that there is not is refused, with what would be right', async (t) => {
  const settings = { days: ['mon'], from: '01:00', to: '02:00', zone: 'Europe/Atlantis' };
  t.throws(() => parseWindow(settings), {
    code: 'settings/invalid',
    subject: 'gates.window.zone',
    hint: /Europe\/Berlin/,
  });
});
