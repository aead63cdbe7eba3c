/** What operators do with the fleet, in a real Chromium, with real daemons that measure real models. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { encode } from '../../../agent/core/onnx/codec.js';
import type { DeviceDocument } from '../../../fleet-console/commands/devices.js';
import { inputDims, smallCard, smallModel } from '../../support/artifacts.js';
import { until } from '../../support/broker.js';
import { hasChromium, openBrowser, openContext, openPage, visit } from '../../support/browser.js';
import { makeRelease, startConsole } from '../../support/console.js';
import { DaemonProcess, stateFolder } from '../../support/daemon-process.js';
import { NetworkBuilder } from '../../support/networks.js';
import { Random } from '../../support/random.js';

const patience = 150_000;
const skip = !hasChromium && 'no Chromium';

/**
 * A classifier of the same input that takes some 15 times as long as the small one: so much more than the gate allows that no load of the
 * machine, under which either of them was measured, makes the canary pass.
 */
function slowModel(): Uint8Array {
  const builder = new NetworkBuilder(new Random(7), inputDims);
  let image = 'x';
  for (let depth = 0; depth < 10; depth++) image = builder.same('Relu', builder.conv(image, { out: 128 }));
  return encode(builder.build([builder.gemm(builder.pooled(image), 4)]));
}

/**
 * One whose many classes differ by less than eight bits can tell. Its last operator is large, so that eight bits should be the fastest there;
 * then it is no longer itself. A plan that leaves that operator in float would fail the test: nothing forces it.
 */
function fragileModel(): Uint8Array {
  const [channels, classes] = [64, 2000];
  const builder = new NetworkBuilder(new Random(5), inputDims);
  let image = 'x';
  for (let depth = 0; depth < 3; depth++) image = builder.same('Relu', builder.conv(image, { out: channels }));
  const shared = builder.random.floats(channels);
  const weights = Float32Array.from(
    { length: channels * classes },
    (_, at) => shared[at % channels]! + 0.0003 * builder.random.normal(),
  );
  const rows = builder.constant([classes, channels], weights);
  return encode(builder.build([builder.emit('Gemm', [builder.pooled(image), rows], [1, classes], { transB: 1 })]));
}

/** A console, two daemons and a page. */
async function start(t: Test) {
  const console = await startConsole(t.testdir());
  t.teardown(() => console.close());
  const states = { d1: stateFolder(), d2: stateFolder() };
  const run = (id: keyof typeof states) => {
    const daemon = new DaemonProcess(states[id], console, { QUANTD__DEVICE__ID: id, QUANTD__DEVICE__GROUP: 'g' });
    t.teardown(() => (daemon.child.exitCode === null ? daemon.stop() : undefined));
    return daemon;
  };
  const daemons = { d1: run('d1'), d2: run('d2') };
  const browser = await openBrowser();
  t.teardown(() => browser.close());
  const complaints: string[] = [];
  const page = await openPage(await openContext(browser, { colours: 'light', screen: 'desktop' }), complaints);
  const device = (id: string) => console.client.get<DeviceDocument>(`/v1/devices/${id}`).catch(() => null);
  const runs = async (id: string, release: string) => {
    const active = (await device(id))?.reported?.targets.host?.active;
    return active?.release === release && active.isConfirmed;
  };
  return { console, page, complaints, daemons, run, device, runs };
}

/** Starts a rollout with a canary and one gate, by the form. */
async function rollOut(
  page: Page,
  url: string,
  release: string,
  gate: { metric: string; bound: string; value: string },
) {
  await visit(page, `${url}/rollouts/new`);
  await page.getByLabel('Release').selectOption(release);
  await page.getByLabel('Bake, seconds').first().fill('0');
  await page.getByRole('button', { name: 'Remove gate 2' }).click();
  await page.getByLabel('Gate 1, metric').selectOption(gate.metric);
  await page.getByLabel('Bound').selectOption(gate.bound);
  await page.getByLabel('Value').fill(gate.value);
  await page.getByRole('button', { name: 'Start the rollout' }).click();
  await page.getByRole('heading', { level: 1, name: new RegExp(`of ${release}$`) }).waitFor();
}

