import { type Static, Type } from '@sinclair/typebox';

/** A section: keys with defaults, and no others. */
const section = <T extends Parameters<typeof Type.Object>[0]>(properties: T) =>
  Type.Object(properties, { additionalProperties: false, default: {} });

/** Settings of the console `fleet serve`, by section; every key has a default. The file is `console.toml`. */
export const ConsoleSettings = Type.Object(
  {
    http: section({
      /** Where the API and the page are served. Any other than a loopback address needs an account or a token. */
      host: Type.String({ minLength: 1, default: '127.0.0.1' }),
      /** 0: any free port. */
      port: Type.Integer({ minimum: 0, maximum: 65535, default: 7400 }),
      /** File with a token that clients and devices may show; who shows it is admin. Empty: none. */
      tokenFile: Type.String({ default: '' }),
      /** Largest model that is taken. */
      mostUploadBytes: Type.Integer({ minimum: 1, default: 4 * 2 ** 30 }),
      /** Whether a proxy on this machine is in front: then what it says of address and scheme is believed. */
      behindProxy: Type.Boolean({ default: false }),
      /** Whether browsers may send the cookie of a log-in by https only, even where the console is not told of https. */
      secureCookie: Type.Boolean({ default: false }),
    }),
    broker: section({
      /** Whether the console runs a broker itself; otherwise it uses mqtt.url. */
      embedded: Type.Boolean({ default: true }),
      /** Any other than a loopback address needs an account or http.tokenFile, and asks devices for a token as their password. */
      host: Type.String({ minLength: 1, default: '127.0.0.1' }),
      /** 0: any free port. */
      port: Type.Integer({ minimum: 0, maximum: 65535, default: 7401 }),
    }),
    mqtt: section({
      /** Address of an external broker. */
      url: Type.String({ pattern: '^(mqtts?|wss?)://', default: 'mqtt://127.0.0.1:1883' }),
      username: Type.String({ default: '' }),
      /** File with the password; empty: none. */
      passwordFile: Type.String({ default: '' }),
      namespace: Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$', default: 'quantd' }),
      tenant: Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$', default: 'default' }),
    }),
    state: section({
      /** Folder of the database and the artifacts; empty: by the service manager, or the XDG state folder. */
      folder: Type.String({ default: '' }),
    }),
    retention: section({
      /** Events that are kept, over all devices. */
      events: Type.Integer({ minimum: 100, default: 100_000 }),
      /** Results that are kept, over all devices. */
      results: Type.Integer({ minimum: 100, default: 100_000 }),
    }),
    webhooks: section({
      /** How long an endpoint may take to answer. */
      timeoutMs: Type.Integer({ minimum: 10, default: 10_000 }),
      /** A delivery that no attempt has brought there for so long is given up. */
      giveUpSeconds: Type.Integer({ minimum: 1, default: 86_400 }),
      /** Deliveries that wait for one webhook; beyond that, the oldest is dropped and counted. */
      mostPending: Type.Integer({ minimum: 1, default: 1000 }),
    }),
    log: section({
      level: Type.Union(
        [
          Type.Literal('debug'),
          Type.Literal('info'),
          Type.Literal('warn'),
          Type.Literal('error'),
          Type.Literal('silent'),
        ],
        { default: 'info' },
      ),
    }),
  },
  { additionalProperties: false },
);
export type ConsoleSettings = Static<typeof ConsoleSettings>;
