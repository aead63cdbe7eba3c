/** Applications on the socket, with real runner processes behind it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import t from 'tap';
import { LocalSocket } from '../../../agent/adapters/local-socket.js';
import { RunnerProcesses } from '../../../agent/adapters/runner-process.js';
import { Serving } from '../../../agent/daemon/serving.js';
import type { InferRequest, SampleType } from '../../../agent/device-ports.js';
import { EdgeError } from '../../../configs/contracts/errors.js';
import { inputDims, inputSize, smallModel, writeArtifact } from '../../support/artifacts.js';
import { feed, run } from '../../support/ort.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const never = new AbortController().signal;
const log = { info: () => {}, warn: () => {} };

interface Answer {
  readonly status: number;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly body: Buffer;
  readonly json: () => {
    artifact: string;
    outputs: Record<string, { dims: number[]; data: number[] }>;
    error: { code: string };
  };
}

/** A folder whose name is short enough for a socket in it. */
const folder = mkdtempSync(join(tmpdir(), 'ql-'));
const socketPath = join(folder, 's');
const host = new RunnerProcesses(1);
const serving = new Serving(host, log);
const frames: { target: string; type: SampleType; bytes: Uint8Array }[] = [];
const listeners = new Set<(change: { target: string; artifact: string }) => void>();
let unready: string | null = 'nothing is active';
const warnings: string[] = [];
const socket = new LocalSocket(socketPath, {
  async infer(target, request: InferRequest) {
    if (target !== 'host') throw new EdgeError('target/unknown', 'no such target', { subject: target });
    const answer = await serving.infer(request, never);
    if (answer === null) throw new EdgeError('infer/unavailable', 'nothing is active', { subject: target });
    return answer;
  },
  addSample: async (target, type, bytes) => {
    frames.push({ target, type, bytes });
  },
  status: async () => ({ schema: 'quantd/reported/1' }),
  onActive: (listener) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
  metrics: async () => 'quantd_up 1\n',
  unready: async () => unready,
  warn: (text) => warnings.push(text),
});

function ask(method: string, path: string, body?: Uint8Array, headers: Record<string, string> = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath, method, path, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const whole = Buffer.concat(chunks);
        const json = () => JSON.parse(whole.toString('utf8'));
        resolve({ status: response.statusCode!, headers: response.headers, body: whole, json });
      });
    });
    request.on('error', reject);
    request.end(body);
  });
}

const tensor = { 'content-type': 'application/octet-stream' };
const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

async function serve(name: string, modelSeed: number): Promise<string> {
  const path = writeArtifact(folder, name, smallModel(modelSeed));
  serving.switchTo(name, path, await host.open(path, never));
  return path;
}

t.before(() => socket.listen());
t.teardown(async () => {
  await socket.close();
  await serving.stop();
  rmSync(folder, { recursive: true, force: true });
});

t.test('before any model is active, a request is answered with what to do', async (t) => {
  const answer = await ask('POST', '/v1/infer', new Uint8Array(4), tensor);
  t.equal(answer.status, 503);
  t.equal(answer.json().error.code, 'infer/unavailable');
  t.equal((await ask('GET', '/livez')).status, 200);
  t.equal((await ask('GET', '/readyz')).status, 503);
  unready = null;
  t.equal((await ask('GET', '/readyz')).status, 200);
});

t.test('a tensor is answered as ONNX Runtime answers it, as JSON and as bytes', async (t) => {
  await serve('first', 1);
  const input = new Random(seed).floats(inputSize);
  const expected = [...(await run(smallModel(1), feed('x', inputDims, input), 'all'))][0]!;
  const answer = await ask('POST', '/v1/infer', bytesOf(input), tensor);
  t.equal(answer.status, 200);
  t.equal(answer.json().artifact, 'first');
  t.same(answer.json().outputs[expected[0]]!.data, Array.from(expected[1].data));
  const raw = await ask('POST', '/v1/infer', bytesOf(input), { ...tensor, accept: 'application/octet-stream' });
  t.same(JSON.parse(String(raw.headers['quantd-outputs'])), [{ name: expected[0], dims: [1, 4], type: 'float32' }]);
  t.same(new Uint8Array(raw.body), bytesOf(expected[1].data));
});

