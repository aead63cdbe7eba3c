/** A console with a fleet that shows every state, for screenshots and for checks of every page. */
import type { RolloutDocument } from '../../fleet-console/server/rollouts.js';
import { smallCard, smallModel } from './artifacts.js';
import { until } from './broker.js';
import { makeRelease, startConsole } from './console.js';
import { PlainDevice } from './plain-device.js';

/** The console, its devices and the addresses of its pages. */
export interface ShowFleet {
  readonly url: string;
  /** Name of the page -> path. */
  readonly pages: Readonly<Record<string, string>>;
  close(): Promise<void>;
}

const classes = [
  ['Jetson Orin Nano 8 GB, 15 W', 7],
  ['Raspberry Pi 5, 8 GB', 21],
  ['x86-64 avx2, 16 GB', 4],
] as const;

/** Makes one up: devices of three classes, two releases, rollouts in every state, budgets that some cannot hold. */
export async function startShowFleet(folder: string, devices = 36): Promise<ShowFleet> {
  const console = await startConsole(folder);
  const send = <T>(path: string, body: object) => console.client.send<T>('POST', path, body);
  for (const [index, id] of ['firewatch@1.0.0', 'firewatch@1.1.0', 'firewatch@1.2.0'].entries())
    await makeRelease(console, id, smallModel(index + 1), smallCard());
  const all = Array.from({ length: devices }, (_, index) => {
    const [hardwareClass, int8Ms] = classes[index % classes.length]!;
    const group = index % 2 === 0 ? 'drones' : 'towers';
    return new PlainDevice(`${group.slice(0, -1)}-${String(index + 1).padStart(3, '0')}`, {
      labels: { group, site: ['north', 'south', 'lake'][index % 3]! },
      hardwareClass,
      int8Ms: int8Ms * (1 + 0.02 * (index % 5)),
      seed: index + 1,
      agreement: { 'firewatch@1.2.0': 0.93 },
      ...(index === 4 ? { reverts: ['firewatch@1.1.0'] } : {}),
      // Comes from a time that the database does not know.
      ...(index === 7 ? { observed: 40 } : {}),
    });
  });
  await Promise.all(all.map((device) => device.open(console.brokerUrl)));
  const others = all.filter((_, index) => index !== 7);
  await send('/v1/assignments', { selector: 'all', release: 'firewatch@1.0.0' });
  await until(() => others.every(({ active }) => active === 'firewatch@1.0.0'), 'the first release runs', 60_000);
  await console.client.send('PUT', '/v1/budgets', { selector: 'all', budget: { latencyRatio: 0.9 } });
  await console.client.send('PUT', '/v1/budgets', { selector: 'group=drones', budget: { latencyMs: 16 } });
  await console.client.send('PUT', '/v1/budgets', {
    selector: 'group=drones',
    budget: { latencyMs: 18, sizeBytes: 2 * 2 ** 20 },
  });
  await console.client.send('PUT', '/v1/budgets', { selector: `device=${others[0]!.id}`, budget: { latencyMs: 5.5 } });
  await console.client.send('PUT', '/v1/budgets', { selector: `device=${others[2]!.id}`, budget: { latencyMs: 1 } });
  const start = (body: object) => send<RolloutDocument>('/v1/rollouts', body);
  const status = async (id: number) => (await console.client.get<RolloutDocument>(`/v1/rollouts/${id}`)).status;
  // One that completes, one that a gate takes back, one that waits for approval.
  const completed = await start({
    release: 'firewatch@1.1.0',
    selector: 'site=south,group=drones',
    policy: {
      stages: [{ name: 'canary', count: 2 }, { percent: 100 }],
      gates: [
        { metric: 'latencyP95', mostRatio: 1.3 },
        { metric: 'agreement', mostDrop: 0.05 },
      ],
      abort: [{ class: 'ANY', percent: 50 }],
    },
  });
  await until(async () => (await status(completed.id)) !== 'running', 'the first rollout ends', 60_000);
  const back = await start({
    release: 'firewatch@1.2.0',
    selector: 'site=lake',
    policy: {
      stages: [{ name: 'canary', count: 2 }, { percent: 100 }],
      gates: [{ metric: 'agreement', mostDrop: 0.02 }],
      onFail: 'rollback-all',
    },
  });
  await until(async () => (await status(back.id)) === 'rolled-back', 'the second one goes back', 60_000);
  const waiting = await start({
    release: 'firewatch@1.1.0',
    selector: 'site=north',
    policy: {
      stages: [
        { name: 'canary', count: 3, approval: true },
        { name: 'half', percent: 50, bakeSeconds: 600 },
        { percent: 100 },
      ],
      gates: [{ metric: 'latencyMedian', mostRatio: 1.2 }],
      abort: [{ class: 'ANY', percent: 34, minimum: 3 }],
      onFail: 'pause',
    },
  });
  await until(
    async () => /approval/.test((await console.client.get<RolloutDocument>(`/v1/rollouts/${waiting.id}`)).waitsFor),
    'the third one waits',
    60_000,
  );
  await all[11]?.vanish();
  await all[20]?.vanish();
  const well = others.find(({ active }) => active === 'firewatch@1.1.0')!;
  return {
    url: console.url,
    pages: {
      overview: '/',
      devices: '/devices',
      device: `/devices/${well.id}`,
      'device-infeasible': `/devices/${others[2]!.id}`,
      'device-ahead': `/devices/${all[7]!.id}`,
      'device-absent': '/devices/nobody',
      releases: '/releases',
      compare: '/releases/compare?base=firewatch%401.0.0&other=firewatch%401.1.0',
      rollouts: '/rollouts',
      'rollout-new': '/rollouts/new',
      'rollout-waiting': `/rollouts/${waiting.id}`,
      'rollout-rolled-back': `/rollouts/${back.id}`,
      budgets: '/budgets',
      audit: '/audit',
    },
    async close() {
      await Promise.all(all.map((device) => device.close()));
      await console.close();
    },
  };
}
