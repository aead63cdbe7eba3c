/** The HTTP API: who is answered, how uploads and ranges behave, and what errors look like. */
import { createHash, randomBytes } from 'node:crypto';
import { readdirSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { BlobManifest } from '../../../configs/contracts/release.js';
import { validate } from '../../../configs/contracts/validate.js';
import { openConsole } from '../../../fleet-console/server/serve.js';
import { consoleSettings, makeRelease, startConsole } from '../../support/console.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const hex = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex');
const octets = { 'content-type': 'application/octet-stream' };

/** A request with headers that fetch would not send. */
function raw(url: string, headers: Record<string, string>): Promise<number> {
  return new Promise((resolve, reject) => {
    const asked = request(url, { headers }, (response) => {
      response.resume();
      resolve(response.statusCode!);
    });
    asked.on('error', reject);
    asked.end();
  });
}

t.test('a model comes back as it went up, whole and in any range, with the digests of its chunks', async (t) => {
  const random = new Random(seed);
  const console = await startConsole(t.testdir());
  const bytes = randomBytes(2 * 2 ** 20 + 12_345);
  const url = `${console.url}/v1/artifacts/${hex(bytes)}`;
  const put = await fetch(url, { method: 'PUT', headers: octets, body: bytes });
  t.equal(put.status, 200);
  const ref = (await put.json()) as { manifestSha256: string; sizeBytes: number };
  const manifestText = await (await fetch(`${url}/manifest`)).text();
  t.equal(hex(manifestText), ref.manifestSha256);
  const manifest = validate(BlobManifest, JSON.parse(manifestText), 'document/invalid', 'manifest');
  manifest.chunks.forEach((digest, index) => {
    t.equal(digest, hex(bytes.subarray(index * manifest.chunkBytes, (index + 1) * manifest.chunkBytes)));
  });
  t.equal(hex(Buffer.from(await (await fetch(url)).arrayBuffer())), hex(bytes));
  for (let round = 0; round < 30; round++) {
    const from = random.below(bytes.length);
    const to = from + random.below(bytes.length - from);
    const answer = await fetch(url, { headers: { range: `bytes=${from}-${to}`, 'if-range': `"${hex(bytes)}"` } });
    t.equal(answer.status, 206);
    t.equal(answer.headers.get('content-range'), `bytes ${from}-${to}/${bytes.length}`);
    t.ok(Buffer.from(await answer.arrayBuffer()).equals(bytes.subarray(from, to + 1)));
  }
  const end = await fetch(url, { headers: { range: 'bytes=-10' } });
  t.ok(Buffer.from(await end.arrayBuffer()).equals(bytes.subarray(-10)));
  t.equal((await fetch(url, { headers: { range: `bytes=${bytes.length}-` } })).status, 416);
  t.equal(
    (await fetch(url, { headers: { range: 'bytes=0-5', 'if-range': '"other"' } })).status,
    200,
    'another version: the whole',
  );
  t.equal((await fetch(`${console.url}/v1/artifacts/${'0'.repeat(64)}`)).status, 404);
  t.equal((await fetch(`${console.url}/v1/artifacts/..%2f..%2fetc`)).status, 400);
  await console.close();
});

