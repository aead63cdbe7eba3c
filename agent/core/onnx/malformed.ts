import { EdgeError } from '../../../configs/contracts/errors.js';

/** The error of a file that contradicts itself; the subject is the tensor, node or file that does. */
export function malformed(subject: string, message: string, cause?: unknown): EdgeError {
  return new EdgeError('model/malformed', message, { subject, cause });
}
