/** A port whose line loses, repeats, changes, splits and holds up bytes, in both directions, as its generator says. */
import type { Port } from '../../firmware-bridge/link/connection.js';
import type { Random } from './seed.js';

/** Chances of each fault, for every chunk of up to 16 bytes. */
export interface Faults {
  readonly drop: number;
  readonly repeat: number;
  readonly flip: number;
  readonly stall: number;
  readonly stallMs: number;
}

const chunkBytes = 16;

/** The port with faults. `isFaulty` may be set to false in between: then it only splits. */
export class FaultyPort implements Port {
  readonly #port: Port;
  readonly #random: Random;
  readonly #faults: Faults;
  #toFirmware: Promise<void> = Promise.resolve();
  #fromFirmware: Promise<void> = Promise.resolve();
  isFaulty = true;
  faults = 0;

  constructor(port: Port, random: Random, faults: Faults) {
    this.#port = port;
    this.#random = random;
    this.#faults = faults;
  }

  get name(): string {
    return this.#port.name;
  }

  get closed(): Promise<string> {
    return this.#port.closed;
  }

  listen(listener: (chunk: Uint8Array) => void): void {
    this.#port.listen((chunk) => {
      this.#fromFirmware = this.#fromFirmware.then(() => this.#pass(chunk, async (bytes) => listener(bytes)));
    });
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#toFirmware = this.#toFirmware.then(() => this.#pass(bytes, (chunk) => this.#port.write(chunk)));
    return this.#toFirmware;
  }

  close(): Promise<void> {
    return this.#port.close();
  }

  async #pass(bytes: Uint8Array, to: (chunk: Uint8Array) => Promise<void>): Promise<void> {
    for (let at = 0; at < bytes.length; at += chunkBytes) {
      const chunk = bytes.slice(at, at + chunkBytes);
      const happens = (chance: number) => {
        if (!this.isFaulty || this.#random.next() >= chance) return false;
        this.faults++;
        return true;
      };
      if (happens(this.#faults.stall)) await new Promise((done) => setTimeout(done, this.#faults.stallMs));
      if (happens(this.#faults.flip)) chunk[this.#random.below(chunk.length)]! ^= 1 << this.#random.below(8);
      if (!happens(this.#faults.drop)) await to(chunk);
      if (happens(this.#faults.repeat)) await to(chunk);
    }
  }
}
