import { DesiredState, documentBytes } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { validateKnown } from '../../configs/contracts/validate.js';

/** A desired document as it came over the link, for this device. Fails with `document/invalid`. */
export function parseDesired(payload: Uint8Array, device: string): DesiredState {
  const refuse = (message: string) => new EdgeError('document/invalid', message, { subject: 'desired' });
  if (payload.length > documentBytes) throw refuse(`the document has ${payload.length} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(payload));
  } catch {
    throw refuse('the document is not JSON');
  }
  // Unknown fields are ignored: they are neither kept nor part of any key.
  const document = validateKnown(DesiredState, value, 'document/invalid', 'desired');
  if (document.device !== device) throw refuse(`the document is for device ${document.device}`);
  for (const { budget } of Object.values(document.targets)) {
    if (budget.latencyMs !== undefined && budget.latencyRatio !== undefined) {
      throw refuse('a budget gives its latency both absolute and relative');
    }
  }
  return document;
}
