/** Writes MAVLink frames, independently of what reads them, and an autopilot that sends them. */
import { createSocket, type Socket } from 'node:dgram';

/** What goes into a frame. */
export interface FrameContent {
  readonly messageId: number;
  readonly payload: Uint8Array;
  readonly crcExtra: number;
  readonly systemId?: number;
  readonly componentId?: number;
  readonly sequence?: number;
  /** Version 2 only. */
  readonly signature?: Uint8Array;
}

/** The checksum as the reference implementation in C computes it, a byte at a time. */
export function checksum(bytes: Iterable<number>): number {
  let crc = 0xffff;
  for (const byte of bytes) {
    let mixed = (byte ^ (crc & 0xff)) & 0xff;
    mixed = (mixed ^ (mixed << 4)) & 0xff;
    crc = ((crc >> 8) ^ (mixed << 8) ^ (mixed << 3) ^ (mixed >> 4)) & 0xffff;
  }
  return crc;
}

function sealed(
  magic: number,
  middle: readonly number[],
  crcExtra: number,
  signature: Iterable<number> = [],
): Uint8Array {
  const crc = checksum([...middle, crcExtra]);
  return Uint8Array.from([magic, ...middle, crc & 0xff, crc >> 8, ...signature]);
}

/** A frame of version 1. */
export function frame1({ messageId, payload, crcExtra, systemId = 1, componentId = 1, sequence = 0 }: FrameContent) {
  return sealed(0xfe, [payload.length, sequence, systemId, componentId, messageId, ...payload], crcExtra);
}

/** A frame of version 2, zeros at the end of its payload left out as senders do. */
export function frame2(content: FrameContent) {
  const { messageId, payload, crcExtra, systemId = 1, componentId = 1, sequence = 0, signature } = content;
  let length = payload.length;
  while (length > 1 && payload[length - 1] === 0) length--;
  const id = [messageId & 0xff, (messageId >> 8) & 0xff, messageId >> 16];
  const head = [length, signature === undefined ? 0 : 1, 0, sequence, systemId, componentId, ...id];
  return sealed(0xfd, [...head, ...payload.subarray(0, length)], crcExtra, signature);
}

/** What a HEARTBEAT says. */
export interface Heartbeat {
  readonly type: number;
  readonly autopilot: number;
  readonly baseMode: number;
  readonly customMode: number;
}

/** Content of a HEARTBEAT. */
export function heartbeat({ type, autopilot, baseMode, customMode }: Heartbeat): FrameContent {
  const payload = new Uint8Array(9);
  new DataView(payload.buffer).setUint32(0, customMode, true);
  payload.set([type, autopilot, baseMode, 4, 3], 4);
  return { messageId: 0, payload, crcExtra: 50 };
}

/** Content of an EXTENDED_SYS_STATE. */
export function landedState(state: number): FrameContent {
  return { messageId: 245, payload: Uint8Array.of(0, state), crcExtra: 130 };
}

/** An autopilot that sends its state to a port of this machine, as often as real ones do or more so. */
export class Autopilot {
  isArmed = true;
  /** MAV_LANDED_STATE. */
  landed = 2;
  readonly #socket: Socket = createSocket('udp4');
  readonly #timer: NodeJS.Timeout;
  #sequence = 0;
  #isClosed = false;

  constructor(port: number, everyMs = 100) {
    this.#timer = setInterval(() => {
      const of = (content: FrameContent) => ({ ...content, sequence: this.#sequence++ & 0xff });
      const beat = heartbeat({ type: 2, autopilot: 12, baseMode: this.isArmed ? 0x9d : 0x1d, customMode: 7 });
      this.#socket.send(frame2(of(beat)), port, '127.0.0.1');
      this.#socket.send(frame2(of(landedState(this.landed))), port, '127.0.0.1');
    }, everyMs);
  }

  /** Goes silent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.#socket.close();
  }
}

/** A UDP port of this machine that nobody uses. */
export async function freeUdpPort(): Promise<number> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  const { port } = socket.address();
  await new Promise<void>((resolve) => socket.close(resolve));
  return port;
}
