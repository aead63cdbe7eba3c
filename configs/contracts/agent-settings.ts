import { type Static, Type } from '@sinclair/typebox';

/** A section: keys with defaults, and no others. */
const section = <T extends Parameters<typeof Type.Object>[0]>(properties: T) =>
  Type.Object(properties, { additionalProperties: false, default: {} });

/** A choice of words, the first of which holds by default. */
const choice = <const T extends readonly [string, ...string[]]>(words: T) =>
  Type.Unsafe<T[number]>(
    Type.Union(
      words.map((word) => Type.Literal(word)),
      { default: words[0] },
    ),
  );

/** A maintenance gate: off unless its section is there. Keys without a default must be given. */
const gate = <T extends Parameters<typeof Type.Object>[0]>(properties: T, holds: GateHolds) =>
  Type.Optional(
    Type.Object(
      {
        ...properties,
        /** What a closed gate holds back: `activation` alone, or `work` (measuring and quantizing) as well. Downloads never. */
        holds: choice(holds === 'work' ? ['work', 'activation'] : ['activation', 'work']),
        /** What a gate that cannot be read counts as, for activation; work goes on. */
        unreadable: choice(['closed', 'open']),
      },
      { additionalProperties: false },
    ),
  );

type GateHolds = 'activation' | 'work';

const Minute = Type.String({ pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$' });

/** What must be open before another model may begin to serve; agent/README.md tells how they work together. */
const gates = section({
  /** How long all gates must have been open before anything that they held back begins. */
  openSeconds: Type.Number({ minimum: 0, maximum: 86_400, default: 10 }),
  /** Open from one time of day to another; over midnight it belongs to the day on which it began. */
  window: gate(
    {
      days: Type.Array(choice(['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun']), {
        minItems: 1,
        maxItems: 7,
        default: ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'],
      }),
      from: Minute,
      /** Equal to `from`: around the clock. */
      to: Minute,
      /** `UTC`, or a name such as `Europe/Berlin`. */
      zone: Type.String({ minLength: 1, maxLength: 64, default: 'UTC' }),
      /** Also goes by a clock of which the system says that it is not synchronised. */
      trustsClock: Type.Boolean({ default: false }),
    },
    'activation',
  ),
  /** Closed while a lock file is there: `quantd lock`, or any program that writes one. */
  lock: gate(
    {
      file: Type.String({ pattern: '^/.' }),
      /** How long a lock holds that does not say until when. */
      lifetimeHours: Type.Number({ minimum: 0.001, maximum: 8760, default: 24 }),
    },
    'activation',
  ),
  /** Asks a program: status 0 is open, any other closed; the first line that it prints is the reason. */
  exec: gate(
    {
      /** Program and arguments; no shell. */
      command: Type.Array(Type.String(), { minItems: 1, maxItems: 64 }),
      limitSeconds: Type.Number({ minimum: 0.1, maximum: 300, default: 10 }),
      /** How long an answer holds. */
      everySeconds: Type.Number({ minimum: 0, maximum: 86_400, default: 30 }),
    },
    'activation',
  ),
  power: gate(
    {
      /** Of the emptiest battery. */
      leastPercent: Type.Number({ minimum: 0, maximum: 100, default: 50 }),
      /** `enough`: on mains, no percentage is asked for; `required`: mains, and the percentage of a battery that is there. */
      mains: choice(['enough', 'required', 'ignored']),
    },
    'work',
  ),
  temperature: gate(
    {
      mostCelsius: Type.Number({ minimum: -40, maximum: 150 }),
      /** Once too hot, it has to be cooler by so much to be open again. */
      hysteresisCelsius: Type.Number({ minimum: 0, maximum: 50, default: 5 }),
      /** Types of thermal zones to look at, as `/sys/class/thermal/thermal_zone0/type` has them; empty: all. The hottest counts. */
      zones: Type.Array(Type.String({ minLength: 1 }), { maxItems: 32, default: [] }),
    },
    'work',
  ),
  /** Open while the autopilot says that the vehicle is disarmed and on the ground. `udp` or `serial` is to be given. */
  mavlink: gate(
    {
      /** Address to listen on, such as `127.0.0.1:14540`. */
      udp: Type.String({ default: '' }),
      /** Path of a serial port. */
      serial: Type.String({ default: '' }),
      baudRate: Type.Integer({ minimum: 1200, maximum: 4_000_000, default: 57_600 }),
      /** Id of the vehicle; other systems are not listened to. */
      systemId: Type.Integer({ minimum: 1, maximum: 255, default: 1 }),
      /** Id of its autopilot. */
      componentId: Type.Integer({ minimum: 1, maximum: 255, default: 1 }),
      /** Silence after which nothing is known any more. */
      silentSeconds: Type.Number({ minimum: 0.5, maximum: 3600, default: 5 }),
      /** Whether the autopilot has to say that it has landed, beside being disarmed. */
      landed: choice(['required', 'if-told', 'ignored']),
    },
    'activation',
  ),
});

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
      /** Who runs the models on this machine: `ort` (ONNX Runtime) or `native` (our engine). */
      kind: Type.Union([Type.Literal('ort'), Type.Literal('native')], { default: 'ort' }),
      /** Threads of the deployed model; timings are taken with as many. */
      threads: Type.Integer({ minimum: 1, maximum: 256, default: 1 }),
      /** Microcontrollers behind this machine, each a target of its own: `name=mcu:/dev/serial/by-id/...`, also `mcu:host`, `mcu:qemu-BOARD`. */
      microcontrollers: Type.Array(
        Type.String({ pattern: '^(?!host=)[a-z0-9][a-z0-9_-]{0,63}=mcu:(/.+|host|qemu-[a-z0-9-]+)$' }),
        {
          maxItems: 16,
          default: [],
        },
      ),
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
    gates,
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
