import { createSocket } from 'node:dgram';
import type { GatePolicy, GateReading } from '../core/gates/decide.js';
import { type FlightSettings, type FlightState, heard, judgeFlight, unheard } from '../core/gates/flight.js';
import { MavlinkReader } from '../core/gates/mavlink.js';
import type { MavlinkSource } from '../core/gates/source.js';
import type { Gate } from '../device-ports.js';

/** How soon a port that is not there, or is gone, is tried again. */
const againMs = 2000;

/** A source that is open. */
interface Line {
  /** Resolves, with the reason, when nothing more will be heard. */
  readonly closed: Promise<string>;
  close(): Promise<void>;
}

/**
 * Open while an autopilot says that its vehicle is disarmed and on the ground. It only listens: whoever can send to its port is believed, for
 * signatures are not verified. A port that cannot be opened, or is pulled out, is opened again for as long as it takes.
 */
export class MavlinkGate implements Gate {
  readonly policy: GatePolicy;
  readonly #settings: FlightSettings;
  readonly #source: MavlinkSource;
  #state: FlightState = unheard;
  /** Why nothing can be heard; null while something can. */
  #trouble: string | null = 'its port is being opened';
  #isClosed = false;
  #line: Line | null = null;
  #wake: () => void = () => {};
  readonly #listening: Promise<void>;

  constructor(policy: GatePolicy, settings: FlightSettings, source: MavlinkSource) {
    this.policy = policy;
    this.#settings = settings;
    this.#source = source;
    this.#listening = this.#listen();
  }

  async read(): Promise<GateReading> {
    const reading = judgeFlight(this.#state, performance.now(), this.#settings);
    if (reading.isOpen === true || this.#trouble === null) return reading;
    // A vehicle that was heard before is not taken for one on the ground because a plug was pulled.
    return { ...reading, reason: `${reading.reason}; ${this.#trouble}` };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#wake();
    await this.#line?.close();
    await this.#listening;
  }

  async #listen(): Promise<void> {
    while (!this.#isClosed) {
      try {
        this.#line = await this.#open();
        this.#trouble = null;
        if (this.#isClosed) await this.#line.close();
        this.#trouble = await this.#line.closed;
      } catch (error) {
        this.#trouble = error instanceof Error ? error.message : String(error);
      }
      this.#line = null;
      if (!this.#isClosed) await this.#pause();
    }
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, againMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #open(): Promise<Line> {
    const source = this.#source;
    return source.kind === 'udp' ? this.#openUdp(source) : this.#openSerial(source);
  }

  #openUdp({ host, port }: { host: string; port: number }): Promise<Line> {
    const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4');
    // Frames do not go over the ends of datagrams, and what several senders say does not mix.
    socket.on('message', (datagram) => this.#take(new MavlinkReader(), datagram));
    const closed = new Promise<string>((resolve) => {
      socket.once('close', () => resolve('closed here'));
      socket.on('error', (error) => resolve(error.message));
    });
    let isOpen = true;
    const close = async () => {
      if (isOpen) socket.close();
      isOpen = false;
      await closed;
    };
    return new Promise((resolve, reject) => {
      socket.on('error', (error) => {
        reject(new Error(`${host}:${port} cannot be listened on: ${error.message}`));
        void close();
      });
      socket.bind({ address: host, port, exclusive: true }, () => resolve({ closed, close }));
    });
  }

  async #openSerial({ path, baudRate }: { path: string; baudRate: number }): Promise<Line> {
    // Its native library is loaded only where a port is to be opened.
    const { openSerialPort } = await import('../../firmware-bridge/link/serial.js');
    const port = await openSerialPort(path, baudRate);
    const reader = new MavlinkReader();
    port.listen((chunk) => this.#take(reader, chunk));
    return { closed: port.closed, close: () => port.close() };
  }

  #take(reader: MavlinkReader, bytes: Uint8Array): void {
    const nowMs = performance.now();
    for (const message of reader.push(bytes)) this.#state = heard(this.#state, message, nowMs, this.#settings);
  }
}
