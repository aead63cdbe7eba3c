import { createHmac, randomBytes, randomUUID } from 'node:crypto';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Actor, WebhookAttempt, WebhookDocument, WebhookEvent } from '../../configs/contracts/people.js';
import type { AuditLog } from './audit.js';
import type { ConsoleDatabase } from './database.js';

/** How deliveries are made. */
export interface WebhookOptions {
  readonly timeoutMs: number;
  /** A delivery that was tried and is older than this is given up. */
  readonly giveUpMs: number;
  /** Deliveries that wait for one webhook; beyond that, the oldest is dropped and counted. */
  readonly mostPending: number;
  /** Pauses after failures: the first, and the longest. */
  readonly backoff?: { readonly firstMs: number; readonly mostMs: number };
  readonly warn: (text: string) => void;
}

/** What is to be told to whom. */
export interface WantedWebhook {
  readonly url: string;
  readonly events: readonly WebhookEvent[];
  /** What deliveries are signed with; one is made where it is absent. */
  readonly secret?: string | undefined;
}

/** Deliveries by what became of them, since webhooks were added. */
export type WebhookCounts = Readonly<Record<'pending' | 'delivered' | 'dropped' | 'givenUp', number>>;

interface HookRow {
  id: number;
  url: string;
  secret: string;
  events: string;
  created_at: string;
  delivered: number;
  dropped: number;
  given_up: number;
  last_attempt: string | null;
  pending: number;
}

interface Delivery {
  number: number;
  id: string;
  body: string;
  created_ms: number;
}

/** What is known of a webhook only while the console runs. */
interface Course {
  isBusy: boolean;
  failures: number;
  /** By `performance.now()`: a clock that is set neither prolongs a pause nor ends it. */
  notBeforeMs: number;
  timer: NodeJS.Timeout | undefined;
  readonly abort: AbortController;
}

const mostHooks = 16;
const mostUrlLength = 2000;
/** Shorter ones can be guessed. */
const leastSecretLength = 16;
const defaultBackoff = { firstMs: 1000, mostMs: 300_000 };

/**
 * Tells other programs over HTTP what happens, at least once: deliveries wait in the database, written together with what they tell of, and
 * leave it when an endpoint has answered with 2xx. One at a time for each webhook. One that fails goes behind the others, and the next
 * attempt waits; order is kept only as long as nothing fails.
 *
 * Requests are signed as Standard Webhooks 1.0 describes (standardwebhooks.com): headers `webhook-id`, `webhook-timestamp` and
 * `webhook-signature`, the last `v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`.
 */
export class Webhooks {
  readonly #database: ConsoleDatabase;
  readonly #audit: AuditLog;
  readonly #options: WebhookOptions;
  readonly #courses = new Map<number, Course>();
  #waking: NodeJS.Immediate | undefined;
  #isRunning = false;

  constructor(database: ConsoleDatabase, audit: AuditLog, options: WebhookOptions) {
    this.#database = database;
    this.#audit = audit;
    this.#options = options;
  }

  /** Begins to deliver: first what was left. */
  start(): void {
    this.#isRunning = true;
    this.#wake();
  }