t.test(
  'releases that are slower, or less faithful, stop at the canary and are taken back; the browser shows why',
  { skip },
  async (t) => {
    const { console, page, complaints, daemons, runs } = await start(t);
    const folder = t.testdir();
    const model = join(folder, 'small.onnx');
    writeFileSync(model, smallModel(1));
    writeFileSync(join(folder, 'small.json'), JSON.stringify(smallCard()));
    await makeRelease(console, 'slow@1', slowModel(), smallCard());
    await makeRelease(console, 'fragile@1', fragileModel(), smallCard());

    t.comment('a release is uploaded and assigned');
    await visit(page, `${console.url}/releases`);
    await page.getByLabel('Name', { exact: true }).fill('small');
    await page.getByLabel('Version', { exact: true }).fill('1');
    await page.getByLabel('Model, float ONNX').setInputFiles(model);
    await page.getByLabel(/^Card/).setInputFiles(join(folder, 'small.json'));
    await page.getByRole('button', { name: 'Upload and make it' }).click();
    await page.getByRole('button', { name: 'Assign small@1' }).click();
    await page.getByLabel('To the devices').fill('group=g');
    await page.getByRole('dialog').getByRole('button', { name: 'Assign' }).click();
    await until(async () => (await runs('d1', 'small@1')) && (await runs('d2', 'small@1')), 'both run it', patience);
    await visit(page, `${console.url}/devices`);
    t.equal(await page.getByRole('row').filter({ hasText: 'confirmed' }).filter({ hasText: 'small@1' }).count(), 2);

    for (const [release, gate, evidence] of [
      [
        'slow@1',
        { metric: 'latencyMedian', bound: 'mostRatio', value: '3' },
        /latencyMedian: [\d.]+ ms, beyond at most 3 times/,
      ],
      [
        'fragile@1',
        { metric: 'agreement', bound: 'mostDrop', value: '0.1' },
        /agreement: [\d.]+ %, beyond at most 10 % below/,
      ],
    ] as const) {
      await rollOut(page, console.url, release, gate);
      await page.getByText('rolled back', { exact: true }).waitFor({ timeout: patience });
      t.match(await page.getByRole('main').innerText(), evidence, release);
      await page.getByLabel('State').selectOption('returned');
      const returned = page.getByRole('table', { name: 'Devices of the rollout' }).getByRole('rowheader');
      await until(async () => (await returned.count()) === 1, 'the canary alone is listed');
      const canary = await returned.first().innerText();
      const other = canary === 'd1' ? 'd2' : 'd1';
      t.ok((await runs('d1', 'small@1')) && (await runs('d2', 'small@1')), 'both run what they ran');
      await returned.getByRole('link').click();
      await page.getByRole('heading', { level: 1, name: canary }).waitFor();
      await page
        .getByText(/back at small@1/)
        .first()
        .waitFor();
      const told = daemons[other].journal.filter(({ msg }) => msg.includes(release));
      t.same(told, [], 'the other one never heard of it');
    }
    t.same(complaints, []);
  },
);

t.test('a budget is set after a what-if; a device that was away catches up with it', { skip }, async (t) => {
  const { console, page, complaints, daemons, run, device, runs } = await start(t);
  await makeRelease(console, 'slow@1', slowModel(), smallCard());
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'slow@1' });
  await until(async () => (await runs('d1', 'slow@1')) && (await runs('d2', 'slow@1')), 'both run it', patience);
  await visit(page, `${console.url}/devices/d2`);
  await page.getByRole('heading', { name: 'Frontier' }).waitFor();
  await page.getByRole('region', { name: 'Latencies of operators of host' }).getByText('W8A8').first().waitFor();
  t.ok((await page.getByRole('region', { name: 'Operators of the plan' }).getByRole('row').count()) > 10);
  await daemons.d2.stop();
  await page.getByText('offline', { exact: true }).waitFor({ timeout: patience });

  t.comment('what nobody can hold is seen before it is set; what all hold is set');
  await visit(page, `${console.url}/budgets`);
  await page.getByLabel('Latency at most').fill('0.000001');
  await page.getByRole('button', { name: 'What if?' }).click();
  const verdicts = page.getByRole('table', { name: 'Verdicts by device' });
  await verdicts.getByText('infeasible', { exact: true }).nth(1).waitFor();
  await page.getByLabel('Latency at most').fill('1000');
  await page.getByText('The fields have changed since: ask again.').waitFor();
  await page.getByRole('button', { name: 'What if?' }).click();
  await verdicts.getByText('meets', { exact: true }).nth(1).waitFor();
  await page.getByRole('button', { name: 'Set this budget' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Set this budget' }).click();
  await page.getByText('is wanted on 2 devices now').waitFor();
  const holds = async (id: string) => {
    const { desired, reported } = (await device(id))!;
    const active = reported?.targets.host?.active;
    return (
      reported?.observedGeneration === desired?.generation && active?.isConfirmed && active.budget.latencyMs === 1000
    );
  };
  await until(async () => (await holds('d1')) === true, 'the one that is there holds it', patience);
  t.not(await holds('d2'), true);

  await visit(page, `${console.url}/devices/d2`);
  await page.getByText('generation 2; it has seen 1').waitFor();
  run('d2');
  await page.getByText('generation 2; it has seen 2').waitFor({ timeout: patience });
  await until(async () => (await holds('d2')) === true, 'the one that was away holds it', patience);
  await page.getByRole('main').getByText('confirmed', { exact: true }).first().waitFor();
  t.equal((await device('d2'))!.reported!.targets.host!.hasReprofiled, false, 'with nothing timed anew');
  t.same(complaints, []);
});
