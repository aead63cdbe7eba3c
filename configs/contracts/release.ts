import { type Static, Type } from '@sinclair/typebox';
import { ModelCard } from './card.js';
import { Budget } from './plan.js';

const Sha256 = Type.String({ pattern: '^[0-9a-f]{64}$' });

/** A file named by its content, with how to fetch it in verified pieces. */
export const BlobRef = Type.Object({
  sha256: Sha256,
  sizeBytes: Type.Integer({ minimum: 1, maximum: 2 ** 40 }),
  /** Of the `BlobManifest` that lists the digests of its chunks. */
  manifestSha256: Sha256,
});
export type BlobRef = Static<typeof BlobRef>;

/** Digests of the chunks of a blob: each is `chunkBytes` long, the last one what is left. */
export const BlobManifest = Type.Object({
  sha256: Sha256,
  sizeBytes: Type.Integer({ minimum: 1, maximum: 2 ** 40 }),
  chunkBytes: Type.Integer({ minimum: 4096, maximum: 64 * 2 ** 20 }),
  chunks: Type.Array(Sha256, { minItems: 1, maxItems: 65536 }),
});
export type BlobManifest = Static<typeof BlobManifest>;

/** Where the console serves a blob and its manifest, below its address. */
export const blobPath = (sha256: string) => `/v1/artifacts/${sha256}`;
/** Where the console serves the manifest of a blob: JSON whose bytes have the digest in `BlobRef`. */
export const blobManifestPath = (sha256: string) => `/v1/artifacts/${sha256}/manifest`;

/** `name@version`. */
export const ReleaseId = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$' });

/** A float model with its card, as it is sent to devices; immutable. */
export const Release = Type.Object({
  id: ReleaseId,
  model: BlobRef,
  /** null: inferred from the graph, no preprocessing. */
  card: Type.Union([ModelCard, Type.Null()]),
  /** Kinds of targets it is for; absent: any. */
  targetKinds: Type.Optional(Type.Array(Type.String({ maxLength: 32 }), { maxItems: 16 })),
  /** What holds where no device, group or label has a budget of its own. */
  budget: Type.Optional(Budget),
});
export type Release = Static<typeof Release>;
