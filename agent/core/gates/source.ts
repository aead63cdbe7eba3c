import { EdgeError } from '../../../configs/contracts/errors.js';

/** Where an autopilot is listened to. */
export type MavlinkSource =
  | { readonly kind: 'udp'; readonly host: string; readonly port: number }
  | { readonly kind: 'serial'; readonly path: string; readonly baudRate: number };

/** The one source that the settings name. Fails with `settings/invalid` where they name none, or two, or no address. */
export function parseMavlinkSource(settings: { udp: string; serial: string; baudRate: number }): MavlinkSource {
  const { udp, serial, baudRate } = settings;
  const invalid = (message: string, subject: string) =>
    new EdgeError('settings/invalid', message, {
      subject,
      hint: 'For example: udp = "127.0.0.1:14540", or serial = "/dev/serial/by-id/...".',
    });
  if ((udp === '') === (serial === '')) {
    throw invalid('gates.mavlink needs one of udp and serial', 'gates.mavlink');
  }
  if (serial !== '') return { kind: 'serial', path: serial, baudRate };
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(udp);
  const port = Number(match?.[3]);
  if (match === null || port < 1 || port > 65_535) {
    throw invalid(`gates.mavlink.udp cannot be "${udp}"`, 'gates.mavlink.udp');
  }
  return { kind: 'udp', host: (match[1] ?? match[2])!, port };
}
