/** Real daemons, one after the other on states of their own, that make a model of which every operator takes its time. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import t from 'tap';
import { encode } from '../../agent/core/onnx/codec.js';
import type { QuantizeDocument } from '../../agent/report.js';
import type { DeviceResult } from '../../configs/contracts/device.js';
import type { DeviceDocument } from '../../fleet-console/commands/devices.js';
import { until } from './broker.js';
import type { startConsole } from './console.js';
import { DaemonProcess, stateFolder } from './daemon-process.js';
import { imageCard, NetworkBuilder } from './networks.js';
import { announceSeed, Random } from './seed.js';

const seed = announceSeed();
const patience = 120_000;
const inputDims = [1, 3, 32, 32];

/** A console with its client. */
export type Console = Awaited<ReturnType<typeof startConsole>>;

/** A classifier of fourteen different convolutions, none of which takes next to nothing. */
function mediumModel(): Uint8Array {
  const builder = new NetworkBuilder(new Random(seed), inputDims);
  let last = 'x';
  for (let index = 0; index < 14; index++) {
    const out = 24 + 2 * index;
    last = builder.same(
      'Relu',
      builder.conv(last, { out, kernel: index % 3 === 1 ? 1 : 3, stride: index === 4 ? 2 : 1 }),
    );
  }
  return encode(builder.build([builder.gemm(builder.pooled(last), 5)]));
}

/** Releases it to all devices. */
export async function release(console: Console): Promise<void> {
  const body = mediumModel();
  const sha256 = createHash('sha256').update(body).digest('hex');
  const headers = { 'content-type': 'application/octet-stream' };
  const response = await fetch(`${console.url}/v1/artifacts/${sha256}`, { method: 'PUT', headers, body });
  if (!response.ok) throw new Error(await response.text());
  const card = { ...imageCard('classification', inputDims), preprocess: { scale: 1 / 255 } };
  await console.client.send('POST', '/v1/releases', { id: 'medium@1', model: { sha256 }, card });
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'medium@1' });
}

/** A device as the console shows it; null before it is known. */
export const stateOf = (console: Console, id: string) =>
  console.client.get<DeviceDocument>(`/v1/devices/${id}`).catch(() => null);

/** Runs a daemon on a new state until it has done what is wanted; answers its state, what it reported and its newest result. */
export async function made(
  console: Console,
  id: string,
  state = stateFolder(),
): Promise<{ state: string; document: QuantizeDocument; device: DeviceDocument }> {
  const daemon = new DaemonProcess(state, console, { QUANTD__DEVICE__ID: id, QUANTD__TARGET__KIND: 'ort' });
  const isDone = async () => {
    const device = await stateOf(console, id);
    const conditions = device?.reported?.conditions ?? [];
    const has = (type: string) =>
      conditions.some((condition) => condition.type === type && condition.status === 'true');
    return (
      device?.reported?.observedGeneration === device?.desired?.generation &&
      device?.reported?.targets.host?.step === null &&
      (has('Confirmed') || has('BudgetInfeasible'))
    );
  };
  await until(isDone, `${id} is done`, patience);
  const { generation } = (await stateOf(console, id))!.desired!;
  let result: DeviceResult | undefined;
  const isPublished = async () => {
    const { results } = await console.client.get<{ results: DeviceResult[] }>('/v1/results', { device: id });
    result = results.find((found) => found.generation === generation);
    return result !== undefined;
  };
  await until(isPublished, 'its result is there', patience);
  await until(
    async () => (await stateOf(console, id))!.reported!.outbox.messages === 0,
    'everything is sent',
    patience,
  );
  const device = (await stateOf(console, id))!;
  await daemon.stop();
  t.equal(daemon.stderr, '');
  return { state, document: result!.document as unknown as QuantizeDocument, device };
}

/** Latency rows in a device's state: all, and those that were taken from others. */
export function storedRows(state: string): { total: number; taken: number } {
  const database = new Database(join(state, 'quantd.db'), { readonly: true });
  try {
    return database.prepare('SELECT count(*) AS total, count(donor) AS taken FROM latency').get() as ReturnType<
      typeof storedRows
    >;
  } finally {
    database.close();
  }
}