  /** Ends what is on its way; it is delivered again after the next start. */
  stop(): void {
    this.#isRunning = false;
    clearImmediate(this.#waking);
    for (const id of this.#courses.keys()) this.#forget(id);
  }

  /** Writes a delivery for every webhook that wants such things; see `Announce`. */
  announce(kind: WebhookEvent, document: unknown): void {
    const hooks = this.#database.all<{ id: number; events: string }>('SELECT id, events FROM webhook');
    const wanting = hooks.filter(({ events }) => (JSON.parse(events) as string[]).includes(kind));
    if (wanting.length === 0) return;
    const { id, body } = message(kind, document);
    this.#database.write(() => {
      for (const hook of wanting) {
        this.#database.run(
          'INSERT INTO webhook_delivery (webhook, id, body, created_ms) VALUES (?, ?, ?, ?)',
          hook.id,
          id,
          body,
          Date.now(),
        );
        this.#makeRoom(hook.id);
      }
    });
    this.#wake();
  }

  /** By number. */
  list(): WebhookDocument[] {
    return this.#database.all<HookRow>(`${selectHook} ORDER BY id`).map((row) => this.#documentOf(row));
  }

  /** Adds a webhook; answers it with the secret, which is not shown again. Fails with `webhook/invalid`. */
  add(
    { url, events, secret = `whsec_${randomBytes(32).toString('base64')}` }: WantedWebhook,
    by: Actor,
  ): WebhookDocument & { readonly secret: string } {
    refuseBad(url, events, secret);
    return this.#database.write(() => {
      if (this.list().length >= mostHooks)
        throw invalid(`there are ${mostHooks} webhooks, which is as many as there can be`, url);
      const { lastInsertRowid: id } = this.#database.run(
        'INSERT INTO webhook (url, secret, events, created_at) VALUES (?, ?, ?, ?)',
        url,
        secret,
        JSON.stringify([...new Set(events)]),
        new Date().toISOString(),
      );
      this.#audit.record(by, 'webhook.add', `webhook ${id}`, { host: new URL(url).host, events });
      return { ...this.#documentOf(this.#existing(id)), secret };
    });
  }

  /** Removes a webhook with everything that waits for it. Fails with `webhook/unknown`. */
  remove(id: number, by: Actor): void {
    this.#database.write(() => {
      const { url } = this.#existing(id);
      this.#database.run('DELETE FROM webhook WHERE id = ?', id);
      this.#audit.record(by, 'webhook.remove', `webhook ${id}`, { host: new URL(url).host });
    });
    this.#forget(id);
  }

  /** Sends a message of kind `test` once, at once, past everything that waits. Fails with `webhook/unknown`. */
  async test(id: number, by: Actor): Promise<WebhookAttempt> {
    const hook = this.#existing(id);
    this.#audit.record(by, 'webhook.test', `webhook ${id}`);
    const attempt = await this.#post(hook, message('test', { webhook: id }), new AbortController().signal);
    this.#database.write(() => this.#noteAttempt(id, attempt));
    return attempt;
  }

  /** Over all webhooks. */
  counts(): WebhookCounts {
    const counts = { pending: 0, delivered: 0, dropped: 0, givenUp: 0 };
    for (const hook of this.list())
      for (const name of Object.keys(counts) as (keyof typeof counts)[]) counts[name] += hook[name];
    return counts;
  }

  /** After the transaction of now: what it writes may yet come to nothing. */
  #wake(): void {
    if (!this.#isRunning) return;
    this.#waking ??= setImmediate(() => {
      this.#waking = undefined;
      try {
        for (const { id } of this.#database.all<{ id: number }>('SELECT id FROM webhook')) void this.#deliver(id);
      } catch (error) {
        this.#options.warn(`webhooks: ${(error as Error).message}`);
      }
    });
  }

  /** Delivers what waits for a webhook, as long as that goes well; after a failure, again after a pause. */
  async #deliver(id: number): Promise<void> {
    const course = this.#courseOf(id);
    if (course.isBusy) return;
    course.isBusy = true;
    let isWaiting = true;
    try {
      while (this.#isRunning && performance.now() >= course.notBeforeMs) {
        const next = this.#next(id);
        if (next === null) {
          isWaiting = false;
          return;
        }
        const attempt = await this.#post(next.hook, next.delivery, course.abort.signal);
        if (course.abort.signal.aborted) return;
        this.#settle(id, next.delivery, attempt);
        course.failures = attempt.isDelivered ? 0 : course.failures + 1;
        if (!attempt.isDelivered) course.notBeforeMs = performance.now() + this.#pauseMs(course.failures);
      }
    } catch (error) {
      // The database does not take what became of it: it will be delivered again.
      this.#options.warn(`webhook ${id}: ${(error as Error).message}`);
      course.failures++;
      course.notBeforeMs = performance.now() + this.#pauseMs(course.failures);
    } finally {
      course.isBusy = false;
      clearTimeout(course.timer);
      // The pause may have ended since it was looked at, and timers may be early by it: no timer is needed only where nothing waits.
      const waitMs = Math.max(1, course.notBeforeMs - performance.now());
      if (isWaiting && this.#isRunning && !course.abort.signal.aborted)
        course.timer = setTimeout(() => void this.#deliver(id), waitMs);
    }
  }

  #next(id: number): { hook: HookRow; delivery: Delivery } | null {
    const hook = this.#database.get<HookRow>(`${selectHook} WHERE id = ?`, id);
    const delivery = this.#database.get<Delivery>(
      'SELECT * FROM webhook_delivery WHERE webhook = ? ORDER BY attempts, number LIMIT 1',
      id,
    );
    return hook === undefined || delivery === undefined ? null : { hook, delivery };
  }

  #settle(id: number, { number, created_ms }: Delivery, attempt: WebhookAttempt): void {
    const isLate = Date.now() - created_ms >= this.#options.giveUpMs;
    this.#database.write(() => {
      this.#noteAttempt(id, attempt);
      if (!attempt.isDelivered && !isLate) {
        this.#database.run('UPDATE webhook_delivery SET attempts = attempts + 1 WHERE number = ?', number);
        return;
      }
      // It may have made room for a newer one meanwhile; then it counts as dropped already, and yet was delivered.
      const { changes } = this.#database.run('DELETE FROM webhook_delivery WHERE number = ?', number);
      if (attempt.isDelivered)
        this.#database.run(
          'UPDATE webhook SET delivered = delivered + 1, dropped = dropped - ? WHERE id = ?',
          1 - changes,
          id,
        );
      else this.#database.run('UPDATE webhook SET given_up = given_up + ? WHERE id = ?', changes, id);
    });
  }

  #noteAttempt(id: number, attempt: WebhookAttempt): void {
    this.#database.run('UPDATE webhook SET last_attempt = ? WHERE id = ?', JSON.stringify(attempt), id);
  }

  #makeRoom(id: number): void {
    const { changes } = this.#database.run(
      `DELETE FROM webhook_delivery WHERE number IN
         (SELECT number FROM webhook_delivery WHERE webhook = ? ORDER BY number DESC LIMIT -1 OFFSET ?)`,
      id,
      this.#options.mostPending,
    );
    if (changes > 0) this.#database.run('UPDATE webhook SET dropped = dropped + ? WHERE id = ?', changes, id);
  }

  async #post(hook: HookRow, { id, body }: Pick<Delivery, 'id' | 'body'>, stop: AbortSignal): Promise<WebhookAttempt> {
    const { timeoutMs } = this.#options;
    const timestamp = Math.floor(Date.now() / 1000);
    const timeout = AbortSignal.timeout(timeoutMs);
    const time = new Date().toISOString();
    try {
      const response = await fetch(hook.url, {
        method: 'POST',
        body,
        headers: {
          'content-type': 'application/json',
          'user-agent': 'quantd-fleet',
          'webhook-id': id,
          'webhook-timestamp': String(timestamp),
          'webhook-signature': signatureOf(hook.secret, id, timestamp, body),
        },
        // Where it leads, nobody has agreed to.
        redirect: 'manual',
        signal: AbortSignal.any([stop, timeout]),
      });
      await response.body?.cancel().catch(() => {});
      const { ok, status } = response;
      return { time, isDelivered: ok, status, error: ok ? null : `the endpoint answers with status ${status}` };
    } catch (cause) {
      const inner = (cause as { cause?: unknown }).cause;
      const { message: text } = (inner instanceof Error ? inner : cause) as Error;
      const error = timeout.aborted ? `no answer within ${timeoutMs} ms` : text || 'the connection failed';
      return { time, isDelivered: false, status: null, error };
    }
  }

  /** Jittered, and twice as long after every further failure. */
  #pauseMs(failures: number): number {
    const { firstMs, mostMs } = this.#options.backoff ?? defaultBackoff;
    return Math.min(mostMs, firstMs * 2 ** (failures - 1)) * (0.5 + Math.random() / 2);
  }

  #courseOf(id: number): Course {
    let course = this.#courses.get(id);
    if (course === undefined) {
      course = { isBusy: false, failures: 0, notBeforeMs: 0, timer: undefined, abort: new AbortController() };
      this.#courses.set(id, course);
    }
    return course;
  }

  #forget(id: number): void {
    const course = this.#courses.get(id);
    clearTimeout(course?.timer);
    course?.abort.abort();
    this.#courses.delete(id);
  }

  #existing(id: number): HookRow {
    const row = this.#database.get<HookRow>(`${selectHook} WHERE id = ?`, id);
    if (row !== undefined) return row;
    throw new EdgeError('webhook/unknown', `there is no webhook ${id}`, { subject: String(id) });
  }

  #documentOf(row: HookRow): WebhookDocument {
    const { id, url, pending, delivered, dropped, given_up: givenUp, created_at: createdAt } = row;
    const pauseMs = Math.max(0, (this.#courses.get(id)?.notBeforeMs ?? 0) - performance.now());
    return {
      id,
      url: shownUrl(url),
      events: JSON.parse(row.events) as WebhookEvent[],
      createdAt,
      pending,
      delivered,
      dropped,
      givenUp,
      lastAttempt: row.last_attempt === null ? null : (JSON.parse(row.last_attempt) as WebhookAttempt),
      nextAttemptAt: pending === 0 ? null : new Date(Date.now() + pauseMs).toISOString(),
    };
  }
}

