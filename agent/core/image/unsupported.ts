import { EdgeError } from '../../../configs/contracts/errors.js';
import type { Operator } from '../onnx/model.js';

/** What an operator of the engine cannot do. */
export function unsupported(operator: Operator, why: string): EdgeError {
  return new EdgeError('model/unsupported', `${operator.op} ${operator.name}: ${why}`, {
    subject: operator.name,
    hint: 'Use --target ort for this model, which runs whatever ONNX Runtime does.',
  });
}
