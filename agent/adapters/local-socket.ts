import { chmod, mkdir, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { EdgeError, type ErrorCode } from '../../configs/contracts/errors.js';
import type { InferAnswer, InferRequest, SampleType } from '../device-ports.js';
import type { Feed } from '../ports.js';

/** What the socket offers to applications on this machine. */
export interface LocalService {
  /** Answers with the artifact that gave the answer. */
  infer(target: string, request: InferRequest): Promise<InferAnswer & { readonly key: string }>;
  addSample(target: string, type: SampleType, bytes: Uint8Array): Promise<void>;
  status(): Promise<unknown>;
  /** Calls back whenever another artifact becomes active; answers how to stop that. */
  onActive(listener: (change: { target: string; artifact: string }) => void): () => void;
  /** Metrics as text, in the Prometheus format. */
  metrics(): Promise<string>;
  /** Why this device is not ready to serve, or null. */
  unready(): Promise<string | null>;
  /** Told what went wrong here that the application cannot know. */
  warn(text: string): void;
}

/** Largest body of a request. */
const bodyBytes = 64 * 2 ** 20;
/** Outputs with more values than this are only given as bytes: as JSON they would hold up everybody else. */
const jsonValues = 65_536;
/** Event streams that may be open at once. */
const mostStreams = 64;
const heartbeatMs = 15_000;
/** How long closing waits for requests under way. */
const closeMs = 2000;

const sampleTypes: Readonly<Record<string, SampleType>> = {
  'image/jpeg': 'jpg',
  'image/png': 'png',
  'application/x-npy': 'npy',
};

const statusOf: Partial<Record<ErrorCode, number>> = {
  'infer/invalid': 422,
  'infer/unavailable': 503,
  'mcu/unreachable': 503,
  'mcu/timeout': 503,
  'samples/unreadable': 422,
  'samples/mismatch': 422,
  'target/unknown': 404,
  'usage/invalid': 400,
  'disk/full': 507,
};

/**
 * HTTP on a Unix domain socket, for applications on the device. Only the daemon's user and group may connect.
 *
 *   POST /v1/infer[?target=host]    the model's input as float32 (application/octet-stream), or a sample file (image/jpeg,
 *                                   image/png, application/x-npy); answers JSON, or with Accept: application/octet-stream the
 *                                   outputs one after the other, described by the header quantd-outputs
 *   POST /v1/samples[?target=host]  a sample file, to calibrate and verify with; it never leaves the device
 *   GET  /v1/status                 the reported document
 *   GET  /v1/events                 server-sent events: `active` when another artifact serves
 *   GET  /livez /readyz /metrics
 */
export class LocalSocket {
  readonly #path: string;
  readonly #service: LocalService;
  readonly #server: Server;
  readonly #streams = new Set<ServerResponse>();
  #stopListening: () => void = () => {};

  constructor(path: string, service: LocalService) {
    this.#path = path;
    this.#service = service;
    this.#server = createServer((request, response) => {
      this.#handle(request, response).catch((error: unknown) => {
        const isOurFault = !(error instanceof EdgeError) && !response.destroyed;
        if (isOurFault) {
          const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
          service.warn(`${request.method} ${request.url?.slice(0, 200)}: ${detail}`);
        }
        answerError(response, error);
      });
    });
    this.#server.requestTimeout = 60_000;
    this.#server.maxConnections = 256;
  }

  /** Fails with `socket/busy` when another daemon answers there; a socket that nobody answers on is replaced. */
  async listen(): Promise<void> {
    if (await isAnswered(this.#path)) {
      throw new EdgeError('socket/busy', 'another daemon answers on this socket', { subject: this.#path });
    }
    try {
      await mkdir(dirname(this.#path), { recursive: true });
      await rm(this.#path, { force: true });
      await new Promise<void>((resolve, reject) => {
        this.#server.once('error', reject);
        this.#server.listen(this.#path, resolve);
      });
      await chmod(this.#path, 0o660);
    } catch (cause) {
      const { message } = cause as Error;
      throw new EdgeError('socket/unusable', `the local socket cannot be opened: ${message}`, {
        subject: this.#path,
        cause,
      });
    }
    this.#stopListening = this.#service.onActive((change) => {
      for (const stream of this.#streams) stream.write(`event: active\ndata: ${JSON.stringify(change)}\n\n`);
    });
  }

  async close(): Promise<void> {
    this.#stopListening();
    for (const stream of this.#streams) stream.end();
    await new Promise<void>((resolve) => {
      // Who has begun a request gets its answer, if it does not take too long to send it.
      const timer = setTimeout(() => this.#server.closeAllConnections(), closeMs);
      this.#server.close(() => {
        clearTimeout(timer);
        resolve();
      });
      this.#server.closeIdleConnections();
    });
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = addressOf(request);
    const target = url.searchParams.get('target') ?? 'host';
    switch (`${request.method} ${url.pathname}`) {
      case 'POST /v1/infer':
        return this.#infer(target, request, response);
      case 'POST /v1/samples': {
        const type = sampleTypeOf(request);
        if (type === undefined) throw wrongType(request, Object.keys(sampleTypes));
        await this.#service.addSample(target, type, await bodyOf(request));
        response.writeHead(204).end();
        return;
      }
      case 'GET /v1/status':
        return answerJson(response, 200, await this.#service.status());
      case 'GET /v1/events':
        return this.#stream(response);
      case 'GET /livez':
        return answerJson(response, 200, { live: true });
      case 'GET /readyz': {
        const why = await this.#service.unready();
        return answerJson(response, why === null ? 200 : 503, { ready: why === null, why });
      }
      case 'GET /metrics':
        response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(await this.#service.metrics());
        return;
      default:
        answerJson(response, 404, {
          error: { code: 'usage/invalid', message: `there is no ${request.method} ${url.pathname}` },
        });
    }
  }

  async #infer(target: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const type = sampleTypeOf(request);
    const isTensor = mediaType(request) === 'application/octet-stream';
    if (type === undefined && !isTensor)
      throw wrongType(request, ['application/octet-stream', ...Object.keys(sampleTypes)]);
    const bytes = await bodyOf(request);
    if (isTensor && bytes.length % 4 !== 0) {
      throw new EdgeError('infer/invalid', `${bytes.length} bytes are no float32 values`, { subject: 'input' });
    }
    const { outputs, key, latencyMs } = await this.#service.infer(
      target,
      type === undefined ? { kind: 'tensor', data: floatsOf(bytes) } : { kind: 'file', type, bytes },
    );
    if (request.headers.accept === 'application/octet-stream') {
      const described = [...outputs].map(([name, { dims, data }]) => ({ name, dims, type: typeName(data) }));
      response.writeHead(200, {
        'content-type': 'application/octet-stream',
        'quantd-artifact': key,
        ...(Number.isNaN(latencyMs) ? {} : { 'quantd-latency-ms': latencyMs.toFixed(4) }),
        'quantd-outputs': JSON.stringify(described),
      });
      response.end(
        Buffer.concat(
          [...outputs.values()].map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)),
        ),
      );
      return;
    }
    const values = [...outputs.values()].reduce((sum, { data }) => sum + data.length, 0);
    if (values > jsonValues) {
      throw new EdgeError('infer/invalid', `the outputs have ${values} values, too many for JSON`, {
        subject: 'accept',
        hint: 'Ask with the header Accept: application/octet-stream.',
      });
    }
    const plain = [...outputs].map(([name, { dims, data }]) => [name, { dims, data: Array.from(data, Number) }]);
    answerJson(response, 200, { artifact: key, latencyMs, outputs: Object.fromEntries(plain) });
  }

  #stream(response: ServerResponse): void {
    if (this.#streams.size >= mostStreams) {
      answerJson(response, 503, { error: { code: 'infer/unavailable', message: 'too many event streams are open' } });
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    response.write(': connected\n\n');
    const heartbeat = setInterval(() => response.write(': alive\n\n'), heartbeatMs);
    heartbeat.unref();
    this.#streams.add(response);
    response.on('close', () => {
      clearInterval(heartbeat);
      this.#streams.delete(response);
    });
  }
}

/** Fails with `usage/invalid`. */
function addressOf({ url = '/' }: IncomingMessage): URL {
  try {
    return new URL(url, 'http://localhost');
  } catch (cause) {
    throw new EdgeError('usage/invalid', 'the path of the request is not valid', { subject: url.slice(0, 200), cause });
  }
}

/** Whether somebody accepts connections on the socket. */
function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const end = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.once('connect', () => end(true));
    socket.once('error', () => end(false));
  });
}

