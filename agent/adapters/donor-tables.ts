import { EdgeError } from '../../configs/contracts/errors.js';
import { type DonorTable, mostKeys, Offer, type OfferRequest, tableBytes } from '../../configs/contracts/tables.js';
import { validateKnown } from '../../configs/contracts/validate.js';
import type { DonorTables } from '../ports.js';

/** Where tables of other devices are asked for. */
export interface DonorOptions {
  /** Address of the console. */
  readonly url: string;
  /** Sent as a bearer token; null: none. */
  readonly token: string | null;
  /** See `DonorTables.seed`. */
  readonly seed: number;
  /** How long an answer may take. */
  readonly patienceMs?: number;
}

/** Longest wait for an answer: a console that is away must not hold up what can be measured here. */
const defaultPatienceMs = 5000;

/** Asks the console over HTTP, once. Whatever goes wrong, or does not fit the contract, counts as no table. */
export class HttpDonorTables implements DonorTables {
  readonly seed: number;
  readonly #options: DonorOptions;

  constructor(options: DonorOptions) {
    this.seed = options.seed;
    this.#options = options;
  }

  async offer(
    identityDigest: string,
    operatorKeys: readonly string[],
    signal: AbortSignal,
  ): Promise<DonorTable | null> {
    if (operatorKeys.length > mostKeys) return null;
    const { url, token, patienceMs = defaultPatienceMs } = this.#options;
    const body: OfferRequest = { identity: identityDigest, operatorKeys: [...operatorKeys] };
    try {
      const response = await fetch(new URL('/v1/tables/offer', url), {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        },
        body: JSON.stringify(body),
        // A token is for the console alone.
        redirect: 'error',
        signal: AbortSignal.any([signal, AbortSignal.timeout(patienceMs)]),
      });
      if (!response.ok) return null;
      const { donor } = validateKnown(Offer, await readJson(response), 'document/invalid', 'offer');
      // Rows of another machine are worth nothing here, whoever sends them.
      return donor?.identity === identityDigest ? donor : null;
    } catch {
      signal.throwIfAborted();
      return null;
    }
  }
}

/** Reads no more than a table may have. */
async function readJson(response: Response): Promise<unknown> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > tableBytes) {
      throw new EdgeError('document/invalid', `the offer is longer than ${tableBytes} bytes`, { subject: 'offer' });
    }
    chunks.push(chunk);
  }
  return JSON.parse(Buffer.concat(chunks).toString('utf8'));
}