t.test('an image is decoded and prepared as the card says', async (t) => {
  const pixels = Uint8Array.from({ length: inputSize }, (_, index) => (index * 37) % 256);
  const png = await sharp(pixels, { raw: { width: 8, height: 8, channels: 3 } })
    .png()
    .toBuffer();
  const planar = Float32Array.from({ length: inputSize }, (_, index) => {
    const [channel, pixel] = [Math.floor(index / 64), index % 64];
    return pixels[pixel * 3 + channel]! / 255;
  });
  const expected = [...(await run(smallModel(1), feed('x', inputDims, planar), 'all'))][0]![1].data;
  const { outputs } = (await ask('POST', '/v1/infer', png, { 'content-type': 'image/png' })).json();
  Object.values(outputs)[0]!.data.forEach((value, index) => {
    t.ok(Math.abs(value - expected[index]!) < 1e-5, `${value} for ${expected[index]}`);
  });
});

t.test('what does not fit is refused with a code, and the model goes on answering', async (t) => {
  const cases: [string, string, Uint8Array, Record<string, string>, number, string][] = [
    ['too few values', '/v1/infer', new Uint8Array(16), tensor, 422, 'infer/invalid'],
    ['no whole number of floats', '/v1/infer', new Uint8Array(5), tensor, 422, 'infer/invalid'],
    ['no content type', '/v1/infer', new Uint8Array(4), {}, 400, 'usage/invalid'],
    ['a broken image', '/v1/infer', new Uint8Array(50), { 'content-type': 'image/png' }, 422, 'infer/invalid'],
    ['a broken array', '/v1/infer', new Uint8Array(50), { 'content-type': 'application/x-npy' }, 422, 'infer/invalid'],
    [
      'an inherited name as type',
      '/v1/samples',
      new Uint8Array(4),
      { 'content-type': 'constructor' },
      400,
      'usage/invalid',
    ],
    ['another target', '/v1/infer?target=mcu0', new Uint8Array(inputSize * 4), tensor, 404, 'target/unknown'],
    ['a path that is none', '//', new Uint8Array(4), tensor, 400, 'usage/invalid'],
    ['another path', '/v2/infer', new Uint8Array(4), tensor, 404, 'usage/invalid'],
  ];
  for (const [what, path, body, headers, status, code] of cases) {
    const answer = await ask('POST', path, body, headers);
    t.equal(answer.status, status, what);
    t.equal(answer.json().error.code, code, what);
    t.notMatch(answer.body.toString(), /\n\s+at /, 'no stack trace');
  }
  t.equal((await ask('POST', '/v1/infer', new Uint8Array(inputSize * 4), tensor)).status, 200);
});

t.test('noise instead of HTTP, and clients that vanish, leave it answering', async (t) => {
  const random = new Random(seed);
  for (let round = 0; round < 20; round++) {
    const client = connect(socketPath);
    client.on('error', () => {});
    const noise = Uint8Array.from({ length: 1 + random.below(200) }, () => random.below(256));
    client.write(
      random.below(2) === 0 ? noise : 'POST /v1/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 768\r\n\r\nabc',
    );
    await sleep(random.below(5));
    client.destroy();
  }
  t.equal((await ask('POST', '/v1/infer', new Uint8Array(inputSize * 4), tensor)).status, 200);
});

t.test('no request fails while models change, and every answer is of one of them', async (t) => {
  const input = new Random(seed).floats(inputSize);
  const counts = new Map<string, number>();
  let isOver = false;
  const client = async () => {
    while (!isOver) {
      const answer = await ask('POST', '/v1/infer', bytesOf(input), tensor);
      if (answer.status !== 200) t.fail(`status ${answer.status}: ${answer.body}`);
      const { artifact } = answer.json();
      counts.set(artifact, (counts.get(artifact) ?? 0) + 1);
    }
  };
  const clients = [client(), client(), client()];
  for (let round = 0; round < 4; round++) {
    await serve(`round-${round}`, round);
    await sleep(50);
  }
  isOver = true;
  await Promise.all(clients);
  t.ok(counts.size >= 4, `answers by ${[...counts.keys()].join(', ')}`);
  t.equal(serving.key, 'round-3');
});

t.test('a runner that is killed is started again by the next request', async (t) => {
  const { runner } = serving;
  const pid = (runner as unknown as { pid: number }).pid;
  process.kill(pid, 'SIGKILL');
  await runner!.ended;
  const answers = await Promise.all(
    Array.from({ length: 5 }, () => ask('POST', '/v1/infer', new Uint8Array(inputSize * 4), tensor)),
  );
  t.same(
    answers.map(({ status }) => status),
    [200, 200, 200, 200, 200],
  );
  t.not((serving.runner as unknown as { pid: number }).pid, pid);
});

