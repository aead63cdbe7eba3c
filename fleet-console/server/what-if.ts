/** What would become of a budget on a device, from what it has measured and planned so far. Pure. */
import type { FrontierPoint, Measurements } from '../../configs/contracts/device.js';
import type { Budget } from '../../configs/contracts/plan.js';

/**
 * `meets`: a plan that fits is known; `infeasible`: none can fit; `unknown`: only the device can tell; `unaffected`: another budget of a
 * higher rank holds there.
 */
export type Verdict = 'meets' | 'infeasible' | 'unknown' | 'unaffected';

/** A verdict with its reason, and the plan that it rests on. */
export interface Prediction {
  readonly verdict: Verdict;
  readonly why: string;
  /** The plan that would do, the most accurate of those that are known; null where what runs does, or none is known. */
  readonly point: FrontierPoint | null;
}

/** What a device has said of a target. */
export interface Experience {
  /** Of what runs; null where that is another release, or nothing. */
  readonly measurements: Measurements | null;
  readonly frontier: readonly FrontierPoint[];
  /** The budget under which the frontier was solved. */
  readonly budget: Budget;
}

/** Predicted latencies are this far off, as a share: between, only measuring can tell. */
const latencyError = 0.1;

/** Judges a budget on a target. */
export function predict(wanted: Budget, { measurements, frontier, budget }: Experience): Prediction {
  const answer = (verdict: Verdict, why: string, point: FrontierPoint | null = null) => ({ verdict, why, point });
  const unit = measurements?.latency.unit ?? 'ms';
  if (wanted.latencyMs !== undefined && unit !== 'ms')
    return answer('unknown', `its latencies are counted in ${unit}: give a ceiling relative to int8`);
  const int8 = measurements?.latency.int8 ?? null;
  if (wanted.latencyRatio !== undefined && int8 === null)
    return answer('unknown', 'uniform int8 was not measured there with this release');
  const ceiling = wanted.latencyMs ?? (wanted.latencyRatio === undefined ? null : wanted.latencyRatio * int8!);
  if (measurements !== null && doesFit(measurements, wanted, ceiling))
    return answer('meets', 'what runs there was measured within it');

  const [fastest] = [...frontier].sort((a, b) => a.latency - b.latency);
  if (fastest === undefined) return answer('unknown', 'it has reported no frontier for this release');
  const shown = (latency: number) => `${Number(latency.toPrecision(3))} ${unit}`;
  if (ceiling !== null && fastest.latency * (1 - latencyError) > ceiling) {
    const confining = confinement(budget, wanted);
    return confining === null
      ? answer(
          'infeasible',
          `the fastest plan is expected to take ${shown(fastest.latency)}, the ceiling is ${shown(ceiling)}`,
          fastest,
        )
      : answer('unknown', `its frontier was solved under a tighter ${confining}: faster plans may exist`);
  }
  const unseen = (['energyMj', 'flashBytes'] as const).find((name) => wanted[name] !== undefined);
  if (unseen !== undefined) return answer('unknown', `devices do not report ${unseen} of the plans on their frontier`);
  if (wanted.drop !== undefined || wanted.agreement !== undefined)
    return answer('unknown', 'another plan would be needed, whose quality was not measured yet');
  const fitting = [...frontier]
    .filter((point) => isWithin(point, wanted, ceiling === null ? null : ceiling / (1 + latencyError)))
    .sort((a, b) => a.sensitivity - b.sensitivity)[0];
  if (fitting !== undefined)
    return answer('meets', `a plan is known that is expected to take ${shown(fitting.latency)}`, fitting);
  return answer('unknown', 'no plan on its frontier fits, but between its points, or off it, one may');
}

function doesFit(
  { latency, quality, sizeBytes, ramBytes }: Measurements,
  wanted: Budget,
  ceiling: number | null,
): boolean {
  const under = (most: number | null | undefined, value: number | null) =>
    most === null || most === undefined || (value !== null && value <= most);
  const drop = quality.floatTop1 === null || quality.top1 === null ? null : quality.floatTop1 - quality.top1;
  return (
    under(ceiling, latency.measured) &&
    under(wanted.sizeBytes, sizeBytes) &&
    under(wanted.ramBytes, ramBytes) &&
    under(wanted.drop, drop) &&
    (wanted.agreement === undefined || (quality.agreement !== null && quality.agreement >= wanted.agreement)) &&
    wanted.energyMj === undefined &&
    wanted.flashBytes === undefined &&
    wanted.sensitivity === undefined
  );
}

function isWithin(point: FrontierPoint, { sizeBytes, ramBytes, sensitivity }: Budget, ceiling: number | null): boolean {
  const most = Number.POSITIVE_INFINITY;
  return (
    point.latency <= (ceiling ?? most) &&
    point.sizeBytes <= (sizeBytes ?? most) &&
    (ramBytes === undefined || (point.ramBytes !== undefined && point.ramBytes <= ramBytes)) &&
    point.sensitivity <= (sensitivity ?? most)
  );
}

/** A ceiling, other than latency, that was tighter when the frontier was solved than it would be now; null where there is none. */
function confinement(was: Budget, wanted: Budget): string | null {
  const names = ['sizeBytes', 'ramBytes', 'flashBytes', 'energyMj', 'sensitivity'] as const;
  return (
    names.find((name) => was[name] !== undefined && was[name] < (wanted[name] ?? Number.POSITIVE_INFINITY)) ?? null
  );
}
