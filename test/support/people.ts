/** People at a console: requests with whatever they show, and accounts and tokens made on its own machine. */
import { once } from 'node:events';
import { type IncomingHttpHeaders, request } from 'node:http';
import type { AccountRole, Role } from '../../configs/contracts/people.js';

/** An answer, read to its end. */
export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: what a test looks at is what it tests
  readonly body: any;
}

/** A request with exactly these headers, also those that `fetch` would not send. */
export async function ask(
  url: string,
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: unknown,
): Promise<Answer> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const type: Record<string, string> =
    text === undefined ? {} : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)) };
  const asked = request(new URL(path, url), { method, headers: { ...type, ...headers }, agent: false });
  asked.end(text);
  const [response] = await once(asked, 'response');
  let answer = '';
  for await (const piece of response.setEncoding('utf8')) {
    answer += piece;
    // A stream of events does not end by itself.
    if (response.headers['content-type'] === 'text/event-stream') break;
  }
  const isJson = answer !== '' && /json/.test(response.headers['content-type'] ?? '');
  return {
    status: response.statusCode,
    headers: response.headers,
    text: answer,
    body: isJson ? JSON.parse(answer) : null,
  };
}

/** The header that shows a token. */
export const bearer = (secret: string) => ({ authorization: `Bearer ${secret}` });

/** The session's cookie of an answer, as a browser sends it back; empty where there is none. */
export const cookieOf = ({ headers }: Answer) => ({ cookie: (headers['set-cookie']?.[0] ?? '').split(';')[0]! });

/** Passwords of the accounts that tests make. */
export const passwordOf = (name: string) => `${name} has a long password`;

/** Adds an account. `as`: headers of an admin; the first account needs none. */
export const addAccount = (url: string, name: string, role: AccountRole, as: Record<string, string> = {}) =>
  ask(url, 'POST', '/v1/accounts', as, { name, role, password: passwordOf(name) });

/** Makes a token; answers its secret. */
export async function makeToken(
  url: string,
  name: string,
  role: Role,
  as: Record<string, string> = {},
): Promise<string> {
  const { status, text, body } = await ask(url, 'POST', '/v1/tokens', as, { name, role });
  if (status !== 200) throw new Error(text);
  return body.secret;
}

/** Logs in. */
export const login = (url: string, name: string, password = passwordOf(name), headers: Record<string, string> = {}) =>
  ask(url, 'POST', '/v1/session', headers, { name, password });
