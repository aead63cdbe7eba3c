import { type Static, Type } from '@sinclair/typebox';

/** A section: keys with defaults, and no others. */
const section = <T extends Parameters<typeof Type.Object>[0]>(properties: T) =>
  Type.Object(properties, { additionalProperties: false, default: {} });

/** Settings of the console `fleet serve`, by section; every key has a default. The file is `console.toml`. */
export const ConsoleSettings = Type.Object(
  {
    http: section({
      /** Where the API and the page are served. Any other than a loopback address needs a token. */
      host: Type.String({ minLength: 1, default: '127.0.0.1' }),
      /** 0: any free port. */
      port: Type.Integer({ minimum: 0, maximum: 65535, default: 7400 }),
      /** File with the token that clients and devices show; empty: none. */
      tokenFile: Type.String({ default: '' }),
      /** Largest model that is taken. */
      mostUploadBytes: Type.Integer({ minimum: 1, default: 4 * 2 ** 30 }),
    }),
    broker: section({
      /** Whether the console runs a broker itself; otherwise it uses mqtt.url. */
      embedded: Type.Boolean({ default: true }),
      /** Any other than a loopback address needs http.tokenFile, and asks devices for that token as their password. */
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