async function bodyOf(request: IncomingMessage): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > bodyBytes)
      throw new EdgeError('infer/invalid', 'the body is too large', { subject: `${bodyBytes} bytes` });
    chunks.push(chunk);
  }
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
}

function floatsOf(bytes: Uint8Array): Float32Array {
  const isAligned = bytes.byteOffset % 4 === 0;
  const own = isAligned ? bytes : Uint8Array.from(bytes);
  return new Float32Array(own.buffer, own.byteOffset, own.byteLength / 4);
}

function typeName(data: Feed['data']): string {
  return data.constructor.name.replace('Array', '').toLowerCase();
}

function mediaType(request: IncomingMessage): string {
  return (request.headers['content-type'] ?? '').split(';')[0]!.trim().toLowerCase();
}

function sampleTypeOf(request: IncomingMessage): SampleType | undefined {
  const type = mediaType(request);
  return Object.hasOwn(sampleTypes, type) ? sampleTypes[type] : undefined;
}

function wrongType(request: IncomingMessage, allowed: readonly string[]): EdgeError {
  return new EdgeError('usage/invalid', `content type "${mediaType(request)}" is not taken here`, {
    subject: 'content-type',
    hint: `Send one of ${allowed.join(', ')}.`,
  });
}

function answerJson(response: ServerResponse, status: number, document: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(document));
}

function answerError(response: ServerResponse, error: unknown): void {
  // What was begun cannot be taken back; who is gone cannot be told.
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  if (error instanceof EdgeError) answerJson(response, statusOf[error.code] ?? 500, { error: error.toDocument() });
  else answerJson(response, 500, { error: { code: 'internal', message: 'a fault of quantd; the journal has more' } });
}
