import { type Static, Type } from '@sinclair/typebox';

const Vector = Type.Array(Type.Number(), { minItems: 1 });

/**
 * How stored samples become the model's input: x = ((v - zeroPoint) * scale - mean) / std, per channel. Images are decoded as
 * RGB, then resized or letterboxed, then cropped, then reordered to `channels`.
 */
export const Preprocess = Type.Object(
  {
    /** Order of the colour channels the model wants. */
    channels: Type.Optional(Type.Union([Type.Literal('RGB'), Type.Literal('BGR')])),
    /** Side, in pixels, of the square cut from the middle. */
    crop: Type.Optional(Type.Integer({ minimum: 1 })),
    /** Side, in pixels, to which the image's shorter side is scaled (bilinear) before cropping. */
    resize: Type.Optional(Type.Integer({ minimum: 1 })),
    /** Side, in pixels, of a square into which the whole image is scaled (bilinear), at its top left. */
    letterbox: Type.Optional(Type.Integer({ minimum: 1 })),
    /** Value of the pixels that letterboxing adds. */
    pad: Type.Optional(Type.Number()),
    scale: Type.Optional(Type.Number()),
    zeroPoint: Type.Optional(Type.Number()),
    mean: Type.Optional(Vector),
    std: Type.Optional(Vector),
  },
  { additionalProperties: true },
);
export type Preprocess = Static<typeof Preprocess>;

/** What a model is for: `classification` is judged by the classes in its first output, the others by how near all outputs come. */
export const Task = Type.Union([
  Type.Literal('classification'),
  Type.Literal('detection'),
  Type.Literal('reconstruction'),
  Type.Literal('other'),
]);
export type Task = Static<typeof Task>;

/** What a model file does not say of itself: its input, how samples are prepared, and what its output means. */
export const ModelCard = Type.Object(
  {
    input: Type.Object(
      {
        name: Type.String({ minLength: 1 }),
        /** Order of the axes, one letter each: N, C, H, W. */
        layout: Type.String({ pattern: '^[NCHWTD]+$' }),
        /** null: any size; taken as 1. */
        shape: Type.Array(Type.Union([Type.Integer({ minimum: 1 }), Type.Null()]), { minItems: 1 }),
      },
      { additionalProperties: true },
    ),
    preprocess: Preprocess,
    task: Task,
    /** Name of the sample set that fits, for people. */
    set: Type.Optional(Type.String()),
    classes: Type.Optional(Type.Array(Type.String())),
    notes: Type.Optional(Type.String()),
  },
  { additionalProperties: true },
);
export type ModelCard = Static<typeof ModelCard>;
