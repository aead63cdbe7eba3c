import { realpathSync } from 'node:fs';
import { SerialPort } from 'serialport';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Port } from './connection.js';

function isPseudoTerminal(path: string): boolean {
  try {
    return realpathSync(path).startsWith('/dev/pts/');
  } catch {
    // That it is not there is said when it is opened.
    return false;
  }
}

/**
 * Opens a serial port or a pseudo-terminal by its path; `/dev/serial/by-id/...` stays the same when a board is plugged in again. Fails with
 * `mcu/unreachable`.
 */
export function openSerialPort(path: string, baudRate = 115_200): Promise<Port> {
  // Nobody else may open a real port meanwhile; on a pseudo-terminal the lock would outlive us.
  const port = new SerialPort({ path, baudRate, autoOpen: false, lock: !isPseudoTerminal(path) });
  const closed = new Promise<string>((resolve) => {
    port.on('close', (error: Error | null) => resolve(error?.message ?? 'closed here'));
    port.on('error', (error: Error) => resolve(error.message));
  });
  return new Promise((resolve, reject) => {
    port.open((cause) => {
      if (cause !== null) {
        reject(
          new EdgeError('mcu/unreachable', `the port cannot be opened: ${cause.message}`, { subject: path, cause }),
        );
        return;
      }
      resolve({
        name: path,
        closed,
        listen: (listener) => port.on('data', listener),
        write: (bytes) =>
          new Promise((done, fail) => port.write(Buffer.from(bytes), (error) => (error ? fail(error) : done()))),
        close: () => new Promise((done) => (port.isOpen ? port.close(() => done()) : done())),
      });
    });
  });
}
