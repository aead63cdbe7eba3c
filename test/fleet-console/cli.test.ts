/** The command `fleet`, as people and scripts use it, against a live console. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { DeviceDocument } from '../../fleet-console/commands/devices.js';
import { standingOf } from '../../fleet-console/device-state.js';
import { smallCard, smallModel } from '../support/artifacts.js';
import { until } from '../support/broker.js';
import { FakeDevice, startConsole } from '../support/console.js';
import { fleet } from '../support/fleet-command.js';

t.test('the state of a device is of its newest orders, and a refusal of these comes first', async (t) => {
  const state = (observedGeneration: number, ...conditions: [string, string][]) =>
    standingOf({
      isOnline: true,
      isAhead: false,
      desired: { generation: 2 },
      reported: { observedGeneration, conditions: conditions.map(([type, status]) => ({ type, status })) },
    } as DeviceDocument).state;
  t.equal(state(2, ['Accepted', 'true'], ['Confirmed', 'true']), 'confirmed');
  t.equal(state(1, ['Accepted', 'true'], ['Confirmed', 'true']), 'working', 'that was the first generation');
  t.equal(state(1, ['Accepted', 'false'], ['Confirmed', 'true']), 'in trouble');
  t.equal(state(2, ['Degraded', 'true'], ['Confirmed', 'true']), 'in trouble');
  t.equal(state(2, ['Gated', 'true'], ['Confirmed', 'false']), 'gated');
  t.equal(state(2, ['Gated', 'true'], ['Degraded', 'true']), 'in trouble');
});

t.test('release, assign, budgets, devices and results, for people and as JSON', async (t) => {
  const folder = t.testdir();
  const console = await startConsole(folder);
  const device = await FakeDevice.open(console.brokerUrl, 'd1', { labels: { group: 'drones' } });
  const model = join(folder, 'small.onnx');
  writeFileSync(model, smallModel(1));
  writeFileSync(join(folder, 'small.json'), JSON.stringify(smallCard()));
  await until(
    async () => (await console.client.get<{ devices: unknown[] }>('/v1/devices')).devices.length === 1,
    'it is known',
  );

  const released = await fleet(console.url, 'release', model, '--name', 'small', '--version', '1', '--json');
  t.equal(released.code, 0, released.stderr);
  t.match(JSON.parse(released.stdout), { id: 'small@1', card: smallCard() });
  const assigned = await fleet(console.url, 'release', 'assign', 'small@1', '--to', 'group=drones');
  t.match(assigned.stdout, /small@1 is wanted on d1/);
  t.match((await fleet(console.url, 'release', 'list')).stdout, /small@1/);
  const set = await fleet(console.url, 'budget', 'set', 'group=drones', 'latency=12ms,drop=1%', '--json');
  t.match(JSON.parse(set.stdout), { selector: 'group=drones', budget: { latencyMs: 12, drop: 0.01 }, devices: ['d1'] });
  t.match((await fleet(console.url, 'budget', 'show', 'all')).stdout, /d1 +latency=12ms,drop=1% +group=drones/);
  await until(() => device.last?.generation === 2, 'the device is told');

  const list = await fleet(console.url, 'devices', '--json');
  t.match(JSON.parse(list.stdout), { devices: [{ id: 'd1', isOnline: true, desired: { generation: 2 } }] });
  t.match((await fleet(console.url, 'devices')).stdout, /^device +group +state/);
  t.match((await fleet(console.url, 'device', 'd1')).stdout, /wanted +small@1, budget latency=12ms,drop=1%/);
  t.same(JSON.parse((await fleet(console.url, 'results', '--device', 'd1', '--json')).stdout), { results: [] });
  await device.close();
  await console.close();
});

t.test(
  'exit codes tell usage, failure and a console that is not there apart; errors go to stderr with a hint',
  async (t) => {
    const folder = t.testdir();
    const console = await startConsole(folder);
    const cases: [string[], number, RegExp][] = [
      [['devices', '--selector', 'what'], 2, /selector\/invalid/],
      [['budget', 'set', 'all', 'latency=fast'], 2, /budget\/invalid/],
      [['release', join(folder, 'absent.onnx'), '--name', 'a', '--version', '1'], 1, /model\/unreadable/],
      [['release', join(folder, 'absent.onnx')], 2, /--name and --version/],
      [['release', 'assign', 'no@1', '--to', 'all'], 1, /release\/unknown/],
      [['device', 'nobody'], 1, /device\/unknown/],
      [['nonsense'], 2, /unknown command/],
    ];
    for (const [args, code, message] of cases) {
      const answer = await fleet(console.url, ...args);
      t.equal(answer.code, code, args.join(' '));
      t.equal(answer.stdout, '');
      t.match(answer.stderr, message, args.join(' '));
      t.notMatch(answer.stderr, /\n\s+at /);
    }
    await console.close();
    const gone = await fleet(console.url, 'devices');
    t.equal(gone.code, 4);
    t.match(gone.stderr, /console\/unreachable.*\n.*subject.*\n.*hint/);
  },
);

t.test('help teaches', async (t) => {
  const help = await fleet('http://127.0.0.1:1', '--help');
  t.equal(help.code, 0);
  for (const command of ['serve', 'devices', 'device', 'watch', 'release', 'rollout', 'budget', 'results', 'ahead'])
    t.match(help.stdout, new RegExp(`\\b${command}\\b`));
  t.match((await fleet('http://127.0.0.1:1', 'release', '--help')).stdout, /fleet release assign/);
});
