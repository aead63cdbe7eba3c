/** `fleet rollout` and `fleet ahead`, as people and scripts use them, against a live console. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { DeviceDocument } from '../../fleet-console/commands/devices.js';
import type { RolloutDocument } from '../../fleet-console/server/rollouts.js';
import { until } from '../support/broker.js';
import { FakeDevice, makeRelease, startConsole } from '../support/console.js';
import { fleet } from '../support/fleet-command.js';
import { SwiftDevice } from '../support/rollout-device.js';

t.test('start, watch, why, pause, resume, approve, rollback: tables for people, documents for programs', async (t) => {
  const folder = t.testdir();
  const console = await startConsole(folder);
  const devices = ['d0', 'd1', 'd2'].map(
    (id) => new SwiftDevice(console.brokerUrl, id, { group: 'g' }, { workMs: 20 }),
  );
  for (const id of ['fire@1', 'fire@2']) await makeRelease(console, id);
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@1' });
  await until(() => devices.every(({ active }) => active === 'fire@1'), 'all run the first release');
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await fleet(console.url, 'rollout', ...args);
    t.equal(code, 0, `${args.join(' ')}: ${stderr}`);
    return stdout;
  };
  const policy = join(folder, 'policy.json');
  writeFileSync(policy, JSON.stringify({ stages: [{ name: 'canary', count: 1, approval: true }, { percent: 100 }] }));
  t.match(
    await run('start', 'fire@2', '--to', 'group=g', '--policy', policy),
    /^rollout 1: fire@2 on host of group=g\nrunning: /,
  );
  const status = async () =>
    JSON.parse(await run('status', '--json')) as RolloutDocument & { devices: { id: string; state: string }[] };
  await until(async () => /waits for approval/.test((await status()).waitsFor), 'the canary is done');
  const canary = (await status()).devices.find(({ state }) => state === 'confirmed')!.id;
  const other = devices.find(({ id }) => id !== canary)!.id;
  const shown = await run('status');
  t.match(shown, /running: stage 1 \(canary\) waits for approval\ndevices: 1 confirmed, 2 waiting/);
  t.match(shown, /stage 1 \(canary\) +1 more +0 s +needed +1 of 1 answered/);
  t.match(shown, new RegExp(`${canary} +1 +confirmed +fire@1`));
  t.match(await run('why', other), /: waiting\n {2}its turn has not come: stage 1 \(canary\) waits for approval/);
  t.match(JSON.parse(await run('why', canary, '--json')), {
    device: canary,
    state: 'confirmed',
    why: /it runs fire@2, confirmed/,
  });
  t.match(await run('pause', '--because', 'lunch'), /\npaused: lunch\n/);
  t.match(await run('why', other), /the rollout is paused: lunch/);
  await run('resume');
  const watching = run('status', '1', '--watch');
  await new Promise((resolve) => setTimeout(resolve, 300));
  await run('approve', '1', '--because', 'looks good');
  const watched = await watching;
  t.match(watched, /approved: looks good[\s\S]*told to run fire@2[\s\S]*confirmed fire@2[\s\S]*completed: 3 confirmed/);
  t.match(await run('list'), /^rollout +release +devices +status[^\n]*\n[^\n]*\n?1 +fire@2 +group=g +completed/);
  await run('rollback');
  await until(() => devices.every(({ active }) => active === 'fire@1'), 'all are back');
  await until(async () => (await status()).status === 'rolled-back', 'it says so');
  await Promise.all(devices.map((device) => device.close()));
  await console.close();
});

t.test('what cannot be is refused with a reason, and the right exit code', async (t) => {
  const folder = t.testdir({ 'bad.json': '{', 'half.json': '{ "stages": [{ "percent": 50 }] }' });
  const console = await startConsole(folder);
  const cases: [string[], number, RegExp][] = [
    [['rollout', 'status'], 1, /rollout\/unknown/],
    [['rollout', 'status', '7'], 1, /rollout\/unknown/],
    [['rollout', 'start', 'no@1', '--to', 'all'], 1, /release\/unknown/],
    [
      ['rollout', 'start', 'no@1', '--to', 'all', '--policy', join(folder, 'absent')],
      2,
      /rollout\/invalid.*cannot be read/,
    ],
    [
      ['rollout', 'start', 'no@1', '--to', 'all', '--policy', join(folder, 'bad.json')],
      2,
      /rollout\/invalid.*not JSON/,
    ],
    [['rollout', 'start', 'no@1', '--to', 'all', '--policy', join(folder, 'half.json')], 2, /never reach all devices/],
    [['rollout', 'start', 'no@1'], 2, /--to/],
    [['rollout', 'why', 'nobody'], 1, /device\/unknown/],
    [['ahead', '--take', 'both'], 2, /console, device/],
  ];
  for (const [args, code, message] of cases) {
    const answer = await fleet(console.url, ...args);
    t.equal(answer.code, code, args.join(' '));
    t.equal(answer.stdout, '');
    t.match(answer.stderr, message, args.join(' '));
    t.notMatch(answer.stderr, /\n\s+at /);
  }
  await makeRelease(console, 'fire@1');
  const none = await fleet(console.url, 'rollout', 'start', 'fire@1', '--to', 'all');
  t.equal(none.code, 2);
  t.match(none.stderr, /rollout\/invalid: no device is named/);
  await console.close();
});

t.test('devices that are ahead are listed, and decided on together', async (t) => {
  const console = await startConsole(t.testdir());
  t.match((await fleet(console.url, 'ahead')).stdout, /no device is ahead/);
  const devices = await Promise.all(
    ['a', 'b'].map((id) => FakeDevice.open(console.brokerUrl, id, { observed: 5, labels: { group: id } })),
  );
  const list = async () => (await console.client.get<{ devices: DeviceDocument[] }>('/v1/devices')).devices;
  await until(async () => (await list()).filter(({ isAhead }) => isAhead).length === 2, 'both are ahead');
  t.same(
    (JSON.parse((await fleet(console.url, 'ahead', '--json')).stdout) as { devices: unknown[] }).devices.length,
    2,
  );
  await fleet(console.url, 'ahead', '--selector', 'group=a', '--take', 'console');
  t.same(
    (await list()).map(({ isAhead }) => isAhead),
    [false, true],
  );
  await Promise.all(devices.map((device) => device.close()));
  await console.close();
});
