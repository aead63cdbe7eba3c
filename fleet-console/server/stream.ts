import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Auth } from './auth.js';
import type { Fleet } from './fleet.js';
import type { RolloutNews } from './rollouts.js';
import type { ConsoleStore, StoredEvent } from './store.js';

const heartbeatMs = 15_000;
/** Who does not read so much of what was sent is cut off: it may come again and resume. */
const mostWaitingBytes = 2 ** 20;
const mostStreams = 200;
/** Events that a resuming client gets at most; older ones it has missed for good. */
const mostResumed = 1000;
let streams = 0;

/**
 * Server-sent events (HTML standard, section 9.2): `event` carries a device's event under its number, which a client that comes again
 * gives as Last-Event-ID to miss none; `device` carries the id of a device that has changed; `rollout` what has become of a rollout, and why.
 * Ends when the reader may no longer read.
 */
export function streamEvents(
  request: FastifyRequest,
  reply: FastifyReply,
  store: ConsoleStore,
  fleet: Fleet,
  auth: Auth,
): FastifyReply {
  if (streams >= mostStreams) return reply.code(503).header('retry-after', '5').send();
  const last = Number(request.headers['last-event-id'] ?? Number.NaN);
  const missed = Number.isInteger(last) && last >= 0 ? store.eventsAfter(last, mostResumed) : [];
  reply.hijack();
  const { raw } = reply;
  // Who is gone already would never be noticed to go.
  if (raw.destroyed) return reply;
  streams++;
  raw.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'x-accel-buffering': 'no' });
  const send = (text: string) => {
    if (raw.writableLength > mostWaitingBytes) raw.destroy();
    else raw.write(text);
  };
  const sendEvent = ({ number, event }: StoredEvent) =>
    send(`id: ${number}\nevent: event\ndata: ${JSON.stringify(event)}\n\n`);
  const sendDevice = (id: string) => send(`event: device\ndata: ${JSON.stringify({ id })}\n\n`);
  const sendRollout = (news: RolloutNews) => send(`event: rollout\ndata: ${JSON.stringify(news)}\n\n`);
  send(': connected\n\n');
  for (const event of missed) sendEvent(event);
  fleet.on('event', sendEvent);
  fleet.on('device', sendDevice);
  fleet.on('rollout', sendRollout);
  const unwatch = auth.watch(request, () => raw.destroy());
  const heartbeat = setInterval(() => send(': alive\n\n'), heartbeatMs);
  raw.on('close', () => {
    streams--;
    clearInterval(heartbeat);
    unwatch();
    fleet.off('event', sendEvent);
    fleet.off('device', sendDevice);
    fleet.off('rollout', sendRollout);
  });
  raw.on('error', () => {});
  return reply;
}