const selectHook =
  'SELECT webhook.*, (SELECT count(*) FROM webhook_delivery WHERE webhook = webhook.id) AS pending FROM webhook';

/**
 * The value of `webhook-signature`. A secret `whsec_BASE64` stands for the bytes that it encodes, any other for its own characters.
 *
 * @param timestamp seconds since 1970
 */
export function signatureOf(secret: string, id: string, timestamp: number, body: string): string {
  const key = secret.startsWith('whsec_') ? Buffer.from(secret.slice('whsec_'.length), 'base64') : Buffer.from(secret);
  return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`;
}

function message(kind: WebhookEvent | 'test', data: unknown): { id: string; body: string } {
  const id = `msg_${randomUUID()}`;
  return { id, body: JSON.stringify({ id, kind, time: new Date().toISOString(), data }) };
}

/** Queries often hold a secret of the endpoint: they are not shown. */
function shownUrl(url: string): string {
  const { origin, pathname, search } = new URL(url);
  return `${origin}${pathname}${search === '' ? '' : '?...'}`;
}

function refuseBad(text: string, events: readonly WebhookEvent[], secret: string): void {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || text.length > mostUrlLength)
    throw invalid('the address of a webhook is http:// or https://', 'url');
  if (url.username !== '' || url.password !== '')
    throw invalid('the address of a webhook holds no credentials: deliveries are signed', 'url');
  if (events.length === 0) throw invalid('a webhook has to name at least one kind of event', 'events');
  const key = secret.startsWith('whsec_') ? Buffer.from(secret.slice('whsec_'.length), 'base64') : Buffer.from(secret);
  if (key.length < leastSecretLength)
    throw invalid(`a secret of less than ${leastSecretLength} bytes can be guessed`, 'secret');
}

function invalid(why: string, subject: string): EdgeError {
  return new EdgeError('webhook/invalid', why, { subject });
}
