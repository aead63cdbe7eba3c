/** The state of a device in a word, from what it and the console say. Pure. */
import type { DesiredState, ReportedState } from '../configs/contracts/device.js';

/**
 * `ahead`: it has orders that the database does not know; `offline`; `in trouble`: it refuses its orders, or a step keeps failing;
 * `working`: on its newest orders; `gated`: they wait for its maintenance gates; `rolled back`; `infeasible`: no plan holds its budget; `confirmed`; `idle`: nothing is wanted of it.
 */
export type DeviceState = (typeof deviceStates)[number];

/** Every state, those that need somebody first. */
export const deviceStates = [
  'ahead',
  'in trouble',
  'rolled back',
  'infeasible',
  'offline',
  'gated',
  'working',
  'idle',
  'confirmed',
] as const;

/** What of a device its state rests on. */
export interface Standing {
  readonly isOnline: boolean;
  readonly isAhead: boolean;
  readonly reported: ReportedState | null;
  readonly desired: DesiredState | null;
}

/** The state of a device, and the sentence that explains it; empty where there is nothing to explain. */
export function standingOf({ isOnline, isAhead, reported, desired }: Standing): { state: DeviceState; why: string } {
  const conditions = reported?.conditions ?? [];
  const holds = (type: string) =>
    conditions.find((condition) => condition.type === type && condition.status === 'true');
  if (isAhead)
    return {
      state: 'ahead',
      why: 'Its last orders are not in this database. Nothing is sent to it until somebody decides.',
    };
  if (!isOnline) return { state: 'offline', why: '' };
  const refused = conditions.find(({ type, status }) => type === 'Accepted' && status === 'false');
  if (refused !== undefined) return { state: 'in trouble', why: refused.message };
  // What it says of older orders says nothing of these.
  if (desired !== null && (reported?.observedGeneration ?? 0) < desired.generation)
    return { state: 'working', why: 'It has not seen its newest orders yet.' };
  const causes = [
    ['Degraded', 'in trouble'],
    ['RolledBack', 'rolled back'],
    ['BudgetInfeasible', 'infeasible'],
    ['Gated', 'gated'],
  ] as const;
  for (const [type, state] of causes) {
    const condition = holds(type);
    if (condition !== undefined) return { state, why: condition.message };
  }
  if (holds('Confirmed') !== undefined) return { state: 'confirmed', why: '' };
  if (desired === null) return { state: 'idle', why: '' };
  return { state: 'working', why: holds('Active') === undefined ? '' : 'It proves what it runs.' };
}
