/** What hostile input is put through, and what may come of it. */
import { decode, encode } from '../../../../agent/core/onnx/codec.js';
import { fold } from '../../../../agent/core/onnx/fold.js';
import { listOperators } from '../../../../agent/core/onnx/operators.js';
import { inferShapes } from '../../../../agent/core/onnx/shapes.js';
import { EdgeError, type ErrorCode } from '../../../../configs/contracts/errors.js';

/** Everything that happens to a foreign file before a plan is made. */
export function wholePath(bytes: Uint8Array): void {
  const decoded = decode(bytes);
  const { model: folded } = fold(decoded);
  listOperators(decoded, inferShapes(decoded));
  listOperators(folded, inferShapes(folded));
  encode(folded);
}

/** The code of the error, after checking that it is one of ours and says what a person needs; null where there is none. */
export function failureOf(work: () => void): ErrorCode | null {
  try {
    work();
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    const { code, subject, hint, message } = error;
    if (!subject || !hint || !message) throw new Error(`an error without subject or hint: ${code} ${message}`);
    return code;
  }
  return null;
}
