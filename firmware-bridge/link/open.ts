/** Opens a microcontroller by what the command line calls it. */
import { setTimeout } from 'node:timers/promises';
import { EdgeError } from '../../configs/contracts/errors.js';
import { Connection, type ConnectionOptions, type Port } from './connection.js';
import { type FirmwareOptions, startFirmware } from './firmware-process.js';
import { openSerialPort } from './serial.js';

/** How a microcontroller is opened. */
export interface OpenOptions extends ConnectionOptions, FirmwareOptions {}

/** What was only just started answers late on a busy machine. */
const startedHandshakeMs = 10_000;

/** Between two attempts to open a microcontroller that is not there. */
const reopenMs = 1000;

/**
 * Connects to a microcontroller as soon as it is there: one that was unplugged, is being reset, or is not there yet. Whatever waiting
 * cannot help with fails as `openConnection` does. Ends with the signal's reason.
 */
export async function awaitConnection(
  where: string,
  signal: AbortSignal,
  options: OpenOptions = {},
): Promise<Connection> {
  while (true) {
    signal.throwIfAborted();
    try {
      return await openConnection(where, options);
    } catch (error) {
      if (!(error instanceof EdgeError) || !error.retryable) throw error;
    }
    await setTimeout(reopenMs, undefined, { signal }).catch(() => {});
  }
}

/**
 * Connects to `/dev/...` (a serial port or a pseudo-terminal), `host` (the firmware as a process of this machine, started and ended with
 * the connection) or `qemu-BOARD` (likewise, in QEMU). Fails with `target/unknown`, `mcu/no-firmware`, or as `Connection.open` does.
 */
export async function openConnection(where: string, options: OpenOptions = {}): Promise<Connection> {
  if (where.startsWith('/')) return Connection.open(await openSerialPort(where), options);
  const board = where === 'host' ? 'host' : /^qemu-([a-z0-9-]+)$/.exec(where)?.[1];
  if (board === undefined) {
    const hint = 'Forms: a path such as /dev/serial/by-id/..., host, qemu-BOARD.';
    throw new EdgeError('target/unknown', `${where} names no microcontroller`, { subject: where, hint });
  }
  const firmware = await startFirmware(board, options);
  try {
    const port = await openSerialPort(firmware.path);
    const withProcess: Port = {
      ...port,
      name: `${where} (${firmware.path})`,
      closed: Promise.race([port.closed, firmware.ended.then(() => 'the firmware ended')]),
      close: async () => {
        await port.close();
        await firmware.stop();
      },
    };
    return await Connection.open(withProcess, { handshakeMs: startedHandshakeMs, ...options });
  } catch (error) {
    await firmware.stop();
    throw error;
  }
}
