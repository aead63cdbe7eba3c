/** How states of devices are shown. */
import type { DeviceState } from '../device-state.js';

export type { DeviceState } from '../device-state.js';

/** Tones by state, in the order in which states are shown: first what is well, last what needs somebody. */
const tones: Readonly<Record<DeviceState, 'good' | 'bad' | 'busy' | 'quiet'>> = {
  confirmed: 'good',
  working: 'busy',
  gated: 'busy',
  idle: 'quiet',
  offline: 'quiet',
  infeasible: 'bad',
  'rolled back': 'bad',
  'in trouble': 'bad',
  ahead: 'bad',
};

/** Every state. */
export const deviceStateOrder = Object.keys(tones) as readonly DeviceState[];

/** What its colour says. */
export function toneOf(state: DeviceState): 'good' | 'bad' | 'busy' | 'quiet' {
  return tones[state];
}
