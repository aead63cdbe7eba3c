/** Metric gates: what a device measured of a release, against a bound or against what it measured of the one before. Pure. */
import type { Gate, GateMetric, GateVerdict, MetricValues } from '../../configs/contracts/rollout.js';

const latencies: ReadonlySet<GateMetric> = new Set<GateMetric>(['latencyMedian', 'latencyP95']);
const fractions: ReadonlySet<GateMetric> = new Set<GateMetric>(['top1', 'agreement']);
/** The unit in which absolute latencies are written in a policy. */
const latencyUnit = 'ms';

/** Judges the values of a device. `baseline`: what the release before measured there; null where that is not known. */
export function judgeGate(gate: Gate, values: MetricValues, baseline: MetricValues | null): GateVerdict {
  const { metric, most, least, mostRatio, mostDrop } = gate;
  const value = values[metric];
  const isRelative = mostRatio !== undefined || mostDrop !== undefined;
  const previous = isRelative ? (baseline?.[metric] ?? null) : null;
  const answer = (verdict: GateVerdict['verdict'], text: string): GateVerdict => ({
    metric,
    verdict,
    value,
    previous,
    text: `${metric}: ${text}`,
  });
  const shown = (number: number) => shownAs(metric, number, values.unit);
  if (value === null) return answer('inconclusive', 'it was not measured');
  if (!isRelative && latencies.has(metric) && values.unit !== latencyUnit)
    return answer('inconclusive', `it is counted in ${values.unit}, the gate in ${latencyUnit}`);
  if (isRelative) {
    if (previous === null) return answer('inconclusive', 'the release before it has no such value on this device');
    if (latencies.has(metric) && baseline!.unit !== values.unit)
      return answer('inconclusive', `it is counted in ${values.unit}, before in ${baseline!.unit}`);
  }
  const judge = (isWithin: boolean, bound: string) =>
    answer(isWithin ? 'pass' : 'fail', `${shown(value)}, ${isWithin ? 'within' : 'beyond'} ${bound}`);
  if (most !== undefined) return judge(value <= most, `at most ${shown(most)}`);
  if (least !== undefined) return judge(value >= least, `at least ${shown(least)}`);
  if (mostRatio !== undefined)
    return judge(value <= previous! * mostRatio, `at most ${mostRatio} times ${shown(previous!)} before`);
  return judge(value >= previous! - mostDrop!, `at most ${shown(mostDrop!)} below ${shown(previous!)} before`);
}

function shownAs(metric: GateMetric, value: number, unit: string): string {
  if (fractions.has(metric)) return `${Number((value * 100).toPrecision(4))} %`;
  const number = Number(value.toPrecision(4));
  if (latencies.has(metric)) return `${number} ${unit}`;
  return metric === 'ramBytes' ? `${value} bytes` : metric === 'energyMj' ? `${number} mJ` : `${number}`;
}
