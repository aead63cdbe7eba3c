/** Asking for tables of other devices: what is sent, and what happens when nobody, or nobody honest, answers. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { HttpDonorTables } from '../../../agent/adapters/donor-tables.js';

const identity = 'a'.repeat(64);
const never = new AbortController().signal;
const row = {
  operatorKey: 'k',
  precision: 'float',
  minimum: 1,
  median: 2,
  spread: 0,
  repeats: 1,
  throttled: false,
  energyJoules: null,
  measuredAt: '',
};
const donor = { digest: 'b'.repeat(64), identity, devices: 2, rows: [row] };

async function serverThat(t: Test, answers: (request: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer(answers).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const tablesAt = (url: string, patienceMs = 5000) => new HttpDonorTables({ url, token: 'secret', seed: 1, patienceMs });

t.test('asks with its identity, its keys and its token, and takes a table that fits', async (t) => {
  let heard = '';
  let authorization: string | undefined;
  const url = await serverThat(t, (request, response) => {
    authorization = request.headers.authorization;
    request.on('data', (chunk) => {
      heard += chunk;
    });
    request.on('end', () => response.end(JSON.stringify({ donor, more: 1 })));
  });
  t.same(await tablesAt(url).offer(identity, ['k', 'l'], never), donor);
  t.same(JSON.parse(heard), { identity, operatorKeys: ['k', 'l'] });
  t.equal(authorization, 'Bearer secret');
});

t.test('whatever else comes counts as no table', async (t) => {
  const bodies: [number, string][] = [
    [200, JSON.stringify({ donor: null })],
    [200, JSON.stringify({ donor: { ...donor, identity: 'c'.repeat(64) } })],
    [200, JSON.stringify({ donor: { ...donor, devices: 0 } })],
    [200, JSON.stringify({ donor: { ...donor, rows: [{ ...row, median: -1 }] } })],
    [200, 'no JSON'],
    [200, `"${'x'.repeat(17 * 2 ** 20)}"`],
    [404, '{}'],
    [500, JSON.stringify({ donor })],
  ];
  for (const [status, body] of bodies) {
    const url = await serverThat(t, (_request, response) => response.writeHead(status).end(body));
    t.equal(await tablesAt(url).offer(identity, ['k'], never), null, `${status} ${body.slice(0, 60)}`);
  }
  const elsewhere = await serverThat(t, (_request, response) => response.end(JSON.stringify({ donor })));
  const redirecting = await serverThat(t, (_request, response) =>
    response.writeHead(307, { location: elsewhere }).end(),
  );
  t.equal(await tablesAt(redirecting).offer(identity, ['k'], never), null, 'the token is for the console alone');
});

t.test('nobody is waited for longer than a bound, and being stopped is told', async (t) => {
  const silent = await serverThat(t, () => {});
  const started = performance.now();
  t.equal(await tablesAt(silent, 200).offer(identity, ['k'], never), null);
  t.ok(performance.now() - started < 3000);
  t.equal(await tablesAt('http://127.0.0.1:1').offer(identity, ['k'], never), null, 'where nobody listens');
  const abort = new AbortController();
  setTimeout(() => abort.abort(new Error('enough')), 50);
  await t.rejects(tablesAt(silent).offer(identity, ['k'], abort.signal), /enough/);
});
