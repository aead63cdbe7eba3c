/** What plans can be expected to measure, learnt from those that were measured. */

/** A plan of the frontier that was measured; both times in the target's counter. */
export interface MeasuredPoint {
  readonly predicted: number;
  readonly measured: number;
}

/** What measurements say about predictions: those of the last run, and of plans those of earlier ones too. */
export interface LatencyExperience {
  /** How much longer plans took than predicted: the median over everything measured. */
  readonly ratio: number;
  /** Plans of the frontier that were measured. */
  readonly points: readonly MeasuredPoint[];
  /** What ONNX Runtime's int8 took, as a share of what the target's own uniform int8 did; null: not measured yet. */
  readonly int8Ratio: number | null;
  /** What the target's own uniform int8 took when it was last timed, in the target's counter; null: not measured yet. */
  readonly int8Latency: number | null;
  /** Plans that were timed lately, newest first, by `planKey`: what each took as a share of what that int8 did beside it. */
  readonly plans: readonly { readonly key: string; readonly share: number }[];
}

/** Before anything was measured, predictions are taken as they are. */
export const noExperience: LatencyExperience = {
  ratio: 1,
  points: [],
  int8Ratio: null,
  int8Latency: null,
  plans: [],
};

/**
 * Expected latency of a frontier plan with this prediction. How far a prediction is off changes slowly along the frontier, whose
 * neighbours differ in few operators: between measured plans the ratio is interpolated, beyond the outermost it is theirs.
 */
export function expectedLatency(predicted: number, { ratio, points }: LatencyExperience): number {
  const known = points
    .filter((point) => point.predicted > 0)
    .map((point) => ({ at: point.predicted, ratio: point.measured / point.predicted }))
    .sort((a, b) => a.at - b.at);
  if (known.length === 0) return predicted * ratio;
  const next = known.findIndex(({ at }) => at >= predicted);
  if (next <= 0) return predicted * known.at(next)!.ratio;
  const [low, high] = [known[next - 1]!, known[next]!];
  const share = high.at > low.at ? (predicted - low.at) / (high.at - low.at) : 1;
  return predicted * (low.ratio + share * (high.ratio - low.ratio));
}

/** Without the points that another one beats in latency or sensitivity and equals in the other; from fastest to most accurate. */
export function paretoPoints<T extends { readonly latency: number; readonly sensitivity: number }>(
  points: readonly T[],
): T[] {
  const sorted = [...points].sort((a, b) => a.latency - b.latency || a.sensitivity - b.sensitivity);
  let best = Number.POSITIVE_INFINITY;
  return sorted.filter(({ sensitivity }) => {
    const isBetter = sensitivity < best;
    best = Math.min(best, sensitivity);
    return isBetter;
  });
}
