import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { EdgeError, type ErrorCode, errorTable } from '../configs/contracts/errors.js';

/** How to reach a console. */
export interface ConsoleAddress {
  readonly url: string;
  /** File with the token; absent: none. */
  readonly tokenFile?: string | undefined;
  /** The token itself, where there is no file. */
  readonly token?: string | undefined;
}

/** The HTTP API of a console, from a terminal. Fails with `console/unreachable`, or with the error that the console answers. */
export class ConsoleClient {
  readonly #url: string;
  /** Headers that say who asks. */
  readonly #identity: Readonly<Record<string, string>>;

  private constructor(url: string, identity: Readonly<Record<string, string>>) {
    this.#url = url;
    this.#identity = identity;
  }

  static async open({ url, tokenFile, token }: ConsoleAddress): Promise<ConsoleClient> {
    const bearer = (secret: string) => new ConsoleClient(url, { authorization: `Bearer ${secret.trim()}` });
    if (tokenFile === undefined) return token === undefined ? new ConsoleClient(url, {}) : bearer(token);
    const text = await readFile(tokenFile, 'utf8').catch((cause: Error) => {
      throw new EdgeError('usage/invalid', `the token cannot be read: ${cause.message}`, { subject: tokenFile, cause });
    });
    return bearer(text);
  }

  /** The same console as somebody who has logged in; to be ended with `DELETE /v1/session`. */
  async login(name: string, password: string): Promise<ConsoleClient> {
    const response = await this.#send('POST', '/v1/session', { name, password });
    const [cookie = ''] = (response.headers.get('set-cookie') ?? '').split(';');
    return new ConsoleClient(this.#url, { cookie });
  }

  /** Asks for a document. */
  async get<T>(path: string, query: Readonly<Record<string, string | number | undefined>> = {}): Promise<T> {
    const url = new URL(path, this.#url);
    for (const [name, value] of Object.entries(query))
      if (value !== undefined) url.searchParams.set(name, String(value));
    return (await (await this.#fetch(url, {})).json()) as T;
  }

  /** Sends a document, answers one. */
  async send<T>(method: 'POST' | 'PUT' | 'PATCH' | 'DELETE', path: string, document?: unknown): Promise<T> {
    return (await (await this.#send(method, path, document)).json()) as T;
  }

  /** Uploads a file, unless the console has it; answers its digest. */
  async upload(path: string, progress: (share: number) => void): Promise<string> {
    const { size } = await stat(path).catch((cause: Error) => {
      throw new EdgeError('model/unreadable', `the model cannot be read: ${cause.message}`, { subject: path, cause });
    });
    const hash = createHash('sha256');
    for await (const bytes of createReadStream(path)) hash.update(bytes as Buffer);
    const sha256 = hash.digest('hex');
    const url = new URL(`/v1/artifacts/${sha256}`, this.#url);
    const known = await this.#fetch(url, { method: 'HEAD' }).then(
      () => true,
      (error: EdgeError) => {
        if (error.code === 'console/unreachable' || error.code === 'console/refused') throw error;
        return false;
      },
    );
    if (known) return sha256;
    let sent = 0;
    const body = Readable.from(
      (async function* () {
        for await (const bytes of createReadStream(path)) {
          sent += (bytes as Buffer).length;
          progress(sent / size);
          yield bytes;
        }
      })(),
    );
    const headers = { 'content-type': 'application/octet-stream', 'content-length': String(size) };
    await this.#fetch(url, {
      method: 'PUT',
      headers,
      body: Readable.toWeb(body) as ReadableStream,
      duplex: 'half',
    } as RequestInit);
    return sha256;
  }

  /** The stream of events, line by line as fields and values; ends with the signal. */
  async *events(signal: AbortSignal): AsyncGenerator<{ event: string; data: unknown }> {
    const response = await this.#fetch(new URL('/v1/events', this.#url), { signal });
    let text = '';
    const decoder = new TextDecoder();
    try {
      for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
        text += decoder.decode(bytes, { stream: true });
        for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
          const fields = new Map(
            text
              .slice(0, end)
              .split('\n')
              .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]),
          );
          text = text.slice(end + 2);
          if (fields.has('data'))
            yield { event: fields.get('event') ?? 'message', data: JSON.parse(fields.get('data')!) };
        }
      }
    } catch (cause) {
      if (signal.aborted) return;
      throw this.#unreachable(cause);
    }
  }

  #send(method: string, path: string, document: unknown): Promise<Response> {
    const url = new URL(path, this.#url);
    if (document === undefined) return this.#fetch(url, { method });
    const headers = { 'content-type': 'application/json' };
    return this.#fetch(url, { method, headers, body: JSON.stringify(document) });
  }

  async #fetch(url: URL, request: RequestInit): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(url, {
        ...request,
        headers: { ...(request.headers as Record<string, string>), ...this.#identity },
      });
    } catch (cause) {
      if (request.signal?.aborted) throw cause;
      throw this.#unreachable(cause);
    }
    if (response.ok) return response;
    throw await errorOf(response, url);
  }

  #unreachable(cause: unknown): EdgeError {
    const inner = (cause as { cause?: unknown }).cause;
    const { message } = (inner instanceof Error ? inner : cause) as Error;
    return new EdgeError('console/unreachable', `the console does not answer: ${message}`, {
      subject: this.#url,
      cause,
    });
  }
}

/** The error that a console has answered, as far as it is one of ours. */
async function errorOf(response: Response, url: URL): Promise<EdgeError> {
  const problem = (await response.json().catch(() => ({}))) as {
    code?: string;
    detail?: string;
    subject?: string;
    hint?: string;
  };
  const code = Object.hasOwn(errorTable, problem.code ?? '') ? (problem.code as ErrorCode) : 'usage/invalid';
  return new EdgeError(code, problem.detail ?? `the console answered ${response.status}`, {
    subject: problem.subject ?? url.pathname,
    ...(problem.hint === undefined ? {} : { hint: problem.hint }),
  });
}
