import type { FastifyReply, FastifyRequest } from 'fastify';
import { EdgeError, type ErrorCode } from '../../configs/contracts/errors.js';

const statusOf: Partial<Record<ErrorCode, number>> = {
  'usage/invalid': 400,
  'selector/invalid': 400,
  'budget/invalid': 400,
  'card/invalid': 400,
  'upload/invalid': 422,
  'release/exists': 409,
  'rollout/invalid': 400,
  'rollout/unknown': 404,
  'rollout/conflict': 409,
  'rollout/state': 409,
  'release/unknown': 404,
  'device/unknown': 404,
  'solver/failed': 503,
  'disk/full': 507,
  'access/forbidden': 403,
  'login/refused': 401,
  'login/throttled': 429,
  'account/invalid': 400,
  'account/exists': 409,
  'account/unknown': 404,
  'account/last-admin': 409,
  'token/invalid': 400,
  'token/exists': 409,
  'token/unknown': 404,
  'webhook/invalid': 400,
  'webhook/unknown': 404,
};

/** Answers a problem document (RFC 9457). */
export function problem(
  reply: FastifyReply,
  status: number,
  details: { code: string; message: string; subject?: string; hint?: string },
): FastifyReply {
  const { code, message, ...rest } = details;
  return reply
    .code(status)
    .type('application/problem+json')
    .send(JSON.stringify({ type: `urn:quantd:${code}`, title: message, status, code, detail: message, ...rest }));
}

/** Answers whatever was thrown as a problem; what is no expected failure says no more than that, and `warn` hears the rest. */
export function answerProblem(
  reply: FastifyReply,
  error: unknown,
  request: FastifyRequest,
  warn: (text: string) => void,
): FastifyReply {
  if (error instanceof EdgeError) {
    const { code, message, subject, hint } = error.toDocument();
    const status = statusOf[error.code] ?? 500;
    if (status === 429 && !reply.hasHeader('retry-after')) reply.header('retry-after', '1');
    return problem(reply, status, { code, message, subject, hint });
  }
  const { statusCode, message } = error as { statusCode?: number; message?: string };
  if (statusCode !== undefined && statusCode < 500) {
    return problem(reply, statusCode, { code: 'usage/invalid', message: message ?? 'the request is invalid' });
  }
  warn(`${request.method} ${request.routeOptions.url ?? '?'}: ${message ?? String(error)}`);
  return problem(reply, 500, { code: 'internal', message: 'a fault of the console; its log has more' });
}
