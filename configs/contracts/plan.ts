import { type Static, Type } from '@sinclair/typebox';

/** A bit-width of a tensor: 32 is float. */
export const Bits = Type.Union([
  Type.Literal(2),
  Type.Literal(3),
  Type.Literal(4),
  Type.Literal(5),
  Type.Literal(6),
  Type.Literal(7),
  Type.Literal(8),
  Type.Literal(16),
  Type.Literal(32),
]);
export type Bits = Static<typeof Bits>;

/** Weight bits and activation bits, written `W4A8`; `float` is W32A32. */
export const Precision = Type.Object({ weightBits: Bits, activationBits: Bits }, { additionalProperties: false });
export type Precision = Static<typeof Precision>;

/** What time or energy values are counted in. Values of different counters are never compared. */
export const Counter = Type.Union([Type.Literal('nanoseconds'), Type.Literal('cycles'), Type.Literal('instructions')]);
export type Counter = Static<typeof Counter>;

/** One measured operator at one precision on one target identity. Times are in the table's counter. */
export const LatencyRow = Type.Object(
  {
    operatorKey: Type.String({ maxLength: 4000 }),
    precision: Type.String({ maxLength: 64 }),
    minimum: Type.Number({ minimum: 0 }),
    median: Type.Number({ minimum: 0 }),
    /** Interquartile range divided by the median. */
    spread: Type.Number({ minimum: 0 }),
    repeats: Type.Integer({ minimum: 1 }),
    /** The machine slowed down while this row was measured. */
    throttled: Type.Boolean(),
    /** Joules per execution, where the machine can measure it. */
    energyJoules: Type.Union([Type.Number(), Type.Null()]),
    measuredAt: Type.String({ maxLength: 40 }),
    /** Digest of the other devices' table that it was taken from. Absent: measured here. */
    donor: Type.Optional(Type.String({ pattern: '^[0-9a-f]{64}$' })),
  },
  { additionalProperties: false },
);
export type LatencyRow = Static<typeof LatencyRow>;

/** Range of an activation tensor, as real values; always contains zero. */
export const Range = Type.Object({ minimum: Type.Number(), maximum: Type.Number() }, { additionalProperties: false });
export type Range = Static<typeof Range>;

/** A budget, in JSON units: milliseconds (or the target's counter), bytes, millijoules, fractions. */
export const Budget = Type.Object(
  {
    latencyMs: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    /** Ceiling relative to uniform int8 on the same target; exclusive with latencyMs. */
    latencyRatio: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    sizeBytes: Type.Optional(Type.Integer({ minimum: 1 })),
    ramBytes: Type.Optional(Type.Integer({ minimum: 1 })),
    flashBytes: Type.Optional(Type.Integer({ minimum: 1 })),
    energyMj: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    /** Largest sum of estimated sensitivities, in the units of the frontier; alone among the ceilings, speed is the objective. */
    sensitivity: Type.Optional(Type.Number({ minimum: 0 })),
    /** Largest loss of labelled top-1, a fraction. */
    drop: Type.Optional(Type.Number({ minimum: 0, maximum: 1 })),
    /** Smallest top-1 agreement with the float model, a fraction. */
    agreement: Type.Optional(Type.Number({ minimum: 0, maximum: 1 })),
    /** Rounds of apply, measure and re-solve before giving up; 6 when absent. */
    rounds: Type.Optional(Type.Integer({ minimum: 1, maximum: 50 })),
  },
  { additionalProperties: false },
);
export type Budget = Static<typeof Budget>;
