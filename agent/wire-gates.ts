/** Composition root of the maintenance gates: what the settings ask for, ready to be read. */
import type { AgentSettings } from '../configs/contracts/agent-settings.js';
import { CommandGate } from './adapters/gate-command.js';
import { PowerGate, TemperatureGate } from './adapters/gate-sensors.js';
import { WindowGate } from './adapters/gate-window.js';
import { LockGate } from './adapters/lock-file.js';
import { MavlinkGate } from './adapters/mavlink-gate.js';
import type { GateKind, GatePolicy } from './core/gates/decide.js';
import { parseMavlinkSource } from './core/gates/source.js';
import { parseWindow } from './core/gates/window.js';
import type { Gate } from './device-ports.js';

/** Opens every gate whose section is there. Fails with `settings/invalid`. */
export function openGates({ window, lock, exec, power, temperature, mavlink }: AgentSettings['gates']): Gate[] {
  const policy = (kind: GateKind, of: Omit<GatePolicy, 'kind'>): GatePolicy => ({
    kind,
    holds: of.holds,
    unreadable: of.unreadable,
  });
  const gates: Gate[] = [];
  if (window) gates.push(new WindowGate(policy('window', window), parseWindow(window), window.trustsClock));
  if (lock) gates.push(new LockGate(policy('lock', lock), lock));
  if (exec) gates.push(new CommandGate(policy('exec', exec), exec));
  if (power) gates.push(new PowerGate(policy('power', power), power));
  if (temperature) {
    gates.push(new TemperatureGate(policy('temperature', temperature), temperature, temperature.zones));
  }
  if (mavlink) gates.push(new MavlinkGate(policy('mavlink', mavlink), mavlink, parseMavlinkSource(mavlink)));
  return gates;
}
