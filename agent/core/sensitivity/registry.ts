import { EdgeError } from '../../../configs/contracts/errors.js';
import type { Estimator } from './estimator.js';
import { exact } from './exact.js';
import { logits } from './logits.js';
import { mask } from './mask.js';
import { mask4 } from './mask4.js';
import { perturbation } from './perturbation.js';
import { sqnr } from './sqnr.js';

/** Every estimator, the default first. Another one is a file and a line here. */
export const estimators: readonly Estimator[] = [logits, mask4, mask, exact, sqnr, perturbation];

/** Name of the estimator that is used when none is asked for. */
export const defaultEstimator = logits.name;

/** Fails with `estimator/unknown`. */
export function findEstimator(name: string): Estimator {
  const found = estimators.find((estimator) => estimator.name === name);
  if (found === undefined) {
    throw new EdgeError('estimator/unknown', `there is no sensitivity estimator "${name}"`, {
      subject: name,
      hint: `Choose one of ${estimators.map((estimator) => estimator.name).join(', ')}.`,
    });
  }
  return found;
}
