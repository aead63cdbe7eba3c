/** The real daemon and console, a lock file and an autopilot on a real socket: staged in flight, activated on the ground. */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import type { Condition } from '../../../configs/contracts/device.js';
import type { DeviceDocument } from '../../../fleet-console/commands/devices.js';
import type { RolloutAnswer, RolloutDocument } from '../../../fleet-console/server/rollouts.js';
import { smallCard, smallModel } from '../../support/artifacts.js';
import { until } from '../../support/broker.js';
import { makeRelease, startConsole } from '../../support/console.js';
import { DaemonProcess, stateFolder } from '../../support/daemon-process.js';
import { fleet } from '../../support/fleet-command.js';
import { Autopilot, freeUdpPort } from '../../support/mavlink.js';

const patience = 90_000;
type Console = Awaited<ReturnType<typeof startConsole>>;

const deviceOf = (console: Console) => console.client.get<DeviceDocument>('/v1/devices/d1').catch(() => null);

async function said(console: Console, type: Condition['type']): Promise<Condition | undefined> {
  const device = await deviceOf(console);
  return device?.reported?.conditions.find((condition) => condition.type === type && condition.status === 'true');
}

async function runs(console: Console, release: string): Promise<boolean> {
  const active = (await deviceOf(console))?.reported?.targets.host?.active;
  return active?.release === release && active.isConfirmed;
}

/** Whether a link to an active model is there. */
function isAnythingActive(state: string): boolean {
  const folder = join(state, 'active');
  return existsSync(folder) && readdirSync(folder).some((name) => !name.startsWith('.'));
}

function ask(state: string, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: join(state, 'quantd.sock'), path }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (piece: string) => {
        text += piece;
      });
      response.on('end', () => resolve(text));
    });
    asked.on('error', reject);
    asked.end();
  });
}

/** What `quantd doctor` says of the gates. */
function doctor(state: string, settings: Record<string, string>): Promise<unknown[]> {
  const main = fileURLToPath(new URL('../../../agent/main.js', import.meta.url));
  const env = { ...process.env, QUANTD__STATE__FOLDER: state, ...settings };
  return new Promise((resolve) => {
    // A console or broker that does not answer is not what this is about.
    execFile(process.execPath, [main, 'doctor', '--json'], { env }, (_error, stdout) => {
      const { checks } = JSON.parse(stdout) as { checks: { name: string }[] };
      resolve(checks.filter(({ name }) => name.startsWith('gate')));
    });
  });
}

t.test(
  'a release to a device in flight and under lock is quantized, reported as gated, and serves soon after both gates open',
  async (t) => {
    const console = await startConsole(t.testdir());
    const state = stateFolder();
    const lock = join(state, 'lock');
    const port = await freeUdpPort();
    const settings = {
      QUANTD__GATES__OPEN_SECONDS: '1',
      QUANTD__GATES__LOCK__FILE: lock,
      QUANTD__GATES__MAVLINK__UDP: `127.0.0.1:${port}`,
      QUANTD__GATES__MAVLINK__SILENT_SECONDS: '2',
    };
    writeFileSync(lock, JSON.stringify({ owner: 'alice', reason: 'survey of field 7' }));
    const autopilot = new Autopilot(port);
    t.teardown(() => autopilot.close());
    let daemon = new DaemonProcess(state, console, settings);
    for (const version of [1, 2]) await makeRelease(console, `small@${version}`, smallModel(version), smallCard());
    await until(async () => (await deviceOf(console)) !== null, 'it is known');
    const rollout = await console.client.send<RolloutDocument>('POST', '/v1/rollouts', {
      release: 'small@1',
      selector: 'all',
      policy: {},
    });
    await until(
      async () => (await said(console, 'Quantized')) !== undefined && (await said(console, 'Gated')) !== undefined,
      'it is gated',
      patience,
    );
    const gated = (await said(console, 'Gated'))!;
    t.match(gated, {
      target: 'host',
      reason: 'lock',
      message: /lock \(alice: survey of field 7, until .*\); mavlink \(the vehicle is armed\)/,
    });

    // The console shows it as waiting, not as failed.
    await until(
      async () => /waiting: gated/.test((await fleet(console.url, 'rollout', 'why', 'd1')).stdout),
      'why is told',
    );
    t.match(await console.client.get<RolloutAnswer>('/v1/devices/d1/rollout'), {
      state: 'updating',
      why: /survey of field 7/,
    });
    t.match((await fleet(console.url, 'devices')).stdout, /d1 .* gated /);
    t.match(await console.client.get(`/v1/rollouts/${rollout.id}`), { status: 'running' });
    t.match(JSON.parse(await ask(state, '/v1/status')), {
      gates: [
        { gate: 'lock', isOpen: false },
        { gate: 'mavlink', isOpen: false, reason: 'the vehicle is armed' },
      ],
    });
    const metrics = await ask(state, '/metrics');
    t.match(metrics, /quantd_gate_open{gate="mavlink"} 0/);
    t.match(metrics, /quantd_gated{target="host"} 1/);

    t.match(await doctor(state, settings), [
      { name: 'gate lock', status: 'warning', message: /^closed since .*: alice: survey of field 7, until / },
      { name: 'gate mavlink', status: 'warning', message: /the vehicle is armed/, hint: /No model changes meanwhile/ },
    ]);

    // A power cut in flight changes nothing.
    await daemon.kill();
    t.notOk(isAnythingActive(state));
    daemon = new DaemonProcess(state, console, settings);
    await until(() => daemon.journal.some(({ msg }) => msg === 'a gate is closed'), 'its gates are read', patience);
    await sleep(2500);
    t.notOk(isAnythingActive(state), 'still gated');
    t.notOk(
      daemon.journal.some(({ step }) => step === 'quantize'),
      'and nothing was made again',
    );

    // One open gate is not enough, nor a vehicle that is disarmed in the air.
    rmSync(lock);
    await until(async () => (await said(console, 'Gated'))?.reason === 'mavlink', 'the lock is gone');
    autopilot.isArmed = false;
    await until(async () => /but in the air/.test((await said(console, 'Gated'))?.message ?? ''), 'it is not down yet');
    await sleep(1500);
    t.notOk(isAnythingActive(state));
    const landed = performance.now();
    autopilot.landed = 1;
    await until(() => runs(console, 'small@1'), 'it serves on the ground', patience);
    t.comment(`${Math.round(performance.now() - landed)} ms from landing to being confirmed`);
    t.equal(await said(console, 'Gated'), undefined);
    await until(
      async () => (await console.client.get<RolloutDocument>(`/v1/rollouts/${rollout.id}`)).status === 'completed',
      'the rollout is complete',
      patience,
    );
    t.match(await ask(state, '/metrics'), /quantd_gate_open{gate="mavlink"} 1/);

    // An autopilot that goes silent is as good as in flight.
    autopilot.close();
    await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'small@2' });
    await until(
      async () => /is silent/.test((await said(console, 'Gated'))?.message ?? ''),
      'silence is a closed gate',
      patience,
    );
    await until(async () => (await said(console, 'Quantized')) !== undefined, 'it is quantized all the same', patience);
    t.ok(await runs(console, 'small@1'));
    await daemon.stop();
    t.equal(daemon.stderr, '');
    t.match(await doctor(state, settings), [
      { name: 'gates', message: /lock, mavlink are configured; only the running daemon/ },
    ]);
    await console.close();
  },
);
