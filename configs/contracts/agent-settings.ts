import { type Static, Type } from '@sinclair/typebox';

/** A section: keys with defaults, and no others. */
const section = <T extends Parameters<typeof Type.Object>[0]>(properties: T) =>
  Type.Object(properties, { additionalProperties: false, default: {} });

/** Settings of the daemon `quantd`, by section; every key has a default. The file is `agent.toml`. */
export const AgentSettings = Type.Object(
  {
    device: section({
      /** Name of this device towards the console; empty: the host name. */
      id: Type.String({ pattern: '^([A-Za-z0-9][A-Za-z0-9_-]{0,63})?$', default: '' }),
      /** Group for selectors; empty: none. */
      group: Type.String({ maxLength: 128, default: '' }),
      /** Labels for selectors, `name=value`. */
      labels: Type.Array(Type.String({ pattern: '^[A-Za-z0-9_.-]{1,64}=.{1,128}$' }), { maxItems: 32, default: [] }),
    }),
    state: section({
      /** Folder of models, artifacts and databases; empty: by the service manager, or the XDG state folder. */
      folder: Type.String({ default: '' }),
    }),
    target: section({
      /** Threads of the deployed model; timings are taken with as many. */
      /** Who runs the models: `ort` (ONNX Runtime) or `native` (our engine). */
      kind: Type.Union([Type.Literal('ort'), Type.Literal('native')], { default: 'ort' }),
      threads: Type.Integer({ minimum: 1, maximum: 256, default: 1 }),
    }),
    console: section({
      /** Address of the console's HTTP API, for downloads. */
      url: Type.String({ pattern: '^https?://', default: 'http://127.0.0.1:7400' }),
      /** File with the token for it; empty: none. */
      tokenFile: Type.String({ default: '' }),
    }),
    mqtt: section({
      url: Type.String({ pattern: '^(mqtts?|wss?)://', default: 'mqtt://127.0.0.1:7401' }),
      username: Type.String({ default: '' }),
      /** File with the password; empty: none. */
      passwordFile: Type.String({ default: '' }),
      namespace: Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$', default: 'quantd' }),
      tenant: Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$', default: 'default' }),
      keepaliveSeconds: Type.Integer({ minimum: 5, maximum: 3600, default: 30 }),
      /** How long a silent device counts as online: short radio gaps shall not show. */
      willDelaySeconds: Type.Integer({ minimum: 0, maximum: 3600, default: 30 }),
    }),
    samples: section({
      /** Sample set on this device for calibration and verification; empty: frames of applications, else data-free. */
      folder: Type.String({ default: '' }),
      /** Frames of applications that are kept. */
      mostFrames: Type.Integer({ minimum: 1, maximum: 100_000, default: 256 }),
      mostBytes: Type.Integer({ minimum: 4096, default: 64 * 2 ** 20 }),
    }),
    confirm: section({
      /** How long a new model answers probes before it counts as good. */
      bakeSeconds: Type.Number({ minimum: 0, maximum: 86_400, default: 10 }),
      probeEveryMs: Type.Integer({ minimum: 10, maximum: 60_000, default: 250 }),
      /** Probes may take longer than the budget's latency by this factor. */
      latencySlack: Type.Number({ minimum: 1, maximum: 100, default: 2 }),
      /** Restarts during the bake before the model counts as their cause. */
      mostInterruptions: Type.Integer({ minimum: 1, maximum: 1_000_000, default: 5 }),
    }),
    limits: section({
      /** Resident memory at which a quantizing process is ended. */
      workerMemoryMb: Type.Integer({ minimum: 64, default: 2048 }),
      /** Nice value of quantizing processes. */
      workerNice: Type.Integer({ minimum: 0, maximum: 19, default: 10 }),
      /** Space that downloads leave free. */
      reserveBytes: Type.Integer({ minimum: 0, default: 64 * 2 ** 20 }),
      outboxBytes: Type.Integer({ minimum: 65_536, default: 16 * 2 ** 20 }),
      outboxDays: Type.Number({ minimum: 0.01, maximum: 3650, default: 30 }),
    }),
    retry: section({
      firstMs: Type.Integer({ minimum: 10, maximum: 600_000, default: 2000 }),
      mostMs: Type.Integer({ minimum: 10, maximum: 86_400_000, default: 600_000 }),
    }),
    local: section({
      /** Path of the socket for applications; empty: `quantd.sock` in the runtime or state folder. */
      socket: Type.String({ default: '' }),
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
export type AgentSettings = Static<typeof AgentSettings>;