t.test('an upload that is not what it says, is too long, empty or cut off leaves nothing', async (t) => {
  const folder = t.testdir();
  const console = await startConsole(folder, { http: { mostUploadBytes: 1000 } });
  const put = (sha: string, body: Uint8Array) =>
    fetch(`${console.url}/v1/artifacts/${sha}`, { method: 'PUT', headers: octets, body });
  t.equal((await put('1'.repeat(64), Buffer.from('abc'))).status, 422);
  t.ok((await put(hex(Buffer.alloc(2000)), Buffer.alloc(2000))).status >= 413);
  t.equal((await put(hex(''), Buffer.alloc(0))).status, 422);
  await new Promise<void>((resolve) => {
    const asked = request(`${console.url}/v1/artifacts/${'2'.repeat(64)}`, {
      method: 'PUT',
      headers: { ...octets, 'content-length': '900' },
    });
    asked.on('error', () => resolve());
    asked.on('close', () => resolve());
    asked.write(Buffer.alloc(100), () => asked.destroy());
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  t.same(readdirSync(join(folder, 'fleet', 'artifacts')), []);
  await t.rejects(
    console.client.send('POST', '/v1/releases', { id: 'a@1', model: { sha256: '3'.repeat(64) }, card: null }),
    {
      code: 'upload/invalid',
    },
  );
  await console.close();
});

t.test('a release never changes', async (t) => {
  const console = await startConsole(t.testdir());
  const first = await makeRelease(console, 'a@1', 'one');
  t.same(await makeRelease(console, 'a@1', 'one'), first, 'the same again is no change');
  await t.rejects(makeRelease(console, 'a@1', 'two'), { code: 'release/exists' });
  await console.close();
});

t.test('errors are problems with a code, a subject and a hint, and no stack', async (t) => {
  const console = await startConsole(t.testdir());
  const cases: [string, string, unknown, number, string][] = [
    ['GET', '/v1/devices/nobody', undefined, 404, 'device/unknown'],
    ['GET', '/v1/devices?selector=what', undefined, 400, 'selector/invalid'],
    ['GET', '/v1/devices?limit=0', undefined, 400, 'usage/invalid'],
    ['GET', '/nothing', undefined, 404, 'usage/invalid'],
    ['POST', '/v1/assignments', { selector: 'all', release: 'no@1' }, 404, 'release/unknown'],
    ['POST', '/v1/assignments', { selector: 'all' }, 400, 'usage/invalid'],
    ['PUT', '/v1/budgets', { selector: 'all', budget: { latencyMs: 1, latencyRatio: 1 } }, 400, 'budget/invalid'],
    ['PUT', '/v1/budgets', { selector: 'all', budget: { latencyMs: -1 } }, 400, 'usage/invalid'],
    ['PUT', '/v1/budgets', { selector: 'all', budget: { unknown: 1 } }, 400, 'usage/invalid'],
  ];
  for (const [method, path, body, status, code] of cases) {
    const headers: Record<string, string> = body === undefined ? {} : { 'content-type': 'application/json' };
    const answer = await fetch(`${console.url}${path}`, {
      method,
      headers,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    t.equal(answer.status, status, `${method} ${path}`);
    t.match(answer.headers.get('content-type'), /^application\/problem\+json/);
    t.equal((JSON.parse(text) as { code: string }).code, code, `${method} ${path}`);
    t.notMatch(text, /\bat .*\.(js|ts)/);
  }
  await console.close();
});

t.test('without a token only loopback names are answered, and no other address is served', async (t) => {
  const console = await startConsole(t.testdir());
  t.equal(await raw(`${console.url}/v1/devices`, { host: 'evil.example' }), 421);
  t.equal(await raw(`${console.url}/v1/devices`, { host: 'localhost:1234' }), 200);
  t.equal(await raw(`${console.url}/livez`, { host: 'evil.example' }), 200);
  await console.close();
  for (const host of ['0.0.0.0', '::', '192.168.1.1']) {
    const surroundings = { version: '0', stateFolder: t.testdir(), warn: () => {} };
    await t.rejects(
      openConsole(consoleSettings({ http: { host } }), surroundings),
      { code: 'settings/insecure' },
      host,
    );
  }
});

t.test('with a token, everything but health needs it; a short one is refused', async (t) => {
  const folder = t.testdir();
  const tokenFile = join(folder, 'token');
  writeFileSync(tokenFile, 'a-token that:is-long-enough\n');
  const console = await startConsole(folder, { http: { tokenFile } });
  const status = async (path: string, headers: Record<string, string> = {}) =>
    (await fetch(`${console.url}${path}`, { headers })).status;
  t.equal(await status('/v1/devices'), 401);
  t.equal(await status('/v1/devices', { authorization: 'Bearer wrong' }), 401);
  t.equal(await status('/'), 401);
  t.equal(await status('/v1/devices', { authorization: 'Bearer a-token that:is-long-enough' }), 200);
  t.equal(await status('/livez'), 200);
  const basic = (text: string) => ({ authorization: `Basic ${Buffer.from(text).toString('base64')}` });
  t.equal(await status('/', basic('anybody:a-token that:is-long-enough')), 200, 'as browsers ask for it');
  t.equal(await status('/', basic('a-token that:is-long-enough:')), 401);
  t.equal(await status('/', { authorization: 'Basic' }), 401);
  t.match((await fetch(console.url)).headers.get('www-authenticate'), /Basic realm=/);
  await console.close();
  writeFileSync(tokenFile, 'short');
  await t.rejects(startConsole(folder, { http: { tokenFile } }), { code: 'settings/insecure' });
});

t.test('the page of another site cannot make a browser here change anything', async (t) => {
  const console = await startConsole(t.testdir());
  const post = async (headers: Record<string, string>) =>
    (await fetch(`${console.url}/v1/devices/nobody/adopt`, { method: 'POST', headers })).status;
  t.equal(await post({ origin: 'https://evil.example' }), 403);
  t.equal(await post({ origin: 'null' }), 403);
  t.equal(await post({ origin: 'http://127.0.0.1:1' }), 403, 'another port is another site');
  t.equal(await post({ origin: console.url }), 404);
  t.equal(await post({}), 404, 'programs say nothing of the kind');
  await console.close();
});

t.test('what is no stream of bytes is not taken as a model, at whatever length', async (t) => {
  const console = await startConsole(t.testdir());
  for (const type of ['application/json', 'text/plain', 'multipart/form-data']) {
    const answer = await fetch(`${console.url}/v1/artifacts/${'1'.repeat(64)}`, {
      method: 'PUT',
      headers: { 'content-type': type },
      body: `"${'x'.repeat(2 ** 21)}"`,
    });
    t.equal(answer.status, 415, type);
  }
  await console.close();
});

t.test('streams whose reader is gone before they begin are not counted as open', async (t) => {
  const console = await startConsole(t.testdir());
  for (let round = 0; round < 300; round++) {
    const abort = new AbortController();
    const asked = fetch(`${console.url}/v1/events`, { signal: abort.signal }).catch(() => {});
    setTimeout(() => abort.abort(), round % 8);
    await asked;
    abort.abort();
  }
  await sleep(200);
  const abort = new AbortController();
  t.equal((await fetch(`${console.url}/v1/events`, { signal: abort.signal })).status, 200);
  abort.abort();
  await console.close();
});

t.test('the API describes itself, tells its health and its numbers', async (t) => {
  const console = await startConsole(t.testdir());
  const openapi = await console.client.get<{ openapi: string; paths: Record<string, unknown> }>('/openapi.json');
  t.equal(openapi.openapi, '3.1.0');
  for (const path of [
    '/v1/devices',
    '/v1/releases',
    '/v1/budgets',
    '/v1/rollouts/{id}/pause',
    '/v1/artifacts/{sha256}',
  ])
    t.ok(openapi.paths[path], path);
  for (let i = 0; i < 100 && (await fetch(`${console.url}/readyz`)).status !== 200; i++)
    await new Promise((r) => setTimeout(r, 20));
  t.equal((await fetch(`${console.url}/readyz`)).status, 200);
  const metrics = await (await fetch(`${console.url}/metrics`)).text();
  t.match(metrics, /fleet_devices\{state="known"\} 0/);
  t.match(metrics, /fleet_rollouts\{status="running"\} 0/);
  const page = await fetch(console.url);
  t.match(page.headers.get('content-security-policy'), /default-src 'self'/);
  t.match(await page.text(), /<title>Quantd fleet<\/title>/);
  await console.close();
});
