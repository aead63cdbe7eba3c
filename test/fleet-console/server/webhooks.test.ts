/** Webhooks against real HTTP servers that fail, hang, drop connections and lead elsewhere, and across kills of the console. */
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { AuditLog } from '../../../fleet-console/server/audit.js';
import { ConsoleDatabase } from '../../../fleet-console/server/database.js';
import { type WebhookOptions, Webhooks } from '../../../fleet-console/server/webhooks.js';
import { until } from '../../support/broker.js';
import { FakeDevice, makeRelease, startConsole } from '../../support/console.js';
import { ConsoleProcess } from '../../support/console-process.js';
import { ask } from '../../support/people.js';

const by = { name: 'ada', role: 'admin' } as const;
const backoff = { firstMs: 5, mostMs: 20 };

interface Message {
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly body: { id: string; kind: string; data: { n?: number; action?: string; type?: string } };
}

/** An endpoint that keeps what it is sent, and does with the n-th request what it is told to. */
class Endpoint {
  readonly messages: Message[] = [];
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async open(
    answer: (index: number) => number | 'hang' | 'drop' | RequestListener = () => 200,
    port = 0,
  ): Promise<Endpoint> {
    let requests = 0;
    const server = createServer(async (request, response) => {
      let text = '';
      for await (const piece of request.setEncoding('utf8')) text += piece;
      endpoint.messages.push({ headers: request.headers, text, body: JSON.parse(text) });
      const what = answer(requests++);
      if (what === 'drop') request.socket.destroy();
      else if (typeof what === 'function') what(request, response);
      else if (what !== 'hang') response.writeHead(what).end('x'.repeat(100_000));
    });
    const endpoint = new Endpoint(server);
    await once(server.listen(port, '127.0.0.1'), 'listening');
    return endpoint;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/hook?key=of-the-endpoint`;
  }

  get numbers(): number[] {
    return this.messages.map(({ body }) => body.data.n!);
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** Webhooks without a console around them. */
function open(options: Partial<WebhookOptions> = {}, path = ':memory:') {
  const database = new ConsoleDatabase(path);
  const webhooks: Webhooks = new Webhooks(database, new AuditLog(database, (...told) => webhooks.announce(...told)), {
    timeoutMs: 200,
    giveUpMs: 60_000,
    mostPending: 1000,
    backoff,
    warn: (text) => t.comment(text),
    ...options,
  });
  webhooks.start();
  return {
    webhooks,
    database,
    async close() {
      webhooks.stop();
      await sleep(20);
      database.close();
    },
  };
}

t.test('what is announced arrives once, in order, signed as anybody can check', async (t) => {
  const endpoint = await Endpoint.open();
  const { webhooks, database, close } = open();
  const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
  const hook = webhooks.add({ url: endpoint.url, events: ['result', 'result'], secret }, by);
  t.match(hook, { id: 1, secret, url: `http://127.0.0.1:${endpoint.port}/hook?...`, events: ['result'], pending: 0 });
  for (let n = 0; n < 50; n++) webhooks.announce('result', { n, text: 'ä€' });
  webhooks.announce('device', { n: 99 });
  t.throws(() =>
    database.write(() => {
      webhooks.announce('result', { n: 77 });
      throw new Error('what it tells of was not written');
    }),
  );
  await until(() => endpoint.messages.length === 50, 'all arrive');
  t.same(
    endpoint.numbers,
    Array.from({ length: 50 }, (_, n) => n),
  );
  t.equal(new Set(endpoint.messages.map(({ body }) => body.id)).size, 50);
  const key = Buffer.from('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'base64');
  for (const { headers, text, body } of endpoint.messages) {
    t.equal(headers['webhook-id'], body.id);
    t.ok(Math.abs(Number(headers['webhook-timestamp']) - Date.now() / 1000) < 30);
    const expected = createHmac('sha256', key)
      .update(`${body.id}.${headers['webhook-timestamp']}.${text}`)
      .digest('base64');
    t.equal(headers['webhook-signature'], `v1,${expected}`);
  }
  await until(() => webhooks.list()[0]!.pending === 0, 'nothing waits');
  t.match(webhooks.list(), [
    { delivered: 50, pending: 0, dropped: 0, givenUp: 0, lastAttempt: { isDelivered: true, status: 200, error: null } },
  ]);
  t.notMatch(JSON.stringify(webhooks.list()), /whsec|of-the-endpoint/);
  await close();
  await endpoint.close();
});

t.test('a clock that is set back prolongs no pause, and has nothing sent again and again', async (t) => {
  const now = Date.now;
  for (const days of [1 / 24, 30]) {
    const endpoint = await Endpoint.open((index) => (index < 3 ? 500 : 200));
    const { webhooks, close } = open({ backoff: { firstMs: 100, mostMs: 100 } });
    webhooks.add({ url: endpoint.url, events: ['result'] }, by);
    webhooks.announce('result', { n: 1 });
    await until(() => webhooks.list()[0]!.lastAttempt !== null, 'the first attempt has failed');
    const began = performance.now();
    try {
      Date.now = () => now() - days * 86_400_000;
      await until(() => webhooks.list()[0]!.delivered === 1, 'it is delivered', 5000);
    } finally {
      Date.now = now;
    }
    t.equal(endpoint.messages.length, 4);
    // Three pauses of at least half of 100 ms; the first may have begun a little before.
    t.ok(performance.now() - began > 100, 'pauses are kept');
    await close();
    await endpoint.close();
  }
});

t.test(
  'an endpoint that fails, hangs, drops the connection or leads elsewhere gets everything in the end',
  async (t) => {
    const elsewhere = await Endpoint.open();
    const faults = [
      500,
      'hang',
      'drop',
      404,
      ((_, response) => response.writeHead(302, { location: elsewhere.url }).end()) as RequestListener,
    ] as const;
    const endpoint = await Endpoint.open((index) => (index % 2 === 0 ? faults[(index / 2) % faults.length]! : 200));
    const { webhooks, close } = open();
    webhooks.add({ url: endpoint.url, events: ['device'] }, by);
    for (let n = 0; n < 12; n++) webhooks.announce('device', { n });
    await until(() => webhooks.list()[0]!.delivered === 12, 'all are taken');
    t.same(
      [...new Set(endpoint.numbers)].sort((a, b) => a - b),
      Array.from({ length: 12 }, (_, n) => n),
    );
    t.ok(endpoint.messages.length > 20, 'some came more than once, under the same id');
    t.equal(new Set(endpoint.messages.map(({ body }) => body.id)).size, 12);
    t.equal(elsewhere.messages.length, 0, 'no redirect is followed');
    await close();
    await endpoint.close();
    await elsewhere.close();
  },
);

t.test(
  'one message that an endpoint never takes does not hold up the others, and is given up after a stated time',
  async (t) => {
    const endpoint = await Endpoint.open(() => (request, response) => {
      const { n } = endpoint.messages.at(-1)!.body.data;
      response.writeHead(n === 0 ? 400 : 204).end();
      request.resume();
    });
    const { webhooks, close } = open({ giveUpMs: 400 });
    webhooks.add({ url: endpoint.url, events: ['device'] }, by);
    for (let n = 0; n < 5; n++) webhooks.announce('device', { n });
    await until(() => webhooks.list()[0]!.delivered === 4, 'the others are taken');
    t.equal(webhooks.list()[0]!.pending, 1);
    t.match(webhooks.list()[0]!.nextAttemptAt, /^20/);
    await until(() => webhooks.list()[0]!.givenUp === 1, 'it is given up');
    t.match(webhooks.list(), [
      { pending: 0, nextAttemptAt: null, lastAttempt: { isDelivered: false, status: 400, error: /status 400/ } },
    ]);
    t.ok(endpoint.numbers.filter((n) => n === 0).length > 5, 'it was tried again and again');
    await close();
    await endpoint.close();
  },
);

t.test('pauses grow, so that an endpoint that is away is not stormed', async (t) => {
  const times: number[] = [];
  const endpoint = await Endpoint.open(() => {
    times.push(performance.now());
    return 503;
  });
  const { webhooks, close } = open({ backoff: { firstMs: 20, mostMs: 160 } });
  webhooks.add({ url: endpoint.url, events: ['device'] }, by);
  for (let n = 0; n < 30; n++) webhooks.announce('device', { n });
  await sleep(900);
  // 20, 40, 80, 160, 160 ...; half of each is chance.
  t.ok(times.length >= 5 && times.length <= 15, `${times.length} attempts`);
  const gaps = times.slice(1).map((time, index) => time - times[index]!);
  t.ok(gaps[0]! >= 10 && gaps.at(-1)! >= 80, gaps.map(Math.round).join());
  t.match(webhooks.list(), [{ pending: 30, delivered: 0 }]);
  await close();
  await endpoint.close();
});

t.test('a pause that ends in the very moment in which it is looked at is not the last', async (t) => {
  const failures = 1000;
  const endpoint = await Endpoint.open((index) => (index < failures ? 500 : 200));
  const { webhooks, close } = open({ backoff: { firstMs: 1, mostMs: 2 } });
  webhooks.add({ url: endpoint.url, events: ['device'] }, by);
  webhooks.announce('device', { n: 0 });
  await until(() => webhooks.list()[0]!.delivered === 1, 'it is taken', 120_000);
  t.equal(endpoint.messages.length, failures + 1);
  await close();
  await endpoint.close();
});

t.test('what waits is bounded: the oldest is dropped and counted', async (t) => {
  const { webhooks, close } = open({ mostPending: 10, backoff: { firstMs: 60_000, mostMs: 60_000 } });
  webhooks.add({ url: 'http://127.0.0.1:9/', events: ['device'] }, by);
  for (let n = 0; n < 50; n++) webhooks.announce('device', { n });
  t.match(webhooks.list(), [{ pending: 10, dropped: 40 }]);
  await sleep(100);
  const counts = webhooks.counts();
  t.equal(counts.pending + counts.dropped + counts.delivered + counts.givenUp, 50);
  await close();
});

t.test('what is no address, or no secret worth the name, is refused; removed ones are told nothing', async (t) => {
  const endpoint = await Endpoint.open(() => 500);
  const { webhooks, close } = open();
  const add = (url: string, secret?: string) => webhooks.add({ url, events: ['device'], secret }, by);
  for (const url of ['ftp://a/b', 'file:///etc/passwd', 'nonsense', 'http://ada:secret@host/', 'javascript:alert(1)'])
    t.throws(() => add(url), { code: 'webhook/invalid' }, url);
  t.throws(() => add('http://a/', 'short'), { code: 'webhook/invalid' });
  t.throws(() => add('http://a/', 'whsec_AAAA'), { code: 'webhook/invalid' });
  const { id } = add(endpoint.url);
  webhooks.announce('device', { n: 1 });
  await until(() => endpoint.messages.length > 0, 'it is told');
  webhooks.remove(id, by);
  const before = endpoint.messages.length;
  webhooks.announce('device', { n: 2 });
  await sleep(200);
  t.ok(endpoint.messages.length <= before + 1);
  t.throws(() => webhooks.remove(id, by), { code: 'webhook/unknown' });
  for (let i = 0; i < 16; i++) add(`http://127.0.0.1:9/${i}`);
  t.throws(() => add('http://127.0.0.1:9/17'), { code: 'webhook/invalid' });
  await close();
  await endpoint.close();
});

t.test(
  'a console tells of device events, rollouts and the audit, and is not held up by an endpoint that hangs',
  async (t) => {
    const hanging = await Endpoint.open(() => 'hang');
    const endpoint = await Endpoint.open();
    const console = await startConsole(t.testdir());
    for (const { url } of [hanging, endpoint])
      t.equal(
        (await ask(console.url, 'POST', '/v1/webhooks', {}, { url, events: ['device', 'rollout', 'audit'] })).status,
        200,
      );
    const device = await FakeDevice.open(console.brokerUrl, 'd1');
    await until(async () => (await ask(console.url, 'GET', '/v1/devices/d1')).status === 200, 'it is known');
    await makeRelease(console, 'a@1', 'one');
    await device.say('event', {
      schema: 'quantd/event/1',
      device: 'd1',
      session: 1,
      sequence: 1,
      type: 'activated',
      target: 'host',
      message: 'a@1 is active',
      generation: 1,
      time: new Date(0).toISOString(),
    });
    const started = performance.now();
    t.equal((await ask(console.url, 'POST', '/v1/rollouts', {}, { release: 'a@1', selector: 'all' })).status, 200);
    t.ok(performance.now() - started < 1000);
    const has = (kind: string) => endpoint.messages.some(({ body }) => body.kind === kind);
    await until(() => has('device') && has('rollout') && has('audit'), 'it is told of everything');
    t.ok(endpoint.messages.some(({ body }) => body.data.action === 'rollout.start'));
    const test = await ask(console.url, 'POST', '/v1/webhooks/2/test');
    t.match(test.body, { isDelivered: true, status: 200, error: null });
    t.equal(endpoint.messages.filter(({ body }) => body.kind === 'test').length, 1);
    t.equal((await ask(console.url, 'POST', '/v1/webhooks/9/test')).status, 404);
    await device.close();
    await console.close();
    await hanging.close();
    await endpoint.close();
  },
);

t.test('what waits survives kills of the console', async (t) => {
  const endpoint = await Endpoint.open(() => 500);
  const { port } = endpoint;
  const console = await ConsoleProcess.open(join(t.testdir(), 'fleet'));
  t.equal((await ask(console.url, 'POST', '/v1/webhooks', {}, { url: endpoint.url, events: ['audit'] })).status, 200);
  const wanted = new Set<number>();
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 5; i++) {
      const latencyMs = 1 + round * 5 + i;
      t.equal(
        (await ask(console.url, 'PUT', '/v1/budgets', {}, { selector: 'all', budget: { latencyMs } })).status,
        200,
      );
      wanted.add(latencyMs);
    }
    await console.kill();
    await console.start();
  }
  await endpoint.close();
  const back = await Endpoint.open(() => 200, port);
  const told = () =>
    new Set(
      back.messages.map(
        ({ body }) => (body.data as { details?: { budget?: { latencyMs: number } } }).details?.budget?.latencyMs,
      ),
    );
  await until(() => [...wanted].every((latencyMs) => told().has(latencyMs)), 'every change is told of', 60_000);
  t.pass('at least once each');
  await console.stop();
  await back.close();
});
