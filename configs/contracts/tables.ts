/**
 * Tables that devices share. A device reports, for each model that it makes, what its operators took and what there is to plan from;
 * the console answers devices of the same target identity with what others have measured. Nothing here is of a single sample: rows
 * are timings, sensitivities are means over all samples.
 */
import { type Static, Type } from '@sinclair/typebox';
import { DeviceId, TargetId, Time } from './device.js';
import { Counter, LatencyRow } from './plan.js';

const Sha256 = Type.String({ pattern: '^[0-9a-f]{64}$' });
const Cost = Type.Number({ minimum: -1e15, maximum: 1e15 });
const Amount = Type.Number({ minimum: 0, maximum: 1e15 });
const Unknown = Type.Null();
const Name = Type.String({ maxLength: 1000 });
const Format = Type.String({ maxLength: 16 });
const Index = Type.Integer({ minimum: 0, maximum: 100_000 });

/** Largest table, in bytes of JSON. */
export const tableBytes = 16 * 2 ** 20;
/** Largest table as it travels: compressed (gzip), in base64. */
export const tableTextBytes = 4 * 2 ** 20;
/** Length of a part of that text: it fits a packet with all that is around it. */
export const tablePartBytes = 128 * 1024;
/** Means over fewer samples could tell something of one of them: sensitivities of so few stay on the device. */
export const fewestSamples = 4;
/** Keys that may be asked for at once. */
export const mostKeys = 5000;

const Costs = Type.Object({
  sensitivity: Cost,
  latency: Amount,
  bytes: Cost,
  energy: Type.Union([Amount, Unknown]),
  bitOps: Amount,
});

/** An operator of the planning problem: with its key in the latency table and its kind, and what it may be. */
export const TableOperator = Type.Object({
  name: Name,
  key: Type.String({ maxLength: 4000 }),
  type: Type.String({ maxLength: 128 }),
  /** Weights, for averages of their bits. */
  parameters: Amount,
  choices: Type.Array(
    Type.Object({
      precision: Type.String({ maxLength: 64 }),
      format: Format,
      costs: Costs,
      scratchBytes: Type.Optional(Amount),
    }),
    { minItems: 1, maxItems: 64 },
  ),
});
export type TableOperator = Static<typeof TableOperator>;

/** The planning problem of a model on a target, as `Problem` in the planner: all that solving for another budget needs. */
export const TableProblem = Type.Object({
  operators: Type.Array(TableOperator, { minItems: 1, maxItems: 4096 }),
  edges: Type.Array(
    Type.Object({
      tensor: Name,
      producer: Type.Union([Index, Type.Null()]),
      sourceFormat: Type.Optional(Format),
      consumers: Type.Array(Index, { maxItems: 4096 }),
      sinkFormats: Type.Optional(Type.Array(Format, { maxItems: 8 })),
      conversions: Type.Array(
        Type.Object({
          from: Format,
          to: Format,
          latency: Amount,
          sensitivity: Amount,
          energy: Type.Union([Amount, Unknown]),
          bytes: Amount,
        }),
        { maxItems: 32 },
      ),
      ramBytes: Type.Record(Format, Amount),
    }),
    { maxItems: 8192 },
  ),
  ties: Type.Array(Type.Array(Index, { maxItems: 4096 }), { maxItems: 4096 }),
  fixed: Type.Object({
    latency: Amount,
    bytes: Cost,
    ramBytes: Amount,
    energy: Type.Optional(Type.Union([Amount, Unknown])),
  }),
});
export type TableProblem = Static<typeof TableProblem>;

/** How a device came to its rows, in one run. */
export const Profiling = Type.Object({
  /** Wall time. */
  seconds: Amount,
  /** Rows of operators that were measured in this run, and those that were taken over from the donor. */
  rowsMeasured: Type.Integer({ minimum: 0 }),
  rowsTaken: Type.Integer({ minimum: 0 }),
  /** The table that was offered; null where none was asked for or there was none. */
  donor: Type.Union([
    Type.Null(),
    Type.Object({
      digest: Sha256,
      /** Devices whose measurements are in it. */
      devices: Type.Integer({ minimum: 1 }),
      isAccepted: Type.Boolean(),
      /** What the sample took here over what the table says. */
      factor: Type.Union([Amount, Type.Null()]),
      /** Why it was accepted or not. */
      why: Type.String({ maxLength: 500 }),
    }),
  ]),
});
export type Profiling = Static<typeof Profiling>;

