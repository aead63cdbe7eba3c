import { sendDatagram } from '../../native/index.js';

/**
 * systemd's notification protocol (sd_notify(3)): says when the daemon is ready, that it is alive, and that it stops. Without a
 * service manager every method does nothing.
 */
export class ServiceManager {
  readonly #socketPath: string | null;
  readonly #warn: (text: string) => void;

  /** @param socketPath value of NOTIFY_SOCKET, null where there is no service manager */
  constructor(socketPath: string | null, warn: (text: string) => void) {
    this.#socketPath = socketPath;
    this.#warn = warn;
  }

  /** The databases are open and the settings valid; the network need not be there. */
  ready(): void {
    this.#send('READY=1');
  }

  /** To be sent more often than the unit's WatchdogSec. */
  alive(): void {
    this.#send('WATCHDOG=1');
  }

  stopping(): void {
    this.#send('STOPPING=1');
  }

  #send(text: string): void {
    if (this.#socketPath === null) return;
    try {
      const error = sendDatagram(this.#socketPath, text);
      if (error !== 0) this.#warn(`the service manager could not be told ${text} (errno ${error})`);
    } catch (error) {
      this.#warn(
        `the service manager could not be told ${text}: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }
}
