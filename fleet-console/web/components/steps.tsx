/** What a device goes through for a release, with where it is. */
import type { Condition, TargetReport } from '../../../configs/contracts/device.js';
import { Progress } from './basics.js';

const phases: readonly { name: string; says: string; steps: readonly string[]; type: Condition['type'] | null }[] = [
  { name: 'Accepted', says: 'the orders are understood', steps: ['accept'], type: 'Accepted' },
  { name: 'Fetched', says: 'the float model is there', steps: ['fetch'], type: 'Staged' },
  {
    name: 'Quantized',
    says: 'profiled, calibrated, planned and measured',
    steps: ['quantize', 'profile', 'calibrate', 'assess', 'plan', 'apply', 'verify', 'tune'],
    type: 'Quantized',
  },
  { name: 'Active', says: 'it serves', steps: ['activate'], type: 'Active' },
  { name: 'Confirmed', says: 'it has answered its probes', steps: ['confirm'], type: 'Confirmed' },
];

/** Phases of a target: done, under way with its progress, failed, or to come. */
export function StepLine({
  target,
  report,
  conditions,
}: {
  target: string;
  report: TargetReport | undefined;
  conditions: readonly Condition[];
}) {
  const step = report?.step ?? null;
  const about = conditions.filter((condition) => condition.target === null || condition.target === target);
  const statusOf = (type: Condition['type'] | null) => about.find((condition) => condition.type === type)?.status;
  const trouble = about.find(
    ({ type, status }) => (type === 'Degraded' || type === 'BudgetInfeasible') && status === 'true',
  );
  return (
    <ol class="steps" aria-label={`Steps of ${target}`}>
      {phases.map(({ name, says, steps, type }) => {
        const isNow = step !== null && steps.some((known) => step.name.startsWith(known));
        const hasFailed = trouble?.failure !== undefined && steps.includes(trouble.failure.step);
        const isDone = statusOf(type) === 'true';
        const state = isNow ? 'now' : hasFailed ? 'failed' : isDone ? 'done' : 'to come';
        return (
          <li key={name} class={state === 'to come' ? '' : state} aria-current={isNow ? 'step' : undefined}>
            {name}
            <span class="hidden">: {state === 'now' ? 'under way' : state}</span>
            {isNow ? (
              <small>
                {step.name}, {Math.round(step.share * 100)} %
                <Progress share={step.share} label={`${step.name} of ${target}`} />
                {step.text}
              </small>
            ) : (
              <small>{says}</small>
            )}
          </li>
        );
      })}
    </ol>
  );
}