/** What a locally made model was made from, and by what. */
export const Provenance = Type.Object({
  modelSha256: Sha256,
  /** Version of everything that decides what an artifact looks like. */
  algorithm: Type.String({ maxLength: 64 }),
  estimator: Type.String({ maxLength: 64 }),
  /** Rule for the ranges of activations. */
  rule: Type.String({ maxLength: 64 }),
  calibration: Type.Object({ source: Type.String({ maxLength: 64 }), samples: Type.Integer({ minimum: 0 }) }),
  /** Digest of the latency rows that the plan rests on. */
  tableDigest: Sha256,
  /** Digest of the donor's table, where rows of one are among them. */
  donorDigest: Type.Union([Sha256, Type.Null()]),
  planDigest: Type.Union([Type.String({ maxLength: 80 }), Type.Null()]),
  artifactSha256: Type.Union([Sha256, Type.Null()]),
  /** Median latency as measured, in the unit of the document; null where nothing was made. */
  measuredLatency: Type.Union([Amount, Type.Null()]),
});
export type Provenance = Static<typeof Provenance>;

/** The rows of a model on a target, and what there is to plan from. Latencies are in the counter. */
export const ModelTable = Type.Object({
  schema: Type.Literal('quantd/table/1'),
  /** Digest of the target identity: rows of another one are never mixed with these. */
  identity: Sha256,
  kind: Type.String({ maxLength: 32 }),
  counter: Counter,
  modelSha256: Sha256,
  rows: Type.Array(LatencyRow, { maxItems: 50_000 }),
  /** Null where its sensitivities are of too few samples to be told. */
  problem: Type.Union([TableProblem, Type.Null()]),
  /** What measured plans took over what was predicted, and ONNX Runtime's int8 over the target's own; see `LatencyExperience`. */
  experience: Type.Object({
    ratio: Type.Number({ exclusiveMinimum: 0, maximum: 1e6 }),
    int8Ratio: Type.Union([Type.Number({ exclusiveMinimum: 0, maximum: 1e6 }), Type.Null()]),
  }),
  provenance: Provenance,
});
export type ModelTable = Static<typeof ModelTable>;

/** A device's word on the tables of one of its targets; a newer one of the same model replaces it. */
export const DeviceTable = Type.Composite([
  ModelTable,
  Type.Object({ device: DeviceId, target: TargetId, time: Time }),
]);
export type DeviceTable = Static<typeof DeviceTable>;

/** A part of a device's table on its way, delivered at least once: base64 of the compressed JSON, cut into pieces. */
export const TablePart = Type.Object({
  schema: Type.Literal('quantd/table-part/1'),
  device: DeviceId,
  target: TargetId,
  /** Of the whole text. */
  sha256: Sha256,
  /** From 0. */
  part: Type.Integer({ minimum: 0, maximum: tableTextBytes / tablePartBytes - 1 }),
  parts: Type.Integer({ minimum: 1, maximum: tableTextBytes / tablePartBytes }),
  text: Type.String({ minLength: 1, maxLength: tablePartBytes, pattern: '^[A-Za-z0-9+/=]+$' }),
});
export type TablePart = Static<typeof TablePart>;

/** What a device asks before it measures: rows of other devices with its target identity. */
export const OfferRequest = Type.Object(
  { identity: Sha256, operatorKeys: Type.Array(Type.String({ maxLength: 4000 }), { minItems: 1, maxItems: mostKeys }) },
  { additionalProperties: false },
);
export type OfferRequest = Static<typeof OfferRequest>;

/** A table of other devices; the digest is of its rows. */
export const DonorTable = Type.Object({
  digest: Sha256,
  identity: Sha256,
  devices: Type.Integer({ minimum: 1 }),
  rows: Type.Array(LatencyRow, { maxItems: 50_000 }),
});
export type DonorTable = Static<typeof DonorTable>;

/** The answer to `OfferRequest`. */
export const Offer = Type.Object({ donor: Type.Union([DonorTable, Type.Null()]) });
export type Offer = Static<typeof Offer>;
