/** Downloads from a real HTTP server that cuts, corrupts, lies and stalls. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { HttpModelCache } from '../../../agent/adapters/model-cache.js';
import { type BlobManifest, type BlobRef, blobManifestPath, blobPath } from '../../../configs/contracts/release.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const never = new AbortController().signal;
const quiet = () => {};
const chunkBytes = 4096;
const hex = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex');

interface Blob {
  readonly bytes: Buffer;
  readonly manifest: string;
  readonly ref: BlobRef;
}

function blobOf(bytes: Buffer): Blob {
  const chunks: string[] = [];
  for (let at = 0; at < bytes.length; at += chunkBytes) chunks.push(hex(bytes.subarray(at, at + chunkBytes)));
  const manifest: BlobManifest = { sha256: hex(bytes), sizeBytes: bytes.length, chunkBytes, chunks };
  const text = JSON.stringify(manifest);
  return {
    bytes,
    manifest: text,
    ref: { sha256: manifest.sha256, sizeBytes: bytes.length, manifestSha256: hex(text) },
  };
}

const randomBlob = (random: Random, size: number) =>
  blobOf(Buffer.from(Uint8Array.from({ length: size }, () => random.below(256))));

/** Serves one blob. `meddle` may answer a range request in its own way; it answers whether it did. */
async function serve(
  blob: Blob,
  meddle: (from: number, to: number, response: ServerResponse, request: IncomingMessage) => boolean = () => false,
) {
  const served: [number, number][] = [];
  const server = createServer((request, response) => {
    if (request.url === blobManifestPath(blob.ref.sha256)) return response.end(blob.manifest);
    if (request.url !== blobPath(blob.ref.sha256)) return response.writeHead(404).end();
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [
      '',
      '0',
      String(blob.bytes.length - 1),
    ];
    const range = [Number(from), Number(to) + 1] as const;
    if (meddle(...range, response, request)) return undefined;
    served.push([...range]);
    response.writeHead(206, headersOf(blob, ...range));
    return response.end(blob.bytes.subarray(...range));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    served,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

function headersOf(blob: Blob, from: number, to: number) {
  return {
    'content-range': `bytes ${from}-${to - 1}/${blob.bytes.length}`,
    'content-length': to - from,
    etag: `"${blob.ref.sha256}"`,
  };
}

const cacheOf = (folder: string, url: string) =>
  new HttpModelCache(folder, { url, token: null, reserveBytes: 0, stallMs: 300, pauseMs: 5 });

t.test('a model is fetched whole, once', async (t) => {
  const blob = randomBlob(new Random(seed), 3 * chunkBytes + 17);
  const server = await serve(blob);
  const cache = cacheOf(join(t.testdir(), 'models'), server.url);
  const shares: number[] = [];
  t.equal(await cache.find(blob.ref.sha256), null);
  const path = await cache.fetch(blob.ref, never, (share) => shares.push(share));
  t.same(readFileSync(path), blob.bytes);
  t.same(shares, [0, 0.25, 0.5, 0.75, 1]);
  t.equal(await cache.fetch(blob.ref, never, quiet), path);
  t.equal(server.served.length, 1);
  server.close();
});

t.test('cut at 50 random offsets, no verified chunk is asked for again', async (t) => {
  const random = new Random(seed);
  for (let round = 0; round < 50; round++) {
    const blob = randomBlob(random, 1 + random.below(20 * chunkBytes));
    const cutAt = random.below(blob.bytes.length);
    const received = new Map<number, number>();
    let isCut = false;
    const server = await serve(blob, (from, to, response) => {
      const end = isCut ? to : Math.min(to, Math.max(from, cutAt));
      // Chunks that are sent whole can be verified by the device.
      for (let chunk = Math.ceil(from / chunkBytes); chunk * chunkBytes < end; chunk++) {
        const isWhole = Math.min((chunk + 1) * chunkBytes, blob.bytes.length) <= end;
        if (isWhole) received.set(chunk, (received.get(chunk) ?? 0) + 1);
      }
      response.writeHead(206, headersOf(blob, from, to));
      response.write(blob.bytes.subarray(from, end), () =>
        isCut ? response.end() : setTimeout(() => response.destroy(), 5),
      );
      isCut = true;
      return true;
    });
    const path = await cacheOf(t.testdir(), server.url).fetch(blob.ref, never, quiet);
    t.same(hex(readFileSync(path)), blob.ref.sha256);
    t.ok(Math.max(...received.values()) === 1, `round ${round}: cut at ${cutAt} of ${blob.bytes.length}`);
    server.close();
  }
});

t.test('killed at random moments, a download is resumed and ends right, with every verified chunk kept', async (t) => {
  const random = new Random(seed);
  const blob = randomBlob(random, 40 * chunkBytes);
  const sent: number[] = [];
  const server = await serve(blob, (from, to, response) => {
    response.writeHead(206, headersOf(blob, from, to));
    const next = async () => {
      for (let at = from; at < to && !response.destroyed; at += chunkBytes) {
        sent.push(at / chunkBytes);
        response.write(blob.bytes.subarray(at, Math.min(to, at + chunkBytes)));
        await sleep(4);
      }
      response.end();
    };
    void next();
    return true;
  });
  const folder = join(t.testdir(), 'models');
  const module = fileURLToPath(new URL('../../../agent/adapters/model-cache.js', import.meta.url));
  const program = `
    import { HttpModelCache } from ${JSON.stringify(module)};
    const cache = new HttpModelCache(${JSON.stringify(folder)}, { url: ${JSON.stringify(server.url)}, token: null, reserveBytes: 0 });
    await cache.fetch(${JSON.stringify(blob.ref)}, new AbortController().signal, (share) => process.stdout.write(share + '\\n'));`;
  let lives = 0;
  const path = join(folder, `${blob.ref.sha256}.onnx`);
  while (!existsSync(path)) {
    if (++lives > 40) return t.fail('it never ends');
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    child.stdout.on('data', () => {});
    await Promise.race([once(child, 'exit'), once(child.stdout, 'data').then(() => sleep(5 + random.below(60)))]);
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }
  t.equal(hex(readFileSync(path)), blob.ref.sha256);
  t.ok(lives >= 2, `${lives} lives`);
  // At each kill only what was under way is lost: a few chunks, not all.
  t.ok(sent.length < 40 + lives * 15, `${sent.length} chunks sent for 40`);
  server.close();
});

t.test('a chunk that comes wrong is fetched again; one that is always wrong never becomes a model', async (t) => {
  const blob = randomBlob(new Random(seed), 5 * chunkBytes);
  let wrong = 1;
  const server = await serve(blob, (from, to, response) => {
    if (wrong === 0 || from > 2 * chunkBytes || to <= 2 * chunkBytes) return false;
    wrong--;
    const bytes = Buffer.from(blob.bytes.subarray(from, to));
    bytes[2 * chunkBytes - from]! ^= 1;
    response.writeHead(206, headersOf(blob, from, to)).end(bytes);
    return true;
  });
  const folder = join(t.testdir(), 'a');
  t.same(readFileSync(await cacheOf(folder, server.url).fetch(blob.ref, never, quiet)), blob.bytes);
  wrong = Number.POSITIVE_INFINITY;
  const other = join(t.testdir(), 'b');
  await t.rejects(cacheOf(other, server.url).fetch(blob.ref, never, quiet), { code: 'download/mismatch' });
  t.same(readdirSync(other), [`${blob.ref.sha256}.part`]);
  t.equal(await cacheOf(other, server.url).find(blob.ref.sha256), null);
  wrong = 0;
  t.same(
    readFileSync(await cacheOf(other, server.url).fetch(blob.ref, never, quiet)),
    blob.bytes,
    'later it may come right',
  );
  server.close();
});

t.test('a manifest that lies, in whichever way, is refused', async (t) => {
  const random = new Random(seed);
  const good = randomBlob(random, 2 * chunkBytes);
  const other = randomBlob(random, 2 * chunkBytes);
  const lie = (changes: object, ref: Partial<BlobRef> = {}): Blob => {
    const manifest = JSON.stringify({ ...JSON.parse(good.manifest), ...changes });
    return { ...good, manifest, ref: { ...good.ref, manifestSha256: hex(manifest), ...ref } };
  };
  const lies: [string, Blob][] = [
    ['another manifest', { ...good, manifest: other.manifest }],
    ['another size', lie({ sizeBytes: 5 * chunkBytes })],
    ['too few chunks', lie({ chunks: [hex('')] })],
    ['another digest', lie({ sha256: other.ref.sha256 })],
    ['no JSON', { ...good, manifest: '{', ref: { ...good.ref, manifestSha256: hex('{') } }],
    ['absurd chunks', lie({ chunkBytes: 1, chunks: [] })],
    ['chunks of another model', lie({ chunks: JSON.parse(other.manifest).chunks })],
  ];
  for (const [what, blob] of lies) {
    const server = await serve(what === 'chunks of another model' ? { ...blob, bytes: other.bytes } : blob);
    const folder = join(t.testdir(), 'models');
    await t.rejects(cacheOf(folder, server.url).fetch(blob.ref, never, quiet), { code: 'download/mismatch' }, what);
    t.equal(await cacheOf(folder, server.url).find(blob.ref.sha256), null, what);
    server.close();
  }
});

t.test('servers that stall, end early, answer nonsense or send without end are given up', async (t) => {
  const blob = randomBlob(new Random(seed), 3 * chunkBytes);
  const behaviours: [string, (from: number, to: number, response: ServerResponse) => void][] = [
    ['says nothing', () => {}],
    [
      'stalls after the headers',
      (from, to, response) => response.writeHead(206, headersOf(blob, from, to)).flushHeaders(),
    ],
    ['answers 500', (_from, _to, response) => response.writeHead(500).end()],
    ['closes', (_from, _to, response) => response.destroy()],
    ['gives another range', (_from, _to, response) => response.writeHead(206, headersOf(blob, 1, 2)).end('x')],
    ['redirects', (_from, _to, response) => response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end()],
  ];
  for (const [what, behave] of behaviours) {
    const server = await serve(blob, (from, to, response) => {
      behave(from, to, response);
      return true;
    });
    await t.rejects(cacheOf(t.testdir(), server.url).fetch(blob.ref, never, quiet), { code: 'download/failed' }, what);
    server.close();
  }
  const endless = await serve(blob, (from, to, response) => {
    response.writeHead(206, { 'content-range': `bytes ${from}-${to - 1}/${blob.bytes.length}` });
    response.write(blob.bytes.subarray(from, to));
    const timer = setInterval(() => response.write(Buffer.alloc(65_536)), 1);
    response.on('close', () => clearInterval(timer));
    return true;
  });
  t.same(
    readFileSync(await cacheOf(t.testdir(), endless.url).fetch(blob.ref, never, quiet)),
    blob.bytes,
    'more than asked for',
  );
  endless.close();
});

t.test('a busy console is asked again when it said', async (t) => {
  const blob = randomBlob(new Random(seed), chunkBytes);
  let busy = 2;
  const server = await serve(blob, (_from, _to, response) => {
    if (busy-- <= 0) return false;
    response.writeHead(503, { 'retry-after': '0' }).end();
    return true;
  });
  t.same(readFileSync(await cacheOf(t.testdir(), server.url).fetch(blob.ref, never, quiet)), blob.bytes);
  server.close();
});

t.test('a download can be aborted, and leaves what it has', async (t) => {
  const blob = randomBlob(new Random(seed), 10 * chunkBytes);
  const server = await serve(blob, (from, to, response) => {
    response.writeHead(206, headersOf(blob, from, to));
    response.write(blob.bytes.subarray(from, from + 3 * chunkBytes));
    return true;
  });
  const abort = new AbortController();
  const folder = join(t.testdir(), 'models');
  const fetching = cacheOf(folder, server.url).fetch(blob.ref, abort.signal, (share) => {
    if (share >= 0.3) abort.abort();
  });
  await t.rejects(fetching, { name: 'AbortError' });
  t.equal(readFileSync(join(folder, `${blob.ref.sha256}.part`)).length, 3 * chunkBytes);
  server.close();
});

t.test('without space nothing is begun', async (t) => {
  const blob = randomBlob(new Random(seed), chunkBytes);
  const server = await serve(blob);
  const cache = new HttpModelCache(t.testdir(), { url: server.url, token: null, reserveBytes: 2 ** 60 });
  await t.rejects(cache.fetch(blob.ref, never, quiet), { code: 'disk/full' });
  t.equal(server.served.length, 0);
  server.close();
});

t.test('the token is sent, and other models are deleted on request', async (t) => {
  const blob = randomBlob(new Random(seed), chunkBytes);
  const seen: (string | undefined)[] = [];
  const server = await serve(blob, (_from, _to, _response, request) => {
    seen.push(request.headers.authorization);
    return false;
  });
  const folder = t.testdir();
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${'0'.repeat(64)}.onnx`), 'old');
  writeFileSync(join(folder, `${'1'.repeat(64)}.part`), 'old');
  const cache = new HttpModelCache(folder, { url: server.url, token: 'secret', reserveBytes: 0 });
  await cache.fetch(blob.ref, never, quiet);
  t.same(seen, ['Bearer secret']);
  await cache.retain(new Set([blob.ref.sha256]));
  t.same(readdirSync(folder), [`${blob.ref.sha256}.onnx`]);
  await t.rejects(cache.find('../../etc/passwd'), TypeError);
  server.close();
});
