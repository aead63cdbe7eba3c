/** Whether a vehicle is disarmed and on the ground, by what its autopilot says over MAVLink. Pure. */
import type { GateReading } from './decide.js';
import type { MavlinkMessage } from './mavlink.js';

/** See `gates.mavlink` of the settings. */
export interface FlightSettings {
  readonly systemId: number;
  readonly componentId: number;
  readonly silentSeconds: number;
  readonly landed: 'required' | 'if-told' | 'ignored';
}

/** What has been heard. Times are monotonic milliseconds; null: never. */
export interface FlightState {
  readonly heartbeatMs: number | null;
  readonly isArmed: boolean;
  readonly landedMs: number | null;
  readonly landedState: number;
  /** Another autopilot that was heard, for whoever wonders; null: none. */
  readonly other: { readonly systemId: number; readonly componentId: number } | null;
}

/** Nothing was heard yet. */
export const unheard: FlightState = {
  heartbeatMs: null,
  isArmed: false,
  landedMs: null,
  landedState: 0,
  other: null,
};

const groundStation = 6;
const noAutopilot = 8;
const onGround = 1;
const landedTexts = ['where it is is not known', 'on the ground', 'in the air', 'taking off', 'landing'];

/** What is known after a message: of the autopilot that the settings name, and of no other. */
export function heard(
  state: FlightState,
  message: MavlinkMessage,
  nowMs: number,
  settings: FlightSettings,
): FlightState {
  const { systemId, componentId } = message;
  const isIts = systemId === settings.systemId && componentId === settings.componentId;
  if (message.name === 'extendedSystemState') {
    return isIts ? { ...state, landedMs: nowMs, landedState: message.landedState } : state;
  }
  if (message.type === groundStation || message.autopilot === noAutopilot) return state;
  if (!isIts) return { ...state, other: { systemId, componentId } };
  return { ...state, heartbeatMs: nowMs, isArmed: message.isArmed };
}

/**
 * Whether the vehicle may be worked on. Never by silence: an autopilot that was heard and is silent is as good as in flight, one that was
 * never heard makes the gate unreadable.
 */
export function judgeFlight(state: FlightState, nowMs: number, settings: FlightSettings): GateReading {
  const { heartbeatMs, landedMs, landedState, isArmed, other } = state;
  const { silentSeconds, landed, systemId, componentId } = settings;
  const says = (isOpen: boolean | null, reason: string): GateReading => ({ isOpen, reason, until: null });
  const isFresh = (ms: number) => nowMs - ms <= silentSeconds * 1000;
  const wanted = `autopilot ${systemId}/${componentId}`;
  if (heartbeatMs === null) {
    const but = other === null ? '' : `, but ${other.systemId}/${other.componentId} was`;
    return says(null, `${wanted} has not been heard${but}`);
  }
  if (!isFresh(heartbeatMs)) return says(false, `${wanted} was heard and is silent`);
  if (isArmed) return says(false, 'the vehicle is armed');
  if (landed === 'ignored') return says(true, 'the vehicle is disarmed');
  if (landedMs === null) {
    if (landed === 'if-told') return says(true, 'the vehicle is disarmed');
    return says(false, 'the autopilot does not say whether it has landed (EXTENDED_SYS_STATE)');
  }
  // Told once, it has to go on being told: what was true minutes ago is not known.
  if (!isFresh(landedMs)) return says(false, 'the autopilot no longer says whether it has landed (EXTENDED_SYS_STATE)');
  const where = landedTexts[landedState] ?? `in landed state ${landedState}`;
  return landedState === onGround
    ? says(true, 'the vehicle is disarmed and on the ground')
    : says(false, `the vehicle is disarmed, but ${where}`);
}
