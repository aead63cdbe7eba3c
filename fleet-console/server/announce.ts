import type { WebhookEvent } from '../../configs/contracts/people.js';

/**
 * Tells whoever is outside of something that is being written, within the transaction that writes it: both are kept, or neither. Does no
 * more than to write, so that it delays nobody.
 */
export type Announce = (kind: WebhookEvent, document: unknown) => void;
