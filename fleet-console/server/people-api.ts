import { type Static, Type } from '@sinclair/typebox';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { EdgeError } from '../../configs/contracts/errors.js';
import {
  AccountRole,
  PersonName,
  passwordLengths,
  Role,
  type SessionDocument,
} from '../../configs/contracts/people.js';
import { personOf } from './access.js';
import type { Accounts } from './accounts.js';
import { type Auth, endedCookie, type Login, sessionCookie } from './auth.js';
import type { Tokens } from './tokens.js';

/** What the routes about people work on. */
export interface PeopleOptions {
  readonly auth: Auth;
  readonly accounts: Accounts;
  readonly tokens: Tokens;
  /** Whether browsers may send the session's cookie by https only, however the request came. */
  readonly secureCookie: boolean;
}

const strict = { additionalProperties: false } as const;
// Of any length: too short is told by the account, and a log-in must not tell anything.
const Password = Type.String({ maxLength: passwordLengths.most });
const LoginBody = Type.Object({ name: Type.String({ maxLength: 64 }), password: Password }, strict);
const PasswordBody = Type.Object({ current: Password, password: Password }, strict);
const AccountBody = Type.Object({ name: PersonName, role: AccountRole, password: Password }, strict);
const AccountChangeBody = Type.Object(
  {
    role: Type.Optional(AccountRole),
    isDisabled: Type.Optional(Type.Boolean()),
    password: Type.Optional(Password),
  },
  { ...strict, minProperties: 1 },
);
const TokenBody = Type.Object(
  { name: PersonName, role: Role, expiresAt: Type.Optional(Type.String({ maxLength: 40 })) },
  strict,
);
const AccountName = Type.Object({ name: Type.String({ maxLength: 64 }) });
const TokenId = Type.Object({ id: Type.Integer({ minimum: 1 }) });
/** Whoever is not known can make the console read no more than this. */
const bodyLimit = 8192;

/** The part of the API that is about people, their log-ins and their tokens. */
export async function addPeopleRoutes(
  parent: FastifyInstance,
  { auth, accounts, tokens, secureCookie }: PeopleOptions,
): Promise<void> {
  const isSecure = ({ protocol }: FastifyRequest) => secureCookie || protocol === 'https';
  const answerLogin = (login: Login, request: FastifyRequest, reply: FastifyReply): SessionDocument => {
    if (login.account === null) {
      const seconds = Math.ceil(login.waitMs / 1000);
      reply.header('retry-after', String(seconds));
      throw new EdgeError('login/throttled', `too many attempts have failed; the next in ${seconds} s`, {
        subject: 'log-in',
      });
    }
    reply.headers({ 'set-cookie': sessionCookie(login.secret, isSecure(request)), 'cache-control': 'no-store' });
    return { name: login.account.name, role: login.account.role, via: 'session' };
  };
  await parent.register(async (app) => {
    // Whoever has lost what they may do, loses the streams that they read.
    app.addHook('onResponse', async ({ method }) => {
      if (method !== 'GET' && method !== 'HEAD') auth.recheck();
    });
    app.post(
      '/v1/session',
      { schema: { summary: 'Logs in: answers who that is, with a cookie', body: LoginBody }, bodyLimit },
      async (request, reply) => {
        const { name, password } = request.body as Static<typeof LoginBody>;
        return answerLogin(await auth.login(name, password, request.ip), request, reply);
      },
    );
    app.get('/v1/session', { schema: { summary: 'Who asks' } }, async (request, reply): Promise<SessionDocument> => {
      const { name, role, via } = personOf(request);
      reply.header('cache-control', 'no-store');
      return { name, role, via };
    });
    app.delete('/v1/session', { schema: { summary: 'Logs out' } }, async (request, reply) => {
      auth.logout(request);
      reply.header('set-cookie', endedCookie(isSecure(request)));
      return {};
    });
    app.put(
      '/v1/session/password',
      {
        schema: { summary: 'Another password for who is logged in; every other session ends', body: PasswordBody },
        bodyLimit,
      },
      async (request, reply) => {
        const { current, password } = request.body as Static<typeof PasswordBody>;
        return answerLogin(
          await auth.changeOwnPassword(personOf(request), current, password, request.ip),
          request,
          reply,
        );
      },
    );

    app.get('/v1/accounts', { schema: { summary: 'Accounts, by name' } }, async () => ({ accounts: accounts.list() }));
    app.post(
      '/v1/accounts',
      { schema: { summary: 'Adds an account', body: AccountBody }, bodyLimit },
      async (request) => {
        const { name, role, password } = request.body as Static<typeof AccountBody>;
        return accounts.add(name, role, password, personOf(request));
      },
    );
    app.patch(
      '/v1/accounts/:name',
      {
        schema: {
          summary: 'Changes role or password, disables or enables',
          params: AccountName,
          body: AccountChangeBody,
        },
        bodyLimit,
      },
      async (request) => {
        const { name } = request.params as Static<typeof AccountName>;
        return accounts.change(name, request.body as Static<typeof AccountChangeBody>, personOf(request));
      },
    );

    app.get('/v1/tokens', { schema: { summary: 'API tokens, oldest first' } }, async () => ({ tokens: tokens.list() }));
    app.post(
      '/v1/tokens',
      { schema: { summary: 'Makes a token; its secret is shown this once', body: TokenBody } },
      async (request, reply) => {
        const { name, role, expiresAt = null } = request.body as Static<typeof TokenBody>;
        reply.header('cache-control', 'no-store');
        return tokens.create(name, role, expiresAt, personOf(request));
      },
    );
    app.delete('/v1/tokens/:id', { schema: { summary: 'Revokes a token', params: TokenId } }, async (request) => {
      tokens.revoke((request.params as Static<typeof TokenId>).id, personOf(request));
      return {};
    });
  });
}
