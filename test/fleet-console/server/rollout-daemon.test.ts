/** A rollout on the real daemon: what it reports is what a rollout goes by, forward and back. */
import t from 'tap';
import type { RolloutAnswer, RolloutDocument } from '../../../fleet-console/server/rollouts.js';
import { smallCard, smallModel } from '../../support/artifacts.js';
import { until } from '../../support/broker.js';
import { makeRelease, startConsole } from '../../support/console.js';
import { DaemonProcess, stateFolder } from '../../support/daemon-process.js';

const patience = 90_000;

t.test('the daemon confirms a release with measured evidence, and goes back when a gate fails', async (t) => {
  const console = await startConsole(t.testdir());
  const daemon = new DaemonProcess(stateFolder(), console, {
    QUANTD__CONFIRM__BAKE_SECONDS: '1',
    QUANTD__CONFIRM__PROBE_EVERY_MS: '10',
  });
  for (const version of [1, 2, 3]) await makeRelease(console, `small@${version}`, smallModel(version), smallCard());
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'small@1' });
  const active = async () => {
    const { reported } = await console.client.get<{
      reported: { targets: { host?: { active: { release: string; isConfirmed: boolean } | null } } } | null;
    }>('/v1/devices/d1');
    const host = reported?.targets.host?.active;
    return host?.isConfirmed ? host.release : null;
  };
  await until(async () => (await active().catch(() => null)) === 'small@1', 'the first release runs', patience);

  const roll = async (release: string, gate: object, status: string) => {
    const { id } = await console.client.send<RolloutDocument>('POST', '/v1/rollouts', {
      release,
      selector: 'all',
      policy: { gates: [gate], onFail: 'rollback-all' },
    });
    const document = () => console.client.get<RolloutDocument>(`/v1/rollouts/${id}`);
    await until(async () => (await document()).status !== 'running', `rollout ${id} goes on`, patience);
    await until(async () => (await document()).status === status, `rollout ${id} is ${status}`, patience);
    return (await console.client.get<RolloutAnswer>('/v1/devices/d1/rollout')).history
      .map(({ text }) => text)
      .join('\n');
  };
  const forward = await roll('small@2', { metric: 'latencyP95', mostRatio: 1000 }, 'completed');
  t.match(forward, /confirmed small@2; latencyP95: [\d.]+ ms, within at most 1000 times [\d.]+ ms before/);
  t.equal(await active(), 'small@2');
  const back = await roll('small@3', { metric: 'latencyMedian', most: 1e-9 }, 'rolled-back');
  t.match(back, /back at small@2[\s\S]*failed, GATE: latencyMedian: [\d.]+ ms, beyond at most/);
  t.equal(await active(), 'small@2');
  await daemon.stop();
  t.equal(daemon.stderr, '');
  await console.close();
});