t.test('a stop that reaches every process of a unit is left to the daemon: the model goes on answering', async (t) => {
  const { pid } = serving.runner as unknown as { pid: number };
  process.kill(pid, 'SIGTERM');
  await sleep(100);
  t.equal((await ask('POST', '/v1/infer', new Uint8Array(inputSize * 4), tensor)).status, 200);
  t.equal((serving.runner as unknown as { pid: number }).pid, pid);
});

t.test('the time that a request waits for others does not count against the model', async (t) => {
  const path = writeArtifact(folder, 'patient', smallModel(1));
  // Far longer than one answer takes, and soon reached by a queue of them.
  const limitMs = 400;
  const runner = await new RunnerProcesses(1, limitMs).open(path, never);
  const request: InferRequest = { kind: 'tensor', data: new Float32Array(inputSize) };
  let longestMs = 0;
  const one = async () => {
    const started = performance.now();
    await runner.infer(request);
    longestMs = Math.max(longestMs, performance.now() - started);
  };
  const waiting: Promise<void>[] = [];
  // Asked faster than answered, until the last have waited longer than one may take.
  while (longestMs < 1.2 * limitMs && waiting.length < 200_000) {
    for (let i = 0; i < 100; i++) waiting.push(one());
    await nextTurn();
  }
  await Promise.all(waiting);
  t.ok(longestMs > limitMs, `${waiting.length} requests, the longest wait ${longestMs.toFixed()} ms`);
  process.kill((runner as unknown as { pid: number }).pid, 'SIGSTOP');
  await t.rejects(runner.infer(request), { code: 'target/failed' }, 'but a model that does not answer is given up');
  await runner.ended;
});

t.test('a fault of our own is told to the journal, and only that it was one to the application', async (t) => {
  const broken = new LocalSocket(join(folder, 'b'), {
    onActive: () => () => {},
    status: async () => {
      throw new Error('a detail');
    },
    warn: (text: string) => warnings.push(text),
  } as never);
  await broken.listen();
  const answer = await new Promise<string>((resolve) => {
    httpRequest({ socketPath: join(folder, 'b'), path: '/v1/status' }, (response) => {
      response.setEncoding('utf8').on('data', resolve);
    }).end();
  });
  t.notMatch(answer, /a detail/);
  t.match(warnings.join(), /GET \/v1\/status: Error: a detail/);
  const half = connect(join(folder, 'b'));
  half.on('error', () => {});
  half.write('POST /v1/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 768\r\n\r\nabc');
  await sleep(50);
  const started = performance.now();
  await broken.close();
  t.ok(performance.now() - started < 10_000, 'closing does not wait for who never ends a request');
});

t.test('frames are handed over as they are', async (t) => {
  const bytes = Uint8Array.of(0xff, 0xd8, 0xff, 1, 2, 3);
  t.equal((await ask('POST', '/v1/samples', bytes, { 'content-type': 'image/jpeg' })).status, 204);
  t.same(
    frames.map(({ target, type, bytes: own }) => [target, type, new Uint8Array(own)]),
    [['host', 'jpg', bytes]],
  );
});

t.test('an event stream tells when another model serves', async (t) => {
  const client = connect(socketPath);
  t.teardown(() => client.destroy());
  client.write('GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n');
  let text = '';
  client.on('data', (chunk) => (text += chunk));
  while (!text.includes('connected')) await sleep(5);
  for (const listener of listeners) listener({ target: 'host', artifact: 'abc' });
  while (!text.includes('abc')) await sleep(5);
  t.match(text, /event: active\ndata: {"target":"host","artifact":"abc"}/);
});

t.test('a second daemon on the same socket is refused; a socket left behind is taken over', async (t) => {
  const other = new LocalSocket(socketPath, {} as never);
  await t.rejects(other.listen(), { code: 'socket/busy' });
  t.equal((await ask('GET', '/livez')).status, 200);
});

t.test('an artifact that cannot be loaded is an error, not a hang', async (t) => {
  await t.rejects(host.open(writeArtifact(folder, 'broken', new Uint8Array(100)), never), { code: 'target/failed' });
  await t.rejects(host.open(join(folder, 'absent'), never), { code: 'target/failed' });
});
