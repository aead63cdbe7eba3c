/** What a device does next, decided from what is wanted and what is there. All there is to resuming, re-planning and rolling back. */
import { allowed as everything, type GateDecision } from './gates/decide.js';

/** What a target has, as far as deciding needs it. */
export interface Have {
  /** What the target keeps itself is what is `active` here; true for targets that keep nothing. */
  readonly isSettled: boolean;
  /** The float model of the goal is on disk, verified. */
  readonly hasModel: boolean;
  /** Whether the goal's artifact was made: finished, found to be impossible under the budget, or neither yet. */
  readonly made: 'no' | 'feasible' | 'infeasible';
  /** The result of making it is in the outbox, or was sent. */
  readonly isPublished: boolean;
  /** What applications use, by artifact key. */
  readonly active: { readonly key: string; readonly isConfirmed: boolean } | null;
  /** The last confirmed artifact before it. */
  readonly previous: string | null;
  /** Keys that were tried and given up. */
  readonly failed: ReadonlySet<string>;
}

/** The steps of a device; everything between a model's bytes and a verified artifact is inside `quantize`. */
export type DeviceStep = 'settle' | 'fetch' | 'quantize' | 'publish' | 'activate' | 'confirm' | 'revert';

/** What is asked of the maintenance gates. */
type Allowed = Pick<GateDecision, 'mayWork' | 'mayActivate'>;

/**
 * The next step, or null when there is nothing to do, or nothing that may be done.
 *
 * A target that keeps its model itself is looked at before anything else. What is active comes first: a failed artifact is taken back, an unconfirmed one confirmed or failed, before anything new is
 * begun. A goal that failed is left alone: only another goal can help. What was measured is published last, so that no full
 * outbox keeps a model from being used.
 *
 * Gates hold back what is new. To confirm and to take back they do not: what serves already has to prove itself, and falling back to what
 * has proved itself is safe at any time, in flight more than ever.
 *
 * @param goalKey key of the artifact that is wanted, null where nothing is
 * @param allowed by the maintenance gates
 */
export function nextStep(goalKey: string | null, have: Have, allowed: Allowed = everything): DeviceStep | null {
  const step = ungatedStep(goalKey, have);
  const mayBe = step === 'quantize' ? allowed.mayWork : step === 'activate' ? allowed.mayActivate : true;
  if (mayBe) return step;
  // What was measured is told while it waits.
  return have.made !== 'no' && !have.isPublished ? 'publish' : null;
}

/** The step that would be next and that gates hold back; null where they are not in the way of anything. */
export function heldStep(goalKey: string | null, have: Have, allowed: Allowed): 'quantize' | 'activate' | null {
  const step = ungatedStep(goalKey, have);
  if (step === 'quantize') return allowed.mayWork ? null : step;
  return step === 'activate' && !allowed.mayActivate ? step : null;
}

function ungatedStep(goalKey: string | null, have: Have): DeviceStep | null {
  if (!have.isSettled) return 'settle';
  if (have.active !== null && have.failed.has(have.active.key)) return 'revert';
  if (have.active !== null && !have.active.isConfirmed) return 'confirm';
  if (goalKey === null) return null;
  if (!have.failed.has(goalKey)) {
    if (have.made === 'no') return have.hasModel ? 'quantize' : 'fetch';
    if (have.made === 'feasible' && have.active?.key !== goalKey) return 'activate';
  }
  return have.made !== 'no' && !have.isPublished ? 'publish' : null;
}
